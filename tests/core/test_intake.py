"""What may be in hand, what may start, and in which order."""

import asyncio
from collections.abc import Iterator

import pytest

from agentos_parallel import ParallelExecutor, TaskThrottler, parallel_map, parallel_stream
from tests.ways import Gauge, hang, now


async def after(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


def actives(*throttlers: TaskThrottler) -> list[int]:
    return [throttler.active for throttler in throttlers]


def waitings(*throttlers: TaskThrottler) -> list[int]:
    return [throttler.waiting for throttler in throttlers]


async def lambda_hang(_: int) -> None:
    await hang()


async def test_no_more_slots_are_asked_for_than_may_be_in_hand() -> None:
    throttler = TaskThrottler(1)
    async with throttler:
        run = asyncio.ensure_future(
            parallel_map(after, [1] * 9, max_concurrent=3, throttler=throttler)
        )
        await asyncio.sleep(1)
        assert throttler.waiting == 3
    assert (await run).all_succeeded


async def test_a_stream_that_is_full_keeps_no_slot_while_its_second_is_waited_for() -> None:
    narrow, wide = TaskThrottler(2), TaskThrottler(3)
    async with wide, wide:
        stream = parallel_stream(
            after, [1] * 6, throttler=lambda _: [narrow, wide], max_concurrent=2
        )
        async with stream:
            await asyncio.sleep(20)
            assert actives(narrow, wide) == [0, 2]
            assert waitings(narrow, wide) == [0, 0]
            results = [task.result async for task in stream]
    assert results == [1] * 6
    assert actives(narrow, wide) == [0, 0]


async def test_what_comes_first_in_the_input_starts_first() -> None:
    throttlers = {"a": TaskThrottler(5), "b": TaskThrottler(5)}
    started = []

    async def work(item: tuple[str, int]) -> None:
        started.append(item[1])
        await asyncio.sleep(1)

    items = [("abba"[n % 4], n) for n in range(12)]
    await parallel_map(work, items, max_concurrent=1, throttler=lambda item: throttlers[item[0]])
    assert started == list(range(12))


async def test_works_stopped_in_several_lanes_have_their_results_in_input_order() -> None:
    throttlers = [TaskThrottler(1), TaskThrottler(1)]
    result = await parallel_map(
        lambda_hang, range(8), throttler=lambda n: throttlers[n % 2], timeout=2
    )
    assert [task.task_id for task in result.results] == [str(n) for n in range(8)]
    assert [task.started_at > 0 for task in result.results] == [True, True, *[False] * 6]


async def test_lanes_without_a_throttler_stand_beside_others() -> None:
    busy = TaskThrottler(1)
    result = await parallel_map(
        after, [3, 1, 3, 1], throttler=lambda item: [busy] if item == 3 else []
    )
    assert [task.queued_ms for task in result.results] == [0, 0, 3_000, 0]


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_a_run_that_follows_its_throttler_follows_its_resizing(limit: int) -> None:
    executor, gauge = ParallelExecutor(max_concurrent=3), Gauge()
    assert isinstance(executor.throttler, TaskThrottler)
    asyncio.get_running_loop().call_later(0.5, executor.throttler.resize, limit)
    later = Gauge()

    async def work(position: int) -> None:
        with gauge if now() < began + 1 else later:
            await asyncio.sleep(1)

    began = now()
    result = await executor.map(work, range(13))
    assert result.all_succeeded
    assert later.peak == limit
    assert executor.throttler.active == 0


async def test_an_executors_limit_and_a_callers_together_bound_what_is_in_hand() -> None:
    drawn = 0

    def numbers() -> Iterator[int]:
        nonlocal drawn
        for number in range(6):
            drawn += 1
            yield number

    async def count(_: int) -> int:
        await asyncio.sleep(1)
        return drawn

    executor = ParallelExecutor(3)
    result = await executor.map(count, numbers(), throttler=TaskThrottler(2))

    assert result.get_results()[:2] == [2, 2]
    assert executor.throttler.peak == 2  # type: ignore[union-attr]


async def test_a_width_that_nobody_gives_is_refused_for_a_source() -> None:
    throttler = TaskThrottler(2)

    async def work(_: int) -> None:
        raise AssertionError("it was started")

    with pytest.raises(ValueError, match="max_concurrent must be a number here"):
        await parallel_map(work, iter([1]), max_concurrent=None, throttler=lambda _: throttler)
