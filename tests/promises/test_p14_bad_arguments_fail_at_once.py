"""P14: bad arguments fail at once, naming the argument, what was given and what is allowed."""

import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest

from agentos_parallel import (
    FanOutConfig,
    FanOutExecutor,
    ParallelExecutor,
    TaskStatus,
    TaskThrottler,
    create_parallel_agent_gather,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
)

Work = Coroutine[Any, Any, Any]
Entry = Callable[..., Any]
"""Takes works (coroutines) and keywords; what it returns is awaited or iterated, if it can be."""

started: list[object] = []


@pytest.fixture(autouse=True)
def _nothing_has_started() -> None:
    started.clear()


async def work() -> str:
    started.append("work")
    return "done"


async def use(item: Any) -> Any:
    started.append(item)
    return await item if inspect.isawaitable(item) else item


def works(count: int = 3) -> list[Work]:
    return [work() for _ in range(count)]


def closed(*coroutines: Work) -> bool:
    return all(inspect.getcoroutinestate(each) == inspect.CORO_CLOSED for each in coroutines)


async def finish(called: Any) -> Any:
    if isinstance(called, Awaitable):
        return await called
    if isinstance(called, AsyncIterator):
        return [task async for task in called]
    return called


async def refusal(function: Entry, *args: Any, **kwargs: Any) -> str:
    """What the call says when it refuses; nothing has started, as it must."""
    with pytest.raises((TypeError, ValueError)) as refused:
        await finish(function(*args, **kwargs))
    assert not started
    return f"{type(refused.value).__name__}: {refused.value}"


# Who takes what. Functions take settings beside the works, methods some, constructors all.


def gather(given: Any, **settings: Any) -> Any:
    return parallel_gather(*given, **settings)


def map_(given: Any, **settings: Any) -> Any:
    return parallel_map(use, given, **settings)


def stream(given: Any, **settings: Any) -> Any:
    return parallel_stream(use, given, **settings)


def merge(given: Any, **settings: Any) -> Any:
    return fan_out(given, aggregation="merge", merge_fn=sum, **settings)


def executor_gather(given: Any, **settings: Any) -> Any:
    return ParallelExecutor().gather(given, **settings)


def executor_map(given: Any, **settings: Any) -> Any:
    return ParallelExecutor().map(use, given, **settings)


def executor_stream(given: Any, **settings: Any) -> Any:
    return ParallelExecutor().stream(given, **settings)


def fan_out_executor(given: Any) -> Any:
    return FanOutExecutor().fan_out(given)


def fan_out_executor_run(given: Any) -> Any:
    return FanOutExecutor().run(given)


def made_gather(given: Any) -> Any:
    return create_parallel_agent_gather()(*given)


FUNCTIONS: list[Entry] = [gather, map_, stream, fan_out, merge]
METHODS: list[Entry] = [executor_gather, executor_map, executor_stream]
FAN_OUTS: list[Entry] = [fan_out_executor, fan_out_executor_run]
CONSTRUCTORS: list[Entry] = [ParallelExecutor, FanOutConfig, FanOutExecutor]
TAKE_SETTINGS: list[Entry] = [*FUNCTIONS, *METHODS]
TAKE_WORKS: list[Entry] = [gather, fan_out, executor_gather, executor_stream, *FAN_OUTS]


def named(entries: list[Entry]) -> Any:
    return pytest.mark.parametrize("entry", entries, ids=lambda entry: entry.__name__)


@dataclass
class Bad:
    """A setting that is refused: how, and what the text says beside name and value."""

    name: str
    value: Any
    error: type[Exception]
    allowed: str
    shown: str = ""

    def __str__(self) -> str:
        return f"{self.name}={self.value!r}"

    @property
    def setting(self) -> dict[str, Any]:
        return {self.name: self.value}

    def check(self, text: str) -> None:
        assert text.startswith(f"{self.error.__name__}: ")
        assert self.name in text
        assert self.allowed in text
        assert (self.shown or repr(self.value)) in text


