"""P1: one result per work, in input order, and counts that add up."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentos_parallel import (
    DeadlineExceeded,
    FanOutExecutor,
    FanOutResult,
    GatherResult,
    ParallelExecutor,
    SourceError,
    TaskResult,
    TaskStatus,
    TaskThrottler,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from tests.pieces import after, agen, alive, failing_after, now
from tests.virtual_time import run_virtually

FINAL = {TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.TIMEOUT, TaskStatus.CANCELLED}


def ids(result: GatherResult[Any]) -> list[str]:
    return [task.task_id for task in result.results]


def statuses(result: GatherResult[Any]) -> list[TaskStatus]:
    return [task.status for task in result.results]


def check_accounts(result: GatherResult[Any]) -> None:
    counted = Counter(statuses(result))
    assert set(counted) <= FINAL
    assert result.completed == counted[TaskStatus.COMPLETED]
    assert result.failed == counted[TaskStatus.FAILED]
    assert result.timed_out == counted[TaskStatus.TIMEOUT]
    assert result.cancelled == counted[TaskStatus.CANCELLED]
    assert len(result.results) == result.total
    assert counted.total() == result.total


# In input order.


async def test_gather_keeps_input_order_however_the_tasks_end() -> None:
    works = [after(3, "c"), after(1, "a"), after(2, "b")]
    result = await parallel_gather(*works)
    assert result.get_results() == ["c", "a", "b"]
    assert ids(result) == ["0", "1", "2"]
    assert result.total_duration_ms == 3_000


async def test_map_keeps_input_order_however_the_tasks_end() -> None:
    async def work(seconds: int) -> int:
        return await after(seconds, seconds)

    result = await parallel_map(work, [3, 1, 2], max_concurrent=2)
    assert result.get_results() == [3, 1, 2]
    assert ids(result) == ["0", "1", "2"]


async def test_a_mapping_gives_its_keys_as_task_ids_in_its_order() -> None:
    result = await ParallelExecutor().gather({"z": after(2, 1), "a": after(1, 2)})
    assert ids(result) == ["z", "a"]
    assert result.by_id["a"].result == 2

    mapped = await parallel_map(str.upper, {"y": "one", "b": "two"})
    assert [(t.task_id, t.result) for t in mapped.results] == [("y", "ONE"), ("b", "TWO")]


async def test_a_generator_and_an_async_generator_keep_their_order() -> None:
    async def work(seconds: int) -> int:
        return await after(seconds, seconds)

    lazily = await parallel_map(work, (n for n in [3, 1, 2]), max_concurrent=3)
    assert lazily.get_results() == [3, 1, 2]
    drawn = await parallel_map(work, agen([3, 1, 2]), max_concurrent=3)
    assert drawn.get_results() == [3, 1, 2]
    assert ids(lazily) == ids(drawn) == ["0", "1", "2"]


async def test_an_ordered_stream_gives_each_result_once_in_input_order() -> None:
    async def work(seconds: int) -> int:
        return await after(seconds, seconds)

    stream = parallel_stream(work, [3, 1, 2], ordered=True)
    assert [(t.task_id, t.result) async for t in stream] == [("0", 3), ("1", 1), ("2", 2)]


async def test_an_unordered_stream_gives_each_result_once_as_it_comes() -> None:
    async def work(seconds: int) -> int:
        return await after(seconds, seconds)

    stream = parallel_stream(work, [3, 1, 2])
    assert [(t.task_id, t.result) async for t in stream] == [("1", 1), ("2", 2), ("0", 3)]


async def test_fan_out_all_is_the_gather_result_in_input_order() -> None:
    result = await fan_out([after(2, "b"), after(1, "a")])
    assert isinstance(result, GatherResult)
    assert result.get_results() == ["b", "a"]


async def test_merge_is_given_the_successes_in_input_order() -> None:
    works = [after(3, "x"), after(1, "y"), after(2, "z")]
    assert await fan_out(works, aggregation="merge", merge_fn="".join) == "xyz"


# One result for each.


async def test_a_failure_loses_no_other_result() -> None:
    error = ValueError("broken")
    result = await parallel_gather(after(1, "a"), failing_after(0, error), after(2, "c"))
    assert statuses(result) == [TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.COMPLETED]
    assert result.get_results() == ["a", "c"]
    assert result.get_errors() == [("1", error)]
    assert not result.all_succeeded
    check_accounts(result)


async def test_all_succeeded_when_every_work_completed() -> None:
    result = await parallel_gather(after(0, 1), after(0, None))
    assert result.all_succeeded
    assert (result.total, result.completed) == (2, 2)
    assert result.get_results() == [1, None]


@pytest.mark.parametrize("works", [[], {}, (), iter([]), agen([])], ids=type)
async def test_no_works_are_an_empty_result_that_succeeded(works: Any) -> None:
    result: GatherResult[Any] = await ParallelExecutor().gather(works)
    assert (result.total, result.results, result.all_succeeded) == (0, [], True)
    assert result.total_duration_ms == 0


async def test_map_and_stream_of_nothing_are_empty() -> None:
    assert (await parallel_map(str.upper, [])).all_succeeded
    assert (await parallel_gather()).all_succeeded
    assert [task async for task in parallel_stream(str.upper, [])] == []


async def test_each_kind_of_end_has_its_status_and_is_counted_once() -> None:
    async def cancels_itself() -> None:
        raise asyncio.CancelledError

    result = await parallel_gather(
        after(1, "fine"),
        failing_after(1, ValueError()),
        failing_after(1, TimeoutError()),
        cancels_itself,
        after(9, "too late"),
        timeout=5,
    )
    assert [status.value for status in statuses(result)] == [
        "completed", "failed", "timeout", "cancelled", "timeout",
    ]  # fmt: skip
    assert (result.total, result.completed, result.failed) == (5, 1, 1)
    assert (result.timed_out, result.cancelled) == (2, 1)
    assert result.success_rate == 0.2


async def test_what_fail_fast_left_out_is_counted_as_cancelled() -> None:
    works = [failing_after(1, ValueError()), after(5, "running"), after(5, "queued")]
    result = await parallel_gather(*works, max_concurrent=2, fail_fast=True)
    assert [status.value for status in statuses(result)] == ["failed", "cancelled", "cancelled"]
    assert result.total_duration_ms == 1_000
    check_accounts(result)


async def test_what_a_quorum_left_out_is_counted_as_cancelled() -> None:
    works = [after(1, "a"), after(2, "b"), after(3, "c"), after(1, "queued")]
    result = await parallel_gather(*works, max_concurrent=3, min_success=2)
    # The freed slot went to the fourth at 1 s: it ends with the second.
    assert result.completed >= 2
    assert result.total == 4
    assert result.results[2].status is TaskStatus.CANCELLED
    check_accounts(result)


async def test_the_losers_of_a_race_are_counted_as_cancelled() -> None:
    race: FanOutResult[Any] = await FanOutExecutor(aggregation="first", max_concurrent=2).run(
        [after(2, "slow"), after(1, "fast"), after(1, "queued")]
    )
    assert (race.value, race.winner) == ("fast", "1")
    assert [s.value for s in statuses(race.gather)] == ["cancelled", "completed", "cancelled"]
    check_accounts(race.gather)


async def test_what_the_deadline_caught_is_counted_as_timed_out() -> None:
    result = await parallel_gather(after(1, "a"), after(9, "b"), after(9, "c"), max_concurrent=2,
                                   timeout=4)  # fmt: skip
    assert [status.value for status in statuses(result)] == ["completed", "timeout", "timeout"]
    check_accounts(result)


async def test_a_raised_run_brings_the_same_accounts() -> None:
    with pytest.raises(DeadlineExceeded) as late:
        await parallel_gather(after(1, "a"), after(9, "b"), timeout=4, return_partial=False)
    assert late.value.result is not None
    assert late.value.result.get_results() == ["a"]
    check_accounts(late.value.result)


# The total.


async def test_a_list_counts_as_it_was_at_the_call() -> None:
    items = [1, 2, 3]

    async def work(item: int) -> int:
        items.append(9)
        return await after(1, item)

    result = await parallel_map(work, items, max_concurrent=1)
    assert (result.total, result.get_results()) == (3, [1, 2, 3])


async def test_a_mapping_counts_as_it_was_at_the_call() -> None:
    items = {"a": 1, "b": 2}

    async def work(item: int) -> int:
        items.clear()
        return await after(1, item)

    result = await parallel_map(work, items, max_concurrent=1)
    assert [(t.task_id, t.result) for t in result.results] == [("a", 1), ("b", 2)]


async def test_a_stream_over_a_list_has_the_works_of_the_call() -> None:
    items = [1, 2]
    stream = parallel_stream(str, items)
    items.append(3)
    assert sorted([task.task_id async for task in stream]) == ["0", "1"]


async def test_of_an_unsized_source_the_drawn_works_count() -> None:
    def works() -> Iterator[Callable[[], Any]]:
        yield partial(after, 1, "a")
        yield partial(failing_after, 0, ValueError())
        yield from (partial(after, 1, n) for n in range(100))

    result: GatherResult[Any] = await ParallelExecutor(max_concurrent=2).gather(
        works(), fail_fast=True
    )
    assert result.total == len(result.results) < 5
    assert result.failed == 1
    assert not result.all_succeeded
    check_accounts(result)


async def test_a_source_that_raised_has_a_result_for_all_it_gave() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2, 3)
        raise OSError("the disk is gone")

    async def work(item: int) -> int:
        return await after(item, item)

    with pytest.raises(SourceError) as broken:
        await parallel_map(work, items())
    result = broken.value.result
    assert result is not None
    assert (result.total, result.get_results()) == (3, [1, 2, 3])
    assert not result.all_succeeded
    check_accounts(result)


async def test_a_sync_work_and_a_future_have_their_results_too() -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(2, future.set_result, "from a future")
    result: GatherResult[Any] = await parallel_gather(
        future, lambda: "from a thread", asyncio.create_task(after(1, "from a task"))
    )
    assert result.get_results() == ["from a future", "from a thread", "from a task"]


# For any mix.

KINDS = st.sampled_from(["answer", "fail", "time out", "cancel itself", "hang", "linger"])
DELAYS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5])
MIX = st.lists(st.tuples(KINDS, DELAYS), max_size=12)
STOPS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.just({"fail_fast": True}),
    st.just({"min_success": 1}),
)
OPTIONS = st.fixed_dictionaries(
    {
        "max_concurrent": st.integers(1, 5),
        "timeout": st.sampled_from([None, 0.5, 1.0, 4.0, 10.0]),
        "task_timeout": st.sampled_from([0.7, 1.0, 5.0]),
        "grace": st.sampled_from([0.25, 5.0]),
    }
)


def mapping(items: list[Any]) -> dict[str, Any]:
    return {str(index): item for index, item in enumerate(items)}


FORMS: list[Callable[[Any], Any]] = [list, tuple, iter, agen, mapping]


class Load:
    """Works of each kind; knows how many worked at once."""

    def __init__(self) -> None:
        self.active = self.peak = 0

    async def __call__(self, item: tuple[int, tuple[str, float]]) -> int:
        index, (kind, delay) = item
        self.active += 1
        self.peak = max(self.peak, self.active)
        try:
            await self.work(kind, delay)
        finally:
            self.active -= 1
        return index

    async def work(self, kind: str, delay: float) -> None:
        await asyncio.sleep(delay)
        if kind == "fail":
            raise ValueError("broken")
        if kind == "time out":
            raise TimeoutError
        if kind == "cancel itself":
            raise asyncio.CancelledError
        if kind == "hang":
            await asyncio.get_running_loop().create_future()
        if kind == "linger":
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.2)


def check_tasks(results: list[TaskResult[int]]) -> None:
    for index, task in enumerate(results):
        assert task.task_id == str(index)
        assert (task.result is not None) == (task.status is TaskStatus.COMPLETED)
        assert task.result in {None, index}
        if task.status in {TaskStatus.FAILED, TaskStatus.TIMEOUT}:
            assert task.error is not None
        if not task.started_at:
            assert task.duration_ms == 0
            assert task.status in {TaskStatus.TIMEOUT, TaskStatus.CANCELLED}
        else:
            lasted = (task.finished_at - task.started_at) * 1000
            assert task.duration_ms == pytest.approx(lasted)
        assert task.queued_ms >= 0
        assert not task.abandoned


@given(MIX, OPTIONS, STOPS, st.sampled_from(FORMS))
@settings(deadline=None, max_examples=150)
def test_for_any_mix_the_counts_add_up_in_input_order(
    mix: list[tuple[str, float]],
    options: dict[str, Any],
    stop: dict[str, Any],
    form: Callable[[Any], Any],
) -> None:
    if "min_success" in stop and not mix:
        return
    load = Load()

    async def main() -> None:
        result: GatherResult[int] = await parallel_map(
            load, form(list(enumerate(mix))), **options, **stop
        )
        assert not alive()
        check_accounts(result)
        check_tasks(result.results)
        if form is not iter and form is not agen:
            assert result.total == len(mix)
        fine = result.completed == result.total == len(mix)
        if form in {iter, agen} and stop:  # it may have stopped before it saw the end
            assert fine or not result.all_succeeded
        else:
            assert result.all_succeeded is fine

    run_virtually(main())
    assert load.active == 0
    assert load.peak <= options["max_concurrent"]


@given(MIX, OPTIONS, STOPS, st.sampled_from(FORMS), st.booleans())
@settings(deadline=None, max_examples=150)
def test_for_any_mix_a_stream_gives_each_result_once(
    mix: list[tuple[str, float]],
    options: dict[str, Any],
    stop: dict[str, Any],
    form: Callable[[Any], Any],
    ordered: bool,
) -> None:
    if "min_success" in stop and not mix:
        return
    load = Load()

    async def main() -> None:
        given: list[TaskResult[int]] = []
        try:
            async for task in parallel_stream(
                load, form(list(enumerate(mix))), ordered=ordered, **options, **stop
            ):
                assert task.status in FINAL
                given.append(task)
        except DeadlineExceeded:
            assert form in {iter, agen}
        assert not alive()
        in_order = sorted(given, key=lambda task: int(task.task_id))
        if ordered:
            assert given == in_order
        check_tasks(in_order)
        if form is not iter and form is not agen:
            assert len(given) == len(mix)

    run_virtually(main())
    assert load.active == 0
    assert load.peak <= options["max_concurrent"]


@given(MIX, st.integers(1, 4), st.integers(1, 4))
@settings(deadline=None, max_examples=75)
def test_for_any_mix_two_runs_on_one_throttler_keep_its_limit(
    mix: list[tuple[str, float]], limit: int, width: int
) -> None:
    load = Load()
    throttler = TaskThrottler(limit)

    async def main() -> None:
        run = partial(parallel_map, load, max_concurrent=width, task_timeout=4, throttler=throttler)
        async with asyncio.TaskGroup() as group:
            runs = [group.create_task(run(list(enumerate(mix)))) for _ in range(2)]
        for ended in runs:
            check_accounts(ended.result())
            check_tasks(ended.result().results)
        assert not alive()

    run_virtually(main())
    assert load.peak <= limit
    assert throttler.peak <= limit
    assert (throttler.active, throttler.waiting) == (0, 0)


FAN_OUTS = st.fixed_dictionaries(
    {
        "aggregation": st.sampled_from(["all", "first", "merge"]),
        "retry_failed": st.booleans(),
        "max_retries": st.integers(0, 2),
    }
)


@given(MIX.filter(bool), OPTIONS, FAN_OUTS)
@settings(deadline=None, max_examples=150)
def test_for_any_mix_a_fan_out_has_one_result_per_work(
    mix: list[tuple[str, float]], options: dict[str, Any], fan: dict[str, Any]
) -> None:
    load = Load()

    async def main() -> None:
        executor = FanOutExecutor(**options, **fan)
        works = [partial(load, item) for item in enumerate(mix)]
        merge = list if fan["aggregation"] == "merge" else None
        outcome: FanOutResult[int] = await executor.run(works, merge)
        assert not alive()
        result = outcome.gather
        check_accounts(result)
        assert result.total == len(mix)
        for index, task in enumerate(result.results):
            assert task.task_id == str(index)
            assert task.retries <= (fan["max_retries"] if fan["retry_failed"] else 0)
        if fan["aggregation"] == "first":
            assert (outcome.winner is None) == (result.completed == 0)
            assert outcome.winner is None or outcome.value == int(outcome.winner)
        if fan["aggregation"] == "merge":
            assert outcome.value == (result.get_results() or None)
        assert isinstance(executor.executor.throttler, TaskThrottler)
        assert (executor.executor.throttler.active, executor.executor.throttler.waiting) == (0, 0)

    run_virtually(main())
    assert load.active == 0
    assert load.peak <= options["max_concurrent"]


@given(
    st.lists(st.tuples(KINDS, DELAYS, st.sets(st.integers(0, 2))), max_size=12),
    st.lists(st.integers(1, 3), min_size=3, max_size=3),
    OPTIONS,
    st.sampled_from(FORMS),
)
@settings(deadline=None, max_examples=150)
def test_for_any_mix_over_several_throttlers_all_limits_hold(
    mix: list[tuple[str, float, set[int]]],
    limits: list[int],
    options: dict[str, Any],
    form: Callable[[Any], Any],
) -> None:
    load = Load()
    throttlers = [TaskThrottler(limit) for limit in limits]

    def needs(item: tuple[int, tuple[str, float, set[int]]]) -> list[TaskThrottler]:
        return [throttlers[number] for number in item[1][2]]

    async def work(item: tuple[int, tuple[str, float, set[int]]]) -> int:
        index, (kind, delay, _) = item
        return await load((index, (kind, delay)))

    async def main() -> None:
        result: GatherResult[int] = await parallel_map(
            work, form(list(enumerate(mix))), throttler=needs, **options
        )
        check_accounts(result)
        check_tasks(result.results)
        assert not alive()

    run_virtually(main())
    assert load.peak <= options["max_concurrent"]
    for throttler, limit in zip(throttlers, limits, strict=True):
        assert throttler.peak <= limit
        assert (throttler.active, throttler.waiting) == (0, 0)


@given(st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), max_size=15), st.integers(1, 5))
@settings(deadline=None, max_examples=75)
def test_for_any_lengths_works_start_as_a_list_schedule_says(
    lengths: list[float], limit: int
) -> None:
    async def main() -> None:
        began = now()
        result = await parallel_map(asyncio.sleep, lengths, max_concurrent=limit)
        free = [0.0] * limit
        for length, task in zip(lengths, result.results, strict=True):
            start = min(free)
            free[free.index(start)] = start + length
            assert task.started_at == began + start
            assert task.queued_ms == start * 1000
            assert task.duration_ms == length * 1000
        assert result.total_duration_ms == max(free) * 1000

    run_virtually(main())
