"""The children of one call: each a run below it in the trace, and known by its position in a graph.

What tools and Runnables share. A child is called with its sync ``invoke`` in the core's threads
where it has no async way of its own: its ``ainvoke`` would run in the loop's default pool, which
``asyncio.run`` joins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    AsyncCallbackManagerForToolRun,
    BaseCallbackManager,
    CallbackManager,
    CallbackManagerForChainRun,
    CallbackManagerForToolRun,
)
from langchain_core.runnables import Runnable, RunnableConfig

from agentos_parallel._core.task import is_control_flow, reason_of
from agentos_parallel._core.works import in_thread
from agentos_parallel.adapters import graphs
from agentos_parallel.adapters.interrupts import Askers
from agentos_parallel.adapters.kinds import only_async, only_sync
from agentos_parallel.adapters.tracing import OpenRuns

RunManager: TypeAlias = (
    CallbackManagerForToolRun
    | AsyncCallbackManagerForToolRun
    | CallbackManagerForChainRun
    | AsyncCallbackManagerForChainRun
)

T = TypeVar("T")


class Children:
    """The children of one call: ``async with`` it around the run of its tasks.

    Args:
        askers: who of them asks a human, in the graph around.
        run_manager: the call's run in the trace, which theirs stand under; None: no trace.
        sync: the caller is sync: prefer their sync methods.

    Raises:
        GraphInterrupt: out of the block, with the questions of all children, in place of one.
        ParentCommand: out of the block, the first in input order.
    """

    def __init__(self, askers: Askers, run_manager: RunManager | None, *, sync: bool) -> None:
        self.sync = sync
        self._run_manager = run_manager
        self._askers = askers
        self._opened: dict[OpenRuns, None] = {}  # in the order in which they were

    async def __aenter__(self) -> Self:
        """Nothing has to be done."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close what abandoned tasks left open in the trace, and put control flow together."""
        async with AsyncExitStack() as closing:  # all of them, whatever a handler raises
            for runs in self._opened:
                why = asyncio.CancelledError("its task was abandoned")
                closing.push_async_callback(runs.close, why, sync=self.sync)
        if error is not None and is_control_flow(error):
            raise self._askers.joined(error) from None

    async def run(
        self, position: int, name: str, task_id: str, work: Callable[..., Awaitable[T]], *args: Any
    ) -> T:
        """What *work* gives, a child of this call.

        Args:
            position: of the child among its siblings.
            name: of the child, for those who read of it.
            task_id: of its task, for the tag of its run.
            work: is called with the part of the child's config that is its own (``callbacks`` and
                ``configurable``), and the arguments behind it.
            *args: those arguments.
        """
        callbacks = self.manager_of(f"task:{task_id}")
        runs = OpenRuns(callbacks) if callbacks.handlers else None
        if runs is not None:
            self._opened[runs] = None
        configurable = self._askers.configurable(position)
        if self.sync:
            configurable = graphs.with_sync_saver(configurable)
        ended: BaseException = asyncio.CancelledError("its task has ended")
        try:
            return await work({"callbacks": callbacks, "configurable": configurable}, *args)
        except BaseException as error:
            ended = reason_of(error)
            if is_control_flow(error):
                self._askers.heard(position, name, error)
            raise
        finally:
            if runs is not None and not isinstance(ended, GeneratorExit):  # the collector's
                await runs.close(ended, sync=self.sync)
                del self._opened[runs]
            del ended  # or the error would hold itself, through this frame

    def manager_of(self, tag: str) -> BaseCallbackManager:
        """The callbacks of a child, whose run has this *tag*."""
        if self._run_manager is None:
            return CallbackManager(handlers=[])
        return self._run_manager.get_child(tag)


async def invoked(
    runnable: Runnable[Any, Any],
    given: Any,
    config: RunnableConfig | None,
    *,
    sync: bool,
    **kwargs: Any,
) -> Any:
    """What *runnable* makes of *given*: called in a thread where it has no async way of its own.

    *sync* is for a sync caller: called in a thread wherever it has a sync way.
    """
    if in_sync_way(runnable, sync=sync):
        try:
            return await in_thread(partial(runnable.invoke, given, config, **kwargs))
        except (NotImplementedError, TypeError) as error:
            if not lacks_sync_way(error):
                raise
    return await runnable.ainvoke(given, config, **kwargs)


def in_sync_way(runnable: Runnable[Any, Any], *, sync: bool) -> bool:
    """Whether *runnable* is called in a thread: it has no other way, or a *sync* caller asks."""
    return not only_async(runnable) if sync else only_sync(runnable)


def lacks_sync_way(error: NotImplementedError | TypeError) -> bool:
    """Whether *error* says that a part of a Runnable is async only, as async middleware is.

    Such parts can't be seen from outside.
    """
    return any(words in str(error) for words in _ONLY_ASYNC)


_ONLY_ASYNC = (
    "Synchronous implementation",
    "Cannot invoke a coroutine function synchronously",
    "Cannot stream a coroutine function synchronously",
)
