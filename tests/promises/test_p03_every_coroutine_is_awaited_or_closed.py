"""P3: every coroutine handed over is awaited or closed, from the call's first step on.

A coroutine that is forgotten warns when it is collected, and warnings fail a test; these tests look
at the coroutine itself too.
"""

import asyncio
import gc
import inspect
import threading
from collections import ChainMap, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from functools import partial
from typing import Any

import pytest

from agentos_parallel import (
    FanOutExecutor,
    GatherResult,
    ParallelExecutor,
    TaskStatus,
    TaskThrottler,
    create_parallel_agent_gather,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from tests import virtual_time
from tests.pieces import after, agen, alive, failing_after, settle


class Works:
    """Makes coroutines, and knows what became of them."""

    def __init__(self) -> None:
        self.made: list[Coroutine[Any, Any, Any]] = []
        self.started = 0

    def __call__(self, seconds: float = 1.0) -> Coroutine[Any, Any, str]:
        self.made.append(self.live(seconds))
        return self.made[-1]

    async def live(self, seconds: float) -> str:
        self.started += 1
        await asyncio.sleep(seconds)
        return "done"

    def check(self) -> None:
        """All have ended, or never will run."""
        states = {inspect.getcoroutinestate(work) for work in self.made}
        assert states == {inspect.CORO_CLOSED}


@pytest.fixture
def works() -> Iterator[Works]:
    made = Works()
    yield made
    made.check()


# Awaited, or closed at an early stop.


async def test_works_that_ran_are_awaited(works: Works) -> None:
    await parallel_gather(works(), works(), works(), max_concurrent=2)
    assert works.started == 3


EARLY: dict[str, dict[str, Any]] = {
    "fail_fast": {"fail_fast": True},
    "min_success out of reach": {"min_success": 4},
    "deadline": {"timeout": 2},
    "deadline in the queue": {"timeout": 0.5},
}


@pytest.mark.parametrize("stop", EARLY.values(), ids=list(EARLY))
async def test_works_left_out_at_an_early_stop_are_closed(
    works: Works, stop: dict[str, Any]
) -> None:
    await parallel_gather(
        failing_after(1, ValueError()), *(works() for _ in range(3)), max_concurrent=1, **stop
    )
    works.check()
    assert works.started < 3


async def test_works_left_out_by_a_quorum_are_closed(works: Works) -> None:
    result = await parallel_gather(works(), works(), works(), max_concurrent=1, min_success=1)
    assert (works.started, result.cancelled) == (1, 2)


async def test_the_losers_of_a_race_are_closed(works: Works) -> None:
    assert await fan_out([works(), works(), works()], aggregation="first", max_concurrent=1)
    assert works.started == 1


def test_at_an_exit_the_works_left_out_are_closed(works: Works) -> None:
    loop = virtual_time.new_loop()
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(
            parallel_gather(
                failing_after(1, KeyboardInterrupt()), works(), works(), max_concurrent=1
            )
        )
    loop.close()
    assert works.started == 0


async def test_at_an_outer_cancel_the_works_left_out_are_closed(works: Works) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await parallel_gather(works(), works(), works(), max_concurrent=1)
    assert works.started == 1


async def test_a_work_cancelled_before_its_first_step_is_closed(works: Works) -> None:
    async def fails() -> None:
        raise ValueError

    # The failure comes out before the second task has had its first step.
    await parallel_gather(fails(), works(), works(), fail_fast=True)


async def test_a_call_cancelled_at_its_first_wait_has_closed_its_works(works: Works) -> None:
    run = asyncio.create_task(parallel_gather(works(), works()))
    await asyncio.sleep(0)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


async def test_a_nested_run_whose_deadline_has_passed_closes_its_works(works: Works) -> None:
    async def nest() -> str:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            inner: GatherResult[Any] = await parallel_gather(works())
            return str(inner.results[0].status.value)
        return ""

    result = await parallel_gather(nest, timeout=1)
    assert result.get_results() == ["timeout"]
    assert works.started == 0


async def test_works_that_no_slot_ever_came_for_are_closed(works: Works) -> None:
    throttler = TaskThrottler(1)
    async with throttler:
        result = await parallel_gather(works(), works(), throttler=throttler, timeout=1)
    assert (works.started, result.timed_out) == (0, 2)


@pytest.mark.parametrize("form", [iter, agen])
async def test_works_drawn_from_a_source_that_never_ran_are_closed(
    works: Works, form: Callable[[Any], Any]
) -> None:
    throttler = TaskThrottler(1)
    async with throttler:
        source = form(works() for _ in range(4))
        executor = ParallelExecutor(max_concurrent=2, throttler=throttler)
        result: GatherResult[Any] = await executor.gather(source, timeout=1)
    assert works.started == 0
    assert result.total == len(works.made) == 2


async def test_works_drawn_before_the_source_raised_are_awaited_or_closed(works: Works) -> None:
    def source() -> Iterator[Coroutine[Any, Any, str]]:
        yield works()
        yield works()
        raise OSError

    with pytest.raises(Exception, match="source") as broken:
        await ParallelExecutor(max_concurrent=4).gather(source())
    assert broken.value.result.total == 2  # type: ignore[attr-defined]


async def test_a_work_that_the_source_gives_after_its_cancel_is_closed(works: Works) -> None:
    async def source() -> AsyncIterator[Coroutine[Any, Any, str]]:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            yield works()

    result: GatherResult[Any] = await ParallelExecutor().gather(source(), timeout=1)
    assert works.started == 0
    assert result.total == len(result.results) == 1


async def test_what_a_thread_returns_after_it_was_abandoned_is_closed(works: Works) -> None:
    release, ended = threading.Event(), threading.Event()

    def late() -> Coroutine[Any, Any, str]:
        release.wait()
        ended.set()
        return works()

    await parallel_gather(late, timeout=0.0625)
    release.set()
    await asyncio.to_thread(ended.wait, 10)
    for _ in range(100):
        await asyncio.sleep(0.001)
    works.check()


async def test_what_a_sync_function_returns_is_awaited(works: Works) -> None:
    result: GatherResult[Any] = await parallel_gather(lambda: works(), lambda: works())
    assert result.get_results() == ["done", "done"]


# Streams.


async def test_a_stream_closed_early_closes_its_works(works: Works) -> None:
    async with ParallelExecutor(max_concurrent=1).stream([works() for _ in range(5)]) as stream:
        await anext(stream)
    works.check()


async def test_a_stream_closed_unread_closes_its_works(works: Works) -> None:
    stream = ParallelExecutor().stream([works(), works()])
    await stream.aclose()
    works.check()
    assert works.started == 0


async def test_a_stream_dropped_unread_closes_its_works(works: Works) -> None:
    ParallelExecutor().stream([works(), works()])
    gc.collect()
    works.check()


async def test_a_stream_dropped_half_read_closes_its_works(works: Works) -> None:
    async for _ in ParallelExecutor(max_concurrent=1).stream([works() for _ in range(5)]):
        break
    gc.collect()
    await settle()
    works.check()
    assert not alive()


async def test_a_stream_at_its_deadline_closes_its_works(works: Works) -> None:
    executor = ParallelExecutor(max_concurrent=1)
    tasks = [t async for t in executor.stream([works() for _ in range(4)], timeout=1.5)]
    assert [task.status.value for task in tasks] == ["completed", *["timeout"] * 3]
    works.check()


# Functions of the item that raise, or give something else.


def raising(_: object) -> Any:
    raise LookupError("no such item")


async def test_a_throttler_function_that_raises_leaves_no_work_open(works: Works) -> None:
    with pytest.raises(LookupError):
        await parallel_gather(works(), works(), throttler=raising)
    works.check()


async def test_a_throttler_function_that_gives_no_throttler_leaves_no_work_open(
    works: Works,
) -> None:
    with pytest.raises(TypeError, match="throttler"):
        await parallel_gather(works(), works(), throttler=lambda _: "two")  # type: ignore[return-value, arg-type]
    works.check()


async def test_a_throttler_function_that_raises_closes_what_a_source_gave(works: Works) -> None:
    source = (works() for _ in range(3))
    result: GatherResult[Any] = await ParallelExecutor().gather(source, throttler=raising)
    assert [task.status for task in result.results] == [TaskStatus.FAILED] * 3
    assert works.started == 0


async def test_a_stream_whose_throttler_function_raises_leaves_no_work_open(
    works: Works,
) -> None:
    stream = ParallelExecutor().stream([works(), works()], throttler=raising)
    with pytest.raises(LookupError):
        await anext(stream)
    works.check()


async def test_a_timeout_function_that_raises_leaves_no_work_open(works: Works) -> None:
    result = await parallel_gather(works(), works(), task_timeout=raising)
    assert [task.status for task in result.results] == [TaskStatus.FAILED] * 2
    works.check()


async def test_a_timeout_function_that_gives_no_seconds_leaves_no_work_open(works: Works) -> None:
    result = await parallel_gather(works(), works(), task_timeout=lambda _: -1)
    assert [type(error) for _, error in result.get_errors()] == [ValueError] * 2
    works.check()


# Bad arguments.


def refused(works: Works) -> dict[str, Callable[[], Any]]:
    """Calls that are refused, each with two coroutines that must be closed."""
    executor, fan = ParallelExecutor(), FanOutExecutor()
    gather: Any = executor.gather
    pgather: Any = parallel_gather
    stream: Any = executor.stream
    fan_out_: Any = fan_out
    pmap: Any = parallel_map
    pstream: Any = parallel_stream
    fan_out_of: Any = fan.fan_out
    fan_run: Any = fan.run
    merge: Any = FanOutExecutor(aggregation="merge").run
    retry: Any = FanOutExecutor(retry_failed=True).run
    two = (works, works)

    def pair() -> list[Any]:
        return [work() for work in two]

    return {
        "gather: max_concurrent 0": lambda: pgather(*pair(), max_concurrent=0),
        "gather: max_concurrent True": lambda: pgather(*pair(), max_concurrent=True),
        "gather: timeout NaN": lambda: pgather(*pair(), timeout=float("nan")),
        "gather: timeout": lambda: gather(pair(), timeout=-1),
        "gather: timeout in its place": lambda: gather(*pair()),
        "gather: too many arguments": lambda: gather(pair(), 1, True, works()),
        "gather: unknown keyword": lambda: gather(pair(), max_concurrency=2),
        "gather: unknown keyword with a work": lambda: pgather(works(), extra=works()),
        "gather: max_concurrent of a method": lambda: gather(pair(), max_concurrent=2),
        "gather: return_partial": lambda: gather(pair(), return_partial="no"),
        "gather: return_partial of the function": lambda: pgather(*pair(), return_partial=None),
        "gather: task_timeout": lambda: gather(pair(), task_timeout=0),
        "gather: fail_fast": lambda: gather(pair(), fail_fast=1),
        "gather: min_success": lambda: gather(pair(), min_success=0),
        "gather: min_success too many": lambda: gather(pair(), min_success=3),
        "gather: both rules": lambda: pgather(*pair(), fail_fast=True, min_success=1),
        "gather: throttler": lambda: gather(pair(), throttler=4),
        "gather: grace": lambda: gather(pair(), grace=-1),
        "gather: no limit": lambda: pgather(*pair(), max_concurrent=None),
        "gather: a work in the middle": lambda: gather([works(), 5, works()]),
        "gather: a work of a mapping": lambda: gather({"a": works(), "b": 5, "c": works()}),
        "gather: a mapping's keys": lambda: gather({1: works(), 2: works()}),
        "gather: a list": lambda: pgather(pair()),
        "gather: two lists": lambda: pgather([works()], [works()]),
        "gather: a tuple": lambda: gather((works(), None, works())),
        "gather: a set": lambda: gather({works(), works(), 7}),
        "gather: a deque": lambda: gather(deque([works(), 5, works()])),
        "gather: a mapping's values": lambda: gather({"a": works(), "b": 5}.values()),
        "gather: a chain map": lambda: gather(
            ChainMap[str, Any]({"a": works(), "b": 5}, {"c": works()})
        ),
        "gather: an ordered dict": lambda: gather(OrderedDict(a=works(), b=5)),
        "gather: a bare coroutine": lambda: gather(works()),
        "gather: nothing known": lambda: pgather(*pair(), whatever=1),
        "stream: ordered": lambda: stream(pair(), ordered="yes"),
        "stream: timeout": lambda: stream(pair(), timeout="1"),
        "stream: unknown keyword": lambda: stream(pair(), order=True),
        "stream: a bad work": lambda: stream([works(), 5]),
        "stream: too many arguments": lambda: stream(pair(), 1, True),
        "stream: min_success": lambda: stream(pair(), min_success=3),
        "map: a coroutine as func": lambda: pmap(works(), [1]),
        "map: a coroutine as items": lambda: pmap(str, works()),
        "map: a bad setting": lambda: pmap(str, pair(), max_concurrent=0),
        "map: unknown keyword": lambda: pmap(str, pair(), max_concurrency=2),
        "parallel_stream: a coroutine as func": lambda: pstream(works(), [1]),
        "parallel_stream: a bad setting": lambda: pstream(str, pair(), max_concurrent=0),
        "fan_out: aggregation": lambda: fan_out_(pair(), aggregation="best"),
        "fan_out: no merge_fn": lambda: fan_out_(pair(), aggregation="merge"),
        "fan_out: merge_fn of another": lambda: fan_out_(pair(), merge_fn=list),
        "fan_out: merge_fn a coroutine": lambda: fan_out_(
            pair(), aggregation="merge", merge_fn=works()
        ),
        "fan_out: merge_fn of no kind": lambda: merge(pair(), 5),
        "fan_out: both rules": lambda: fan_out_(pair(), aggregation="first", min_success=1),
        "fan_out: too many": lambda: fan_out_(pair(), min_success=3),
        "fan_out: retry with coroutines": lambda: fan_out_(pair(), retry_failed=True),
        "fan_out: retry with one coroutine": lambda: retry([partial(after, 1, 1), works()]),
        "fan_out: max_retries": lambda: fan_out_(pair(), max_retries=-1),
        "fan_out: unknown keyword": lambda: fan_out_(pair(), agregation="first"),
        "fan_out: unpacked": lambda: fan_out_(*pair()),
        "fan_out: method, unknown keyword": lambda: fan_out_of(pair(), timeout=1),
        "fan_out: method, unpacked": lambda: fan_run(works(), works(), works()),
        "fan_out: method, a bad work": lambda: fan_run([works(), 5]),
        "create_parallel_agent_gather: a bad work": lambda: create_parallel_agent_gather()(
            works(), 5
        ),
        "create_parallel_agent_gather: lists": lambda: create_parallel_agent_gather()(
            [works()], [works()]
        ),
    }


@pytest.mark.parametrize("case", list(refused(Works())))
async def test_a_refused_call_closes_its_works(works: Works, case: str) -> None:
    with pytest.raises((TypeError, ValueError)):
        called = refused(works)[case]()
        await called
    assert works.made
    works.check()
    assert works.started == 0


async def test_the_same_coroutine_twice_is_refused_and_closed(works: Works) -> None:
    work = works()
    with pytest.raises(ValueError, match="same coroutine"):
        await parallel_gather(work, work)


async def test_a_refused_call_cancels_the_tasks_that_it_was_given() -> None:
    task = asyncio.create_task(after(60, 1))
    with pytest.raises(ValueError, match="max_concurrent"):
        await parallel_gather(task, max_concurrent=0)
    await settle()
    assert task.cancelled()


async def test_a_source_that_gives_bad_works_fails_them_and_runs_the_others(
    works: Works,
) -> None:
    source: Any = iter([works(), 5, works()])
    result: GatherResult[Any] = await ParallelExecutor().gather(source)
    assert [task.status.value for task in result.results] == ["completed", "failed", "completed"]


async def test_a_source_of_coroutines_with_retry_fails_and_closes_them(works: Works) -> None:
    source: Any = iter([works(), partial(after, 1, "a")])
    outcome = await FanOutExecutor(retry_failed=True).run(source)
    assert [task.status.value for task in outcome.gather.results] == ["failed", "completed"]
    assert works.started == 0


# Coroutines of another make.


class Compiled(Coroutine[Any, Any, str]):
    """A coroutine of another kind than Python's own, as compilers make them."""

    closed = False

    def send(self, _: object) -> Any:
        raise StopIteration("sent")

    def throw(self, *_: object) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        self.closed = True

    def __await__(self) -> Generator[Any, Any, str]:
        yield from ()
        return "awaited"


async def test_a_coroutine_of_another_make_is_awaited_or_closed() -> None:
    ran, left = Compiled(), Compiled()
    assert (await parallel_gather(ran)).get_results() == ["awaited"]
    with pytest.raises(ValueError, match="timeout"):
        await parallel_gather(left, timeout=0)
    assert left.closed


async def test_works_in_place_of_a_config_are_closed() -> None:
    works = [after(0, "a"), after(0, "b")]
    make: Any = FanOutExecutor
    with pytest.raises(TypeError, match="config must be a FanOutConfig or None, got a list"):
        make(works)
    assert [inspect.getcoroutinestate(work) for work in works] == [inspect.CORO_CLOSED] * 2
