"""Results: plain records, made by hand or by a run, told in plain JSON values."""

import asyncio
import copy
import dataclasses
import inspect
import json
import pickle
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos_parallel import (
    DeadlineExceeded,
    FanOutExecutor,
    FanOutResult,
    GatherResult,
    ParallelError,
    RestoredError,
    SourceError,
    TaskResult,
    TaskStatus,
    fan_out,
    parallel_gather,
    parallel_map,
)
from tests.pieces import after, failing_after
from tests.virtual_time import run_virtually


def done(task_id: str, value: Any = None) -> TaskResult[Any]:
    return TaskResult(task_id, TaskStatus.COMPLETED, value, None, 1.0, 2.0, 1000.0)


def lost(task_id: str, status: TaskStatus, error: BaseException | None = None) -> TaskResult[Any]:
    return TaskResult(task_id, status, None, error)


# The records.


def test_a_status_is_a_lowercase_word() -> None:
    assert [status.value for status in TaskStatus] == [
        "pending", "running", "completed", "failed", "timeout", "cancelled",
    ]  # fmt: skip
    assert isinstance(TaskStatus.FAILED, str)
    assert TaskStatus("timeout") is TaskStatus.TIMEOUT
    assert json.dumps(TaskStatus.COMPLETED) == '"completed"'


def test_a_task_result_has_its_fields_in_order_with_their_defaults() -> None:
    assert {f.name: f.default for f in dataclasses.fields(TaskResult) if f.name != "task_id"} == {
        "status": TaskStatus.PENDING,
        "result": None,
        "error": None,
        "started_at": 0.0,
        "finished_at": 0.0,
        "duration_ms": 0.0,
        "retries": 0,
        "queued_ms": 0.0,
        "abandoned": False,
    }
    assert next(iter(inspect.signature(TaskResult).parameters)) == "task_id"
    by_place = TaskResult("a", TaskStatus.COMPLETED, 1, None, 2.0, 3.0, 1000.0, 4, 5.0, True)
    assert (by_place.retries, by_place.queued_ms, by_place.abandoned) == (4, 5.0, True)


def test_a_gather_result_has_its_fields_in_order_with_their_defaults() -> None:
    empty: GatherResult[Any] = GatherResult()
    assert (empty.results, empty.total, empty.completed) == ([], 0, 0)
    assert (empty.failed, empty.timed_out, empty.cancelled) == (0, 0, 0)
    assert (empty.total_duration_ms, empty.all_succeeded) == (0.0, False)
    names = list(inspect.signature(GatherResult).parameters)
    assert names[:8] == [
        "results", "total", "completed", "failed", "timed_out", "cancelled",
        "total_duration_ms", "all_succeeded",
    ]  # fmt: skip
    assert empty.results is not GatherResult().results


def test_records_are_mutable() -> None:
    task: TaskResult[str] = TaskResult("a")
    task.status, task.result = TaskStatus.COMPLETED, "late"
    result = GatherResult([task])
    result.total = 1
    assert (result.total, result.get_results()) == (1, ["late"])


def test_records_are_compared_by_their_fields() -> None:
    assert TaskResult("a") == TaskResult("a")
    assert TaskResult("a") != TaskResult("b")
    assert GatherResult([done("a", 1)], 1, 1) == GatherResult([done("a", 1)], 1, 1)


@pytest.mark.parametrize(
    "through", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))]
)
def test_records_survive_copy_and_pickle(through: Callable[[Any], Any]) -> None:
    result = GatherResult([done("a", 1), lost("b", TaskStatus.CANCELLED)], 2, 1, cancelled=1)
    assert through(result) == result
    fan = FanOutResult("value", "a", result)
    assert through(fan) == fan


# What is read from them.


def test_the_success_rate_is_completed_over_total_as_written() -> None:
    assert GatherResult(total=10, completed=7).success_rate == 0.7
    assert GatherResult(total=3, completed=3).success_rate == 1.0
    assert GatherResult().success_rate == 0.0


def test_results_are_those_of_completed_tasks_none_included() -> None:
    tasks = [
        done("0", "a"),
        done("1", None),
        TaskResult("2", TaskStatus.FAILED, "half", ValueError()),
        TaskResult("3", TaskStatus.RUNNING),
        done("4", 0),
    ]
    assert GatherResult(tasks).get_results() == ["a", None, 0]


