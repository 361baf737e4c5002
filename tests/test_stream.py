"""A stream: order, backpressure, its end, and who may read or close it."""

import asyncio
import gc
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentos_parallel import (
    DeadlineExceeded,
    ParallelExecutor,
    ResultStream,
    SourceError,
    TaskResult,
    TaskStatus,
    TaskThrottler,
    parallel_gather,
    parallel_stream,
)
from agentos_parallel._core.sources import SizedInput
from agentos_parallel._core.works import from_thread, in_thread
from agentos_parallel.settings import Settings
from agentos_parallel.stream import UNREAD_PARTS, Give, PartStream
from tests import virtual_time
from tests.pieces import Stubborn, alive, settle
from tests.virtual_time import run_virtually
from tests.ways import Factory, Gauge, Results, hang, now, read

COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED
TIMEOUT, CANCELLED = TaskStatus.TIMEOUT, TaskStatus.CANCELLED


async def after(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


def signature(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


SHARED = {
    "task_timeout": None,
    "fail_fast": False,
    "min_success": None,
    "throttler": None,
    "grace": 5.0,
}


# The public face.


def test_parallel_stream_has_its_signature() -> None:
    parameters = list(inspect.signature(parallel_stream).parameters.values())
    assert [p.name for p in parameters[:2]] == ["func", "items"]
    assert all(p.default is p.empty for p in parameters[:2])
    own = {"max_concurrent": 8, "timeout": None, "ordered": False}
    assert signature(parallel_stream) == {**own, **SHARED}


def test_executor_stream_has_its_signature() -> None:
    parameters = list(inspect.signature(ParallelExecutor.stream).parameters.values())
    assert [p.name for p in parameters[:3]] == ["self", "works", "timeout"]
    assert signature(ParallelExecutor.stream) == {"ordered": False, **dict.fromkeys(SHARED)}


async def test_it_is_an_iterator_object_and_a_context_manager() -> None:
    stream = parallel_stream(after, [1])
    assert isinstance(stream, ResultStream)
    assert not inspect.isasyncgen(stream)
    assert aiter(stream) is stream
    async with stream as entered:
        assert entered is stream
        assert [task.result async for task in stream] == [1]


async def test_each_result_is_final_and_complete() -> None:
    async for task in parallel_stream(after, [1, 2], max_concurrent=1):
        assert isinstance(task, TaskResult)
        assert task.status is COMPLETED
        assert task.duration_ms == (1 + int(task.task_id)) * 1_000
        assert task.queued_ms == int(task.task_id) * 1_000
        assert task.finished_at == now()


async def test_keys_of_a_mapping_are_the_task_ids() -> None:
    results = {t.task_id: t.result async for t in parallel_stream(after, {"b": 2, "a": 1})}
    assert list(results.items()) == [("a", 1), ("b", 2)]
    works = {"b": partial(after, 2), "a": partial(after, 1)}
    ordered = [t.task_id async for t in ParallelExecutor().stream(works, ordered=True)]
    assert ordered == ["b", "a"]


async def test_a_runnable_a_sync_function_and_coroutines_are_works() -> None:
    class Runnable:
        async def ainvoke(self, text: str) -> str:
            return text.upper()

    assert [t.result async for t in parallel_stream(Runnable(), ["a"])] == ["A"]
    assert [t.result async for t in parallel_stream(str.upper, ["a"])] == ["A"]
    assert [t.result async for t in ParallelExecutor().stream([after(1)])] == [1]


async def test_nothing_to_do_is_fine() -> None:
    assert [task async for task in parallel_stream(after, [])] == []
    nothing: dict[str, Factory] = {}
    async with ParallelExecutor().stream(nothing) as results:
        assert [task async for task in results] == []


# When it starts and ends.


async def test_it_starts_with_the_first_result_asked_for() -> None:
    gauge = Gauge()
    stream = parallel_stream(gauge.work, [5, 5])
    await asyncio.sleep(10)
    assert gauge.peak == 0
    await anext(stream)
    assert gauge.peak == 2
    await stream.aclose()


async def test_it_starts_on_entering_the_block() -> None:
    gauge = Gauge()
    async with parallel_stream(gauge.work, [5, 5]):
        await asyncio.sleep(1)
        assert gauge.inside == 2
    assert gauge.inside == 0


async def test_after_the_last_result_it_stays_at_its_end() -> None:
    stream = parallel_stream(after, [1])
    assert len([task async for task in stream]) == 1
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    await stream.aclose()


async def test_leaving_the_block_cancels_and_drains() -> None:
    ended = []

    async def work(_: int) -> None:
        try:
            await hang()
        finally:
            await asyncio.sleep(2)
            ended.append(now())

    began = now()
    async with parallel_stream(work, [0, 0, 0], max_concurrent=2):
        await asyncio.sleep(1)
    assert ended == [began + 3, began + 3]


async def test_an_error_in_the_block_comes_out_after_the_drain() -> None:
    gauge = Gauge()
    with pytest.raises(LookupError):
        async with parallel_stream(gauge.work, [5]):
            await asyncio.sleep(1)
            raise LookupError
    assert gauge.inside == 0


async def test_entering_a_closed_stream_starts_nothing() -> None:
    gauge = Gauge()
    stream = parallel_stream(gauge.work, [5])
    await stream.aclose()
    async with stream as results:
        assert [task async for task in results] == []
    assert gauge.peak == 0


async def test_closing_twice_does_nothing_more() -> None:
    gauge = Gauge()
    stream = parallel_stream(gauge.work, [5, 1])
    await anext(stream)
    await stream.aclose()
    await stream.aclose()
    assert gauge.inside == 0
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_unread_results_are_dropped_when_it_is_closed() -> None:
    async with parallel_stream(after, [1, 1, 1]) as results:
        await asyncio.sleep(5)
    assert [task async for task in results] == []


async def test_coroutines_that_never_start_are_closed() -> None:
    async with ParallelExecutor(max_concurrent=1).stream([after(1), after(2), after(3)]) as stream:
        await anext(stream)


async def test_an_abandoned_task_does_not_hold_the_block() -> None:
    async def stubborn(_: int) -> None:
        for _ in range(10):
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                pass

    began = now()
    async with parallel_stream(stubborn, [0], grace=2):
        await asyncio.sleep(0.5)
    assert now() - began == 2.5
    await asyncio.sleep(20)


# One consumer.


async def test_a_second_reader_at_once_is_refused() -> None:
    stream = parallel_stream(after, [1, 2])
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="one consumer"):
        await anext(stream)
    assert (await first).result == 1
    assert (await anext(stream)).result == 2


async def test_readers_that_take_turns_are_fine() -> None:
    stream = parallel_stream(after, [1, 2, 3])
    results = [await asyncio.ensure_future(anext(stream)) for _ in range(3)]
    assert [task.result for task in results] == [1, 2, 3]


async def test_closing_from_elsewhere_ends_a_waiting_reader() -> None:
    ended = []

    async def work(_: int) -> None:
        try:
            await hang()
        finally:
            await asyncio.sleep(1)
            ended.append(now())

    stream, began = parallel_stream(work, [0]), now()
    reader = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(1)
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await reader
    assert ended == [began + 2]


async def test_closing_from_two_tasks_at_once_waits_in_both() -> None:
    async def work(_: int) -> None:
        try:
            await hang()
        finally:
            await asyncio.sleep(2)

    began, stream = now(), parallel_stream(work, [0, 0])
    async with stream:
        await asyncio.sleep(1)
        await asyncio.gather(stream.aclose(), stream.aclose())
        assert now() - began == 3


async def test_a_close_that_is_cancelled_still_drains() -> None:
    ended = []

    async def work(_: int) -> None:
        try:
            await hang()
        finally:
            await asyncio.sleep(3)
            ended.append(now())

    began, stream = now(), parallel_stream(work, [0])
    closing = asyncio.ensure_future(enter_and_leave(stream))
    await asyncio.sleep(1)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert ended == [began + 3]


async def enter_and_leave(stream: ResultStream[Any]) -> None:
    async with stream:
        await asyncio.sleep(0)


# Settings.


async def test_the_consumers_own_time_counts_against_the_deadline() -> None:
    statuses = []
    async with parallel_stream(after, [1] * 4, max_concurrent=1, timeout=5.5) as results:
        async for task in results:
            statuses.append(task.status)
            await asyncio.sleep(3)
    assert statuses == [COMPLETED, COMPLETED, COMPLETED, TIMEOUT]


async def test_without_a_deadline_the_consumer_may_take_its_time() -> None:
    statuses = []
    async for task in parallel_stream(after, [1] * 4, max_concurrent=1):
        statuses.append(task.status)
        await asyncio.sleep(10_000)
    assert statuses == [COMPLETED] * 4


async def test_an_executors_stream_takes_the_executors_settings() -> None:
    executor = ParallelExecutor(max_concurrent=2, timeout=2.5)
    results = [task.status async for task in executor.stream([partial(after, 1)] * 8)]
    assert results == [COMPLETED] * 4 + [TIMEOUT] * 4
    results = [task.status async for task in executor.stream([partial(after, 1)] * 8, 3.5)]
    assert results == [COMPLETED] * 6 + [TIMEOUT] * 2


async def test_a_task_timeout_holds_for_each() -> None:
    results = [t.status async for t in parallel_stream(after, [1, 5], task_timeout=2)]
    assert results == [COMPLETED, TIMEOUT]
    own = parallel_stream(after, [1, 5], task_timeout=lambda seconds: seconds + 1)
    assert [t.status async for t in own] == [COMPLETED, COMPLETED]


async def fail(seconds: float) -> float:
    if await after(seconds) == 2:
        raise ValueError("no")
    return seconds


async def test_fail_fast_stops_it_and_raises_nothing() -> None:
    began = now()
    tasks = [t async for t in parallel_stream(fail, [9, 2, 1, 9], max_concurrent=3, fail_fast=True)]
    assert [(t.task_id, t.status) for t in tasks] == [
        ("2", COMPLETED),
        ("1", FAILED),
        ("0", CANCELLED),
        ("3", CANCELLED),
    ] or [(t.task_id, t.status) for t in tasks] == [
        ("2", COMPLETED),
        ("1", FAILED),
        ("3", CANCELLED),
        ("0", CANCELLED),
    ]
    assert now() - began == 2


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_stop_gives_every_work_its_result(ordered: bool) -> None:
    stream = parallel_stream(after, [3, 1, 9, 1, 9, 9], max_concurrent=2, min_success=2,
                             ordered=ordered)  # fmt: skip
    tasks = [task async for task in stream]
    assert sorted(task.task_id for task in tasks) == ["0", "1", "2", "3", "4", "5"]
    assert [t.status for t in tasks].count(CANCELLED) == 4
    if ordered:
        assert [task.task_id for task in tasks] == ["0", "1", "2", "3", "4", "5"]


async def test_ordered_with_several_throttlers_a_stop_keeps_the_order() -> None:
    throttlers = {"a": TaskThrottler(1), "b": TaskThrottler(1)}
    items = ["a", "b", "b", "a", "b", "a"]

    async def work(_: str) -> None:
        await asyncio.sleep(2)

    stream = parallel_stream(work, items, throttler=throttlers.__getitem__, timeout=3, ordered=True)
    tasks = [task async for task in stream]
    assert [task.task_id for task in tasks] == ["0", "1", "2", "3", "4", "5"]
    assert [t.status for t in tasks] == [COMPLETED] * 2 + [TIMEOUT] * 4


async def test_a_long_sized_streams_remaining_results_are_made_while_they_are_read() -> None:
    stream = parallel_stream(after, range(1, 1_000_000), max_concurrent=1, timeout=1.5)
    assert (await anext(stream)).status is COMPLETED
    gc.collect()
    before = len(gc.get_objects())
    for task_id in ("1", "2", "3"):
        task = await anext(stream)
        assert (task.task_id, task.status) == (task_id, TIMEOUT)
    assert len(gc.get_objects()) - before < 1_000
    await stream.aclose()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"max_concurrent": 0}, ValueError),
        ({"max_concurrent": None}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"ordered": 1}, TypeError),
        ({"min_success": 3}, ValueError),
        ({"fail_fast": True, "min_success": 1}, ValueError),
        ({"max_concurrency": 3}, TypeError),
    ],
)
async def test_bad_arguments_are_refused_by_the_call_itself(
    settings: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(settings))):
        parallel_stream(after, [1, 2], **settings)


