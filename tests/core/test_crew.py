"""The tasks that are alive: started, counted, cancelled, given up."""

import asyncio
import contextlib
import logging
import sys
import threading
from functools import partial
from typing import Any

import pytest

from agentos_parallel import (
    TaskStatus,
    TaskThrottler,
    parallel_gather,
    parallel_map,
)
from tests.ways import WAYS, Factory, Gauge, Way, hang, now

COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED


TIMEOUT, CANCELLED = TaskStatus.TIMEOUT, TaskStatus.CANCELLED


async def after(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def fail_now() -> None:
    raise ValueError("at once")


async def ignore_cancels_until(seconds: float) -> None:
    until = now() + seconds
    while now() < until:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(until - now())


async def test_what_an_abandoned_task_does_later_changes_no_result(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def late() -> str:
        await ignore_cancels_until(20)
        return "late"

    throttler = TaskThrottler(2)
    with caplog.at_level(logging.WARNING, "agentos_parallel"):
        result = await parallel_gather(late, hang, timeout=2, grace=1, throttler=throttler)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "'0'" in caplog.text
    assert throttler.active == 1
    before = result.to_dict()
    await asyncio.sleep(30)
    assert result.to_dict() == before
    assert result.results[0].result is None
    assert throttler.active == 0


async def test_a_stop_while_one_is_abandoned_gives_its_slot_to_nobody() -> None:
    throttler, gauge = TaskThrottler(1), Gauge()
    result = await parallel_gather(
        partial(ignore_cancels_until, 20),
        partial(gauge.work, 1),
        task_timeout=2,
        grace=1,
        timeout=30,
        throttler=throttler,
    )
    assert [task.status for task in result.results] == [TIMEOUT, COMPLETED]
    assert [task.abandoned for task in result.results] == [True, False]
    assert result.results[1].queued_ms == 20_000
    assert throttler.peak == 1


async def test_with_no_grace_nothing_is_waited_for() -> None:
    began = now()
    result = await parallel_gather(partial(ignore_cancels_until, 50), hang, timeout=2, grace=0)
    assert [task.abandoned for task in result.results] == [True, False]
    assert [task.status for task in result.results] == [TIMEOUT, TIMEOUT]
    assert now() - began == 2
    await asyncio.sleep(60)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks start eagerly from 3.12 on")
@pytest.mark.parametrize("run", WAYS)
async def test_tasks_started_eagerly_keep_the_promises(run: Way) -> None:
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.BaseEventLoop):
        pytest.skip("uvloop gives the factory a keyword that it does not take before 3.13.3")
    loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - not there before
    gauge, began = Gauge(), now()
    works: list[Factory] = [partial(gauge.work, 1), fail_now, partial(gauge.work, 2), hang]
    tasks = await run(works, max_concurrent=2, task_timeout=3, throttler=TaskThrottler(2))
    assert [task.status for task in tasks] == [COMPLETED, FAILED, COMPLETED, TIMEOUT]
    assert gauge.peak <= 2
    assert now() - began == 4
    tasks = await run([fail_now, hang], fail_fast=True)
    assert tasks[0].status is FAILED
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await run([hang, hang])
    loop.set_task_factory(None)


async def test_a_task_timeout_in_the_moment_of_the_deadline() -> None:
    result = await parallel_gather(hang, timeout=2, task_timeout=2)
    assert result.timed_out == 1
    assert result.total_duration_ms == 2_000


async def test_a_task_that_ends_in_the_moment_of_its_timeout_counts_as_what_it_did() -> None:
    loop, future = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    async def work() -> str:
        loop.call_later(2, future.set_result, "in time")
        value: str = await future
        return value

    result = await parallel_gather(work, task_timeout=2)
    assert result.results[0].status in (COMPLETED, TIMEOUT)
    assert result.results[0].duration_ms == 2_000


async def test_a_thousand_works_that_never_wait_do_not_nest_their_stacks() -> None:
    async def nothing(_: int) -> None:
        return None

    throttler = TaskThrottler(1)
    result = await parallel_map(nothing, range(5_000), max_concurrent=1)
    assert result.completed == 5_000
    result = await parallel_map(nothing, range(5_000), throttler=throttler)
    assert result.completed == 5_000
    assert throttler.active == 0


async def test_the_loops_own_task_factory_makes_our_tasks() -> None:
    made = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **options)

    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(factory)
    result = await parallel_gather(partial(after, 1), fail_now)
    loop.set_task_factory(before)
    assert (result.completed, result.failed) == (1, 1)
    assert len(made) == 2


@pytest.mark.parametrize("run", WAYS)
async def test_a_failure_in_the_first_step_stops_the_rest(run: Way) -> None:
    gauge = Gauge()
    works = [fail_now, partial(gauge.work, 50), partial(gauge.work, 50)]
    began = now()
    tasks = await run(works, fail_fast=True)
    assert [task.status for task in tasks] == [FAILED, CANCELLED, CANCELLED][: len(tasks)]
    assert now() == began
    assert gauge.inside == 0


async def test_what_a_log_filter_raises_stops_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def refuse(_: logging.LogRecord) -> bool:
        raise LookupError("in the filter")

    monkeypatch.setattr(logging.getLogger("agentos_parallel"), "filters", [refuse])
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context.get("exception")))
    began = now()
    result = await parallel_gather(partial(ignore_cancels_until, 20), timeout=2, grace=1)
    assert (result.timed_out, result.abandoned) == (1, 1)
    assert now() - began == 3
    await asyncio.sleep(30)
    assert [type(error) for error in told] == [LookupError]


async def test_when_an_abandoned_task_ends_at_last_the_log_tells(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "agentos_parallel"):
        result = await parallel_gather(partial(ignore_cancels_until, 20), timeout=2, grace=1)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        await asyncio.sleep(16)
        assert len(caplog.records) == 1
        await asyncio.sleep(2)
    assert result.abandoned == 1
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert caplog.messages[1] == "agentos_parallel: task '0', which was abandoned, has ended"


async def test_when_an_abandoned_thread_ends_at_last_the_log_tells(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release, throttler = threading.Event(), TaskThrottler(1)

    def blocks() -> None:
        release.wait(10)

    with caplog.at_level(logging.INFO, "agentos_parallel"):
        result = await parallel_gather(blocks, timeout=0.05, throttler=throttler)
        assert (result.abandoned, throttler.active) == (1, 1)
        release.set()
        while throttler.active:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "has ended" in caplog.messages[1]
