"""The way that all entry points go: in order, complete, and refused before anything starts."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from agentos_parallel import (
    FanOutExecutor,
    GatherResult,
    ParallelExecutor,
    SourceError,
    TaskStatus,
    TaskThrottler,
    parallel_gather,
    parallel_map,
)
from tests.ways import Factory, hang

COMPLETED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.CANCELLED


async def after(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def test_results_stand_in_input_order_whatever_the_order_of_their_ends() -> None:
    result = await parallel_map(after, [5, 1, 4, 2, 3])
    assert result.get_results() == [5, 1, 4, 2, 3]
    assert sorted(result.results, key=lambda task: task.finished_at) == [
        result.results[n] for n in (1, 3, 4, 2, 0)
    ]


async def test_works_come_from_whatever_can_be_iterated() -> None:
    async def source() -> AsyncIterator[Factory]:
        yield partial(after, 1)
        yield partial(after, 2)

    executor = ParallelExecutor()
    works: Any
    for works in (
        [after(1), after(2)],
        (after(1), after(2)),
        {"a": after(1), "b": after(2)},
        {"a": after(1), "b": after(2)}.values(),
        iter([after(1), after(2)]),
        source(),
    ):
        result: GatherResult[float] = await executor.gather(works)
        assert result.get_results() == [1, 2]


async def test_a_set_of_works_is_a_sized_input() -> None:
    result = await ParallelExecutor().gather({partial(after, 1), partial(after, 2)})
    assert result.total == 2
    assert sorted(result.get_results()) == [1, 2]


@pytest.mark.parametrize("k", [1, 2, 3])
async def test_a_quorum_as_large_as_the_input_is_allowed(k: int) -> None:
    result = await parallel_gather(after(1), after(2), after(3), min_success=k)
    assert result.completed == k
    assert result.total_duration_ms == k * 1_000


async def test_a_quorum_over_a_mapping_or_a_source() -> None:
    with pytest.raises(ValueError, match="min_success"):
        await ParallelExecutor().gather({"a": after(1)}, min_success=2)
    result = await parallel_map(after, iter([1, 2]), min_success=3)
    assert result.completed + result.cancelled == 2


async def test_only_the_winner_is_told_where_several_succeeded() -> None:
    race = FanOutExecutor(aggregation="first")
    outcome = await race.run({"b": partial(after, 1), "a": partial(after, 1)})
    assert outcome.winner == "b"
    assert outcome.gather.completed == 2


async def test_a_run_inside_a_throttled_task_lends_around_the_whole_of_it() -> None:
    throttler, seen = TaskThrottler(1), []

    async def inner() -> None:
        seen.append(throttler.active)
        await asyncio.sleep(1)

    async def agent() -> None:
        await parallel_gather(inner, inner, max_concurrent=1)
        seen.append(throttler.active)

    await parallel_gather(agent, throttler=throttler)
    assert seen == [0, 0, 1]


async def test_a_source_error_goes_before_the_deadline() -> None:
    async def source() -> AsyncIterator[Factory]:
        yield hang
        raise OSError("disk")

    executor = ParallelExecutor(timeout=3)
    with pytest.raises(SourceError) as caught:
        await executor.gather(source(), return_partial=False)
    assert caught.value.result is not None
    assert caught.value.result.timed_out == 1


async def test_a_refused_run_in_a_task_gives_its_slot_back() -> None:
    throttler = TaskThrottler(1)

    def which(_: int) -> TaskThrottler:
        raise LookupError("whose is it")

    async def agent() -> int:
        with pytest.raises(LookupError):
            await parallel_map(after, [1], throttler=which)
        return throttler.active

    result = await parallel_gather(agent, agent, throttler=throttler)
    assert result.get_results() == [1, 1]
    assert throttler.active == 0


async def test_a_refused_run_closes_its_coroutines() -> None:
    def which(_: str) -> TaskThrottler:
        raise LookupError("whose is it")

    with pytest.raises(LookupError):
        await parallel_gather(after(1), after(2), throttler=which)
    with pytest.raises(LookupError):
        await ParallelExecutor(throttler=which).gather({"a": after(1)})
