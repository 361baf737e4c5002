"""Runs in several threads at once, each with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from agentos_parallel import TaskThrottler, parallel_map
from tests.benchmarks.peers import Work


async def at_once(work: Work, tasks: int, throttlers: Sequence[TaskThrottler]) -> None:
    """One thread for each of *throttlers*, with a run of so many *tasks* on it; blocks the loop."""
    outcomes: list[bool] = []

    async def run(throttler: TaskThrottler) -> None:
        result = await parallel_map(
            work, range(tasks), max_concurrent=None, timeout=None, throttler=throttler
        )
        outcomes.append(result.all_succeeded)

    def serve(throttler: TaskThrottler) -> None:
        asyncio.run(run(throttler))

    threads = [threading.Thread(target=serve, args=[throttler]) for throttler in throttlers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * len(throttlers)


async def shared(work: Work, tasks: int, threads: int, limit: int) -> None:
    """All threads on one throttler."""
    await at_once(work, tasks, [TaskThrottler(limit)] * threads)


async def each_its_own(work: Work, tasks: int, threads: int, limit: int) -> None:
    """A throttler for each thread."""
    await at_once(work, tasks, [TaskThrottler(limit) for _ in range(threads)])
