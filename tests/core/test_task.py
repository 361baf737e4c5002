"""The life of a task: one outcome, whatever ends it."""

import asyncio
import contextlib
import gc
import sys
import threading
import types
import weakref
from collections.abc import Generator, Iterator
from functools import partial
from typing import Any

import pytest

from agentos_parallel import (
    FanOutExecutor,
    GatherResult,
    ResultStream,
    TaskResult,
    TaskStatus,
    TaskThrottler,
    TaskTimeout,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from agentos_parallel._core.task import attempt, stopping
from tests.pieces import Stubborn, after, alive, failing_after, now, settle

COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED
TIMEOUT, CANCELLED = TaskStatus.TIMEOUT, TaskStatus.CANCELLED


async def one(work: Any, **options: Any) -> TaskResult[Any]:
    result: GatherResult[Any] = await parallel_gather(work, **options)
    [task] = result.results
    return task


def this() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


# A task that cancels itself.


async def test_a_work_that_raises_cancelled_error_is_cancelled_and_its_slot_free() -> None:
    throttler, error = TaskThrottler(1), asyncio.CancelledError("enough")
    result = await parallel_gather(
        failing_after(1, error), after(1, "b"), throttler=throttler, fail_fast=True
    )
    assert [task.status for task in result.results] == [CANCELLED, COMPLETED]
    assert result.results[0].error is error
    assert throttler.active == 0


async def test_a_work_that_cancels_its_own_task_is_cancelled() -> None:
    async def work() -> None:
        this().cancel()
        await asyncio.sleep(1)

    task = await one(work)
    assert (task.status, task.duration_ms) == (CANCELLED, 0)
    assert isinstance(task.error, asyncio.CancelledError)


async def test_a_work_that_cancels_its_own_task_in_its_last_step_is_cancelled() -> None:
    async def work() -> str:
        await asyncio.sleep(1)
        this().cancel()
        return "unread"

    task = await one(work)
    assert (task.status, task.result) == (CANCELLED, None)
    assert isinstance(task.error, asyncio.CancelledError)


async def test_a_work_that_awaits_a_cancelled_task_is_cancelled() -> None:
    other = asyncio.create_task(after(60, 1))
    asyncio.get_running_loop().call_later(2, other.cancel)
    task = await one(other)
    assert (task.status, task.duration_ms) == (CANCELLED, 2_000)


async def test_a_future_that_was_cancelled_before_its_turn_is_cancelled() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    future.cancel()
    assert (await one(future)).status is CANCELLED


async def test_a_cancel_that_a_work_takes_back_is_its_own_affair() -> None:
    async def work() -> str:
        this().cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1)
        this().uncancel()
        await asyncio.sleep(1)
        return "fine"

    assert (await one(work)).result == "fine"


# Cancelled by its run.


async def test_a_task_cancelled_before_its_first_step_has_its_slot_given_back() -> None:
    throttler = TaskThrottler(3)
    ran = []

    async def fails() -> None:
        raise ValueError

    async def work(n: int) -> None:
        ran.append(n)
        await asyncio.sleep(60)

    result = await parallel_gather(
        fails, partial(work, 1), partial(work, 2), throttler=throttler, fail_fast=True
    )
    assert [task.status for task in result.results] == [FAILED, CANCELLED, CANCELLED]
    assert (throttler.active, throttler.waiting) == (0, 0)
    assert result.total_duration_ms == 0


async def test_a_work_that_closes_its_own_stream_ends_after_the_grace() -> None:
    began = now()
    streams: list[ResultStream[None]] = []

    async def work(_: int) -> None:
        await streams[0].aclose()

    streams.append(parallel_stream(work, [1, 2], max_concurrent=1, grace=2))
    assert [task async for task in streams[0]] == []
    assert now() - began == 2
    await settle()
    assert not alive()


async def test_a_task_group_in_a_work_passes_the_cancel_on() -> None:
    ended = []

    async def child() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(now())

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            group.create_task(child())

    task = await one(work, timeout=3)
    assert task.status is TIMEOUT
    assert len(ended) == 2
    assert not alive()