LIMITS = [
    Bad("max_concurrent", 0, ValueError, ">= 1"),
    Bad("max_concurrent", -1, ValueError, ">= 1"),
    Bad("max_concurrent", 2.5, TypeError, "whole number >= 1"),
    Bad("max_concurrent", True, TypeError, "whole number >= 1"),
    Bad("max_concurrent", "8", TypeError, "whole number >= 1"),
    Bad("max_concurrent", math.inf, TypeError, "whole number >= 1"),
]
TIMEOUTS = [
    Bad("timeout", 0, ValueError, "> 0"),
    Bad("timeout", -1, ValueError, "> 0"),
    Bad("timeout", -0.5, ValueError, "> 0"),
    Bad("timeout", math.nan, ValueError, "> 0"),
    Bad("timeout", "60", TypeError, "number of seconds > 0"),
    Bad("timeout", True, TypeError, "number of seconds > 0"),
]
OPTIONS = [
    Bad("task_timeout", 0, ValueError, "> 0"),
    Bad("task_timeout", -1, ValueError, "> 0"),
    Bad("task_timeout", math.nan, ValueError, "> 0"),
    Bad("task_timeout", "60", TypeError, "number of seconds > 0"),
    Bad("task_timeout", True, TypeError, "number of seconds > 0"),
    Bad("grace", -1, ValueError, ">= 0"),
    Bad("grace", math.nan, ValueError, ">= 0"),
    Bad("grace", "5", TypeError, "number of seconds >= 0"),
    Bad("grace", True, TypeError, "number of seconds >= 0"),
    Bad("min_success", 0, ValueError, ">= 1"),
    Bad("min_success", -1, ValueError, ">= 1"),
    Bad("min_success", 1.5, TypeError, "whole number >= 1"),
    Bad("min_success", True, TypeError, "whole number >= 1"),
    Bad("fail_fast", 1, TypeError, "True or False"),
    Bad("fail_fast", "yes", TypeError, "True or False"),
    Bad("throttler", 4, TypeError, "TaskThrottler"),
    Bad("throttler", "openai", TypeError, "TaskThrottler"),
    Bad("throttler", [TaskThrottler()], TypeError, "TaskThrottler", shown="list"),
]
RETRIES = [
    Bad("max_retries", -1, ValueError, ">= 0"),
    Bad("max_retries", 2.5, TypeError, "whole number >= 0"),
    Bad("max_retries", True, TypeError, "whole number >= 0"),
    Bad("retry_failed", 1, TypeError, "True or False"),
    Bad("retry_failed", None, TypeError, "True or False"),
]


# The shared settings.


@pytest.mark.parametrize("bad", [*LIMITS, *TIMEOUTS, *OPTIONS], ids=str)
@named(FUNCTIONS)
async def test_a_function_refuses_a_bad_setting(entry: Entry, bad: Bad) -> None:
    given = works()
    bad.check(await refusal(entry, given, **bad.setting))
    assert closed(*given)


@pytest.mark.parametrize("bad", [*TIMEOUTS, *OPTIONS], ids=str)
@named(METHODS)
async def test_a_method_refuses_a_bad_setting(entry: Entry, bad: Bad) -> None:
    given = works()
    bad.check(await refusal(entry, given, **bad.setting))
    assert closed(*given)


@pytest.mark.parametrize("bad", [*LIMITS, *TIMEOUTS, *OPTIONS], ids=str)
@named(CONSTRUCTORS)
async def test_a_constructor_refuses_a_bad_setting(entry: Entry, bad: Bad) -> None:
    bad.check(await refusal(entry, **bad.setting))


@pytest.mark.parametrize("bad", [*LIMITS, *TIMEOUTS], ids=str)
async def test_the_maker_of_a_gather_refuses_a_bad_setting(bad: Bad) -> None:
    bad.check(await refusal(create_parallel_agent_gather, **bad.setting))


@pytest.mark.parametrize("bad", LIMITS, ids=str)
async def test_a_throttler_refuses_a_bad_limit(bad: Bad) -> None:
    bad.check(await refusal(TaskThrottler, **bad.setting))
    throttler = TaskThrottler(3)
    bad.check(await refusal(throttler.resize, **bad.setting))
    assert throttler.max_concurrent == 3


@pytest.mark.parametrize("bad", RETRIES, ids=str)
async def test_a_fan_out_refuses_bad_retries(bad: Bad) -> None:
    given = works()
    bad.check(await refusal(fan_out, given, **bad.setting))
    assert closed(*given)
    bad.check(await refusal(FanOutConfig, **bad.setting))
    bad.check(await refusal(FanOutExecutor, **bad.setting))


