"""P4: clocks start with the slot: waiting for one counts as queued, and never times a task out."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest

from agentos_parallel import (
    DeadlineExceeded,
    FanOutExecutor,
    GatherResult,
    ParallelExecutor,
    TaskResult,
    TaskStatus,
    TaskThrottler,
    TaskTimeout,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from tests.pieces import after, agen, failing_after, now

COMPLETED, TIMEOUT = TaskStatus.COMPLETED, TaskStatus.TIMEOUT


def clocks(task: TaskResult[Any], began: float) -> tuple[float, float, float, float]:
    """Queued (ms), started and finished (seconds after *began*), duration (ms)."""
    return task.queued_ms, task.started_at - began, task.finished_at - began, task.duration_ms


class Flaky:
    """Takes a second; fails so many times, and then answers."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.starts: list[float] = []

    async def __call__(self) -> str:
        self.starts.append(now())
        await asyncio.sleep(1)
        if len(self.starts) <= self.failures:
            raise ConnectionError
        return "answer"


# Never started.


async def test_a_task_that_never_got_a_slot_says_so() -> None:
    began = now()
    result = await parallel_gather(after(60, 1), after(1, 2), max_concurrent=1, timeout=20)
    ran, queued = result.results
    assert "timed out" in str(ran.error)
    assert "never started" in str(queued.error)
    assert "timed out" not in str(queued.error)
    assert queued.started_at == 0.0
    assert clocks(queued, 0.0) == (20_000, 0.0, began + 20, 0.0)
    assert isinstance(queued.error, DeadlineExceeded)


@pytest.mark.parametrize("form", [iter, agen])
async def test_a_drawn_task_that_never_got_a_slot_says_so(form: Callable[[Any], Any]) -> None:
    throttler = TaskThrottler(1)
    async with throttler:
        result = await parallel_map(
            asyncio.sleep, form([1, 1]), max_concurrent=2, throttler=throttler, timeout=20
        )
    for task in result.results:
        assert (task.started_at, task.queued_ms, task.duration_ms) == (0.0, 20_000, 0.0)
        assert "never started" in str(task.error)


async def test_in_a_stream_a_task_that_never_got_a_slot_says_so() -> None:
    stream = parallel_stream(asyncio.sleep, [60, 1], max_concurrent=1, timeout=20)
    tasks = [task async for task in stream]
    assert tasks[1].started_at == 0.0
    assert "never started" in str(tasks[1].error)
    assert tasks[1].queued_ms == 20_000


async def test_what_an_early_stop_left_in_the_queue_never_started() -> None:
    result = await parallel_gather(
        failing_after(3, ValueError()), after(1, 1), max_concurrent=1, fail_fast=True
    )
    left = result.results[1]
    assert (left.status.value, left.started_at, left.duration_ms) == ("cancelled", 0.0, 0.0)
    assert left.queued_ms == 3_000


async def test_a_task_that_started_has_its_start_and_its_end() -> None:
    began = now()
    await asyncio.sleep(1)
    result = await parallel_gather(after(2, 1))
    assert clocks(result.results[0], began) == (0, 1, 3, 2_000)


# Queued, and the duration.


async def test_queued_is_the_wait_from_the_start_of_the_run() -> None:
    began = now()
    result = await parallel_map(asyncio.sleep, [2, 3, 1], max_concurrent=1)
    assert [clocks(task, began) for task in result.results] == [
        (0, 0, 2, 2_000),
        (2_000, 2, 5, 3_000),
        (5_000, 5, 6, 1_000),
    ]


async def test_queued_is_the_wait_for_a_shared_throttler_too() -> None:
    executor = ParallelExecutor(max_concurrent=1)
    async with asyncio.TaskGroup() as group:
        group.create_task(executor.map(asyncio.sleep, [4]))
        await asyncio.sleep(1)
        later = group.create_task(executor.map(asyncio.sleep, [2]))
    [task] = later.result().results
    assert (task.queued_ms, task.duration_ms) == (3_000, 2_000)
    assert later.result().total_duration_ms == 5_000


async def test_queued_is_the_wait_for_all_of_its_slots() -> None:
    narrow, wide = TaskThrottler(1), TaskThrottler(2)
    await wide.acquire()
    await wide.acquire()
    await narrow.acquire()
    loop = asyncio.get_running_loop()
    loop.call_later(2, narrow.release)
    loop.call_later(5, wide.release)
    result = await parallel_gather(after(3, 1), throttler=lambda _: [wide, narrow], task_timeout=4)
    [task] = result.results
    assert (task.status, task.queued_ms, task.duration_ms) == (COMPLETED, 5_000, 3_000)
    wide.release()


