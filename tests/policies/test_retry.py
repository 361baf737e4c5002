"""Retry: what is repeated, how often, with which clocks and slots."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from agentos_parallel import (
    DeadlineExceeded,
    FanOutExecutor,
    GatherResult,
    TaskResult,
    TaskStatus,
    TaskThrottler,
    TaskTimeout,
    fan_out,
)
from tests.ways import Factory, Gauge, hang, now

COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED
TIMEOUT, CANCELLED = TaskStatus.TIMEOUT, TaskStatus.CANCELLED


class Flaky:
    """Works that go by a script: a number sleeps so long, an exception is raised; then succeed."""

    def __init__(self, *script: float | Exception) -> None:
        self.script = list(script)
        self.starts: list[float] = []

    async def __call__(self) -> str:
        self.starts.append(now())
        step = self.script.pop(0) if self.script else 0
        if isinstance(step, Exception):
            raise step
        await asyncio.sleep(step)
        return "done"


async def retried(work: Factory, **settings: Any) -> TaskResult[Any]:
    result: GatherResult[Any] = await fan_out([work], retry_failed=True, **settings)
    return result.results[0]


async def test_a_success_is_not_repeated() -> None:
    work = Flaky()
    task = await retried(work)
    assert (task.result, task.retries, len(work.starts)) == ("done", 0, 1)


async def test_it_repeats_after_a_failure() -> None:
    work = Flaky(ValueError("1"), LookupError("2"))
    task = await retried(work)
    assert (task.status, task.result, task.retries) == (COMPLETED, "done", 2)
    assert task.error is None
    assert len(work.starts) == 3


async def test_by_default_it_repeats_twice_and_keeps_the_last_error() -> None:
    errors = [ValueError(str(n)) for n in range(9)]
    work = Flaky(*errors)
    task = await retried(work)
    assert (task.status, task.retries, len(work.starts)) == (FAILED, 2, 3)
    assert task.error is errors[2]


@pytest.mark.parametrize("max_retries", [0, 1, 5])
async def test_max_retries_bounds_the_repeats(max_retries: int) -> None:
    work = Flaky(*[ValueError()] * 9)
    task = await retried(work, max_retries=max_retries)
    assert (task.retries, len(work.starts)) == (max_retries, max_retries + 1)


async def test_without_retry_failed_nothing_is_repeated() -> None:
    work = Flaky(ValueError())
    result = await fan_out([work], max_retries=5)
    assert (result.failed, len(work.starts)) == (1, 1)


async def test_a_task_timeout_counts_for_each_attempt() -> None:
    work, began = Flaky(9, 9, 1), now()
    task = await retried(work, task_timeout=2)
    assert (task.status, task.retries) == (COMPLETED, 2)
    assert [at - began for at in work.starts] == [0, 2, 4]
    assert task.duration_ms == 5_000
    assert (task.started_at, task.finished_at) == (began, began + 5)


async def test_attempts_that_all_time_out_are_a_timeout() -> None:
    began = now()
    task = await retried(hang, task_timeout=2, max_retries=2)
    assert (task.status, task.retries, task.duration_ms) == (TIMEOUT, 2, 6_000)
    assert isinstance(task.error, TaskTimeout)
    assert now() - began == 6


async def test_own_timeouts_are_repeated_too() -> None:
    task = await retried(Flaky(TimeoutError("slow")))
    assert (task.status, task.retries) == (COMPLETED, 1)
    task = await retried(Flaky(*[TimeoutError("slow")] * 3))
    assert (task.status, task.retries) == (TIMEOUT, 2)


async def test_the_task_timeout_may_depend_on_the_task_id() -> None:
    works = {"a": Flaky(3, 3, 3), "b": Flaky(3)}
    result = await fan_out(
        works, retry_failed=True, task_timeout={"a": 1, "b": 4}.get, max_retries=1
    )
    assert [task.status for task in result.results] == [TIMEOUT, COMPLETED]
    assert [task.duration_ms for task in result.results] == [2_000, 3_000]
    assert [task.retries for task in result.results] == [1, 0]


async def test_a_cleanup_belongs_to_the_attempt() -> None:
    starts = []

    async def work() -> None:
        starts.append(now() - began)
        try:
            await hang()
        finally:
            await asyncio.sleep(1)

    began = now()
    task = await retried(work, task_timeout=2, max_retries=1)
    assert starts == [0, 3]
    assert (task.status, task.duration_ms) == (TIMEOUT, 6_000)


async def test_a_late_success_of_an_attempt_counts() -> None:
    async def work() -> str:
        try:
            await hang()
        except asyncio.CancelledError:
            await asyncio.sleep(1)
        return "late"

    task = await retried(work, task_timeout=2)
    assert (task.status, task.result, task.retries) == (COMPLETED, "late", 0)
    assert task.duration_ms == 3_000


async def test_a_late_failure_of_an_attempt_is_repeated() -> None:
    starts = []

    async def work() -> str:
        starts.append(now())
        if len(starts) > 1:
            return "second"
        try:
            await hang()
        except asyncio.CancelledError:
            raise ValueError("broken off") from None
        return "never"

    task = await retried(work, task_timeout=2)
    assert (task.status, task.result, task.retries) == (COMPLETED, "second", 1)


async def test_an_attempt_that_ignores_its_cancel_is_abandoned() -> None:
    starts = []

    async def work() -> None:
        starts.append(now())
        for _ in range(10):
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                continue

    began = now()
    task = await retried(work, task_timeout=2, grace=3)
    assert (task.status, task.abandoned, len(starts)) == (TIMEOUT, True, 1)
    assert now() - began == 5
    await asyncio.sleep(20)
    assert len(starts) == 1


# Deadlines, stops, cancels.


async def test_the_deadline_bounds_all_attempts_and_is_not_repeated() -> None:
    work, began = Flaky(9, 9, 9, 9), now()
    task = await retried(work, task_timeout=2, timeout=5, max_retries=9)
    assert (task.status, len(work.starts)) == (TIMEOUT, 3)
    assert isinstance(task.error, DeadlineExceeded)
    assert task.duration_ms == 5_000
    assert now() - began == 5


async def test_a_failure_in_the_drain_is_not_repeated() -> None:
    starts = []

    async def work() -> None:
        starts.append(now())
        try:
            await hang()
        finally:
            raise ValueError("in the drain")

    task = await retried(work, timeout=3)
    assert (task.status, len(starts)) == (FAILED, 1)


async def test_a_stop_ends_the_attempts_of_the_others() -> None:
    works = [Flaky(*[ValueError()] * 9), Flaky(9, 9), Flaky(ValueError(), 2)]
    race = FanOutExecutor(aggregation="first", retry_failed=True, max_retries=3)
    outcome = await race.run(works)
    assert outcome.winner == "2"
    assert [task.status for task in outcome.gather.results] == [FAILED, CANCELLED, COMPLETED]
    assert [task.retries for task in outcome.gather.results] == [3, 0, 1]


async def test_fail_fast_waits_for_the_last_attempt() -> None:
    works: list[Factory] = [Flaky(ValueError(), ValueError(), 1), partial(asyncio.sleep, 3)]
    result = await fan_out(works, retry_failed=True, fail_fast=True)
    assert result.all_succeeded


async def test_a_task_that_cancels_itself_is_not_repeated() -> None:
    starts = []

    async def work() -> None:
        starts.append(now())
        raise asyncio.CancelledError

    task = await retried(work)
    assert (task.status, len(starts)) == (CANCELLED, 1)


async def test_an_outer_cancel_ends_it() -> None:
    work = Flaky(1, *[ValueError()] * 9)
    task = asyncio.ensure_future(fan_out([work, Flaky(9)], retry_failed=True))
    await asyncio.sleep(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_outer_cancel_in_the_moment_of_a_task_timeout_is_not_lost() -> None:
    starts = []

    async def work() -> None:
        starts.append(now())
        await hang()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await fan_out([work], retry_failed=True, task_timeout=2, max_retries=5)
    assert len(starts) <= 2


async def test_a_work_that_cancels_itself_in_the_moment_of_its_timeout() -> None:
    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(2, task.cancel)
        await hang()

    task = await retried(work, task_timeout=2, max_retries=1)
    assert task.status in (CANCELLED, TIMEOUT)


async def test_scopes_in_an_attempt_after_a_timeout_work() -> None:
    starts = []

    async def work() -> str:
        starts.append(now())
        if len(starts) == 1:
            await hang()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        try:
            async with asyncio.timeout(1):
                await hang()
        except TimeoutError:
            return "scope"
        return "never"

    task = await retried(work, task_timeout=2)
    assert (task.result, task.retries, task.duration_ms) == ("scope", 1, 3_000)


# Slots.


async def test_between_attempts_the_slot_is_lent() -> None:
    throttler, order = TaskThrottler(1), []

    def work(name: str, failures: int) -> Factory:
        errors = [ValueError()] * failures

        async def attempt() -> None:
            order.append(name)
            if errors:
                raise errors.pop()

        return attempt

    result = await fan_out([work("a", 2), work("b", 0)], retry_failed=True, throttler=throttler)
    assert result.all_succeeded
    assert order == ["a", "b", "a", "a"]
    assert (throttler.peak, throttler.active) == (1, 0)


async def test_a_repeat_waits_for_its_slot_without_a_clock() -> None:
    throttler, work, began = TaskThrottler(1), Flaky(ValueError()), now()
    works: list[Factory] = [work, partial(asyncio.sleep, 5)]
    result = await fan_out(works, retry_failed=True, throttler=throttler, task_timeout=6)
    assert result.all_succeeded
    assert [at - began for at in work.starts] == [0, 5]
    assert result.results[0].duration_ms == 0
    assert result.results[0].queued_ms == 0


async def test_the_limit_holds_through_all_attempts() -> None:
    gauge, throttler = Gauge(), TaskThrottler(3)

    async def work() -> None:
        await gauge.work(1)
        raise ValueError("again")

    result = await fan_out([work] * 10, retry_failed=True, throttler=throttler)
    assert [task.retries for task in result.results] == [2] * 10
    assert (gauge.peak, throttler.peak, throttler.active) == (3, 3, 0)
    assert [task.duration_ms for task in result.results] == [3_000] * 10


async def test_cancelled_while_a_repeat_waits_for_its_slot() -> None:
    throttler = TaskThrottler(1)
    works: list[Factory] = [Flaky(ValueError()), partial(asyncio.sleep, 50)]
    result = await fan_out(works, retry_failed=True, throttler=throttler, timeout=5)
    assert [task.status for task in result.results] == [TIMEOUT, TIMEOUT]
    assert (throttler.active, throttler.waiting) == (0, 0)


# What can be repeated.


async def test_a_bare_coroutine_is_refused_before_anything_starts() -> None:
    work = Flaky()
    with pytest.raises(ValueError, match=r"works\[1\].*coroutine.*partial"):
        await fan_out([work, Flaky()()], retry_failed=True)
    with pytest.raises(ValueError, match="retry_failed"):
        await FanOutExecutor(retry_failed=True).run([Flaky()()])
    assert work.starts == []


async def test_a_future_is_refused_too() -> None:
    future = asyncio.get_running_loop().create_future()
    with pytest.raises(ValueError, match="retry_failed"):
        await fan_out([future], retry_failed=True)


async def test_a_bare_coroutine_of_a_lazy_source_is_its_tasks_failure() -> None:
    def source() -> Iterator[Any]:
        yield Flaky(ValueError())
        yield Flaky()()
        yield 42

    result = await fan_out(source(), retry_failed=True)
    assert [task.status for task in result.results] == [COMPLETED, FAILED, FAILED]
    assert isinstance(result.results[1].error, ValueError)
    assert isinstance(result.results[2].error, TypeError)


async def test_sync_functions_are_repeated_in_threads() -> None:
    errors = [ValueError(), LookupError()]

    def work() -> str:
        if errors:
            raise errors.pop()
        return threading.current_thread().name

    task = await retried(work)  # type: ignore[arg-type]
    assert task.retries == 2
    assert task.result != threading.main_thread().name


async def test_a_thread_that_timed_out_keeps_its_slot_from_the_next_attempt() -> None:
    release, starts = threading.Event(), []
    lock = threading.Lock()

    def work() -> str:
        starts.append(lock.acquire(blocking=False))
        if len(starts) == 1:
            release.wait(5)
        lock.release()
        return "second"

    asyncio.get_running_loop().call_later(0.2, release.set)
    task = await retried(work, task_timeout=0.1)  # type: ignore[arg-type]
    assert (task.result, task.retries) == ("second", 1)
    assert starts == [True, True]


async def test_a_merge_of_works_that_were_repeated() -> None:
    works: list[Callable[[], Any]] = [Flaky(ValueError()), Flaky()]
    assert await fan_out(works, aggregation="merge", merge_fn=len, retry_failed=True) == 2


async def test_a_race_raises_the_error_of_the_last_attempt() -> None:
    errors = [ValueError(str(n)) for n in range(3)]
    with pytest.raises(ValueError, match="2") as caught:
        await fan_out([Flaky(*errors)], aggregation="first", retry_failed=True)
    assert caught.value is errors[2]


# An attempt that ends late.


async def test_an_attempt_that_ends_in_the_last_call_leaves_the_next_its_clocks() -> None:
    starts = list[float]()

    async def work() -> None:
        starts.append(now())
        try:
            await hang()
        finally:
            for _ in range(4 if len(starts) == 1 else 0):
                await asyncio.sleep(0)

    began = now()
    task = await retried(work, max_retries=1, task_timeout=1, grace=0, timeout=5)
    assert (task.status, task.retries) == (TIMEOUT, 1)
    assert isinstance(task.error, TaskTimeout)
    assert now() - began == 2
    assert starts == [began, began + 1]


async def test_a_deadline_bounds_the_attempt_after_one_that_ended_in_the_last_call() -> None:
    attempts = []

    async def work() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            try:
                await hang()
            finally:
                for _ in range(4):
                    await asyncio.sleep(0)
        await hang()

    began = now()
    timeouts = iter([1.0])
    task = await retried(work, task_timeout=lambda _: next(timeouts), grace=0, timeout=1.5)
    assert (task.status, task.retries, len(attempts)) == (TIMEOUT, 1, 2)
    assert isinstance(task.error, DeadlineExceeded)
    assert now() - began == 1.5


async def test_a_thread_that_timed_out_keeps_its_slot_from_other_works_too() -> None:
    release, gauge, throttler = threading.Event(), Gauge(), TaskThrottler(1)

    def work() -> None:
        with gauge:
            release.wait(5)

    asyncio.get_running_loop().call_later(0.3, release.set)
    result: GatherResult[Any] = await fan_out(
        [work, work],
        retry_failed=True,
        max_retries=1,
        task_timeout=0.1,
        throttler=throttler,
    )
    assert [(task.status, task.retries) for task in result.results] == [
        (COMPLETED, 1),
        (COMPLETED, 0),
    ]
    assert (gauge.peak, throttler.peak) == (1, 1)