class FalsyError(Exception):
    """An error that is false, as one with a length may be."""

    def __bool__(self) -> bool:
        return False


def test_errors_leave_out_none_falsy_ones_included() -> None:
    falsy, plain, stop = FalsyError(), ValueError("no"), asyncio.CancelledError()
    tasks = [
        done("a"),
        lost("b", TaskStatus.FAILED, falsy),
        lost("c", TaskStatus.TIMEOUT, plain),
        lost("d", TaskStatus.CANCELLED, stop),
        lost("e", TaskStatus.CANCELLED),
    ]
    assert GatherResult(tasks).get_errors() == [("b", falsy), ("c", plain), ("d", stop)]


async def test_every_failed_task_carries_its_error_falsy_ones_included() -> None:
    falsy = FalsyError()
    result = await parallel_gather(failing_after(1, falsy), after(9, 1), timeout=2)
    assert result.get_errors()[0] == ("0", falsy)
    assert len(result.get_errors()) == 2
    with pytest.raises(ExceptionGroup) as raised:
        result.raise_for_errors()
    assert raised.value.exceptions[0] is falsy


def test_by_id_maps_each_task_id_to_its_result() -> None:
    result = GatherResult([done("a", 1), done("b", 2)])
    assert list(result.by_id) == ["a", "b"]
    assert result.by_id["b"] is result.results[1]


def test_abandoned_counts_the_abandoned() -> None:
    left: TaskResult[Any] = TaskResult("b", TaskStatus.TIMEOUT, abandoned=True)
    assert GatherResult([done("a"), left, done("c")]).abandoned == 1


# All or nothing.


async def test_raise_for_errors_returns_self_when_all_succeeded() -> None:
    result = await all_fine()
    assert result.raise_for_errors() is result
    assert (await all_fine()).raise_for_errors().get_results() == ["A", "B"]


async def all_fine() -> GatherResult[str]:
    return await parallel_map(str.upper, ["a", "b"])


async def test_raise_for_errors_raises_all_errors_with_their_tracebacks() -> None:
    first, second = ValueError("one"), KeyError("two")
    result = await parallel_gather(failing_after(1, first), after(1, 1), failing_after(0, second))
    with pytest.raises(ExceptionGroup, match="1/3 completed, 2 failed") as raised:
        result.raise_for_errors()
    assert raised.value.exceptions == (first, second)
    assert [f.name for f in traceback.extract_tb(first.__traceback__)][-1] == "failing_after"


async def test_in_raise_for_errors_a_cancelled_task_says_so() -> None:
    result = await parallel_gather(
        failing_after(1, ValueError("broken")), after(9, 1), fail_fast=True
    )
    with pytest.raises(ExceptionGroup) as raised:
        result.raise_for_errors()
    broken, cancelled = raised.value.exceptions
    assert isinstance(broken, ValueError)
    assert isinstance(cancelled, ParallelError)
    assert "'1' was cancelled" in str(cancelled)
    assert "fail_fast" in str(cancelled)


async def test_in_raise_for_errors_a_task_that_cancelled_itself_says_so() -> None:
    async def cancels_itself() -> None:
        raise asyncio.CancelledError("enough")

    with pytest.raises(ExceptionGroup) as raised:
        (await parallel_gather(cancels_itself)).raise_for_errors()
    [told] = raised.value.exceptions
    assert isinstance(told, ParallelError)
    assert "'0' was cancelled: enough" in str(told)
    assert isinstance(told.__cause__, asyncio.CancelledError)


async def test_in_raise_for_errors_an_undrawn_source_says_so() -> None:
    result = await parallel_map(asyncio.sleep, iter([1, 1, 1]), max_concurrent=1, min_success=2)
    assert (result.total, result.completed) == (2, 2)
    with pytest.raises(ExceptionGroup) as raised:
        result.raise_for_errors()
    [told] = raised.value.exceptions
    assert isinstance(told, ParallelError)
    assert "2 of 2" in str(told)


