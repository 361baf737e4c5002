"""Fan-out: a race, a merge, the whole run, and what each raises."""

import asyncio
import copy
import dataclasses
import inspect
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from agentos_parallel import (
    DeadlineExceeded,
    FanOutConfig,
    FanOutError,
    FanOutExecutor,
    FanOutResult,
    GatherResult,
    ParallelExecutor,
    PartialResultWarning,
    TaskStatus,
    TaskThrottler,
    TaskTimeout,
    fan_out,
    parallel_gather,
)
from tests.ways import Factory, Gauge, hang, now

COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED
TIMEOUT, CANCELLED = TaskStatus.TIMEOUT, TaskStatus.CANCELLED

NEEDED = inspect.Parameter.empty


async def after(seconds: float, value: Any = None) -> Any:
    await asyncio.sleep(seconds)
    return seconds if value is None else value


async def fail(text: str = "no", seconds: float = 0) -> None:
    await asyncio.sleep(seconds)
    raise ValueError(text)


async def give_up() -> None:
    raise asyncio.CancelledError


def parameters(function: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Names and defaults: of what may be positional, and of what is keyword-only."""
    given = inspect.signature(function).parameters.values()
    named = {p.name: p.default for p in given if p.kind is p.POSITIONAL_OR_KEYWORD}
    keywords = {p.name: p.default for p in given if p.kind is p.KEYWORD_ONLY}
    return named, keywords


# Signatures.

SHARED = {
    "task_timeout": None,
    "fail_fast": False,
    "min_success": None,
    "throttler": None,
    "grace": 5.0,
}


def test_fan_out_has_its_signature() -> None:
    named, keywords = parameters(fan_out)
    assert named == {"works": NEEDED}
    assert keywords == {
        "aggregation": "all",
        "merge_fn": None,
        "max_concurrent": 8,
        "timeout": 60.0,
        "retry_failed": False,
        "max_retries": 2,
        **SHARED,
    }


def test_the_config_has_its_signature() -> None:
    named, keywords = parameters(FanOutConfig)
    assert named == {
        "max_concurrent": 8,
        "timeout": 60.0,
        "aggregation": "all",
        "retry_failed": False,
        "max_retries": 2,
    }
    assert keywords == SHARED


def test_the_executor_has_its_signatures() -> None:
    first = next(iter(inspect.signature(FanOutExecutor).parameters.values()))
    assert (first.name, first.default) == ("config", None)
    assert parameters(FanOutExecutor().fan_out)[0] == {"worker_coros": NEEDED, "merge_fn": None}
    assert parameters(FanOutExecutor().run)[0] == {"works": NEEDED, "merge_fn": None}
    assert inspect.iscoroutinefunction(FanOutExecutor().fan_out)
    assert inspect.iscoroutinefunction(FanOutExecutor().run)


def test_the_config_is_a_plain_mutable_dataclass() -> None:
    config = FanOutConfig(4, 5, "first", True, 3)
    assert (config.max_concurrent, config.timeout, config.aggregation) == (4, 5, "first")
    assert (config.retry_failed, config.max_retries) == (True, 3)
    assert dataclasses.is_dataclass(config)
    config.max_concurrent = 5
    assert copy.copy(config) == config


def test_an_executor_has_its_config_and_its_executor() -> None:
    config = FanOutConfig(max_concurrent=3, timeout=7)
    fan = FanOutExecutor(config)
    assert fan.config == config
    assert isinstance(fan.executor, ParallelExecutor)
    assert (fan.executor.max_concurrent, fan.executor.timeout) == (3, 7)


def test_an_executor_takes_the_configs_fields_as_keywords() -> None:
    fan = FanOutExecutor(max_concurrent=4, aggregation="first", task_timeout=3)
    assert (fan.config.max_concurrent, fan.config.aggregation) == (4, "first")
    assert fan.config.task_timeout == 3
    config = FanOutConfig(timeout=9, max_concurrent=2)
    changed = FanOutExecutor(config, max_concurrent=5)
    assert (changed.config.timeout, changed.config.max_concurrent) == (9, 5)
    assert config.max_concurrent == 2
    assert FanOutExecutor().config == FanOutConfig()


# "all".


async def test_all_returns_the_gather_result() -> None:
    result = await fan_out([partial(after, 1), fail, partial(after, 2)])
    assert isinstance(result, GatherResult)
    assert [task.status for task in result.results] == [COMPLETED, FAILED, COMPLETED]


async def test_all_by_an_executor_is_the_same() -> None:
    result = await FanOutExecutor().fan_out([after(1), fail()])
    assert (result.completed, result.failed) == (1, 1)
    outcome = await FanOutExecutor().run([after(1), fail()])
    assert isinstance(outcome, FanOutResult)
    assert outcome.value is outcome.gather
    assert outcome.winner is None


async def test_all_of_nothing_is_empty() -> None:
    result = await fan_out([])
    assert (result.total, result.all_succeeded) == (0, True)


async def test_all_runs_of_an_executor_share_its_limit() -> None:
    fan, gauge = FanOutExecutor(max_concurrent=2), Gauge()
    await asyncio.gather(fan.fan_out([gauge.work] * 3), fan.run([gauge.work] * 3))
    assert gauge.peak == 2


async def test_all_takes_the_shared_keywords() -> None:
    gauge, throttler = Gauge(), TaskThrottler(2)
    await fan_out([gauge.work] * 4, throttler=throttler, max_concurrent=None)
    assert gauge.peak == 2
    result = await fan_out([hang, fail], fail_fast=True)
    assert [task.status for task in result.results] == [CANCELLED, FAILED]
    result = await fan_out([hang, partial(after, 1)], min_success=1)
    assert [task.status for task in result.results] == [CANCELLED, COMPLETED]
    result = await fan_out([hang], task_timeout=3)
    assert isinstance(result.results[0].error, TaskTimeout)
    result = await fan_out([after(100)], timeout=None)
    assert result.all_succeeded


# "first".


async def test_first_returns_the_value_of_the_first_to_succeed() -> None:
    began = now()
    works = [partial(fail, seconds=1), partial(after, 3), partial(after, 2), partial(after, 4)]
    assert await fan_out(works, aggregation="first") == 2
    assert now() - began == 2


async def test_first_cancels_and_drains_the_losers() -> None:
    began, ended = now(), []

    async def loser() -> None:
        try:
            await hang()
        finally:
            await asyncio.sleep(2)
            ended.append(now())

    assert await fan_out([loser, partial(after, 1), loser], aggregation="first") == 1
    assert ended == [began + 3, began + 3]
    assert now() == began + 3


async def test_first_closes_what_never_started() -> None:
    works = [after(1), after(2), after(3)]
    assert await fan_out(works, aggregation="first", max_concurrent=1) == 1


async def test_first_tries_the_next_when_the_limit_is_one() -> None:
    began = now()
    works: list[Factory] = [*[partial(fail, seconds=1)] * 2, partial(after, 1), hang]
    assert await fan_out(works, aggregation="first", max_concurrent=1) == 1
    assert now() - began == 3


async def test_first_of_a_race_says_who_won() -> None:
    race = FanOutExecutor(aggregation="first")
    outcome = await race.run({"slow": partial(after, 9), "fast": partial(after, 1, "fast answer")})
    assert (outcome.value, outcome.winner) == ("fast answer", "fast")
    assert [task.status for task in outcome.gather.results] == [CANCELLED, COMPLETED]


async def test_first_takes_a_success_in_the_drain_of_the_deadline() -> None:
    async def late() -> str:
        try:
            await hang()
        except asyncio.CancelledError:
            await asyncio.sleep(1)
        return "late"

    race = FanOutExecutor(aggregation="first", timeout=2)
    outcome = await race.run([hang, late])
    assert (outcome.value, outcome.winner) == ("late", "1")
    assert await race.fan_out([hang, late]) == "late"


async def test_first_to_succeed_is_first_in_time_not_in_input_order() -> None:
    async def late() -> str:
        try:
            await hang()
        except asyncio.CancelledError:
            return "in the drain"
        return "never"

    race = FanOutExecutor(aggregation="first")
    outcome = await race.run([late, partial(after, 1, "at once")])
    assert (outcome.value, outcome.winner) == ("at once", "1")
    assert outcome.gather.completed == 2


@pytest.mark.parametrize("value", [None, 0, "", False, [], ()])
async def test_first_takes_falsy_values(value: Any) -> None:
    async def answer() -> Any:
        await asyncio.sleep(1)
        return value

    race = FanOutExecutor(aggregation="first")
    assert await race.fan_out([fail, answer]) == value
    outcome = await race.run([fail, answer])
    assert (outcome.value, outcome.winner) == (value, "1")


async def test_first_raises_the_first_error_in_input_order_as_it_was() -> None:
    error = LookupError("nowhere")

    async def late() -> None:
        await asyncio.sleep(3)
        raise error

    with pytest.raises(LookupError) as caught:
        await fan_out([late, fail, partial(fail, "second")], aggregation="first")
    assert caught.value is error
    assert caught.value.args == ("nowhere",)


async def test_first_names_the_others_in_one_note() -> None:
    works: dict[str, Factory] = {
        "a": partial(fail, "no answer"),
        "b": partial(fail, "no page"),
        "c": hang,
    }
    with pytest.raises(ValueError, match="no answer") as caught:
        await fan_out(works, aggregation="first", timeout=5)
    (note,) = caught.value.__notes__
    assert "b: ValueError: no page" in note
    assert "c: DeadlineExceeded" in note
    assert "no answer" not in note


async def test_first_replaces_its_note_when_the_same_error_comes_again() -> None:
    error = LookupError("nowhere")
    error.add_note("the user's own")

    async def raises() -> None:
        raise error

    for text in ("first time", "second time"):
        with pytest.raises(LookupError):
            await fan_out([raises, partial(fail, text)], aggregation="first")
        own, ours = error.__notes__
        assert own == "the user's own"
        assert text in ours


async def test_first_of_one_work_has_its_note_too() -> None:
    with pytest.raises(ValueError, match="no") as caught:
        await fan_out([fail], aggregation="first")
    assert len(caught.value.__notes__) == 1


async def test_first_with_a_deadline_that_ended_all_raises_it_with_the_run() -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        await fan_out([hang, hang], aggregation="first", timeout=5)
    assert caught.value.result is not None
    assert caught.value.result.timed_out == 2


async def test_first_with_a_task_timeout_that_ended_all_raises_it_with_the_run() -> None:
    with pytest.raises(TaskTimeout) as caught:
        await fan_out([hang, fail], aggregation="first", task_timeout=5)
    assert caught.value.result is not None
    assert (caught.value.result.timed_out, caught.value.result.failed) == (1, 1)


async def test_first_goes_past_a_task_that_cancelled_itself() -> None:
    assert await fan_out([give_up, partial(after, 1)], aggregation="first") == 1
    with pytest.raises(ValueError, match="no"):
        await fan_out([give_up, fail], aggregation="first")
    with pytest.raises(FanOutError):
        await fan_out([give_up, give_up], aggregation="first")


async def test_first_run_raises_nothing_for_failures() -> None:
    outcome = await FanOutExecutor(aggregation="first", timeout=5).run([fail, hang])
    assert (outcome.value, outcome.winner) == (None, None)
    assert [task.status for task in outcome.gather.results] == [FAILED, TIMEOUT]


@pytest.mark.parametrize("aggregation", ["first", "merge"])
async def test_first_and_merge_of_nothing_are_refused(aggregation: Any) -> None:
    merge_fn = list if aggregation == "merge" else None
    executor = FanOutExecutor(aggregation=aggregation)
    nothing: list[Any]
    for nothing in ([], iter([])):  # type: ignore[assignment]
        with pytest.raises(ValueError, match="at least one"):
            await fan_out(nothing, aggregation=aggregation, merge_fn=merge_fn)
    with pytest.raises(ValueError, match="at least one"):
        await executor.run({}, merge_fn)


@pytest.mark.parametrize("settings", [{"fail_fast": True}, {"min_success": 1}])
async def test_first_excludes_the_other_stop_rules(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="exclude"):
        await fan_out([after(1)], aggregation="first", **settings)
    with pytest.raises(ValueError, match="exclude"):
        FanOutConfig(aggregation="first", **settings)


# "merge".


async def test_merge_gets_the_successes_in_input_order() -> None:
    works = [partial(after, 3, "a"), partial(after, 1, "b"), partial(after, 2, "c")]
    assert await fan_out(works, aggregation="merge", merge_fn="".join) == "abc"
    outcome = await FanOutExecutor(aggregation="merge").run(works, "".join)
    assert (outcome.value, outcome.winner) == ("abc", None)
    assert outcome.gather.get_results() == ["a", "b", "c"]


def joined(values: list[str]) -> str:
    return "+".join(values)


async def ajoined(values: list[str]) -> str:
    await asyncio.sleep(1)
    return "+".join(values)


class Joiner:
    async def ainvoke(self, values: list[str]) -> str:
        return "+".join(values)


class CallableJoiner:
    async def __call__(self, values: list[str]) -> str:
        return "+".join(values)


@pytest.mark.parametrize(
    "merge_fn",
    [
        joined,
        ajoined,
        Joiner(),
        CallableJoiner(),
        partial(ajoined),
        lambda values: ajoined(values),
        lambda values: joined(values),
    ],
)
async def test_merge_fn_may_be_sync_async_or_a_runnable(merge_fn: Any) -> None:
    works = [partial(after, 0, "a"), partial(after, 0, "b")]
    assert await fan_out(works, aggregation="merge", merge_fn=merge_fn) == "a+b"


async def test_merge_fn_may_be_a_runnable_of_langchain() -> None:
    from langchain_core.runnables import RunnableLambda

    works = [partial(after, 0, "a"), partial(after, 0, "b")]
    assert await fan_out(works, aggregation="merge", merge_fn=RunnableLambda(joined)) == "a+b"


async def test_merge_has_neither_slot_nor_deadline() -> None:
    throttler, seen, began = TaskThrottler(1), [], now()

    async def merge(values: list[float]) -> int:
        seen.append(throttler.active)
        await asyncio.sleep(100)
        return len(values)

    merged = await fan_out(
        [after(1), after(1)], aggregation="merge", merge_fn=merge, throttler=throttler, timeout=5
    )
    assert (merged, seen, now() - began) == (2, [0], 102)


async def test_merge_may_run_works_itself() -> None:
    fan = FanOutExecutor(aggregation="merge", max_concurrent=1)

    async def merge(values: list[float]) -> Any:
        return (await fan.executor.gather([partial(after, 1)] * len(values))).completed

    assert await fan.fan_out([after(1), after(1)], merge) == 2


@pytest.mark.parametrize("merge_fn", [None, 5, "join", ["a"]])
async def test_merge_checks_its_function_before_any_work_starts(merge_fn: Any) -> None:
    started = []

    async def work() -> None:
        started.append(1)

    with pytest.raises((TypeError, ValueError), match="merge_fn"):
        await fan_out([work, work()], aggregation="merge", merge_fn=merge_fn)
    with pytest.raises((TypeError, ValueError), match="merge_fn"):
        await FanOutExecutor(aggregation="merge").fan_out([work, work()], merge_fn)
    assert started == []


async def test_merge_fn_elsewhere_is_refused() -> None:
    aggregation: Any
    for aggregation in ("all", "first"):
        with pytest.raises(ValueError, match="merge_fn"):
            await fan_out([after(1)], aggregation=aggregation, merge_fn=list)


async def test_merge_of_nothing_that_succeeded_raises() -> None:
    merged: list[Any] = []
    with pytest.raises(FanOutError, match="ValueError: broken") as caught:
        await fan_out(
            [partial(fail, "broken"), give_up], aggregation="merge", merge_fn=merged.append
        )
    assert caught.value.result is not None
    assert (caught.value.result.failed, caught.value.result.cancelled) == (1, 1)
    assert merged == []


async def test_merge_run_raises_nothing_for_failures() -> None:
    merged: list[Any] = []
    outcome = await FanOutExecutor(aggregation="merge").run([fail, fail], merged.append)
    assert (outcome.value, outcome.winner, outcome.gather.failed) == (None, None, 2)
    assert merged == []
    outcome = await FanOutExecutor(aggregation="merge", min_success=2).run(
        [fail, partial(after, 1)], merged.append
    )
    assert (outcome.value, outcome.gather.total) == (None, 2)
    assert merged == []


async def test_merge_of_fewer_than_min_success_raises() -> None:
    works: list[Factory] = [partial(after, 1), fail, partial(after, 2)]
    with pytest.raises(FanOutError):
        await fan_out(works, aggregation="merge", merge_fn=sum, min_success=3)


async def test_merge_at_the_quorum_merges_every_success() -> None:
    async def late() -> float:
        try:
            await hang()
        except asyncio.CancelledError:
            return 100
        return 0

    works: list[Factory] = [late, partial(after, 1), partial(after, 2), partial(after, 9)]
    with pytest.warns(PartialResultWarning):
        merged = await fan_out(works, aggregation="merge", merge_fn=sum, min_success=2)
    assert merged == 103


async def test_merge_fail_fast_merges_what_had_succeeded() -> None:
    works: list[Factory] = [partial(after, 1), partial(fail, seconds=2), hang]
    with pytest.warns(PartialResultWarning):
        assert await fan_out(works, aggregation="merge", merge_fn=sum, fail_fast=True) == 1


async def test_merge_that_raises_comes_out_with_its_cause() -> None:
    def merge(values: list[Any]) -> None:
        raise ZeroDivisionError("in merge")

    for way in (
        fan_out([after(1)], aggregation="merge", merge_fn=merge),
        FanOutExecutor(aggregation="merge").run([after(1)], merge),
    ):
        with pytest.raises(FanOutError, match="ZeroDivisionError: in merge") as caught:
            await way
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert caught.value.result is not None
        assert caught.value.result.get_results() == [1]


# The warning.


async def by_function(works: list[Factory]) -> tuple[int, int]:
    return caller_line(), await fan_out(works, aggregation="merge", merge_fn=len)


async def by_executor(works: list[Factory]) -> tuple[int, int]:
    executor = FanOutExecutor(aggregation="merge")
    return caller_line(), await executor.fan_out(works, len)


def caller_line() -> int:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


@pytest.mark.parametrize("merge", [by_function, by_executor])
async def test_a_partial_merge_warns_at_the_callers_line(merge: Callable[..., Any]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line, merged = await merge([partial(after, 1), partial(fail, "no page"), partial(after, 2)])
    assert merged == 2
    (warning,) = caught
    assert warning.category is PartialResultWarning
    assert (warning.filename, warning.lineno) == (__file__, line)
    assert "2 of 3" in str(warning.message)
    assert "1: ValueError: no page" in str(warning.message)


async def test_a_whole_merge_warns_of_nothing() -> None:
    assert await fan_out([after(1), after(2)], aggregation="merge", merge_fn=sum) == 3


async def test_a_merge_past_a_source_left_early_warns() -> None:
    def endless() -> Iterator[Factory]:
        while True:
            yield partial(after, 1)

    with pytest.warns(PartialResultWarning):
        merged = await fan_out(
            endless(), aggregation="merge", merge_fn=sum, min_success=2, max_concurrent=1
        )
    assert merged == 2


async def test_run_warns_of_nothing() -> None:
    outcome = await FanOutExecutor(aggregation="merge").run([after(1), fail()], sum)
    assert outcome.value == 1
    assert outcome.gather.failed == 1


async def test_a_warning_made_an_error_loses_nothing_that_runs() -> None:
    with pytest.raises(PartialResultWarning):
        await fan_out([after(1), fail()], aggregation="merge", merge_fn=sum)


# Bad arguments.


async def test_an_unknown_aggregation_is_answered_with_the_three() -> None:
    with pytest.raises(ValueError, match="aggregation") as caught:
        await fan_out([after(1)], aggregation="best")  # type: ignore[arg-type]
    for name in ("all", "first", "merge", "best"):
        assert name in str(caught.value)
    with pytest.raises(ValueError, match="aggregation"):
        FanOutConfig(aggregation="race")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_concurrent", 0),
        ("max_concurrent", 2.5),
        ("timeout", -1),
        ("retry_failed", 1),
        ("max_retries", -1),
        ("max_retries", True),
        ("task_timeout", 0),
        ("fail_fast", "yes"),
        ("min_success", 0),
        ("throttler", 3),
        ("grace", -1),
    ],
)
async def test_each_field_is_checked_everywhere(field: str, value: Any) -> None:
    settings: dict[str, Any] = {field: value}
    with pytest.raises((TypeError, ValueError), match=field):
        FanOutConfig(**settings)
    with pytest.raises((TypeError, ValueError), match=field):
        FanOutExecutor(**settings)
    with pytest.raises((TypeError, ValueError), match=field):
        await fan_out([after(1), after(2)], **settings)


async def test_unknown_keywords_are_answered() -> None:
    with pytest.raises(TypeError, match="max_concurrent="):
        FanOutExecutor(max_concurrency=3)
    with pytest.raises(TypeError, match="retries"):
        FanOutExecutor(retries=3)
    with pytest.raises(TypeError, match="max_concurrent="):
        await fan_out([after(1)], max_concurrency=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        await FanOutExecutor().fan_out([after(1)], None, 3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="config"):
        FanOutExecutor({"max_concurrent": 3})  # type: ignore[arg-type]


async def test_a_config_changed_for_the_worse_is_refused_when_used() -> None:
    config = FanOutConfig()
    config.max_concurrent = 0
    with pytest.raises(ValueError, match="max_concurrent"):
        FanOutExecutor(config)


async def test_a_quorum_over_the_length_is_refused() -> None:
    with pytest.raises(ValueError, match="min_success"):
        await fan_out([after(1)], min_success=2)


# Nested and shared.


async def test_races_in_a_gather() -> None:
    async def ask(question: int) -> Any:
        return await fan_out([partial(after, 2 + question), partial(after, 9)], aggregation="first")

    result = await parallel_gather(*[partial(ask, n) for n in range(3)])
    assert result.get_results() == [2, 3, 4]
    assert result.total_duration_ms == 4_000


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int


async def test_a_race_raises_an_error_that_takes_no_notes_as_it_is() -> None:
    error = FrozenError(3)

    async def lose() -> None:
        raise error

    with pytest.raises(FrozenError) as raised:
        await fan_out([lose, lose], aggregation="first")
    assert raised.value is error
