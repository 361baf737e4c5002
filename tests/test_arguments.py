"""Calls that do not fit: answered in our words; signatures that say what each call takes."""

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import agentos_parallel
from agentos_parallel import (
    FanOutConfig,
    FanOutExecutor,
    ParallelExecutor,
    create_parallel_agent_gather,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from tests.pieces import after, settle

SHARED = {
    "task_timeout": None,
    "fail_fast": False,
    "min_success": None,
    "throttler": None,
    "grace": 5.0,
}
executor = ParallelExecutor()
fan = FanOutExecutor()


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


def names(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


# Signatures.


@pytest.mark.parametrize(
    ("function", "first", "own"),
    [
        (ParallelExecutor, [], {"max_concurrent": 8, "timeout": 60.0, "fail_fast": False}),
        (parallel_gather, ["coros"], {"max_concurrent": 8, "timeout": 60.0,
                                      "return_partial": True}),
        (parallel_map, ["func", "items"], {"max_concurrent": 8, "timeout": 60.0}),
        (parallel_stream, ["func", "items"], {"max_concurrent": 8, "timeout": None,
                                              "ordered": False}),
        (fan_out, ["works"], {"aggregation": "all", "merge_fn": None, "max_concurrent": 8,
                              "timeout": 60.0, "retry_failed": False, "max_retries": 2}),
        (FanOutConfig, [], {"max_concurrent": 8, "timeout": 60.0, "aggregation": "all",
                            "retry_failed": False, "max_retries": 2}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_a_signature_spells_out_every_keyword_with_its_default(
    function: Callable[..., Any], first: list[str], own: dict[str, Any]
) -> None:
    given = defaults(function)
    assert names(function)[: len(first) + len(own)] == [*first, *own]
    assert given == {**own, **{k: v for k, v in SHARED.items() if k not in own}}


@pytest.mark.parametrize(
    ("method", "first", "own"),
    [
        (executor.gather, ["coros"], {"timeout": None, "return_partial": True}),
        (executor.map, ["func", "items"], {"timeout": None}),
        (executor.stream, ["works"], {"timeout": None, "ordered": False}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_on_an_executors_method_each_keyword_defaults_to_the_executors_own(
    method: Callable[..., Any], first: list[str], own: dict[str, Any]
) -> None:
    assert names(method)[: len(first) + len(own)] == [*first, *own]
    assert defaults(method) == {**own, **dict.fromkeys(SHARED)}


def test_fan_out_methods_take_works_and_merge_fn() -> None:
    assert names(fan.fan_out) == ["worker_coros", "merge_fn"]
    assert names(fan.run) == ["works", "merge_fn"]
    assert defaults(fan.fan_out) == defaults(fan.run) == {"merge_fn": None}
    assert defaults(create_parallel_agent_gather)["max_concurrent"] == 8
    assert defaults(create_parallel_agent_gather)["timeout"] == 60.0


@pytest.mark.parametrize("function", [parallel_gather, parallel_map, parallel_stream, fan_out])
def test_the_shared_keywords_are_keyword_only(function: Callable[..., Any]) -> None:
    parameters = inspect.signature(function).parameters
    kinds = {parameters[name].kind for name in SHARED}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


def test_entry_points_are_of_the_kind_that_they_say() -> None:
    for function in (parallel_gather, parallel_map, fan_out, executor.gather, executor.map,
                     fan.fan_out, fan.run):  # fmt: skip
        assert inspect.iscoroutinefunction(function)
    for plain in (parallel_stream, executor.stream):
        assert not inspect.iscoroutinefunction(plain)


def test_every_public_name_is_documented() -> None:
    for name in agentos_parallel.__all__:
        documented = getattr(agentos_parallel, name)
        assert (inspect.getdoc(documented) or "").strip(), name
        assert documented.__name__ == name


# Keywords that nobody knows.

CALLS: dict[str, Callable[..., Any]] = {
    "ParallelExecutor": ParallelExecutor,
    "FanOutExecutor": FanOutExecutor,
    "ParallelExecutor.gather": partial(executor.gather, []),
    "ParallelExecutor.map": partial(executor.map, str, []),
    "ParallelExecutor.stream": partial(executor.stream, []),
    "parallel_gather": parallel_gather,
    "parallel_map": partial(parallel_map, str, []),
    "parallel_stream": partial(parallel_stream, str, []),
    "fan_out": partial(fan_out, []),
    "FanOutExecutor.fan_out": partial(fan.fan_out, []),
    "FanOutExecutor.run": partial(fan.run, []),
}


async def refusal(call: Callable[..., Any], **options: Any) -> str:
    with pytest.raises(TypeError) as refused:
        called = call(**options)
        if inspect.isawaitable(called):
            await called
    return str(refused.value)


@pytest.mark.parametrize("name", list(CALLS))
async def test_an_unknown_keyword_is_named_with_those_that_are_known(name: str) -> None:
    text = await refusal(CALLS[name], retires=3)
    assert "retires=" in text
    assert name in text
    assert "self" not in text


@pytest.mark.parametrize("name", list(CALLS))
async def test_max_concurrency_is_answered_with_our_word(name: str) -> None:
    text = await refusal(CALLS[name], max_concurrency=3)
    assert "max_concurrency=" in text
    assert "max_concurrent=" in text


async def test_a_refusal_lists_what_is_known() -> None:
    text = await refusal(partial(parallel_map, str, []), taks_timeout=1)
    for known in ("func", "items", "max_concurrent", "timeout", *SHARED):
        assert known in text


async def test_a_config_refuses_an_unknown_field() -> None:
    config: Any = FanOutConfig
    with pytest.raises(TypeError, match="retires"):
        config(retires=3)
    other: Any = {"max_concurrent": 3}
    with pytest.raises(TypeError, match="config must be a FanOutConfig or None, got a dict"):
        FanOutExecutor(other)


def test_a_config_may_be_changed_by_keywords() -> None:
    config = FanOutConfig(max_concurrent=4, aggregation="first")
    changed = FanOutExecutor(config, max_concurrent=2)
    assert (changed.config.max_concurrent, changed.config.aggregation) == (2, "first")
    assert config.max_concurrent == 4
    assert changed.executor.max_concurrent == 2
    assert FanOutExecutor(max_concurrent=4).config == FanOutConfig(max_concurrent=4)


# Arguments in the wrong place.


async def test_missing_and_surplus_arguments_are_type_errors() -> None:
    gather: Any = executor.gather
    map_: Any = parallel_map
    stream: Any = parallel_stream
    with pytest.raises(TypeError, match="coros"):
        await gather()
    with pytest.raises(TypeError, match="items"):
        await map_(str)
    with pytest.raises(TypeError, match="positional"):
        await gather([], 1, True, 4)
    with pytest.raises(TypeError, match="positional"):
        stream(str, [], 4)


async def test_works_in_one_list_get_the_hint() -> None:
    gather: Any = parallel_gather
    with pytest.raises(TypeError, match=r"\*works"):
        await gather([after(0, 1), after(0, 2)])
    with pytest.raises(TypeError, match=r"coros\[1\]"):
        await gather(after(0, 1), "text")


async def test_a_task_in_a_refused_call_is_cancelled_wherever_it_stands() -> None:
    tasks = [asyncio.create_task(after(60, n)) for n in range(4)]
    gather: Any = executor.gather
    with pytest.raises(TypeError):
        await gather({"a": [tasks[0]], "b": (tasks[1], {tasks[2]})}, whatever=tasks[3])
    await settle()
    assert all(task.cancelled() for task in tasks)


async def test_a_coroutine_that_runs_already_is_left_alone() -> None:
    coroutine = after(1, "a")
    task = asyncio.create_task(coroutine)
    await settle()
    with pytest.raises(ValueError, match="timeout"):
        await parallel_gather(coroutine, timeout=0)
    assert await task == "a"


async def test_a_list_that_holds_itself_is_refused_like_any_other() -> None:
    endless: list[Any] = [after(0, "a")]
    endless.append(endless)
    with pytest.raises(ValueError, match=r"^max_concurrent must be >= 1, got 0$"):
        await parallel_map(str, endless, max_concurrent=0)
    assert inspect.getcoroutinestate(endless[0]) == inspect.CORO_CLOSED


async def test_works_by_keyword_are_answered_with_what_is_known() -> None:
    works = [after(0, "a"), after(0, "b")]
    text = await refusal(parallel_gather, coros=works)
    assert text.startswith("parallel_gather does not know coros=: it knows max_concurrent, timeout")
    assert "coros" not in text.partition(": ")[2]
    assert [inspect.getcoroutinestate(work) for work in works] == [inspect.CORO_CLOSED] * 2