def test_raise_for_errors_of_a_result_made_by_hand() -> None:
    with pytest.raises(ExceptionGroup, match="7/10 completed") as raised:
        GatherResult(total=10, completed=7).raise_for_errors()
    assert "not drawn to its end" in str(raised.value.exceptions[0])
    running = GatherResult([TaskResult[Any]("a", TaskStatus.RUNNING)], 1)
    with pytest.raises(ExceptionGroup) as raised:
        running.raise_for_errors()
    assert "'a' was running" in str(raised.value.exceptions[0])


async def test_raise_for_errors_of_an_empty_run_returns_it() -> None:
    assert (await parallel_gather()).raise_for_errors().get_results() == []


# Reprs.


def test_the_repr_is_one_line_of_counts() -> None:
    result: GatherResult[Any] = GatherResult(
        total=10, completed=7, failed=2, timed_out=1, total_duration_ms=1234.5
    )
    assert "7/10 completed, 2 failed, 1 timed out in 1.2" in repr(result)
    assert "3 cancelled" in repr(GatherResult[Any](total=3, cancelled=3))
    assert "\n" not in repr(result)


async def test_the_repr_tells_why_a_run_stopped() -> None:
    result = await parallel_gather(failing_after(1, ValueError()), after(9, 1), fail_fast=True)
    assert "fail_fast" in repr(result)
    assert repr(await parallel_gather(after(1, 1))) == "<GatherResult 1/1 completed in 1 s>"


def test_the_repr_is_of_constant_size() -> None:
    huge = GatherResult([done(str(n), "x" * 10_000) for n in range(10_000)], 10_000, 10_000)
    huge.reason = "because " * 1000
    began = time.perf_counter()
    assert len(repr(huge)) < 300
    assert len(repr(huge.results[0])) < 200
    assert len(repr(lost("a", TaskStatus.FAILED, ValueError("y" * 10_000)))) < 200
    assert len(repr(FanOutResult(huge.get_results(), None, huge))) < 600
    assert time.perf_counter() - began < 0.5


def test_the_repr_of_a_task_tells_how_it_ended() -> None:
    assert repr(done("a", 42)) == "TaskResult('a', completed, 42)"
    assert repr(TaskResult("a")) == "TaskResult('a', pending)"
    assert "ValueError('no')" in repr(lost("b", TaskStatus.FAILED, ValueError("no")))
    assert "abandoned" in repr(TaskResult("b", TaskStatus.TIMEOUT, abandoned=True))


def test_the_repr_of_a_fan_out_has_its_value_and_its_run() -> None:
    assert repr(FanOutResult[Any]("v", "a", GatherResult(total=1, completed=1))) == (
        "<FanOutResult 'v' of <GatherResult 1/1 completed in 0 s>>"
    )


def test_a_fan_out_result_may_be_made_by_hand() -> None:
    empty: FanOutResult[Any] = FanOutResult()
    assert (empty.value, empty.winner, empty.gather) == (None, None, GatherResult())


# Plain JSON values.


def test_to_dict_has_the_field_names_as_keys() -> None:
    result: GatherResult[Any] = GatherResult([done("a", 1)], 1, 1, all_succeeded=True)
    told = result.to_dict()
    assert list(told) == [field.name for field in dataclasses.fields(GatherResult)]
    assert list(told["results"][0]) == [field.name for field in dataclasses.fields(TaskResult)]
    assert told["results"][0]["status"] == "completed"
    assert type(told["results"][0]["status"]) is str


async def test_a_run_is_told_in_plain_json_values() -> None:
    result: GatherResult[Any] = await parallel_gather(
        after(1, {"answer": [1, 2.5, None, True]}),
        failing_after(1, ValueError("no such page")),
        after(1, {3}),
        after(9, 1),
        timeout=2,
    )
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert told == result.to_dict()
    fine, failed, odd, late = told["results"]
    assert fine["result"] == {"answer": [1, 2.5, None, True]}
    assert failed["error"] == {"type": "ValueError", "message": "no such page"}
    assert odd["result"] == {"repr": "{3}", "type": "set"}
    assert late["error"]["type"] == "DeadlineExceeded"
    assert fine["error"] is None


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise LookupError("no text")


def test_an_error_whose_text_cannot_be_read_is_told_all_the_same() -> None:
    told = lost("a", TaskStatus.FAILED, UnreadableError()).to_dict()["error"]
    assert told["type"] == "UnreadableError"
    assert "LookupError" in told["message"]


