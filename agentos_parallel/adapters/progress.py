"""Custom events of a tool call: a UI sees each task start and end while the call lasts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from langchain_core.callbacks import (
    BaseCallbackManager,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config

from agentos_parallel._core.notices import Observer
from agentos_parallel._core.works import in_thread
from agentos_parallel.adapters.calls import tool_call_id
from agentos_parallel.adapters.redact import redacted
from agentos_parallel.errors import error_text
from agentos_parallel.jsonable import plain_text
from agentos_parallel.results import TaskResult, shorten

EVENT = "agentos_parallel.task"
"""The name of the events."""

_ERROR_CHARS = 1_000


def progress(agents: Mapping[str, str], *, sync: bool) -> Observer | None:
    """Who tells callbacks, and LangGraph's stream where there is one, of a call's tasks.

    The data is ``{tool_call_id, task_id, agent, status, queued_ms, duration_ms, error}``, once with
    status "running" and once with the outcome; the stream has the event's name in it as well. None
    where nobody listens.

    Args:
        agents: the name of the agent of each task_id.
        sync: the caller is sync: call its handlers in a thread, as it would itself.
    """
    config, called = ensure_config(), tool_call_id.get()
    heard, write = _in_a_run(config), _stream_writer(config)
    if write is None and not heard:
        return None

    async def tell(task: TaskResult[Any]) -> None:
        data = {
            "tool_call_id": called,
            "task_id": task.task_id,
            "agent": agents[task.task_id],
            "status": task.status.value,
            "queued_ms": task.queued_ms,
            "duration_ms": task.duration_ms,
            "error": None if task.error is None else _told(task.error),
        }
        if write is not None:
            write({"name": EVENT, **data})
        if heard and sync:
            await in_thread(partial(dispatch_custom_event, EVENT, data, config=config))
        elif heard:
            await adispatch_custom_event(EVENT, data, config=config)

    return tell


def _told(error: BaseException) -> str:
    """Type and message, as any way to a screen can carry them; the artifact has all of it."""
    return plain_text(shorten(redacted(error_text(error)), _ERROR_CHARS))


def _in_a_run(config: RunnableConfig) -> bool:
    """Whether there is a run that events belong to, and anybody who handles them."""
    manager = config.get("callbacks")
    if not isinstance(manager, BaseCallbackManager):
        return False
    return manager.parent_run_id is not None and bool(manager.handlers)


def _stream_writer(config: RunnableConfig) -> Any:
    """What writes to the stream of LangGraph's graph around; None: there is none."""
    langgraph = sys.modules.get("langgraph.config")
    if langgraph is None or "__pregel_runtime" not in config["configurable"]:
        return None
    return langgraph.get_stream_writer()
