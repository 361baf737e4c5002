"""The run of a group: what it lends, what it inherits, and what its body's end leaves behind."""

import asyncio
import gc
import inspect
import itertools
import sys
import weakref
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any

import pytest

from agentos_parallel import (
    DeadlineExceeded,
    ParallelExecutor,
    TaskGroup,
    TaskStatus,
    TaskThrottler,
    TaskTimeout,
    parallel_gather,
    remaining,
)
from tests import virtual_time
from tests.pieces import Stubborn, after, alive, failing_after, now, settle
from tests.ways import Gauge, hang

PENDING, RUNNING = TaskStatus.PENDING, TaskStatus.RUNNING
COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED
TIMEOUT, CANCELLED = TaskStatus.TIMEOUT, TaskStatus.CANCELLED

eager = pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks start eagerly from 3.12 on")


def statuses(group: TaskGroup) -> list[TaskStatus]:
    return [task.status for task in group.result.results]


def is_closed(coro: Coroutine[Any, Any, Any]) -> bool:
    return inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


# Lending.


@pytest.mark.parametrize("context", [None, Context()], ids=["copy", "own"])
async def test_a_body_may_await_a_child_at_limit_1(context: Context | None) -> None:
    throttler = TaskThrottler(1)

    async def work() -> str:
        async with TaskGroup(throttler=throttler) as group:
            task = group.create_task(after(1, "child"), context=context)
            await task
        return task.result()

    result = await parallel_gather(*[work for _ in range(3)], throttler=throttler)
    assert result.get_results() == ["child"] * 3
    assert throttler.peak == 1
    assert throttler.active == 0


async def test_a_group_lends_from_its_first_child_to_its_exit() -> None:
    throttler, seen = TaskThrottler(1), list[int]()

    async def work() -> None:
        seen.append(throttler.active)
        async with TaskGroup() as group:
            seen.append(throttler.active)
            group.create_task(after(1, None))
            seen.append(throttler.active)
            group.create_task(after(1, None))
            await asyncio.sleep(5)  # the body of a group that lends
            seen.append(throttler.active)
        seen.append(throttler.active)

    assert (await parallel_gather(work, throttler=throttler)).all_succeeded
    assert seen == [1, 1, 0, 0, 1]
    assert throttler.active == 0


async def test_a_group_without_children_lends_nothing() -> None:
    throttler = TaskThrottler(1)

    async def work() -> int:
        async with TaskGroup():
            await asyncio.sleep(1)
            return throttler.active
        return -1

    result = await parallel_gather(work, work, throttler=throttler)
    assert result.get_results() == [1, 1]
    assert result.total_duration_ms == 2000


async def test_what_follows_the_group_waits_for_the_slot() -> None:
    throttler, load = TaskThrottler(1), Gauge()

    async def work() -> float:
        async with TaskGroup() as group:
            group.create_task(after(1, None))
        await load.work(3)
        return now()

    started = now()
    result = await parallel_gather(work, work, throttler=throttler)
    # The second lends its slot at once; after that only one at a time works.
    assert [ended - started for ended in result.get_results()] == [4, 7]
    assert load.peak == 1


async def test_the_slot_is_taken_back_after_a_failure_too() -> None:
    throttler, seen = TaskThrottler(1), list[int]()

    async def work() -> None:
        with pytest.raises(ExceptionGroup):
            async with TaskGroup() as group:
                group.create_task(failing_after(1, ValueError("no")))
        seen.append(throttler.active)

    assert (await parallel_gather(work, throttler=throttler)).all_succeeded
    assert seen == [1]
    assert throttler.active == 0


