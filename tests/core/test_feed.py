"""The task that draws from a source: lazily, and closing it whatever happens."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest

from agentos_parallel import (
    ParallelExecutor,
    SourceError,
    TaskStatus,
    TaskThrottler,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from tests.ways import Gauge, Results, hang, now, read

COMPLETED, CANCELLED, TIMEOUT = TaskStatus.COMPLETED, TaskStatus.CANCELLED, TaskStatus.TIMEOUT


async def after(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def test_all_room_that_comes_at_once_is_filled_at_once() -> None:
    drawn = []

    def source() -> Iterator[int]:
        for _ in range(9):
            drawn.append(now() - began)
            yield 2

    began = now()
    await parallel_map(after, source(), max_concurrent=3)
    assert drawn == [0, 0, 0, 2, 2, 2, 4, 4, 4]


async def test_a_source_that_ignores_its_cancel_is_given_up_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        for _ in range(20):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1)

    began = now()
    result = await parallel_map(after, source(), timeout=3, grace=2)
    assert (result.total, result.completed, result.all_succeeded) == (1, 1, False)
    assert now() - began == 5
    assert "abandoned" in caplog.text
    await asyncio.sleep(30)


async def test_what_a_given_up_source_raises_later_is_nobodys_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        for _ in range(20):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1)
        raise OSError("late")

    result = await parallel_map(after, source(), timeout=3, grace=2)
    assert result.completed == 1
    await asyncio.sleep(30)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_an_item_that_comes_through_the_cancel_never_starts() -> None:
    started = []

    async def work() -> None:
        started.append(now())

    async def source() -> AsyncIterator[Any]:
        yield hang()
        with contextlib.suppress(asyncio.CancelledError):
            await hang()
        yield work()
        pytest.fail("drawn after the stop")

    result = await ParallelExecutor(timeout=2).gather(source())
    assert [task.status for task in result.results] == [TIMEOUT, CANCELLED]
    assert result.results[1].started_at == 0
    assert started == []


async def test_a_source_that_cleans_up_slowly_is_waited_for() -> None:
    closed = []

    async def source() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(3)
            closed.append(now() - began)

    began = now()
    await parallel_map(after, source(), min_success=1, max_concurrent=1)
    assert closed == [4]
    assert now() - began == 4


async def test_a_deadline_while_a_drained_source_closes_ends_that_too() -> None:
    async def source() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(50)

    began = now()
    result = await parallel_map(after, source(), timeout=3)
    assert result.completed == 1
    assert now() - began == 3


async def test_a_source_that_raises_in_its_cleanup_after_a_stop() -> None:
    async def source() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(1)
            raise OSError("on close")

    with pytest.raises(SourceError, match="on close") as caught:
        await parallel_map(after, source(), min_success=1, max_concurrent=1)
    assert caught.value.result is not None
    assert caught.value.result.completed == 1


async def test_a_race_won_is_not_lost_to_the_sources_cleanup() -> None:
    async def source() -> AsyncIterator[Any]:
        try:
            while True:
                yield partial(after, 1)
        finally:
            raise OSError("on close")

    assert await fan_out(source(), aggregation="first", max_concurrent=1) == 1


async def test_a_source_that_raises_while_the_caller_is_cancelled() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        try:
            await hang()
        finally:
            raise OSError("on cancel")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await parallel_map(after, source())


async def test_a_source_may_open_runs_of_its_own() -> None:
    async def source() -> AsyncIterator[float]:
        async for task in parallel_stream(after, [1, 2, 3], ordered=True):
            yield task.result or 0

    result = await parallel_map(after, source())
    assert result.get_results() == [1, 2, 3]


async def test_streams_one_from_the_other() -> None:
    async def values(results: Any) -> AsyncIterator[float]:
        async with results:
            async for task in results:
                yield task.result

    first = parallel_stream(after, iter([1.0] * 6), max_concurrent=2)
    second = parallel_stream(after, values(first), max_concurrent=2)
    third = parallel_stream(after, values(second), max_concurrent=2)
    seen: Results = []
    began = now()
    async with third:
        await read(third, seen)
    assert [task.result for task in seen] == [1] * 6
    assert now() - began == 5


async def test_while_results_are_unread_a_source_is_not_drawn() -> None:
    drawn = []

    async def source() -> AsyncIterator[int]:
        for number in range(100):
            drawn.append(number)
            yield 1

    async with parallel_stream(after, source(), max_concurrent=2) as results:
        await asyncio.sleep(50)
        before = len(drawn)
        assert before <= 4
        await asyncio.sleep(50)
        assert len(drawn) == before
        await anext(results)
        await asyncio.sleep(50)
        assert before < len(drawn) <= before + 2


async def test_a_source_read_while_its_throttler_is_busy_holds_no_slot() -> None:
    throttler = TaskThrottler(1)

    def source() -> Iterator[int]:
        yield from (1, 1, 1)

    async with throttler:
        task = asyncio.ensure_future(
            parallel_map(after, source(), max_concurrent=2, throttler=throttler)
        )
        await asyncio.sleep(5)
        assert (throttler.active, throttler.waiting) == (1, 2)
    result = await task
    assert result.all_succeeded
    assert (throttler.active, throttler.waiting) == (0, 0)


# Exits, and sources that are not drawn at all.


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
async def test_an_exit_in_the_throttler_function_comes_out(error: BaseException) -> None:
    gauge, closed = Gauge(), []

    def source() -> Iterator[int]:
        try:
            yield from range(5)
        finally:
            closed.append(now())

    def throttler_of(item: int) -> TaskThrottler:
        if item == 2:
            raise error
        return TaskThrottler(1)

    began = now()
    with pytest.raises(type(error)) as raised:
        await parallel_map(gauge.work, source(), throttler=throttler_of)
    assert raised.value is error
    assert closed == [began]
    assert gauge.inside == 0


def begun(closed: list[str]) -> Iterator[float]:
    def source() -> Iterator[float]:
        try:
            while True:
                yield 1
        finally:
            closed.append("closed")

    begun = source()
    next(begun)
    return begun


async def test_a_source_of_a_stream_left_at_once_is_closed() -> None:
    closed = list[str]()
    async with parallel_stream(after, begun(closed)):
        pass
    assert closed == ["closed"]


async def test_a_source_of_a_stream_that_never_starts_is_closed() -> None:
    closed = list[str]()

    async def source() -> AsyncIterator[float]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(1)
            closed.append("closed")

    drawn = source()
    await anext(drawn)
    await parallel_stream(after, drawn).aclose()
    assert closed == ["closed"]


async def test_a_source_of_a_run_after_the_outer_deadline_is_closed() -> None:
    closed = list[str]()

    async def opens_late() -> None:
        try:
            await hang()
        finally:
            inner = await parallel_map(after, begun(closed))
            assert inner.total == 0

    result = await parallel_gather(opens_late, timeout=1)
    assert result.timed_out == 1
    assert closed == ["closed"]
