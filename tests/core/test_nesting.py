"""Nesting: what a task inherits from the run around it, and what it lends to runs in it."""

import asyncio
import contextlib
import contextvars
import gc
import threading
import time
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentos_parallel import (
    FanOutExecutor,
    GatherResult,
    ParallelExecutor,
    TaskGroup,
    TaskResult,
    TaskStatus,
    TaskThrottler,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
    remaining,
)
from agentos_parallel._core.nesting import lent, take_now
from agentos_parallel._core.run import Run
from agentos_parallel._core.sources import SizedInput
from agentos_parallel.settings import Settings
from agentos_parallel.throttle import KeptThrottler
from tests import virtual_time
from tests.pieces import Stubborn, after, alive, now, settle
from tests.virtual_time import run_virtually


async def left() -> float | None:
    return remaining()


class Load:
    """The func of a map; knows how many work at once."""

    def __init__(self) -> None:
        self.active = self.peak = self.done = 0

    async def __call__(self, seconds: float) -> None:
        self.active += 1
        self.peak = max(self.peak, self.active)
        try:
            await asyncio.sleep(seconds)
            self.done += 1
        finally:
            self.active -= 1


# remaining()


async def test_outside_a_run_there_is_no_time_to_tell() -> None:
    assert remaining() is None


async def test_without_a_deadline_there_is_no_time_to_tell() -> None:
    assert (await parallel_gather(left, timeout=None)).get_results() == [None]


async def test_remaining_counts_down_to_the_deadline() -> None:
    async def twice() -> list[float | None]:
        first = remaining()
        await asyncio.sleep(3)
        return [first, remaining()]

    assert (await parallel_gather(twice, timeout=10)).get_results() == [[10, 7]]


async def test_the_wait_in_the_queue_counts() -> None:
    async def later(_: int) -> float | None:
        await asyncio.sleep(2)
        return remaining()

    result = await parallel_map(later, [1, 2], max_concurrent=1, timeout=10)
    assert result.get_results() == [8, 6]


async def test_remaining_is_never_below_zero() -> None:
    async def lingers() -> float | None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(2)
        return remaining()

    assert (await parallel_gather(lingers, timeout=3)).get_results() == [0.0]


async def test_a_thread_knows_the_time_that_is_left() -> None:
    result = await parallel_gather(remaining, timeout=10)
    assert result.get_results() == [10]


async def test_remaining_is_told_in_a_stream_and_in_a_race() -> None:
    stream = ParallelExecutor().stream([left], timeout=10)
    assert [task.result async for task in stream] == [10]
    assert await FanOutExecutor(aggregation="first", timeout=10).fan_out([left]) == 10


async def test_a_task_made_by_a_work_knows_it_too() -> None:
    async def work() -> float | None:
        return await asyncio.create_task(left())

    assert (await parallel_gather(work, timeout=10)).get_results() == [10]


async def test_after_the_run_there_is_no_time_to_tell() -> None:
    await parallel_gather(left, timeout=10)
    assert remaining() is None


# Lending.


async def test_outside_a_run_lending_does_nothing() -> None:
    async with lent():
        await asyncio.sleep(1)
    throttler = TaskThrottler(1)
    async with throttler, lent():
        assert throttler.active == 1


async def test_runs_in_runs_on_one_slot_do_not_deadlock() -> None:
    executor = ParallelExecutor(max_concurrent=1)
    load = Load()

    async def nest(level: int) -> None:
        if level:
            await executor.map(nest, [level - 1] * 2)
        else:
            await load(1)

    result = await executor.map(nest, [3, 3])
    assert result.all_succeeded
    assert (load.done, load.peak) == (16, 1)
    assert result.total_duration_ms == 16_000


async def test_two_runs_in_one_task_at_once_take_its_slot_back_once() -> None:
    executor, load = ParallelExecutor(max_concurrent=1), Load()

    async def nest() -> int:
        async with asyncio.TaskGroup() as group:
            group.create_task(executor.map(load, [1]))
            group.create_task(executor.map(load, [2, 2]))
        await load(1)
        return load.active

    result = await executor.gather([nest, nest])
    assert result.get_results() == [0, 0]
    assert load.peak == 1
    assert isinstance(executor.throttler, TaskThrottler)
    assert (executor.throttler.active, executor.throttler.waiting) == (0, 0)


async def test_a_run_opened_while_another_takes_the_slot_back_does_not_deadlock() -> None:
    executor, load = ParallelExecutor(max_concurrent=1), Load()

    async def nest() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(executor.map(load, [1]))
            await asyncio.sleep(1.5)  # the slot is somebody else's by now
            group.create_task(executor.map(load, [1]))

    result = await executor.gather([nest, partial(load, 5)])
    assert result.all_succeeded
    assert load.peak == 1
    assert isinstance(executor.throttler, TaskThrottler)
    assert executor.throttler.active == 0


