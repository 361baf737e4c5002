"""What is alive beside the tasks: waited for, cancelled, given up."""

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator

import pytest

from agentos_parallel import (
    TaskStatus,
    parallel_gather,
    parallel_map,
)
from tests.ways import hang, now

TIMEOUT, CANCELLED = TaskStatus.TIMEOUT, TaskStatus.CANCELLED


async def ignore_cancels_until(seconds: float) -> None:
    until = now() + seconds
    while now() < until:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(until - now())


async def test_a_task_handed_over_that_had_no_turn_is_cancelled_and_drained() -> None:
    ended = []

    async def slow_cleanup() -> None:
        try:
            await hang()
        finally:
            await asyncio.sleep(2)
            ended.append(now() - began)

    began = now()
    handed = asyncio.ensure_future(slow_cleanup())
    await parallel_gather(hang, handed, max_concurrent=1, timeout=3)
    assert ended == [5]
    assert now() - began == 5


async def test_one_that_ignores_its_cancel_is_given_up_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    began = now()
    handed = asyncio.ensure_future(ignore_cancels_until(50))
    result = await parallel_gather(hang, handed, max_concurrent=1, timeout=3, grace=2)
    assert [task.status for task in result.results] == [TIMEOUT, TIMEOUT]
    assert now() - began == 5
    assert "abandoned" in caplog.text
    await handed


async def test_one_that_fails_in_its_cleanup_is_nobodys_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails() -> None:
        try:
            await hang()
        finally:
            raise LookupError("in the cleanup")

    handed = [asyncio.ensure_future(fails())]
    await asyncio.sleep(0)
    result = await parallel_gather(hang, handed.pop(), max_concurrent=1, timeout=3)
    assert result.timed_out == 2
    gc.collect()
    await asyncio.sleep(0)
    assert caplog.records == []


async def test_a_future_that_had_no_turn_is_cancelled() -> None:
    future = asyncio.get_running_loop().create_future()
    result = await parallel_gather(hang, future, max_concurrent=1, timeout=3)
    assert result.results[1].started_at == 0
    assert future.cancelled()


async def test_one_whose_task_fails_before_it_is_awaited_is_waited_for_its_grace_only() -> None:
    def refuse(_: str) -> float:
        raise LookupError("no timeout for this one")

    handed = asyncio.ensure_future(ignore_cancels_until(20))
    await asyncio.sleep(0)
    began = now()
    result = await parallel_gather(handed, timeout=None, task_timeout=refuse, grace=1)
    assert now() - began == 1
    assert result.results[0].status is TaskStatus.FAILED
    assert isinstance(result.results[0].error, LookupError)
    assert not handed.done()
    await handed


async def test_what_a_log_filter_raises_stops_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: logging.LogRecord) -> bool:
        raise LookupError("in the filter")

    async def source() -> AsyncIterator[float]:
        yield 0
        await ignore_cancels_until(20)

    handed = asyncio.ensure_future(ignore_cancels_until(20))
    await asyncio.sleep(0)
    monkeypatch.setattr(logging.getLogger("agentos_parallel"), "filters", [refuse])
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    began = now()
    drawn = parallel_map(asyncio.sleep, source(), timeout=2, grace=1)
    given = parallel_gather(hang, handed, max_concurrent=1, timeout=2, grace=1)
    results = await asyncio.gather(drawn, given)
    assert now() - began == 3
    assert [result.total for result in results] == [1, 2]
    await asyncio.sleep(30)
