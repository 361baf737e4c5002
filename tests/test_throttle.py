"""TaskThrottler by itself; what it promises to runs stands in promises/test_p12_....py."""

import asyncio
import copy
import threading
import time
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentos_parallel import ParallelExecutor, TaskStatus, TaskThrottler, parallel_gather
from tests.pieces import settle
from tests.virtual_time import run_virtually


def in_one_step(coroutine: Coroutine[Any, Any, object]) -> bool:
    """Whether it comes to its end without waiting for anything."""
    try:
        coroutine.send(None)
    except StopIteration:
        return True
    coroutine.close()
    return False


async def second() -> None:
    await asyncio.sleep(1)


# What it tells.


def test_it_starts_empty() -> None:
    throttler = TaskThrottler(3)
    assert throttler.max_concurrent == 3
    assert (throttler.active, throttler.peak, throttler.waiting) == (0, 0, 0)


def test_ten_slots_unless_told_otherwise() -> None:
    assert TaskThrottler().max_concurrent == 10


async def test_active_peak_and_waiting_tell_of_slots() -> None:
    throttler = TaskThrottler(2)
    await throttler.acquire()
    await throttler.acquire()
    waiters = [asyncio.create_task(throttler.acquire()) for _ in range(3)]
    await settle()
    assert (throttler.active, throttler.peak, throttler.waiting) == (2, 2, 3)

    throttler.release()
    await waiters[0]
    assert (throttler.active, throttler.peak, throttler.waiting) == (2, 2, 2)

    for _ in range(4):
        throttler.release()
        await settle()
    assert (throttler.active, throttler.peak, throttler.waiting) == (0, 2, 0)


async def test_a_run_waits_for_as_many_slots_as_it_could_use() -> None:
    throttler = TaskThrottler(2)
    async with asyncio.TaskGroup() as group:
        group.create_task(parallel_gather(*[second] * 10, throttler=throttler, max_concurrent=5))
        await settle()
        assert (throttler.active, throttler.waiting) == (2, 3)
    assert (throttler.active, throttler.waiting) == (0, 0)


def test_its_attributes_are_read_only() -> None:
    throttler: Any = TaskThrottler(2)
    for name in ("active", "peak", "waiting", "max_concurrent"):
        with pytest.raises(AttributeError):
            setattr(throttler, name, 1)


def test_its_repr_is_short_and_tells_how_full_it_is() -> None:
    throttler = TaskThrottler(3)
    assert throttler.try_acquire()
    assert repr(throttler) == "<TaskThrottler 1/3 active>"


# With a slot free.


def test_a_free_slot_takes_no_await() -> None:
    throttler = TaskThrottler(2)
    assert in_one_step(throttler.acquire())
    assert in_one_step(throttler.__aenter__())
    assert throttler.active == 2


async def test_no_free_slot_takes_one() -> None:
    throttler = TaskThrottler(1)
    assert in_one_step(throttler.acquire())
    assert not in_one_step(throttler.acquire())
    assert throttler.active == 1


def test_try_acquire_never_waits() -> None:
    throttler = TaskThrottler(1)
    assert throttler.try_acquire()
    assert not throttler.try_acquire()
    throttler.release()
    assert throttler.try_acquire()


async def test_try_acquire_does_not_overtake() -> None:
    throttler = TaskThrottler(1)
    await throttler.acquire()
    waiter = asyncio.create_task(throttler.acquire())
    await settle()
    throttler.resize(2)
    assert not throttler.try_acquire()
    await waiter
    assert throttler.active == 2


# The context manager and release.


async def test_async_with_holds_a_slot() -> None:
    throttler = TaskThrottler(1)
    async with throttler as entered:
        assert entered is throttler
        assert throttler.active == 1
    assert throttler.active == 0


async def test_async_with_gives_its_slot_back_on_a_cancel() -> None:
    throttler = TaskThrottler(1)

    async def hold() -> None:
        async with throttler:
            await asyncio.sleep(60)

    holder = asyncio.create_task(hold())
    await settle()
    holder.cancel()
    await asyncio.wait([holder])
    assert throttler.active == 0


@pytest.mark.parametrize("outcome", [None, *TaskStatus])
async def test_a_plain_throttler_ignores_how_an_attempt_ended(outcome: TaskStatus | None) -> None:
    throttler = TaskThrottler(2)
    await throttler.acquire()
    throttler.release(outcome)
    assert (throttler.active, throttler.max_concurrent) == (0, 2)


def test_a_release_without_acquire_is_an_error() -> None:
    throttler = TaskThrottler(2)
    with pytest.raises(RuntimeError, match="without acquire"):
        throttler.release()
    assert throttler.active == 0