async def test_a_refused_stream_closes_its_coroutines() -> None:
    with pytest.raises(ValueError, match="timeout"):
        ParallelExecutor().stream([after(1), after(2)], -1)
    works: list[Any] = [after(1), 5]
    with pytest.raises(TypeError, match=r"works\[1\]"):
        ParallelExecutor().stream(works)


async def test_a_throttler_function_that_raises_ends_it_before_it_starts() -> None:
    def which(task_id: str) -> TaskThrottler:
        raise LookupError("whose is it")

    stream = ParallelExecutor(throttler=which).stream([after(1), after(2)])
    with pytest.raises(LookupError):
        await anext(stream)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    await stream.aclose()


# Dropped.


async def test_a_bare_break_cancels_the_rest_when_the_iterator_is_collected() -> None:
    gauge = Gauge()
    async for _ in parallel_stream(gauge.work, [1, 50, 50, 50], max_concurrent=2):
        break
    gc.collect()
    await asyncio.sleep(1)
    assert gauge.inside == 0


async def test_collected_in_another_thread_it_is_stopped_all_the_same() -> None:
    gauge = Gauge()
    streams = [parallel_stream(gauge.work, [1, 50])]
    await anext(streams[0])

    def drop() -> None:
        streams.clear()
        gc.collect()

    thread = threading.Thread(target=drop)
    thread.start()
    thread.join()
    await asyncio.sleep(1)
    assert gauge.inside == 0


