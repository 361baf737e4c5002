"""P9: runs in runs lend their slots, so that they can't deadlock."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import pytest

from agentos_parallel import (
    FanOutExecutor,
    ParallelExecutor,
    TaskGroup,
    TaskStatus,
    TaskThrottler,
    TaskTimeout,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from tests.pieces import alive
from tests.ways import WAYS, Factory, Gauge, Results, Way, hang, now

COMPLETED, TIMEOUT = TaskStatus.COMPLETED, TaskStatus.TIMEOUT
CANCELLED = TaskStatus.CANCELLED


@pytest.fixture(name="gauge")
def make_gauge() -> Gauge:
    return Gauge()


def free(*throttlers: TaskThrottler) -> bool:
    return all((throttler.active, throttler.waiting) == (0, 0) for throttler in throttlers)


# Depth and circles.


async def test_p09_five_levels_on_one_slot(gauge: Gauge) -> None:
    executor = ParallelExecutor(max_concurrent=1, timeout=None)

    async def agent(depth: int) -> int:
        if not depth:
            await gauge.work(1)
            return 1
        result = await executor.map(agent, [depth - 1, depth - 1])
        return sum(result.raise_for_errors().get_results())

    began = now()
    result = await executor.map(agent, [5])
    assert result.get_results() == [32]
    assert now() - began == 32
    assert (gauge.peak, executor.throttler) == (1, executor.throttler)
    assert isinstance(executor.throttler, TaskThrottler)
    assert executor.throttler.peak == 1
    assert free(executor.throttler)


@pytest.mark.parametrize("run", WAYS)
async def test_p09_every_way_in_nests_in_itself_on_one_slot(run: Way, gauge: Gauge) -> None:
    throttler = TaskThrottler(1)

    async def agent(depth: int) -> int:
        if not depth:
            await gauge.work(1)
            return 1
        works = [partial(agent, depth - 1)] * 2
        tasks = await run(works, throttler=throttler, max_concurrent=2)
        return sum(task.result or 0 for task in tasks)

    tasks = await run([partial(agent, 3)] * 2, throttler=throttler, max_concurrent=2)
    assert [task.result for task in tasks] == [8, 8]
    assert (gauge.peak, throttler.peak) == (1, 1)
    assert free(throttler)


@pytest.mark.parametrize("outer", WAYS)
@pytest.mark.parametrize("inner", WAYS)
async def test_p09_every_way_in_nests_in_every_other(outer: Way, inner: Way, gauge: Gauge) -> None:
    throttler = TaskThrottler(1)

    async def agent() -> None:
        await gauge.work(1)
        await inner([gauge.work] * 2, throttler=throttler)
        await gauge.work(1)

    began = now()
    tasks = await outer([agent] * 2, throttler=throttler)
    assert [task.status for task in tasks] == [COMPLETED, COMPLETED]
    assert now() - began == 8
    assert gauge.peak == 1
    assert free(throttler)


async def test_p09_two_executors_that_wait_for_each_others_slots(gauge: Gauge) -> None:
    first, second = TaskThrottler(1), TaskThrottler(1)
    one, other = ParallelExecutor(throttler=first), ParallelExecutor(throttler=second)

    async def agent(own: ParallelExecutor, its: ParallelExecutor, depth: int) -> None:
        await gauge.work(1)
        if depth:
            await its.gather([partial(agent, its, own, depth - 1)])
        await gauge.work(1)

    results = await asyncio.gather(
        one.gather([partial(agent, one, other, 4)] * 2),
        other.gather([partial(agent, other, one, 4)] * 2),
    )
    assert [result.all_succeeded for result in results] == [True, True]
    assert (first.peak, second.peak) == (1, 1)
    assert gauge.peak == 2
    assert free(first, second)


async def test_p09_a_tree_of_agents_never_works_more_than_its_limit(gauge: Gauge) -> None:
    executor = ParallelExecutor(max_concurrent=4, timeout=None)

    async def agent(depth: int) -> int:
        await gauge.work(1)
        if not depth:
            return 1
        result = await executor.map(agent, [depth - 1] * 3)
        await gauge.work(1)
        return 1 + sum(result.get_results())

    result = await executor.map(agent, [3, 3, 3])
    assert result.get_results() == [40, 40, 40]
    assert gauge.peak == 4
    assert isinstance(executor.throttler, TaskThrottler)
    assert executor.throttler.peak == 4
    assert free(executor.throttler)


async def test_p09_of_a_thousand_agents_four_work_whatever_way_they_nest(gauge: Gauge) -> None:
    throttler, agents = TaskThrottler(4), 1_111
    ways = [*WAYS, grouped]
    worked = set()

    async def agent(number: int) -> None:
        await gauge.work(1)
        children = range(10 * number + 1, min(10 * number + 11, agents))
        if children:
            run = ways[number % len(ways)]
            works = [partial(agent, child) for child in children]
            await run(works, throttler=throttler, timeout=None)
            await gauge.work(1)
        worked.add(number)

    began = now()
    result = await parallel_gather(partial(agent, 0), throttler=throttler, timeout=None)
    assert result.all_succeeded
    assert worked == set(range(agents))
    assert (gauge.peak, throttler.peak) == (4, 4)
    assert now() - began < 1_222 / 4 + 10  # nearly always all four work
    assert free(throttler)


async def grouped(works: Sequence[Factory], **settings: Any) -> Results:
    async with TaskGroup(**settings) as group:
        for work in works:
            group.create_task(lambda_of(work)(None))
    return group.result.results


async def test_p09_groups_in_groups_five_deep_on_one_slot(gauge: Gauge) -> None:
    throttler = TaskThrottler(1)

    async def agent(depth: int) -> int:
        await gauge.work(1)
        if not depth:
            return 1
        async with TaskGroup(throttler=throttler) as group:
            children = [group.create_task(agent(depth - 1)) for _ in range(2)]
        await gauge.work(1)
        return 1 + sum(child.result() for child in children)

    began = now()
    assert (await parallel_map(agent, [5], throttler=throttler, timeout=None)).get_results() == [63]
    assert now() - began == 32 + 2 * 31
    assert (gauge.peak, throttler.peak, free(throttler)) == (1, 1, True)


async def test_p09_a_group_lends_from_its_first_create_task_to_its_exit() -> None:
    throttler, seen = TaskThrottler(1), []

    async def child() -> None:
        seen.append(throttler.active)
        await asyncio.sleep(1)

    async def agent() -> None:
        async with TaskGroup() as group:
            await asyncio.sleep(1)
            seen.append(throttler.active)
            await group.create_task(child())
            seen.append(throttler.active)
        seen.append(throttler.active)

    await parallel_gather(agent, throttler=throttler)
    assert seen == [1, 0, 0, 1]


async def test_p09_a_runs_own_limit_holds_while_its_tasks_lend(gauge: Gauge) -> None:
    started = 0
    throttler = TaskThrottler(8)

    async def agent() -> None:
        nonlocal started
        started += 1
        with gauge:
            await parallel_gather(partial(asyncio.sleep, 1), throttler=throttler)

    result = await parallel_gather(*[agent] * 10, max_concurrent=2, throttler=throttler)
    assert result.all_succeeded
    assert (started, gauge.peak) == (10, 2)


async def test_p09_an_executors_run_has_no_more_in_hand_than_its_limit(gauge: Gauge) -> None:
    executor = ParallelExecutor(max_concurrent=2)

    async def agent() -> None:
        with gauge:
            await executor.gather([partial(asyncio.sleep, 1)])

    assert (await executor.gather([agent] * 6)).all_succeeded
    assert gauge.peak == 2


# What is lent.


async def test_p09_the_slot_is_lent_whichever_throttler_the_nested_run_uses() -> None:
    outer, elsewhere = TaskThrottler(1), TaskThrottler(1)
    order = []

    async def agent(name: str) -> None:
        order.append(f"{name} begins {now() - began:g}")
        await parallel_gather(partial(asyncio.sleep, 2), throttler=elsewhere)
        order.append(f"{name} ends {now() - began:g}")

    began = now()
    await parallel_map(agent, ["a", "b"], throttler=outer)
    assert order == ["a begins 0", "b begins 0", "a ends 2", "b ends 4"]
    assert free(outer, elsewhere)


async def test_p09_every_slot_is_lent() -> None:
    agents, provider = TaskThrottler(1), TaskThrottler(2)
    seen = []

    async def agent() -> None:
        seen.append((agents.active, provider.active))
        await parallel_gather(inner)
        seen.append((agents.active, provider.active))

    async def inner() -> None:
        seen.append((agents.active, provider.active))

    await parallel_map(lambda_of(agent), [0], throttler=lambda _: [agents, provider])
    assert seen == [(1, 1), (0, 0), (1, 1)]
    assert free(agents, provider)


def lambda_of(work: Factory) -> Any:
    async def called(_: object) -> Any:
        return await work()

    return called


async def test_p09_a_slot_taken_by_hand_is_not_lent() -> None:
    by_hand, throttler = TaskThrottler(1), TaskThrottler(1)
    seen = []

    async def agent() -> None:
        async with by_hand:
            await parallel_gather(inner, throttler=throttler)

    async def inner() -> None:
        seen.append((by_hand.active, throttler.active))

    await parallel_gather(agent, throttler=throttler)
    assert seen == [(1, 1)]
    assert free(by_hand, throttler)


async def test_p09_a_run_around_that_took_no_slot_lends_none() -> None:
    throttler = TaskThrottler(1)

    async def agent() -> None:
        await parallel_gather(partial(asyncio.sleep, 1), throttler=throttler)

    began = now()
    assert (await parallel_gather(agent, agent)).all_succeeded
    assert now() - began == 2
    assert free(throttler)


async def test_p09_only_the_task_that_waits_lends_not_the_one_around_it() -> None:
    outer, inner = TaskThrottler(1), TaskThrottler(1)
    seen = []

    async def leaf() -> None:
        seen.append((outer.active, inner.active))

    async def middle() -> None:
        seen.append((outer.active, inner.active))
        await parallel_gather(leaf)

    async def agent() -> None:
        await parallel_gather(middle, throttler=inner)
        seen.append((outer.active, inner.active))

    await parallel_gather(agent, throttler=outer)
    assert seen == [(0, 1), (0, 0), (1, 0)]


async def test_p09_the_slot_comes_back_before_who_queues() -> None:
    throttler = TaskThrottler(1)
    order = []

    async def agent() -> None:
        await parallel_gather(partial(asyncio.sleep, 1))
        order.append("agent")

    async def other(name: str) -> None:
        await asyncio.sleep(2)
        order.append(name)

    works: list[Factory] = [agent, *(partial(other, name) for name in "bcd")]
    await parallel_gather(*works, throttler=throttler)
    assert order == ["b", "agent", "c", "d"]


async def test_p09_waiting_for_the_slot_belongs_to_the_attempt() -> None:
    throttler = TaskThrottler(1)

    async def agent() -> None:
        await parallel_gather(partial(asyncio.sleep, 1))

    result = await parallel_gather(agent, partial(asyncio.sleep, 4), throttler=throttler)
    assert [task.queued_ms for task in result.results] == [0, 0]
    assert [task.duration_ms for task in result.results] == [4_000, 4_000]


# Several nested runs in one task.


async def test_p09_two_nested_runs_in_one_task(gauge: Gauge) -> None:
    executor = ParallelExecutor(max_concurrent=1)

    async def agent() -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(executor.gather([partial(gauge.work, 1)] * 2))
            group.create_task(executor.gather([partial(gauge.work, 2)] * 2))
        await gauge.work(1)
        return "done"

    began = now()
    result = await executor.gather([agent, agent])
    assert result.get_results() == ["done", "done"]
    assert now() - began == 14
    assert gauge.peak == 1
    assert isinstance(executor.throttler, TaskThrottler)
    assert free(executor.throttler)


async def test_p09_the_slot_comes_back_when_the_last_nested_run_has_ended() -> None:
    throttler = TaskThrottler(1)
    seen = []

    async def agent() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(parallel_gather(partial(asyncio.sleep, 1)))
            group.create_task(parallel_gather(partial(asyncio.sleep, 3)))
            for _ in range(3):
                await asyncio.sleep(1.1)
                seen.append(throttler.active)
        seen.append(throttler.active)

    await parallel_gather(agent, throttler=throttler)
    assert seen == [0, 0, 1, 1]


async def test_p09_nested_runs_that_end_together_take_the_slot_once() -> None:
    throttler = TaskThrottler(1)

    async def agent() -> int:
        nested = [parallel_gather(partial(asyncio.sleep, 1)) for _ in range(5)]
        await asyncio.gather(*nested)
        return throttler.active

    result = await parallel_gather(agent, agent, agent, throttler=throttler)
    assert result.get_results() == [1, 1, 1]
    assert (throttler.peak, free(throttler)) == (1, True)


async def test_p09_a_run_that_opens_while_the_slot_is_taken_back(gauge: Gauge) -> None:
    throttler = TaskThrottler(1)

    async def agent() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(parallel_gather(partial(asyncio.sleep, 1)))
            await asyncio.sleep(2)  # the slot is waited for: another work has it
            group.create_task(parallel_gather(partial(gauge.work, 1), throttler=throttler))
        await gauge.work(1)

    began = now()
    result = await parallel_gather(agent, partial(gauge.work, 4), throttler=throttler)
    assert result.all_succeeded
    assert now() - began == 6
    assert (gauge.peak, throttler.peak, free(throttler)) == (1, 1, True)


async def test_p09_a_failed_nested_run_gives_the_slot_back_too(gauge: Gauge) -> None:
    throttler = TaskThrottler(1)

    async def agent() -> int:
        with pytest.raises(ValueError):
            await fan_out([fail], aggregation="first", throttler=throttler)
        with pytest.raises(TypeError):
            await parallel_gather(1, throttler=throttler)  # type: ignore[call-overload]
        await gauge.work(1)
        return throttler.active

    async def fail() -> None:
        raise ValueError("no")

    result = await parallel_gather(agent, agent, throttler=throttler)
    assert result.get_results() == [1, 1]
    assert (gauge.peak, free(throttler)) == (1, True)


async def test_p09_a_stream_and_other_runs_open_at_once_in_one_task(gauge: Gauge) -> None:
    throttler = TaskThrottler(1)

    async def agent() -> int:
        works: list[Factory] = [gauge.work] * 4
        async with ParallelExecutor(throttler=throttler).stream(works) as results:
            await anext(results)
            async with asyncio.TaskGroup() as group:
                group.create_task(parallel_gather(gauge.work, gauge.work, throttler=throttler))
                group.create_task(anext(results))
                group.create_task(fan_out([gauge.work], throttler=throttler))
            await gauge.work(1)
            read_ = [task async for task in results]
        return len(read_)

    began = now()
    result = await parallel_gather(agent, agent, throttler=throttler)
    assert result.raise_for_errors().get_results() == [2, 2]
    assert now() - began == 16
    assert (gauge.peak, throttler.peak, free(throttler)) == (1, 1, True)


# Streams.


async def test_p09_a_stream_lends_only_while_it_is_waited_for(gauge: Gauge) -> None:
    throttler = TaskThrottler(1)

    async def agent() -> int:
        read = 0
        works: list[Factory] = [partial(gauge.work, 1)] * 3
        async with ParallelExecutor(throttler=throttler).stream(works) as results:
            async for _ in results:
                assert throttler.active == 1
                await gauge.work(1)
                read += 1
        await gauge.work(1)
        return read

    result = await parallel_gather(agent, agent, throttler=throttler)
    assert result.raise_for_errors().get_results() == [3, 3]
    assert (gauge.peak, throttler.peak, free(throttler)) == (1, 1, True)


async def test_p09_a_stream_lends_while_it_is_closed(gauge: Gauge) -> None:
    throttler = TaskThrottler(1)
    seen = []

    async def slow_cleanup() -> None:
        try:
            await hang()
        finally:
            await asyncio.sleep(2)

    async def quick() -> None:
        await asyncio.sleep(1)

    async def agent() -> None:
        works: list[Factory] = [quick, slow_cleanup]
        async with ParallelExecutor().stream(works) as results:
            await anext(results)
            seen.append((now() - began, throttler.active))
        seen.append((now() - began, throttler.active))

    async def other() -> None:
        await asyncio.sleep(1)
        seen.append((now() - began, throttler.active))
        await asyncio.sleep(1.5)

    began = now()
    await parallel_gather(agent, other, throttler=throttler, max_concurrent=2)
    assert seen == [(1, 1), (2.5, 1), (4.5, 1)]
    assert free(throttler)


async def test_p09_a_cancelled_read_waits_for_no_slot_that_its_own_tasks_have() -> None:
    throttler = TaskThrottler(1)

    async def agent() -> float:
        stream = parallel_stream(asyncio.sleep, [50, 50], throttler=throttler)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await anext(stream)
        assert throttler.active == 1
        return now() - began

    began = now()
    result = await parallel_gather(agent, throttler=throttler)
    assert result.get_results() == [1]
    assert free(throttler)


async def test_p09_a_stream_closed_while_it_is_read_in_the_same_task(gauge: Gauge) -> None:
    throttler = TaskThrottler(1)

    async def agent() -> int:
        stream = parallel_stream(gauge.work, [50, 50], throttler=throttler)
        reader = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(1)
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await reader
        await gauge.work(1)
        return throttler.active

    began = now()
    result = await parallel_gather(agent, agent, throttler=throttler)
    assert result.get_results() == [1, 1]
    assert now() - began <= 4
    assert (gauge.peak, throttler.peak, free(throttler)) == (1, 1, True)


async def test_p09_a_stream_that_has_a_result_ready_lends_nothing() -> None:
    throttler = TaskThrottler(1)
    order = []

    async def agent() -> None:
        async with parallel_stream(asyncio.sleep, [0, 0]) as results:
            order.append("opened")
            await asyncio.sleep(1)
            await anext(results)
            await anext(results)
            order.append("read")

    async def other() -> None:
        order.append("other")

    await parallel_gather(agent, other, throttler=throttler)
    assert order == ["opened", "read", "other"]


# Cancels, timeouts, ends.


async def test_p09_cancelled_while_taking_back_it_goes_on_without(gauge: Gauge) -> None:
    throttler = TaskThrottler(1)
    seen = []

    async def agent() -> None:
        try:
            await parallel_gather(partial(asyncio.sleep, 1))
        finally:
            seen.append((now() - began, throttler.active, throttler.waiting))

    began = now()
    result = await parallel_gather(
        agent, partial(gauge.work, 5), throttler=throttler, task_timeout=3, grace=1
    )
    assert [task.status for task in result.results] == [TIMEOUT, TIMEOUT]
    assert seen == [(3, 1, 0)]
    assert now() - began == 3
    assert free(throttler)


async def test_p09_a_run_cancelled_while_a_task_takes_back_leaks_nothing() -> None:
    throttler = TaskThrottler(1)

    async def agent() -> None:
        await parallel_gather(partial(asyncio.sleep, 1))

    task = asyncio.ensure_future(
        parallel_gather(agent, partial(asyncio.sleep, 5), agent, throttler=throttler)
    )
    await asyncio.sleep(2)
    assert throttler.waiting == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert free(throttler)


async def test_p09_a_task_cancelled_in_its_nested_run_goes_on_without() -> None:
    throttler = TaskThrottler(1)
    seen = []

    async def agent() -> None:
        try:
            await parallel_gather(hang)
        finally:
            seen.append((now() - began, throttler.active))
            await asyncio.sleep(1)

    began = now()
    result = await parallel_gather(
        agent, partial(asyncio.sleep, 1), throttler=throttler, task_timeout=2
    )
    assert [task.status for task in result.results] == [TIMEOUT, COMPLETED]
    assert isinstance(result.results[0].error, TaskTimeout)
    assert seen == [(2, 0)]
    assert free(throttler)


@pytest.mark.parametrize("run", [*WAYS, grouped])
@pytest.mark.parametrize("depth", range(1, 6))
async def test_p09_a_cancel_at_any_depth_ends_what_is_below_and_nothing_above(
    run: Way, depth: int, gauge: Gauge
) -> None:
    throttler, ended = TaskThrottler(1), []

    async def agent(level: int) -> int:
        try:
            if level == 5:
                await gauge.work(1_000)
            below = asyncio.ensure_future(run([partial(agent, level + 1)], throttler=throttler))
            if level + 1 == depth:
                asyncio.get_running_loop().call_later(3, below.cancel)
            with suppress(asyncio.CancelledError) if level + 1 == depth else nullcontext():
                await below
            await gauge.work(1)
            return throttler.active
        finally:
            ended.append(level)

    began = now()
    async with asyncio.timeout(100):
        if depth > 1:
            result = await parallel_map(agent, [1], throttler=throttler)
            assert result.raise_for_errors().get_results() == [1]
        else:
            outermost = asyncio.ensure_future(run([partial(agent, 1)], throttler=throttler))
            asyncio.get_running_loop().call_later(3, outermost.cancel)
            await asyncio.wait([outermost])
    assert ended == [5, 4, 3, 2, 1]
    assert now() - began == 3 + depth - 1
    assert (gauge.peak, gauge.inside, free(throttler)) == (1, 0, True)


@pytest.mark.parametrize("run", [*WAYS, grouped])
async def test_p09_a_cancel_after_any_number_of_steps_leaks_nothing(run: Way) -> None:
    async def agent(throttler: TaskThrottler, depth: int) -> None:
        await asyncio.sleep(0)
        if depth:
            await run([partial(agent, throttler, depth - 1)] * 2, throttler=throttler)
            await asyncio.sleep(0)

    async def cancelled_after(steps: int, limit: int) -> bool:
        throttler = TaskThrottler(limit)
        works: list[Factory] = [partial(agent, throttler, 2)] * 2
        outermost = asyncio.ensure_future(run(works, throttler=throttler))
        for _ in range(steps):
            await asyncio.sleep(0)
        ended = outermost.done()
        outermost.cancel()
        await asyncio.wait([outermost])
        assert (alive(), throttler.peak <= limit, free(throttler)) == (set(), True, True)
        return ended

    for limit in (1, 2):
        steps = 0
        while not await cancelled_after(steps, limit):
            steps += 1
        assert steps > 10


async def test_p09_a_nested_run_in_the_cleanup_of_a_cancelled_task() -> None:
    throttler = TaskThrottler(1)
    cleaned = []

    async def agent() -> None:
        try:
            await hang()
        finally:
            result = await parallel_gather(partial(asyncio.sleep, 1), throttler=throttler)
            cleaned.append(result.completed)

    began = now()
    result = await parallel_gather(agent, timeout=2, throttler=throttler)
    assert result.results[0].status is TIMEOUT
    assert len(cleaned) == 1
    assert now() - began <= 7
    assert free(throttler)


async def test_p09_one_of_two_nested_runs_cancelled_by_its_task() -> None:
    throttler = TaskThrottler(1)

    async def agent() -> int:
        first = asyncio.ensure_future(parallel_gather(hang))
        second = asyncio.ensure_future(parallel_gather(partial(asyncio.sleep, 3)))
        await asyncio.sleep(1)
        first.cancel()
        await asyncio.wait([first, second])
        return throttler.active

    result = await parallel_gather(agent, partial(asyncio.sleep, 5), throttler=throttler)
    assert result.get_results() == [1, None]
    assert free(throttler)


async def test_p09_a_timeout_around_a_nested_run_while_it_takes_back() -> None:
    throttler = TaskThrottler(1)

    async def agent() -> str:
        try:
            async with asyncio.timeout(2):
                await parallel_gather(partial(asyncio.sleep, 1))
        except TimeoutError:
            return "too late"
        return "in time"

    result = await parallel_gather(agent, partial(asyncio.sleep, 4), throttler=throttler)
    assert result.get_results() == ["too late", None]
    assert throttler.peak == 1
    assert free(throttler)


async def test_p09_a_task_that_ends_while_its_slot_is_lent_leaks_nothing(gauge: Gauge) -> None:
    throttler = TaskThrottler(1)
    background: list[asyncio.Task[Any]] = []

    async def agent() -> None:
        nested = parallel_gather(partial(gauge.work, 3), throttler=throttler)
        background.append(asyncio.ensure_future(nested))
        await asyncio.sleep(1)

    await parallel_gather(agent, throttler=throttler)
    await parallel_gather(partial(gauge.work, 1), partial(gauge.work, 1), throttler=throttler)
    await background[0]
    assert (gauge.peak, throttler.peak, free(throttler)) == (1, 1, True)


async def test_p09_a_task_that_ends_while_its_slot_is_taken_back_leaks_nothing() -> None:
    throttler = TaskThrottler(1)
    background: list[asyncio.Task[Any]] = []

    async def agent() -> None:
        background.append(asyncio.ensure_future(parallel_gather(partial(asyncio.sleep, 1))))
        await asyncio.sleep(2)

    await parallel_gather(agent, partial(asyncio.sleep, 4), throttler=throttler)
    await background[0]
    assert (throttler.peak, free(throttler)) == (1, True)


async def test_p09_a_run_opened_after_its_task_has_ended_lends_nothing() -> None:
    throttler = TaskThrottler(1)
    background: list[asyncio.Task[Any]] = []

    async def later() -> None:
        await asyncio.sleep(3)
        await parallel_gather(partial(asyncio.sleep, 1), throttler=throttler)

    async def agent() -> None:
        background.append(asyncio.ensure_future(later()))

    await parallel_gather(agent, throttler=throttler, timeout=2)
    await background[0]
    assert free(throttler)


async def test_p09_the_deadline_ends_a_wait_for_a_lent_slot() -> None:
    throttler = TaskThrottler(1)

    async def agent() -> None:
        await parallel_gather(partial(asyncio.sleep, 1))

    began = now()
    result = await parallel_gather(agent, hang, throttler=throttler, timeout=5)
    assert [task.status for task in result.results] == [TIMEOUT, TIMEOUT]
    assert now() - began == 5
    assert free(throttler)


async def test_p09_nested_races_on_one_slot(gauge: Gauge) -> None:
    race = FanOutExecutor(aggregation="first", max_concurrent=1)

    async def racer(depth: int) -> int:
        if not depth:
            await gauge.work(1)
            return 0
        value: int = await race.fan_out([partial(racer, depth - 1), partial(racer, depth - 1)])
        return value + 1

    began = now()
    assert await race.fan_out([partial(racer, 4)] * 3) == 4
    assert now() - began == 1
    assert gauge.peak == 1


# Resize.


async def test_p09_made_narrower_meanwhile_no_more_than_the_new_limit_work(gauge: Gauge) -> None:
    throttler = TaskThrottler(3)
    after_resize = Gauge()

    async def agent() -> None:
        await gauge.work(1)
        await parallel_gather(partial(asyncio.sleep, 1), throttler=throttler)
        await after_resize.work(1)

    async def resize() -> None:
        await asyncio.sleep(1.5)
        throttler.resize(1)

    _, result = await asyncio.gather(resize(), parallel_gather(*[agent] * 6, throttler=throttler))
    assert result.all_succeeded
    assert gauge.peak == 3
    assert after_resize.peak == 1
    assert free(throttler)


async def test_p09_made_wider_meanwhile_who_waits_goes_on() -> None:
    throttler = TaskThrottler(1)

    async def agent() -> None:
        await parallel_gather(partial(asyncio.sleep, 1))

    async def resize() -> None:
        await asyncio.sleep(2)
        throttler.resize(2)

    began = now()
    _, result = await asyncio.gather(
        resize(), parallel_gather(agent, partial(asyncio.sleep, 5), throttler=throttler)
    )
    assert [task.duration_ms for task in result.results] == [2_000, 5_000]
    assert now() - began == 5
    assert free(throttler)


@pytest.mark.parametrize("limits", [(1, 3), (3, 1), (2, 1)])
async def test_p09_a_tree_that_is_resized_again_and_again(limits: tuple[int, int]) -> None:
    executor = ParallelExecutor(max_concurrent=2, timeout=None)
    throttler = executor.throttler
    assert isinstance(throttler, TaskThrottler)

    async def agent(depth: int) -> int:
        await asyncio.sleep(1)
        if not depth:
            return 1
        return sum((await executor.map(agent, [depth - 1] * 2)).get_results())

    async def resize() -> None:
        while True:
            for limit in limits:
                throttler.resize(limit)
                await asyncio.sleep(0.7)

    resizing = asyncio.ensure_future(resize())
    result = await executor.map(agent, [4, 4])
    resizing.cancel()
    assert result.get_results() == [16, 16]
    assert throttler.peak <= 3
    assert free(throttler)


# Threads and loops.


async def test_p09_runs_in_sync_works_in_threads_on_one_slot() -> None:
    executor = ParallelExecutor(max_concurrent=1, timeout=None)
    gauge = Gauge()

    async def leaf() -> int:
        with gauge:
            await asyncio.sleep(0)
            return 1

    def agent(depth: int) -> int:
        if not depth:
            return sum(asyncio.run(executor.gather([leaf, leaf])).get_results())
        return sum(asyncio.run(executor.map(agent, [depth - 1, depth - 1])).get_results())

    result = await executor.map(agent, [2, 2])
    assert result.get_results() == [8, 8]
    assert gauge.peak == 1
    assert isinstance(executor.throttler, TaskThrottler)
    assert executor.throttler.peak == 1
    assert free(executor.throttler)


async def test_p09_a_run_in_a_plain_thread_of_a_work_lends_for_it() -> None:
    executor = ParallelExecutor(max_concurrent=1)

    async def leaf() -> str:
        return "leaf"

    async def agent() -> list[str]:
        result = await asyncio.to_thread(lambda: asyncio.run(executor.gather([leaf])))
        return result.get_results()

    result = await executor.gather([agent, agent])
    assert result.get_results() == [["leaf"], ["leaf"]]
    assert isinstance(executor.throttler, TaskThrottler)
    assert free(executor.throttler)


async def test_p09_a_thread_that_nobody_waits_for_has_the_slot_until_it_ends() -> None:
    throttler, release = TaskThrottler(1), threading.Event()
    seen = []

    async def look() -> None:
        seen.append(throttler.active)

    async def until_it_ends() -> None:
        release.set()
        while throttler.active:
            await asyncio.sleep(0.001)
        seen.append(throttler.active)

    async def agent() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                merge = fan_out([look], aggregation="merge", merge_fn=lambda _: release.wait(5))
                await merge
        async for _ in ParallelExecutor(max_concurrent=1).stream([look(), until_it_ends()]):
            pass
        seen.append(throttler.active)

    result = await parallel_gather(agent, throttler=throttler)
    assert result.all_succeeded
    assert seen == [0, 1, 0, 1]
    assert free(throttler)


async def test_p09_async_and_threads_by_turns() -> None:
    executor = ParallelExecutor(max_concurrent=1)

    async def agent(depth: int) -> int:
        if not depth:
            return 1
        return sum((await executor.map(in_thread, [depth - 1] * 2)).get_results())

    def in_thread(depth: int) -> int:
        if not depth:
            return 1
        return sum(asyncio.run(executor.map(agent, [depth - 1] * 2)).get_results())

    assert (await executor.map(agent, [4])).get_results() == [16]


# Sources and policies in between.


async def test_p09_a_source_that_runs_works_itself(gauge: Gauge) -> None:
    executor = ParallelExecutor(max_concurrent=1)

    async def pages() -> AsyncIterator[int]:
        for page in range(3):
            await executor.gather([partial(gauge.work, 1)])
            yield page

    async def agent() -> list[int]:
        return (await executor.map(same, pages())).get_results()

    async def same(page: int) -> int:
        await gauge.work(1)
        return page

    result = await executor.gather([agent, agent])
    assert result.get_results() == [[0, 1, 2], [0, 1, 2]]
    assert gauge.peak == 1


async def test_p09_retries_with_nested_runs_on_one_slot(gauge: Gauge) -> None:
    executor = FanOutExecutor(max_concurrent=1, retry_failed=True, max_retries=2)
    calls = []

    async def agent() -> str:
        await executor.executor.gather([partial(gauge.work, 1)])
        calls.append(now())
        if len(calls) % 3:
            raise ValueError("again")
        return "done"

    result = await executor.run([agent, agent])
    assert result.gather.get_results() == ["done", "done"]
    assert [task.retries for task in result.gather.results] == [2, 2]
    assert gauge.peak == 1


async def test_p09_a_nested_run_stopped_early_gives_its_slots_to_the_parent(gauge: Gauge) -> None:
    throttler = TaskThrottler(2)

    async def agent() -> int:
        works: list[Factory] = [gauge.work, hang, hang, hang]
        result = await parallel_gather(*works, min_success=1, throttler=throttler)
        await gauge.work(1)
        return result.cancelled

    result = await parallel_gather(agent, agent, throttler=throttler, timeout=30)
    assert result.get_results() == [3, 3]
    assert free(throttler)


async def test_p09_the_outer_stop_ends_nested_runs_in_the_queue() -> None:
    throttler = TaskThrottler(1)

    async def agent() -> None:
        await parallel_gather(hang, hang, throttler=throttler)

    async def fail() -> None:
        await asyncio.sleep(2)
        raise ValueError("no")

    began = now()
    result = await parallel_gather(agent, agent, fail, fail_fast=True)
    assert [task.status for task in result.results] == [CANCELLED, CANCELLED, TaskStatus.FAILED]
    assert now() - began == 2
    assert free(throttler)