async def test_a_run_that_ends_while_another_takes_the_slot_back_waits_with_it() -> None:
    throttler, load = TaskThrottler(1), Load()

    async def nest() -> float:
        async with asyncio.TaskGroup() as group:
            group.create_task(parallel_map(asyncio.sleep, [1]))
            await asyncio.sleep(1.5)
            group.create_task(parallel_map(asyncio.sleep, [1]))
        return now()

    began = now()
    result: GatherResult[Any] = await parallel_gather(nest, partial(load, 5), throttler=throttler)
    assert result.results[0].result == began + 5
    assert (throttler.active, throttler.peak) == (0, 1)


async def test_a_slot_that_comes_back_while_another_run_is_open_is_lent_again() -> None:
    throttler, load = TaskThrottler(1), Load()

    async def nest() -> float:
        async with asyncio.TaskGroup() as group:
            group.create_task(parallel_map(asyncio.sleep, [1]))
            await asyncio.sleep(1.5)
            group.create_task(parallel_map(asyncio.sleep, [6]))
        return now()

    # The slot comes at 5 s, when the second run is open: a third work has it until 10 s.
    began = now()
    works: list[Any] = [nest, partial(load, 5), partial(load, 5)]
    result: GatherResult[Any] = await parallel_gather(*works, throttler=throttler)
    assert result.results[2].started_at == began + 5
    assert result.results[0].result == began + 10
    assert (throttler.active, throttler.peak) == (0, 1)


async def test_two_runs_that_end_together_wait_together_for_the_slot() -> None:
    throttler, load = TaskThrottler(1), Load()

    async def nest() -> float:
        async with asyncio.TaskGroup() as group:
            group.create_task(parallel_map(asyncio.sleep, [1]))
            group.create_task(parallel_map(asyncio.sleep, [1]))
        return now()

    began = now()
    result: GatherResult[Any] = await parallel_gather(nest, partial(load, 5), throttler=throttler)
    assert result.results[0].result == began + 5
    assert throttler.active == 0


async def test_the_slot_comes_back_before_those_that_wait() -> None:
    throttler = TaskThrottler(1)
    order: list[str] = []

    async def nest() -> None:
        await parallel_map(asyncio.sleep, [1])
        order.append("lender")
        await asyncio.sleep(1)

    async def plain(name: str) -> None:
        await asyncio.sleep(2)
        order.append(name)

    await parallel_gather(nest, partial(plain, "a"), partial(plain, "b"), throttler=throttler)
    assert order == ["a", "lender", "b"]


async def test_a_cancelled_task_goes_on_without_its_slot() -> None:
    throttler, stubborn = TaskThrottler(1), Stubborn()

    async def nest() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await parallel_map(asyncio.sleep, [60])
        return "gone on"

    result: GatherResult[Any] = await parallel_gather(
        nest, stubborn, throttler=throttler, timeout=3, grace=1
    )
    assert result.results[0].result == "gone on"
    assert result.results[1].abandoned
    assert throttler.active == 1
    await stubborn.let_go()
    assert throttler.active == 0


async def test_a_task_cancelled_while_it_takes_the_slot_back_ends_at_once() -> None:
    throttler, load = TaskThrottler(1), Load()

    async def nest() -> None:
        await parallel_map(asyncio.sleep, [1])

    result: GatherResult[Any] = await parallel_gather(
        nest, partial(load, 60), throttler=throttler, timeout=3
    )
    assert [task.status for task in result.results] == [TaskStatus.TIMEOUT] * 2
    assert result.total_duration_ms == 3_000
    assert (throttler.active, throttler.waiting) == (0, 0)


async def test_a_stream_in_a_task_lends_only_while_it_is_asked() -> None:
    throttler, load = TaskThrottler(1), Load()

    async def nest() -> None:
        stream = parallel_stream(asyncio.sleep, [1, 1], max_concurrent=1)
        async for _ in stream:
            await load(2)

    result = await parallel_gather(nest, nest, throttler=throttler)
    assert result.all_succeeded
    assert load.peak == 1
    assert throttler.active == 0


async def test_a_run_in_a_thread_borrows_the_slot_of_its_task() -> None:
    throttler = TaskThrottler(1)

    def nest() -> list[str]:
        return asyncio.run(
            parallel_gather(after(0, "in"), after(0, "side"), throttler=throttler)
        ).get_results()

    result = await parallel_gather(nest, throttler=throttler)
    assert result.get_results() == [["in", "side"]]
    assert throttler.active == 0


