"""What is measured: one function for each line, or block of lines, of the table."""

from __future__ import annotations

import asyncio
import heapq
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel

from agentos_parallel import (
    GatherResult,
    RunnableGather,
    TaskGroup,
    TaskResult,
    TaskStatus,
    fan_out,
    parallel_gather,
    parallel_map,
    timeline,
)
from tests.benchmarks.peers import (
    Work,
    bare_gather,
    bare_group,
    group_and_semaphore,
    installed,
    no_op,
    workers,
    yields_once,
)
from tests.benchmarks.threads import each_its_own, shared
from tests.benchmarks.timing import Contender, Row, Times, at_least, at_most, interleaved, ratio

ROOT = Path(__file__).resolve().parents[2]

TASKS = 10_000
LIMIT = 64
ROUNDS = 21
WORKS = {"no-op": no_op, "yields once": yields_once}
# How much more than ours a task of theirs costs, at the least.
PEERS = {"aiometer": 3.5, "langchain_core.abatch": 20.0}
OURS = ("parallel_gather", "parallel_map")
IMPORT = """
import time
began = time.perf_counter()
import agentos_parallel
print(time.perf_counter() - began)
"""
NO_OP_BAR = 1.4 if sys.version_info < (3, 12) else 1.6


def cost_of_a_no_op() -> Iterator[Row]:
    """Microseconds a task, beside bare asyncio.gather."""
    contenders: dict[str, Contender] = {
        "bare asyncio.gather": partial(bare_gather, no_op, TASKS),
        "parallel_gather": partial(ours, no_op),
        "parallel_map": partial(ours_mapped, no_op),
        "64 workers by hand (the floor)": partial(workers, no_op, TASKS, LIMIT),
    }
    times = interleaved(contenders, ROUNDS)
    yield from compared("no-op", times, "bare asyncio.gather", NO_OP_BAR)


def cost_of_a_yield() -> Iterator[Row]:
    """The same, each task yields once; beside what one writes by hand."""
    contenders: dict[str, Contender] = {
        "TaskGroup + Semaphore": partial(group_and_semaphore, yields_once, TASKS, LIMIT),
        "parallel_gather": partial(ours, yields_once),
        "parallel_map": partial(ours_mapped, yields_once),
        "64 workers by hand (the floor)": partial(workers, yields_once, TASKS, LIMIT),
    }
    times = interleaved(contenders, ROUNDS)
    yield from compared("yields once", times, "TaskGroup + Semaphore", 0.8)


def cost_of_a_group() -> Iterator[Row]:
    """TaskGroup beside the standard library's, and beside that with a semaphore in each task."""
    for kind, work in WORKS.items():
        contenders: dict[str, Contender] = {
            "TaskGroup": partial(ours_grouped, work, None),
            "asyncio.TaskGroup": partial(bare_group, work, TASKS),
            "TaskGroup at 64": partial(ours_grouped, work, LIMIT),
            "TaskGroup + Semaphore": partial(group_and_semaphore, work, TASKS, LIMIT),
        }
        times = interleaved(contenders, rounds=11)
        for name, unit in (
            ("TaskGroup", "asyncio.TaskGroup"),
            ("TaskGroup at 64", "TaskGroup + Semaphore"),
        ):
            yield times_row(f"{kind}: our {name} / {unit}", ratio(times, name, unit))


def cost_of_a_task_timeout() -> Iterator[Row]:
    """What a ``task_timeout`` that never rings adds to a task."""
    for kind, work in WORKS.items():
        contenders: dict[str, Contender] = {
            f"{name}{note}": partial(function, work, task_timeout=seconds)
            for name, function in (("parallel_gather", ours), ("parallel_map", ours_mapped))
            for note, seconds in (("", None), (" timed", 60))
        }
        times = interleaved(contenders, rounds=11)
        for name in OURS:
            what = f"{kind}: {name}, task_timeout set / without"
            yield times_row(what, ratio(times, f"{name} timed", name), most=1.15)


def cost_of_many() -> Iterator[Row]:
    """How the price of a task grows with their number, beside how gather's does."""
    few, many = 1_000, 100_000
    runs = 20  # of few, one after the other: one alone is too short for the clock
    functions: dict[str, Callable[[Work, int], Awaitable[None]]] = {
        "bare asyncio.gather": bare_gather,
        "parallel_gather": ours,
        "parallel_map": ours_mapped,
    }
    contenders: dict[str, Contender] = {}
    for name, function in functions.items():
        contenders[f"few: {name}"] = repeated(partial(function, no_op, few), runs)
        contenders[f"many: {name}"] = partial(function, no_op, many)
    times = interleaved(contenders, rounds=5)

    growth = {
        name: ratio(times, f"many: {name}", f"few: {name}") * few * runs / many
        for name in functions
    }
    bar = growth["bare asyncio.gather"]
    for name, factor in growth.items():
        what = f"a task of {many:,} / of {few:,}: {name}"
        yield times_row(what, factor, most=bar if name in OURS else None)