@named([gather, executor_gather])
@pytest.mark.parametrize("value", [1, "no", None])
async def test_return_partial_is_true_or_false(entry: Entry, value: Any) -> None:
    given = works()
    text = await refusal(entry, given, return_partial=value)
    Bad("return_partial", value, TypeError, "True or False").check(text)
    assert closed(*given)


@named([stream, executor_stream])
@pytest.mark.parametrize("value", [1, "no", None])
async def test_ordered_is_true_or_false(entry: Entry, value: Any) -> None:
    given = works()
    text = await refusal(entry, given, ordered=value)
    Bad("ordered", value, TypeError, "True or False").check(text)
    assert closed(*given)


@named([gather, map_, stream, fan_out])
async def test_no_limit_at_all_is_refused(entry: Entry) -> None:
    given = works()
    text = await refusal(entry, given, max_concurrent=None)
    Bad("max_concurrent", None, ValueError, "throttler=").check(text)
    assert closed(*given)


@named(CONSTRUCTORS)
async def test_a_constructor_refuses_no_limit_at_all(entry: Entry) -> None:
    text = await refusal(entry, max_concurrent=None)
    Bad("max_concurrent", None, ValueError, "throttler=").check(text)


@named(TAKE_SETTINGS)
async def test_fail_fast_and_min_success_exclude_each_other(entry: Entry) -> None:
    given = works()
    text = await refusal(entry, given, fail_fast=True, min_success=1)
    assert text.startswith("ValueError: ")
    assert "fail_fast" in text
    assert "min_success" in text
    assert closed(*given)


@named(CONSTRUCTORS)
async def test_a_constructor_refuses_fail_fast_with_min_success(entry: Entry) -> None:
    text = await refusal(entry, fail_fast=True, min_success=1)
    assert text.startswith("ValueError: ")


async def test_an_executors_setting_and_a_methods_exclude_each_other_too() -> None:
    given = works()
    executor = ParallelExecutor(fail_fast=True)
    text = await refusal(executor.gather, given, min_success=1)
    assert text.startswith("ValueError: ")
    assert closed(*given)


@pytest.mark.parametrize("setting", [{"fail_fast": True}, {"min_success": 1}], ids=str)
async def test_first_excludes_other_stop_rules(setting: dict[str, Any]) -> None:
    given = works()
    text = await refusal(fan_out, given, aggregation="first", **setting)
    assert text.startswith("ValueError: ")
    assert '"first"' in text
    assert next(iter(setting)) in text
    assert closed(*given)
    await refusal(FanOutConfig, aggregation="first", **setting)
    await refusal(FanOutExecutor, aggregation="first", **setting)


@named(TAKE_SETTINGS)
async def test_min_success_may_not_pass_the_number_of_works(entry: Entry) -> None:
    given = works(3)
    text = await refusal(entry, given, min_success=4)
    Bad("min_success", 4, ValueError, "3").check(text)
    assert closed(*given)


@named(FAN_OUTS)
async def test_a_fan_out_executors_min_success_may_not_pass_it_either(entry: Entry) -> None:
    given = works(3)
    executor = FanOutExecutor(min_success=4)
    method = executor.run if entry is fan_out_executor_run else executor.fan_out
    text = await refusal(method, given)
    Bad("min_success", 4, ValueError, "3").check(text)
    assert closed(*given)


async def test_min_success_of_an_unsized_source_is_not_known_to_be_too_much() -> None:
    result = await parallel_map(use, iter("ab"), min_success=4)
    assert result.completed == 2


@pytest.mark.parametrize("setting", [{"timeout": math.inf}, {"timeout": None}, {"grace": 0}])
@named(FUNCTIONS[:-1])
async def test_what_is_at_the_edge_is_allowed(entry: Entry, setting: dict[str, Any]) -> None:
    assert await finish(entry(works(), **setting))


async def test_numbers_of_other_types_are_numbers() -> None:
    result = await parallel_gather(*works(), timeout=Fraction(3, 2))  # type: ignore[call-overload]
    assert result.all_succeeded


# Unknown keywords.


SHARED = ("task_timeout", "fail_fast", "min_success", "throttler", "grace")


@pytest.mark.parametrize("keyword", ["retries", "concurrency", "timout"])
@named(TAKE_SETTINGS)
async def test_an_unknown_keyword_is_answered_with_those_that_are_known(
    entry: Entry, keyword: str
) -> None:
    given = works()
    text = await refusal(entry, given, **{keyword: 3})
    assert text.startswith("TypeError: ")
    assert f"{keyword}=" in text
    assert all(known in text for known in SHARED)
    assert closed(*given)


