"""ParallelExecutor and its functions: signatures, limits, settings, results."""

import asyncio
import inspect
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from agentos_parallel import (
    DeadlineExceeded,
    ParallelExecutor,
    TaskStatus,
    TaskThrottler,
    TaskTimeout,
    create_parallel_agent_gather,
    parallel_gather,
    parallel_map,
    remaining,
)
from tests.ways import Factory, Gauge, hang, now

COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED
TIMEOUT, CANCELLED = TaskStatus.TIMEOUT, TaskStatus.CANCELLED

SHARED = {
    "task_timeout": None,
    "fail_fast": False,
    "min_success": None,
    "throttler": None,
    "grace": 5.0,
}
OF_A_METHOD = dict.fromkeys(SHARED)


async def after(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def fail_after(seconds: float) -> None:
    await asyncio.sleep(seconds)
    raise ValueError("no")


def parameters(function: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Names and defaults: of what may be positional, and of what is keyword-only."""
    given = inspect.signature(function).parameters.values()
    named = {p.name: p.default for p in given if p.kind is p.POSITIONAL_OR_KEYWORD}
    keywords = {p.name: p.default for p in given if p.kind is p.KEYWORD_ONLY}
    return named, keywords


NEEDED = inspect.Parameter.empty


# Signatures.


def test_the_executor_has_its_signature() -> None:
    named, keywords = parameters(ParallelExecutor)
    assert named == {"max_concurrent": 8, "timeout": 60.0, "fail_fast": False}
    assert keywords == {k: v for k, v in SHARED.items() if k != "fail_fast"}


def test_gather_has_its_signature() -> None:
    named, keywords = parameters(ParallelExecutor().gather)
    assert named == {"coros": NEEDED, "timeout": None, "return_partial": True}
    assert keywords == OF_A_METHOD


def test_map_has_its_signature() -> None:
    named, keywords = parameters(ParallelExecutor().map)
    assert named == {"func": NEEDED, "items": NEEDED, "timeout": None}
    assert keywords == OF_A_METHOD


def test_parallel_gather_has_its_signature() -> None:
    named, keywords = parameters(parallel_gather)
    assert named == {}
    own = {"max_concurrent": 8, "timeout": 60.0, "return_partial": True}
    assert keywords == {**own, **SHARED}
    first = next(iter(inspect.signature(parallel_gather).parameters.values()))
    assert (first.name, first.kind) == ("coros", first.VAR_POSITIONAL)


def test_parallel_map_has_its_signature() -> None:
    named, keywords = parameters(parallel_map)
    assert named == {"func": NEEDED, "items": NEEDED, "max_concurrent": 8, "timeout": 60.0}
    assert keywords == SHARED


def test_create_parallel_agent_gather_has_its_signature() -> None:
    named, keywords = parameters(create_parallel_agent_gather)
    assert named == {"max_concurrent": 8, "timeout": 60.0}
    assert keywords == SHARED


@pytest.mark.parametrize(
    "function",
    [
        parallel_gather,
        parallel_map,
        ParallelExecutor.gather,
        ParallelExecutor.map,
        create_parallel_agent_gather(),
    ],
)
def test_they_are_coroutine_functions(function: Any) -> None:
    assert inspect.iscoroutinefunction(function)


# The executor.


def test_its_arguments_are_its_attributes() -> None:
    throttler = TaskThrottler(2)
    executor = ParallelExecutor(
        3, 4, True, task_timeout=5, min_success=None, throttler=throttler, grace=6
    )
    assert (executor.max_concurrent, executor.timeout, executor.fail_fast) == (3, 4, True)
    assert (executor.task_timeout, executor.min_success, executor.grace) == (5, None, 6)
    assert executor.throttler is throttler


def test_its_defaults_are_its_attributes() -> None:
    executor = ParallelExecutor()
    assert (executor.max_concurrent, executor.timeout, executor.fail_fast) == (8, 60.0, False)
    assert isinstance(executor.throttler, TaskThrottler)
    assert executor.throttler.max_concurrent == 8


async def test_all_its_runs_share_its_own_throttler() -> None:
    executor, gauge = ParallelExecutor(max_concurrent=3), Gauge()
    works = [partial(gauge.work, 1)] * 5
    await asyncio.gather(executor.gather(works), executor.map(gauge.work, [1] * 5))
    assert gauge.peak == 3
    assert isinstance(executor.throttler, TaskThrottler)
    assert executor.throttler.peak == 3


async def test_its_own_throttler_may_be_resized() -> None:
    executor, gauge = ParallelExecutor(max_concurrent=1), Gauge()
    assert isinstance(executor.throttler, TaskThrottler)
    executor.throttler.resize(4)
    await executor.gather([gauge.work] * 8)
    assert gauge.peak == 4


async def test_its_limit_and_a_shared_throttler_both_hold() -> None:
    for max_concurrent, slots, peak in [(2, 5, 2), (5, 2, 2), (None, 3, 3)]:
        gauge, throttler = Gauge(), TaskThrottler(slots)
        executor = ParallelExecutor(max_concurrent, throttler=throttler)
        await executor.gather([gauge.work] * 10)
        assert (gauge.peak, throttler.peak) == (peak, peak)


async def test_a_throttler_of_one_call_holds_beside_its_own() -> None:
    executor, narrow, wide = ParallelExecutor(max_concurrent=3), TaskThrottler(2), TaskThrottler(9)
    for throttler, peak in [(narrow, 2), (wide, 3)]:
        gauge = Gauge()
        await executor.gather([gauge.work] * 10, throttler=throttler)
        assert gauge.peak == peak


async def test_a_throttler_of_one_call_holds_beside_a_shared_one() -> None:
    gauge, shared, own = Gauge(), TaskThrottler(2), TaskThrottler(9)
    await ParallelExecutor(throttler=shared).gather([gauge.work] * 10, throttler=own)
    assert (gauge.peak, shared.peak, own.peak) == (2, 2, 2)


@pytest.mark.parametrize("run", ["gather", "map"])
async def test_without_a_limit_of_its_own_the_throttler_bounds_a_function(run: str) -> None:
    gauge, throttler = Gauge(), TaskThrottler(3)
    settings: dict[str, Any] = {"max_concurrent": None, "throttler": throttler}
    if run == "gather":
        await parallel_gather(*[gauge.work] * 10, **settings)
    else:
        await parallel_map(gauge.work, [1] * 10, **settings)
    assert (gauge.peak, throttler.peak) == (3, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ParallelExecutor(max_concurrent=None),
        lambda: asyncio.run(parallel_gather(max_concurrent=None)),
        lambda: asyncio.run(parallel_map(after, [], max_concurrent=None)),
    ],
)
def test_no_limit_at_all_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="max_concurrent"):
        make()


async def test_on_a_method_none_is_the_executors_setting() -> None:
    executor = ParallelExecutor(timeout=5, task_timeout=2, fail_fast=True, grace=1)
    result = await executor.gather(
        [hang, partial(after, 9)],
        timeout=None,
        task_timeout=None,
        fail_fast=None,
        min_success=None,
        throttler=None,
        grace=None,
    )
    assert (result.timed_out, result.total_duration_ms) == (2, 2_000)


async def test_on_a_method_infinity_is_no_deadline() -> None:
    executor = ParallelExecutor(timeout=5)
    assert (await executor.gather([after(100)])).timed_out == 1
    assert (await executor.gather([after(100)], timeout=math.inf)).completed == 1
    assert (await executor.map(after, [100], math.inf)).completed == 1


async def test_elsewhere_none_is_no_deadline() -> None:
    assert (await parallel_gather(after(100))).timed_out == 1
    assert (await parallel_gather(after(100), timeout=None)).completed == 1
    assert (await parallel_map(after, [100], timeout=math.inf)).completed == 1
    assert (await ParallelExecutor(timeout=None).gather([after(100)])).completed == 1


async def test_the_default_deadline_says_so() -> None:
    result = await parallel_gather(after(100))
    error = result.results[0].error
    assert isinstance(error, DeadlineExceeded)
    assert "60 s (the default)" in str(error)
    assert "timeout=None" in str(error)
    result = await ParallelExecutor().gather([after(100)])
    assert "math.inf" in str(result.results[0].error)


async def test_a_method_may_overrule_each_setting() -> None:
    executor = ParallelExecutor(fail_fast=True, task_timeout=1)
    works: list[Factory] = [partial(fail_after, 1), partial(after, 3)]
    result = await executor.gather(works, fail_fast=False, task_timeout=5)
    assert [task.status for task in result.results] == [FAILED, COMPLETED]


async def test_fail_fast_returns_its_result() -> None:
    executor, began = ParallelExecutor(fail_fast=True), now()
    result = await executor.gather([fail_after(1), hang(), after(0.5)])
    assert [task.status for task in result.results] == [FAILED, CANCELLED, COMPLETED]
    assert "fail" in repr(result)
    assert now() - began == 1


async def test_fail_fast_stops_at_a_timeout_too() -> None:
    result = await parallel_gather(hang, partial(after, 9), task_timeout=2, fail_fast=True)
    assert result.timed_out + result.cancelled == 2
    assert result.total_duration_ms == 2_000


async def test_a_quorum_stops_at_the_kth_success() -> None:
    result = await parallel_map(after, [5, 1, 4, 2, 3], min_success=2)
    assert [task.status for task in result.results] == [
        CANCELLED, COMPLETED, CANCELLED, COMPLETED, CANCELLED,
    ]  # fmt: skip
    assert result.total_duration_ms == 2_000


async def test_a_quorum_out_of_reach_stops_at_once() -> None:
    result = await parallel_gather(hang, partial(fail_after, 1), hang, min_success=3)
    assert [task.status for task in result.results] == [CANCELLED, FAILED, CANCELLED]
    assert "out of reach" in repr(result)


async def test_a_quorum_may_not_pass_the_length_of_a_sized_input() -> None:
    with pytest.raises(ValueError, match="min_success"):
        await parallel_gather(after(1), min_success=2)
    result = await ParallelExecutor().gather((after(n) for n in range(2)), min_success=3)
    assert result.completed <= 2


async def test_success_in_the_drain_of_a_quorum_counts() -> None:
    async def late() -> str:
        try:
            await hang()
        except asyncio.CancelledError:
            return "late"
        return "never"

    result = await parallel_gather(late, partial(after, 1), min_success=1)
    assert result.completed == 2


# Works and ids.


async def test_a_sequence_is_known_by_position_a_mapping_by_key() -> None:
    executor = ParallelExecutor()
    result = await executor.gather([after(0), after(0)])
    assert [task.task_id for task in result.results] == ["0", "1"]
    works: dict[str, Any] = {"b": after(2), "a": partial(after, 1)}
    result = await executor.gather(works)
    assert [(task.task_id, task.result) for task in result.results] == [("b", 2), ("a", 1)]
    mapped = await executor.map(after, {"b": 2, "a": 1})
    assert mapped.by_id["a"].result == 1


async def test_keys_must_be_str() -> None:
    works: Any = {1: after(0)}
    with pytest.raises(TypeError, match=r"keys of coros.*1"):
        await ParallelExecutor().gather(works)
    items: Any = {1: 0}
    with pytest.raises(TypeError, match="keys of items"):
        await parallel_map(after, items)


async def test_a_throttler_may_depend_on_the_item() -> None:
    slow, fast, gauges = TaskThrottler(1), TaskThrottler(3), {"slow": Gauge(), "fast": Gauge()}

    async def work(kind: str) -> None:
        await gauges[kind].work(1)

    items = ["slow", "fast"] * 6
    await parallel_map(
        work, items, max_concurrent=12, throttler=lambda kind: slow if kind == "slow" else fast
    )
    assert (gauges["slow"].peak, gauges["fast"].peak) == (1, 3)
    assert (slow.peak, fast.peak) == (1, 3)


async def test_a_throttler_may_depend_on_the_task_id() -> None:
    asked, throttler = [], TaskThrottler(1)

    def which(task_id: str) -> TaskThrottler:
        asked.append(task_id)
        return throttler

    await ParallelExecutor(throttler=which).gather({"a": after(1), "b": after(1)})
    await parallel_gather(after(1), after(1), throttler=which)
    assert asked == ["a", "b", "0", "1"]
    assert throttler.peak == 1


async def test_a_task_may_need_several_throttlers() -> None:
    agent, provider, gauge = TaskThrottler(1), TaskThrottler(2), Gauge()

    async def work(kind: str) -> None:
        await gauge.work(1)

    result = await parallel_map(
        work,
        ["a", "b", "b", "b"],
        throttler=lambda kind: [agent, provider] if kind == "a" else [provider],
    )
    assert result.all_succeeded
    assert (agent.peak, provider.peak, gauge.peak) == (1, 2, 2)


async def test_none_of_several_is_no_throttler() -> None:
    gauge = Gauge()
    await parallel_map(gauge.work, [1] * 5, max_concurrent=4, throttler=lambda _: ())
    assert gauge.peak == 4


async def test_the_head_of_a_sized_input_blocks_nobody_who_needs_other_throttlers() -> None:
    busy, idle, started = TaskThrottler(1), TaskThrottler(1), []

    async def work(kind: str) -> None:
        started.append((kind, now() - began))
        await asyncio.sleep(1)

    items = ["busy"] * 3 + ["idle"] * 3
    began = now()
    await parallel_map(
        work, items, max_concurrent=2, throttler=lambda kind: busy if kind == "busy" else idle
    )
    assert [at for kind, at in started if kind == "idle"] == [0, 1, 2]
    assert [at for kind, at in started if kind == "busy"] == [0, 1, 2]


@pytest.mark.parametrize("given", [None, 3, [3], "three"])
async def test_a_throttler_function_that_gives_something_else_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="throttler"):
        await parallel_gather(after(1), throttler=lambda _: given)


async def test_a_task_timeout_may_depend_on_the_item() -> None:
    result = await parallel_map(after, [1, 3, 5], task_timeout=lambda item: 2 if item < 5 else None)
    assert [task.status for task in result.results] == [COMPLETED, TIMEOUT, COMPLETED]
    assert isinstance(result.results[1].error, TaskTimeout)
    assert result.results[1].duration_ms == 2_000


async def test_a_task_timeout_may_depend_on_the_task_id() -> None:
    works = {"quick": after(3), "slow": after(3)}
    timeouts = {"quick": 1, "slow": 4}
    result = await ParallelExecutor(task_timeout=timeouts.get).gather(works)
    assert [task.status for task in result.results] == [TIMEOUT, COMPLETED]


@pytest.mark.parametrize("given", [0, -1, math.nan, "1", True])
async def test_a_bad_task_timeout_of_one_item_is_that_tasks_failure(given: Any) -> None:
    result = await parallel_map(after, [1, 2], task_timeout=lambda item: given if item == 1 else 9)
    assert [task.status for task in result.results] == [FAILED, COMPLETED]
    assert "task_timeout" in str(result.results[0].error)


async def test_a_task_handed_over_is_adopted() -> None:
    work = asyncio.ensure_future(hang())
    result = await parallel_gather(work, timeout=2)
    assert result.results[0].status is TIMEOUT
    assert work.cancelled()


async def test_a_future_handed_over_that_never_got_a_slot_is_cancelled() -> None:
    work = asyncio.ensure_future(hang())
    result = await parallel_gather(hang, work, max_concurrent=1, timeout=2)
    assert [task.started_at > 0 for task in result.results] == [True, False]
    assert work.cancelled()


async def test_a_future_that_is_done_already_gives_its_value() -> None:
    future = asyncio.get_running_loop().create_future()
    future.set_result("done")
    assert (await parallel_gather(future)).get_results() == ["done"]


# create_parallel_agent_gather.


async def test_a_made_gather_takes_works_or_one_collection_of_them() -> None:
    gather = create_parallel_agent_gather(max_concurrent=2)
    assert (await gather(after(1), after(2))).get_results() == [1, 2]
    assert (await gather([after(1), after(2)])).get_results() == [1, 2]
    assert (await gather({"a": after(1)})).by_id["a"].result == 1
    assert (await gather(partial(after, n) for n in (1, 2))).get_results() == [1, 2]
    assert (await gather(after(1))).get_results() == [1]
    assert (await gather(partial(after, 1))).get_results() == [1]
    assert (await gather()).all_succeeded


async def test_all_calls_of_a_made_gather_share_its_limit() -> None:
    gather, gauge = create_parallel_agent_gather(2, 10), Gauge()
    await asyncio.gather(gather([gauge.work] * 3), gather([gauge.work] * 3))
    assert gauge.peak == 2
    result = await gather(hang)
    assert (result.timed_out, result.total_duration_ms) == (1, 10_000)


def test_a_made_gather_checks_its_limits_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="max_concurrent"):
        create_parallel_agent_gather(0)
    with pytest.raises(ValueError, match="timeout"):
        create_parallel_agent_gather(timeout=0)


# remaining().


async def test_remaining_gives_the_seconds_left_to_the_run() -> None:
    async def work() -> list[float | None]:
        left = [remaining()]
        await asyncio.sleep(3)
        return [*left, remaining()]

    assert (await parallel_gather(work, timeout=10)).get_results() == [[10, 7]]
    assert (await parallel_gather(work, timeout=None)).get_results() == [[None, None]]
    assert remaining() is None


async def test_remaining_follows_the_nearest_deadline() -> None:
    async def inner() -> float | None:
        return remaining()

    async def outer(timeout: float | None) -> list[float | None]:
        await asyncio.sleep(1)
        return (await parallel_gather(inner, timeout=timeout)).get_results()

    assert (await parallel_map(outer, [3, 60, None], timeout=10)).get_results() == [[3], [9], [9]]


async def test_remaining_is_never_below_zero_and_holds_in_threads() -> None:
    left = []

    async def stubborn() -> None:
        try:
            await hang()
        finally:
            await asyncio.sleep(2)
            left.append(remaining())

    def in_thread() -> float | None:
        return remaining()

    result = await parallel_gather(stubborn, in_thread, timeout=5)
    assert left == [0]
    assert result.get_results() == [5]


# Many at once.


@pytest.mark.parametrize("count", [0, 1, 2, 100])
async def test_as_many_results_as_works(count: int) -> None:
    def works() -> Iterator[Factory]:
        return (partial(after, n % 3) for n in range(count))

    executor = ParallelExecutor(max_concurrent=7)
    for given in (list(works()), works()):
        result = await executor.gather(given)
        assert (result.total, result.completed) == (count, count)
        assert result.get_results() == [n % 3 for n in range(count)]
        assert result.all_succeeded


async def test_the_makespan_is_that_of_a_list_schedule() -> None:
    result = await parallel_map(after, [3, 1, 1, 1, 3], max_concurrent=2)
    assert result.total_duration_ms == 6_000


def test_its_repr_tells_its_limits_and_their_use() -> None:
    assert repr(ParallelExecutor(3, 5)) == (
        "ParallelExecutor(max_concurrent=3, timeout=5, throttler=<TaskThrottler 0/3 active>)"
    )