async def test_a_run_left_to_itself_after_its_task_ended_ends_all_the_same() -> None:
    load = Load()
    orphans: list[asyncio.Task[Any]] = []

    async def leaves() -> None:
        orphans.append(asyncio.create_task(parallel_map(load, [2, 2])))
        await settle()

    result = await parallel_gather(leaves, throttler=TaskThrottler(1))
    assert result.results[0].duration_ms == 0
    assert (await orphans[0]).all_succeeded
    assert load.done == 2


async def test_a_run_opened_after_its_task_ended_is_nobodys() -> None:
    async def opens_late() -> float | None:
        await asyncio.sleep(5)
        return (await parallel_gather(left, timeout=None)).get_results()[0]

    made: list[asyncio.Task[float | None]] = []

    async def leaves() -> None:
        made.append(asyncio.create_task(opens_late()))

    await parallel_gather(leaves, timeout=3)
    assert await made[0] is None
    assert not alive()


async def test_a_cancel_from_a_thread_that_comes_too_late_changes_nothing() -> None:
    results: dict[int, TaskResult[Any]] = {}
    run = Run(SizedInput([1]), asyncio.sleep, Settings(), results.__setitem__)
    run.open()
    await run.finish()
    run.cancel_from_thread()
    await settle()
    await run.finish()
    assert results[0].status is TaskStatus.COMPLETED
    assert run.ledger.exit is None


# For any tree of runs.

TREES: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([0.0, 0.5, 1.0, 60.0]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=12,
).filter(lambda tree: isinstance(tree, list))


@given(TREES, st.integers(1, 3), st.sampled_from([None, 2.0, 5.0]), st.booleans())
@settings(deadline=None, max_examples=150)
def test_any_tree_of_runs_on_one_throttler_keeps_its_limit_and_ends(
    tree: list[Any], limit: int, timeout: float | None, fail_fast: bool
) -> None:
    throttler, load = TaskThrottler(limit), Load()
    executor = ParallelExecutor(throttler=throttler, timeout=None, task_timeout=9)

    async def grow(node: list[Any] | float) -> None:
        if isinstance(node, list):
            result = await executor.map(grow, node, fail_fast=fail_fast)
            assert result.total == len(node)
            await load(0.25)
        else:
            await load(node)

    async def main() -> None:
        result = await executor.map(grow, tree, timeout=timeout)
        assert result.total == len(tree)
        assert all(task.status is not TaskStatus.FAILED for task in result.results)
        assert result.abandoned == 0
        assert not alive()

    run_virtually(main())
    assert load.peak <= limit
    assert load.active == 0
    assert (throttler.active, throttler.waiting) == (0, 0)


# A loop that is closed in the midst of it.


@pytest.mark.leaky
def test_tasks_of_a_closed_loop_that_await_nested_runs_hold_no_slot() -> None:
    throttler = TaskThrottler(2)

    async def parent() -> None:
        await parallel_gather(partial(after, 100, None))

    loop = virtual_time.new_loop()
    loop.set_exception_handler(lambda *_: None)  # tasks were destroyed: that is what happens here
    main = loop.create_task(parallel_gather(parent, parent, throttler=throttler, timeout=None))
    loop.call_later(1, loop.stop)
    loop.run_forever()
    loop.close()
    assert throttler.active == 0

    del main
    gc.collect()
    assert (throttler.active, throttler.waiting) == (0, 0)
    served = run_virtually(parallel_gather(*[partial(after, 1, n) for n in range(3)],
                                           throttler=throttler, timeout=9))  # fmt: skip
    assert served.get_results() == [0, 1, 2]
    assert served.total_duration_ms == 2_000


@pytest.mark.leaky
def test_a_task_of_a_closed_loop_that_takes_its_slots_back_keeps_none() -> None:
    narrow, wide = TaskThrottler(1), TaskThrottler(2)

    async def child() -> None:
        assert wide.try_acquire()
        assert wide.try_acquire()  # what the parent waits for, after it has the narrow one

    async def parent() -> None:
        await parallel_gather(child)

    loop = virtual_time.new_loop()
    loop.set_exception_handler(lambda *_: None)  # tasks were destroyed: that is what happens here
    main = loop.create_task(
        parallel_gather(parent, throttler=lambda _: (narrow, wide), timeout=None)
    )
    loop.call_later(1, loop.stop)
    loop.run_forever()
    loop.close()
    assert narrow.active == 1

    del main
    wide.release()  # which finds that nobody waits any more
    gc.collect()
    assert (narrow.active, wide.active) == (0, 1)


