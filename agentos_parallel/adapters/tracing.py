"""What is still open in the trace when a task ends.

LangChain leaves the run of a cancelled chat model open, its core 1.7 that of a cancelled tool too,
and the runs of a thread that was abandoned end with it, if ever.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any, TypeAlias
from uuid import UUID

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    AsyncCallbackManagerForLLMRun,
    AsyncCallbackManagerForRetrieverRun,
    AsyncCallbackManagerForToolRun,
    BaseCallbackHandler,
    BaseCallbackManager,
    CallbackManagerForChainRun,
    CallbackManagerForLLMRun,
    CallbackManagerForRetrieverRun,
    CallbackManagerForToolRun,
)

from agentos_parallel._core.works import in_thread

# The end of each kind of run: the method, and whose it is for sync and for async callers.
_Ends: TypeAlias = tuple[str, type[Any], type[Any]]
_CHAIN: _Ends = ("on_chain_error", CallbackManagerForChainRun, AsyncCallbackManagerForChainRun)
_TOOL: _Ends = ("on_tool_error", CallbackManagerForToolRun, AsyncCallbackManagerForToolRun)
_LLM: _Ends = ("on_llm_error", CallbackManagerForLLMRun, AsyncCallbackManagerForLLMRun)
_RETRIEVER: _Ends = (
    "on_retriever_error",
    CallbackManagerForRetrieverRun,
    AsyncCallbackManagerForRetrieverRun,
)


class OpenRuns(BaseCallbackHandler):
    """Knows which runs below one task have not ended, and ends them with it.

    A thread or coroutine that was abandoned and ends later all the same ends its runs a second
    time, of which LangChain's tracers log a warning. To keep that from the other handlers, this one
    would have to raise into code that still works. Handlers that only a part of the child was made
    with are not told. Costs some 20 microseconds a run.

    Args:
        manager: of the task's children; it is given this handler, to be inherited, if it has any.

    Attributes:
        callbacks: the manager, to call the child with.
    """

    run_inline = True  # else async runs would call it in the loop's default pool

    def __init__(self, manager: BaseCallbackManager) -> None:
        self._handlers = list(manager.handlers)
        self._open: dict[UUID, tuple[_Ends, dict[str, Any]]] = {}
        if self._handlers:
            manager.add_handler(self, inherit=True)
        self.callbacks = manager

    async def close(self, error: BaseException, *, sync: bool) -> None:
        """End what is open with *error*, the innermost first.

        All of it, whatever a handler raises and however often this is cancelled meanwhile: that
        comes out at the end. What begins later is left to end by itself, or to another close.

        Args:
            error: why the task has ended.
            sync: tell handlers as a sync caller does.
        """
        if not self._open:
            return
        async with AsyncExitStack() as ends:  # the last comes first
            for run_id in self._open.copy():  # in one step: threads may be at work
                ends.push_async_callback(self._end, run_id, error, sync=sync)

    async def _end(self, run_id: UUID, error: BaseException, *, sync: bool) -> None:
        found = self._open.pop(run_id, None)
        if found is None:  # it has ended meanwhile
            return
        (method, sync_manager, async_manager), about = found
        kind = sync_manager if sync else async_manager
        run = kind(run_id=run_id, handlers=self._handlers, inheritable_handlers=[], **about)
        if sync:
            await in_thread(getattr(run, method), error)  # this loop serves other callers too
        else:
            await getattr(run, method)(error)

    def on_chain_start(self, *_: Any, run_id: UUID, **about: Any) -> None:
        """A chain or a graph begins."""
        self._note(_CHAIN, run_id, **about)

    def on_tool_start(self, *_: Any, run_id: UUID, **about: Any) -> None:
        """A tool begins."""
        self._note(_TOOL, run_id, **about)

    def on_llm_start(self, *_: Any, run_id: UUID, **about: Any) -> None:
        """A model begins."""
        self._note(_LLM, run_id, **about)

    def on_chat_model_start(self, *_: Any, run_id: UUID, **about: Any) -> None:
        """A chat model begins."""
        self._note(_LLM, run_id, **about)

    def on_retriever_start(self, *_: Any, run_id: UUID, **about: Any) -> None:
        """A retriever begins."""
        self._note(_RETRIEVER, run_id, **about)

    def _note(
        self,
        ends: _Ends,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **_: Any,
    ) -> None:
        self._open[run_id] = ends, {"parent_run_id": parent_run_id, "tags": tags}

    def _forget(self, *_: Any, run_id: UUID, **__: Any) -> None:
        self._open.pop(run_id, None)

    on_chain_end = on_tool_end = on_llm_end = on_retriever_end = _forget
    on_chain_error = on_tool_error = on_llm_error = on_retriever_error = _forget
