"""Settings: the shared keywords, the same everywhere, an executor's as the default of its runs."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from agentos_parallel import (
    FanOutConfig,
    FanOutExecutor,
    GatherResult,
    ParallelExecutor,
    TaskThrottler,
    create_parallel_agent_gather,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from tests.pieces import after, failing_after

Entry = Callable[..., Coroutine[Any, Any, Any]]


async def streamed(**options: Any) -> None:
    async for _ in parallel_stream(asyncio.sleep, [0], **options):
        pass


async def streamed_by_executor(**options: Any) -> None:
    async for _ in ParallelExecutor().stream([after(0, 1)], **options):
        pass


async def by_class(**options: Any) -> None:
    ParallelExecutor(**options)


async def by_config(**options: Any) -> None:
    FanOutConfig(**options)


async def by_fan_out_executor(**options: Any) -> None:
    FanOutExecutor(**options)


FUNCTIONS: dict[str, Entry] = {
    "parallel_gather": lambda **options: parallel_gather(after(0, 1), **options),
    "parallel_map": lambda **options: parallel_map(asyncio.sleep, [0], **options),
    "parallel_stream": streamed,
    "fan_out": lambda **options: fan_out([after(0, 1)], **options),
    "ParallelExecutor": by_class,
    "FanOutConfig": by_config,
    "FanOutExecutor": by_fan_out_executor,
}
METHODS: dict[str, Entry] = {
    "gather": lambda **options: ParallelExecutor().gather([after(0, 1)], **options),
    "map": lambda **options: ParallelExecutor().map(asyncio.sleep, [0], **options),
    "stream": streamed_by_executor,
}
BOTH = {**FUNCTIONS, **METHODS}

BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"timeout": 0}, ValueError, "timeout"),
    ({"timeout": "5"}, TypeError, "timeout"),
    ({"task_timeout": -1}, ValueError, "task_timeout"),
    ({"task_timeout": math.nan}, ValueError, "task_timeout"),
    ({"fail_fast": 1}, TypeError, "fail_fast"),
    ({"min_success": 0}, ValueError, "min_success"),
    ({"min_success": True}, TypeError, "min_success"),
    ({"throttler": 4}, TypeError, "throttler"),
    ({"grace": -1}, ValueError, "grace"),
    ({"grace": "1"}, TypeError, "grace"),
    ({"fail_fast": True, "min_success": 1}, ValueError, "exclude each other"),
]


@pytest.mark.parametrize("entry", BOTH.values(), ids=list(BOTH))
@pytest.mark.parametrize(("options", "kind", "text"), BAD, ids=lambda value: str(value))
async def test_a_bad_setting_is_refused_everywhere(
    entry: Entry, options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        await entry(**options)


GOOD: list[dict[str, Any]] = [
    {"timeout": 5, "task_timeout": 3, "fail_fast": True, "grace": 0},
    {"timeout": math.inf, "task_timeout": math.inf, "min_success": 1},
    {"task_timeout": lambda _: 5, "throttler": lambda _: TaskThrottler(2)},
    {"throttler": TaskThrottler(2), "task_timeout": None, "min_success": None},
    {"timeout": None, "throttler": None},
]


@pytest.mark.parametrize("entry", BOTH.values(), ids=list(BOTH))
@pytest.mark.parametrize("options", GOOD, ids=list)
async def test_the_same_keywords_are_known_everywhere(
    entry: Entry, options: dict[str, Any]
) -> None:
    await entry(**options)


@pytest.mark.parametrize("entry", FUNCTIONS.values(), ids=list(FUNCTIONS))
async def test_no_limit_at_all_is_refused(entry: Entry) -> None:
    with pytest.raises(ValueError, match=r"max_concurrent=None .* throttler"):
        await entry(max_concurrent=None)
    await entry(max_concurrent=None, throttler=TaskThrottler(2))


def test_an_executors_arguments_are_its_attributes() -> None:
    plain = ParallelExecutor()
    assert (plain.max_concurrent, plain.timeout, plain.fail_fast) == (8, 60.0, False)
    assert (plain.task_timeout, plain.min_success, plain.grace) == (None, None, 5.0)
    assert isinstance(plain.throttler, TaskThrottler)
    assert plain.throttler.max_concurrent == 8

    shared = TaskThrottler(3)
    given = ParallelExecutor(2, 30, True, task_timeout=5, throttler=shared, grace=1)
    assert (given.max_concurrent, given.timeout, given.fail_fast) == (2, 30, True)
    assert (given.task_timeout, given.grace) == (5, 1)
    assert given.throttler is shared
    assert ParallelExecutor(min_success=2).min_success == 2


def test_a_config_has_its_fields_in_order_with_their_defaults() -> None:
    config = FanOutConfig(4, 30.0, "merge", True, 5)
    assert (config.max_concurrent, config.timeout, config.aggregation) == (4, 30.0, "merge")
    assert (config.retry_failed, config.max_retries) == (True, 5)
    assert FanOutConfig() == FanOutConfig(8, 60.0, "all", False, 2)


# On an executor's method None is the executor's own.


async def test_none_on_a_method_is_the_executors_own_setting() -> None:
    executor = ParallelExecutor(timeout=5, fail_fast=True, task_timeout=3, grace=1)
    result: GatherResult[Any] = await executor.gather(
        [failing_after(1, ValueError()), after(9, 1)],
        timeout=None, task_timeout=None, fail_fast=None, min_success=None, throttler=None,
        grace=None,
    )  # fmt: skip
    assert result.total_duration_ms == 1_000
    assert [task.status.value for task in result.results] == ["failed", "cancelled"]


async def test_a_method_changes_a_setting_for_one_run() -> None:
    executor = ParallelExecutor(timeout=5)
    assert (await executor.map(asyncio.sleep, [9], timeout=2)).total_duration_ms == 2_000
    assert (await executor.map(asyncio.sleep, [9], task_timeout=1)).total_duration_ms == 1_000
    assert (await executor.map(asyncio.sleep, [9])).total_duration_ms == 5_000


async def test_a_method_may_switch_fail_fast_off() -> None:
    executor = ParallelExecutor(fail_fast=True)
    works = [failing_after(1, ValueError()), after(2, 1)]
    result: GatherResult[Any] = await executor.gather(works, fail_fast=False)
    assert result.completed == 1


async def test_rules_of_executor_and_method_exclude_each_other_too() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        await ParallelExecutor(fail_fast=True).gather([after(0, 1)], min_success=1)


async def test_the_settings_of_an_executor_may_be_changed_later() -> None:
    executor = ParallelExecutor(timeout=5)
    executor.timeout = 2
    assert (await executor.map(asyncio.sleep, [9])).total_duration_ms == 2_000
    executor.timeout = -1
    with pytest.raises(ValueError, match="timeout"):
        await executor.map(asyncio.sleep, [9])


# Limits.


async def test_both_limits_hold_the_runs_and_the_throttlers() -> None:
    wide = await parallel_map(asyncio.sleep, [1] * 6, max_concurrent=3, throttler=TaskThrottler(2))
    assert wide.total_duration_ms == 3_000
    narrow = await parallel_map(
        asyncio.sleep, [1] * 6, max_concurrent=2, throttler=TaskThrottler(3)
    )
    assert narrow.total_duration_ms == 3_000


async def test_all_runs_of_an_executor_share_its_slots() -> None:
    executor = ParallelExecutor(max_concurrent=2)
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(executor.map(asyncio.sleep, [1] * 4)) for _ in range(2)]
    assert max(run.result().total_duration_ms for run in runs) == 4_000


async def test_an_executors_throttler_and_a_methods_hold_both() -> None:
    executor, extra = ParallelExecutor(max_concurrent=3), TaskThrottler(2)
    result = await executor.map(asyncio.sleep, [1] * 6, throttler=extra)
    assert result.total_duration_ms == 3_000
    assert (extra.peak, extra.active) == (2, 0)
    assert isinstance(executor.throttler, TaskThrottler)
    assert (executor.throttler.peak, executor.throttler.active) == (2, 0)


async def test_a_throttler_given_twice_is_taken_once() -> None:
    shared = TaskThrottler(2)
    executor = ParallelExecutor(throttler=shared)
    result = await executor.map(asyncio.sleep, [1] * 4, throttler=shared)
    assert result.total_duration_ms == 2_000
    assert shared.peak == 2


async def test_without_a_width_the_narrowest_throttler_is_the_limit() -> None:
    result = await parallel_map(
        asyncio.sleep, iter([1] * 4), max_concurrent=None, throttler=TaskThrottler(2)
    )
    assert result.total_duration_ms == 2_000
    assert result.total == 4


async def test_a_resized_throttler_of_an_executor_widens_its_runs() -> None:
    executor = ParallelExecutor(max_concurrent=1)
    assert isinstance(executor.throttler, TaskThrottler)
    executor.throttler.resize(4)
    assert (await executor.map(asyncio.sleep, [1] * 4)).total_duration_ms == 1_000


async def test_a_throttler_function_may_give_one_or_several() -> None:
    one, two = TaskThrottler(1), TaskThrottler(2)
    kinds: dict[float, Any] = {1: one, 2: [one, two], 3: iter([two]), 4: ()}
    result = await parallel_map(asyncio.sleep, [1, 2, 3, 4], throttler=kinds.get)  # type: ignore[arg-type]
    assert result.all_succeeded
    assert [task.queued_ms for task in result.results] == [0, 1_000, 0, 0]


async def test_a_throttler_function_that_gives_something_else_is_refused() -> None:
    numbers: Any = {1: 4}.get
    with pytest.raises(TypeError, match=r"throttler= as a function must give .*, got 4"):
        await parallel_map(asyncio.sleep, [1], throttler=numbers)


async def test_functions_of_the_item_are_given_the_item_or_the_task_id() -> None:
    asked: list[object] = []

    def timeout_of(item: object) -> float:
        asked.append(item)
        return 5.0

    def throttler_of(item: object) -> TaskThrottler:
        asked.append(item)
        return TaskThrottler(1)

    await parallel_map(asyncio.sleep, [1], task_timeout=timeout_of, throttler=throttler_of)
    await parallel_gather(after(1, 1), task_timeout=timeout_of, throttler=throttler_of)
    await ParallelExecutor().gather({"key": after(1, 1)}, task_timeout=timeout_of)
    await fan_out({"worker": after(1, 1)}, throttler=throttler_of)
    assert asked == [1, 1, "0", "0", "key", "worker"]


async def test_without_any_number_nothing_says_how_much_of_a_source_to_draw() -> None:
    with pytest.raises(ValueError, match="max_concurrent must be a number here"):
        await parallel_map(
            asyncio.sleep, iter([1]), max_concurrent=None, throttler=lambda _: TaskThrottler(1)
        )


async def test_a_function_of_the_item_is_limit_enough_for_a_sized_input() -> None:
    narrow = TaskThrottler(2)
    result = await parallel_map(
        asyncio.sleep, [1] * 4, max_concurrent=None, throttler=lambda _: narrow
    )
    assert result.total_duration_ms == 2_000


async def test_a_made_gather_shares_its_limit_over_all_calls() -> None:
    gather = create_parallel_agent_gather(max_concurrent=2, timeout=9)
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(gather(after(2, 1), after(2, 2))) for _ in range(2)]
    assert max(run.result().total_duration_ms for run in runs) == 4_000
    assert (await gather([after(1, 1)])).get_results() == [1]
    assert (await gather({"a": after(1, 1)})).results[0].task_id == "a"
    assert (await gather()).all_succeeded
    with pytest.raises(ValueError, match="max_concurrent"):
        create_parallel_agent_gather(max_concurrent=0)