@pytest.mark.leaky
def test_collected_after_its_loop_has_closed_it_is_quiet() -> None:
    loop = virtual_time.new_loop()
    stream: ResultStream[Any] | None = parallel_stream(after, [1, 50])
    assert stream is not None
    loop.run_until_complete(anext(stream))
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.close()
    del stream
    gc.collect()


async def test_a_dropped_stream_gives_its_slots_back() -> None:
    throttler = TaskThrottler(2)
    async for _ in parallel_stream(after, [1, 50, 50, 50], throttler=throttler):
        break
    gc.collect()
    await asyncio.sleep(1)
    assert (throttler.active, throttler.waiting) == (0, 0)


async def test_a_stream_dropped_in_a_task_does_not_outlive_its_run() -> None:
    gauge = Gauge()

    async def agent() -> None:
        async for _ in parallel_stream(gauge.work, [1, 50, 50]):
            break
        gc.collect()
        await asyncio.sleep(0.1)

    await parallel_gather(agent)
    assert gauge.inside == 0


# In the moment of an exit.


async def test_an_exit_before_the_first_read_comes_with_the_first_read() -> None:
    def leave(_: int) -> None:
        raise KeyboardInterrupt

    async with parallel_stream(leave, [1]) as results:
        await asyncio.to_thread(lambda: None)
        with pytest.raises(KeyboardInterrupt):
            await anext(results)


