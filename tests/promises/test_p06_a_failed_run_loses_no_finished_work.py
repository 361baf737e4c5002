"""P6: a failed run loses no finished work: every exception of ours carries it."""

import asyncio
import copy
import pickle
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest

from agentos_parallel import (
    DeadlineExceeded,
    FanOutError,
    FanOutExecutor,
    GatherResult,
    ParallelError,
    ParallelExecutor,
    SourceError,
    TaskStatus,
    TaskTimeout,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from tests.ways import Factory, Results, hang, now, read

COMPLETED, FAILED, TIMEOUT = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.TIMEOUT


async def after(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def fail(text: str = "no") -> None:
    raise ValueError(text)


async def after_then_fail(seconds: float) -> None:
    await asyncio.sleep(seconds)
    raise ValueError("late")


def result_of(error: ParallelError) -> GatherResult[Any]:
    assert error.result is not None
    return error.result


async def test_p06_a_deadline_returns_what_it_has_by_default() -> None:
    result = await parallel_gather(after(1), hang(), after(2), timeout=5)
    assert [task.status for task in result.results] == [COMPLETED, TIMEOUT, COMPLETED]
    assert result.get_results() == [1, 2]
    assert result.total_duration_ms == 5_000


async def test_p06_without_partial_results_a_deadline_raises_with_them() -> None:
    with pytest.raises(DeadlineExceeded, match="timed out") as caught:
        await parallel_gather(after(1), hang(), after(2), timeout=5, return_partial=False)
    result = result_of(caught.value)
    assert [task.status for task in result.results] == [COMPLETED, TIMEOUT, COMPLETED]
    assert (result.total, result.completed, result.timed_out) == (3, 2, 1)
    assert result.get_results() == [1, 2]
    assert not result.all_succeeded


async def test_p06_the_same_from_an_executor() -> None:
    executor = ParallelExecutor(timeout=5)
    with pytest.raises(DeadlineExceeded, match="timed out") as caught:
        await executor.gather([after(1), hang()], return_partial=False)
    assert result_of(caught.value).get_results() == [1]


async def test_p06_the_error_text_names_timeout_count_and_way_out() -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        await parallel_gather(after(1), hang(), timeout=5, return_partial=False)
    text = str(caught.value)
    assert "5 s" in text
    assert "1 of 2" in text
    assert "timeout=None" in text
    assert "default" not in text


async def test_p06_on_an_executor_the_way_out_is_infinity() -> None:
    with pytest.raises(DeadlineExceeded, match=r"math\.inf") as caught:
        await ParallelExecutor().gather([hang], return_partial=False)
    assert "60 s" in str(caught.value)
    assert "default" in str(caught.value)


async def test_p06_a_deadline_that_ended_nothing_raises_nothing() -> None:
    result = await parallel_gather(after(1), fail(), timeout=5, return_partial=False)
    assert [task.status for task in result.results] == [COMPLETED, FAILED]


async def test_p06_a_task_timeout_is_no_deadline() -> None:
    result = await parallel_gather(after(1), hang(), task_timeout=2, return_partial=False)
    assert isinstance(result.results[1].error, TaskTimeout)


async def test_p06_what_returns_in_the_drain_is_not_lost() -> None:
    async def late() -> str:
        try:
            await hang()
        except asyncio.CancelledError:
            await asyncio.sleep(1)
        return "saved"

    with pytest.raises(DeadlineExceeded) as caught:
        await parallel_gather(late, timeout=5, return_partial=False)
    assert result_of(caught.value).get_results() == ["saved"]
    assert result_of(caught.value).total_duration_ms == 6_000


async def test_p06_queued_works_have_their_results_too() -> None:
    works = [partial(after, 3) for _ in range(4)]
    with pytest.raises(DeadlineExceeded) as caught:
        await parallel_gather(*works, max_concurrent=1, timeout=5, return_partial=False)
    result = result_of(caught.value)
    assert [task.status for task in result.results] == [COMPLETED, TIMEOUT, TIMEOUT, TIMEOUT]
    assert [task.started_at > 0 for task in result.results] == [True, True, False, False]


async def test_p06_of_an_endless_source_what_was_drawn_is_kept() -> None:
    def endless() -> Iterator[Factory]:
        while True:
            yield partial(after, 2)

    executor = ParallelExecutor(max_concurrent=1, timeout=5)
    with pytest.raises(DeadlineExceeded, match="timed out") as caught:
        await executor.gather(endless(), return_partial=False)
    result = result_of(caught.value)
    assert [task.status for task in result.results] == [COMPLETED, COMPLETED, TIMEOUT]
    assert "2 of 3 drawn" in str(caught.value)


async def test_p06_a_source_error_has_the_results() -> None:
    def source() -> Iterator[int]:
        yield from (1, 2, 3)
        raise OSError("disk")

    with pytest.raises(SourceError) as caught:
        await parallel_map(after, source())
    result = result_of(caught.value)
    assert result.get_results() == [1, 2, 3]
    assert (result.total, result.completed, result.all_succeeded) == (3, 3, False)
    assert isinstance(caught.value.__cause__, OSError)


async def test_p06_a_source_error_of_a_fan_out_has_the_results() -> None:
    async def source() -> AsyncIterator[Factory]:
        yield partial(after, 1)
        raise OSError("disk")

    with pytest.raises(SourceError) as caught:
        await fan_out(source())
    assert result_of(caught.value).get_results() == [1]


async def test_p06_a_streams_errors_have_its_counts() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise OSError("disk")

    seen: Results = []
    with pytest.raises(SourceError) as caught:
        await read(parallel_stream(after, source()), seen)
    assert [task.result for task in seen] == [1, 2]
    assert (result_of(caught.value).total, result_of(caught.value).completed) == (2, 2)


async def test_p06_a_streams_deadline_has_its_counts() -> None:
    async def source() -> AsyncIterator[int]:
        while True:
            yield 2

    seen: Results = []
    with pytest.raises(DeadlineExceeded, match="timed out") as caught:
        await read(parallel_stream(after, source(), max_concurrent=1, timeout=5), seen)
    assert [task.status for task in seen] == [COMPLETED, COMPLETED, TIMEOUT]
    assert result_of(caught.value).completed == 2
    assert result_of(caught.value).timed_out == 1


async def test_p06_a_merge_of_nothing_has_the_results() -> None:
    with pytest.raises(FanOutError) as caught:
        await fan_out([fail, hang], aggregation="merge", merge_fn=list, timeout=5)
    assert [task.status for task in result_of(caught.value).results] == [FAILED, TIMEOUT]


async def test_p06_a_merge_of_too_little_has_the_results() -> None:
    with pytest.raises(FanOutError) as caught:
        await fan_out([partial(after, 1), fail], aggregation="merge", merge_fn=list, min_success=2)
    result = result_of(caught.value)
    assert result.failed == 1
    assert result.total == 2


async def test_p06_a_merge_that_raises_has_the_results() -> None:
    def merge(values: list[float]) -> float:
        raise ZeroDivisionError("in merge_fn")

    executor = FanOutExecutor(aggregation="merge")
    with pytest.raises(FanOutError) as caught:
        await executor.fan_out([partial(after, 1), partial(after, 2)], merge)
    assert result_of(caught.value).get_results() == [1, 2]
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_p06_a_lost_race_has_the_results_where_the_error_is_ours() -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        await fan_out([hang, fail], aggregation="first", timeout=5)
    assert [task.status for task in result_of(caught.value).results] == [TIMEOUT, FAILED]


async def test_p06_a_race_in_which_all_cancel_themselves_has_the_results() -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    with pytest.raises(FanOutError) as caught:
        await fan_out([give_up, give_up], aggregation="first")
    assert result_of(caught.value).cancelled == 2


async def test_p06_fail_fast_keeps_what_had_finished() -> None:
    works = [partial(after, 1), partial(after, 9)]
    result = await parallel_gather(*works, partial(after_then_fail, 2), fail_fast=True)
    assert result.get_results() == [1]
    assert (result.completed, result.failed, result.cancelled) == (1, 1, 1)
    assert result.total_duration_ms == 2_000


async def test_p06_a_nested_runs_error_is_its_tasks_outcome_with_the_inner_results() -> None:
    async def nested() -> None:
        await parallel_gather(after(1), hang(), timeout=3, return_partial=False)

    outer = await parallel_gather(nested, after(9))
    assert [task.status for task in outer.results] == [TIMEOUT, COMPLETED]
    error = outer.results[0].error
    assert isinstance(error, DeadlineExceeded)
    assert result_of(error).get_results() == [1]


async def test_p06_a_lost_race_leaves_a_nested_runs_error_its_results() -> None:
    async def nested() -> None:
        await parallel_gather(after(1), hang(), timeout=3, return_partial=False)

    with pytest.raises(DeadlineExceeded) as caught:
        await fan_out([nested, fail], aggregation="first")
    assert result_of(caught.value).get_results() == [1]


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
async def test_p06_the_results_survive_copy_and_pickle(copied: Any) -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        await parallel_gather(after(1), hang(), timeout=5, return_partial=False)
    again = copied(caught.value)
    assert type(again) is DeadlineExceeded
    assert str(again) == str(caught.value)
    assert result_of(again).get_results() == [1]


async def test_p06_the_error_comes_at_the_deadline() -> None:
    began = now()
    with pytest.raises(DeadlineExceeded):
        await parallel_gather(hang, hang, timeout=5, return_partial=False)
    assert now() - began == 5