@pytest.mark.parametrize("limit", [1, 2])
async def test_groups_in_groups_on_one_throttler_do_not_deadlock(limit: int) -> None:
    throttler, load = TaskThrottler(limit), Gauge()

    async def grow(levels: int) -> int:
        if not levels:
            await load.work()
            return 1
        async with TaskGroup(throttler=throttler) as group:
            tasks = [group.create_task(grow(levels - 1)) for _ in range(2)]
            first = await tasks[0]
        return first + tasks[1].result()

    assert await grow(5) == 32
    assert load.peak == throttler.peak == limit
    assert throttler.active == 0


async def test_groups_and_gathers_in_turn_do_not_deadlock() -> None:
    throttler, load = TaskThrottler(1), Gauge()
    executor = ParallelExecutor(throttler=throttler, timeout=None)

    async def gathers(levels: int) -> None:
        if not levels:
            await load.work()
            return
        nested = partial(groups, levels - 1)
        assert (await executor.gather([nested, nested])).all_succeeded

    async def groups(levels: int) -> None:
        async with TaskGroup(throttler=throttler) as group:
            for _ in range(2):
                group.create_task(gathers(levels))

    await groups(2)
    assert load.peak == 1
    assert throttler.active == 0


async def test_two_groups_at_once_in_one_task_lend_once() -> None:
    throttler, seen = TaskThrottler(1), list[int]()

    async def work() -> None:
        async with TaskGroup() as outer, TaskGroup() as inner:
            outer.create_task(after(3, None))
            inner.create_task(after(1, None))
            seen.append(throttler.active)
        seen.append(throttler.active)

    assert (await parallel_gather(work, throttler=throttler)).all_succeeded
    assert seen == [0, 1]
    assert throttler.active == 0


async def test_a_cancel_while_the_slot_is_taken_back_comes_out() -> None:
    throttler, ends = TaskThrottler(1), list[str]()
    inner: list[asyncio.Task[Any] | None] = []

    async def work() -> None:
        inner.append(asyncio.current_task())
        try:
            async with TaskGroup() as group:
                group.create_task(after(1, None))
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    async def occupies() -> None:
        await asyncio.sleep(5)

    outer = asyncio.create_task(parallel_gather(work, occupies, throttler=throttler, grace=1))
    await asyncio.sleep(2)
    assert (throttler.active, throttler.waiting) == (1, 1)
    assert inner[0] is not None
    inner[0].cancel()
    result = await outer
    assert [task.status for task in result.results] == [CANCELLED, COMPLETED]
    assert ends == ["cancelled"]
    assert throttler.active == 0


async def test_a_cancel_in_the_take_back_does_not_replace_the_one_before() -> None:
    throttler = TaskThrottler(1)

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        loop.call_later(1, task.cancel, "first")
        loop.call_later(2, task.cancel, "second")
        async with TaskGroup() as group:
            group.create_task(hang())

    async def occupies() -> None:
        await asyncio.sleep(5)

    result = await parallel_gather(work, occupies, throttler=throttler)
    error = result.results[0].error
    assert isinstance(error, asyncio.CancelledError)
    assert error.args == ("first",)
    assert throttler.active == 0


async def test_a_child_lends_its_own_slot_to_its_gather() -> None:
    load, throttler = Gauge(), TaskThrottler(1)

    async def child() -> bool:
        result = await parallel_gather(load.work, load.work, throttler=throttler)
        return result.all_succeeded

    async with TaskGroup(throttler=throttler) as group:
        for _ in range(3):
            group.create_task(child())
    assert group.result.get_results() == [True] * 3
    assert (load.peak, throttler.active) == (1, 0)


async def test_the_slot_of_an_abandoned_child_is_back_when_it_ends() -> None:
    stubborn, throttler = Stubborn(), TaskThrottler(1)

    async def work() -> None:
        with suppress(ExceptionGroup):
            async with TaskGroup(throttler=throttler, task_timeout=1, grace=1) as group:
                group.create_task(stubborn())

    await work()
    assert throttler.active == 1
    await stubborn.let_go()
    assert throttler.active == 0


# What it inherits.


