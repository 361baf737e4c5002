"""Works that need the same throttlers: their order, their slots, their places in the queues."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from agentos_parallel import (
    GatherResult,
    ParallelExecutor,
    TaskStatus,
    TaskThrottler,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from tests.ways import Gauge, now

COMPLETED, TIMEOUT = TaskStatus.COMPLETED, TaskStatus.TIMEOUT


async def after(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


def actives(*throttlers: TaskThrottler) -> list[int]:
    return [throttler.active for throttler in throttlers]


def waitings(*throttlers: TaskThrottler) -> list[int]:
    return [throttler.waiting for throttler in throttlers]


async def test_a_work_starts_when_it_has_all_its_slots() -> None:
    narrow, wide = TaskThrottler(1), TaskThrottler(2)
    async with wide:
        async with wide:
            run = asyncio.ensure_future(
                parallel_map(after, [1, 1], throttler=lambda _: [wide, narrow])
            )
            await asyncio.sleep(3)
            assert actives(narrow, wide) == [1, 2]
            assert waitings(narrow, wide) == [1, 1]
        result = await run
    assert [task.queued_ms for task in result.results] == [3_000, 4_000]
    assert [task.duration_ms for task in result.results] == [1_000, 1_000]
    assert actives(narrow, wide) == waitings(narrow, wide) == [0, 0]


async def test_a_saturated_agent_keeps_no_slot_of_its_provider_from_others() -> None:
    agent, provider, gauge = TaskThrottler(1), TaskThrottler(3), Gauge()

    async def work(_: str) -> None:
        await gauge.work(4)

    busy = asyncio.ensure_future(
        parallel_map(work, ["a"] * 3, throttler=lambda _: [provider, agent])
    )
    await asyncio.sleep(1)
    assert actives(agent, provider) == [1, 1]
    began = now()
    await parallel_map(work, ["b"] * 2, throttler=provider)
    assert now() - began == 4
    assert (await busy).total_duration_ms == 12_000
    assert (gauge.peak, agent.peak, provider.peak) == (3, 1, 3)


async def test_equal_limits_in_opposite_orders_do_not_deadlock() -> None:
    one, other = TaskThrottler(1), TaskThrottler(1)
    orders = [[one, other], [other, one]]
    executor = ParallelExecutor(8, throttler=lambda task_id: orders[int(task_id) % 2])
    result = await executor.gather([partial(after, 1)] * 20)
    assert result.all_succeeded
    assert result.total_duration_ms == 20_000
    assert actives(one, other) == [0, 0]


async def test_in_several_runs_as_well() -> None:
    throttlers = [TaskThrottler(2) for _ in range(3)]
    circle = [throttlers[:2], throttlers[1:], [throttlers[2], throttlers[0]]]

    async def run(needed: list[TaskThrottler]) -> GatherResult[float]:
        return await parallel_map(after, [1] * 10, throttler=lambda _: needed)

    results = await asyncio.gather(*map(run, circle))
    assert all(result.all_succeeded for result in results)
    assert actives(*throttlers) == waitings(*throttlers) == [0, 0, 0]
    assert [throttler.peak for throttler in throttlers] == [2, 2, 2]


async def test_the_order_is_by_the_limit_each_was_made_with() -> None:
    first, second = TaskThrottler(1), TaskThrottler(5)
    first.resize(9)
    async with second, second, second, second, second:
        run = asyncio.ensure_future(parallel_map(after, [1], throttler=lambda _: [second, first]))
        await asyncio.sleep(1)
        assert actives(first) == [1]
    assert (await run).all_succeeded


async def test_the_same_throttler_twice_is_one() -> None:
    throttler = TaskThrottler(1)
    result = await parallel_map(after, [1, 1], throttler=lambda _: [throttler, throttler])
    assert result.total_duration_ms == 2_000
    result = await ParallelExecutor(throttler=throttler).gather([after(1)], throttler=throttler)
    assert result.all_succeeded
    assert throttler.peak == 1


async def test_a_deadline_while_the_second_slot_is_waited_for_gives_the_first_back() -> None:
    narrow, wide = TaskThrottler(1), TaskThrottler(2)
    async with wide, wide:
        result = await parallel_map(after, [1, 1], throttler=lambda _: [narrow, wide], timeout=3)
        assert [task.started_at for task in result.results] == [0, 0]
        assert [task.status for task in result.results] == [TIMEOUT, TIMEOUT]
        assert actives(narrow, wide) == [0, 2]
        assert waitings(narrow, wide) == [0, 0]


async def test_a_deadline_while_the_last_of_three_is_waited_for_gives_all_back() -> None:
    throttlers = [TaskThrottler(1), TaskThrottler(2), TaskThrottler(3)]
    last = throttlers[-1]
    async with last, last, last:
        run = asyncio.ensure_future(
            parallel_map(after, [1, 1, 1], throttler=lambda _: throttlers, timeout=3)
        )
        await asyncio.sleep(1)
        assert actives(*throttlers) == [1, 1, 3]
        assert waitings(*throttlers) == [2, 0, 1]
        assert (await run).timed_out == 3
        assert actives(*throttlers) == [0, 0, 3]
        assert waitings(*throttlers) == [0, 0, 0]


async def test_a_stop_while_the_second_slot_is_waited_for_gives_the_first_back() -> None:
    narrow, wide = TaskThrottler(2), TaskThrottler(3)

    async def fail(_: int) -> None:
        await asyncio.sleep(1)
        raise ValueError("no")

    async with wide, wide:
        result = await parallel_map(
            fail, [1, 1, 1], throttler=lambda _: [narrow, wide], fail_fast=True
        )
        assert (result.failed, result.cancelled) == (1, 2)
        assert actives(narrow, wide) == [0, 2]


async def test_a_slot_that_comes_too_late_is_given_back() -> None:
    narrow, wide = TaskThrottler(2), TaskThrottler(2)
    async with wide:
        async with wide:
            stream = parallel_stream(
                after, [1] * 4, throttler=lambda _: [narrow, wide], max_concurrent=1
            )
            async with stream:
                await asyncio.sleep(1)
                assert actives(narrow) == [1]
        assert actives(narrow, wide) == [0, 1]


async def test_a_made_narrower_throttler_ends_the_handing_on() -> None:
    throttler, gauge = TaskThrottler(3), Gauge()
    later = Gauge()

    async def work(position: int) -> None:
        with gauge if position < 3 else later:
            await asyncio.sleep(1)

    asyncio.get_running_loop().call_later(0.5, throttler.resize, 1)
    result = await parallel_map(work, range(6), throttler=throttler)
    assert (gauge.peak, later.peak) == (3, 1)
    assert result.total_duration_ms == 4_000


async def test_no_more_slots_are_asked_for_than_there_are_works() -> None:
    throttler = TaskThrottler(1)
    async with throttler:
        run = asyncio.ensure_future(parallel_gather(after(1), after(1), throttler=throttler))
        await asyncio.sleep(1)
        assert throttler.waiting == 2
    assert (await run).all_succeeded


async def test_requests_are_withdrawn_when_the_run_ends_early() -> None:
    throttler = TaskThrottler(2)

    async def answer(_: int) -> str:
        await asyncio.sleep(1)
        return "enough"

    async with throttler:
        result = await parallel_map(answer, [1] * 9, throttler=throttler, min_success=2)
        assert result.completed == 2
        assert (throttler.active, throttler.waiting) == (1, 0)


async def test_a_slot_goes_back_at_once_when_no_work_is_left_for_it() -> None:
    throttler = TaskThrottler(2)

    async def look() -> list[int]:
        await asyncio.sleep(1)
        first = throttler.active
        await asyncio.sleep(1)
        return [first, throttler.active]

    result: GatherResult[Any] = await parallel_gather(
        look, partial(after, 1.5), throttler=throttler
    )
    assert result.results[0].result == [2, 1]


async def test_while_a_source_stalls_its_slots_are_others() -> None:
    throttler = TaskThrottler(1)

    async def source() -> AsyncIterator[float]:
        yield 1
        await asyncio.sleep(10)
        yield 1

    run = asyncio.ensure_future(parallel_map(after, source(), throttler=throttler))
    await asyncio.sleep(2)
    began = now()
    await parallel_gather(partial(after, 5), throttler=throttler)
    assert now() - began == 5
    assert (await run).total_duration_ms == 11_000


async def test_works_that_need_the_same_throttlers_start_in_input_order() -> None:
    throttlers = {"a": [TaskThrottler(1)], "b": [TaskThrottler(1), TaskThrottler(2)]}
    started: dict[str, list[int]] = {"a": [], "b": []}

    async def work(item: tuple[str, int]) -> None:
        started[item[0]].append(item[1])
        await asyncio.sleep(item[1] % 3)

    items = [("ab"[n % 2], n) for n in range(20)]
    await parallel_map(work, items, max_concurrent=3, throttler=lambda item: throttlers[item[0]])
    assert started == {"a": list(range(0, 20, 2)), "b": list(range(1, 20, 2))}