async def test_results_that_came_before_a_stop_are_still_read() -> None:
    seen: Results = []
    works: list[Factory] = [partial(after, 1), partial(after, 2), partial(fail, 2), hang]
    async with ParallelExecutor().stream(works, fail_fast=True) as results:
        await asyncio.sleep(10)
        await read(results, seen)
    assert [t.status for t in seen] == [COMPLETED, COMPLETED, FAILED, CANCELLED]


# Where another throttler is busy.


@pytest.mark.parametrize("given", [list, iter], ids=["list", "iterator"])
async def test_in_order_the_one_that_is_due_starts_however_many_are_unread(
    given: Callable[[range], Any],
) -> None:
    busy, free = TaskThrottler(1), TaskThrottler(4)
    await busy.acquire()
    asyncio.get_running_loop().call_later(1, busy.release)

    async def same(item: int) -> int:
        return item

    began = now()
    stream = parallel_stream(
        same,
        given(range(10)),
        max_concurrent=4,
        ordered=True,
        throttler=lambda item: free if item else busy,
    )
    assert [task.result async for task in stream] == list(range(10))
    assert now() - began == 1


# Left behind.


async def test_one_dropped_in_a_circle_is_cancelled_and_its_source_closed() -> None:
    closed, errors = [], []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context["message"]))

    async def source() -> AsyncIterator[float]:
        try:
            for _ in range(100):
                yield 0
        finally:
            await asyncio.sleep(0)
            closed.append(now())

    class Owner:
        me: "Owner"
        stream: ResultStream[float]

    owner = Owner()
    owner.me, owner.stream = owner, parallel_stream(after, source(), max_concurrent=2)
    await anext(owner.stream)
    await asyncio.sleep(1)
    del owner
    gc.collect()
    began = now()
    await asyncio.sleep(1)
    assert closed == [began]
    assert errors == []