@pytest.mark.parametrize("own", [None, 10])
async def test_the_outer_deadline_ends_the_group(own: float | None) -> None:
    groups: list[TaskGroup] = []

    async def work() -> None:
        async with TaskGroup(timeout=own) as group:
            groups.append(group)
            group.create_task(after(1, "done"))
            group.create_task(hang())
            await hang()

    result = await parallel_gather(work, timeout=3)
    assert result.results[0].status is TIMEOUT
    assert isinstance(result.results[0].error, DeadlineExceeded)
    assert statuses(groups[0]) == [COMPLETED, TIMEOUT]
    assert "the outer run's timeout of 3 s" in str(groups[0].result.results[1].error)
    assert result.total_duration_ms == 3000


async def test_the_groups_own_deadline_is_a_failure_of_its_task() -> None:
    async def work() -> None:
        async with TaskGroup(timeout=2) as group:
            group.create_task(hang())

    result = await parallel_gather(work, timeout=10)
    assert result.results[0].status is TIMEOUT
    assert "the run's timeout of 2 s" in str(result.results[0].error)
    assert result.total_duration_ms == 2000


async def test_both_deadlines_at_once() -> None:
    groups: list[TaskGroup] = []

    async def work() -> None:
        async with TaskGroup(timeout=3) as group:
            groups.append(group)
            group.create_task(hang())
            await hang()

    result = await parallel_gather(work, timeout=3)
    assert result.results[0].status is TIMEOUT
    assert statuses(groups[0]) == [TIMEOUT]
    assert result.total_duration_ms == 3000


async def test_children_inherit_what_is_left() -> None:
    async def left() -> float | None:
        await asyncio.sleep(1)
        return remaining()

    async def work() -> float | None:
        async with TaskGroup(timeout=60) as group:
            task = group.create_task(left())
        return task.result()

    assert (await parallel_gather(work, timeout=10)).get_results() == [9]


async def test_a_task_timeout_around_ends_the_group() -> None:
    groups: list[TaskGroup] = []

    async def work() -> None:
        async with TaskGroup() as group:
            groups.append(group)
            group.create_task(hang())

    result = await parallel_gather(work, task_timeout=2, timeout=None)
    assert isinstance(result.results[0].error, TaskTimeout)
    assert statuses(groups[0]) == [CANCELLED]
    assert result.total_duration_ms == 2000


async def test_a_nested_group_gives_up_before_the_outer_run() -> None:
    stubborn, groups = Stubborn(), list[TaskGroup]()

    async def work() -> None:
        async with TaskGroup(grace=60) as group:
            groups.append(group)
            group.create_task(stubborn())

    result = await parallel_gather(work, timeout=1, grace=2)
    assert result.abandoned == 0
    assert groups[0].result.abandoned == 1
    assert result.total_duration_ms < 3000
    await stubborn.let_go()


async def test_a_body_that_is_abandoned_leaves_no_slot_taken() -> None:
    throttler, groups = TaskThrottler(1), list[TaskGroup]()

    async def work() -> None:
        async with TaskGroup(throttler=throttler) as group:
            groups.append(group)
            group.create_task(hang())
            for _ in range(3):
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(10)

    result = await parallel_gather(work, timeout=1, grace=1)
    assert result.results[0].abandoned
    assert statuses(groups[0]) == [TIMEOUT]
    assert throttler.active == 0
    await asyncio.sleep(30)  # until the body has ended
    assert not alive()
    assert statuses(groups[0]) == [TIMEOUT]


@pytest.mark.parametrize("depth", range(5))
async def test_a_cancel_at_each_depth_ends_what_is_below(depth: int) -> None:
    throttler, ended = TaskThrottler(1), list[int]()
    tasks: dict[int, asyncio.Task[Any]] = {}

    async def grow(level: int) -> int:
        try:
            if level == 4:
                await hang()
            async with TaskGroup(throttler=throttler) as group:
                tasks[level + 1] = group.create_task(grow(level + 1))
            return level
        finally:
            ended.append(level)

    tasks[0] = asyncio.create_task(grow(0))
    await asyncio.sleep(1)
    assert throttler.active == 1
    tasks[depth].cancel()
    await asyncio.wait(tasks.values())
    assert {level for level, task in tasks.items() if task.cancelled()} == {*range(depth, 5)}
    assert ended == [4, 3, 2, 1, 0]
    assert throttler.active == 0
    assert not alive()