# Nested runs beside a thread of their task.


async def test_a_thread_of_a_task_may_wait_for_a_run_on_the_tasks_own_loop() -> None:
    loop = asyncio.get_running_loop()

    def work() -> list[int]:
        nested = parallel_gather(partial(after, 1, 1))
        return asyncio.run_coroutine_threadsafe(nested, loop).result(5).get_results()

    result = await parallel_gather(work, throttler=TaskThrottler(1))
    assert result.raise_for_errors().get_results() == [[1]]


async def test_runs_beside_a_merge_in_a_thread_do_not_wait_for_it() -> None:
    merging, release = threading.Event(), threading.Event()

    def merge(values: list[int]) -> list[int]:
        merging.set()
        release.wait(5)
        return values

    async def beside() -> int:
        while not merging.is_set():
            await asyncio.sleep(0)
        return (await parallel_gather(partial(after, 0, 2), partial(after, 0, 3))).completed

    async def work() -> list[Any]:
        merged = asyncio.ensure_future(
            fan_out([partial(after, 0, 1)], aggregation="merge", merge_fn=merge)
        )
        counts = await asyncio.wait_for(asyncio.gather(beside(), beside()), 1)
        release.set()
        return [await merged, *counts]

    try:
        result = await parallel_gather(work, throttler=TaskThrottler(1), timeout=3)
    finally:
        release.set()
    assert result.raise_for_errors().get_results() == [[[1], 2, 2]]


# Slots that are never lent.


async def test_a_kept_slot_is_not_lent_while_the_others_are() -> None:
    kept, wide = KeptThrottler(), TaskThrottler(2)
    held: list[tuple[int, int]] = []

    async def parent() -> None:
        async def child() -> None:
            held.append((kept.active, wide.active))
            await asyncio.sleep(1)

        await parallel_gather(child)
        held.append((kept.active, wide.active))

    await parallel_gather(parent, throttler=lambda _: [wide, kept])

    assert held == [(1, 0), (1, 1)]
    assert (kept.active, wide.active) == (0, 0)


async def test_who_needs_a_kept_slot_waits_until_its_holder_has_ended() -> None:
    kept, started = KeptThrottler(), []

    async def parent() -> None:
        started.append(now())
        await parallel_gather(partial(after, 2, None))

    result = await parallel_gather(parent, parent, parent, throttler=kept)

    assert [at - started[0] for at in started] == [0, 2, 4]
    assert result.all_succeeded


async def test_a_kept_slot_is_taken_before_an_older_one_as_narrow() -> None:
    narrow, kept = TaskThrottler(1), KeptThrottler()

    async def parent() -> None:
        await parallel_gather(partial(after, 1, None))  # and takes the narrow one back

    executor = ParallelExecutor(throttler=lambda _: [narrow, kept], max_concurrent=2)
    assert (await executor.gather([parent, parent, parent], timeout=9)).all_succeeded


async def test_a_task_cancelled_while_it_takes_its_slots_back_gives_the_kept_one_back() -> None:
    kept, wide = KeptThrottler(), TaskThrottler(1)

    async def parent() -> None:
        async def child() -> None:
            assert wide.try_acquire()

        await parallel_gather(child)

    result = await parallel_gather(parent, throttler=lambda _: [kept, wide], timeout=1)

    assert result.timed_out == 1
    assert (kept.active, wide.active) == (0, 1)


KEPT, WIDE, OWN = KeptThrottler(), TaskThrottler(1), TaskThrottler(1)


async def works() -> None:
    take_now(OWN)
    await asyncio.sleep(100)


async def awaits_a_run() -> None:
    take_now(OWN)
    await parallel_gather(partial(after, 100, None))


async def takes_back() -> None:
    async def child() -> None:
        assert WIDE.try_acquire()

    take_now(OWN)
    await parallel_gather(child)


async def in_gather(work: Any) -> Any:
    await parallel_gather(work, throttler=lambda _: [WIDE, KEPT], timeout=None)


async def in_group(work: Any) -> Any:
    async with TaskGroup(throttler=lambda _: [WIDE, KEPT]) as group:
        group.create_task(work())


async def in_group_with_a_context(work: Any) -> Any:
    async with TaskGroup(throttler=lambda _: [WIDE, KEPT]) as group:
        group.create_task(work(), context=contextvars.copy_context())


