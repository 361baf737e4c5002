"""A checkpointer whose sync methods serve async children."""

import threading
from typing import Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver

from agentos_parallel.adapters.savers import InThreads

CONFIG: Any = {"configurable": {"thread_id": "1", "checkpoint_ns": ""}}


class SyncOnly(InMemorySaver):
    """One without async methods, as SqliteSaver; it notes the threads that it is called in."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[threading.Thread] = set()

    async def aget_tuple(self, config: Any) -> Any:
        raise NotImplementedError

    aput = aput_writes = aget_tuple  # type: ignore[assignment]  # none of them is to be called

    def get_tuple(self, config: Any) -> Any:
        self.threads.add(threading.current_thread())
        return super().get_tuple(config)

    def put(self, *args: Any) -> Any:
        self.threads.add(threading.current_thread())
        return super().put(*args)


@pytest.mark.realtime
async def test_async_calls_come_down_to_the_sync_methods_in_threads() -> None:
    saver = SyncOnly()
    wrapped = InThreads(saver)
    checkpoint = empty_checkpoint()

    written = await wrapped.aput(CONFIG, checkpoint, {"step": 1}, {})
    await wrapped.aput_writes(written, [("channel", 7)], "task")
    found = await wrapped.aget_tuple(CONFIG)

    assert found is not None
    assert found.checkpoint["id"] == checkpoint["id"]
    assert found.pending_writes == [("task", "channel", 7)]
    assert [each.config async for each in wrapped.alist(CONFIG)] == [found.config]
    assert threading.main_thread() not in saver.threads


def test_sync_calls_pass_through() -> None:
    saver = InMemorySaver()
    wrapped = InThreads(saver)

    written = wrapped.put(CONFIG, empty_checkpoint(), {"step": 1}, {})
    wrapped.put_writes(written, [("channel", 7)], "task")

    assert wrapped.get_tuple(CONFIG) == saver.get_tuple(CONFIG)
    assert list(wrapped.list(CONFIG)) == list(saver.list(CONFIG))
    assert wrapped.get_next_version(None, None).split(".")[0].lstrip("0") == "1"


def test_it_stays_itself_with_more_types_allowed() -> None:
    assert isinstance(InThreads(InMemorySaver()).with_allowlist([]), InThreads)
