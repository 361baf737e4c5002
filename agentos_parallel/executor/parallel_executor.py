"""``ParallelExecutor``: settings and one throttler for many runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, Unpack, overload

from agentos_parallel._core.collect import (
    AnyWork,
    Many,
    SupportsAinvoke,
    check_reach,
    collect,
    works_of,
)
from agentos_parallel._core.sources import source_of
from agentos_parallel._core.works import call_of
from agentos_parallel.arguments import discarding, strict_call
from agentos_parallel.checks import flag
from agentos_parallel.results import GatherResult
from agentos_parallel.settings import (
    DEFAULT_TIMEOUT,
    Limit,
    Options,
    Settings,
    TimeoutOf,
    entry_point,
)
from agentos_parallel.stream import ResultStream
from agentos_parallel.throttle import TaskThrottler

A = TypeVar("A")
T = TypeVar("T")


class ParallelExecutor:
    """Settings and one throttler for many runs.

    Without ``throttler`` all runs of one executor share ``max_concurrent`` slots. A run inside a
    task of the same executor can't deadlock: the task lends its slot while it awaits the run.

    Args:
        max_concurrent: tasks at once, at least 1; None: as many as *throttler* allows.
        timeout: seconds that one run may take, all its tasks, retries and waits; None: no limit.
        fail_fast: stop a run at its first failure or timeout.
        task_timeout: seconds that one attempt of a task may take, counted from its slot, or a
            function of the item (``gather``: of the task_id) that gives them; None: no limit.
        min_success: stop a run at this many successes, or once they are out of reach.
        throttler: slots shared with others, or a function of the item (``gather``: of the
            task_id) that gives one throttler or several.
        grace: seconds to wait for cancelled tasks; what still runs then is reported abandoned.

    Attributes:
        throttler: the one given, or the executor's own, of ``max_concurrent`` slots; to change
            how many there are, resize it.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is allowed.

    Example:
        >>> import asyncio
        >>> async def double(n):
        ...     return 2 * n
        >>> executor = ParallelExecutor(max_concurrent=2, timeout=5)
        >>> asyncio.run(executor.map(double, [1, 2, 3])).get_results()
        [2, 4, 6]
    """

    @strict_call
    def __init__(
        self,
        max_concurrent: int | None = 8,
        timeout: float | None = DEFAULT_TIMEOUT,
        fail_fast: bool = False,
        *,
        task_timeout: float | TimeoutOf | None = None,
        min_success: int | None = None,
        throttler: Limit | None = None,
        grace: float = 5.0,
    ) -> None:
        self.max_concurrent = max_concurrent
        self.timeout = timeout
        self.fail_fast = fail_fast
        self.task_timeout = task_timeout
        self.min_success = min_success
        self.grace = grace
        self._own = throttler is None
        self.throttler: Limit = _throttler_for(max_concurrent) if throttler is None else throttler
        self.settings()

    def __repr__(self) -> str:
        """Its limits, and how much of them is in use."""
        return (
            f"ParallelExecutor(max_concurrent={self.max_concurrent}, timeout={self.timeout}, "
            f"throttler={self.throttler!r})"
        )

    def settings(self, **given: Any) -> Settings:
        """What a run of this executor is bound by, with the values in *given* that are not None."""
        own = Settings(
            # Its own throttler may be resized, and a run's width follows it.
            max_concurrent=None if self._own else self.max_concurrent,
            timeout=self.timeout,
            task_timeout=self.task_timeout,
            fail_fast=self.fail_fast,
            min_success=self.min_success,
            grace=self.grace,
            no_deadline="timeout=math.inf",
            also=self.throttler,
        )
        return own.override(**given)

    @overload
    async def gather(
        self,
        coros: Many[Awaitable[T]],
        timeout: float | None = None,
        return_partial: bool = True,
        **options: Unpack[Options],
    ) -> GatherResult[T]: ...
    @overload
    async def gather(
        self,
        coros: Many[Callable[[], Awaitable[T]]],
        timeout: float | None = None,
        return_partial: bool = True,
        **options: Unpack[Options],
    ) -> GatherResult[T]: ...
    @overload
    async def gather(
        self,
        coros: Many[Callable[[], T]],
        timeout: float | None = None,
        return_partial: bool = True,
        **options: Unpack[Options],
    ) -> GatherResult[T]: ...
    @overload
    async def gather(
        self,
        coros: list[AnyWork] | dict[str, AnyWork],
        timeout: float | None = None,
        return_partial: bool = True,
        **options: Unpack[Options],
    ) -> GatherResult[Any]: ...
    @overload
    async def gather(
        self,
        coros: Many[Awaitable[T] | Callable[[], T]],
        timeout: float | None = None,
        return_partial: bool = True,
        **options: Unpack[Options],
    ) -> GatherResult[T]: ...
    @entry_point
    async def gather(
        self,
        coros: Any,
        timeout: float | None = None,
        return_partial: bool = True,
        **options: Unpack[Options],
    ) -> GatherResult[Any]:
        """Run *coros*, and give a result for each.

        Args:
            coros: works, each an awaitable or a zero-argument function, sync (run in a thread) or
                async; a list, an iterable or async iterable (drawn as slots come free), or a
                mapping, whose keys become the task_ids.
            timeout: seconds for the whole run; None: the executor's; ``math.inf``: no deadline.
            return_partial: a run that its deadline ended returns what it has; else it raises.
            **options: see the class; None: the executor's own.

        Returns:
            One result for each work, in input order.

        Raises:
            DeadlineExceeded: the deadline ended the run, and *return_partial* is False.
            SourceError: the iterable raised; what had been started has finished.
            TypeError, ValueError: a bad argument; nothing was started, every coroutine is closed.
        """
        with discarding(coros, timeout, return_partial, options):
            source = works_of("coros", coros)
            settings = self.settings(timeout=timeout, **options)
            check_reach(settings, source)
            flag("return_partial", return_partial)
        return (await collect(source, settings, works=True, return_partial=return_partial))[0]

    @overload
    async def map(
        self,
        func: SupportsAinvoke[A, T],
        items: Many[A],
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> GatherResult[T]: ...
    @overload
    async def map(
        self,
        func: Callable[[A], Awaitable[T]],
        items: Many[A],
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> GatherResult[T]: ...
    @overload
    async def map(
        self,
        func: Callable[[A], T],
        items: Many[A],
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> GatherResult[T]: ...
    @overload
    async def map(
        self,
        func: SupportsAinvoke[Any, T],
        items: Many[Any],
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> GatherResult[T]: ...
    @entry_point
    async def map(
        self, func: Any, items: Any, timeout: float | None = None, **options: Unpack[Options]
    ) -> GatherResult[Any]:
        """Run *func* on each of *items*, and give a result for each.

        Args:
            func: a function of one item, sync (run in a thread) or async, or a Runnable; it is
                called when the item's slot is there.
            items: a list, an iterable or async iterable (drawn as slots come free), or a mapping,
                whose keys become the task_ids.
            timeout: seconds for the whole run; None: the executor's; ``math.inf``: no deadline.
            **options: see the class; None: the executor's own.

        Returns:
            One result for each item, in input order.

        Raises:
            SourceError: the iterable raised; what had been started has finished.
            TypeError, ValueError: a bad argument; nothing was started.
        """
        with discarding(func, items, timeout, options):
            call, source = call_of("func", func), source_of("items", items)
            settings = self.settings(timeout=timeout, **options)
            check_reach(settings, source)
        return (await collect(source, settings, call=call))[0]

    @overload
    def stream(
        self,
        works: Many[Awaitable[T]],
        timeout: float | None = None,
        *,
        ordered: bool = False,
        **options: Unpack[Options],
    ) -> ResultStream[T]: ...
    @overload
    def stream(
        self,
        works: Many[Callable[[], Awaitable[T]]],
        timeout: float | None = None,
        *,
        ordered: bool = False,
        **options: Unpack[Options],
    ) -> ResultStream[T]: ...
    @overload
    def stream(
        self,
        works: Many[Callable[[], T]],
        timeout: float | None = None,
        *,
        ordered: bool = False,
        **options: Unpack[Options],
    ) -> ResultStream[T]: ...
    @overload
    def stream(
        self,
        works: list[AnyWork] | dict[str, AnyWork],
        timeout: float | None = None,
        *,
        ordered: bool = False,
        **options: Unpack[Options],
    ) -> ResultStream[Any]: ...
    @overload
    def stream(
        self,
        works: Many[Awaitable[T] | Callable[[], T]],
        timeout: float | None = None,
        *,
        ordered: bool = False,
        **options: Unpack[Options],
    ) -> ResultStream[T]: ...
    @entry_point
    def stream(
        self,
        works: Any,
        timeout: float | None = None,
        *,
        ordered: bool = False,
        **options: Unpack[Options],
    ) -> ResultStream[Any]:
        """Run *works* while their results are read; see ``parallel_stream``.

        Args:
            works: as for ``gather``.
            timeout: seconds for the whole run; None: the executor's; ``math.inf``: no deadline.
            ordered: give the results in input order, not as they come.
            **options: see the class; None: the executor's own.

        Returns:
            An async iterator of ``TaskResult``, and an async context manager that closes it.

        Raises:
            TypeError, ValueError: a bad argument; nothing was started, every coroutine is closed.
        """
        with discarding(works, timeout, ordered, options):
            source = works_of("works", works)
            settings = self.settings(timeout=timeout, **options)
            check_reach(settings, source)
            return ResultStream(source, settings, works=True, ordered=flag("ordered", ordered))


def _throttler_for(max_concurrent: int | None) -> TaskThrottler:
    if max_concurrent is None:
        raise ValueError("max_concurrent=None leaves the limit to throttler=, and none is given")
    return TaskThrottler(max_concurrent)
