"""P5: one deadline for the run and all in it; what it and the other clocks make of a task."""

import asyncio
import copy
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from langchain_core.exceptions import ModelTimeoutError
from langgraph.errors import NodeTimeoutError

from agentos_parallel import (
    DeadlineExceeded,
    FanOutExecutor,
    GatherResult,
    ParallelExecutor,
    TaskStatus,
    TaskThrottler,
    TaskTimeout,
    create_parallel_agent_gather,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
    remaining,
)
from tests.pieces import Stubborn, after, agen, failing_after, now

COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED
TIMEOUT, CANCELLED = TaskStatus.TIMEOUT, TaskStatus.CANCELLED


def statuses(result: GatherResult[Any]) -> list[TaskStatus]:
    return [task.status for task in result.results]


# It bounds the whole run.


async def test_it_bounds_the_run_and_not_each_task() -> None:
    result = await parallel_map(asyncio.sleep, [3, 3, 3], max_concurrent=1, timeout=7)
    assert statuses(result) == [COMPLETED, COMPLETED, TIMEOUT]
    assert result.total_duration_ms == 7_000


async def test_it_bounds_the_wait_for_slots() -> None:
    throttler = TaskThrottler(1)
    async with throttler:
        result = await parallel_gather(after(1, 1), throttler=throttler, timeout=7)
    assert statuses(result) == [TIMEOUT]
    assert result.total_duration_ms == 7_000


async def test_it_bounds_a_slow_source() -> None:
    async def slow() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(60)
        yield 1

    result = await parallel_map(asyncio.sleep, slow(), timeout=7)
    assert statuses(result) == [COMPLETED]
    assert result.total_duration_ms == 7_000
    assert not result.all_succeeded


async def test_it_bounds_all_attempts_of_a_task() -> None:
    fan = FanOutExecutor(retry_failed=True, max_retries=100, timeout=4.5)
    outcome = await fan.run([partial(failing_after, 1, ValueError())])
    [task] = outcome.gather.results
    assert (task.status, task.retries, task.duration_ms) == (TIMEOUT, 4, 4_500)
    assert isinstance(task.error, DeadlineExceeded)
    assert outcome.gather.total_duration_ms == 4_500


async def test_it_bounds_the_wait_between_attempts() -> None:
    works: list[Callable[[], Awaitable[Any]]] = [
        partial(failing_after, 1, ValueError()),
        partial(after, 60, "b"),
    ]
    fan = FanOutExecutor(retry_failed=True, throttler=TaskThrottler(1), timeout=5)
    outcome = await fan.run(works)
    first, second = outcome.gather.results
    assert (first.status, first.duration_ms) == (TIMEOUT, 1_000)
    assert isinstance(first.error, DeadlineExceeded)
    assert second.status is TIMEOUT
    assert outcome.gather.total_duration_ms == 5_000


async def test_a_work_that_fails_at_the_deadline_is_not_repeated() -> None:
    starts = []

    async def fails_when_cancelled() -> None:
        starts.append(now())
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ConnectionError from None

    outcome = await FanOutExecutor(retry_failed=True, timeout=3).run([fails_when_cancelled])
    assert len(starts) == 1
    assert statuses(outcome.gather) == [FAILED]
    assert outcome.gather.total_duration_ms == 3_000


async def test_in_a_stream_it_counts_the_consumers_time() -> None:
    stream = parallel_stream(asyncio.sleep, [1, 1, 1], max_concurrent=1, timeout=5)
    seen = []
    async for task in stream:
        seen.append(task.status)
        await asyncio.sleep(3)
    assert seen == [COMPLETED, COMPLETED, TIMEOUT]


async def test_a_stream_has_none_by_default_and_a_call_has_sixty_seconds() -> None:
    assert [t.status async for t in parallel_stream(asyncio.sleep, [1000])] == [COMPLETED]
    assert (await parallel_gather(after(1000, 1))).total_duration_ms == 60_000
    assert (await parallel_map(asyncio.sleep, [1000])).total_duration_ms == 60_000
    assert (await fan_out([after(1000, 1)])).total_duration_ms == 60_000
    assert (await ParallelExecutor().gather([after(1000, 1)])).total_duration_ms == 60_000
    assert (await create_parallel_agent_gather()(after(1000, 1))).total_duration_ms == 60_000