def cost_of_sharing() -> Iterator[Row]:
    """A throttler that threads share, each with its own loop, beside one for each of them."""
    threads, tasks = 4, TASKS // 2
    for kind, work in WORKS.items():
        contenders: dict[str, Contender] = {
            "shared": partial(shared, work, tasks, threads, LIMIT),
            "each its own": partial(each_its_own, work, tasks, threads, LIMIT),
        }
        times = interleaved(contenders, rounds=7)
        what = f"{kind}: throttler shared by {threads} threads / own ones"
        yield times_row(what, ratio(times, "shared", "each its own"), most=3)


def cost_of_others() -> Iterator[Row]:
    """Libraries that do something like it, as far as they are installed; fewer tasks, for time."""
    tasks = TASKS // 5
    contenders: dict[str, Contender] = {
        "parallel_gather": partial(ours, no_op, tasks),
        **installed(no_op, tasks, LIMIT),
    }
    times = interleaved(contenders, rounds=11)
    for name in contenders:
        if name != "parallel_gather":
            factor = ratio(times, name, "parallel_gather")
            yield times_row(f"no-op: {name} / parallel_gather", factor, least=PEERS.get(name))


def cost_of_a_branch() -> Iterator[Row]:
    """RunnableGather beside plain gather of the branches' ainvoke, and beside RunnableParallel."""
    for number in (8, 50):
        branches = {str(position): RunnableLambda(yields_text) for position in range(number)}
        runnables: dict[str, Runnable[str, Any]] = {
            "RunnableParallel": RunnableParallel(branches),
            "RunnableGather": RunnableGather(branches),
            "RunnableGather, no limit": RunnableGather(branches, max_concurrent=None),
        }
        contenders: dict[str, Contender] = {"gather(ainvoke)": partial(invoked, branches)}
        for name, runnable in runnables.items():
            contenders[name] = partial(runnable.ainvoke, "x")
        calls = 1_000 // number
        times = interleaved({n: repeated(c, calls) for n, c in contenders.items()}, rounds=15)
        for name in runnables:
            factor, ours = ratio(times, name, "gather(ainvoke)"), name == "RunnableGather"
            what = f"{number} branches: {name} / gather(ainvoke)"
            yield times_row(what, factor, most=1.3 if ours and number == 50 else None)
        what = f"{number} branches: RunnableGather / RunnableParallel"
        factor = ratio(times, "RunnableGather", "RunnableParallel")
        yield times_row(what, factor, most=1.0 if number == 50 else None)


async def yields_text(text: str) -> str:
    await asyncio.sleep(0)
    return text


async def invoked(branches: dict[str, RunnableLambda[str, str]]) -> None:
    await asyncio.gather(*(branch.ainvoke("x") for branch in branches.values()))


def growth_of_memory() -> Iterator[Row]:
    """Peak memory while a long stream is read, in a process of its own."""
    items = 1_000_000
    mib = float(output_of("-m", "tests.benchmarks.memory", str(items)))
    yield at_most(f"parallel_stream over {items:,} items: peak grows by", mib, 5, f"{mib:.2f} MiB")


def makespan_of_uneven_tasks() -> Iterator[Row]:
    """500 tasks of 100 ms in the mean, beside the ideal list schedule of what they took."""
    ratios = [asyncio.run(makespan(seed)) for seed in range(5)]
    ratio = median(ratios)
    yield at_most("500 uneven tasks at limit 32: makespan / ideal", ratio, 1.01, f"{ratio:.4f}")


def latency_of_a_race() -> Iterator[Row]:
    """The fastest of 8 fails, one succeeds after 50 ms, the others hang."""
    rounds = 21
    late, ended, alive = zip(*(asyncio.run(race()) for _ in range(rounds)), strict=True)
    yield at_most(
        "race of 8: winner later than 50 ms by", median(late), 2, f"{median(late):.2f} ms"
    )
    tidy = f"{min(ended)} ended, {max(alive)} alive"
    yield Row("race of 8: its six losers", tidy, "6, 0", min(ended) == 6 and not max(alive))


def cost_of_a_timeline() -> Iterator[Row]:
    """The picture of 500 tasks, every seventh of which failed."""
    done, failed = TaskStatus.COMPLETED, TaskStatus.FAILED
    tasks = [
        TaskResult(
            str(n), failed if n % 7 == 0 else done, "x" * 200, None, 1 + n // 32, 1.9 + n // 32
        )
        for n in range(500)
    ]
    result = GatherResult(tasks, len(tasks))
    took = []
    for _ in range(11):
        began = time.perf_counter()
        picture = timeline(result)
        took.append(1000 * (time.perf_counter() - began))
    yield at_most("timeline of 500 tasks", median(took), 50, f"{median(took):.1f} ms")
    size = len(picture.svg.encode()) / 1024
    yield at_most("timeline of 500 tasks: its size", size, 300, f"{size:.0f} KiB")


