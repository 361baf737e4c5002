"""P10: works are drawn lazily, with backpressure, and sources are closed."""

import asyncio
import gc
import itertools
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pytest

from agentos_parallel import (
    DeadlineExceeded,
    FanOutExecutor,
    GatherResult,
    ParallelExecutor,
    ResultStream,
    SourceError,
    TaskStatus,
    TaskThrottler,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from tests.pieces import alive, settle
from tests.ways import Gauge, Results, hang, now, read

COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED
TIMEOUT, CANCELLED = TaskStatus.TIMEOUT, TaskStatus.CANCELLED


async def after(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def fail(_: object = None) -> None:
    await asyncio.sleep(1)
    raise ValueError("no")


class Source:
    """Gives *item* again and again, and remembers when it was drawn, by whom, and closed.

    *stall*: seconds before each item; *error*: raised instead of the item after *length* items.
    """

    def __init__(
        self,
        length: int | None = None,
        item: Any = 1,
        *,
        stall: float = 0,
        error: BaseException | None = None,
    ) -> None:
        self.length = length
        self.item = item
        self.stall = stall
        self.error = error
        self.drawn: list[float] = []
        self.tasks: set[asyncio.Task[Any] | None] = set()
        self.closed = 0

    def items(self) -> Iterator[Any]:
        try:
            while self.length is None or len(self.drawn) < self.length:
                self.drawn.append(now())
                self.tasks.add(asyncio.current_task())
                yield self.item
            if self.error is not None:
                raise self.error
        finally:
            self.tasks.add(asyncio.current_task())
            self.closed += 1

    async def aitems(self) -> AsyncIterator[Any]:
        try:
            while self.length is None or len(self.drawn) < self.length:
                await asyncio.sleep(self.stall)
                self.drawn.append(now())
                self.tasks.add(asyncio.current_task())
                yield self.item
            if self.error is not None:
                raise self.error
        finally:
            await asyncio.sleep(0)
            self.tasks.add(asyncio.current_task())
            self.closed += 1

    def assert_closed_by_its_drawer(self) -> None:
        assert (len(self.tasks), self.closed) == (1, 1)


Items = Callable[[Source], Any]
BOTH: list[Items] = [Source.items, Source.aitems]

Mapper = Callable[..., Any]


async def mapped(func: Any, items: Any, **settings: Any) -> Results:
    result: GatherResult[Any] = await parallel_map(func, items, **settings)
    return result.results


async def streamed(func: Any, items: Any, **settings: Any) -> Results:
    return [task async for task in parallel_stream(func, items, **settings)]


async def streamed_in_order(func: Any, items: Any, **settings: Any) -> Results:
    return [task async for task in parallel_stream(func, items, ordered=True, **settings)]


MAPPERS: list[Mapper] = [mapped, streamed, streamed_in_order]


# In hand.


@pytest.mark.parametrize("items", BOTH)
@pytest.mark.parametrize("run", MAPPERS)
async def test_p10_at_most_max_concurrent_unfinished_works_are_in_hand(
    run: Mapper, items: Items
) -> None:
    source, finished, most = Source(20), 0, 0

    async def work(_: int) -> None:
        nonlocal finished, most
        most = max(most, len(source.drawn) - finished)
        await asyncio.sleep(1)
        most = max(most, len(source.drawn) - finished)
        finished += 1

    assert len(await run(work, items(source), max_concurrent=3)) == 20
    assert most == 3


@pytest.mark.parametrize("items", BOTH)
async def test_p10_the_next_is_drawn_when_one_has_finished(items: Items) -> None:
    source, began = Source(6, 2), now()
    await parallel_map(after, items(source), max_concurrent=2)
    assert [at - began for at in source.drawn] == [0, 0, 2, 2, 4, 4]


@pytest.mark.parametrize("items", BOTH)
async def test_p10_without_a_limit_of_its_own_the_throttlers_counts(items: Items) -> None:
    source, began = Source(6, 2), now()
    await parallel_map(after, items(source), max_concurrent=None, throttler=TaskThrottler(3))
    assert [at - began for at in source.drawn] == [0, 0, 0, 2, 2, 2]


async def test_p10_a_resized_throttler_changes_what_may_be_in_hand() -> None:
    source, throttler, began = Source(6, 2), TaskThrottler(1), now()
    asyncio.get_running_loop().call_later(1, throttler.resize, 3)
    await parallel_map(after, source.items(), max_concurrent=None, throttler=throttler)
    assert [at - began for at in source.drawn] == [0, 1, 1, 2, 3, 3]


@pytest.mark.parametrize("items", BOTH)
async def test_p10_works_that_wait_for_a_slot_are_in_hand(items: Items) -> None:
    source, began = Source(5, 2), now()
    await parallel_map(after, items(source), max_concurrent=2, throttler=TaskThrottler(1))
    assert [at - began for at in source.drawn] == [0, 0, 2, 4, 6]


async def test_p10_an_executors_own_limit_counts() -> None:
    source, began = Source(4, partial(after, 2)), now()
    await ParallelExecutor(max_concurrent=2).gather(source.items())
    assert [at - began for at in source.drawn] == [0, 0, 2, 2]


async def test_p10_works_that_need_other_throttlers_are_drawn_all_the_same() -> None:
    busy, idle = TaskThrottler(1), TaskThrottler(1)

    def which(name: str) -> TaskThrottler:
        return busy if name == "busy" else idle

    started = []

    async def work(name: str) -> None:
        started.append((name, now() - began))

    began = now()
    async with busy:
        asyncio.get_running_loop().call_later(0, len, started)
        task = asyncio.ensure_future(
            parallel_map(work, iter(["busy", "idle", "idle"]), max_concurrent=2, throttler=which)
        )
        await asyncio.sleep(1)
    await task
    assert started == [("idle", 0), ("idle", 0), ("busy", 1)]


async def test_p10_a_source_needs_a_limit_from_somewhere() -> None:
    source = Source(3)
    with pytest.raises(ValueError, match="max_concurrent"):
        await parallel_map(
            after, source.items(), max_concurrent=None, throttler=lambda _: TaskThrottler(1)
        )
    assert source.drawn == []


async def test_p10_a_task_in_backoff_is_in_hand() -> None:
    source, calls = Source(3), []

    async def work() -> None:
        calls.append(len(source.drawn))
        if len(calls) < 3:
            raise ValueError("again")

    source.item = work
    await fan_out(source.items(), max_concurrent=1, retry_failed=True)
    assert calls == [1, 1, 1, 2, 3]


async def test_p10_while_the_source_stalls_no_slot_is_held() -> None:
    throttler, source, seen = TaskThrottler(2), Source(2, stall=10), []

    async def look() -> None:
        for _ in range(4):
            await asyncio.sleep(4.5)
            seen.append((throttler.active, throttler.waiting))

    await asyncio.gather(look(), parallel_map(after, source.aitems(), throttler=throttler))
    assert seen == [(0, 0), (0, 0), (0, 0), (0, 0)]


async def test_p10_while_the_source_stalls_the_tasks_go_on() -> None:
    began, ended = now(), []

    async def source() -> AsyncIterator[float]:
        yield 3
        await asyncio.sleep(10)
        yield 1

    async def work(seconds: float) -> None:
        await asyncio.sleep(seconds)
        ended.append(now() - began)

    result = await parallel_map(work, source())
    assert ended == [3, 11]
    assert [task.queued_ms for task in result.results] == [0, 0]


async def test_p10_a_work_waits_from_when_it_was_drawn() -> None:
    result = await parallel_map(
        after, iter([4, 1, 1]), max_concurrent=2, throttler=TaskThrottler(1)
    )
    assert [task.queued_ms for task in result.results] == [0, 4_000, 1_000]


async def test_p10_a_lists_works_are_called_when_the_slot_is_there() -> None:
    called, began = [], now()

    async def work(_: int) -> None:
        called.append(now() - began)
        await asyncio.sleep(1)

    await parallel_map(work, [0] * 4, max_concurrent=2)
    assert called == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "items",
    [
        lambda: [0, 1, 2],
        lambda: (0, 1, 2),
        lambda: range(3),
        lambda: {0: None, 1: None, 2: None}.keys(),
        lambda: iter([0, 1, 2]),
        lambda: (n for n in range(3)),
        lambda: Reiterable(3),
        lambda: AsyncReiterable(3),
        lambda: {"a": 0, "b": 1, "c": 2},
    ],
)
async def test_p10_whatever_gives_items_will_do(items: Callable[[], Any]) -> None:
    result: GatherResult[float] = await parallel_map(after, items(), max_concurrent=1)
    assert result.get_results() == [0, 1, 2]
    assert result.all_succeeded


class Reiterable:
    """An iterable without a length."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.length))


class AsyncReiterable(Reiterable):
    """An async iterable whose iterator has no aclose()."""

    __iter__ = None  # type: ignore[assignment]

    def __aiter__(self) -> "AsyncReiterable":
        self.next = 0
        return self

    async def __anext__(self) -> int:
        if self.next == self.length:
            raise StopAsyncIteration
        self.next += 1
        return self.next - 1


async def test_p10_a_list_changed_after_the_call_is_as_it_was() -> None:
    items = [1.0, 2.0]
    task = asyncio.ensure_future(parallel_map(after, items))
    await asyncio.sleep(0.5)
    items.append(3.0)
    result = await task
    assert (result.total, result.get_results()) == (2, [1, 2])


@pytest.mark.parametrize("form", [list, deque, dict])
@pytest.mark.parametrize("way", ["map", "stream", "gather", "executor's stream", "fan_out"])
async def test_p10_an_input_that_grows_while_it_is_worked_on_is_as_it_was(
    form: Callable[[Any], Any], way: str
) -> None:
    async def work(_: object = None) -> None:
        await asyncio.sleep(1)
        if form is dict:
            works[f"{len(works)}"] = work
        else:
            works.append(work)

    works = form({"a": work, "b": work}.items() if form is dict else [work, work])
    executor = ParallelExecutor(max_concurrent=1)
    if way == "map":
        results = (await parallel_map(work, works)).results
    elif way == "stream":
        results = [task async for task in parallel_stream(work, works, max_concurrent=1)]
    elif way == "gather":
        results = (await executor.gather(works)).results
    elif way == "executor's stream":
        results = [task async for task in executor.stream(works)]
    else:
        results = (await fan_out(works)).results
    assert [task.status for task in results] == [COMPLETED, COMPLETED]
    assert len(works) == 4


async def test_p10_a_generator_over_a_list_that_grows_draws_what_was_added() -> None:
    pages = [3]

    async def crawl(links: int) -> None:
        await asyncio.sleep(1)
        pages.extend([links - 1] * links)

    result = await parallel_map(crawl, (page for page in pages), max_concurrent=1, timeout=None)
    assert result.total == len(pages) == 1 + 3 + 6 + 6


async def test_p10_the_source_is_drawn_in_a_copy_of_the_callers_context() -> None:
    from contextvars import ContextVar

    who: ContextVar[str] = ContextVar("who", default="nobody")
    seen = []

    def source() -> Iterator[int]:
        seen.append(who.get())
        who.set("the source")
        yield 1

    who.set("the caller")
    await parallel_map(after, source())
    assert seen == ["the caller"]
    assert who.get() == "the caller"


@pytest.mark.parametrize("items", [Source.items, lambda source: nowait(source.items())])
async def test_p10_an_endless_source_lets_others_in_however_many_may_be_in_hand(
    items: Items,
) -> None:
    source, drawn_at_each_turn = Source(), []

    async def others() -> None:
        for _ in range(20):
            drawn_at_each_turn.append(len(source.drawn))
            await asyncio.sleep(0)
        run.cancel()

    run = asyncio.ensure_future(parallel_map(after, items(source), max_concurrent=1_000_000))
    await others()
    with pytest.raises(asyncio.CancelledError):
        await run
    steps = [b - a for a, b in itertools.pairwise(drawn_at_each_turn)]
    assert 0 < max(steps) <= 1_000


async def nowait(items: Iterable[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


# Order.


@pytest.mark.parametrize("items", BOTH)
@pytest.mark.parametrize("throttler", [None, TaskThrottler(2), lambda _: TaskThrottler(1)])
async def test_p10_works_start_in_input_order(items: Items, throttler: Any) -> None:
    started = []

    async def work(item: int) -> None:
        started.append(item)
        await asyncio.sleep(item % 3)

    source = Source(12)
    drawn = (number async for number in numbered(items(source)))
    await parallel_map(work, drawn, max_concurrent=4, throttler=throttler)
    assert started == list(range(12))


async def numbered(items: Any) -> AsyncIterator[int]:
    number = 0
    if isinstance(items, Iterable):
        for _ in items:
            yield number
            number += 1
    else:
        async for _ in items:
            yield number
            number += 1


@pytest.mark.parametrize("run", MAPPERS)
async def test_p10_sized_works_on_a_shared_throttler_start_in_input_order(run: Mapper) -> None:
    throttler, started = TaskThrottler(2), []

    async def work(item: int) -> None:
        started.append(item)
        await asyncio.sleep(item % 3)

    await asyncio.gather(
        run(work, list(range(10)), throttler=throttler),
        run(work, list(range(100, 110)), throttler=throttler),
    )
    assert [item for item in started if item < 100] == list(range(10))
    assert [item for item in started if item >= 100] == list(range(100, 110))


# Streams.


class Item:
    """Something with a weak reference."""


@pytest.mark.parametrize("ordered", [False, True])
async def test_p10_a_streams_memory_does_not_grow_with_its_length(ordered: bool) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def source() -> Iterator[Item]:
        for _ in range(1_000):
            item = Item()
            alive.add(item)
            yield item
            del item

    async def work(item: Item) -> Item:
        await asyncio.sleep(1)
        result = Item()
        alive.add(result)
        return result

    most, read_ = 0, 0
    async for _ in parallel_stream(work, source(), max_concurrent=4, ordered=ordered):
        read_ += 1
        if not read_ % 250:
            gc.collect()
            most = max(most, len(alive))
    assert read_ == 1_000
    assert most <= 20


async def test_p10_a_sized_streams_results_are_not_kept() -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    async def work(_: int) -> Item:
        result = Item()
        alive.add(result)
        return result

    most = 0
    async for task in parallel_stream(work, range(1_000), max_concurrent=4):
        if int(task.task_id) % 250 == 100:
            gc.collect()
            most = max(most, len(alive))
    assert 0 < most <= 20


@pytest.mark.parametrize("items", [*BOTH, lambda source: [source.item] * source.length])
@pytest.mark.parametrize("ordered", [False, True])
async def test_p10_nothing_starts_while_the_consumer_leaves_results_unread(
    items: Items, ordered: bool
) -> None:
    ended, read_, unread_at_start = 0, 0, []

    async def work(_: int) -> None:
        nonlocal ended
        unread_at_start.append(ended - read_)
        await asyncio.sleep(1 + len(unread_at_start) / 1_000)
        ended += 1

    source = Source(100)
    async with parallel_stream(work, items(source), max_concurrent=3, ordered=ordered) as results:
        for _ in range(20):
            await asyncio.sleep(1_000)
            started = len(unread_at_start)
            assert read_ + 3 <= started < read_ + 3 + 3
            read_ += 1  # the result is there, and the next work may start before anext() returns
            await anext(results)
    assert max(unread_at_start) == 2


async def test_p10_a_reader_that_keeps_up_is_never_waited_for() -> None:
    began, read_ = now(), 0
    async for _ in parallel_stream(after, [1] * 30, max_concurrent=3):
        read_ += 1
    assert (read_, now() - began) == (30, 10)


async def test_p10_works_that_end_at_different_times_leave_no_more_unread() -> None:
    started = []

    async def work(seconds: float) -> None:
        started.append(seconds)
        await asyncio.sleep(seconds)

    async with parallel_stream(work, [1, 5, 9, 1, 1, 1, 1], max_concurrent=3) as results:
        await asyncio.sleep(100)
        # 1 ends first, and the next two ones, before two of the first three have come: the third
        # unread result closes the door.
        assert started == [1, 5, 9, 1, 1]
        assert [task.task_id async for task in results] == ["0", "3", "4", "1", "2", "5", "6"]


async def test_p10_ordered_a_slow_head_holds_the_others_back() -> None:
    started = []

    async def work(seconds: float) -> float:
        started.append(now() - began)
        await asyncio.sleep(seconds)
        return seconds

    began = now()
    items = [100, *[1] * 20]
    async with parallel_stream(work, items, max_concurrent=2, ordered=True) as results:
        first = await anext(results)
        assert (first.result, now() - began) == (100, 100)
        assert started == [0, 0, 1]
        rest = [task.task_id async for task in results]
    assert rest == [str(n) for n in range(1, 21)]


@pytest.mark.parametrize("items", BOTH)
async def test_p10_ordered_behind_a_slow_head_no_more_is_drawn_or_kept(items: Items) -> None:
    kept: weakref.WeakSet[Any] = weakref.WeakSet()
    source = Source()

    async def work(number: int) -> Item:
        await asyncio.sleep(0 if number else 10_000)
        result = Item()
        kept.add(result)
        return result

    stream = parallel_stream(work, numbered(items(source)), max_concurrent=4, ordered=True)
    async with stream as results:
        for seconds in (1, 10, 1_000):
            await asyncio.sleep(seconds)
            assert len(source.drawn) <= 8
            assert len(kept) <= 7
        for number in range(50):
            task = await anext(results)
            assert task.task_id == str(number)
            del task
            assert len(source.drawn) <= number + 1 + 8
            assert len(kept) <= 9
    source.assert_closed_by_its_drawer()


async def test_p10_ordered_results_come_as_soon_as_it_is_their_turn() -> None:
    began, results = now(), parallel_stream(after, [3, 1, 2, 4], ordered=True)
    came = [(task.task_id, now() - began) async for task in results]
    assert came == [("0", 3), ("1", 3), ("2", 3), ("3", 4)]


async def test_p10_unordered_results_come_as_they_finish() -> None:
    began, results = now(), parallel_stream(after, [3, 1, 2, 4])
    came = [(task.task_id, now() - began) async for task in results]
    assert came == [("1", 1), ("2", 2), ("0", 3), ("3", 4)]


@pytest.mark.parametrize("items", BOTH)
async def test_p10_a_stream_of_an_endless_source_can_be_left(items: Items) -> None:
    source, read_ = Source(), 0
    async with parallel_stream(after, items(source), max_concurrent=3) as results:
        async for _ in results:
            read_ += 1
            if read_ == 10:
                break
    assert len(source.drawn) <= 10 + 3
    source.assert_closed_by_its_drawer()


# A source that raises.


@pytest.mark.parametrize("items", BOTH)
async def test_p10_a_source_that_raises_stops_the_drawing_and_tasks_finish(items: Items) -> None:
    error = OSError("disk")
    source, began = Source(3, 2, error=error), now()
    with pytest.raises(SourceError, match="disk") as caught:
        await parallel_map(after, items(source))
    assert caught.value.__cause__ is error
    result = caught.value.result
    assert result is not None
    assert [task.status for task in result.results] == [COMPLETED] * 3
    assert not result.all_succeeded
    assert now() - began == 2
    source.assert_closed_by_its_drawer()


@pytest.mark.parametrize("items", BOTH)
async def test_p10_works_drawn_and_not_started_are_cancelled_then(items: Items) -> None:
    source = Source(3, 2, error=OSError("disk"))
    with pytest.raises(SourceError) as caught:
        await parallel_map(after, items(source), throttler=TaskThrottler(1))
    result = caught.value.result
    assert result is not None
    assert [task.status for task in result.results] == [COMPLETED, CANCELLED, CANCELLED]
    assert [task.started_at for task in result.results][1:] == [0, 0]


@pytest.mark.parametrize("items", BOTH)
@pytest.mark.parametrize("ordered", [False, True])
async def test_p10_a_stream_gives_its_results_before_the_source_error(
    items: Items, ordered: bool
) -> None:
    seen: Results = []
    source = Source(5, error=OSError("disk"))
    stream = parallel_stream(after, items(source), max_concurrent=2, ordered=ordered)
    with pytest.raises(SourceError) as caught:
        await read(stream, seen)
    assert [task.result for task in seen] == [1] * 5
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_p10_a_source_that_raises_at_once() -> None:
    with pytest.raises(SourceError) as caught:
        await parallel_map(after, Source(0, error=OSError("disk")).items())
    assert caught.value.result is not None
    assert caught.value.result.total == 0


async def test_p10_a_source_that_cannot_be_opened() -> None:
    class Broken:
        def __iter__(self) -> Iterator[int]:
            raise OSError("closed")

    with pytest.raises(SourceError, match="closed"):
        await parallel_map(after, Broken())


async def test_p10_a_source_that_raises_when_closed() -> None:
    def source() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            raise OSError("on close")

    with pytest.raises(SourceError, match="on close"):
        await parallel_map(after, source(), min_success=1)


@pytest.mark.parametrize("error", [TimeoutError("slow"), asyncio.CancelledError("itself")])
async def test_p10_a_source_may_raise_timeouts_and_cancels_too(error: BaseException) -> None:
    with pytest.raises(SourceError) as caught:
        await parallel_map(after, Source(2, error=error).aitems())
    assert caught.value.__cause__ is error
    assert caught.value.result is not None
    assert caught.value.result.completed == 2


async def test_p10_a_source_that_raises_does_not_lose_failures() -> None:
    source = Source(2, error=OSError("disk"))
    with pytest.raises(SourceError) as caught:
        await parallel_map(fail, source.items())
    assert caught.value.result is not None
    assert caught.value.result.failed == 2


async def test_p10_a_race_over_a_source_that_raises() -> None:
    source = Source(1, partial(after, 5), error=OSError("disk"))
    assert await fan_out(source.items(), aggregation="first") == 5
    source = Source(1, fail, error=OSError("disk"))
    with pytest.raises(SourceError, match="disk"):
        await fan_out(source.items(), aggregation="first")


async def test_p10_a_bad_work_of_a_source_is_its_tasks_failure() -> None:
    works: list[Any] = [partial(after, 1), 42, partial(after, 2)]
    result = await ParallelExecutor().gather(iter(works))
    assert [task.status for task in result.results] == [COMPLETED, FAILED, COMPLETED]
    assert isinstance(result.results[1].error, TypeError)


async def test_p10_a_throttler_function_that_raises_is_its_tasks_failure() -> None:
    def which(item: int) -> TaskThrottler:
        if item == 1:
            raise LookupError("whose is it")
        return throttler

    throttler = TaskThrottler(2)
    result = await parallel_map(after, iter([0, 1, 2]), throttler=which)
    assert [task.status for task in result.results] == [COMPLETED, FAILED, COMPLETED]
    assert isinstance(result.results[1].error, LookupError)
    assert result.results[1].started_at == 0


# Sources are closed.


async def until_all_is_drawn(items: Any) -> None:
    await parallel_map(after, items)


async def until_a_failure(items: Any) -> None:
    await parallel_map(fail, items, fail_fast=True)


async def until_a_quorum(items: Any) -> None:
    await parallel_map(after, items, min_success=2)


async def until_the_deadline(items: Any) -> None:
    await parallel_map(after, items, timeout=2.5)


async def until_cancelled(items: Any) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2.5):
            await parallel_map(after, items)


async def until_a_break(items: Any) -> None:
    async with parallel_stream(after, items) as results:
        async for _ in results:
            break


async def until_an_exit(items: Any) -> None:
    async def leave(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await parallel_map(leave, items)


@pytest.mark.parametrize("items", BOTH)
@pytest.mark.parametrize(
    "until",
    [
        until_all_is_drawn,
        until_a_failure,
        until_a_quorum,
        until_the_deadline,
        until_cancelled,
        until_a_break,
        until_an_exit,
    ],
)
async def test_p10_sources_are_closed_in_the_task_that_drew_from_them(
    items: Items, until: Callable[[Any], Any]
) -> None:
    source = Source(100)
    await until(items(source))
    source.assert_closed_by_its_drawer()


async def test_p10_a_scope_inside_an_async_generator_is_left_where_it_was_entered() -> None:
    left = []

    async def source() -> AsyncIterator[int]:
        async with asyncio.timeout(1_000) as scope:
            while True:
                yield 1
        pytest.fail(f"{scope} was left late")

    def closed(_: object) -> None:
        left.append(now())

    generator = source()
    weakref.finalize(generator, closed, None)
    began = now()
    result = await parallel_map(after, generator, min_success=3, max_concurrent=1)
    assert result.completed == 3
    del generator
    gc.collect()
    assert left == [began + 3]


async def test_p10_a_stalled_source_is_cancelled_when_the_run_stops() -> None:
    source = Source(stall=1_000)

    async def first() -> AsyncIterator[int]:
        yield 1
        async for item in source.aitems():
            yield item

    began = now()
    result = await parallel_map(after, first(), min_success=1)
    assert (result.total, result.completed) == (1, 1)
    assert now() - began == 1


async def test_p10_a_generator_that_was_never_drawn_is_closed_too() -> None:
    source = Source(3)
    generator = source.items()
    with pytest.raises(DeadlineExceeded):
        await parallel_gather(partial(nested, generator), timeout=1, return_partial=False)
    with pytest.raises(StopIteration):
        next(generator)


async def nested(generator: Iterator[int]) -> None:
    await asyncio.sleep(0.5)
    await parallel_map(after, generator, throttler=TaskThrottler(1), max_concurrent=1)
    await hang()


# Not drawn to the end.


async def test_p10_what_was_not_drawn_to_its_end_has_not_all_succeeded() -> None:
    result = await parallel_map(after, Source(3).items(), max_concurrent=1, min_success=2)
    assert (result.total, result.completed) == (2, 2)
    assert not result.all_succeeded
    with pytest.raises(ExceptionGroup):
        result.raise_for_errors()


async def test_p10_what_was_drawn_to_its_end_has_all_succeeded() -> None:
    result = await parallel_map(after, Source(3).aitems(), max_concurrent=1)
    assert result.all_succeeded
    assert result.raise_for_errors() is result


async def test_p10_a_quorum_out_of_reach_is_known_at_the_end_of_the_source() -> None:
    began = now()

    async def work(item: float) -> float:
        if item < 0:
            raise ValueError("no")
        return await after(item)

    result = await parallel_map(work, iter([-1, -1, 9, 9]), min_success=3)
    assert [task.status for task in result.results] == [FAILED, FAILED, CANCELLED, CANCELLED]
    assert now() - began == 0


async def test_p10_the_deadline_over_an_endless_source_returns_what_was_drawn() -> None:
    source, began = Source(), now()
    result = await parallel_map(after, source.items(), max_concurrent=2, timeout=3.5)
    assert (result.total, result.completed, result.timed_out) == (8, 6, 2)
    assert not result.all_succeeded
    assert now() - began == 3.5
    source.assert_closed_by_its_drawer()


async def test_p10_the_deadline_while_nothing_runs_and_the_source_stalls() -> None:
    source, began = Source(stall=1_000), now()
    result = await parallel_map(after, source.aitems(), timeout=3)
    assert (result.total, result.all_succeeded) == (0, False)
    assert now() - began == 3
    assert source.closed == 1


@pytest.mark.parametrize("items", BOTH)
@pytest.mark.parametrize("ordered", [False, True])
async def test_p10_a_streams_deadline_over_an_endless_source_raises_at_the_end(
    items: Items, ordered: bool
) -> None:
    seen: Results = []
    stream = parallel_stream(after, items(Source()), max_concurrent=2, timeout=2.5, ordered=ordered)
    with pytest.raises(DeadlineExceeded, match="timed out"):
        await read(stream, seen)
    assert [task.status for task in seen] == [COMPLETED] * 4 + [TIMEOUT] * 2
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_p10_a_streams_deadline_after_the_last_draw_raises_nothing() -> None:
    results = await streamed(after, iter([1, 9]), timeout=5)
    assert [task.status for task in results] == [COMPLETED, TIMEOUT]


async def test_p10_a_streams_deadline_over_a_sized_input_raises_nothing() -> None:
    for run in MAPPERS:
        results = await run(after, [1] * 10, max_concurrent=2, timeout=2.5)
        assert [task.status for task in results] == [COMPLETED] * 4 + [TIMEOUT] * 6
        assert [task.task_id for task in results] == [str(n) for n in range(10)]
        assert all(isinstance(task.error, DeadlineExceeded) for task in results[4:])
        assert [task.started_at > 0 for task in results] == [True] * 6 + [False] * 4


async def test_p10_a_stream_stopped_by_its_rule_raises_nothing() -> None:
    results = await streamed(after, Source().items(), max_concurrent=1, min_success=3)
    assert [task.status for task in results] == [COMPLETED] * 3


async def test_p10_a_race_draws_no_more_than_it_needs() -> None:
    source = Source(item=partial(after, 1))
    outcome = await FanOutExecutor(aggregation="first", max_concurrent=2).run(source.items())
    assert outcome.value == 1
    assert len(source.drawn) <= 3
    source.assert_closed_by_its_drawer()


async def test_p10_an_empty_source_is_fine() -> None:
    for items in BOTH:
        result: GatherResult[Any] = await parallel_map(after, items(Source(0)))
        assert (result.total, result.all_succeeded) == (0, True)
        assert await streamed(after, items(Source(0))) == []


# Dropped iterators.


@pytest.mark.parametrize("items", BOTH)
async def test_p10_a_dropped_iterator_stops_its_run_and_closes_its_source(items: Items) -> None:
    source, gauge = Source(item=5), Gauge()
    async for _ in parallel_stream(gauge.work, items(source), max_concurrent=2):
        break
    gc.collect()
    await asyncio.sleep(1)
    assert gauge.inside == 0
    drawn = len(source.drawn)
    await asyncio.sleep(100)
    assert len(source.drawn) == drawn
    source.assert_closed_by_its_drawer()


@pytest.mark.parametrize("items", BOTH)
@pytest.mark.parametrize("state", ["at work", "unread", "stalled", "behind a slow head"])
async def test_p10_nothing_but_its_reader_keeps_an_iterator_alive(items: Items, state: str) -> None:
    source = Source(stall=1_000 if state == "stalled" else 0)

    async def work(number: int) -> None:
        await asyncio.sleep(0 if state == "unread" or not number else 1_000)

    async def drawn() -> AsyncIterator[int]:
        yield 0
        async for number in numbered(items(source)):
            yield 0 if state == "behind a slow head" and number % 2 else number + 1

    stream = parallel_stream(work, drawn(), max_concurrent=2, ordered=state == "behind a slow head")
    await anext(stream)
    await asyncio.sleep(10)
    gc.collect()
    gc.disable()  # the last reference is enough
    try:
        alive_ = weakref.ref(stream)
        del stream
        assert alive_() is None
    finally:
        gc.enable()
    await settle()
    assert alive() == set()
    gc.collect()
    await settle()
    assert source.closed == (1 if source.tasks else 0)


async def test_p10_a_reader_cancelled_after_any_number_of_steps_leaves_nothing_open() -> None:
    opened, closed = 0, 0

    async def source() -> AsyncIterator[float]:
        nonlocal opened, closed
        opened += 1
        try:
            for _ in range(4):
                await asyncio.sleep(0)
                yield 0
        finally:
            closed += 1

    async def read_all(throttler: TaskThrottler) -> None:
        async for _ in parallel_stream(asyncio.sleep, source(), throttler=throttler):
            await asyncio.sleep(0)

    ended, steps = False, 0
    while not ended:
        throttler = TaskThrottler(1)
        reader = asyncio.ensure_future(read_all(throttler))
        for _ in range(steps):
            await asyncio.sleep(0)
        ended = reader.done()
        reader.cancel()
        await asyncio.wait([reader])
        await settle()
        assert (alive(), throttler.active, throttler.waiting) == (set(), 0, 0)
        assert opened == closed
        steps += 1
    assert opened > 10


async def test_p10_an_iterator_that_is_kept_goes_no_further_than_its_unread_results() -> None:
    source = Source()
    stream = parallel_stream(after, source.items(), max_concurrent=2)
    async for _ in stream:
        break
    await asyncio.sleep(100)
    assert len(source.drawn) <= 5
    await stream.aclose()
    source.assert_closed_by_its_drawer()


async def test_p10_an_iterator_dropped_before_its_first_result_draws_nothing() -> None:
    source = Source()
    stream: ResultStream[Any] | None = parallel_stream(after, source.items())
    assert stream is not None
    del stream
    gc.collect()
    await asyncio.sleep(0)
    assert source.drawn == []


async def test_p10_coroutines_of_a_stream_that_was_never_read_are_closed() -> None:
    ParallelExecutor().stream([after(1), after(2)])
    gc.collect()
    stream = ParallelExecutor().stream([after(1), after(2)])
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_p10_a_sources_coroutines_that_never_ran_are_closed() -> None:
    def coroutines() -> Iterator[Any]:
        yield after(1)
        yield fail()
        yield after(9)
        yield after(9)

    executor = ParallelExecutor(max_concurrent=4, throttler=TaskThrottler(2))
    result = await executor.gather(coroutines(), fail_fast=True)
    assert CANCELLED in [task.status for task in result.results]
