"""Clocks: the timer that all tasks of a run share, and deadlines."""

import asyncio
import gc
import weakref
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agentos_parallel import (
    GatherResult,
    TaskStatus,
    TaskTimeout,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from tests.pieces import after, now
from tests.virtual_time import run_virtually


def timers() -> list[asyncio.TimerHandle]:
    """What the running loop has yet to call."""
    loop: Any = asyncio.get_running_loop()
    return [handle for handle in loop._scheduled if not handle.cancelled()]


async def test_a_later_task_with_an_earlier_timeout_ends_first() -> None:
    seconds: list[float] = [9, 7, 5, 3, 1]
    result = await parallel_map(
        lambda _: asyncio.sleep(60), seconds, task_timeout=lambda item: item
    )
    assert [task.duration_ms for task in result.results] == [9_000, 7_000, 5_000, 3_000, 1_000]


async def test_tasks_due_at_one_time_end_at_that_time() -> None:
    result = await parallel_map(asyncio.sleep, [60] * 50, max_concurrent=50, task_timeout=3)
    assert result.timed_out == 50
    assert result.total_duration_ms == 3_000


async def test_a_task_that_ends_in_time_never_rings() -> None:
    result = await parallel_map(asyncio.sleep, [1] * 20, max_concurrent=2, task_timeout=1.5)
    assert result.all_succeeded
    assert result.total_duration_ms == 10_000


async def test_a_run_that_is_over_leaves_no_timer() -> None:
    await parallel_map(asyncio.sleep, [1, 2], timeout=3600, task_timeout=60)
    assert timers() == []
    await parallel_gather(after(1, 1), after(60, 2), min_success=1, timeout=3600, task_timeout=60)
    assert timers() == []


async def test_tasks_share_one_timer() -> None:
    stream = parallel_stream(asyncio.sleep, [5] * 100, max_concurrent=100, task_timeout=60)
    async with stream:
        await asyncio.sleep(1)
        assert len(timers()) == 100 + 1  # the sleeps, and one for all timeouts


class Item:
    """Something that can be seen to be gone."""


async def test_a_task_that_ended_holds_no_memory() -> None:
    kept: list[weakref.ref[Item]] = []

    def items() -> Any:
        for _ in range(100):
            item = Item()
            kept.append(weakref.ref(item))
            yield item

    async def work(item: Item) -> None:
        await asyncio.sleep(1)

    stream = parallel_stream(work, items(), max_concurrent=4, task_timeout=3600)
    async for task in stream:
        if task.task_id == "50":
            gc.collect()
            assert sum(ref() is not None for ref in kept) <= 10
    assert len(kept) == 100


async def test_no_timeout_of_infinity_rings() -> None:
    result = await parallel_gather(after(1, 1), timeout=float("inf"), task_timeout=float("inf"))
    assert result.all_succeeded


async def test_a_timeout_that_a_function_gives_late_counts_from_the_slot() -> None:
    began = now()
    result = await parallel_gather(after(60, 1), task_timeout=lambda _: 2)
    [task] = result.results
    assert isinstance(task.error, TaskTimeout)
    assert (task.started_at, task.finished_at) == (began, began + 2)


TIMES = st.sampled_from([0.5, 1.0, 1.5, 2.0, 4.0])


@given(st.lists(st.tuples(TIMES, st.none() | TIMES), max_size=12), st.integers(1, 4))
@settings(deadline=None, max_examples=75)
def test_every_task_ends_at_its_own_end_or_at_its_timeout(
    tasks: list[tuple[float, float | None]], limit: int
) -> None:
    async def work(item: tuple[float, float | None]) -> None:
        await asyncio.sleep(item[0] + 0.25)

    async def main() -> None:
        result: GatherResult[None] = await parallel_map(
            work, tasks, max_concurrent=limit, task_timeout=lambda item: item[1]
        )
        for (length, timeout), task in zip(tasks, result.results, strict=True):
            late = timeout is not None and timeout < length + 0.25
            assert task.status is (TaskStatus.TIMEOUT if late else TaskStatus.COMPLETED)
            assert task.duration_ms == (timeout if late and timeout else length + 0.25) * 1000
        assert timers() == []

    run_virtually(main())