@pytest.mark.parametrize("form", [iter, agen])
async def test_of_an_unsized_source_queued_counts_from_the_drawing(
    form: Callable[[Any], Any],
) -> None:
    result = await parallel_map(
        asyncio.sleep, form([1, 1, 1, 1]), max_concurrent=2, throttler=TaskThrottler(1)
    )
    # Two are in hand at a time: the third is drawn when the first has ended.
    assert [task.queued_ms for task in result.results] == [0, 1_000, 1_000, 1_000]


async def test_a_slow_source_is_no_wait_of_its_works() -> None:
    async def slow() -> Any:
        for _ in range(3):
            await asyncio.sleep(10)
            yield 1

    result = await parallel_map(asyncio.sleep, slow())
    assert [task.queued_ms for task in result.results] == [0, 0, 0]


async def test_a_slow_consumer_counts_as_queued() -> None:
    stream = parallel_stream(asyncio.sleep, [1, 1], max_concurrent=1, ordered=True)
    first = await anext(stream)
    await stream.__aenter__()
    second = await anext(stream)
    assert (first.queued_ms, second.queued_ms) == (0, 1_000)
    await stream.aclose()


async def test_the_duration_is_the_sum_of_the_attempts() -> None:
    flaky, began = Flaky(2), now()
    outcome = await FanOutExecutor(retry_failed=True).run([flaky])
    [task] = outcome.gather.results
    assert (task.result, task.retries, task.duration_ms) == ("answer", 2, 3_000)
    assert (task.started_at, task.finished_at) == (began, began + 3)


async def test_the_wait_for_a_slot_between_attempts_is_no_part_of_the_duration() -> None:
    flaky = Flaky(1)
    works: list[Callable[[], Awaitable[Any]]] = [flaky, partial(after, 10, "b")]
    outcome = await FanOutExecutor(retry_failed=True, throttler=TaskThrottler(1)).run(works)
    again, other = outcome.gather.results
    assert (again.retries, again.duration_ms, again.queued_ms) == (1, 2_000, 0)
    assert again.finished_at - again.started_at == 12
    assert (other.queued_ms, other.duration_ms) == (1_000, 10_000)


async def test_a_failed_task_and_one_that_timed_out_have_their_durations_too() -> None:
    result = await parallel_gather(
        failing_after(1, ValueError()), after(9, 1), after(9, 2), task_timeout=3
    )
    assert [task.duration_ms for task in result.results] == [1_000, 3_000, 3_000]


async def test_the_drain_belongs_to_the_duration() -> None:
    async def lingers() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(2)

    result = await parallel_gather(lingers, timeout=3)
    assert result.results[0].duration_ms == 5_000


async def test_a_nested_run_belongs_to_the_attempt() -> None:
    async def nest(_: int) -> None:
        await parallel_map(asyncio.sleep, [2, 3])

    result = await parallel_map(nest, [1, 2], throttler=TaskThrottler(1))
    assert [task.duration_ms for task in result.results] == [3_000, 3_000]
    # The slot was lent meanwhile.
    assert [task.queued_ms for task in result.results] == [0, 0]


def lender_and_borrower() -> list[Any]:
    """The first awaits a run of 1 s; the second works for 5 s on the slot that it lent."""

    async def nest() -> str:
        await parallel_map(asyncio.sleep, [1])
        return "nested"

    return [nest, partial(after, 5, "borrower")]


async def test_the_taking_back_belongs_to_the_attempt() -> None:
    result: GatherResult[Any] = await parallel_gather(
        *lender_and_borrower(), throttler=TaskThrottler(1)
    )
    lender, borrower = result.results
    assert (borrower.queued_ms, borrower.duration_ms) == (0, 5_000)
    assert (lender.result, lender.duration_ms) == ("nested", 5_000)


async def test_task_timeout_counts_the_taking_back() -> None:
    result: GatherResult[Any] = await parallel_gather(
        *lender_and_borrower(), throttler=TaskThrottler(1), task_timeout={"0": 3.0, "1": 9.0}.get
    )
    lender, borrower = result.results
    assert (lender.status, lender.duration_ms) == (TIMEOUT, 3_000)
    assert isinstance(lender.error, TaskTimeout)
    assert borrower.status is COMPLETED


# task_timeout.