@pytest.mark.leaky
@pytest.mark.parametrize("way", [in_gather, in_group, in_group_with_a_context])
@pytest.mark.parametrize("work", [works, awaits_a_run, takes_back])
def test_a_task_that_is_collected_with_its_closed_loop_holds_no_slot(work: Any, way: Any) -> None:
    loop = virtual_time.new_loop()
    loop.set_exception_handler(lambda *_: None)  # tasks were destroyed: that is what happens here
    main = loop.create_task(way(work))
    loop.call_later(1, loop.stop)
    loop.run_forever()
    loop.close()
    assert (KEPT.active, OWN.active) == (1, 1)
    if work is takes_back:
        WIDE.release()  # what the child took: whoever waits for it is dropped with its loop

    del main
    gc.collect()
    assert (KEPT.active, OWN.active, WIDE.active) == (0, 0, 0)


@pytest.mark.leaky
@pytest.mark.realtime
def test_such_a_task_whose_thread_works_on_holds_its_slot_until_that_has_ended() -> None:
    kept, started, go_on = KeptThrottler(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        go_on.wait(9)

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # tasks were destroyed: that is what happens here
    main = loop.create_task(parallel_gather(work, throttler=kept, timeout=None))
    while not started.is_set():
        loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()
    del main
    gc.collect()
    assert kept.active == 1

    go_on.set()
    end = time.monotonic() + 9
    while kept.active and time.monotonic() < end:
        time.sleep(0.001)
    assert kept.active == 0


async def test_a_closed_nested_run_gives_none_of_its_tasks_slots_back() -> None:
    kept, wide, held = KeptThrottler(), TaskThrottler(2), []

    async def parent() -> None:
        nested = parallel_gather(partial(after, 1, None))
        nested.send(None)
        held.append((kept.active, wide.active))
        nested.close()
        held.append((kept.active, wide.active))
        await parallel_gather(partial(after, 2, None))
        held.append((kept.active, wide.active))

    await parallel_gather(parent, throttler=lambda _: [wide, kept])

    assert held == [(1, 0), (1, 0), (1, 1)]
    assert (kept.active, wide.active) == (0, 0)


@given(
    TREES,
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.integers(1, 3),
    st.sampled_from([None, 0.75, 2.0, 5.0]),
)
@settings(deadline=None, max_examples=150)
def test_kept_slots_in_any_tree_of_runs_are_held_by_one_and_given_back(
    tree: list[Any], keeps: list[bool], limit: int, timeout: float | None
) -> None:
    """Only the works of the outermost run need the kept slot, as nobody below may wait for it."""
    wide, kept, load = TaskThrottler(limit), KeptThrottler(), Load()
    inside = 0

    def throttlers_of(index: int) -> list[TaskThrottler]:
        return [wide, kept] if keeps[index % len(keeps)] else [wide]

    async def grow(node: list[Any] | float) -> None:
        if isinstance(node, list):
            await parallel_map(grow, node, throttler=wide, timeout=None)
            await load(0.25)
        else:
            await load(node)

    async def outer(indexed: tuple[int, Any]) -> None:
        nonlocal inside
        alone = kept in throttlers_of(indexed[0])
        inside += alone
        assert inside <= 1
        try:
            await grow(indexed[1])
        finally:
            inside -= alone

    async def main() -> None:
        indexed = list(enumerate(tree))
        result = await parallel_map(
            outer, indexed, throttler=lambda each: throttlers_of(each[0]), timeout=timeout
        )
        assert result.failed == 0
        assert not alive()

    run_virtually(main())
    assert load.peak <= limit
    assert [(each.active, each.waiting) for each in (wide, kept)] == [(0, 0)] * 2


async def test_a_slot_that_a_work_took_itself_is_not_lent_and_given_back_at_its_end() -> None:
    wide, own = TaskThrottler(2), TaskThrottler(1)
    held = []

    async def parent() -> bool:
        if not take_now(own):
            return False
        await parallel_gather(partial(after, 1, None))
        held.append((wide.active, own.active))
        return True

    settings: Any
    for settings in ({"throttler": wide}, {}):
        result = await parallel_gather(parent, parent, parent, max_concurrent=2, **settings)
        assert result.get_results() == [True, False, False]
        assert (wide.active, own.active) == (0, 0)
    assert held == [(1, 1), (0, 1)]


@pytest.mark.parametrize("kind", [TaskThrottler, KeptThrottler])
async def test_a_second_slot_of_one_that_a_work_needs_anyway_is_counted_too(kind: Any) -> None:
    throttler, held = kind(2), []

    async def parent() -> None:
        assert take_now(throttler)
        held.append(throttler.active)
        await parallel_gather(partial(after, 1, None))
        held.append(throttler.active)

    await parallel_gather(parent, throttler=throttler)

    assert held == [2, 2]
    assert throttler.active == 0
