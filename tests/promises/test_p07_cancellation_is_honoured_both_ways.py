"""P7: cancellation is honoured both ways, and exits come out after the drain."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest

from agentos_parallel import (
    ParallelExecutor,
    TaskStatus,
    TaskThrottler,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from tests import virtual_time
from tests.virtual_time import run_virtually
from tests.ways import WAYS, Factory, Gauge, Results, Way, hang, now, read

COMPLETED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.CANCELLED


class Exit(BaseException):
    """Neither an Exception nor known to anybody."""


class Cleanup:
    """Works that hang, and take so many seconds to clean up after their cancel."""

    def __init__(self, seconds: float = 0) -> None:
        self.seconds = seconds
        self.started = 0
        self.ended_at: list[float] = []

    async def __call__(self) -> None:
        self.started += 1
        try:
            await hang()
        finally:
            await asyncio.sleep(self.seconds)
            self.ended_at.append(now())


async def after(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def raise_after(seconds: float, error: BaseException) -> None:
    await asyncio.sleep(seconds)
    raise error


def cancel_later(seconds: float, task: asyncio.Task[Any] | None = None) -> None:
    task = task or asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_later(seconds, task.cancel)


def cancels_pending() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


# An outer cancel.


@pytest.mark.parametrize("run", WAYS)
async def test_p07_an_outer_cancel_reaches_every_task_and_waits_for_the_drain(run: Way) -> None:
    began, work = now(), Cleanup(seconds=3)
    task = asyncio.ensure_future(run([work] * 4, max_concurrent=2))
    await asyncio.sleep(1)
    assert task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert work.started == 2
    assert work.ended_at == [began + 4, began + 4]
    assert now() == began + 4


@pytest.mark.parametrize("run", WAYS)
async def test_p07_a_second_cancel_does_not_cut_the_drain_short(run: Way) -> None:
    began, work = now(), Cleanup(seconds=3)
    task = asyncio.ensure_future(run([work] * 2))
    for _ in range(3):
        await asyncio.sleep(1)
        task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.ended_at == [began + 4, began + 4]
    assert now() == began + 4


@pytest.mark.parametrize("run", WAYS)
async def test_p07_the_cancel_is_passed_on_once(run: Way) -> None:
    cancels = []

    async def work() -> None:
        try:
            await hang()
        finally:
            for _ in range(3):
                try:
                    await asyncio.sleep(1)
                except asyncio.CancelledError:
                    cancels.append(now())

    task = asyncio.ensure_future(run([work]))
    for _ in range(3):
        await asyncio.sleep(1)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancels == []


@pytest.mark.parametrize("run", WAYS)
async def test_p07_a_cancel_before_the_first_step_starts_nothing(run: Way) -> None:
    work = Cleanup()
    task = asyncio.ensure_future(run([work] * 2))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(work.ended_at) == work.started


@pytest.mark.parametrize("run", WAYS)
async def test_p07_a_cancel_in_the_moment_of_the_end_is_not_lost(run: Way) -> None:
    cancel_later(1)
    with pytest.raises(asyncio.CancelledError):
        await run([partial(after, 1)])
        await asyncio.sleep(0)
    cancel_of_the_test_is_over()


@pytest.mark.parametrize("run", WAYS)
async def test_p07_a_cancel_in_the_moment_of_a_failure_is_not_lost(run: Way) -> None:
    cancel_later(1)
    works: list[Factory] = [partial(raise_after, 1, ValueError()), hang]
    with pytest.raises(asyncio.CancelledError):
        await run(works, fail_fast=True)
    cancel_of_the_test_is_over()


def cancel_of_the_test_is_over() -> None:
    task = asyncio.current_task()
    assert task is not None
    assert task.uncancel() == 0


async def test_p07_a_cancel_in_the_drain_of_a_stop_comes_out() -> None:
    began, work = now(), Cleanup(seconds=3)
    task = asyncio.ensure_future(
        parallel_gather(work, partial(raise_after, 1, ValueError()), fail_fast=True)
    )
    await asyncio.sleep(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.ended_at == [began + 4]


async def test_p07_a_cancel_in_the_drain_of_a_deadline_comes_out() -> None:
    began, work = now(), Cleanup(seconds=3)
    task = asyncio.ensure_future(parallel_gather(work, timeout=1))
    await asyncio.sleep(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert now() == began + 4


async def test_p07_a_cancel_stops_the_drawing() -> None:
    drawn = []

    def source() -> Iterator[int]:
        for n in range(1_000):
            drawn.append(n)
            yield 1

    task = asyncio.ensure_future(parallel_map(after, source(), max_concurrent=2))
    await asyncio.sleep(1.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert drawn == [0, 1, 2, 3]


async def test_p07_a_cancel_reaches_a_stalled_source() -> None:
    ended = []

    async def source() -> AsyncIterator[int]:
        try:
            yield 1
            await hang()
        finally:
            await asyncio.sleep(2)
            ended.append(now())

    began = now()
    task = asyncio.ensure_future(parallel_map(after, source()))
    await asyncio.sleep(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [began + 5]


async def test_p07_a_cancel_reaches_who_waits_for_a_slot() -> None:
    throttler = TaskThrottler(1)
    async with throttler:
        task = asyncio.ensure_future(parallel_gather(hang, hang, throttler=throttler))
        await asyncio.sleep(1)
        assert throttler.waiting > 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert throttler.waiting == 0
    assert throttler.active == 0


async def test_p07_a_cancel_reaches_nested_runs() -> None:
    began, work = now(), Cleanup(seconds=2)

    async def agent() -> None:
        await parallel_gather(work, work)

    task = asyncio.ensure_future(parallel_gather(agent, agent))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.ended_at == [began + 3] * 4


async def test_p07_a_cancel_during_the_merge_comes_out() -> None:
    async def merge(values: list[float]) -> None:
        await hang()

    task = asyncio.ensure_future(fan_out([partial(after, 1)], aggregation="merge", merge_fn=merge))
    await asyncio.sleep(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_p07_a_cancelled_race_gives_no_winner() -> None:
    work = Cleanup(seconds=2)
    task = asyncio.ensure_future(fan_out([work, partial(after, 2)], aggregation="first"))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_p07_a_work_that_cancels_its_caller_is_cancelled_with_it() -> None:
    async def work(caller: asyncio.Task[Any]) -> None:
        caller.cancel()
        await hang()

    async def calls() -> None:
        caller = asyncio.current_task()
        assert caller is not None
        await parallel_gather(partial(work, caller), hang)

    task = asyncio.ensure_future(calls())
    with pytest.raises(asyncio.CancelledError):
        await task


# Scopes around us.


@pytest.mark.parametrize("run", WAYS)
async def test_p07_a_timeout_around_us_works(run: Way) -> None:
    began, work = now(), Cleanup(seconds=2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await run([work, work])
    assert work.ended_at == [began + 3, began + 3]
    assert cancels_pending() == 0


@pytest.mark.parametrize("run", WAYS)
async def test_p07_a_timeout_that_does_not_fire_leaves_no_trace(run: Way) -> None:
    async with asyncio.timeout(5):
        results = await run([partial(after, 1), Cleanup()], task_timeout=2)
    assert [task.status for task in results] == [COMPLETED, TaskStatus.TIMEOUT]
    assert cancels_pending() == 0


async def test_p07_a_timeout_around_one_step_of_a_stream_closes_it() -> None:
    began, work = now(), Cleanup(seconds=2)
    stream = ParallelExecutor().stream([partial(after, 1), work])
    assert (await anext(stream)).result == 1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await anext(stream)
    assert work.ended_at == [began + 4]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert cancels_pending() == 0


@pytest.mark.parametrize("run", WAYS)
async def test_p07_a_task_group_around_us_works(run: Way) -> None:
    began, work = now(), Cleanup(seconds=2)
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(as_coroutine(run, [work, work]))
            group.create_task(raise_after(1, ValueError("sibling")))
    assert [str(error) for error in caught.value.exceptions] == ["sibling"]
    assert task.cancelled()
    assert work.ended_at == [began + 3, began + 3]


async def as_coroutine(run: Way, works: list[Factory], **settings: Any) -> Results:
    return await run(works, **settings)


async def test_p07_task_groups_in_our_tasks_work() -> None:
    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(hang())
            group.create_task(raise_after(1, ValueError("inner")))

    result = await parallel_gather(work, partial(after, 2))
    assert isinstance(result.results[0].error, ExceptionGroup)
    assert result.results[1].status is COMPLETED


async def test_p07_a_parents_cancel_is_not_swallowed_when_a_child_fails_with_it() -> None:
    async def agent() -> None:
        await parallel_gather(
            partial(raise_after, 1, ValueError()), partial(hang_then_raise, KeyError()),
            fail_fast=True,
        )  # fmt: skip
        pytest.fail("the cancel was swallowed")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await parallel_gather(agent)
    assert cancels_pending() == 0


async def hang_then_raise(error: BaseException) -> None:
    try:
        await hang()
    finally:
        raise error


# A task that cancels itself.


async def raise_cancelled() -> None:
    await asyncio.sleep(1)
    raise asyncio.CancelledError


async def cancel_oneself() -> None:
    cancel_later(1)
    await hang()


async def cancel_at_the_last_step() -> None:
    await asyncio.sleep(1)
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def await_something_cancelled() -> None:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(1, future.cancel)
    await future


SELF_CANCELS = [
    raise_cancelled,
    cancel_oneself,
    cancel_at_the_last_step,
    await_something_cancelled,
]


@pytest.mark.parametrize("cancels", SELF_CANCELS)
@pytest.mark.parametrize("run", WAYS)
async def test_p07_a_task_that_cancels_itself_cancels_nobody_else(
    run: Way, cancels: Factory
) -> None:
    gauge = Gauge()
    results = await run([partial(after, 3), cancels, gauge.work, partial(after, 2)])
    assert [task.status for task in results] == [COMPLETED, CANCELLED, COMPLETED, COMPLETED]
    assert cancels_pending() == 0


@pytest.mark.parametrize("cancels", SELF_CANCELS)
async def test_p07_a_self_cancel_gives_its_slot_back_and_is_no_failure(cancels: Factory) -> None:
    throttler = TaskThrottler(1)
    result = await parallel_gather(cancels, partial(after, 1), fail_fast=True, throttler=throttler)
    assert [task.status for task in result.results] == [CANCELLED, COMPLETED]
    assert result.cancelled == 1
    assert not result.all_succeeded
    assert throttler.active == 0


async def test_p07_a_thread_that_raises_cancelled_cancels_its_task_only() -> None:
    def work() -> None:
        raise asyncio.CancelledError

    result = await parallel_gather(work, partial(after, 1))
    assert [task.status for task in result.results] == [CANCELLED, COMPLETED]


async def test_p07_a_task_handed_over_and_cancelled_elsewhere_is_cancelled() -> None:
    work = asyncio.ensure_future(hang())
    asyncio.get_running_loop().call_later(1, work.cancel)
    result = await parallel_gather(work, after(2))
    assert [task.status for task in result.results] == [CANCELLED, COMPLETED]


async def test_p07_a_task_that_cancels_itself_while_the_caller_is_cancelled() -> None:
    cancel_later(1)
    with pytest.raises(asyncio.CancelledError):
        await parallel_gather(raise_cancelled, hang)
    cancel_of_the_test_is_over()


# Exits.


EXITS = [KeyboardInterrupt, SystemExit, Exit, GeneratorExit]


@pytest.mark.parametrize("exit_", EXITS)
@pytest.mark.parametrize("run", WAYS)
async def test_p07_an_exit_in_a_task_ends_the_run(run: Way, exit_: type[BaseException]) -> None:
    began, work, error = now(), Cleanup(seconds=2), exit_("out")
    works = [work, partial(raise_after, 1, error), work, work]
    with pytest.raises(exit_) as caught:
        await run(works, max_concurrent=3)
    assert caught.value is error
    assert work.started == 2
    assert work.ended_at == [began + 3, began + 3]
    assert cancels_pending() == 0


@pytest.mark.parametrize("exit_", EXITS)
async def test_p07_an_exit_in_a_thread_ends_the_run(exit_: type[BaseException]) -> None:
    def work(_: int) -> None:
        raise exit_("out")

    cleanup = Cleanup(seconds=2)
    with pytest.raises(exit_, match="out"):
        await parallel_gather(cleanup, lambda: work(1))
    assert len(cleanup.ended_at) == cleanup.started


@pytest.mark.parametrize("exit_", EXITS)
async def test_p07_an_exit_in_the_call_itself_ends_the_run(exit_: type[BaseException]) -> None:
    class Work:
        def __call__(self, item: int) -> Coroutine[Any, Any, None]:
            raise exit_("out")

    with pytest.raises(exit_, match="out"):
        await parallel_map(Work(), [1, 2])


@pytest.mark.parametrize("exit_", EXITS)
async def test_p07_an_exit_in_the_source_ends_the_run(exit_: type[BaseException]) -> None:
    began, work = now(), Cleanup(seconds=2)

    async def source() -> AsyncIterator[Factory]:
        yield work
        await asyncio.sleep(1)
        raise exit_("out")

    with pytest.raises(exit_, match="out"):
        await ParallelExecutor().gather(source())
    assert work.ended_at == [began + 3]


async def test_p07_an_exit_in_a_cleanup_comes_out() -> None:
    with pytest.raises(KeyboardInterrupt):
        await parallel_gather(
            partial(hang_then_raise, KeyboardInterrupt()),
            partial(raise_after, 1, ValueError()),
            fail_fast=True,
        )


async def test_p07_the_first_exit_comes_out() -> None:
    works = [partial(hang_then_raise, KeyboardInterrupt()), partial(raise_after, 1, SystemExit())]
    with pytest.raises(SystemExit):
        await parallel_gather(*works)


async def test_p07_an_exit_from_a_nested_run_ends_both() -> None:
    inner, outer = Cleanup(seconds=1), Cleanup(seconds=2)

    async def agent() -> None:
        await parallel_gather(inner, partial(raise_after, 1, KeyboardInterrupt()))

    began = now()
    with pytest.raises(KeyboardInterrupt):
        await parallel_gather(agent, outer)
    assert (inner.ended_at, outer.ended_at) == ([began + 2], [began + 4])


async def test_p07_an_exit_wins_a_race() -> None:
    works: list[Factory] = [partial(after, 2), partial(raise_after, 1, KeyboardInterrupt())]
    with pytest.raises(KeyboardInterrupt):
        await fan_out(works, aggregation="first")


async def test_p07_an_exit_is_not_retried() -> None:
    calls = []

    async def work() -> None:
        calls.append(1)
        raise Exit

    with pytest.raises(Exit):
        await fan_out([work], retry_failed=True)
    assert calls == [1]


async def test_p07_an_exit_comes_out_of_a_stream_at_once() -> None:
    seen: Results = []
    works: list[Factory] = [partial(after, 1), partial(raise_after, 2, Exit()), partial(after, 9)]
    began = now()
    with pytest.raises(Exit):
        await read(ParallelExecutor().stream(works), seen)
    assert [task.result for task in seen] == [1]
    assert now() == began + 2


async def test_p07_a_group_of_exits_is_one() -> None:
    group = BaseExceptionGroup("several", [KeyboardInterrupt(), ValueError()])
    with pytest.raises(BaseExceptionGroup) as caught:
        await parallel_gather(partial(raise_after, 1, group), hang)
    assert caught.value is group


def run_asyncio(main: Coroutine[Any, Any, Any]) -> None:
    asyncio.run(main)


def run_until_complete(main: Coroutine[Any, Any, Any]) -> None:
    loop = virtual_time.new_loop()
    try:
        loop.run_until_complete(main)
    finally:
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        assert left == []


@pytest.mark.parametrize("runner", [run_asyncio, run_until_complete, run_virtually])
@pytest.mark.parametrize("exit_", EXITS)
@pytest.mark.parametrize("run", WAYS)
def test_p07_an_exit_comes_out_of_the_loop_with_nothing_alive(
    run: Way, exit_: type[BaseException], runner: Any
) -> None:
    ended = []

    async def work() -> None:
        try:
            await hang()
        finally:
            await asyncio.sleep(0)
            ended.append(1)

    async def leave() -> None:
        await asyncio.sleep(0)
        raise exit_("out")

    came_out = []

    async def main() -> None:
        try:
            await run([work, leave, work])
        except BaseException as error:
            came_out.append(type(error))
            assert ended == [1, 1]
            raise

    with pytest.raises(exit_, match="out"):
        runner(main())
    assert came_out == [exit_]


def test_p07_ctrl_c_in_the_loop_ends_everything() -> None:
    """As asyncio.run does it: the main task is cancelled, then KeyboardInterrupt comes out."""
    work = Cleanup(seconds=0)

    async def main() -> None:
        import signal

        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        await parallel_gather(work, work)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert len(work.ended_at) == 2


async def test_p07_nothing_is_left_to_log_of_an_exit(caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.suppress(Exit):
        await parallel_gather(partial(raise_after, 1, Exit()), partial(hang_then_raise, KeyError()))
    assert caplog.records == []


async def test_p07_a_stream_cancelled_between_its_results_is_closed_by_its_scope() -> None:
    began, work = now(), Cleanup(seconds=2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3), parallel_stream(after, [1]) as stream:
            async for _ in stream:
                async with ParallelExecutor().stream([work]) as inner:
                    await anext(inner)
    assert work.ended_at == [began + 5]


async def test_an_exit_of_a_nested_run_comes_out_though_the_task_is_cancelled_meanwhile() -> None:
    throttler = TaskThrottler(1)

    async def leaves() -> None:
        await asyncio.sleep(1)
        raise Exit("out")

    async def nests() -> None:
        await parallel_gather(leaves)

    run = asyncio.ensure_future(
        parallel_gather(nests, partial(asyncio.sleep, 10), throttler=throttler)
    )
    asyncio.get_running_loop().call_later(2, run.cancel)  # while the slot is taken back

    with pytest.raises(Exit, match="out"):
        await run
    assert (throttler.active, throttler.waiting) == (0, 0)