async def test_none_and_infinity_are_no_deadline() -> None:
    assert (await parallel_gather(after(1000, 1), timeout=None)).all_succeeded
    assert (await parallel_gather(after(1000, 1), timeout=math.inf)).all_succeeded
    assert (await ParallelExecutor(timeout=None).gather([after(1000, 1)])).all_succeeded
    executor = ParallelExecutor(timeout=5)
    assert (await executor.gather([after(1000, 1)], timeout=math.inf)).all_succeeded
    assert (await executor.gather([after(1000, 1)], timeout=None)).total_duration_ms == 5_000


async def test_the_way_out_that_the_text_names_works() -> None:
    result = await parallel_map(asyncio.sleep, [9], timeout=5)
    assert "timeout=None" in str(result.results[0].error)
    result = await ParallelExecutor().map(asyncio.sleep, [9], timeout=5)
    assert "math.inf" in str(result.results[0].error)


# Nested runs.


async def test_a_nested_run_inherits_what_is_left() -> None:
    async def left() -> float | None:
        return remaining()

    async def nest() -> list[float | None]:
        await asyncio.sleep(3)
        return (await parallel_gather(left, left, timeout=None)).get_results()

    assert (await parallel_gather(nest, timeout=10)).get_results() == [[7, 7]]


async def test_a_nested_run_keeps_a_shorter_deadline_of_its_own() -> None:
    async def nest() -> GatherResult[Any]:
        return await parallel_gather(after(9, 1), timeout=2)

    [inner] = (await parallel_gather(nest, timeout=10)).get_results()
    assert inner.total_duration_ms == 2_000
    assert "timeout of 2 s" in str(inner.results[0].error)


async def test_no_deadline_of_a_nested_run_goes_past_the_outer_one() -> None:
    async def nest() -> None:
        await parallel_gather(after(60, 1), timeout=30)

    result = await parallel_gather(nest, timeout=10)
    assert result.total_duration_ms == 10_000
    assert statuses(result) == [TIMEOUT]


async def test_a_run_opened_after_the_outer_deadline_starts_nothing() -> None:
    inner: list[GatherResult[Any]] = []

    async def nest() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            inner.append(await parallel_gather(after(1, 1), timeout=30))

    await parallel_gather(nest, timeout=10)
    [task] = inner[0].results
    assert (task.status, task.started_at) == (TIMEOUT, 0.0)
    assert isinstance(task.error, DeadlineExceeded)
    assert "10 s" in str(task.error)


async def test_the_deadline_reaches_through_every_level() -> None:
    async def nest(level: int) -> float | None:
        if level:
            return (await parallel_map(nest, [level - 1], timeout=None)).get_results()[0]
        return remaining()

    assert (await parallel_map(nest, [5], timeout=10)).get_results() == [10]


async def test_the_deadline_reaches_streams_and_fan_outs() -> None:
    async def left() -> float | None:
        return remaining()

    async def nest() -> list[float | None]:
        stream = ParallelExecutor(timeout=None).stream([left])
        return [
            *[task.result async for task in stream],
            await fan_out([left], aggregation="first", timeout=None),
        ]

    assert (await parallel_gather(nest, timeout=10)).get_results() == [[10, 10]]


async def test_between_loops_the_deadline_travels_as_seconds_left() -> None:
    async def left() -> float | None:
        return remaining()

    def nest() -> list[float | None]:
        return asyncio.run(parallel_gather(left, timeout=None)).get_results()

    [[seconds]] = (await parallel_gather(nest, timeout=100)).get_results()
    assert seconds is not None
    assert 50 < seconds <= 100.001


async def test_the_deadline_reaches_through_threads_and_loops_at_every_level() -> None:
    throttler, left = TaskThrottler(1), list[float | None]()

    async def nest(level: int) -> None:
        left.append(remaining())
        if level:
            await parallel_map(in_thread, [level - 1], timeout=None, throttler=throttler)

    def in_thread(level: int) -> None:
        left.append(remaining())
        if level:
            asyncio.run(parallel_map(nest, [level - 1], timeout=None, throttler=throttler))

    await parallel_map(nest, [5], timeout=100, throttler=throttler)
    assert len(left) == 6
    assert all(seconds is not None and 50 < seconds <= 100.001 for seconds in left)