async def test_cancelled_while_the_slot_is_taken_back_it_is_closed() -> None:
    throttler, gauge = TaskThrottler(1), Gauge()

    async def reads() -> None:
        stream = parallel_stream(gauge.work, [0.1] * 4, max_concurrent=1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await anext(stream)
        assert gauge.inside == 0
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    began = now()
    result = await parallel_gather(reads, partial(after, 1), throttler=throttler)
    assert result.raise_for_errors().completed == 2
    assert now() - began == 1
    assert throttler.active == 0


# Whatever its consumer does.

STEPS = st.tuples(
    st.sampled_from(["read", "sleep", "read within", "read and close", "two read"]),
    st.sampled_from([0.0, 0.5, 1.0, 3.0]),
)


class Consumer:
    """Does *steps* with one stream over *source*, and checks as it goes."""

    def __init__(self, source: "Pages", width: int, **settings: Any) -> None:
        self.source = source
        self.width = width
        self.gauge = Gauge()
        self.seen: Results = []
        self.settings = settings

    async def consume(self, steps: list[tuple[str, float]], *, close: bool) -> None:
        stream = parallel_stream(
            self.gauge.work, self.source.items(), max_concurrent=self.width, **self.settings
        )
        for step, seconds in steps:
            await self.do(step, seconds, stream)
            assert self.source.drawn <= len(self.seen) + 2 * self.width + 1
            assert self.gauge.peak <= self.width
        if close:
            await stream.aclose()

    async def do(self, step: str, seconds: float, stream: ResultStream[Any]) -> None:
        if step == "sleep":
            await asyncio.sleep(seconds)
        elif step == "read within":
            began = now()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.read(stream)
            assert now() - began <= seconds
        else:
            others: list[Callable[[], Awaitable[None]]] = []
            if step == "read and close":
                others = [stream.aclose]
            elif step == "two read":
                others = [partial(self.read, stream)]
            later = [asyncio.create_task(done_after(seconds, other)) for other in others]
            await self.read(stream)
            for task in later:
                await task

    async def read(self, stream: ResultStream[Any]) -> None:
        try:
            self.seen.append(await anext(stream))
        except (StopAsyncIteration, SourceError, DeadlineExceeded):
            pass
        except RuntimeError as error:
            if "one consumer" not in str(error):
                raise


async def done_after(seconds: float, then: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(seconds)
    await then()


class Pages:
    """An async source: endless, or of some pages; it may stall and raise at its end."""

    def __init__(self, pages: int | None, stall: float, *, broken: bool) -> None:
        self.pages, self.stall, self.broken = pages, stall, broken
        self.drawn = self.opened = self.closed = 0

    async def items(self) -> AsyncIterator[float]:
        self.opened += 1
        try:
            while self.drawn != self.pages:
                await asyncio.sleep(self.stall)
                self.drawn += 1
                yield [0, 1, 0.5, 30][self.drawn % 4]
            if self.broken:
                raise OSError("disk")
        finally:
            self.closed += 1


@settings(max_examples=300, deadline=None)
@given(
    source=st.builds(
        Pages, st.none() | st.integers(0, 9), st.sampled_from([0, 0.5, 40]), broken=st.booleans()
    ),
    width=st.integers(1, 3),
    throttler=st.none() | st.builds(TaskThrottler, st.integers(1, 2)),
    timeout=st.sampled_from([None, 2.0, 4.0]),
    ordered=st.booleans(),
    steps=st.lists(STEPS, max_size=8),
    ends=st.tuples(st.booleans(), st.booleans()),
)
def test_whatever_a_consumer_does_nothing_is_left(
    source: Pages,
    steps: list[tuple[str, float]],
    ends: tuple[bool, bool],
    **given: Any,
) -> None:
    consumer, throttler, (close, nested) = Consumer(source, **given), given["throttler"], ends

    async def main() -> None:
        consume = partial(consumer.consume, steps, close=close)
        if nested:
            result = await parallel_gather(consume, throttler=throttler, timeout=None)
            result.raise_for_errors()
        else:
            await consume()
        gc.collect(1)
        await settle()
        assert (alive(), consumer.gauge.inside) == (set(), 0)

    run_virtually(main())
    assert source.opened == source.closed
    ids = [task.task_id for task in consumer.seen]
    assert len(set(ids)) == len(ids)
    assert not given["ordered"] or ids == [str(n) for n in range(len(ids))]
    assert throttler is None or (throttler.active, throttler.waiting) == (0, 0)


# Parts of results, for adapters.


def parts_of(*works: Any, **settings: Any) -> PartStream:
    """A stream of works that are given ``give``."""

    async def call(give: Give, work: Any) -> Any:
        return await work(give)

    return PartStream(SizedInput(works), Settings(timeout=None, **settings), call)


async def spell(give: Give) -> str:
    for letter in "ab":
        await give(letter)
        await asyncio.sleep(1)
    return "ab"


async def test_parts_come_before_the_result() -> None:
    async with parts_of(spell, spell) as stream:
        told = [(each.task_id, each.status.value, each.result) async for each in stream]

    assert told == [
        *(("0", "running", "a"), ("1", "running", "a")),
        *(("0", "running", "b"), ("1", "running", "b")),
        *(("0", "completed", "ab"), ("1", "completed", "ab")),
    ]


async def test_works_wait_while_too_many_parts_are_unread() -> None:
    given = 0

    async def endless(give: Give) -> None:
        nonlocal given
        while True:
            await give("x")
            given += 1

    async with parts_of(endless, endless) as stream:
        await asyncio.sleep(1)
        assert given == UNREAD_PARTS
        for read in range(1, 200):
            await anext(stream)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert UNREAD_PARTS <= given <= UNREAD_PARTS + read
    assert not alive()


async def test_a_cancelled_work_passes_its_turn_on() -> None:
    async def give_one_more(give: Give) -> None:
        await give("x")

    async def fill(give: Give) -> None:
        for _ in range(UNREAD_PARTS):
            await give("x")

    def seconds(work: Any) -> float | None:
        return 2 if work is gone else None

    async def gone(give: Give) -> None:
        await give("gone")

    works = fill, gone, give_one_more
    async with parts_of(*works, task_timeout=seconds) as stream:
        await asyncio.sleep(3)
        parts = [each async for each in stream if each.status.value == "running"]
    assert [each.result for each in parts] == ["x"] * (UNREAD_PARTS + 1)
    assert parts[-1].task_id == "2"


async def test_a_task_that_has_its_outcome_gives_no_parts() -> None:
    stubborn = Stubborn()
    raised: list[BaseException] = []

    async def late(give: Give) -> None:
        await stubborn()
        try:
            await give("late")
        except asyncio.CancelledError as error:
            raised.append(error)

    async with parts_of(late, task_timeout=1, grace=0) as stream:
        assert [each.status.value async for each in stream] == ["timeout"]
        await stubborn.let_go()
    assert len(raised) == 1


@pytest.mark.realtime
async def test_a_thread_that_waits_for_its_turn_is_let_go_at_the_end() -> None:
    ended = threading.Event()

    async def call(give: Give, _: Any) -> None:
        def endless() -> None:
            try:
                while True:
                    from_thread(give("x"))
            finally:
                ended.set()

        await in_thread(endless)

    async with PartStream(SizedInput("a"), Settings(timeout=None), call) as stream:
        await anext(stream)
    assert await asyncio.to_thread(ended.wait, 5)
