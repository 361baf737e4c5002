"""Stop rules: what ends a run before its last task, and what becomes of the rest."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agentos_parallel import (
    FanOutExecutor,
    GatherResult,
    ParallelExecutor,
    SourceError,
    TaskStatus,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from agentos_parallel._core.collect import collect, works_of
from agentos_parallel.settings import Settings
from tests.pieces import after, agen, failing_after


def words(result: GatherResult[Any]) -> list[str]:
    return [task.status.value for task in result.results]


def broken(seconds: float) -> Any:
    return failing_after(seconds, ValueError("broken"))


async def work(seconds: float) -> float:
    """Take so many seconds; fail where they are negative."""
    await asyncio.sleep(abs(seconds))
    if seconds < 0:
        raise ValueError("broken")
    return seconds


# None: the last task.


async def test_without_a_rule_a_run_goes_on_to_its_last_task() -> None:
    result = await parallel_map(work, [-1, -1, 5], max_concurrent=2)
    assert words(result) == ["failed", "failed", "completed"]
    assert result.reason == ""


# fail_fast


async def test_fail_fast_stops_at_the_first_failure() -> None:
    result = await parallel_map(work, [9, -2, 9, 9], max_concurrent=3, fail_fast=True)
    assert words(result) == ["cancelled", "failed", "cancelled", "cancelled"]
    assert result.total_duration_ms == 2_000
    assert "fail_fast" in repr(result)


async def test_fail_fast_stops_at_a_task_timeout() -> None:
    result = await parallel_map(work, [9, 9], fail_fast=True, task_timeout={9: 3.0}.get)
    assert "timeout" in words(result)
    assert result.total_duration_ms == 3_000


async def test_fail_fast_does_not_stop_at_a_task_that_cancelled_itself() -> None:
    result = await parallel_gather(
        failing_after(1, asyncio.CancelledError()), after(5, 1), fail_fast=True
    )
    assert words(result) == ["cancelled", "completed"]


async def test_fail_fast_returns_its_result_and_raises_nothing() -> None:
    result: GatherResult[Any] = await ParallelExecutor(fail_fast=True).gather([broken(1)])
    assert isinstance(result, GatherResult)
    assert not result.all_succeeded


async def test_fail_fast_ends_a_stream_with_a_result_for_each() -> None:
    stream = parallel_stream(work, [9, -2, 9], max_concurrent=2, fail_fast=True, ordered=True)
    assert [task.status.value async for task in stream] == ["cancelled", "failed", "cancelled"]


async def test_fail_fast_ends_the_drawing() -> None:
    result = await parallel_map(work, iter([-1, 1, 1, 1, 1]), max_concurrent=1, fail_fast=True)
    assert words(result) == ["failed"]
    assert not result.all_succeeded


async def test_fail_fast_stops_at_a_drawn_work_that_could_not_start() -> None:
    def throttler_of(item: float) -> Any:
        raise LookupError("no such item")

    drawn = []

    def items() -> Any:
        for n in range(9):
            drawn.append(n)
            yield 1

    result = await parallel_map(work, items(), fail_fast=True, throttler=throttler_of)
    assert words(result) == ["failed"]
    assert drawn == [0]
    assert isinstance(result.results[0].error, LookupError)


# min_success


async def test_a_quorum_stops_at_its_last_success() -> None:
    result = await parallel_map(work, [9, 2, 1, 9], min_success=2)
    assert words(result) == ["cancelled", "completed", "completed", "cancelled"]
    assert result.total_duration_ms == 2_000
    assert "min_success: 2 succeeded" in repr(result)


async def test_a_quorum_stops_once_it_is_out_of_reach() -> None:
    result = await parallel_map(work, [9, -2, -1, 9], min_success=3)
    assert words(result) == ["cancelled", "failed", "failed", "cancelled"]
    assert result.total_duration_ms == 2_000
    assert "out of reach" in repr(result)


async def test_a_quorum_counts_timeouts_and_cancels_as_lost() -> None:
    works = [after(9, 1), failing_after(3, asyncio.CancelledError()), after(60, 2), after(60, 3)]
    result = await parallel_gather(*works, min_success=3, task_timeout={"0": 2.0}.get)
    assert words(result) == ["timeout", "cancelled", "cancelled", "cancelled"]
    assert result.total_duration_ms == 3_000


async def test_a_quorum_of_all_is_reached_at_the_last() -> None:
    result = await parallel_map(work, [1, 2, 3], min_success=3)
    assert result.all_succeeded
    assert words(result) == ["completed"] * 3


async def test_a_quorum_past_the_length_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"min_success must be at most the number of works \(2\), got 3"
    ):
        await parallel_map(work, [1, 2], min_success=3)
    with pytest.raises(ValueError, match="min_success"):
        parallel_stream(work, [1, 2], min_success=3)
    with pytest.raises(ValueError, match="min_success"):
        await fan_out([after(1, 1)], min_success=2)


@pytest.mark.parametrize("form", [iter, agen])
async def test_over_a_source_a_quorum_is_out_of_reach_only_at_its_end(
    form: Callable[[Any], Any],
) -> None:
    result = await parallel_map(work, form([-1, -1, 1, 2]), max_concurrent=1, min_success=2)
    assert words(result) == ["failed", "failed", "completed", "completed"]

    short = await parallel_map(work, form([60, 60]), max_concurrent=5, min_success=3, timeout=None)
    assert words(short) == ["cancelled", "cancelled"]
    assert short.total_duration_ms == 0
    assert "out of reach" in repr(short)


async def test_a_quorum_of_an_empty_source_is_out_of_reach() -> None:
    result = await parallel_map(work, iter([]), min_success=1)
    assert (result.total, result.completed) == (0, 0)
    assert "out of reach" in repr(result)


async def test_a_quorum_may_be_passed_by_what_ends_in_the_drain() -> None:
    async def saves() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
        return "saved"

    works: list[Any] = [saves, after(1, "a")]
    merged = FanOutExecutor(aggregation="merge", min_success=1)
    outcome = await merged.run(works, merge_fn="+".join)
    assert outcome.value == "saved+a"


# "first"


async def test_first_stops_at_the_first_success() -> None:
    race = await FanOutExecutor(aggregation="first").run({"a": after(9, 1), "b": broken(1),
                                                          "c": after(3, 3)})  # fmt: skip
    assert (race.value, race.winner) == (3, "c")
    assert words(race.gather) == ["cancelled", "failed", "completed"]
    assert race.gather.total_duration_ms == 3_000


async def test_first_goes_on_past_failures() -> None:
    assert await fan_out([broken(1), broken(2), after(5, "last")], aggregation="first") == "last"


async def test_first_of_two_at_once_is_the_first_to_end() -> None:
    race = await FanOutExecutor(aggregation="first").run([after(1, "a"), after(1, "b")])
    assert (race.value, race.winner) == ("a", "0")


# They exclude each other.


async def test_the_rules_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="exclude"):
        await parallel_map(work, [1, 2], fail_fast=True, min_success=1)
    with pytest.raises(ValueError, match="exclude"):
        await fan_out([after(1, 1)], aggregation="first", fail_fast=True)
    with pytest.raises(ValueError, match="exclude"):
        await fan_out([after(1, 1)], aggregation="first", min_success=1)


# What stopping means.


async def test_what_had_not_started_is_cancelled_without_an_error() -> None:
    result = await parallel_map(work, [-1, 5, 5], max_concurrent=1, fail_fast=True)
    for task in result.results[1:]:
        assert (task.status, task.error, task.started_at) == (TaskStatus.CANCELLED, None, 0.0)


async def test_a_reason_that_is_an_exception_is_the_error_of_what_it_cancels() -> None:
    budget = RuntimeError("the budget is spent")
    works: list[Any] = [after(1, "a"), after(60, "b"), after(60, "queued")]
    result, _ = await collect(
        works_of("works", works),
        Settings(max_concurrent=2),
        works=True,
        rule=lambda counts, expected: budget if counts.completed else None,
    )
    assert words(result) == ["completed", "cancelled", "cancelled"]
    assert [error for _, error in result.get_errors()] == [budget, budget]
    assert "the budget is spent" in repr(result)


async def test_an_exception_without_a_text_is_a_reason_by_its_type() -> None:
    result, _ = await collect(
        works_of("works", [after(1, "a"), after(9, "b")]),
        Settings(),
        works=True,
        rule=lambda counts, expected: MemoryError() if counts.completed else None,
    )
    assert "MemoryError" in repr(result)


async def test_the_softer_degree_lets_what_runs_finish() -> None:
    def items() -> Any:
        yield 5
        yield 3
        raise OSError("the disk is gone")

    with pytest.raises(SourceError) as raised:
        await parallel_map(work, items(), max_concurrent=4)
    result = raised.value.result
    assert result is not None
    assert words(result) == ["completed", "completed"]
    assert result.total_duration_ms == 5_000


async def test_a_rule_may_end_what_the_softer_degree_let_run() -> None:
    def items() -> Any:
        yield 60
        yield -3
        raise OSError("the disk is gone")

    with pytest.raises(SourceError) as raised:
        await parallel_map(work, items(), fail_fast=True, timeout=None)
    result = raised.value.result
    assert result is not None
    assert words(result) == ["cancelled", "failed"]
    assert result.total_duration_ms == 3_000


async def test_the_deadline_may_end_what_the_softer_degree_let_run() -> None:
    def items() -> Any:
        yield 60
        raise OSError("the disk is gone")

    with pytest.raises(SourceError) as raised:
        await parallel_map(work, items(), timeout=3)
    result = raised.value.result
    assert result is not None
    assert words(result) == ["timeout"]