def test_a_release_once_too_often_is_an_error() -> None:
    throttler = TaskThrottler(2)
    assert throttler.try_acquire()
    throttler.release()
    with pytest.raises(RuntimeError):
        throttler.release()
    assert throttler.active == 0


# resize.


async def test_peak_keeps_the_most_through_a_resize() -> None:
    throttler = TaskThrottler(3)
    for _ in range(3):
        await throttler.acquire()
    throttler.resize(1)
    for _ in range(3):
        throttler.release()
    assert (throttler.peak, throttler.max_concurrent) == (3, 1)


async def test_resizing_in_vain_changes_nothing() -> None:
    throttler = TaskThrottler(1)
    await throttler.acquire()
    waiter = asyncio.create_task(throttler.acquire())
    await settle()
    throttler.resize(1)
    await settle()
    assert not waiter.done()
    throttler.release()
    await waiter


@pytest.mark.realtime
def test_a_resize_from_another_thread_wakes_waiters() -> None:
    throttler = TaskThrottler(1)
    assert throttler.try_acquire()

    async def wait() -> None:
        resizer = threading.Timer(0.01, throttler.resize, [2])
        resizer.start()
        async with asyncio.timeout(10):
            await throttler.acquire()
        resizer.join()

    asyncio.run(wait())
    assert throttler.active == 2


# Anything may happen, in any order.

STEPS = st.lists(
    st.one_of(
        st.just(("acquire", 0)),
        st.just(("release", 0)),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("resize"), st.integers(1, 5)),
        st.just(("let others run", 0)),
    ),
    max_size=60,
)


class Script:
    """Plays steps on a throttler, and checks after each of them."""

    def __init__(self, limit: int) -> None:
        self.throttler = TaskThrottler(limit)
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.served: set[int] = set()
        self.held = 0
        self.came = 0

    async def hold(self, number: int) -> None:
        await self.throttler.acquire()
        self.served.add(number)
        self.held += 1
        on_their_way = self.throttler.active - self.held
        assert len([other for other in self.waiting if other < number]) <= on_their_way

    @property
    def waiting(self) -> list[int]:
        """Who waits and was not cancelled, first come first."""
        tasks = self.tasks.items()
        return [n for n, task in tasks if n not in self.served and not task.cancelling()]

    def acquire(self) -> None:
        self.tasks[self.came] = asyncio.create_task(self.hold(self.came))
        self.came += 1

    def release(self) -> None:
        if self.held:
            self.held -= 1
            self.throttler.release()

    def cancel(self, which: int) -> None:
        if waiting := self.waiting:
            self.tasks[waiting[which % len(waiting)]].cancel()

    async def play(self, step: str, value: int) -> None:
        before = self.throttler.active
        if step == "acquire":
            self.acquire()
        elif step == "release":
            self.release()
        elif step == "cancel":
            self.cancel(value)
        elif step == "resize":
            self.throttler.resize(value)
        else:
            await settle()
        limit = self.throttler.max_concurrent
        assert self.throttler.active <= max(limit, before)

    async def finish(self) -> None:
        """Serve everybody who still waits; then nothing is left."""
        while any(not task.done() for task in self.tasks.values()):
            await settle()
            self.release()
        await settle()
        while self.held:
            self.release()
        assert (self.throttler.active, self.throttler.waiting) == (0, 0)
        cancelled = {number for number, task in self.tasks.items() if task.cancelled()}
        assert self.served | cancelled == {*range(self.came)}
        assert not any(task.exception() for task in self.tasks.values() if not task.cancelled())


@settings(max_examples=300, deadline=None)
@given(limit=st.integers(1, 4), steps=STEPS)
def test_for_any_steps_the_limit_holds_the_order_too_and_nothing_leaks(
    limit: int, steps: list[tuple[str, int]]
) -> None:
    async def play() -> None:
        script = Script(limit)
        for step, value in steps:
            await script.play(step, value)
        await script.finish()

    run_virtually(play())