async def test_a_failing_child_of_a_work_does_not_hide_the_deadline_of_the_run() -> None:
    async def fails_when_cancelled() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("late")

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails_when_cancelled())

    result = await parallel_gather(work, after(60, 1), timeout=3)
    assert result.total_duration_ms == 3_000
    assert result.results[1].status is TIMEOUT
    assert result.results[0].status in {FAILED, TIMEOUT}


async def test_asyncio_timeout_in_a_work_and_task_timeout_do_not_mix() -> None:
    async def work() -> str:
        try:
            async with asyncio.timeout(2):
                await asyncio.sleep(60)
        except TimeoutError:
            await asyncio.sleep(1)
        return "recovered"

    assert (await one(work, task_timeout=5)).result == "recovered"
    late = await one(work, task_timeout=2.5)
    assert (late.status, late.duration_ms) == (TIMEOUT, 2_500)
    assert isinstance(late.error, TaskTimeout)


# Attempts.


async def test_outside_a_run_an_attempt_does_nothing() -> None:
    async with attempt():
        await asyncio.sleep(1)
    with pytest.raises(ValueError, match="its own"):
        async with attempt():
            raise ValueError("its own")
    assert not stopping()


async def test_an_attempt_in_a_work_has_a_clock_of_its_own() -> None:
    async def twice() -> str:
        for _ in range(3):
            async with attempt():
                await asyncio.sleep(2)
            await asyncio.sleep(10)
        return "done"

    task = await one(twice, task_timeout=3)
    assert (task.result, task.retries, task.duration_ms) == ("done", 2, 6_000)
    assert task.finished_at - task.started_at == 36


async def test_past_its_time_an_attempt_raises_task_timeout_and_the_work_goes_on() -> None:
    async def work() -> tuple[str, int]:
        try:
            async with attempt():
                await asyncio.sleep(60)
        except TaskTimeout as error:
            return str(error), this().cancelling()
        return "in time", 0

    task = await one(work, task_timeout=3)
    assert task.status is COMPLETED
    assert task.result == ("task '0' timed out after 3 s (its task_timeout)", 0)


async def test_after_a_timed_out_attempt_the_next_may_use_asyncio_timeout() -> None:
    starts = []

    async def work() -> str:
        starts.append(now())
        if len(starts) == 1:
            await asyncio.sleep(60)
        async with asyncio.timeout(5):
            await asyncio.sleep(1)
        return "second"

    fan = FanOutExecutor(retry_failed=True, task_timeout=3)
    [task] = (await fan.run([work])).gather.results
    assert (task.result, task.retries, task.duration_ms) == ("second", 1, 4_000)


async def test_an_attempt_that_swallows_its_timeout_goes_on_as_if_there_were_none() -> None:
    async def work() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(1)
        return "kept"

    fan = FanOutExecutor(retry_failed=True, task_timeout=3)
    [task] = (await fan.run([work])).gather.results
    assert (task.status, task.result, task.duration_ms) == (COMPLETED, "kept", 4_000)


async def test_a_cancel_from_outside_beside_the_clocks_is_no_timeout_to_repeat() -> None:
    starts = []

    async def work() -> None:
        starts.append(now())
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(2)

    fan = FanOutExecutor(retry_failed=True, task_timeout=3, timeout=4)
    [task] = (await fan.run([work])).gather.results
    assert len(starts) == 1
    assert task.status is TIMEOUT


async def test_a_cancel_by_somebody_else_beside_the_clocks_is_not_repeated() -> None:
    starts = []

    async def work() -> None:
        starts.append(now())
        asyncio.get_running_loop().call_later(3, this().cancel)
        await asyncio.sleep(60)

    fan = FanOutExecutor(retry_failed=True, task_timeout=3)
    [task] = (await fan.run([work])).gather.results
    assert len(starts) == 1
    assert task.status in {TIMEOUT, CANCELLED}


async def test_between_attempts_no_time_is_counted_of_an_abandoned_task() -> None:
    stubborn = Stubborn()

    async def work() -> None:
        async with attempt():
            await asyncio.sleep(1)
        await stubborn()

    task = await one(work, timeout=3, grace=2)
    assert (task.status, task.abandoned, task.duration_ms) == (TIMEOUT, True, 1_000)
    assert task.finished_at - task.started_at == 5
    await stubborn.let_go()