# The end of a body that nobody waits for.


@asynccontextmanager
async def in_group(group: TaskGroup, *works: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    async with group:
        for work in works:
            group.create_task(work)
        yield


@pytest.mark.parametrize("exiting", [False, True])
@pytest.mark.parametrize("nested", [False, True])
async def test_a_coroutine_closed_in_the_group_leaves_no_slot_taken(
    exiting: bool, nested: bool
) -> None:
    throttler, group = TaskThrottler(2), TaskGroup(max_concurrent=1)

    async def body() -> None:
        async with group:
            group.create_task(hang())
            group.create_task(hang())
            if not exiting:
                await hang()

    async def work() -> None:
        # Driven by hand, as by one who then drops it.
        coro = body()
        coro.send(None)
        await asyncio.sleep(1)
        coro.close()
        await settle()

    if nested:
        assert (await parallel_gather(work, throttler=throttler)).all_succeeded
    else:
        await work()
    await settle()
    assert statuses(group) == [CANCELLED, CANCELLED]
    assert "its body was closed" in group.result.reason
    assert throttler.active == 0
    assert not alive()


async def test_a_generator_closed_in_the_group_cancels_its_children() -> None:
    group = TaskGroup()

    async def reads() -> AsyncIterator[int]:
        async with group:
            group.create_task(hang())
            yield 1

    source = reads()
    assert await anext(source) == 1
    await source.aclose()  # type: ignore[attr-defined]  # an async generator
    await settle()
    assert statuses(group) == [CANCELLED]
    assert not alive()


def test_a_body_closed_after_its_loop_breaks_nothing() -> None:
    loop, group, child = virtual_time.new_loop(), TaskGroup(), hang()

    async def main() -> Coroutine[Any, Any, None]:
        coro = body()
        coro.send(None)
        await asyncio.sleep(0)
        return coro

    async def body() -> None:
        async with group:
            group.create_task(child)
            await hang()

    coro = loop.run_until_complete(main())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    coro.close()
    assert is_closed(child)


# Children's corners.


@pytest.mark.parametrize("passes", [0, 1], ids=["just before it", "with it"])
async def test_a_cancel_about_the_admission_is_kept(passes: int) -> None:
    throttler = TaskThrottler(1)
    await throttler.acquire()
    async with TaskGroup(throttler=throttler) as group:
        task = group.create_task(hang())
        await settle()
        throttler.release()
        for _ in range(passes):
            await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()
    assert throttler.active == 0


async def test_many_children_cancelled_in_the_queue_lose_no_slot() -> None:
    narrow, wide, load = TaskThrottler(2), TaskThrottler(3), Gauge()

    def throttlers_of(task_id: str) -> list[TaskThrottler]:
        return [narrow, wide] if int(task_id) % 2 else [wide]

    async with TaskGroup(throttler=throttlers_of) as group:
        tasks = [group.create_task(load.work()) for _ in range(30)]
        await settle()
        for task in tasks[::3]:
            task.cancel()
            await asyncio.sleep(0.1)
    assert group.result.completed == 20
    assert group.result.cancelled == 10
    assert load.peak <= 3
    assert (narrow.active, wide.active) == (0, 0)


async def test_a_failure_in_a_context_that_children_share() -> None:
    context, error = copy_context(), ValueError("no")
    with pytest.raises(ExceptionGroup) as raised:
        async with TaskGroup() as group:
            sibling = group.create_task(hang(), context=context)
            group.create_task(failing_after(1, error), context=context)
    assert raised.value.exceptions == (error,)
    assert sibling.cancelled()


# Eager starts.


@eager
async def test_children_that_start_eagerly_keep_the_promises() -> None:
    loop, throttler, load = asyncio.get_running_loop(), TaskThrottler(2), Gauge()
    if not isinstance(loop, asyncio.BaseEventLoop):
        pytest.skip("uvloop gives the factory a keyword that it does not take before 3.13.3")
    factory = loop.get_task_factory()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - not there before

    async def at_once() -> str:
        return "at once"

    async def fails() -> None:
        raise ValueError("no")

    async with TaskGroup(throttler=throttler, fail_fast=False, task_timeout=2) as group:
        first = group.create_task(at_once())
        assert first.done()
        group.create_task(fails())
        for _ in range(4):
            group.create_task(load.work())
        group.create_task(hang())
    assert statuses(group) == [COMPLETED, FAILED, *[COMPLETED] * 4, TIMEOUT]
    assert load.peak == 2
    assert throttler.active == 0

    with pytest.raises(ExceptionGroup):
        async with TaskGroup() as group:
            sibling = group.create_task(hang())
            group.create_task(fails())
    assert sibling.cancelled()
    assert cancelling() == 0
    loop.set_task_factory(factory)


@pytest.mark.parametrize("starts_eagerly", [False, pytest.param(True, marks=eager)])
async def test_a_group_that_stops_while_a_child_is_made(starts_eagerly: bool) -> None:
    loop = asyncio.get_running_loop()
    before, refused, child = loop.get_task_factory(), hang(), hang()

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("no task today")

    def stops(_: Any, coro: Any, **given: Any) -> asyncio.Task[Any]:
        loop.set_task_factory(refuse)
        with pytest.raises(OSError, match="no task today"):
            group.create_task(refused)
        loop.set_task_factory(before)
        if starts_eagerly:
            given["eager_start"] = True
        return asyncio.Task(coro, loop=loop, **given)

    with pytest.raises(ExceptionGroup) as raised:
        async with TaskGroup() as group:
            loop.set_task_factory(stops)
            task = group.create_task(child)
    assert [type(error) for error in raised.value.exceptions] == [OSError]
    assert task.cancelled()
    assert is_closed(refused)
    assert is_closed(child)
    assert statuses(group) == [CANCELLED, FAILED]
    assert cancelling() == 0


async def test_a_child_cancelled_before_its_first_step_in_a_given_context_is_closed() -> None:
    coro = asyncio.sleep(1)

    async with TaskGroup() as group:
        task = group.create_task(coro, context=copy_context())
        task.cancel()

    assert task.cancelled()
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


async def test_what_the_children_gave_does_not_wait_for_the_collector() -> None:
    class Value:
        """Something with a weak reference."""

    async def give() -> Value:
        value = Value()
        given.append(weakref.ref(value))
        return value

    async def use() -> None:
        async with TaskGroup(max_concurrent=1, timeout=60) as group:
            group.create_task(give())
            group.create_task(give())
        assert [type(value) for value in group.result.get_results()] == [Value, Value]

    given: list[weakref.ref[Value]] = []
    gc.collect()
    gc.disable()
    try:
        await asyncio.create_task(use())
        await settle()
        assert [value() for value in given] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("nesting", range(4))
async def test_children_start_in_order_however_many_passes_lie_between(
    limit: int, nesting: int
) -> None:
    async def child(n: int) -> None:
        started.append(n)
        if n == nesting:
            await parallel_gather()  # lends its slot, and takes it back

    for passes in itertools.product(range(5), repeat=4):
        started: list[int] = []
        async with TaskGroup(max_concurrent=limit) as group:
            for n, between in enumerate((*passes, 0)):
                group.create_task(child(n))
                for _ in range(between):
                    await asyncio.sleep(0)
        assert started == [0, 1, 2, 3, 4], passes
