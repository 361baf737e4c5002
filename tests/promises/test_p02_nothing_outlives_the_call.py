"""P2: nothing outlives the call; what can't be ended is abandoned, reported, and keeps its slot."""

import asyncio
import contextlib
import gc
import logging
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest

from agentos_parallel import (
    DeadlineExceeded,
    FanOutExecutor,
    GatherResult,
    ParallelExecutor,
    SourceError,
    TaskStatus,
    TaskThrottler,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from tests import virtual_time
from tests.pieces import Stubborn, after, alive, failing_after, now, settle
from tests.virtual_time import run_virtually

HOUR = 3600.0


class Patient:
    """The func of a map that takes an hour, and knows how many are at it."""

    def __init__(self) -> None:
        self.started = self.ended = 0

    async def __call__(self, *_: object) -> None:
        self.started += 1
        try:
            await asyncio.sleep(HOUR)
        finally:
            await asyncio.sleep(0.5)
            self.ended += 1


def statuses(result: GatherResult[Any]) -> list[TaskStatus]:
    return [task.status for task in result.results]


@pytest.fixture
def blocked() -> Iterator[threading.Event]:
    """What threads wait for; a test sets it at its end, for nothing may be left behind."""
    release = threading.Event()
    yield release
    release.set()


# When the call returns or raises, no task of it is alive.

ENDS: dict[str, Callable[[Patient], Coroutine[Any, Any, Any]]] = {
    "deadline": lambda work: parallel_map(work, range(9), timeout=2),
    "fail_fast": lambda work: parallel_gather(
        work, failing_after(1, ValueError()), work, fail_fast=True
    ),
    "min_success": lambda work: parallel_gather(work, after(1, "a"), work, min_success=1),
    "out of reach": lambda work: parallel_gather(
        failing_after(1, ValueError()), work, min_success=2
    ),
    "first": lambda work: fan_out([work, after(1, "a"), work], aggregation="first"),
    "merge quorum": lambda work: fan_out(
        [work, after(1, "a"), work], aggregation="merge", merge_fn=list, min_success=1, timeout=5
    ),
    "task_timeout": lambda work: parallel_map(work, range(9), task_timeout=1),
}


@pytest.mark.filterwarnings("ignore::agentos_parallel.PartialResultWarning")
@pytest.mark.parametrize("end", ENDS.values(), ids=list(ENDS))
async def test_a_call_that_returns_early_has_ended_its_tasks(
    end: Callable[[Patient], Coroutine[Any, Any, Any]],
) -> None:
    work = Patient()
    await end(work)
    assert work.started == work.ended > 0
    assert not alive()


async def test_a_call_that_raises_at_its_deadline_has_ended_its_tasks() -> None:
    work = Patient()
    with pytest.raises(DeadlineExceeded):
        await parallel_gather(work, work, timeout=2, return_partial=False)
    assert work.started == work.ended == 2
    assert not alive()


async def test_a_call_whose_source_raised_has_ended_its_tasks() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError

    work = Patient()
    with pytest.raises(SourceError):
        await parallel_map(work, items(), timeout=9)
    assert work.started == work.ended == 1
    assert not alive()


async def test_an_outer_cancel_comes_out_after_the_drain() -> None:
    work = Patient()
    run = asyncio.create_task(parallel_map(work, range(5), max_concurrent=2))
    await asyncio.sleep(1)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert work.started == work.ended == 2
    assert not alive()


async def test_a_timeout_around_the_call_comes_out_after_the_drain() -> None:
    work, began = Patient(), now()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await parallel_map(work, range(5))
    assert now() - began == 3.5
    assert work.started == work.ended == 5
    assert not alive()


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exit_in_a_task_leaves_none_alive_under_run_until_complete(
    ending: type[BaseException],
) -> None:
    loop, work = virtual_time.new_loop(), Patient()
    with pytest.raises(ending):
        loop.run_until_complete(parallel_gather(work, failing_after(1, ending()), work))
    assert work.started == work.ended == 2
    assert not asyncio.all_tasks(loop)
    loop.close()


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_an_exit_in_a_task_leaves_none_alive_under_run(ending: type[BaseException]) -> None:
    work = Patient()

    async def main() -> None:
        with pytest.raises(ending):
            await parallel_gather(work, failing_after(1, ending()), work)
        assert work.started == work.ended == 2
        assert not alive()

    run_virtually(main())


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_an_exit_in_a_task_of_a_stream_leaves_none_alive(ending: type[BaseException]) -> None:
    loop, work = virtual_time.new_loop(), Patient()

    async def read() -> None:
        works: list[Any] = [work, partial(failing_after, 1, ending()), work]
        async for _ in ParallelExecutor().stream(works):
            pytest.fail("a result after the exit")

    with pytest.raises(ending):
        loop.run_until_complete(read())
    assert work.started == work.ended == 2
    assert not asyncio.all_tasks(loop)
    loop.close()


def test_an_exit_in_a_thread_leaves_none_alive() -> None:
    loop, work = virtual_time.new_loop(), Patient()

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(parallel_gather(work, interrupted))
    assert work.started == work.ended == 1
    assert not asyncio.all_tasks(loop)
    loop.close()


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_an_exit_in_a_source_leaves_none_alive(ending: type[BaseException]) -> None:
    loop, work = virtual_time.new_loop(), Patient()

    def items() -> Iterator[int]:
        yield from (1, 2)
        raise ending

    with pytest.raises(ending):
        loop.run_until_complete(parallel_map(work, items()))
    assert work.started == work.ended
    assert not asyncio.all_tasks(loop)
    loop.close()


def test_an_exit_in_a_nested_run_leaves_none_alive_on_any_level() -> None:
    loop, work = virtual_time.new_loop(), Patient()

    async def nest() -> None:
        await parallel_gather(work, failing_after(1, KeyboardInterrupt()))

    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(parallel_gather(nest, work))
    assert work.started == work.ended == 2
    assert not asyncio.all_tasks(loop)
    loop.close()


async def test_an_exit_behind_a_readers_back_comes_out_when_the_stream_is_closed() -> None:
    work = Patient()
    works: list[Any] = [work, partial(failing_after, 1, GeneratorExit())]
    with pytest.raises(GeneratorExit):
        async with ParallelExecutor().stream(works):
            await asyncio.sleep(5)
    assert work.started == work.ended == 1
    assert not alive()


async def test_an_exit_that_came_out_of_a_read_does_not_come_again() -> None:
    stream = ParallelExecutor().stream([partial(failing_after, 1, GeneratorExit())])
    with pytest.raises(GeneratorExit):
        await anext(stream)
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


def test_ctrl_c_comes_out_after_the_drain() -> None:
    work = Patient()

    async def press() -> None:
        await asyncio.sleep(1)
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        try:
            await parallel_gather(work, press, work)
        finally:
            assert work.started == work.ended == 2
            assert not alive()

    with pytest.raises(KeyboardInterrupt):
        run_virtually(main())
    assert work.ended == 2


async def test_break_inside_async_with_has_ended_the_tasks() -> None:
    work = Patient()
    works: list[Any] = [partial(after, 1, "a"), *[work] * 5]
    async with ParallelExecutor(max_concurrent=3).stream(works) as stream:
        async for task in stream:
            assert task.result == "a"
            break
    assert work.started == work.ended > 0
    assert not alive()


async def test_an_exception_inside_async_with_has_ended_the_tasks() -> None:
    work = Patient()
    with pytest.raises(ZeroDivisionError):
        async with parallel_stream(work, range(5)):
            await asyncio.sleep(1)
            raise ZeroDivisionError
    assert work.started == work.ended == 5
    assert not alive()


async def test_async_with_alone_has_ended_the_tasks() -> None:
    work = Patient()
    async with parallel_stream(work, range(5)):
        pass
    assert work.ended == work.started
    assert not alive()


async def test_aclose_has_ended_the_tasks_and_twice_does_nothing_more() -> None:
    work = Patient()
    stream = ParallelExecutor().stream([work, partial(after, 1, "a")])
    assert (await anext(stream)).result == "a"
    await stream.aclose()
    assert work.started == work.ended == 1
    assert not alive()

    began = now()
    await stream.aclose()
    assert now() == began
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_task_that_was_handed_over_ends_with_the_run() -> None:
    work = Patient()
    tasks = [asyncio.create_task(work()) for _ in range(3)]
    await parallel_gather(*tasks, max_concurrent=2, timeout=2)
    assert all(task.done() for task in tasks)
    assert work.started == work.ended == 3
    assert not alive()


async def test_a_task_that_is_handed_over_twice_has_two_results_and_ends_once() -> None:
    work = Patient()
    task = asyncio.create_task(work())
    result: GatherResult[Any] = await parallel_gather(task, task, timeout=2)
    assert statuses(result) == [TaskStatus.TIMEOUT] * 2
    assert work.started == work.ended == 1


async def test_a_handed_over_task_that_is_queued_at_an_early_stop_ends_with_the_run() -> None:
    work = Patient()
    task = asyncio.create_task(work())
    result: GatherResult[Any] = await parallel_gather(
        failing_after(1, ValueError()), task, max_concurrent=1, fail_fast=True
    )
    assert task.cancelled()
    assert work.ended == 1
    assert result.total_duration_ms == 1_500
    assert statuses(result) == [TaskStatus.FAILED, TaskStatus.CANCELLED]


async def test_the_source_is_at_its_end_when_the_call_returns() -> None:
    closed = []

    async def items() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(HOUR)
        finally:
            await asyncio.sleep(0.5)
            closed.append(now())

    began = now()
    await parallel_map(asyncio.sleep, items(), timeout=2)
    assert closed == [began + 2.5]
    assert not alive()


async def test_a_nested_run_has_ended_with_the_outer_one() -> None:
    work = Patient()

    async def outer(_: int) -> None:
        await parallel_map(work, range(3))

    await parallel_map(outer, range(2), timeout=2)
    assert work.started == work.ended == 6
    assert not alive()


# A task that ignores its cancel is abandoned after the grace.


async def test_a_task_that_ignores_the_deadline_is_abandoned_after_the_grace() -> None:
    stubborn = Stubborn()
    result: GatherResult[Any] = await parallel_gather(stubborn, after(1, "a"), timeout=2)
    assert result.total_duration_ms == 7_000
    left, fine = result.results
    assert (left.status, left.abandoned) == (TaskStatus.TIMEOUT, True)
    assert isinstance(left.error, DeadlineExceeded)
    assert (fine.result, fine.abandoned) == ("a", False)
    assert result.abandoned == 1
    await stubborn.let_go()


async def test_a_task_that_ignores_a_stop_is_cancelled_and_abandoned() -> None:
    stubborn = Stubborn()
    result: GatherResult[Any] = await parallel_gather(
        stubborn, failing_after(1, ValueError()), fail_fast=True, grace=3
    )
    left = result.results[0]
    assert (left.status, left.abandoned, left.error) == (TaskStatus.CANCELLED, True, None)
    assert result.total_duration_ms == 4_000
    assert left.duration_ms == 4_000
    await stubborn.let_go()


@pytest.mark.parametrize("grace", [0, 0.25, 30])
async def test_the_grace_is_the_callers(grace: float) -> None:
    stubborn = Stubborn()
    result: GatherResult[Any] = await parallel_gather(stubborn, timeout=2, grace=grace)
    assert result.total_duration_ms == 2_000 + grace * 1000
    assert result.results[0].abandoned
    await stubborn.let_go()


async def test_no_grace_abandons_nobody_who_lets_the_cancel_through() -> None:
    result = await parallel_gather(after(9, "a"), timeout=2, grace=0)
    assert not result.results[0].abandoned
    assert result.total_duration_ms == 2_000


async def test_an_executors_grace_is_that_of_its_runs() -> None:
    stubborn, executor = Stubborn(), ParallelExecutor(timeout=2, grace=1)
    assert (await executor.gather([stubborn])).total_duration_ms == 3_000
    await stubborn.let_go()
    stubborn = Stubborn()
    assert (await executor.gather([stubborn], grace=2)).total_duration_ms == 4_000
    await stubborn.let_go()


async def test_a_loser_that_will_not_go_is_abandoned() -> None:
    stubborn = Stubborn()
    race = await FanOutExecutor(aggregation="first").run([after(1, "a"), stubborn])
    assert (race.value, race.gather.abandoned) == ("a", 1)
    assert race.gather.total_duration_ms == 6_000
    await stubborn.let_go()


async def test_task_timeout_abandons_after_the_grace_and_the_run_goes_on() -> None:
    stubborn = Stubborn()
    result: GatherResult[Any] = await parallel_gather(
        stubborn, after(1, "a"), after(1, "b"), max_concurrent=2, task_timeout=3, grace=2
    )
    left = result.results[0]
    assert (left.status, left.abandoned, left.duration_ms) == (TaskStatus.TIMEOUT, True, 5_000)
    assert result.results[2].result == "b"
    assert result.total_duration_ms == 5_000
    await stubborn.let_go()


async def test_an_outer_cancel_gives_up_after_the_grace() -> None:
    stubborn, began = Stubborn(), now()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await parallel_gather(stubborn)
    assert now() - began == 6
    await stubborn.let_go()


async def test_aclose_gives_up_after_the_grace() -> None:
    stubborn = Stubborn()
    async with ParallelExecutor(grace=1).stream([stubborn]):
        await asyncio.sleep(1)
        began = now()
    assert now() - began == 1
    await stubborn.let_go()


async def test_an_abandoned_task_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    stubborn = Stubborn()
    await ParallelExecutor().gather({"mule": stubborn}, timeout=2)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("agentos_parallel", logging.WARNING)
    assert "'mule'" in record.getMessage()
    assert "abandoned" in record.getMessage()
    await stubborn.let_go()
    assert len(caplog.records) == 1


async def test_a_source_that_ignores_its_cancel_is_given_up_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stubborn = Stubborn()

    async def items() -> AsyncIterator[int]:
        yield 1
        await stubborn()

    result = await parallel_map(asyncio.sleep, items(), timeout=2, grace=1)
    assert result.total_duration_ms == 3_000
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    await stubborn.let_go()


async def test_an_endless_grace_waits_for_as_long_as_it_takes() -> None:
    stubborn = Stubborn()

    async def items() -> AsyncIterator[int]:
        yield 1
        await stubborn()

    asyncio.get_running_loop().call_later(HOUR, stubborn.release.set)
    result = await parallel_map(asyncio.sleep, items(), timeout=2, grace=math.inf)
    assert result.total_duration_ms == HOUR * 1000


async def test_a_handed_over_task_that_ignores_its_cancel_in_the_queue_is_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stubborn = Stubborn()
    task = asyncio.create_task(stubborn())
    await settle()
    result: GatherResult[Any] = await parallel_gather(
        failing_after(1, ValueError()), task, max_concurrent=1, fail_fast=True, grace=2
    )
    assert result.total_duration_ms == 3_000
    assert "abandoned" in caplog.text
    await stubborn.let_go()


# Nested graces.


@pytest.mark.parametrize("levels", [1, 2, 12])
async def test_each_nested_run_gives_up_ten_milliseconds_before_the_one_around(
    levels: int,
) -> None:
    stubborn = Stubborn()
    ended: list[float] = []

    async def nest(level: int) -> bool:
        try:
            if level:
                return (await parallel_map(nest, [level - 1])).get_results() == [True]
            inner = await parallel_gather(stubborn)
            return inner.results[0].abandoned
        finally:
            ended.append(now())

    began = now()
    result = await parallel_map(nest, [levels - 1], timeout=2)
    # The innermost gave up first; the others had nothing left to wait for.
    assert ended == [pytest.approx(began + 7 - 0.01 * levels)] * levels
    assert not result.results[0].abandoned
    await stubborn.let_go()


async def test_a_nested_run_with_a_short_grace_of_its_own_keeps_it() -> None:
    stubborn = Stubborn()

    async def nest() -> float:
        with contextlib.suppress(asyncio.CancelledError):
            await parallel_gather(stubborn, grace=1)
        return now()

    began = now()
    result = await parallel_gather(nest, timeout=2)
    assert result.get_results() == [began + 3]
    await stubborn.let_go()


async def test_a_nested_run_that_stops_by_itself_has_its_whole_grace() -> None:
    stubborn = Stubborn()

    async def nest() -> float:
        return (await parallel_gather(stubborn, timeout=2, grace=3)).total_duration_ms

    assert (await parallel_gather(nest)).get_results() == [5_000]
    await stubborn.let_go()


async def test_a_nested_run_that_drains_already_ends_before_the_outer_one_gives_up() -> None:
    stubborn = Stubborn()

    async def nest() -> float:
        with contextlib.suppress(asyncio.CancelledError):
            await parallel_gather(stubborn, timeout=4)
        return now()

    # The inner run stops at 4 s and would give up at 8.99 s; the outer one stops at 5 s.
    began = now()
    result = await parallel_gather(nest, timeout=5)
    assert result.results[0].result == pytest.approx(began + 8.99)
    assert not result.results[0].abandoned
    await stubborn.let_go()


async def test_a_nested_run_opened_in_the_grace_ends_before_the_outer_one_gives_up() -> None:
    stubborn = Stubborn()

    async def nest() -> float:
        try:
            await asyncio.sleep(HOUR)
        except asyncio.CancelledError:
            await asyncio.sleep(4)
            await parallel_gather(stubborn)
        return now()

    began = now()
    result = await parallel_gather(nest, timeout=2)
    assert result.results[0].result == pytest.approx(began + 6)
    await stubborn.let_go()


# Threads.


async def test_a_thread_is_abandoned_at_once_without_grace(
    blocked: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    result: GatherResult[Any] = await parallel_gather(blocked.wait, after(0, "a"), timeout=0.0625)
    assert result.total_duration_ms == 62.5
    left, fine = result.results
    assert (left.status, left.abandoned) == (TaskStatus.TIMEOUT, True)
    assert isinstance(left.error, DeadlineExceeded)
    assert fine.result == "a"
    [record] = caplog.records
    assert (record.name, record.levelno) == ("agentos_parallel", logging.WARNING)
    assert "thread" in record.getMessage()
    blocked.set()


async def test_a_thread_is_abandoned_at_its_task_timeout(blocked: threading.Event) -> None:
    result = await parallel_map(lambda _: blocked.wait(), [1], task_timeout=0.0625)
    assert result.total_duration_ms == 62.5
    assert (result.timed_out, result.abandoned) == (1, 1)
    blocked.set()


async def test_a_thread_is_abandoned_when_the_run_stops(blocked: threading.Event) -> None:
    result = await parallel_gather(blocked.wait, after(0.125, "a"), min_success=1)
    left = result.results[0]
    assert (left.status, left.abandoned) == (TaskStatus.CANCELLED, True)
    assert result.total_duration_ms == 125
    blocked.set()


async def test_a_losing_thread_is_abandoned(blocked: threading.Event) -> None:
    race = await FanOutExecutor(aggregation="first").run([blocked.wait, after(0.125, "a")])
    assert (race.value, race.gather.abandoned) == ("a", 1)
    assert race.gather.total_duration_ms == 125
    blocked.set()


async def test_an_outer_cancel_does_not_wait_for_a_thread(blocked: threading.Event) -> None:
    began = now()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.0625):
            await parallel_gather(blocked.wait)
    assert now() - began == 0.0625
    blocked.set()


async def test_a_stream_gives_an_abandoned_thread_as_a_result(blocked: threading.Event) -> None:
    tasks = [t async for t in parallel_stream(lambda _: blocked.wait(), [1], timeout=0.0625)]
    assert [(t.status, t.abandoned) for t in tasks] == [(TaskStatus.TIMEOUT, True)]
    blocked.set()


async def test_the_awaitable_of_a_sync_function_gets_its_grace_as_any_task() -> None:
    stubborn = Stubborn()
    result = await parallel_gather(lambda: stubborn(), timeout=2)
    assert result.total_duration_ms == 7_000
    await stubborn.let_go()


@pytest.mark.realtime
def test_an_abandoned_thread_does_not_hold_up_the_exit_of_the_interpreter() -> None:
    script = """
import asyncio, time
from agentos_parallel import parallel_map
result = asyncio.run(parallel_map(time.sleep, [600], timeout=0.0625))
print(result.timed_out, result.abandoned)
"""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["1", "1"]
    assert time.monotonic() - began < 30


# Slots of the abandoned.


async def test_an_abandoned_task_keeps_its_slot_until_it_really_ends() -> None:
    stubborn, throttler = Stubborn(), TaskThrottler(3)
    await parallel_gather(stubborn, timeout=2, throttler=throttler)
    assert throttler.active == 1
    await asyncio.sleep(HOUR)
    assert throttler.active == 1
    await stubborn.let_go()
    assert throttler.active == 0


async def test_who_needs_the_slot_of_an_abandoned_task_waits_until_it_ends() -> None:
    stubborn, executor = Stubborn(), ParallelExecutor(max_concurrent=1, timeout=2)
    await executor.gather([stubborn])
    waiting = asyncio.create_task(executor.gather([after(1, "a")], timeout=HOUR))
    await asyncio.sleep(60)
    await stubborn.let_go()
    result = await waiting
    assert result.get_results() == ["a"]
    assert result.results[0].queued_ms == 60_000


async def test_who_needs_the_slot_of_an_abandoned_task_waits_for_the_deadline() -> None:
    stubborn, executor = Stubborn(), ParallelExecutor(max_concurrent=1, timeout=2)
    await executor.gather([stubborn])
    result = await executor.gather([after(1, "a")], timeout=30)
    assert result.total_duration_ms == 30_000
    assert statuses(result) == [TaskStatus.TIMEOUT]
    assert result.results[0].started_at == 0.0
    await stubborn.let_go()


async def test_in_its_own_run_too_the_next_work_waits_for_the_abandoned_one() -> None:
    stubborn = Stubborn()
    asyncio.get_running_loop().call_later(20, stubborn.release.set)
    result: GatherResult[Any] = await parallel_gather(
        stubborn, after(1, "a"), max_concurrent=1, task_timeout=2, grace=1
    )
    left, second = result.results
    assert (left.status, left.abandoned, left.duration_ms) == (TaskStatus.TIMEOUT, True, 3_000)
    assert (second.result, second.queued_ms) == ("a", 20_000)


async def test_in_its_own_run_too_the_next_work_waits_for_the_deadline() -> None:
    stubborn = Stubborn()
    result: GatherResult[Any] = await parallel_gather(
        stubborn, after(1, "a"), max_concurrent=1, task_timeout=2, grace=1, timeout=10
    )
    assert statuses(result) == [TaskStatus.TIMEOUT, TaskStatus.TIMEOUT]
    assert result.results[1].started_at == 0.0
    assert result.total_duration_ms == 10_000
    await stubborn.let_go()


async def test_an_abandoned_thread_keeps_its_slot_until_it_ends(blocked: threading.Event) -> None:
    throttler = TaskThrottler(1)
    await parallel_gather(blocked.wait, timeout=0.0625, throttler=throttler)
    assert throttler.active == 1
    result = await parallel_gather(after(1, "a"), timeout=0.0625, throttler=throttler)
    assert result.results[0].started_at == 0.0

    blocked.set()
    result = await parallel_gather(after(1, "a"), throttler=throttler)
    assert result.get_results() == ["a"]
    assert throttler.active == 0


async def test_in_its_own_run_too_the_next_work_waits_for_an_abandoned_thread(
    blocked: threading.Event,
) -> None:
    timer = threading.Timer(0.5, blocked.set)
    timer.start()
    result: GatherResult[Any] = await parallel_gather(
        blocked.wait, lambda: blocked.is_set(), max_concurrent=1, task_timeout=0.01
    )
    assert [task.abandoned for task in result.results] == [True, False]
    assert result.results[1].result is True
    timer.join()


def test_a_thread_gives_its_slot_back_after_its_loop_is_closed(blocked: threading.Event) -> None:
    throttler = TaskThrottler(1)
    run_virtually(parallel_gather(blocked.wait, timeout=0.0625, throttler=throttler))
    assert throttler.active == 1
    blocked.set()
    until = time.monotonic() + 10
    while throttler.active and time.monotonic() < until:
        time.sleep(0.001)
    assert throttler.active == 0


async def test_a_late_end_gives_the_slot_back_only_once() -> None:
    stubborn, throttler = Stubborn(), TaskThrottler(2)
    run = asyncio.create_task(
        parallel_gather(
            stubborn,
            *(after(1, n) for n in range(30)),
            max_concurrent=2,
            task_timeout=2,
            grace=1,
            throttler=throttler,
        )
    )
    await asyncio.sleep(10)
    assert throttler.active == 2
    await stubborn.let_go()
    result: GatherResult[Any] = await run
    assert result.completed == 30
    assert (throttler.active, throttler.peak) == (0, 2)


# Runs nested in an abandoned thread.


async def test_a_run_nested_in_an_abandoned_thread_is_cancelled() -> None:
    ended = threading.Event()
    inner: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.sleep(HOUR)
        finally:
            inner.append("cancelled")

    def in_thread() -> None:
        try:
            asyncio.run(parallel_gather(hang, timeout=None))
        finally:
            ended.set()

    result: GatherResult[Any] = await parallel_gather(
        in_thread, failing_after(0.2, ValueError()), fail_fast=True
    )
    assert result.results[0].abandoned
    await asyncio.to_thread(ended.wait, 10)
    assert ended.is_set()
    assert inner == ["cancelled"]


async def test_a_run_opened_in_a_thread_that_is_abandoned_already_is_cancelled(
    blocked: threading.Event,
) -> None:
    came_out: list[BaseException] = []
    started: list[int] = []
    ended = threading.Event()

    def in_thread() -> None:
        blocked.wait()
        try:
            asyncio.run(parallel_map(started.append, [1, 2]))
        except BaseException as error:
            came_out.append(error)
        ended.set()

    await parallel_gather(in_thread, timeout=0.0625)
    blocked.set()
    await asyncio.to_thread(ended.wait, 10)
    assert [type(error) for error in came_out] == [asyncio.CancelledError]
    assert not started


async def test_an_abandoned_thread_may_have_closed_the_loop_of_its_run(
    blocked: threading.Event,
) -> None:
    def in_thread() -> None:
        loop = asyncio.new_event_loop()
        run = loop.create_task(parallel_map(asyncio.sleep, [HOUR]))
        loop.run_until_complete(asyncio.sleep(0))
        loop.set_exception_handler(lambda *_: None)  # the run is left pending
        loop.close()
        blocked.wait()
        del run

    result: GatherResult[Any] = await parallel_gather(
        in_thread, failing_after(0.25, ValueError()), fail_fast=True
    )
    assert result.results[0].abandoned
    blocked.set()


async def test_a_run_opened_in_an_abandoned_task_is_cancelled() -> None:
    stubborn = Stubborn()
    work = Patient()

    async def nest() -> None:
        await stubborn()
        await parallel_map(work, range(3))

    result = await parallel_gather(nest, timeout=2)
    assert result.results[0].abandoned
    await stubborn.let_go()
    await asyncio.sleep(1)
    assert work.started == work.ended
    assert not alive()


# Streams that are left.


async def test_after_a_bare_break_the_rest_is_cancelled_once_the_iterator_is_collected() -> None:
    work = Patient()
    async for _ in ParallelExecutor().stream([partial(after, 1, "a"), work, work]):
        break
    gc.collect()
    await settle()
    await asyncio.sleep(0.5)
    assert work.started == work.ended == 2
    assert not alive()


async def test_until_it_is_collected_nothing_starts_beyond_the_unread_results() -> None:
    started = finished = read = 0

    async def work(item: int) -> None:
        nonlocal started, finished
        assert finished - read < 3
        started += 1
        await asyncio.sleep(1 + item % 3 / 4)  # no two end at once
        finished += 1

    stream = parallel_stream(work, range(1000), max_concurrent=3)
    async for task in stream:
        assert task.status is TaskStatus.COMPLETED
        read += 1
        if read == 4:
            break
    await asyncio.sleep(10)
    before = started
    await asyncio.sleep(HOUR)
    assert started == before < 4 + 3 + 3
    assert not alive()

    del stream
    gc.collect()
    await settle()
    assert started == before


async def test_a_stream_that_was_left_goes_on_when_it_is_read_again() -> None:
    stream = parallel_stream(asyncio.sleep, [1] * 10, max_concurrent=2)
    async for _ in stream:
        break
    await asyncio.sleep(HOUR)
    assert len([task async for task in stream]) == 9


async def test_a_stream_that_is_collected_unread_never_runs() -> None:
    work = Patient()
    parallel_stream(work, range(3))
    gc.collect()
    await settle()
    assert work.started == 0


def test_a_stream_may_be_collected_after_its_loop_is_closed() -> None:
    async def leave() -> object:
        stream = parallel_stream(asyncio.sleep, [1, HOUR])
        await anext(stream)
        return stream

    stream = run_virtually(leave())
    del stream
    gc.collect()


async def test_cancelling_a_read_closes_the_stream() -> None:
    work = Patient()
    stream = parallel_stream(work, range(5), max_concurrent=2)
    reader = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(1)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert work.started == work.ended == 2
    assert not alive()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_timeout_around_a_read_closes_the_stream() -> None:
    work, began = Patient(), now()
    stream = parallel_stream(work, range(5), max_concurrent=2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await anext(stream)
    assert now() - began == 2.5
    assert work.started == work.ended == 2
    assert not alive()
    assert [task async for task in stream] == []
