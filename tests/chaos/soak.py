"""A million tasks, one in twenty at fault: memory stays where it was, and nothing is left behind.

`python -m tests.chaos.soak [TASKS]` prints how it went, and ends with 1 where a bar is missed. The
clock is the real one; a fault is a rare thing in each of many runs, streams and gathers that share
one throttler, beside others that have none.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from agentos_parallel import (
    FanOutExecutor,
    ParallelExecutor,
    TaskStatus,
    TaskThrottler,
    parallel_gather,
    parallel_map,
    parallel_stream,
)

TASKS = 1_000_000
BATCH = 5_000  # tasks of one round, all its runs together
DRIFT_MIB = 10.0
FAULTS = ("raise", "time out", "cancel itself", "sync", "nest")
ODDS = 0.05


class Soak:
    """What all rounds share."""

    def __init__(self, tasks: int, seed: int) -> None:
        self.tasks = tasks
        self.random = random.Random(seed)
        self.throttler = TaskThrottler(32)
        self.done = 0
        self.statuses: Counter[TaskStatus] = Counter()

    def kinds(self, amount: int) -> Iterator[str]:
        """What so many works do, drawn one by one."""
        for _ in range(amount):
            fault = self.random.random() < ODDS
            yield self.random.choice(FAULTS) if fault else "succeed"

    async def akinds(self, amount: int) -> AsyncIterator[str]:
        for kind in self.kinds(amount):
            yield kind

    async def work(self, kind: str) -> str:
        await asyncio.sleep(0)
        if kind == "raise":
            raise ValueError(kind)
        if kind == "time out":
            await asyncio.sleep(60)
        elif kind == "cancel itself":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(60)
        elif kind == "sync":
            await parallel_gather(int, throttler=self.throttler)
        elif kind == "nest":
            await parallel_map(self.work, ["succeed", "raise"], throttler=self.throttler)
        return kind

    def count(self, results: Any) -> None:
        for task in results:
            self.statuses[task.status] += 1
            self.done += 1
            fine = task.result in ("succeed", "sync", "nest")
            assert fine == (task.status is TaskStatus.COMPLETED), task

    # The runs of one round.

    async def mapped(self, amount: int) -> None:
        result = await parallel_map(
            self.work, self.kinds(amount), 16, throttler=self.throttler, task_timeout=0.05
        )
        self.count(result.results)

    async def streamed(self, amount: int) -> None:
        source = self.akinds(amount)
        async with parallel_stream(
            self.work, source, throttler=self.throttler, task_timeout=0.05
        ) as results:
            async for task in results:
                self.count([task])

    async def gathered(self, amount: int) -> None:
        executor = ParallelExecutor(16, task_timeout=0.05)
        works = (self.work(kind) for kind in self.kinds(amount))
        self.count((await executor.gather(works, throttler=self.throttler)).results)

    async def raced(self, amount: int) -> None:
        """Many small ones: most of their works never start."""
        for _ in range(amount // 10):
            race = FanOutExecutor(
                max_concurrent=2, aggregation="first", throttler=self.throttler, task_timeout=0.05
            )
            outcome = await race.run([self.work(kind) for kind in self.kinds(10)])
            assert (outcome.winner is None) == (outcome.gather.completed == 0), outcome
            self.done += 10

    async def round(self) -> None:
        part = BATCH // 4
        await asyncio.gather(
            self.mapped(part), self.streamed(part), self.gathered(part), self.raced(part)
        )

    def left(self) -> dict[str, int]:
        """How much is alive of what a run makes, beside the throttler."""
        gc.collect()
        kinds = ("Task", "Run", "Crew", "Lane", "Place", "TaskResult", "ResultStream", "coroutine")
        alive = Counter(type(each).__name__ for each in gc.get_objects())
        named = {kind: alive[kind] for kind in kinds}
        named["slots"] = self.throttler.active
        named["waiting"] = self.throttler.waiting
        named["asyncio tasks"] = len(asyncio.all_tasks()) - 1
        return named


def mib() -> float:
    """Memory of this process now."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def soak(tasks: int, seed: int) -> bool:
    """Run them all; whether every bar is met."""
    it, began, threads = Soak(tasks, seed), time.perf_counter(), threading.active_count()
    while it.done < tasks / 10:
        await it.round()
    before, memory = it.left(), mib()
    print(f"after {it.done:,} tasks: {memory:.1f} MiB, alive: {before}", flush=True)

    while it.done < tasks:
        await it.round()
    after, drift = it.left(), mib() - memory
    took = time.perf_counter() - began
    told = ", ".join(f"{n:,} {status.value}" for status, n in it.statuses.items())
    print(f"after {it.done:,} tasks ({told}) in {took:.0f} s: {drift:+.1f} MiB, alive: {after}")

    leaked = {kind: after[kind] - before[kind] for kind in after if after[kind] > before[kind]}
    leaked["threads"] = await threads_left(threads)
    print(f"leaked: {leaked}")
    return not any(leaked.values()) and drift <= DRIFT_MIB


async def threads_left(before: int) -> int:
    """How many threads are more than there were *before*, once idle ones have had time to end."""
    for _ in range(200):
        if threading.active_count() <= before:
            break
        await asyncio.sleep(0.1)
    return threading.active_count() - before


def main() -> int:
    tasks = int(sys.argv[1]) if sys.argv[1:] else TASKS
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return 0 if asyncio.run(soak(tasks, seed)) else 1


if __name__ == "__main__":
    sys.exit(main())
