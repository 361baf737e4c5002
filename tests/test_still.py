"""Loops that stand still while a sync call on their own thread waits for a run elsewhere."""

import asyncio
import threading
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

import pytest

from agentos_parallel import TaskThrottler, parallel_gather
from agentos_parallel._core.threads import run_sync
from tests.pieces import after, settle

T = TypeVar("T")

pytestmark = pytest.mark.realtime


def in_a_loop(main: Coroutine[Any, Any, T]) -> T:
    """What *main* gives, run in a daemon thread that may hang."""
    outcome: list[T] = []
    thread = threading.Thread(target=lambda: outcome.append(asyncio.run(main)), daemon=True)
    thread.start()
    thread.join(10)
    return outcome[0]


@pytest.mark.parametrize("limit", [1, 2])
def test_a_run_in_a_sync_call_has_the_slots_that_its_callers_loop_can_not_use(limit: int) -> None:
    throttler = TaskThrottler(limit)

    async def agent() -> list[int]:
        nested = parallel_gather(*[partial(after, 0.001, n) for n in range(3)], throttler=throttler)
        return run_sync(nested).get_results()

    async def main() -> list[list[int]]:
        runs = [parallel_gather(agent, agent, throttler=throttler) for _ in range(3)]
        return [value for result in await asyncio.gather(*runs) for value in result.get_results()]

    assert in_a_loop(main()) == [[0, 1, 2]] * 6
    assert (throttler.peak, throttler.active, throttler.waiting) == (limit, 0, 0)


def test_a_slot_on_its_way_to_a_loop_that_stands_still_is_used_meanwhile() -> None:
    throttler = TaskThrottler(1)

    async def main() -> list[str]:
        await throttler.acquire()
        waiters = [asyncio.create_task(throttler.acquire()) for _ in range(2)]
        await settle()
        throttler.release()
        assert not throttler.try_acquire()  # it is on its way to the first waiter
        result = run_sync(parallel_gather(lambda: "in time", throttler=throttler, timeout=5))
        await waiters[0]
        assert not waiters[1].done()
        throttler.release()
        await waiters[1]
        throttler.release()
        return result.get_results()

    assert in_a_loop(main()) == ["in time"]
    assert (throttler.peak, throttler.active, throttler.waiting) == (1, 0, 0)


def test_who_could_not_be_served_is_served_when_its_loop_goes_on() -> None:
    throttler = TaskThrottler(1)

    async def main() -> str:
        await throttler.acquire()
        waiter = asyncio.create_task(throttler.acquire())
        await settle()

        async def release() -> str:
            throttler.release()
            return "released"

        told = run_sync(release())
        async with asyncio.timeout(5):
            await waiter
        throttler.release()
        return told

    assert in_a_loop(main()) == "released"
    assert throttler.active == 0


def test_a_resize_while_its_loop_stands_still_gives_a_run_no_slot_that_it_does_not_want() -> None:
    throttler = TaskThrottler(1)

    async def resizes() -> None:
        throttler.resize(2)
        throttler.resize(3)  # word of the first is on its way to the run's loop

    async def agent() -> tuple[int, int]:
        run_sync(resizes())
        return throttler.active, throttler.waiting

    async def main() -> list[tuple[int, int]]:
        result = await parallel_gather(agent, throttler=throttler, max_concurrent=None)
        return result.get_results()

    assert in_a_loop(main()) == [(1, 0)]
