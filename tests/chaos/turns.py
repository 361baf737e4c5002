"""P12: runs that wait for the same throttler take turns, slot by slot."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from itertools import groupby

from hypothesis import strategies as st

from agentos_parallel import TaskThrottler, parallel_gather
from tests.chaos.clocks import run_virtually
from tests.ways import now

WORKS = st.lists(st.integers(1, 4), min_size=4, max_size=12)
RUNS = st.lists(WORKS, min_size=2, max_size=4)
LIMITS = st.integers(1, 4)


def check_turns(limit: int, runs: list[list[int]]) -> None:
    """While several of *runs* (seconds that each work takes) wait, none gets two slots more."""
    starts = run_virtually(started(limit, runs))
    left = Counter({run: len(works) for run, works in enumerate(runs)})
    # Whoever comes first takes all slots that are free; the turns begin when these are taken.
    left.subtract(run for run, _ in starts[:limit])
    turns: Counter[int] = Counter()
    for _, moment in groupby(starts[limit:], key=lambda start: start[1]):
        for run, _ in moment:
            turns[run] += 1
            left[run] -= 1
        waiting = [turns[run] for run in range(len(runs)) if left[run]]
        uneven = max(waiting, default=0) - min(waiting, default=0)
        assert uneven <= 1, f"P12: {dict(turns)} turns, {starts}"


async def started(limit: int, runs: list[list[int]]) -> list[tuple[int, float]]:
    """Which run each start was, and when."""
    throttler, starts = TaskThrottler(limit), []

    async def work(run: int, seconds: int) -> None:
        starts.append((run, now()))
        await asyncio.sleep(seconds)

    async with asyncio.TaskGroup() as group:
        for run, works in enumerate(runs):
            factories = [partial(work, run, seconds) for seconds in works]
            # Wide enough: a run at its own limit does not wait.
            settings = {"max_concurrent": 99, "throttler": throttler, "timeout": None}
            group.create_task(parallel_gather(*factories, **settings))  # type: ignore[call-overload]  # by name
    return starts
