"""What becomes of the tasks of a run, told while it lasts.

Guarantees that an observer hears of each task's start and end in order, that it holds up no task,
and that one which raises, or never returns, hurts no run: it is waited for as long as cancelled
tasks are. A run without an observer pays nothing. An asyncio.Task of its own reads from a queue, as
logging's ``QueueListener`` does; awaiting the observer in the task itself was refused, for a slow
one would look like a slow task.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from dataclasses import replace
from typing import Any, TypeAlias

from agentos_parallel._core.nesting import current
from agentos_parallel._core.works import Call
from agentos_parallel.results import TaskResult

logger = logging.getLogger("agentos_parallel")

Observer: TypeAlias = Callable[[TaskResult[Any]], Awaitable[None]]
"""Awaited with a copy of a task's record: RUNNING when it starts, and its outcome."""


class Notices:
    """The news of one run, on their way to an observer.

    Args:
        observer: who is told.
        grace: seconds that it is waited for when the run is over.
    """

    def __init__(self, observer: Observer, grace: float) -> None:
        self._observer = observer
        self._grace = grace
        self._context = copy_context()
        self._queue: deque[TaskResult[Any]] = deque()
        self._teller: asyncio.Task[None] | None = None
        self._exit: BaseException | None = None

    def of_starts(self, call: Call) -> Call:
        """*call*, which tells of its task's start."""

        async def told(item: Any) -> Any:
            task = current.get()
            if task is not None:  # pragma: no branch - a run calls it in its task
                self.tell(task.result)
            return await call(item)

        return told

    def tell(self, result: TaskResult[Any]) -> None:
        """Have the observer told of *result*, as it is now."""
        self._queue.append(replace(result))
        if self._teller is None or self._teller.done():
            # Not by create_task(), which may start it at once, in the midst of the run's own step.
            self._teller = asyncio.Task(
                self._tell(), loop=asyncio.get_running_loop(), context=self._context
            )

    async def finish(self) -> None:
        """Wait until all is told, or the observer has had its time.

        Raises:
            asyncio.CancelledError: the caller was cancelled; the observer was, too.
            BaseException: an exit that the observer raised.
        """
        if self._teller is None:
            return
        try:
            done, _ = await asyncio.wait({self._teller}, timeout=self._grace)
            if not done:
                left, seconds = len(self._queue) + 1, self._grace
                text = "agentos_parallel: an observer was given up after %g s, %d notices untold"
                logger.warning(text, seconds, left)
        finally:
            if self._teller.cancel():
                await asyncio.wait({self._teller}, timeout=self._grace)
        if self._exit is not None:
            raise self._exit

    async def _tell(self) -> None:
        while self._queue and self._exit is None:
            try:
                await self._observer(self._queue.popleft())
            except Exception as error:
                logger.warning("agentos_parallel: an observer raised %r", error)
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # an exit: it comes out of the run, not of the loop
                self._exit = error