async def test_an_attempt_in_an_abandoned_task_does_nothing() -> None:
    stubborn, ended = Stubborn(), []

    async def work() -> None:
        await stubborn()
        async with attempt():
            await asyncio.sleep(1)
        ended.append(now())

    task = await one(work, timeout=3, grace=2)
    before = task.to_dict()
    await stubborn.let_go()
    await asyncio.sleep(2)
    assert len(ended) == 1
    assert task.to_dict() == before


async def test_a_work_that_cancels_itself_in_an_attempt_is_not_repeated() -> None:
    starts = []

    async def work() -> None:
        starts.append(now())
        raise asyncio.CancelledError

    [task] = (await FanOutExecutor(retry_failed=True).run([work])).gather.results
    assert (task.status, task.retries, len(starts)) == (CANCELLED, 0, 1)


async def test_a_thread_of_an_attempt_that_timed_out_is_waited_for_before_the_next() -> None:
    release = threading.Event()
    ran: list[int] = []

    def work() -> str:
        ran.append(1)
        if len(ran) == 1:
            release.wait()
        return "second"

    asyncio.get_running_loop().call_later(0.25, release.set)
    fan = FanOutExecutor(retry_failed=True, task_timeout=0.125)
    [task] = (await fan.run([work])).gather.results
    assert (task.status, task.result, task.retries) == (COMPLETED, "second", 1)
    assert not task.abandoned


# What is kept, and what is not.


async def test_an_error_comes_as_it_was_raised() -> None:
    cause, error = OSError("gone"), ValueError("broken")
    error.__cause__ = cause
    task = await one(failing_after(1, error))
    assert task.error is error
    assert task.error.__cause__ is cause
    assert not getattr(error, "__notes__", [])


async def test_a_work_may_return_an_exception_or_a_coroutine() -> None:
    error = ValueError("returned, not raised")
    assert (await one(after(0, error))).result is error

    inner = after(0, "inner")
    task = await one(after(0, inner))
    assert task.result is inner
    inner.close()


async def test_an_awaitable_object_is_a_work() -> None:
    class Answer:
        def __await__(self) -> Generator[Any, Any, int]:
            yield from asyncio.sleep(1).__await__()
            return 42

    assert (await one(Answer())).result == 42


async def test_a_group_of_errors_is_a_failure() -> None:
    group = ExceptionGroup("two", [ValueError(), TimeoutError()])
    task = await one(failing_after(0, group))
    assert (task.status, task.error) == (FAILED, group)


async def test_an_item_is_let_go_when_its_task_ends() -> None:
    class Item:
        pass

    refs = []

    def items() -> Any:
        for _ in range(20):
            item = Item()
            refs.append(weakref.ref(item))
            yield item

    async def work(item: Item) -> int:
        await asyncio.sleep(1)
        return sum(ref() is not None for ref in refs)

    gc.collect()
    result = await parallel_map(work, items(), max_concurrent=2)
    assert max(result.get_results()) <= 5


async def test_works_that_never_wait_are_tasks_like_others() -> None:
    order = []

    async def work(n: int) -> int:
        order.append(n)
        return n

    result = await parallel_map(work, range(100), max_concurrent=3)
    assert result.get_results() == list(range(100))
    assert order == list(range(100))
    await settle()
    assert not alive()


async def test_while_langgraph_is_being_imported_a_failure_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "langgraph.errors", types.ModuleType("langgraph.errors"))
    task = await one(partial(failing_after, 1, LookupError("no")))
    assert task.status is FAILED
    assert isinstance(task.error, LookupError)


class FalsyExit(BaseException):
    def __bool__(self) -> bool:
        return False


@pytest.mark.parametrize("lazily", [False, True], ids=["in a task", "in a source"])
async def test_an_exit_that_is_false_comes_out(lazily: bool) -> None:
    error = FalsyExit()

    def source() -> Iterator[float]:
        yield 1
        raise error

    with pytest.raises(FalsyExit) as raised:
        if lazily:
            await parallel_map(asyncio.sleep, source())
        else:
            await parallel_gather(partial(failing_after, 1, error))
    assert raised.value is error


async def test_an_exit_that_is_false_comes_out_of_a_stream() -> None:
    error = FalsyExit()
    with pytest.raises(FalsyExit) as raised:
        async for _ in parallel_stream(partial(failing_after, 1), [error]):
            pass
    assert raised.value is error