@pytest.mark.realtime
async def test_the_deadline_ends_what_runs_in_the_loop_of_a_thread() -> None:
    cancelled, ended = list[int](), threading.Event()

    async def hang(number: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.append(number)

    def nest() -> None:
        try:
            # By its own deadline or as a run in an abandoned thread, whichever is seen first.
            with suppress(asyncio.CancelledError):
                asyncio.run(parallel_map(hang, [1, 2], timeout=None))
        finally:
            ended.set()

    result = await parallel_gather(nest, timeout=0.1, throttler=TaskThrottler(1))
    assert statuses(result) == [TIMEOUT]
    assert await asyncio.to_thread(ended.wait, 10)
    assert sorted(cancelled) == [1, 2]


async def test_a_nested_run_without_an_outer_deadline_has_its_own() -> None:
    async def left() -> float | None:
        return remaining()

    async def nest() -> list[float | None]:
        return (await parallel_gather(left, timeout=4)).get_results()

    assert (await parallel_gather(nest, timeout=None)).get_results() == [[4]]


# What it catches.


async def test_every_task_that_it_catches_is_timeout_with_deadline_exceeded() -> None:
    result = await parallel_map(asyncio.sleep, [1, 9, 9, 9], max_concurrent=2, timeout=5)
    assert statuses(result) == [COMPLETED, TIMEOUT, TIMEOUT, TIMEOUT]
    assert [type(error) for _, error in result.get_errors()] == [DeadlineExceeded] * 3
    assert [task.started_at > 0 for task in result.results] == [True, True, True, False]


@pytest.mark.parametrize("form", [iter, agen])
async def test_drawn_works_that_it_catches_are_timeout(form: Callable[[Any], Any]) -> None:
    result = await parallel_map(
        asyncio.sleep, form([9] * 9), max_concurrent=3, throttler=TaskThrottler(2), timeout=5
    )
    assert statuses(result) == [TIMEOUT] * 3
    assert [type(error) for _, error in result.get_errors()] == [DeadlineExceeded] * 3
    assert not result.all_succeeded


async def test_a_stream_gives_every_task_that_it_catches() -> None:
    stream = parallel_stream(asyncio.sleep, [1, 9, 9, 9], max_concurrent=2, timeout=5, ordered=True)
    tasks = [task async for task in stream]
    assert [task.status for task in tasks] == [COMPLETED, TIMEOUT, TIMEOUT, TIMEOUT]
    assert [task.task_id for task in tasks] == ["0", "1", "2", "3"]
    assert {type(task.error) for task in tasks[1:]} == {DeadlineExceeded}


async def test_its_text_names_the_timeout_how_many_had_finished_and_the_way_out() -> None:
    result = await parallel_map(asyncio.sleep, [1, 9, 9, 9], max_concurrent=2, timeout=2.5)
    _, running, queued = (str(error) for _, error in result.get_errors())
    for text in (running, queued):
        assert "2.5 s" in text
        assert "1 of 4" in text
        assert "timeout=None" in text
        assert "default" not in text
    assert "timed out" in running
    assert "never started" in queued


async def test_its_text_says_that_it_was_the_default() -> None:
    for result in (
        await parallel_gather(after(99, 1)),
        await ParallelExecutor().gather([after(99, 1)]),
        await fan_out([after(99, 1)]),
    ):
        text = str(result.results[0].error)
        assert "60 s (the default)" in text
        assert "0 of 1" in text


async def test_its_text_on_an_executors_method_names_infinity() -> None:
    executor = ParallelExecutor(timeout=3)
    for result in (
        await executor.gather([after(9, 1)]),
        await executor.map(asyncio.sleep, [9]),
    ):
        assert "timeout=math.inf" in str(result.results[0].error)
    [task] = [task async for task in executor.stream([after(9, 1)])]
    assert "timeout=math.inf" in str(task.error)


async def test_its_text_counts_what_was_drawn_of_a_source() -> None:
    result = await parallel_map(asyncio.sleep, iter([1, 9, 9, 9, 9]), max_concurrent=2, timeout=5)
    assert "1 of 3" in str(result.results[1].error)


async def test_a_raised_deadline_says_the_same() -> None:
    with pytest.raises(DeadlineExceeded) as late:
        await parallel_gather(after(1, 1), after(9, 2), timeout=5, return_partial=False)
    text = str(late.value)
    for words in ("timed out", "5 s", "1 of 2", "timeout=None"):
        assert words in text
    assert isinstance(late.value, TimeoutError)


# task_timeout, and other timeouts.


async def test_an_attempt_past_task_timeout_is_timeout_with_task_timeout() -> None:
    result = await ParallelExecutor().gather({"slow": after(9, 1)}, task_timeout=2.5)
    [task] = result.results
    assert task.status is TIMEOUT
    assert type(task.error) is TaskTimeout
    assert isinstance(task.error, TimeoutError)
    assert "'slow'" in str(task.error)
    assert "2.5 s" in str(task.error)
    assert result.timed_out == 1


async def test_task_timeout_ends_one_task_and_not_the_run() -> None:
    result = await parallel_gather(after(9, 1), after(5, 2), after(3, 3), task_timeout=6)
    assert statuses(result) == [TIMEOUT, COMPLETED, COMPLETED]


async def test_fail_fast_stops_at_a_timeout() -> None:
    result = await parallel_gather(
        after(9, 1), failing_after(2, TimeoutError()), fail_fast=True, timeout=None
    )
    assert statuses(result) == [CANCELLED, TIMEOUT]
    assert result.total_duration_ms == 2_000


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("the socket's"),
        ModelTimeoutError("the model's"),
        NodeTimeoutError("node", 3.0, kind="run", run_timeout=2.0),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_timeout_of_the_works_own_is_timeout_as_it_was(error: Exception) -> None:
    result = await parallel_gather(failing_after(1, error), after(2, "b"))
    assert statuses(result) == [TIMEOUT, COMPLETED]
    assert result.results[0].error is error
    assert result.timed_out == 1


async def test_asyncio_timeout_inside_a_work_is_timeout_as_it_was() -> None:
    async def work() -> None:
        async with asyncio.timeout(2):
            await asyncio.sleep(60)

    result = await parallel_gather(work, timeout=5)
    [task] = result.results
    assert (task.status, type(task.error), task.duration_ms) == (TIMEOUT, TimeoutError, 2_000)


async def test_a_timeout_in_a_thread_is_timeout_as_it_was() -> None:
    error = TimeoutError("the socket's")

    def work() -> None:
        raise error

    result = await parallel_gather(work)
    assert statuses(result) == [TIMEOUT]
    assert result.results[0].error is error


async def test_the_deadline_that_a_nested_call_raised_is_a_timeout_of_its_task() -> None:
    async def nest() -> None:
        await parallel_gather(after(9, 1), timeout=2, return_partial=False)

    result = await parallel_gather(nest, timeout=None)
    assert statuses(result) == [TIMEOUT]
    assert isinstance(result.results[0].error, DeadlineExceeded)


# A work that ends by itself within the grace.


async def returns_when_cancelled(value: str, seconds: float = 1) -> str:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(seconds)
    return value


async def raises_when_cancelled(error: BaseException, seconds: float = 1) -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(seconds)
        raise error from None


STOPS: dict[str, dict[str, Any]] = {
    "deadline": {"timeout": 2},
    "task_timeout": {"task_timeout": 2},
    "fail_fast": {"fail_fast": True},
}


@pytest.mark.parametrize("stop", STOPS.values(), ids=list(STOPS))
async def test_a_work_that_returns_within_the_grace_is_completed(stop: dict[str, Any]) -> None:
    result: GatherResult[Any] = await parallel_gather(
        returns_when_cancelled("saved"), failing_after(2, ValueError()), **stop
    )
    task = result.results[0]
    assert (task.status, task.result, task.error) == (COMPLETED, "saved", None)
    assert (task.duration_ms, task.abandoned) == (3_000, False)


@pytest.mark.parametrize("stop", STOPS.values(), ids=list(STOPS))
async def test_a_work_that_raises_within_the_grace_is_failed(stop: dict[str, Any]) -> None:
    error = ConnectionError("half written")
    result: GatherResult[Any] = await parallel_gather(
        raises_when_cancelled(error), failing_after(2, ValueError()), **stop
    )
    task = result.results[0]
    assert (task.status, task.error, task.result) == (FAILED, error, None)


@pytest.mark.parametrize("stop", STOPS.values(), ids=list(STOPS))
async def test_a_work_that_raises_a_timeout_within_the_grace_is_timeout_as_it_was(
    stop: dict[str, Any],
) -> None:
    error = TimeoutError("its own")
    result: GatherResult[Any] = await parallel_gather(
        raises_when_cancelled(error), failing_after(2, ValueError()), **stop
    )
    assert result.results[0].status is TIMEOUT
    assert result.results[0].error is error


async def lets_through(seconds: float = 1) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(seconds)


REASONS: dict[str, tuple[dict[str, Any], TaskStatus, type[object]]] = {
    "deadline": ({"timeout": 2}, TIMEOUT, DeadlineExceeded),
    "task_timeout": ({"task_timeout": 2}, TIMEOUT, TaskTimeout),
    "fail_fast": ({"fail_fast": True}, CANCELLED, type(None)),
    "min_success": ({"min_success": 2}, CANCELLED, type(None)),
}


@pytest.mark.parametrize(("stop", "status", "kind"), REASONS.values(), ids=list(REASONS))
async def test_a_work_that_lets_the_cancel_through_takes_the_status_of_its_reason(
    stop: dict[str, Any], status: TaskStatus, kind: type[object]
) -> None:
    result: GatherResult[Any] = await parallel_gather(
        lets_through(), failing_after(2, ValueError()), **stop
    )
    task = result.results[0]
    assert (task.status, type(task.error)) == (status, kind)
    assert task.duration_ms == 3_000


async def test_a_work_that_raises_a_new_cancel_takes_the_status_of_its_reason() -> None:
    result: GatherResult[Any] = await parallel_gather(
        raises_when_cancelled(asyncio.CancelledError("mine")), timeout=2
    )
    assert statuses(result) == [TIMEOUT]
    assert isinstance(result.results[0].error, DeadlineExceeded)


async def test_the_first_reason_counts() -> None:
    result: GatherResult[Any] = await parallel_gather(
        lets_through(4), failing_after(3, ValueError()), task_timeout=2, timeout=3.5
    )
    assert isinstance(result.results[0].error, TaskTimeout)


async def test_a_race_may_be_won_in_the_drain() -> None:
    race = await FanOutExecutor(aggregation="first", timeout=2).run(
        [returns_when_cancelled("saved"), after(60, "slow")]
    )
    assert (race.value, race.winner) == ("saved", "0")
    assert statuses(race.gather) == [COMPLETED, TIMEOUT]


async def test_a_work_that_catches_its_task_timeout_may_go_on_into_the_grace() -> None:
    async def patient() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(4.5)
        return "just in time"

    result = await parallel_gather(patient, task_timeout=2)
    assert result.get_results() == ["just in time"]
    assert result.total_duration_ms == 6_500


async def test_an_attempt_that_swallows_its_timeout_and_fails_is_repeated_once_more() -> None:
    starts = []

    async def work() -> str:
        starts.append(now())
        if len(starts) == 1:
            await raises_when_cancelled(ConnectionError())
        return "second"

    outcome = await FanOutExecutor(retry_failed=True, task_timeout=2).run([work])
    [task] = outcome.gather.results
    assert (task.status, task.result, task.retries) == (COMPLETED, "second", 1)
    assert task.duration_ms == 3_000


# Once the run has returned.


async def test_a_late_end_changes_no_result() -> None:
    stubborn = Stubborn()
    result: GatherResult[Any] = await parallel_gather(stubborn, after(1, "a"), timeout=2)
    before = copy.deepcopy(result.to_dict())
    await stubborn.let_go()
    assert stubborn.ended
    assert result.to_dict() == before
    assert statuses(result) == [TIMEOUT, COMPLETED]


async def test_a_late_error_changes_no_result() -> None:
    stubborn = Stubborn()

    async def fails_late() -> None:
        await stubborn()
        raise ValueError

    result = await parallel_gather(fails_late, timeout=2)
    before = result.to_dict()
    await stubborn.let_go()
    assert result.to_dict() == before


async def test_a_late_thread_changes_no_result() -> None:
    release, ended = threading.Event(), threading.Event()

    def late() -> str:
        release.wait()
        ended.set()
        return "late"

    result = await parallel_gather(late, timeout=0.0625)
    before = result.to_dict()
    release.set()
    await asyncio.to_thread(ended.wait, 10)
    await asyncio.sleep(0.1)
    assert result.to_dict() == before


async def test_an_abandoned_work_is_not_repeated() -> None:
    stubborn, starts = Stubborn(), []

    async def fails_late() -> None:
        starts.append(now())
        await stubborn()
        raise ConnectionError

    outcome = await FanOutExecutor(retry_failed=True, timeout=2).run([fails_late])
    before = outcome.gather.to_dict()
    await stubborn.let_go()
    await asyncio.sleep(9)
    assert len(starts) == 1
    assert outcome.gather.to_dict() == before


async def test_while_the_run_goes_on_an_abandoned_result_is_final() -> None:
    stubborn = Stubborn()
    asyncio.get_running_loop().call_later(10, stubborn.release.set)
    result: GatherResult[Any] = await parallel_gather(
        stubborn, after(20, "b"), task_timeout={"0": 2.0}.get, grace=1
    )
    first = result.results[0]
    assert (first.status, first.abandoned, first.result) == (TIMEOUT, True, None)
    assert first.duration_ms == 3_000
    assert statuses(result) == [TIMEOUT, COMPLETED]


async def test_a_source_behind_its_deadline_is_asked_no_more() -> None:
    drawn = []

    def items() -> Iterator[int]:
        for n in range(100):
            drawn.append(n)
            yield 9

    await parallel_map(asyncio.sleep, items(), max_concurrent=2, timeout=5)
    await asyncio.sleep(60)
    assert drawn == [0, 1]
