"""P12: a throttler is fair, can be shared and resized, and loses no slot."""

import asyncio
import itertools
import random
import selectors
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import pytest

from agentos_parallel import (
    FanOutExecutor,
    GatherResult,
    ParallelExecutor,
    TaskStatus,
    TaskThrottler,
    TaskTimeout,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from tests import ways
from tests.pieces import after, failing_after, now, settle
from tests.virtual_time import START, run_virtually
from tests.ways import WAYS, Gauge, Way


async def second() -> None:
    await asyncio.sleep(1)


def always(*throttlers: TaskThrottler) -> Callable[[object], Sequence[TaskThrottler]]:
    """The function of the item that gives the same for each."""
    return lambda _: throttlers


async def ignores_its_cancel(release: asyncio.Event) -> None:
    while not release.is_set():
        try:
            await release.wait()
        except asyncio.CancelledError:
            pass


def seconds_of(result: GatherResult[Any]) -> list[float]:
    """When each task started, in seconds of the test."""
    return [task.started_at - START for task in result.results]


def statuses(result: GatherResult[Any]) -> list[str]:
    return [task.status.value for task in result.results]


class Log:
    """Who started, and when."""

    def __init__(self) -> None:
        self.starts: list[tuple[float, str]] = []

    def work(self, name: str, seconds: float = 1) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            self.starts.append((now() - START, name))
            await asyncio.sleep(seconds)

        return work

    @property
    def names(self) -> str:
        return "".join(name for _, name in self.starts)

    def at(self, second: float) -> Counter[str]:
        return Counter(name for when, name in self.starts if when == second)


# Plain acquires: first come, first served.


async def test_waiters_are_served_first_come_first_served() -> None:
    throttler, order = TaskThrottler(2), list[int]()

    async def hold(number: int) -> None:
        async with throttler:
            order.append(number)
            await asyncio.sleep(1)

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(hold(number))
    assert order == list(range(20))
    assert now() == START + 10
    assert throttler.peak == 2


async def test_nobody_overtakes_a_waiter_whose_slot_is_on_its_way() -> None:
    throttler, order = TaskThrottler(1), list[str]()

    async def hold(name: str) -> None:
        async with throttler:
            order.append(name)

    await throttler.acquire()
    async with asyncio.TaskGroup() as group:
        group.create_task(hold("waiter"))
        await settle()
        throttler.release()
        assert not throttler.try_acquire()
        await hold("late")
    assert order == ["waiter", "late"]


async def test_who_releases_and_acquires_again_goes_to_the_end() -> None:
    throttler, order = TaskThrottler(1), list[str]()

    async def twice(name: str) -> None:
        for _ in range(2):
            async with throttler:
                order.append(name)
                await asyncio.sleep(1)

    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(twice(name))
    assert order == list("abcabc")


async def test_a_resized_throttler_serves_in_turn_still() -> None:
    throttler, order = TaskThrottler(1), list[int]()

    async def hold(number: int) -> None:
        async with throttler:
            order.append(number)
            await asyncio.sleep(1)

    async with asyncio.TaskGroup() as group:
        for number in range(9):
            group.create_task(hold(number))
        await asyncio.sleep(0.5)
        throttler.resize(4)
    assert order == list(range(9))
    assert now() == START + 3


# Runs take turns, slot by slot.


async def test_three_runs_take_turns_on_one_slot() -> None:
    throttler, log = TaskThrottler(1), Log()
    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(parallel_gather(*[log.work(name)] * 4, throttler=throttler))
    assert log.names == "a" + "abc" * 3 + "bc"  # the first came when nobody else wanted a turn


@pytest.mark.parametrize("lengths", [(90, 90, 90), (80, 400, 1000)])
async def test_three_runs_get_a_third_of_the_slots_each(lengths: tuple[int, ...]) -> None:
    throttler, log = TaskThrottler(6), Log()

    async def run(name: str, length: int) -> None:
        works = [log.work(name)] * length
        await parallel_gather(*works, throttler=throttler, max_concurrent=8, timeout=30.5)

    async with asyncio.TaskGroup() as group:
        for name, length in zip("abc", lengths, strict=True):
            group.create_task(run(name, length))
    assert log.at(0) == {"a": 6}
    for moment in range(1, 30):
        assert log.at(moment) == {"a": 2, "b": 2, "c": 2}


async def test_turns_are_by_slot_and_not_by_the_width_of_a_run() -> None:
    throttler, log = TaskThrottler(2), Log()

    async def run(name: str, width: int) -> None:
        works = [log.work(name)] * 40
        await parallel_gather(*works, throttler=throttler, max_concurrent=width, timeout=20.5)

    async with asyncio.TaskGroup() as group:
        for name, width in {"a": 2, "b": 4, "c": 64}.items():
            group.create_task(run(name, width))
    counts = Counter(log.names)
    assert max(counts.values()) - min(counts.values()) <= 2
    assert counts.total() == 42


async def test_three_runs_get_a_third_each_whatever_their_kind() -> None:
    throttler, log = TaskThrottler(3), Log()

    async def item(name: str) -> None:
        await log.work(name)()

    async def gathers() -> None:
        await ParallelExecutor(throttler=throttler, timeout=20.5).gather([log.work("a")] * 50)

    async def maps_lazily() -> None:
        await parallel_map(item, iter("b" * 50), throttler=throttler, timeout=20.5)

    async def streams() -> None:
        async for _ in parallel_stream(item, ["c"] * 50, throttler=throttler):
            if now() >= START + 20:
                break

    async with asyncio.TaskGroup() as group:
        for run in (gathers, maps_lazily, streams):
            group.create_task(run())
    for moment in range(3, 20):
        assert log.at(moment) == {"a": 1, "b": 1, "c": 1}


async def test_a_plain_acquire_waits_one_turn_of_each_run_at_the_most() -> None:
    throttler = TaskThrottler(1)
    async with asyncio.TaskGroup() as group:
        run = group.create_task(parallel_gather(*[second] * 10, throttler=throttler))
        await asyncio.sleep(0.5)
        async with throttler:
            assert now() <= START + 2
        await run
    assert now() == START + 10


async def test_a_run_that_comes_late_gets_its_share_at_once() -> None:
    throttler, log = TaskThrottler(2), Log()
    async with asyncio.TaskGroup() as group:
        group.create_task(parallel_gather(*[log.work("a")] * 100, throttler=throttler))
        await asyncio.sleep(10.5)
        group.create_task(parallel_gather(*[log.work("b")] * 5, throttler=throttler))
    shares = [log.at(moment) for moment in range(11, 18)]
    assert sum(share["b"] for share in shares) == 5
    assert all(share.total() == 2 for share in shares)


async def test_the_slot_of_a_run_alone_idles_never() -> None:
    throttler = TaskThrottler(4)
    result = await parallel_gather(*[second] * 40, throttler=throttler, max_concurrent=10)
    assert result.total_duration_ms == 10_000
    assert throttler.peak == 4


# No busy wait.


async def test_who_waits_for_slots_takes_no_pass_of_the_loop() -> None:
    loop: Any = asyncio.get_running_loop()
    throttler, wide = TaskThrottler(1), TaskThrottler(2)

    async def stalls() -> AsyncIterator[float]:
        await asyncio.sleep(3_000)
        yield 0

    async def nests() -> None:
        await parallel_gather(second)  # and waits for its slot from then on

    async def read(items: Any, **settings: Any) -> None:
        async for _ in parallel_stream(asyncio.sleep, items, **settings):
            pass

    waits: list[Awaitable[object]] = [
        *[throttler.acquire() for _ in range(10)],
        *[parallel_gather(second, second, throttler=throttler, timeout=None) for _ in range(10)],
        parallel_map(asyncio.sleep, stalls(), timeout=None),
        parallel_map(asyncio.sleep, iter([0] * 9), throttler=always(throttler, wide)),
        read([0] * 9, throttler=throttler, ordered=True),
        read(stalls(), throttler=throttler),
    ]
    tasks = [asyncio.create_task(_awaited(parallel_gather(nests, throttler=throttler)))]
    await asyncio.sleep(0.5)
    await throttler.acquire()  # the slot that the task lends
    tasks += [asyncio.create_task(_awaited(wait)) for wait in waits]
    await asyncio.sleep(1)
    before = loop.passes
    await asyncio.sleep(1_000)
    assert loop.passes - before <= 20  # two deadlines of 60 s, and this sleep
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert (throttler.active, throttler.waiting) == (1, 0)


# Shared by executors, functions, threads and event loops.


async def test_executors_and_functions_share_a_throttler() -> None:
    throttler, gauge = TaskThrottler(3), Gauge()
    works = [gauge.work] * 6

    async def stream() -> None:
        async for _ in ParallelExecutor(throttler=throttler).stream(works):
            pass

    runs: list[Awaitable[object]] = [
        ParallelExecutor(throttler=throttler).gather(works),
        ParallelExecutor(throttler=throttler).map(gauge.work, [1] * 6),
        stream(),
        parallel_gather(*works, throttler=throttler),
        FanOutExecutor(throttler=throttler).fan_out(works),
        fan_out(works, throttler=throttler),
    ]
    async with asyncio.TaskGroup() as group:
        for run in runs:
            group.create_task(_awaited(run))
    assert gauge.peak == throttler.peak == 3
    assert now() == START + 12
    assert throttler.active == throttler.waiting == 0


async def _awaited(awaitable: Awaitable[object]) -> None:
    await awaitable


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_in_holds_both_limits(way: Way) -> None:
    throttler, gauge = TaskThrottler(2), Gauge()
    await way([gauge.work] * 6, max_concurrent=4, throttler=throttler)
    assert gauge.peak == throttler.peak == 2
    narrow = Gauge()
    await way([narrow.work] * 6, max_concurrent=2, throttler=TaskThrottler(4))
    assert narrow.peak == 2


async def test_no_limit_that_was_asked_for_is_dropped() -> None:
    own, shared, gauge = TaskThrottler(3), TaskThrottler(2), Gauge()
    executor = ParallelExecutor(max_concurrent=5, throttler=own)
    await executor.gather([gauge.work] * 6, throttler=shared)
    assert gauge.peak == own.peak == shared.peak == 2

    wide = Gauge()
    await executor.gather([wide.work] * 6, throttler=TaskThrottler(9))
    assert wide.peak == own.peak == 3


async def test_without_max_concurrent_the_throttler_is_the_width() -> None:
    gauge = Gauge()
    await parallel_gather(*[gauge.work] * 12, max_concurrent=None, throttler=TaskThrottler(10))
    assert gauge.peak == 10


async def test_an_executors_own_throttler_bounds_all_its_runs() -> None:
    executor, gauge = ParallelExecutor(max_concurrent=3), Gauge()
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(executor.gather([gauge.work] * 3))
    assert gauge.peak == 3
    assert now() == START + 4


@pytest.mark.realtime
def test_threads_and_event_loops_share_a_throttler() -> None:
    throttler, gauge, lock = TaskThrottler(3), Gauge(), threading.Lock()
    results: list[int] = []

    async def work(number: int) -> int:
        with lock:
            gauge.__enter__()
        await asyncio.sleep(0.0005)
        with lock:
            gauge.__exit__()
        return number

    def serve() -> None:
        result = asyncio.run(parallel_map(work, range(40), throttler=throttler))
        with lock:
            results.extend(result.get_results())

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(results) == sorted([*range(40)] * 4)
    assert gauge.peak == throttler.peak == 3
    assert throttler.active == throttler.waiting == 0


@pytest.mark.realtime
def test_a_release_in_one_thread_wakes_a_waiter_in_another() -> None:
    throttler, waits, order = TaskThrottler(1), threading.Event(), list[str]()

    async def wait() -> None:
        asyncio.get_running_loop().call_soon(waits.set)
        async with throttler:
            order.append("waiter")

    asyncio.run(throttler.acquire())
    waiter = threading.Thread(target=lambda: asyncio.run(wait()))
    waiter.start()
    assert waits.wait(10)
    while not throttler.waiting and waiter.is_alive():
        time.sleep(0.001)
    order.append("holder")
    throttler.release()
    waiter.join(10)
    assert order == ["holder", "waiter"]
    assert throttler.active == 0


def in_threads(number: int, call: Callable[[int], object]) -> None:
    """*call* the numbers up to *number*, each in a thread; fails where one hangs or raises."""
    errors: list[BaseException | None] = []

    def body(which: int) -> None:
        try:
            call(which)
            errors.append(None)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(n,), daemon=True) for n in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == [None] * number


