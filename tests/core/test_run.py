"""A run: how it ends, whatever ends it."""

import asyncio
import contextlib
import gc
import weakref
from functools import partial
from typing import Any

import pytest

from agentos_parallel import (
    DeadlineExceeded,
    GatherResult,
    ParallelExecutor,
    ResultStream,
    TaskResult,
    TaskStatus,
    TaskThrottler,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from agentos_parallel._core.run import Run, keep_alive
from agentos_parallel._core.run import _streaming as held
from agentos_parallel._core.sources import SizedInput
from agentos_parallel.settings import Settings
from tests.ways import Factory, Gauge, hang, now

COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED


TIMEOUT, CANCELLED = TaskStatus.TIMEOUT, TaskStatus.CANCELLED


async def after(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def ignore_cancels_until(seconds: float) -> None:
    until = now() + seconds
    while now() < until:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(until - now())


async def test_a_nested_run_gives_up_before_the_one_around() -> None:
    results: list[GatherResult[Any]] = []

    async def agent() -> None:
        results.append(await parallel_gather(partial(ignore_cancels_until, 50), timeout=None))

    began = now()
    outer = await parallel_gather(agent, timeout=2, grace=1)
    assert [task.abandoned for task in outer.results] == [False]
    assert now() - began == pytest.approx(2.99)
    await asyncio.sleep(60)


@pytest.mark.parametrize("depth", [1, 2, 5, 10])
async def test_each_level_gives_up_ten_milliseconds_earlier(
    depth: int, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[float] = []

    async def agent(level: int) -> None:
        if not level:
            await ignore_cancels_until(50)
        try:
            await parallel_gather(partial(agent, level - 1), timeout=None)
        finally:
            ended.append(now() - began)

    began = now()
    outer = await parallel_gather(partial(agent, depth), timeout=2, grace=1)
    assert outer.abandoned == 0
    assert ended == pytest.approx([3 - depth * 0.01] * depth)
    assert len(caplog.records) == 1
    await asyncio.sleep(60)


async def test_a_nested_run_that_stopped_earlier_still_gives_up_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its own deadline ended it, then the run around was ended, which gives up sooner."""
    ended: dict[str, float] = {}

    async def middle() -> None:
        try:
            await parallel_gather(partial(ignore_cancels_until, 50), timeout=1.9)
        finally:
            ended["middle"] = now() - began

    async def agent() -> None:
        try:
            await hang()
        finally:
            result = await parallel_gather(middle, timeout=2)
            ended["agent"] = now() - began
            assert result.abandoned == 0

    began = now()
    task = asyncio.ensure_future(parallel_gather(agent, grace=4))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == {"middle": pytest.approx(3.98), "agent": pytest.approx(3.98)}
    assert len(caplog.records) == 1
    await asyncio.sleep(60)


async def test_a_nested_run_opened_after_the_deadline_ends_at_once() -> None:
    async def agent() -> None:
        try:
            await hang()
        finally:
            await parallel_gather(hang, timeout=None)

    began = now()
    result = await parallel_gather(agent, timeout=2, grace=3)
    assert (result.results[0].status, result.abandoned) == (TIMEOUT, 0)
    assert now() - began == 2


async def test_a_nested_run_opened_in_a_cleanup_has_no_more_time_than_the_cleanup() -> None:
    async def agent() -> None:
        try:
            await hang()
        finally:
            await parallel_gather(partial(ignore_cancels_until, 50), timeout=2)

    began = now()
    task = asyncio.ensure_future(parallel_gather(agent, grace=3))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert now() - began == pytest.approx(3.99)
    await asyncio.sleep(60)


async def test_with_endless_grace_all_is_waited_for() -> None:
    began = now()
    result = await parallel_gather(
        partial(ignore_cancels_until, 5_000), timeout=2, grace=float("inf")
    )
    assert (result.completed, result.abandoned) == (1, 0)
    assert now() - began == 5_000


async def test_a_work_that_closes_its_own_stream_is_given_up() -> None:
    async def close(_: int) -> None:
        await streams[0].aclose()

    streams: list[ResultStream[Any]] = [parallel_stream(close, [0, 1], grace=2)]
    began = now()
    with pytest.raises(StopAsyncIteration):
        await anext(streams[0])
    assert now() - began <= 2
    await asyncio.sleep(10)


async def test_a_deadline_that_has_passed_already_starts_nothing() -> None:
    gauge = Gauge()

    async def agent() -> int:
        try:
            await hang()
        except asyncio.CancelledError:
            result = await parallel_gather(gauge.work, gauge.work)
            assert all(isinstance(task.error, DeadlineExceeded) for task in result.results)
            assert all("never started" in str(task.error) for task in result.results)
            return result.timed_out
        return 0

    result = await parallel_gather(agent, timeout=2)
    assert result.get_results() == [2]
    assert gauge.peak == 0


async def test_two_reasons_to_stop_in_one_moment_count_once() -> None:
    async def fail(seconds: float) -> None:
        await asyncio.sleep(seconds)
        raise ValueError("no")

    result = await parallel_gather(
        partial(fail, 2), partial(fail, 2), partial(after, 2), hang, fail_fast=True, timeout=2
    )
    assert result.total == 4
    assert result.completed + result.failed + result.timed_out + result.cancelled == 4
    assert result.total_duration_ms == 2_000


async def test_a_finished_run_holds_neither_works_nor_results() -> None:
    class Value:
        """Something with a weak reference."""

    async def work(value: Value) -> Value:
        return value

    values = [Value() for _ in range(10)]
    alive = weakref.WeakSet(values)
    result: GatherResult[Value] = await parallel_map(work, values)
    values.clear()
    del result
    gc.collect()
    assert len(alive) == 0


async def test_a_run_over_nothing_is_over_at_once() -> None:
    began = now()
    executor = ParallelExecutor()
    nothing: list[Factory] = []
    assert (await executor.gather(nothing)).all_succeeded
    assert (await executor.gather(iter(nothing))).all_succeeded
    assert (await executor.map(after, {})).all_succeeded
    assert (await parallel_gather()).all_succeeded
    assert now() == began


async def test_a_run_without_works_in_a_task_keeps_its_slot() -> None:
    throttler = TaskThrottler(1)

    async def agent() -> int:
        await parallel_gather()
        return throttler.active

    assert (await parallel_gather(agent, throttler=throttler)).get_results() == [1]


async def test_runs_side_by_side_know_nothing_of_each_other() -> None:
    async def fail(seconds: float) -> None:
        await asyncio.sleep(seconds)
        raise ValueError("no")

    good, bad = await asyncio.gather(
        parallel_gather(partial(after, 3), partial(after, 1)),
        parallel_gather(partial(fail, 1), hang, fail_fast=True),
    )
    assert good.all_succeeded
    assert (bad.failed, bad.cancelled) == (1, 1)


def test_one_executor_in_one_loop_after_the_other() -> None:
    executor = ParallelExecutor(max_concurrent=1)
    for _ in range(2):
        result = asyncio.run(executor.gather([partial(after, 0), partial(after, 0)]))
        assert result.all_succeeded
    assert isinstance(executor.throttler, TaskThrottler)
    assert executor.throttler.active == 0


def test_a_streaming_run_is_held_until_its_loop_is_closed() -> None:
    async def over_nothing() -> Run:
        results: dict[int, TaskResult[Any]] = {}
        run = Run(SizedInput([]), asyncio.sleep, Settings(), results.__setitem__, lazy_rest=True)
        run.open()
        keep_alive(run)
        return run

    first = asyncio.run(over_nothing())
    assert first in held
    second = asyncio.run(over_nothing())
    assert first not in held
    held.discard(second)