def test_from_dict_gives_back_what_to_dict_told() -> None:
    result: GatherResult[Any] = GatherResult(
        [
            done("a", {"x": [1]}),
            lost("b", TaskStatus.FAILED, ValueError("no")),
            TaskResult("c", TaskStatus.TIMEOUT, None, TimeoutError(), 1.0, 2.0, 3.0, 4, 5.0, True),
        ],
        3, 1, 1, 1, 0, 12.5, False, "its timeout ended",
    )  # fmt: skip
    back = GatherResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert back.to_dict() == result.to_dict()
    assert back.results[0] == result.results[0]
    assert (back.total, back.reason, back.total_duration_ms) == (3, "its timeout ended", 12.5)
    late = back.results[2]
    assert (late.status, late.retries, late.abandoned) == (TaskStatus.TIMEOUT, 4, True)


def test_from_dict_gives_errors_as_restored_errors() -> None:
    told = GatherResult([lost("b", TaskStatus.FAILED, ValueError("no"))]).to_dict()
    [(task_id, error)] = GatherResult.from_dict(told).get_errors()
    assert task_id == "b"
    assert isinstance(error, RestoredError)
    assert (error.type_name, error.message) == ("ValueError", "no")
    assert str(error) == "ValueError: no"


def test_a_restored_error_is_told_as_the_one_it_was() -> None:
    told = GatherResult([lost("b", TaskStatus.FAILED, ValueError("no"))]).to_dict()
    assert GatherResult.from_dict(GatherResult.from_dict(told).to_dict()).to_dict() == told


async def test_fan_out_all_has_the_run_as_its_value_and_tells_it_once() -> None:
    outcome = await FanOutExecutor().run({"a": after(0, 1)})
    told = outcome.to_dict()
    assert outcome.value is outcome.gather
    assert told["value"] is None
    assert told["gather"] == outcome.gather.to_dict()


async def test_a_race_tells_its_value_and_its_winner() -> None:
    outcome = await FanOutExecutor(aggregation="first").run({"a": after(0, 1), "b": after(9, 2)})
    told = json.loads(json.dumps(outcome.to_dict()))
    assert (told["value"], told["winner"]) == (1, "a")
    assert [task["status"] for task in told["gather"]["results"]] == ["completed", "cancelled"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(TaskStatus), JSON, st.text()), max_size=6))
def test_any_result_goes_through_json_and_back(
    tasks: list[tuple[TaskStatus, Any, str]],
) -> None:
    results = [
        TaskResult(str(n), status, value, None if value else ValueError(text))
        for n, (status, value, text) in enumerate(tasks)
    ]
    told = GatherResult(results, len(results)).to_dict()
    back = GatherResult.from_dict(json.loads(json.dumps(told, allow_nan=False)))
    assert back.to_dict() == told


# The exceptions that carry a result.


async def test_a_raised_deadline_carries_a_result_that_can_be_told() -> None:
    with pytest.raises(DeadlineExceeded) as late:
        await parallel_gather(after(1, 1), after(9, 2), timeout=2, return_partial=False)
    assert late.value.result is not None
    json.dumps(late.value.result.to_dict(), allow_nan=False)


def test_a_source_that_raised_leaves_its_reason() -> None:
    def items() -> Any:
        yield 1
        raise OSError

    with pytest.raises(SourceError) as broken:
        run_virtually(parallel_map(asyncio.sleep, items()))
    assert broken.value.result is not None
    assert "source raised" in repr(broken.value.result)


async def test_fan_out_gives_the_gather_result_itself() -> None:
    assert isinstance(await fan_out([after(0, 1)]), GatherResult)


# Spans of time.


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0 s"), (0.42, "0.42 ms"), (1, "0.001 s"), (1234.5, "1.23 s"), (3_600_000, "3600 s")],
)
def test_the_repr_tells_a_span_as_a_reader_would(milliseconds: float, text: str) -> None:
    result: GatherResult[Any] = GatherResult(total=1, completed=1, total_duration_ms=milliseconds)
    assert repr(result) == f"<GatherResult 1/1 completed in {text}>"
