"""The ways in: each entry point as a function of factories, for what all of them promise."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from agentos_parallel import (
    GatherResult,
    ParallelExecutor,
    TaskResult,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
)

Factory: TypeAlias = Callable[[], Awaitable[Any]]
Results: TypeAlias = list[TaskResult[Any]]
Way: TypeAlias = Callable[..., Awaitable[Results]]
"""Runs works (a sequence of factories) with settings, and gives all results in input order."""


async def call(work: Factory) -> Any:
    return await work()


async def one_by_one(works: Sequence[Factory]) -> AsyncIterator[Factory]:
    for work in works:
        yield work


async def gather(works: Sequence[Factory], **settings: Any) -> Results:
    result: GatherResult[Any] = await parallel_gather(*works, **settings)
    return result.results


async def gather_lazily(works: Sequence[Factory], **settings: Any) -> Results:
    source = (work for work in works)
    result: GatherResult[Any] = await ParallelExecutor(**settings).gather(source)
    return result.results


async def map_(works: Sequence[Factory], **settings: Any) -> Results:
    result: GatherResult[Any] = await parallel_map(call, works, **settings)
    return result.results


async def map_async_source(works: Sequence[Factory], **settings: Any) -> Results:
    result: GatherResult[Any] = await parallel_map(call, one_by_one(works), **settings)
    return result.results


async def stream(works: Sequence[Factory], **settings: Any) -> Results:
    results = [task async for task in parallel_stream(call, works, **settings)]
    return sorted(results, key=lambda task: int(task.task_id))


async def stream_in_order(works: Sequence[Factory], **settings: Any) -> Results:
    async with ParallelExecutor(**settings).stream(works, ordered=True) as results:
        return [task async for task in results]


async def fan(works: Sequence[Factory], **settings: Any) -> Results:
    result: GatherResult[Any] = await fan_out(works, **settings)
    return result.results


WAYS: tuple[Way, ...] = (
    gather,
    gather_lazily,
    map_,
    map_async_source,
    stream,
    stream_in_order,
    fan,
)


async def read(results: AsyncIterable[TaskResult[Any]], seen: Results) -> None:
    """Read to the end, and keep what came where reading raises."""
    async for task in results:
        seen.append(task)


@dataclass
class Gauge:
    """Counts who is inside, and how many there were at the most."""

    inside: int = 0
    peak: int = 0

    def __enter__(self) -> None:
        self.inside += 1
        self.peak = max(self.peak, self.inside)

    def __exit__(self, *exc_info: object) -> None:
        self.inside -= 1

    async def work(self, seconds: float = 1) -> None:
        with self:
            await asyncio.sleep(seconds)


def now() -> float:
    """Seconds of the running loop's clock."""
    return asyncio.get_running_loop().time()


async def hang() -> None:
    """Wait until cancelled."""
    await asyncio.get_running_loop().create_future()
