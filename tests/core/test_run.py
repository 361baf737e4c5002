import asyncio
import contextlib
import gc
import logging
import sys
import weakref
from functools import partial
from typing import Any

import pytest

from agentos_parallel import (
    DeadlineExceeded,
    GatherResult,
    ParallelExecutor,
    ResultStream,
    TaskStatus,
    TaskThrottler,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from tests.ways import WAYS, Factory, Gauge, Way, hang, now

COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED
TIMEOUT, CANCELLED = TaskStatus.TIMEOUT, TaskStatus.CANCELLED


async def after(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def fail_now() -> None:
    raise ValueError("at once")


async def ignore_cancels_until(seconds: float) -> None:
    until = now() + seconds
    while now() < until:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(until - now())


# Who gives up first.


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


async def test_with_no_grace_nothing_is_waited_for() -> None:
    began = now()
    result = await parallel_gather(partial(ignore_cancels_until, 50), hang, timeout=2, grace=0)
    assert [task.abandoned for task in result.results] == [True, False]
    assert [task.status for task in result.results] == [TIMEOUT, TIMEOUT]
    assert now() - began == 2
    await asyncio.sleep(60)


async def test_with_endless_grace_all_is_waited_for() -> None:
    began = now()
    result = await parallel_gather(
        partial(ignore_cancels_until, 5_000), timeout=2, grace=float("inf")
    )
    assert (result.completed, result.abandoned) == (1, 0)
    assert now() - began == 5_000


async def test_what_an_abandoned_task_does_later_changes_no_result(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def late() -> str:
        await ignore_cancels_until(20)
        return "late"

    throttler = TaskThrottler(2)
    with caplog.at_level(logging.WARNING, "agentos_parallel"):
        result = await parallel_gather(late, hang, timeout=2, grace=1, throttler=throttler)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "'0'" in caplog.text
    assert throttler.active == 1
    before = result.to_dict()
    await asyncio.sleep(30)
    assert result.to_dict() == before
    assert result.results[0].result is None
    assert throttler.active == 0


async def test_a_stop_while_one_is_abandoned_gives_its_slot_to_nobody() -> None:
    throttler, gauge = TaskThrottler(1), Gauge()
    result = await parallel_gather(
        partial(ignore_cancels_until, 20),
        partial(gauge.work, 1),
        task_timeout=2,
        grace=1,
        timeout=30,
        throttler=throttler,
    )
    assert [task.status for task in result.results] == [TIMEOUT, COMPLETED]
    assert [task.abandoned for task in result.results] == [True, False]
    assert result.results[1].queued_ms == 20_000
    assert throttler.peak == 1


# Stops at odd moments.


@pytest.mark.parametrize("run", WAYS)
async def test_a_failure_in_the_first_step_stops_the_rest(run: Way) -> None:
    gauge = Gauge()
    works = [fail_now, partial(gauge.work, 50), partial(gauge.work, 50)]
    began = now()
    tasks = await run(works, fail_fast=True)
    assert [task.status for task in tasks] == [FAILED, CANCELLED, CANCELLED][: len(tasks)]
    assert now() == began
    assert gauge.inside == 0


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks start eagerly from 3.12 on")
@pytest.mark.parametrize("run", WAYS)
async def test_tasks_started_eagerly_keep_the_promises(run: Way) -> None:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - not there before
    gauge, began = Gauge(), now()
    works: list[Factory] = [partial(gauge.work, 1), fail_now, partial(gauge.work, 2), hang]
    tasks = await run(works, max_concurrent=2, task_timeout=3, throttler=TaskThrottler(2))
    assert [task.status for task in tasks] == [COMPLETED, FAILED, COMPLETED, TIMEOUT]
    assert gauge.peak <= 2
    assert now() - began == 4
    tasks = await run([fail_now, hang], fail_fast=True)
    assert tasks[0].status is FAILED
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await run([hang, hang])
    loop.set_task_factory(None)


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


async def test_a_task_timeout_in_the_moment_of_the_deadline() -> None:
    result = await parallel_gather(hang, timeout=2, task_timeout=2)
    assert result.timed_out == 1
    assert result.total_duration_ms == 2_000


async def test_a_task_that_ends_in_the_moment_of_its_timeout_counts_as_what_it_did() -> None:
    loop, future = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    async def work() -> str:
        loop.call_later(2, future.set_result, "in time")
        value: str = await future
        return value

    result = await parallel_gather(work, task_timeout=2)
    assert result.results[0].status in (COMPLETED, TIMEOUT)
    assert result.results[0].duration_ms == 2_000


# Futures that had no turn.


async def test_a_task_handed_over_that_had_no_turn_is_cancelled_and_drained() -> None:
    ended = []

    async def slow_cleanup() -> None:
        try:
            await hang()
        finally:
            await asyncio.sleep(2)
            ended.append(now() - began)

    began = now()
    handed = asyncio.ensure_future(slow_cleanup())
    await parallel_gather(hang, handed, max_concurrent=1, timeout=3)
    assert ended == [5]
    assert now() - began == 5


async def test_one_that_ignores_its_cancel_is_given_up_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    began = now()
    handed = asyncio.ensure_future(ignore_cancels_until(50))
    result = await parallel_gather(hang, handed, max_concurrent=1, timeout=3, grace=2)
    assert [task.status for task in result.results] == [TIMEOUT, TIMEOUT]
    assert now() - began == 5
    assert "abandoned" in caplog.text
    await handed


async def test_one_that_fails_in_its_cleanup_is_nobodys_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails() -> None:
        try:
            await hang()
        finally:
            raise LookupError("in the cleanup")

    handed = [asyncio.ensure_future(fails())]
    await asyncio.sleep(0)
    result = await parallel_gather(hang, handed.pop(), max_concurrent=1, timeout=3)
    assert result.timed_out == 2
    gc.collect()
    await asyncio.sleep(0)
    assert caplog.records == []


async def test_a_future_that_had_no_turn_is_cancelled() -> None:
    future = asyncio.get_running_loop().create_future()
    result = await parallel_gather(hang, future, max_concurrent=1, timeout=3)
    assert result.results[1].started_at == 0
    assert future.cancelled()


# What stays behind.


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


async def test_a_thousand_works_that_never_wait_do_not_nest_their_stacks() -> None:
    async def nothing(_: int) -> None:
        return None

    throttler = TaskThrottler(1)
    result = await parallel_map(nothing, range(5_000), max_concurrent=1)
    assert result.completed == 5_000
    result = await parallel_map(nothing, range(5_000), throttler=throttler)
    assert result.completed == 5_000
    assert throttler.active == 0


async def test_the_loops_own_task_factory_makes_our_tasks() -> None:
    made = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **options)

    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(factory)
    result = await parallel_gather(partial(after, 1), fail_now)
    loop.set_task_factory(before)
    assert (result.completed, result.failed) == (1, 1)
    assert len(made) == 2


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