@pytest.mark.parametrize("keyword", ["retries", "concurrency", "timout"])
@named(CONSTRUCTORS)
async def test_a_constructor_answers_an_unknown_keyword_too(entry: Entry, keyword: str) -> None:
    text = await refusal(entry, **{keyword: 3})
    assert text.startswith("TypeError: ")
    assert f"{keyword}=" in text
    assert all(known in text for known in SHARED)


@named(TAKE_SETTINGS)
async def test_max_concurrency_is_answered_with_our_word(entry: Entry) -> None:
    given = works()
    text = await refusal(entry, given, max_concurrency=3)
    assert text.startswith("TypeError: ")
    assert "max_concurrency" in text
    assert "max_concurrent=" in text
    assert closed(*given)


@named([*CONSTRUCTORS, create_parallel_agent_gather, TaskThrottler])
async def test_constructors_answer_max_concurrency_with_our_word(entry: Entry) -> None:
    text = await refusal(entry, max_concurrency=3)
    assert text.startswith("TypeError: ")
    assert "max_concurrency" in text
    assert "max_concurrent=" in text


@pytest.mark.parametrize("keyword", ["retries", "max_concurrency"])
async def test_the_methods_of_a_fan_out_executor_know_no_settings(keyword: str) -> None:
    executor = FanOutExecutor()
    for method in (executor.fan_out, executor.run):
        given = works()
        text = await refusal(method, given, **{keyword: 3})
        assert text.startswith("TypeError: ")
        assert keyword in text
        assert closed(*given)


async def test_a_made_gather_knows_no_keywords() -> None:
    given = works()
    text = await refusal(create_parallel_agent_gather(), *given, max_concurrency=3)
    assert "max_concurrency" in text
    assert closed(*given)


async def test_too_few_and_too_many_arguments_leave_no_coroutine_open() -> None:
    given = works()
    for call in (parallel_map, parallel_stream, ParallelExecutor().map):
        await refusal(call, given)
    assert closed(*given)
    given = works()
    await refusal(fan_out, given, "first")
    assert closed(*given)
    given = works()
    await refusal(ParallelExecutor().gather, given, None, True, given)
    assert closed(*given)


# Works.


@pytest.mark.parametrize("bad", [42, 2.5, "a text", None, object(), [1], {"a": 1}], ids=repr)
@named(TAKE_WORKS)
async def test_what_is_no_work_is_named_by_index_and_type(entry: Entry, bad: Any) -> None:
    given = works(2)
    text = await refusal(entry, [given[0], bad, given[1]])
    assert text.startswith("TypeError: ")
    assert "[1]" in text
    assert type(bad).__name__ in text
    assert closed(*given)


@named([entry for entry in TAKE_WORKS if entry is not gather])
async def test_what_is_no_work_in_a_mapping_is_named_by_its_key(entry: Entry) -> None:
    given = works(2)
    text = await refusal(entry, {"search": given[0], "answer": 42, "check": given[1]})
    assert "'answer'" in text
    assert "int" in text
    assert closed(*given)


async def test_a_made_gather_names_it_too() -> None:
    given = works(2)
    text = await refusal(made_gather, [given[0], 42, given[1]])
    assert "[1]" in text
    assert closed(*given)


@named(TAKE_WORKS)
async def test_the_same_coroutine_twice_is_refused(entry: Entry) -> None:
    given = works(2)
    text = await refusal(entry, [given[0], given[1], given[0]])
    assert text.startswith("ValueError: ")
    assert "[0]" in text
    assert "[2]" in text
    assert closed(*given)


@named([entry for entry in TAKE_WORKS if entry is not gather])
async def test_the_same_coroutine_under_two_keys_is_refused(entry: Entry) -> None:
    given = works(1)
    text = await refusal(entry, {"first": given[0], "again": given[0]})
    assert text.startswith("ValueError: ")
    assert "'first'" in text
    assert "'again'" in text
    assert closed(*given)


async def test_the_same_factory_twice_is_two_works() -> None:
    result = await parallel_gather(work, work)
    assert result.get_results() == ["done", "done"]


async def numbers() -> AsyncIterator[int]:
    yield 1


@named(TAKE_WORKS)
async def test_an_async_generator_function_is_no_work(entry: Entry) -> None:
    given = works(1)
    text = await refusal(entry, [given[0], numbers])
    assert text.startswith("TypeError: ")
    assert "[1]" in text
    assert "async generator" in text
    assert closed(*given)


