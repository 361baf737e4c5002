"""``TaskGroup``: asyncio's, with limits, timeouts, and a result for each child.

Guarantees the semantics of ``asyncio.TaskGroup`` as Python 3.13 has them, on older Pythons too.
What it adds is the core's: this module only says what is refused and what comes out.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from contextvars import Context
from types import TracebackType
from typing import Any, Self, TypeVar

from agentos_parallel._core.group_run import GroupRun
from agentos_parallel.arguments import discard, discarding, strict_call
from agentos_parallel.checks import shown
from agentos_parallel.results import GatherResult
from agentos_parallel.settings import Limit, Settings, TimeoutOf
from agentos_parallel.throttle import TaskThrottler

T = TypeVar("T")

_NO_LIMIT = sys.maxsize


class TaskGroup:
    """A group of tasks that ends with its last one: a stand-in for ``asyncio.TaskGroup``.

    The first child that fails or times out cancels its siblings and the body, and the errors come
    out in an ``ExceptionGroup``. With ``fail_fast=False`` children fail alone, and ``.result`` says
    what became of each. Entered inside a task of another run, the group lends that task's slots
    from its first ``create_task`` to its exit.

    Args:
        max_concurrent: children that work at once; None: no limit. A child that awaits a nested
            run does not count meanwhile; one that awaits a sibling does.
        timeout: seconds from entering the group to its end; None: no deadline. When they have
            passed, children and body are cancelled.
        task_timeout: seconds that one child may take, from when it has its slots; or a function
            of its task_id; None: no limit.
        fail_fast: the first failure or timeout of a child cancels the others and the body.
        throttler: slots shared with others; or a function of the task_id that gives one or several.
        grace: seconds to wait for children that were cancelled; who still runs then is abandoned.

    Raises:
        TypeError, ValueError: a bad argument.

    On leaving the ``async with`` block:

    Raises:
        BaseExceptionGroup: the children's errors (``fail_fast=False``: none of them) and the
            body's; an ExceptionGroup, unless one of them is no Exception.
        DeadlineExceeded: ``timeout`` has ended the group, which is its ``.result``
            (``fail_fast=False``: nothing is raised, the tasks are TIMEOUT).
        asyncio.CancelledError: the group was cancelled from outside, and no child failed.
        KeyboardInterrupt, SystemExit: a child or the body raised it; after the drain.

    Example:
        >>> async def double(n):
        ...     return 2 * n
        >>> async def main():
        ...     async with TaskGroup(max_concurrent=2) as group:
        ...         tasks = [group.create_task(double(n)) for n in range(3)]
        ...     return [task.result() for task in tasks], group.result.all_succeeded
        >>> asyncio.run(main())
        ([0, 2, 4], True)
    """

    @strict_call
    def __init__(
        self,
        *,
        max_concurrent: int | None = None,
        timeout: float | None = None,
        task_timeout: float | TimeoutOf | None = None,
        fail_fast: bool = True,
        throttler: Limit | None = None,
        grace: float = 5.0,
    ) -> None:
        settings = Settings(
            _NO_LIMIT,
            timeout,
            task_timeout,
            fail_fast,
            throttler=throttler,
            grace=grace,
            also=None if max_concurrent is None else TaskThrottler(max_concurrent),
        )
        self._run = GroupRun(settings)
        self._result = self._run.ledger.counts
        self._entered = False
        self._exiting = False

    @property
    def result(self) -> GatherResult[Any]:
        """A result for each ``create_task``, in their order; live while the group runs.

        Until then tasks are PENDING (they wait for their slots) or RUNNING too.
        """
        return self._result

    async def __aenter__(self) -> Self:
        """Start the group's clock.

        Raises:
            RuntimeError: it was entered before, or there is no asyncio.Task around.
        """
        if self._entered:
            raise RuntimeError(f"{self!r} has already been entered")
        body = asyncio.current_task()
        if body is None:
            raise RuntimeError(f"{self!r} cannot determine the parent task")
        self._entered = True
        self._run.enter(body)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:  # and not bool, or type checkers think that it swallows errors
        """Wait for all children; see the class for what comes out."""
        self._exiting = True
        failure = await self._run.leave(exc)
        try:
            if failure is not None and failure is not exc:
                raise failure
            return failure is None
        finally:
            del failure, exc  # or the exception would hold itself, through this frame

    @strict_call
    def create_task(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        """Make a child of *coro*, which starts once its slots are there.

        Args:
            coro: a coroutine.
            name: the asyncio.Task's; None: one is made up.
            context: what *coro* runs in; None: a copy of the caller's.

        Returns:
            The asyncio.Task, with the coroutine's outcome: TaskTimeout past its ``task_timeout``.

        Raises:
            RuntimeError: the group was not entered, is shutting down, or is finished; *coro* is
                closed.
            TypeError: *coro* is no coroutine, or *context* no Context.
            Exception: what ``throttler``, as a function, raised.
        """
        refusal = self._refusal()
        if refusal:
            discard(coro)
            raise RuntimeError(f"{self!r} {refusal}")
        if not asyncio.iscoroutine(coro):
            hint = ": call it" if callable(coro) else ""
            raise TypeError(f"create_task() takes a coroutine, got {shown(coro)}{hint}")
        if not isinstance(context, Context | None):
            raise TypeError(f"context must be a contextvars.Context, got {shown(context)}")
        with discarding(coro):
            return self._run.spawn(coro, name, context)

    def _refusal(self) -> str:
        if not self._entered:
            return "has not been entered"
        if self._exiting and self._run.over:
            return "is finished"
        return "is shutting down" if self._run.stopping or self._run.over else ""

    def __repr__(self) -> str:
        """How far it is, and the counts."""
        counts = self.result
        state = "finished" if self._run.over else "entered" if self._entered else "not entered"
        return f"<TaskGroup {state}, {counts.completed}/{counts.total} completed>"
