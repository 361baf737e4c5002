"""What becomes of the tasks of a run, told while it lasts.

Guarantees that an observer hears of each task's start and end in order, that it holds up no task,
and that one which raises, or never returns, hurts no run: it is waited for as long as cancelled
tasks are, and an exit in it ends the run as one in a task does. A run without an observer pays
nothing, one with an observer 2 µs a task. An asyncio.Task of its own reads from a
queue, as logging's ``QueueListener`` does; awaiting the observer in the task itself was refused,
for a slow one would look like a slow task.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any, TypeAlias

from agentos_parallel._core.clock import Clocks
from agentos_parallel._core.crew import LAST_CALL
from agentos_parallel._core.ledger import Deliver
from agentos_parallel._core.nesting import current
from agentos_parallel._core.works import Call
from agentos_parallel.results import TaskResult

logger = logging.getLogger("agentos_parallel")

Observer: TypeAlias = Callable[[TaskResult[Any]], Awaitable[None]]
"""Awaited with a task's record: a copy, RUNNING, when it starts; in the end the final one."""


class Notices:
    """The news of one run, on their way to an observer.

    Args:
        observer: who is told.
        leave: called with an exit that the observer raised.
    """

    def __init__(self, observer: Observer, leave: Callable[[BaseException], None]) -> None:
        self._observer = observer
        self._leave = leave
        self._context = copy_context()
        self._queue: deque[TaskResult[Any]] = deque()
        self._teller: asyncio.Task[None] | None = None
        self._exit: BaseException | None = None

    def of_starts(self, call: Call) -> Call:
        """*call*, which tells of its task's start."""

        async def told(item: Any) -> Any:
            task = current.get()
            if task is not None:  # pragma: no branch - a run calls it in its task
                self.tell(_started(task.result))
            return await call(item)

        return told

    def of_outcomes(self, deliver: Deliver) -> Deliver:
        """*deliver*, which tells of each outcome."""

        def told(index: int, result: TaskResult[Any]) -> None:
            deliver(index, result)
            self.tell(result)

        return told

    def tell(self, result: TaskResult[Any]) -> None:
        """Have the observer told of *result*; after an exit nobody is told."""
        if self._exit is not None:
            return
        self._queue.append(result)
        if self._teller is None or self._teller.done():
            # Not by create_task(), which may start it at once, in the midst of the run's own step.
            self._teller = asyncio.Task(
                self._tell(), loop=asyncio.get_running_loop(), context=self._context
            )

    async def finish(self, clocks: Clocks) -> None:
        """Wait until all is told, or the observer has had the run's grace.

        Raises:
            asyncio.CancelledError: the caller was cancelled meanwhile.
            BaseException: an exit that the observer raised.
        """
        if self._teller is None:
            return
        failure = await self._told(self._teller, clocks)
        if not self._teller.done():
            await self._give_up(self._teller, clocks.grace)
        if self._exit is not None:
            failure, self._exit = self._exit, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # or the exception would hold itself, through this frame

    async def _told(self, teller: asyncio.Task[None], clocks: Clocks) -> BaseException | None:
        """Wait for *teller*, through a cancel too, which is returned."""
        loop, end, cancelled = asyncio.get_running_loop(), clocks.give_up_at(), None
        while not teller.done() and (left := end - loop.time()) > 0:
            try:
                await asyncio.wait({teller}, timeout=left)
            except asyncio.CancelledError as error:
                cancelled = cancelled or error
                end = min(end, clocks.give_up_at())  # the run around may give up on us now
        return cancelled

    async def _give_up(self, teller: asyncio.Task[None], grace: float) -> None:
        untold = len(self._queue) + 1
        self._queue.clear()
        teller.cancel()
        _warn("an observer was given up after the run's grace of %g s, %d untold", grace, untold)
        for _ in range(LAST_CALL):
            if teller.done():
                return
            await asyncio.sleep(0)

    async def _tell(self) -> None:
        teller = asyncio.current_task()
        assert teller is not None
        while self._queue:
            try:
                await self._observer(self._queue.popleft())
            except BaseException as error:
                own_cancel = isinstance(error, asyncio.CancelledError) and not teller.cancelling()
                if own_cancel or isinstance(error, Exception):
                    _warn("an observer raised %r", error)
                    await asyncio.sleep(0)  # it is in the log before the call returns
                elif isinstance(error, asyncio.CancelledError | GeneratorExit):
                    raise
                else:
                    self._exit = error  # raised in the end, for the run may be over already
                    self._queue.clear()
                    self._leave(error)


def _started(result: TaskResult[Any]) -> TaskResult[Any]:
    """A copy, for the record goes on while the news wait; replace() costs four times that."""
    return TaskResult(
        result.task_id,
        result.status,
        started_at=result.started_at,
        queued_ms=result.queued_ms,
    )


def _warn(text: str, *args: object) -> None:
    """Log it, but not from in here: a handler of the user's that raises would end the telling."""
    asyncio.get_running_loop().call_soon(logger.warning, f"agentos_parallel: {text}", *args)