@named(TAKE_WORKS)
async def test_an_async_generator_is_no_work(entry: Entry) -> None:
    given = works(1)
    text = await refusal(entry, [given[0], numbers()])
    assert "[1]" in text
    assert "async generator" in text
    assert closed(*given)


# Collections of works and items.


@named([*TAKE_WORKS[1:], map_, stream, executor_map])
@pytest.mark.parametrize("bad", [None, 42, object()], ids=repr)
async def test_what_is_no_collection_is_refused(entry: Entry, bad: Any) -> None:
    text = await refusal(entry, bad)
    assert text.startswith("TypeError: ")
    assert "iterable" in text
    assert (repr(bad) in text) or (type(bad).__name__ in text)


@named([*TAKE_WORKS[1:], map_, stream, executor_map])
@pytest.mark.parametrize("bad", ["abc", b"abc", bytearray(b"abc"), ""], ids=repr)
async def test_characters_are_no_collection(entry: Entry, bad: Any) -> None:
    text = await refusal(entry, bad)
    assert text.startswith("TypeError: ")
    assert type(bad).__name__ in text
    assert "list" in text


@pytest.mark.parametrize(
    ("entry", "argument"),
    [
        (map_, "items"),
        (stream, "items"),
        (executor_map, "items"),
        (executor_gather, "coros"),
        (executor_stream, "works"),
        (fan_out, "works"),
        (fan_out_executor_run, "works"),
        (fan_out_executor, "worker_coros"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
async def test_the_error_names_the_argument(entry: Entry, argument: str) -> None:
    for bad in (None, "abc"):
        text = await refusal(entry, bad)
        assert argument in text


@named([*TAKE_WORKS[1:], map_, stream, executor_map])
async def test_keys_of_a_mapping_must_be_str(entry: Entry) -> None:
    given = works(2)
    text = await refusal(entry, {"a": given[0], 7: given[1]})
    assert text.startswith("TypeError: ")
    assert "7" in text
    assert "str" in text
    assert closed(*given)


@named([*TAKE_WORKS[1:], map_, stream, executor_map])
async def test_a_work_of_its_own_is_no_collection(entry: Entry) -> None:
    (given,) = works(1)
    text = await refusal(entry, given)
    assert text.startswith("TypeError: ")
    assert "list" in text
    assert closed(given)
    assert "list" in await refusal(entry, work)


async def test_parallel_gather_of_a_list_is_shown_the_star() -> None:
    a, b = works(2)
    text = await refusal(parallel_gather, [a, b])
    assert text.startswith("TypeError: ")
    assert "*works" in text
    assert "list" in text
    assert closed(a, b)


@pytest.mark.parametrize("kind", [tuple, set, lambda pair: dict(zip("ab", pair, strict=True))])
async def test_parallel_gather_of_another_collection_is_shown_the_star(kind: Any) -> None:
    a, b = works(2)
    text = await refusal(parallel_gather, kind([a, b]))
    assert "*works" in text
    assert closed(a, b)


async def test_a_second_work_does_not_pass_for_a_timeout() -> None:
    a, b = works(2)
    text = await refusal(ParallelExecutor().gather, a, b)
    assert text.startswith("TypeError: ")
    assert closed(a, b)
    a, b = works(2)
    text = await refusal(ParallelExecutor().gather, [a], b)
    assert "timeout" in text
    assert closed(a, b)


# Functions.


@named([parallel_map, parallel_stream, ParallelExecutor().map])
@pytest.mark.parametrize("bad", [None, 42, "summarise", [work]], ids=repr)
async def test_func_must_be_a_function_or_a_runnable(entry: Entry, bad: Any) -> None:
    given = works()
    text = await refusal(entry, bad, given)
    assert text.startswith("TypeError: func ")
    assert "Runnable" in text
    assert (repr(bad) in text) or (type(bad).__name__ in text)
    assert closed(*given)


@named([parallel_map, parallel_stream, ParallelExecutor().map])
async def test_func_may_not_be_an_async_generator_function(entry: Entry) -> None:
    async def several(item: int) -> AsyncIterator[int]:
        yield item

    text = await refusal(entry, several, [1, 2])
    assert text.startswith("TypeError: func ")
    assert "async generator" in text


@named([parallel_map, parallel_stream, ParallelExecutor().map])
async def test_func_may_not_be_a_coroutine(entry: Entry) -> None:
    (given,) = works(1)
    assert (await refusal(entry, given, [1, 2])).startswith("TypeError: func ")
    assert closed(given)


# Fan-outs.


@pytest.mark.parametrize("bad", ["any", "ALL", "", None, 3, ["all"]], ids=repr)
async def test_an_unknown_aggregation_is_shown_the_three(bad: Any) -> None:
    given = works()
    texts = [
        await refusal(fan_out, given, aggregation=bad),
        await refusal(FanOutConfig, aggregation=bad),
        await refusal(FanOutExecutor, aggregation=bad),
    ]
    for text in texts:
        assert "aggregation" in text
        assert all(f'"{name}"' in text for name in ("all", "first", "merge"))
        assert (repr(bad) in text) or (type(bad).__name__ in text)
    assert closed(*given)


async def test_merge_without_merge_fn_is_refused() -> None:
    executor = FanOutExecutor(aggregation="merge")
    for call in (executor.fan_out, executor.run):
        given = works()
        text = await refusal(call, given)
        assert text.startswith("ValueError: ")
        assert "merge_fn" in text
        assert closed(*given)
    given = works()
    assert "merge_fn" in await refusal(fan_out, given, aggregation="merge")
    assert closed(*given)


@pytest.mark.parametrize("bad", [42, "join", numbers], ids=repr)
async def test_merge_fn_is_checked_before_any_work_starts(bad: Any) -> None:
    given = works()
    text = await refusal(fan_out, given, aggregation="merge", merge_fn=bad)
    assert text.startswith("TypeError: merge_fn ")
    assert closed(*given)
    given = works()
    await refusal(FanOutExecutor(aggregation="merge").run, given, bad)
    assert closed(*given)


@pytest.mark.parametrize("aggregation", ["all", "first"])
async def test_merge_fn_belongs_to_merge(aggregation: str) -> None:
    given = works()
    text = await refusal(fan_out, given, aggregation=aggregation, merge_fn=sum)
    assert "merge_fn" in text
    assert aggregation in text
    assert closed(*given)


async def test_a_coroutine_as_merge_fn_is_closed_too() -> None:
    given = works()
    merge_fn = work()
    await refusal(fan_out, given, aggregation="merge", merge_fn=merge_fn)
    assert closed(*given, merge_fn)


@pytest.mark.parametrize("aggregation", ["all", "first"])
async def test_a_bare_coroutine_cannot_be_retried(aggregation: str) -> None:
    given = works(1)
    text = await refusal(fan_out, [work, given[0]], aggregation=aggregation, retry_failed=True)
    assert text.startswith("ValueError: ")
    assert "[1]" in text
    assert "retry_failed" in text
    assert closed(*given)
    executor = FanOutExecutor(aggregation=aggregation, retry_failed=True)
    for call in (executor.fan_out, executor.run):
        given = works(2)
        await refusal(call, given)
        assert closed(*given)


@pytest.mark.parametrize("aggregation", ["first", "merge"])
@pytest.mark.parametrize("empty", [(), [], {}], ids=repr)
async def test_first_and_merge_of_nothing_are_refused(aggregation: str, empty: Any) -> None:
    merge_fn = sum if aggregation == "merge" else None
    text = await refusal(fan_out, empty, aggregation=aggregation, merge_fn=merge_fn)
    assert text.startswith("ValueError: ")
    assert aggregation in text
    executor = FanOutExecutor(aggregation=aggregation)
    await refusal(executor.fan_out, empty, merge_fn)
    await refusal(executor.run, empty, merge_fn)


@named([*TAKE_WORKS, map_, stream, executor_map, made_gather])
async def test_nothing_to_do_is_fine_everywhere_else(entry: Entry) -> None:
    result = await finish(entry([]))
    if entry in {stream, executor_stream}:
        assert result == []
        return
    gathered = getattr(result, "gather", result)
    assert gathered.total == 0
    assert gathered.all_succeeded


@pytest.mark.parametrize("bad", [{"timeout": 3}, "first", 3], ids=repr)
async def test_config_must_be_a_config(bad: Any) -> None:
    text = await refusal(FanOutExecutor, bad)
    assert text.startswith("TypeError: config ")
    assert "FanOutConfig" in text


# Of a lazy source only what is drawn can be bad.


async def test_a_bad_work_from_a_lazy_source_is_its_tasks_failure() -> None:
    def source() -> Iterator[Any]:
        yield work
        yield 42
        yield numbers
        yield work()

    result = await ParallelExecutor().gather(source())
    statuses = [task.status for task in result.results]
    assert statuses == [
        TaskStatus.COMPLETED,
        TaskStatus.FAILED,
        TaskStatus.FAILED,
        TaskStatus.COMPLETED,
    ]
    assert all(isinstance(error, TypeError) for _, error in result.get_errors())


async def test_the_same_coroutine_twice_from_a_lazy_source_is_its_tasks_failure() -> None:
    (given,) = works(1)
    result = await ParallelExecutor().gather(iter([given, given]))
    assert sorted(task.status.value for task in result.results) == ["completed", "failed"]


async def test_a_bare_coroutine_from_a_lazy_source_cannot_be_retried() -> None:
    (given,) = works(1)
    source: Iterator[Any] = iter([work, given])
    result = await fan_out(source, retry_failed=True)
    assert [task.status.value for task in result.results] == ["completed", "failed"]
    assert closed(given)


async def test_a_bad_answer_of_a_function_of_the_item_is_its_tasks_failure() -> None:
    def limit(item: str) -> Any:
        return TaskThrottler() if item == "good" else "openai"

    result = await parallel_map(use, iter(["good", "bad", "good"]), throttler=limit)
    assert [task.status.value for task in result.results] == ["completed", "failed", "completed"]
    error = result.results[1].error
    assert isinstance(error, TypeError)
    assert "throttler" in str(error)
    assert "'openai'" in str(error)


@pytest.mark.parametrize("bad", [7, "openai", None], ids=repr)
@named([gather, fan_out, executor_gather, executor_stream])
async def test_over_a_list_a_bad_answer_of_a_function_of_the_task_id_fails_at_once(
    entry: Entry, bad: Any
) -> None:
    given = works()
    text = await refusal(entry, given, throttler=lambda _: bad)
    assert closed(*given)
    Bad("throttler", bad, TypeError, "TaskThrottler").check(text)


@pytest.mark.parametrize("bad", [7, "openai", None], ids=repr)
@named([map_, stream, executor_map])
async def test_over_a_list_a_bad_answer_of_a_function_of_the_item_fails_at_once(
    entry: Entry, bad: Any
) -> None:
    text = await refusal(entry, [1, 2], throttler=lambda _: bad)
    Bad("throttler", bad, TypeError, "TaskThrottler").check(text)


@pytest.mark.parametrize("bad", [0, -1, math.nan, "60"], ids=repr)
async def test_a_bad_task_timeout_of_a_function_is_its_tasks_failure(bad: Any) -> None:
    result = await parallel_map(use, iter("ab"), task_timeout=lambda item: {"a": 1}.get(item, bad))
    assert [task.status.value for task in result.results] == ["completed", "failed"]
    assert "task_timeout" in str(result.results[1].error)


# The call refuses before anybody else could notice.


async def test_a_refused_call_leaves_a_shared_throttler_as_it_was() -> None:
    throttler = TaskThrottler(1)
    given = works()
    await refusal(parallel_gather, *given, throttler=throttler, timeout=0)
    assert (throttler.active, throttler.waiting, throttler.peak) == (0, 0, 0)


async def test_a_refused_call_draws_nothing_from_its_source() -> None:
    drawn: list[int] = []

    def source() -> Iterator[int]:
        for number in range(3):
            drawn.append(number)
            yield number

    for entry in (map_, stream, executor_map):
        await refusal(entry, source(), timeout=0)
    assert not drawn


def test_a_constructor_refuses_outside_a_loop() -> None:
    with pytest.raises(ValueError, match="max_concurrent must be >= 1, got 0"):
        ParallelExecutor(max_concurrent=0)


def test_a_stream_refuses_when_it_is_made() -> None:
    given = works()
    with pytest.raises(ValueError, match="timeout"):
        parallel_stream(use, given, timeout=0)
    assert closed(*given)
    given = works()
    with pytest.raises(ValueError, match="timeout"):
        ParallelExecutor().stream(given, timeout=-1)
    assert closed(*given)


async def test_the_words_of_an_error_stay_short() -> None:
    assert len(await refusal(parallel_gather, timeout="x" * 10_000)) < 300
    assert len(await refusal(parallel_map, work, "x" * 10_000)) < 300
