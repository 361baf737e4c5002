"""The ways in: an episode's run started, read as its reader reads, and what came out kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any

from agentos_parallel import (
    FanOutExecutor,
    ParallelError,
    ParallelExecutor,
    ResultStream,
    TaskGroup,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from tests.chaos.plans import GROUPS
from tests.chaos.world import Episode, SyncWork, Work


async def run(episode: Episode) -> None:
    """Run *episode* to its end; what comes out of it comes out of this."""
    task = asyncio.current_task()
    assert task is not None
    cancels = task.cancelling()
    error: BaseException | None = None
    episode.began = episode.world.now()
    if episode.fan.sized and episode.fan.way not in GROUPS:
        episode.drawn = [episode.began] * len(episode.works)
    try:
        await WAYS[episode.fan.way](episode)
    except BaseException as raised:
        error = raised
        if isinstance(raised, ParallelError) and raised.result is not None:
            episode.error_result = raised.result
            if not any(other.error_result is raised.result for other in episode.within()):
                take(episode, raised.result)  # else it came through a race as a nested run's
        raise
    finally:
        episode.ends(error)
        claim_cancels(episode, error, task.cancelling() - cancels)
        del error


def claim_cancels(episode: Episode, error: BaseException | None, cancels: int) -> None:
    """P7: a cancel comes out as CancelledError or gives way to an exit, and nothing else is one."""
    claim, exact = episode.world.claim, episode.exact
    if isinstance(error, asyncio.CancelledError):
        parent = episode.parent
        abandoned = parent is not None and parent.given_up
        claim(cancels or abandoned or not exact, "P7: CancelledError, and nobody cancelled")
    elif error is None or isinstance(error, Exception):
        # As asyncio's: errors go before a cancel, which comes at the next await.
        later = episode.fan.way in GROUPS and isinstance(error, BaseExceptionGroup)
        claim(later or cancels == 0, f"P7: a cancel was swallowed, {error!r} came out")


def take(episode: Episode, result: Any) -> None:
    episode.counts = result
    if not episode.fan.streams:
        episode.results = result.results


def options(episode: Episode, **more: Any) -> dict[str, Any]:
    fan = episode.fan
    given: dict[str, Any] = {
        "max_concurrent": fan.max_concurrent,
        "timeout": fan.timeout,
        "grace": fan.grace,
    }
    if fan.task_timeouts:
        several = len(fan.task_timeouts) > 1
        given["task_timeout"] = (
            (lambda key: episode.task_timeout(index_of(key))) if several else fan.task_timeouts[0]
        )
    if len(fan.throttled) > 1 or (fan.throttled and len(fan.throttled[0]) != 1):
        given["throttler"] = lambda key: throttlers_of(episode, key)
    elif fan.throttled:
        given["throttler"] = episode.throttlers_of(0)[0]
    if fan.rule == "fail_fast":
        given["fail_fast"] = True
    elif fan.rule:
        given["min_success"] = int(fan.rule.removeprefix("min_success "))
    return {**given, **more}


def throttlers_of(episode: Episode, key: Any) -> Any:
    """As a function of the item, or of the task_id: one, or several."""
    several = [t for t in episode.throttlers_of(index_of(key)) if t is not episode.own]
    return several[0] if len(several) == 1 else several


def index_of(key: Any) -> int:
    return key.index if isinstance(key, Work) else int(key.removeprefix("k"))


def knows_own(episode: Episode, executor: ParallelExecutor) -> ParallelExecutor:
    """An executor without a throttler has its own, which its works hold too."""
    if "throttler" not in options(episode):
        own: Any = executor.throttler
        episode.own = own
        episode.world.knows(own)
    return executor


# The ways.


async def gather(episode: Episode) -> None:
    more = options(episode, return_partial=episode.fan.return_partial)
    if episode.fan.source.kind in ("list", "coroutines"):
        take(episode, await parallel_gather(*episode.source(), **more))
        return
    del more["return_partial"]
    executor = knows_own(episode, ParallelExecutor(**more))
    partial = episode.fan.return_partial
    take(episode, await executor.gather(episode.source(), return_partial=partial))


async def map_(episode: Episode) -> None:
    take(episode, await parallel_map(func_of(episode), episode.source(), **options(episode)))


def func_of(episode: Episode) -> Callable[[Any], Any]:
    """What starts a work; a sync function where one of them is sync, or all would be called."""

    async def call(work: Work) -> Any:
        return await work()

    def call_in_thread(work: Work) -> Any:
        called = work()
        if not isinstance(work, SyncWork):
            episode.world.coroutines.append(called)
        return called

    return call_in_thread if episode.fan.by_threads else call


async def fan(episode: Episode) -> None:
    """The whole run of a fan-out: first, merge, retry."""
    more: dict[str, Any] = {"aggregation": "all"}
    merge: Callable[[list[Any]], Any] | None = None
    if episode.fan.way == "retry":
        more |= {"retry_failed": True, "max_retries": 1}
    elif episode.fan.way == "first":
        more["aggregation"] = "first"
    elif episode.fan.way == "merge":
        more["aggregation"] = "merge"
        merge = merge_of(episode)
    executor = FanOutExecutor(**options(episode, **more))
    knows_own(episode, executor.executor)
    episode.outcome = await executor.run(episode.source(), merge)
    take(episode, episode.outcome.gather)


def merge_of(episode: Episode) -> Callable[[list[Any]], Any]:
    async def merge(values: list[Any]) -> Any:
        episode.merged = values
        return values

    return merge


async def race(episode: Episode) -> None:
    more = options(episode, aggregation="first")
    episode.outcome = await fan_out(episode.source(), **more)


async def stream(episode: Episode) -> None:
    """As its reader reads it; who is cancelled while he pauses closes it."""
    results = make_stream(episode)
    try:
        await read_as_planned(episode, results)
    except BaseException:
        await results.aclose()
        raise


async def read_as_planned(episode: Episode, results: ResultStream[Any]) -> None:
    reader = episode.fan.reader
    if reader.ending == "to the end":
        await read(episode, results)
        return
    if reader.ending == "time out":
        due = episode.world.now() + reader.after + 1
        try:
            async with asyncio.timeout(reader.after + 1):
                await read(episode, results)
        except TimeoutError:
            pass
        finally:  # also where it is cancelled in the drain
            if episode.world.now() >= due:
                episode.stopped_reading = due
        if reader.pause:
            await results.aclose()
    elif reader.ending == "break":
        async with results:
            await read(episode, results, reader.after)
            stops_reading(episode)
        return
    else:
        await read(episode, results, reader.after)
    stops_reading(episode)
    if reader.ending == "close":
        await results.aclose()
        await results.aclose()
    episode.dropped = reader.ending == "drop"


def make_stream(episode: Episode) -> ResultStream[Any]:
    ordered = episode.fan.way == "ordered"
    if "coroutines" in episode.fan.source.kind:
        executor = knows_own(episode, ParallelExecutor(**options(episode)))
        return executor.stream(episode.source(), ordered=ordered)
    func = func_of(episode)
    return parallel_stream(func, episode.source(), ordered=ordered, **options(episode))


async def read(episode: Episode, results: ResultStream[Any], most: int | None = None) -> None:
    """Read so many results and pause after each; a pause of a work is work with a slot."""
    parent, pause = episode.parent, episode.fan.reader.pause
    while most is None or len(episode.results) < most:
        episode.reading = True
        try:
            task = await anext(results)
        except StopAsyncIteration:
            return
        finally:
            episode.reading = False
        episode.results.append(task)
        if pause and episode.exact:
            await (asyncio.sleep(pause) if parent is None else parent.work(pause))


def stops_reading(episode: Episode) -> None:
    episode.stopped_reading = min(episode.stopped_reading, episode.world.now())


async def until_it_lends(episode: Episode, pause: float) -> None:
    """Before its first child a group lends nothing: its body is work with a slot."""
    parent = episode.parent
    alone = parent is not None and parent.plan.kind != "two at once"
    await (parent.work(pause) if alone and parent is not None else asyncio.sleep(pause))


async def group(episode: Episode) -> None:
    """A TaskGroup, strict or not, whose body pauses between its children."""
    settings = options(episode, fail_fast=episode.fan.way == "group")
    pauses = episode.fan.source.pauses
    children = TaskGroup(**settings)
    try:
        async with children:
            for work in episode.works:
                pause = pauses[work.index % len(pauses)]
                await (asyncio.sleep(pause) if work.index else until_it_lends(episode, pause))
                episode.drawn.append(episode.world.now())
                coroutine = work()
                episode.world.coroutines.append(coroutine)
                children.create_task(coroutine, context=copy_context() if work.index % 2 else None)
    finally:
        take(episode, children.result)


WAYS: dict[str, Callable[[Episode], Awaitable[None]]] = {
    "gather": gather,
    "map": map_,
    "stream": stream,
    "ordered": stream,
    "first": fan,
    "merge": fan,
    "retry": fan,
    "race": race,
    "group": group,
    "supervisor": group,
}
