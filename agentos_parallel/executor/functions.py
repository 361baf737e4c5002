"""``parallel_gather`` and ``parallel_map``: one run, with its settings in the call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, Unpack, overload

from agentos_parallel._core.collect import (
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
from agentos_parallel.executor.parallel_executor import ParallelExecutor
from agentos_parallel.results import GatherResult
from agentos_parallel.settings import DEFAULT_TIMEOUT, Options, Settings, entry_point

A = TypeVar("A")
T = TypeVar("T")


@overload
async def parallel_gather(
    *coros: Awaitable[T],
    max_concurrent: int | None = 8,
    timeout: float | None = DEFAULT_TIMEOUT,
    return_partial: bool = True,
    **options: Unpack[Options],
) -> GatherResult[T]: ...
@overload
async def parallel_gather(
    *coros: Callable[[], Awaitable[T]],
    max_concurrent: int | None = 8,
    timeout: float | None = DEFAULT_TIMEOUT,
    return_partial: bool = True,
    **options: Unpack[Options],
) -> GatherResult[T]: ...
@overload
async def parallel_gather(
    *coros: Callable[[], T],
    max_concurrent: int | None = 8,
    timeout: float | None = DEFAULT_TIMEOUT,
    return_partial: bool = True,
    **options: Unpack[Options],
) -> GatherResult[T]: ...
@overload
async def parallel_gather(
    *coros: Awaitable[T] | Callable[[], T],
    max_concurrent: int | None = 8,
    timeout: float | None = DEFAULT_TIMEOUT,
    return_partial: bool = True,
    **options: Unpack[Options],
) -> GatherResult[T]: ...
@entry_point
async def parallel_gather(
    *coros: Any,
    max_concurrent: int | None = 8,
    timeout: float | None = DEFAULT_TIMEOUT,
    return_partial: bool = True,
    **options: Unpack[Options],
) -> GatherResult[Any]:
    """Run works at once, at most *max_concurrent* at a time, and get a result for each.

    The first failure loses nothing: every work has its result. For all or nothing see
    ``GatherResult.raise_for_errors``; for one function over many items ``parallel_map``.

    Args:
        *coros: works, each an awaitable or a zero-argument function, sync (run in a thread) or
            async.
        max_concurrent: tasks at once; None: as many as ``throttler`` allows.
        timeout: seconds for the whole run; None: no deadline.
        return_partial: a run that its deadline ended returns what it has; else it raises.
        **options: ``task_timeout``, ``fail_fast``, ``min_success``, ``throttler``, ``grace``: see
            ``ParallelExecutor``.

    Returns:
        One result for each work, in the order given.

    Raises:
        DeadlineExceeded: the deadline ended the run, and *return_partial* is False; it has the
            partial GatherResult as ``.result``.
        TypeError, ValueError: a bad argument; nothing was started, every coroutine is closed.

    Example:
        >>> import asyncio
        >>> async def ask(name):
        ...     if name == "b":
        ...         raise ConnectionError("b is down")
        ...     return f"{name} answered"
        >>> result = asyncio.run(parallel_gather(ask("a"), ask("b"), ask("c")))
        >>> result.get_results(), result.get_errors()
        (['a answered', 'c answered'], [('1', ConnectionError('b is down'))])
    """
    with discarding(coros, max_concurrent, timeout, return_partial, options):
        source = works_of("coros", coros)
        settings = Settings.of(max_concurrent, timeout, options)
        check_reach(settings, source)
        flag("return_partial", return_partial)
    return (await collect(source, settings, works=True, return_partial=return_partial))[0]


@overload
async def parallel_map(
    func: SupportsAinvoke[A, T],
    items: Many[A],
    max_concurrent: int | None = 8,
    timeout: float | None = DEFAULT_TIMEOUT,
    **options: Unpack[Options],
) -> GatherResult[T]: ...
@overload
async def parallel_map(
    func: Callable[[A], Awaitable[T]],
    items: Many[A],
    max_concurrent: int | None = 8,
    timeout: float | None = DEFAULT_TIMEOUT,
    **options: Unpack[Options],
) -> GatherResult[T]: ...
@overload
async def parallel_map(
    func: Callable[[A], T],
    items: Many[A],
    max_concurrent: int | None = 8,
    timeout: float | None = DEFAULT_TIMEOUT,
    **options: Unpack[Options],
) -> GatherResult[T]: ...
@overload
async def parallel_map(
    func: SupportsAinvoke[Any, T],
    items: Many[Any],
    max_concurrent: int | None = 8,
    timeout: float | None = DEFAULT_TIMEOUT,
    **options: Unpack[Options],
) -> GatherResult[T]: ...
@entry_point
async def parallel_map(
    func: Any,
    items: Any,
    max_concurrent: int | None = 8,
    timeout: float | None = DEFAULT_TIMEOUT,
    **options: Unpack[Options],
) -> GatherResult[Any]:
    """Run *func* on each of *items*, at most *max_concurrent* at a time; a result for each.

    Args:
        func: a function of one item, sync (run in a thread) or async, or a Runnable; it is called
            when the item's slot is there.
        items: a list, an iterable or async iterable (drawn as slots come free), or a mapping,
            whose keys become the task_ids.
        max_concurrent: tasks at once; None: as many as ``throttler`` allows.
        timeout: seconds for the whole run; None: no deadline.
        **options: ``task_timeout``, ``fail_fast``, ``min_success``, ``throttler``, ``grace``: see
            ``ParallelExecutor``.

    Returns:
        One result for each item, in input order.

    Raises:
        SourceError: the iterable raised; what had been started has finished.
        TypeError, ValueError: a bad argument; nothing was started.

    Example:
        >>> import asyncio
        >>> asyncio.run(parallel_map(str.upper, {"a": "x", "b": "y"})).by_id["b"].result
        'Y'
    """
    with discarding(func, items, max_concurrent, timeout, options):
        call, source = call_of("func", func), source_of("items", items)
        settings = Settings.of(max_concurrent, timeout, options)
        check_reach(settings, source)
    return (await collect(source, settings, call=call))[0]


@entry_point
def create_parallel_agent_gather(
    max_concurrent: int | None = 8,
    timeout: float | None = DEFAULT_TIMEOUT,
    **options: Unpack[Options],
) -> Callable[..., Coroutine[Any, Any, GatherResult[Any]]]:
    """Make an async function that gathers works, with limits set once.

    Args:
        max_concurrent: tasks at once, over all calls of the function together.
        timeout: seconds for one call; None: no deadline.
        **options: ``task_timeout``, ``fail_fast``, ``min_success``, ``throttler``, ``grace``: see
            ``ParallelExecutor``.

    Returns:
        An async function of works, each an argument or all in one iterable or mapping, that gives
        their GatherResult.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is allowed.

    Example:
        >>> import asyncio
        >>> gather = create_parallel_agent_gather(max_concurrent=2)
        >>> asyncio.run(gather([lambda: "a", lambda: "b"])).get_results()
        ['a', 'b']
    """
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    executor = ParallelExecutor(max_concurrent, timeout, **given)

    async def gather(*coros: Any) -> GatherResult[Any]:
        """Run the works, and give a result for each."""
        works: Any = coros
        if len(coros) == 1 and not (callable(coros[0]) or isinstance(coros[0], Awaitable)):
            works = coros[0]
        return await executor.gather(works)

    gather.__qualname__ = "gather"
    return strict_call(gather)