def modules_loaded() -> Iterator[Row]:
    """What a plain import brings along, and how long it takes."""
    heavy = {"langchain", "langchain_core", "langgraph", "pydantic", "tenacity"}
    found = heavy & set(
        output_of("-c", "import sys, agentos_parallel; print(*sys.modules)").split()
    )
    figure = ", ".join(sorted(found)) or "nothing of LangChain's"
    yield Row("import agentos_parallel loads", figure, "nothing", not found)
    took = median(float(output_of("-c", IMPORT)) for _ in range(5))
    yield Row("import agentos_parallel takes", f"{took * 1000:.0f} ms")


ALL = (
    cost_of_a_no_op,
    cost_of_a_yield,
    cost_of_a_group,
    cost_of_a_task_timeout,
    cost_of_many,
    cost_of_sharing,
    cost_of_others,
    cost_of_a_branch,
    makespan_of_uneven_tasks,
    latency_of_a_race,
    growth_of_memory,
    cost_of_a_timeline,
    modules_loaded,
)


async def ours(work: Work, tasks: int = TASKS, task_timeout: float | None = None) -> None:
    works = [work() for _ in range(tasks)]
    result = await parallel_gather(*works, max_concurrent=LIMIT, task_timeout=task_timeout)
    assert result.all_succeeded


async def ours_mapped(work: Work, tasks: int = TASKS, task_timeout: float | None = None) -> None:
    items = range(tasks)
    result = await parallel_map(work, items, max_concurrent=LIMIT, task_timeout=task_timeout)
    assert result.all_succeeded


async def ours_grouped(work: Work, limit: int | None) -> None:
    async with TaskGroup(max_concurrent=limit) as group:
        for _ in range(TASKS):
            group.create_task(work())
    assert group.result.all_succeeded


def repeated(contender: Contender, times: int) -> Contender:
    """The same so many times, one after the other."""

    async def run() -> None:
        for _ in range(times):
            await contender()

    return run


def times_row(
    what: str, factor: float, *, most: float | None = None, least: float | None = None
) -> Row:
    """A row that says how many times its unit something is, with a bar of either kind or none."""
    figure = f"x {factor:.2f}"
    if most is not None:
        return at_most(what, factor, most, figure)
    return Row(what, figure) if least is None else at_least(what, factor, least, figure)


def compared(kind: str, times: Times, unit: str, bar: float) -> Iterator[Row]:
    """A row for each contender: microseconds a task, and how often the *unit* that is."""
    for name, rounds in times.items():
        factor = ratio(times, name, unit)
        figure = f"{median(rounds) / TASKS * 1e6:.2f} µs a task, x {factor:.2f}"
        what = f"{kind}: {name}"
        yield at_most(what, factor, bar, figure) if name in OURS else Row(what, figure)


async def makespan(seed: int) -> float:
    """How long a run takes, over the ideal for the durations as measured."""
    limit, tasks, mean = 32, 500, 0.1
    chance = random.Random(seed)
    drawn = [chance.expovariate(1) for _ in range(tasks)]
    planned = [seconds * mean * tasks / sum(drawn) for seconds in drawn]
    measured: dict[int, float] = {}

    async def work(index: int) -> None:
        began = time.perf_counter()
        await asyncio.sleep(planned[index])
        measured[index] = time.perf_counter() - began

    began = time.perf_counter()
    await parallel_map(work, range(tasks), max_concurrent=limit)
    took = time.perf_counter() - began
    return took / list_schedule([measured[index] for index in range(tasks)], limit)


def list_schedule(durations: list[float], limit: int) -> float:
    """When the last task ends if each starts, in order, at once where a place comes free."""
    places = [0.0] * limit
    for duration in durations:
        heapq.heapreplace(places, places[0] + duration)
    return max(places)


async def race() -> tuple[float, int, int]:
    """Milliseconds past 50, losers whose ``finally`` ran, tasks still alive."""
    ended: list[int] = []

    async def fail() -> str:
        await asyncio.sleep(0.010)
        raise ConnectionError("the fastest fails")

    async def succeed() -> str:
        await asyncio.sleep(0.050)
        return "won"

    async def hang(number: int) -> str:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(number)
        return "never"

    works = [fail(), succeed(), *(hang(number) for number in range(6))]
    began = time.perf_counter()
    assert await fan_out(works, aggregation="first") == "won"
    late = (time.perf_counter() - began - 0.050) * 1000
    return late, len(ended), len(asyncio.all_tasks()) - 1


def output_of(*arguments: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