async def test_waiting_in_the_queue_never_times_a_task_out() -> None:
    result = await parallel_map(asyncio.sleep, [5, 5, 5], max_concurrent=1, task_timeout=6)
    assert [task.status for task in result.results] == [COMPLETED] * 3
    assert result.results[2].queued_ms == 10_000


async def test_waiting_for_a_shared_throttler_never_times_a_task_out() -> None:
    throttler = TaskThrottler(1)
    await throttler.acquire()
    asyncio.get_running_loop().call_later(100, throttler.release)
    result = await parallel_gather(after(2, 1), throttler=throttler, task_timeout=3, timeout=None)
    assert result.results[0].status is COMPLETED
    assert result.results[0].queued_ms == 100_000


async def test_the_deadline_ends_the_wait_for_a_slot() -> None:
    throttler = TaskThrottler(1)
    async with throttler:
        result = await parallel_gather(after(2, 1), throttler=throttler, task_timeout=3, timeout=7)
    assert isinstance(result.results[0].error, DeadlineExceeded)
    assert result.total_duration_ms == 7_000


async def test_task_timeout_counts_from_the_slot() -> None:
    began = now()
    result = await parallel_gather(after(5, 1), after(9, 2), max_concurrent=1, task_timeout=6)
    late = result.results[1]
    assert clocks(late, began) == (5_000, 5, 11, 6_000)
    assert isinstance(late.error, TaskTimeout)


async def test_task_timeout_counts_anew_for_each_attempt() -> None:
    flaky = Flaky(4)
    outcome = await FanOutExecutor(retry_failed=True, max_retries=4, task_timeout=2).run([flaky])
    [task] = outcome.gather.results
    assert (task.status, task.retries, task.duration_ms) == (COMPLETED, 4, 5_000)


async def test_waiting_for_a_slot_between_attempts_never_times_a_task_out() -> None:
    works: list[Callable[[], Awaitable[Any]]] = [Flaky(1), Flaky(0), Flaky(0), Flaky(0)]
    fan = FanOutExecutor(retry_failed=True, throttler=TaskThrottler(1), task_timeout=2)
    outcome = await fan.run(works)
    assert outcome.gather.all_succeeded
    assert outcome.gather.total_duration_ms == 5_000
    assert outcome.gather.results[0].retries == 1


async def test_each_attempt_that_is_too_long_ends_at_its_own_timeout() -> None:
    async def hangs() -> None:
        await asyncio.sleep(60)

    fan = FanOutExecutor(retry_failed=True, max_retries=2, task_timeout=2)
    outcome = await fan.run([hangs])
    [task] = outcome.gather.results
    assert (task.status, task.retries, task.duration_ms) == (TIMEOUT, 2, 6_000)
    assert isinstance(task.error, TaskTimeout)
    assert outcome.gather.total_duration_ms == 6_000


async def test_many_task_timeouts_each_at_their_own_time() -> None:
    began = now()
    result = await parallel_map(
        lambda _: asyncio.sleep(999), range(200), max_concurrent=200,
        task_timeout=lambda item: 1 + (item * 7) % 11,
    )  # fmt: skip
    for item, task in enumerate(result.results):
        assert task.finished_at - began == 1 + (item * 7) % 11


async def test_task_timeout_of_the_item_counts_from_the_slot() -> None:
    timeouts = {5: 6, 9: 7, 1: None}
    result = await parallel_map(
        asyncio.sleep, [5, 9, 1], max_concurrent=1, task_timeout=timeouts.get
    )
    assert [task.status for task in result.results] == [COMPLETED, TIMEOUT, COMPLETED]
    assert [task.queued_ms for task in result.results] == [0, 5_000, 12_000]


async def test_task_timeout_of_the_item_counts_anew_for_each_attempt() -> None:
    fan = FanOutExecutor(retry_failed=True, max_retries=4, task_timeout=lambda _: 2)
    outcome = await fan.run({"flaky": Flaky(4)})
    [task] = outcome.gather.results
    assert (task.status, task.retries, task.duration_ms) == (COMPLETED, 4, 5_000)


async def test_task_timeout_in_a_stream_counts_from_the_slot() -> None:
    def items() -> Iterator[int]:
        yield from (5, 9, 5)

    stream = parallel_stream(asyncio.sleep, items(), max_concurrent=1, task_timeout=6)
    tasks = [task async for task in stream]
    assert [task.status for task in tasks] == [COMPLETED, TIMEOUT, COMPLETED]
    assert [task.duration_ms for task in tasks] == [5_000, 6_000, 5_000]