@settings(max_examples=100, deadline=None)
@given(
    limit=st.integers(1, 4),
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    cancels=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), max_size=4),
    sizes=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5)), max_size=3),
)
def test_for_any_runs_cancels_and_sizes_the_limit_holds_and_nothing_leaks(
    limit: int,
    lengths: list[int],
    cancels: list[tuple[int, int]],
    sizes: list[tuple[int, int]],
) -> None:
    throttler = TaskThrottler(limit)
    inside = 0

    async def work() -> None:
        nonlocal inside
        inside += 1
        assert inside <= throttler.active
        try:
            await asyncio.sleep(1)
        finally:
            inside -= 1

    async def play() -> None:
        loop = asyncio.get_running_loop()
        runs = [
            asyncio.create_task(parallel_gather(*[work] * length, throttler=throttler))
            for length in lengths
        ]
        for which, when in cancels:
            loop.call_later(when, runs[which % len(runs)].cancel)
        for when, size in sizes:
            loop.call_later(when, throttler.resize, size)
        await asyncio.wait(runs)
        for run in runs:
            assert run.cancelled() or run.result().all_succeeded
        assert (throttler.active, throttler.waiting, inside) == (0, 0, 0)
        assert throttler.peak <= max([limit, *(size for _, size in sizes)])

    run_virtually(play())


# Threads that come at the same moment.


def test_who_finds_it_busy_gets_its_turn() -> None:
    throttler = TaskThrottler(1)
    in_its_turn, go_on = threading.Event(), threading.Event()

    class SlowToWake(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(  # type: ignore[override]  # which takes any call of the same
            self, *args: Any, **settings: Any
        ) -> asyncio.Handle:
            in_its_turn.set()
            go_on.wait(5)
            return super().call_soon_threadsafe(*args, **settings)

    def wait() -> None:
        with asyncio.Runner(loop_factory=SlowToWake) as runner:
            runner.run(held_for_a_moment(throttler))

    assert throttler.try_acquire()
    waiter = threading.Thread(target=wait)
    waiter.start()
    while not throttler.waiting:
        time.sleep(0.001)
    releaser = threading.Thread(target=throttler.release)
    releaser.start()
    assert in_its_turn.wait(5)

    threading.Timer(0.01, go_on.set).start()
    assert (throttler.waiting, go_on.is_set()) == (0, True)
    releaser.join()
    waiter.join()
    assert throttler.active == 0


async def held_for_a_moment(throttler: TaskThrottler) -> None:
    async with throttler:
        await asyncio.sleep(0)


# Coroutines that are closed, as the collector closes them.


async def held(throttler: TaskThrottler) -> None:
    async with throttler:
        await asyncio.get_running_loop().create_future()


async def test_who_is_closed_gives_its_slot_back() -> None:
    throttler = TaskThrottler(1)
    holder = held(throttler)
    holder.send(None)
    assert not throttler.try_acquire()
    holder.close()
    assert throttler.try_acquire()
    throttler.release()
    assert throttler.active == 0


async def test_who_is_closed_gives_its_slot_to_a_waiter() -> None:
    throttler = TaskThrottler(1)
    holder = held(throttler)
    holder.send(None)
    waiter = asyncio.create_task(throttler.acquire())
    await settle()
    holder.close()
    await waiter
    throttler.release()


async def test_an_async_generator_that_is_closed_gives_its_slot_to_a_waiter() -> None:
    throttler = TaskThrottler(1)

    async def pages() -> AsyncGenerator[int, None]:
        async with throttler:
            yield 1

    reader = pages()
    await anext(reader)
    waiter = asyncio.create_task(throttler.acquire())
    await settle()
    await reader.aclose()
    await waiter
    throttler.release()


async def test_who_is_closed_while_it_waits_takes_no_slot() -> None:
    throttler = TaskThrottler(1)
    await throttler.acquire()
    waiter = held(throttler)
    waiter.send(None)
    waiter.close()
    throttler.release()
    await settle()
    assert (throttler.active, throttler.waiting) == (0, 0)


async def test_who_is_closed_when_its_slot_has_just_come_gives_it_back() -> None:
    throttler = TaskThrottler(1)
    await throttler.acquire()
    waiter = held(throttler)
    waiter.send(None)
    throttler.release()
    await settle()
    waiter.close()
    assert throttler.try_acquire()
    throttler.release()
    assert throttler.active == 0


@pytest.mark.realtime
async def test_the_collector_may_come_while_the_throttler_counts() -> None:
    throttler = TaskThrottler(1)
    holder = held(throttler)
    holder.send(None)
    closing = threading.Thread(target=holder.close, daemon=True)
    with throttler._lock:
        closing.start()
        closing.join(2)
        assert not closing.is_alive()
    assert throttler.try_acquire()
    throttler.release()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
async def test_a_copy_of_what_holds_a_throttler_shares_its_limit(copied: Any) -> None:
    throttler = TaskThrottler(2)
    executor = ParallelExecutor(throttler=throttler)

    async with throttler:
        assert copied(throttler) is throttler
        assert copied({"its": throttler})["its"].active == 1
        assert copied(executor).throttler is throttler