class SharedGauge(Gauge):
    """One for several threads."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            super().__enter__()

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            super().__exit__()


@pytest.mark.realtime
@pytest.mark.parametrize("each", [625, pytest.param(6_250, marks=pytest.mark.slow)])
def test_sixteen_threads_with_a_loop_each_never_pass_the_limit(each: int) -> None:
    throttler, gauge = TaskThrottler(5), SharedGauge()

    def serve(thread: int) -> None:
        items = itertools.repeat(0, each) if thread % 2 else [0] * each
        run = parallel_map(gauge.work, items, throttler=throttler, timeout=None)
        assert asyncio.run(run).completed == each

    in_threads(16, serve)
    assert gauge.peak == throttler.peak == 5
    assert throttler.active == throttler.waiting == 0


@pytest.mark.realtime
def test_three_runs_in_three_threads_get_a_third_each() -> None:
    throttler, starts, lock = TaskThrottler(3), list[int](), threading.Lock()

    async def work(thread: int) -> None:
        with lock:
            starts.append(thread)
        await asyncio.sleep(0)

    def serve(thread: int) -> None:
        asyncio.run(parallel_map(work, [thread] * 400, throttler=throttler, max_concurrent=6))

    async def hold_until_all_wait() -> None:
        for _ in range(3):
            await throttler.acquire()
        while throttler.waiting < 3 * 6:
            await asyncio.sleep(0.001)
        for _ in range(3):
            throttler.release()

    holder = threading.Thread(target=lambda: asyncio.run(hold_until_all_wait()))
    holder.start()
    while throttler.active < 3:
        time.sleep(0.001)
    in_threads(3, serve)
    holder.join()
    for share in Counter(starts[:900]).values():
        assert 290 <= share <= 310


class CountingSelector(selectors.DefaultSelector):
    """Counts the passes of its loop."""

    passes = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.passes += 1
        return super().select(timeout)


@pytest.mark.realtime
def test_a_thread_that_waits_for_a_slot_is_woken_once_and_sleeps_until_then() -> None:
    throttler, passes = TaskThrottler(1), list[int]()
    assert throttler.try_acquire()

    def serve(thread: int) -> None:
        if thread == 0:
            while throttler.waiting < 3 * 8:
                time.sleep(0.001)
            time.sleep(0.2)
            throttler.release()
            return
        selector = CountingSelector()
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
            result = runner.run(wait())
        assert result.all_succeeded
        passes.append(selector.passes)

    async def nothing() -> None:
        pass

    async def wait() -> GatherResult[None]:
        async with asyncio.TaskGroup() as group:
            run = group.create_task(parallel_gather(nothing, nothing, throttler=throttler))
            async with throttler:
                pass
        return run.result()

    in_threads(9, serve)
    assert max(passes) <= 30
    assert throttler.active == throttler.waiting == 0


@pytest.mark.realtime
def test_cancels_and_resizes_at_random_in_eight_threads_leak_nothing() -> None:
    throttler, gauge, limits = TaskThrottler(3), SharedGauge(), [1, 5, 2, 4]

    async def hold(rng: random.Random) -> None:
        async with throttler:
            await gauge.work(rng.choice([0, 0, 0.0005]))

    async def run(_: random.Random) -> None:
        await parallel_gather(*[partial(gauge.work, 0)] * 4, throttler=throttler)

    async def nest(_: random.Random) -> None:
        async def agent() -> None:
            await parallel_gather(*[partial(gauge.work, 0)] * 2, throttler=throttler)
            await gauge.work(0)

        await parallel_gather(agent, agent, throttler=throttler)

    async def use(rng: random.Random) -> None:
        for _ in range(150):
            task = asyncio.create_task(rng.choice([hold, run, nest])(rng))
            for _ in range(rng.randrange(16)):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

    def serve(thread: int) -> None:
        if thread:
            asyncio.run(use(random.Random(thread)))
            ended.append(thread)
            return
        while len(ended) < 8:
            throttler.resize(limits[0])
            limits.append(limits.pop(0))
            time.sleep(0.001)

    ended: list[int] = []
    in_threads(9, serve)
    assert gauge.inside == 0
    assert gauge.peak <= throttler.peak <= 5
    assert throttler.active == throttler.waiting == 0


@pytest.mark.realtime
def test_an_executor_works_in_a_second_asyncio_run() -> None:
    executor, throttler = ParallelExecutor(max_concurrent=2), TaskThrottler(1)
    for _ in range(3):
        work = partial(asyncio.sleep, 0.001)
        result = asyncio.run(executor.gather([work, work, lambda: None], throttler=throttler))
        assert result.all_succeeded
        assert throttler.active == throttler.waiting == 0


def test_a_throttler_serves_one_loop_after_the_other() -> None:
    throttler = TaskThrottler(2)
    for _ in range(3):
        result = run_virtually(parallel_gather(*[second] * 4, throttler=throttler))
        assert result.total_duration_ms == 2_000
        assert throttler.active == throttler.waiting == 0


# Resized while in use.


async def test_more_slots_are_taken_at_once() -> None:
    throttler = TaskThrottler(1)
    async with asyncio.TaskGroup() as group:
        run = group.create_task(parallel_gather(*[second] * 5, throttler=throttler))
        await asyncio.sleep(0.5)
        throttler.resize(3)
    assert seconds_of(run.result()) == [0, 0.5, 0.5, 1, 1.5]
    assert throttler.peak == throttler.max_concurrent == 3


async def test_fewer_slots_let_what_runs_go_on_and_start_nothing_more() -> None:
    throttler = TaskThrottler(3)
    async with asyncio.TaskGroup() as group:
        run = group.create_task(parallel_gather(*[second] * 6, throttler=throttler))
        await asyncio.sleep(0.5)
        throttler.resize(1)
        assert throttler.active == 3
    assert seconds_of(run.result()) == [0, 0, 0, 1, 2, 3]
    assert run.result().all_succeeded


async def test_shrinking_waits_until_enough_have_ended() -> None:
    throttler = TaskThrottler(3)
    works = [partial(asyncio.sleep, length) for length in (1, 2, 3, 1, 1)]
    async with asyncio.TaskGroup() as group:
        run = group.create_task(parallel_gather(*works, throttler=throttler))
        await asyncio.sleep(0.5)
        throttler.resize(2)
    assert seconds_of(run.result()) == [0, 0, 0, 2, 3]


@pytest.mark.parametrize("sized", [True, False])
async def test_a_run_without_max_concurrent_follows_its_throttler(sized: bool) -> None:
    throttler = TaskThrottler(2)
    items = [1] * 9 if sized else iter([1] * 9)
    async with asyncio.TaskGroup() as group:
        run = group.create_task(
            parallel_map(asyncio.sleep, items, max_concurrent=None, throttler=throttler)
        )
        await asyncio.sleep(0.5)
        throttler.resize(5)
        await asyncio.sleep(1)
        throttler.resize(1)
    assert seconds_of(run.result()) == [0, 0, 0.5, 0.5, 0.5, 1, 1, 2, 3]


async def test_an_executors_own_throttler_can_be_resized() -> None:
    executor = ParallelExecutor(max_concurrent=1)
    async with asyncio.TaskGroup() as group:
        run = group.create_task(executor.gather([second] * 4))
        await asyncio.sleep(0.5)
        assert isinstance(executor.throttler, TaskThrottler)
        executor.throttler.resize(3)
    assert seconds_of(run.result()) == [0, 0.5, 0.5, 1]


async def test_a_throttler_can_be_resized_by_a_task_that_it_limits() -> None:
    throttler = TaskThrottler(1)

    async def widen() -> None:
        throttler.resize(4)
        await asyncio.sleep(1)

    result = await parallel_gather(widen, second, second, second, throttler=throttler)
    assert result.total_duration_ms == 1_000


# A cancelled waiter never leaks a slot.


async def test_a_cancelled_waiter_leaves_the_queue() -> None:
    throttler = TaskThrottler(1)
    await throttler.acquire()
    waiters = [asyncio.create_task(throttler.acquire()) for _ in range(3)]
    await settle()
    waiters[1].cancel()
    await settle()
    assert throttler.waiting == 2

    throttler.release()
    await waiters[0]
    throttler.release()
    await waiters[2]
    throttler.release()
    assert throttler.active == throttler.waiting == 0


async def test_a_cancel_that_meets_the_grant_passes_the_slot_on() -> None:
    throttler = TaskThrottler(1)
    await throttler.acquire()
    first, second = (asyncio.create_task(throttler.acquire()) for _ in range(2))
    await settle()
    throttler.release()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert throttler.active == 1
    throttler.release()
    assert throttler.active == 0


async def test_a_cancel_after_the_grant_has_arrived_passes_the_slot_on() -> None:
    throttler = TaskThrottler(1)
    await throttler.acquire()
    waiter = asyncio.create_task(throttler.acquire())
    await settle()
    throttler.release()
    asyncio.get_running_loop().call_soon(waiter.cancel)  # after the grant, before the task's step
    await asyncio.wait([waiter])
    assert throttler.active == (0 if waiter.cancelled() else 1)
    assert throttler.waiting == 0


async def test_a_timeout_around_acquire_leaks_nothing() -> None:
    throttler = TaskThrottler(1)
    async with throttler:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await throttler.acquire()
    assert throttler.active == throttler.waiting == 0


async def test_a_cancelled_run_leaves_the_queue() -> None:
    throttler = TaskThrottler(1)
    async with throttler:
        run = asyncio.create_task(parallel_gather(second, second, throttler=throttler))
        await settle()
        assert throttler.waiting == 2
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert throttler.waiting == 0
    assert throttler.active == 0


async def test_a_run_past_its_deadline_leaves_the_queue() -> None:
    throttler = TaskThrottler(1)
    async with throttler:
        result = await parallel_gather(second, second, throttler=throttler, timeout=3)
        assert statuses(result) == ["timeout", "timeout"]
        assert throttler.waiting == 0
        assert throttler.active == 1


async def test_a_failing_body_gives_its_slot_back() -> None:
    throttler = TaskThrottler(1)
    with pytest.raises(ValueError, match="body"):
        async with throttler:
            raise ValueError("body")
    assert throttler.active == 0


@pytest.mark.parametrize("way", WAYS)
async def test_a_slot_comes_back_however_its_task_ends(way: Way) -> None:
    throttler = TaskThrottler(2)

    async def cancels_itself() -> None:
        raise asyncio.CancelledError

    works: list[Callable[[], Any]] = [
        second,
        lambda: failing_after(1, ValueError()),
        lambda: after(100, "too late"),
        cancels_itself,
        lambda: 1,
        second,
    ]
    tasks = await way(works, throttler=throttler, task_timeout=5, timeout=20)
    assert [task.status.value for task in tasks[:4]] == [
        "completed", "failed", "timeout", "cancelled"
    ]  # fmt: skip
    assert throttler.active == throttler.waiting == 0


async def test_a_task_cancelled_before_its_first_step_gives_its_slot_back() -> None:
    throttler = TaskThrottler(2)
    run = asyncio.create_task(parallel_gather(second, second, second, throttler=throttler))
    await asyncio.sleep(0)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert throttler.active == throttler.waiting == 0


# Loops that close, grants that never arrive.


def abandoned_waiter(throttler: TaskThrottler) -> asyncio.AbstractEventLoop:
    """A loop in which somebody waits for a slot, and which nobody runs any more."""
    loop = asyncio.new_event_loop()
    waiter = loop.create_task(throttler.acquire())
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    assert throttler.waiting
    waiter._log_destroy_pending = False  # type: ignore[attr-defined]
    return loop


def test_the_slot_for_a_waiter_of_a_closed_loop_goes_to_the_next() -> None:
    throttler = TaskThrottler(1)
    assert throttler.try_acquire()
    loop = abandoned_waiter(throttler)
    loop.close()

    throttler.release()
    assert throttler.active == throttler.waiting == 0
    result = run_virtually(parallel_gather(second, throttler=throttler))
    assert result.all_succeeded


def test_a_grant_on_its_way_to_a_loop_that_closes_is_not_lost() -> None:
    throttler = TaskThrottler(1)
    assert throttler.try_acquire()
    loop = abandoned_waiter(throttler)
    throttler.release()  # the grant is on its way
    loop.close()

    result = run_virtually(parallel_gather(second, throttler=throttler, timeout=5))
    assert result.all_succeeded
    assert throttler.active == 0


def test_a_grant_on_its_way_to_a_closing_loop_reaches_who_waited_behind() -> None:
    throttler = TaskThrottler(1)
    assert throttler.try_acquire()
    loop = abandoned_waiter(throttler)

    async def wait_behind() -> float:
        waiter = asyncio.create_task(throttler.acquire())
        await settle()
        throttler.release()
        loop.close()
        throttler.resize(1)  # anything that looks at the queue
        async with asyncio.timeout(5):
            await waiter
        return now()

    assert run_virtually(wait_behind()) == START
    throttler.release()
    assert throttler.active == 0


def test_a_request_that_finds_a_lost_grant_serves_who_waited_first() -> None:
    throttler = TaskThrottler(1)
    assert throttler.try_acquire()
    loop = abandoned_waiter(throttler)

    async def wait_behind() -> None:
        first = asyncio.create_task(throttler.acquire())
        await settle()
        throttler.release()
        loop.close()
        second = asyncio.create_task(throttler.acquire())
        async with asyncio.timeout(5):
            await first
            assert not second.done()
            throttler.release()
            await second

    run_virtually(wait_behind())
    throttler.release()
    assert throttler.active == throttler.waiting == 0


def test_try_acquire_finds_a_lost_grant() -> None:
    throttler = TaskThrottler(1)
    assert throttler.try_acquire()
    loop = abandoned_waiter(throttler)
    throttler.release()
    loop.close()
    assert throttler.try_acquire()


async def test_a_grant_that_meets_the_end_of_its_run_goes_on() -> None:
    throttler = TaskThrottler(1)
    await throttler.acquire()
    run = asyncio.create_task(parallel_gather(second, second, throttler=throttler))
    await settle()
    throttler.release()  # a grant is on its way to the run
    run.cancel()
    other = await parallel_gather(second, throttler=throttler, timeout=5)
    assert other.all_succeeded
    with pytest.raises(asyncio.CancelledError):
        await run
    assert throttler.active == throttler.waiting == 0


async def test_a_run_that_stops_gives_back_what_it_was_granted() -> None:
    throttler = TaskThrottler(2)

    async def fail() -> None:
        await asyncio.sleep(1)
        raise ValueError

    async with asyncio.TaskGroup() as group:
        stopped = group.create_task(
            parallel_gather(fail, *[second] * 6, throttler=throttler, fail_fast=True)
        )
        other = group.create_task(parallel_gather(*[second] * 6, throttler=throttler))
    assert stopped.result().failed == 1
    assert other.result().all_succeeded
    assert now() == START + 4
    assert throttler.active == throttler.waiting == 0


async def test_a_run_whose_drawing_ends_holds_no_slot_for_nothing() -> None:
    throttler = TaskThrottler(1)
    async with asyncio.TaskGroup() as group:
        group.create_task(parallel_map(asyncio.sleep, iter([1, 1]), throttler=throttler))
        group.create_task(parallel_map(asyncio.sleep, [1, 1], throttler=throttler))
        await asyncio.sleep(0)
    assert now() == START + 4
    assert throttler.active == throttler.waiting == 0


# throttler= as a function of the item.


async def test_a_function_gives_each_item_its_throttler() -> None:
    agents = {"a": TaskThrottler(1), "b": TaskThrottler(2)}

    async def work(_: str) -> None:
        await asyncio.sleep(1)

    result = await parallel_map(work, list("aabbbb"), throttler=agents.__getitem__)
    assert seconds_of(result) == [0, 1, 0, 0, 1, 1]
    assert (agents["a"].peak, agents["b"].peak) == (1, 2)


async def test_a_function_may_give_several() -> None:
    provider = TaskThrottler(3)
    agents = {"a": TaskThrottler(1), "b": TaskThrottler(5)}

    async def work(_: str) -> None:
        await asyncio.sleep(1)

    def limits(agent: str) -> Sequence[TaskThrottler]:
        return [provider, agents[agent]]

    result = await parallel_map(work, list("aabbbb"), throttler=limits)
    assert seconds_of(result) == [0, 1, 0, 0, 1, 1]
    assert (provider.peak, agents["a"].peak, agents["b"].peak) == (3, 1, 2)
    assert provider.active == agents["a"].active == agents["b"].active == 0


async def test_a_function_may_give_none_for_some_items() -> None:
    narrow = TaskThrottler(1)
    result = await parallel_map(
        asyncio.sleep, [2, 2, 1, 1], throttler=lambda length: [narrow] if length == 2 else []
    )
    assert seconds_of(result) == [0, 2, 0, 0]


async def test_works_are_told_apart_by_their_task_id() -> None:
    narrow, wide = TaskThrottler(1), TaskThrottler(5)

    def limit(task_id: str) -> TaskThrottler:
        return narrow if task_id.startswith("n") else wide

    works = {"n1": second, "n2": second, "w1": second, "w2": second}
    for run in (
        ParallelExecutor(throttler=limit).gather(works),
        ParallelExecutor().gather(works, throttler=limit),
        fan_out(works, throttler=limit),
        FanOutExecutor(throttler=limit).fan_out(works),
    ):
        began = now()
        result = await run
        assert [task.started_at - began for task in result.results] == [0, 1, 0, 0]


async def test_positions_are_task_ids_of_a_list() -> None:
    seen: list[str] = []

    def limit(task_id: str) -> TaskThrottler:
        seen.append(task_id)
        return TaskThrottler(1)

    await parallel_gather(second, second, throttler=limit)
    assert seen == ["0", "1"]


async def test_the_head_of_a_sized_input_blocks_nobody_who_needs_other_throttlers() -> None:
    busy, free = TaskThrottler(1), TaskThrottler(1)
    await busy.acquire()
    asyncio.get_running_loop().call_later(3.5, busy.release)
    result = await parallel_map(
        asyncio.sleep,
        [2, 1, 1, 1],
        max_concurrent=2,
        throttler=lambda length: busy if length == 2 else free,
    )
    assert seconds_of(result) == [3.5, 0, 1, 2]
    assert busy.active == free.active == 0


SIZED = {
    "gather": ways.gather,
    "map": ways.map_,
    "stream": ways.stream,
    "stream in order": ways.stream_in_order,
    "fan_out": ways.fan,
}


@pytest.mark.parametrize("way", SIZED.values(), ids=list(SIZED))
async def test_however_many_stand_at_the_head_for_a_busy_throttler_others_pass(way: Way) -> None:
    busy, free, provider = TaskThrottler(1), TaskThrottler(1), TaskThrottler(3)
    await busy.acquire()
    asyncio.get_running_loop().call_later(10, busy.release)
    heads = [partial(asyncio.sleep, 1) for _ in range(6)]
    others = [partial(asyncio.sleep, 1) for _ in range(2)]

    def limits(key: object) -> list[TaskThrottler]:
        return [provider, busy if key in heads or key in set("012345") else free]

    tasks = await way([*heads, *others], max_concurrent=2, throttler=limits, timeout=None)
    assert [task.started_at - START for task in tasks] == [10, 11, 12, 13, 14, 15, 0, 1]
    assert busy.active == free.active == provider.active == 0


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("way", WAYS)
async def test_a_function_gives_throttlers_and_timeouts_on_every_way_in(
    way: Way, several: bool
) -> None:
    narrow, wide, calls = TaskThrottler(1), TaskThrottler(2), list[object]()
    works = [partial(asyncio.sleep, 3) for _ in range(4)]

    def limits(key: object) -> TaskThrottler | list[TaskThrottler]:
        calls.append(key)
        return [wide, narrow] if several else narrow

    def seconds(key: object) -> float | None:
        return 2 if key in (works[1], "1") else None

    tasks = await way(works, throttler=limits, task_timeout=seconds, timeout=None)
    assert [task.started_at - START for task in tasks] == [0, 3, 5, 8]
    assert [task.status.value for task in tasks] == ["completed", "timeout"] + ["completed"] * 2
    assert isinstance(tasks[1].error, TaskTimeout)
    assert calls in (works, ["0", "1", "2", "3"])
    assert (narrow.peak, wide.peak) == (1, 1 if several else 0)
    assert narrow.active == wide.active == 0


async def test_works_that_need_the_same_throttlers_start_in_input_order() -> None:
    throttlers, log = {"a": TaskThrottler(1), "b": TaskThrottler(2)}, Log()

    async def work(name: str) -> None:
        await log.work(name)()

    names = ["a0", "b0", "a1", "b1", "a2", "b2", "b3"]
    await parallel_map(work, names, throttler=lambda name: throttlers[name[0]])
    started = [name for _, name in log.starts]
    assert [name for name in started if name[0] == "a"] == ["a0", "a1", "a2"]
    assert [name for name in started if name[0] == "b"] == ["b0", "b1", "b2", "b3"]


# Several throttlers: one order, and the clock starts with the last slot.


async def test_equal_limits_in_a_circle_do_not_deadlock() -> None:
    a, b, c = (TaskThrottler(1) for _ in range(3))
    needs = [(a, b), (b, c), (c, a), (b, a), (a, c), (c, b)] * 7

    async with asyncio.TaskGroup() as group:
        for several in needs:
            group.create_task(parallel_gather(second, throttler=always(*several), timeout=None))
    assert a.active == b.active == c.active == 0
    assert a.waiting == b.waiting == c.waiting == 0


async def test_the_order_outlasts_a_resize() -> None:
    a, b = TaskThrottler(1), TaskThrottler(2)
    async with asyncio.TaskGroup() as group:
        for number in range(30):
            pair = (a, b) if number % 2 else (b, a)
            group.create_task(parallel_gather(*[second] * 2, throttler=always(*pair), timeout=None))
        for limits in ((3, 1), (1, 3), (2, 2), (1, 1)):
            await asyncio.sleep(3.5)
            a.resize(limits[0])
            b.resize(limits[1])
    assert a.active == b.active == 0


async def test_a_saturated_agent_keeps_no_slot_of_the_provider_from_others() -> None:
    provider, agent = TaskThrottler(4), TaskThrottler(1)
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(parallel_gather(*[second] * 3, throttler=always(provider, agent)))
        await settle()
        assert (agent.active, provider.active) == (1, 1)
        quick = group.create_task(parallel_gather(*[second] * 3, throttler=provider))
    assert seconds_of(slow.result()) == [0, 1, 2]
    assert seconds_of(quick.result()) == [0, 0, 0]


async def test_of_equal_limits_the_older_is_taken_first() -> None:
    older, younger = TaskThrottler(2), TaskThrottler(2)
    await older.acquire()
    await older.acquire()
    async with asyncio.TaskGroup() as group:
        group.create_task(parallel_gather(second, throttler=always(younger, older)))
        await asyncio.sleep(1)
        assert (older.waiting, younger.active) == (1, 0)
        older.release()
    older.release()


async def test_the_clock_starts_when_a_task_has_all_its_slots() -> None:
    narrow, wide = TaskThrottler(1), TaskThrottler(2)
    await wide.acquire()
    await wide.acquire()
    asyncio.get_running_loop().call_later(7, wide.release)
    result = await parallel_gather(
        partial(asyncio.sleep, 3), throttler=always(narrow, wide), task_timeout=4
    )
    (task,) = result.results
    assert task.status is TaskStatus.COMPLETED
    assert task.started_at == START + 7
    assert (task.queued_ms, task.duration_ms) == (7_000, 3_000)
    wide.release()


async def test_task_timeout_counts_from_the_last_slot() -> None:
    narrow, wide = TaskThrottler(1), TaskThrottler(2)
    await wide.acquire()
    await wide.acquire()
    asyncio.get_running_loop().call_later(7, wide.release)
    result = await parallel_gather(
        partial(asyncio.sleep, 5), throttler=always(narrow, wide), task_timeout=4
    )
    assert isinstance(result.results[0].error, TaskTimeout)
    assert result.total_duration_ms == 11_000
    wide.release()


async def test_a_run_cancelled_between_two_slots_gives_the_first_back() -> None:
    narrow, wide = TaskThrottler(1), TaskThrottler(2)
    await wide.acquire()
    await wide.acquire()
    result = await parallel_gather(second, throttler=always(narrow, wide), timeout=3)
    assert result.results[0].started_at == 0.0
    assert (narrow.active, narrow.waiting) == (0, 0)
    assert (wide.active, wide.waiting) == (2, 0)


async def test_slots_lent_to_a_nested_run_are_taken_back_in_the_one_order() -> None:
    a, b = TaskThrottler(1), TaskThrottler(1)

    async def nests() -> None:
        await asyncio.sleep(1)
        await parallel_gather(second, throttler=always(b, a))
        await asyncio.sleep(1)

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            pair = (a, b) if number % 2 else (b, a)
            group.create_task(parallel_gather(nests, throttler=always(*pair), timeout=None))
    assert now() == START + 18
    assert a.active == b.active == a.waiting == b.waiting == 0


async def test_a_throttler_named_twice_is_taken_once() -> None:
    throttler = TaskThrottler(1)
    result = await ParallelExecutor(throttler=throttler).gather([second], throttler=throttler)
    assert result.all_succeeded
    result = await parallel_gather(second, throttler=always(throttler, throttler))
    assert result.all_succeeded
    assert throttler.peak == 1


# What was abandoned keeps its slot until it really ends.


@pytest.mark.leaky
async def test_an_abandoned_task_keeps_its_slot_until_it_ends() -> None:
    throttler, release = TaskThrottler(1), asyncio.Event()
    result = await parallel_gather(
        lambda: ignores_its_cancel(release), throttler=throttler, timeout=1, grace=1
    )
    assert result.abandoned == 1
    assert throttler.active == 1

    late = await parallel_gather(second, throttler=throttler, timeout=5)
    assert late.timed_out == 1

    asyncio.get_running_loop().call_later(2, release.set)
    result = await parallel_gather(second, throttler=throttler)
    assert result.results[0].queued_ms == 2_000
    assert throttler.active == 0


@pytest.mark.leaky
async def test_an_abandoned_tasks_slot_comes_back_once() -> None:
    throttler, release = TaskThrottler(2), asyncio.Event()
    works: list[Callable[[], Awaitable[None]]] = [lambda: ignores_its_cancel(release)]
    works += [second] * 6
    async with asyncio.TaskGroup() as group:
        run = group.create_task(
            parallel_gather(*works, throttler=throttler, task_timeout=2, grace=1)
        )
        await asyncio.sleep(4.5)
        release.set()
    assert run.result().abandoned == 1
    assert throttler.peak == 2
    assert throttler.active == throttler.waiting == 0
    assert seconds_of(run.result()) == [0, 0, 1, 2, 3, 4, 4.5]


@pytest.mark.leaky
async def test_an_abandoned_thread_keeps_its_slot_until_it_ends() -> None:
    throttler, release = TaskThrottler(1), threading.Event()
    result = await parallel_gather(lambda: release.wait(10), throttler=throttler, timeout=0.05)
    assert result.abandoned == 1
    assert throttler.active == 1
    release.set()
    after_it = await parallel_gather(second, throttler=throttler)
    assert after_it.all_succeeded
    assert throttler.active == 0
