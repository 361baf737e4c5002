"""What a user may hand over; the rest stands in promises/test_p03, p13 and p14."""

import asyncio
import functools
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from agentos_parallel import (
    ParallelExecutor,
    TaskStatus,
    TaskThrottler,
    fan_out,
    parallel_gather,
    parallel_map,
)
from agentos_parallel._core.works import from_thread, in_thread
from tests.pieces import after
from tests.virtual_time import threads_at_work


class Lazy:
    """An awaitable that is no coroutine."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, None, str]:
        return after(1, self.value).__await__()


class Both(Lazy):
    """Awaitable and callable: a work to be awaited."""

    def __call__(self) -> str:
        raise AssertionError("it was called")


class Endpoint:
    """An async function behind a descriptor and a partial method."""

    async def ask(self, question: str, style: str) -> str:
        return f"{question} {style}"

    ask_briefly = functools.partialmethod(ask, style="briefly")


async def test_every_kind_of_awaitable_is_a_work() -> None:
    future = asyncio.get_running_loop().create_future()
    future.set_result("future")
    works: list[Awaitable[str]] = [
        after(1, "coroutine"),
        asyncio.create_task(after(1, "task")),
        future,
        Lazy("lazy"),
        Both("both"),
    ]
    result = await parallel_gather(*works)
    assert result.get_results() == ["coroutine", "task", "future", "lazy", "both"]


async def test_every_kind_of_factory_is_a_work() -> None:
    works: list[Callable[[], Any]] = [
        lambda: "value",
        lambda: after(1, "awaitable"),
        functools.partial(after, 1, "partial"),
        functools.partial(str, "class"),
        "method".upper,
        AsyncMock(return_value="mock"),
    ]
    result = await parallel_gather(*works)
    assert result.get_results() == ["value", "awaitable", "partial", "class", "METHOD", "mock"]


async def test_a_factory_is_called_once_for_each_task() -> None:
    work, sync_work = AsyncMock(), Mock()
    await parallel_gather(work, work, sync_work)
    assert (work.await_count, sync_work.call_count) == (2, 1)


async def test_func_is_called_when_the_slot_is_there_and_not_before() -> None:
    calls: list[float] = []

    def start(seconds: int) -> Awaitable[None]:
        calls.append(loop.time())
        return asyncio.sleep(seconds)

    async def start_async(seconds: int) -> None:
        await start(seconds)

    loop = asyncio.get_running_loop()
    for func in (start, start_async):
        calls.clear()
        began = loop.time()
        await parallel_map(func, [2, 3, 4], max_concurrent=1)
        assert [when - began for when in calls] == [0, 2, 5]


async def test_what_the_call_itself_raises_is_the_tasks_failure() -> None:
    class Agent:
        def ainvoke(self, item: int) -> Awaitable[int]:
            raise LookupError(item)

    async def needs_two(a: int, b: int) -> None: ...

    funcs: dict[Any, type[Exception]] = {Agent(): LookupError, needs_two: TypeError}
    for func, error in funcs.items():
        result = await parallel_map(func, [1, 2])
        assert result.failed == 2
        assert isinstance(result.results[0].error, error)


async def test_a_factory_that_needs_arguments_fails() -> None:
    work: Any = after
    result = await parallel_gather(work, lambda: 1)
    assert isinstance(result.results[0].error, TypeError)
    assert result.get_results() == [1]


async def test_a_partial_method_is_a_function() -> None:
    result = await parallel_map(Endpoint().ask_briefly, ["why"])
    assert result.get_results() == ["why briefly"]


async def test_an_async_call_that_gives_no_awaitable_is_its_tasks_failure() -> None:
    class Agent:
        def ainvoke(self, item: int) -> int:
            return item

    agent: Any = Agent()
    result = await parallel_map(agent, [1])
    assert isinstance(result.results[0].error, TypeError)


async def test_a_class_with_ainvoke_is_a_class() -> None:
    class Agent:
        def __init__(self, name: str) -> None:
            self.name = name

        async def ainvoke(self, item: int) -> int:
            return item

    kind: Any = Agent
    result = await parallel_map(kind, ["a"])
    assert result.get_results()[0].name == "a"


async def test_a_task_handed_over_is_cancelled_with_the_run() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    result = await parallel_gather(task, timeout=2)
    assert result.results[0].status is TaskStatus.TIMEOUT
    assert task.cancelled()


async def test_a_task_that_was_cancelled_elsewhere_is_cancelled() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    asyncio.get_running_loop().call_later(1, task.cancel)
    result = await parallel_gather(task, after(2, "other"))
    assert [each.status.value for each in result.results] == ["cancelled", "completed"]


async def test_a_factory_alone_can_be_run_twice() -> None:
    work = AsyncMock(side_effect=[ConnectionError, "answer"])
    result = await fan_out([work], retry_failed=True)
    assert result.get_results() == ["answer"]
    assert work.await_count == 2


@pytest.mark.leaky
@pytest.mark.realtime
def test_a_thread_that_ends_after_its_loop_gives_its_slot_back() -> None:
    throttler, release = TaskThrottler(1), threading.Event()
    result = asyncio.run(
        parallel_gather(lambda: release.wait(10), throttler=throttler, timeout=0.02)
    )
    assert result.abandoned == 1
    assert throttler.active == 1
    release.set()
    late = asyncio.run(ParallelExecutor(throttler=throttler, timeout=10).gather([lambda: 1]))
    assert late.get_results() == [1]
    assert throttler.active == 0


@pytest.mark.leaky
@pytest.mark.realtime
def test_what_a_thread_gives_after_its_loop_has_ended_is_closed() -> None:
    release, made = threading.Event(), threading.Event()
    coroutines: list[Any] = []

    def late() -> Awaitable[str]:
        release.wait(10)
        coroutines.append(after(0, "nobody asks"))
        made.set()
        return coroutines[0]  # type: ignore[no-any-return]

    asyncio.run(parallel_gather(late, timeout=0.02))
    release.set()
    assert made.wait(10)
    until = time.monotonic() + 10
    while coroutines[0].cr_frame is not None and time.monotonic() < until:
        time.sleep(0.001)
    assert coroutines[0].cr_frame is None


def test_a_sync_merge_in_a_loop_of_a_sync_work_has_a_thread_of_its_own() -> None:
    def agent(text: str) -> str:
        works = [lambda: text, lambda: text.upper()]
        merged: str = asyncio.run(fan_out(works, aggregation="merge", merge_fn="+".join))
        return merged

    result = asyncio.run(parallel_map(agent, ["a"], task_timeout=30))

    assert result.get_results() == ["a+A"]


def test_a_merge_that_ends_after_its_loop_is_let_go() -> None:
    release, ended = threading.Event(), threading.Event()

    def merge(values: list[int]) -> int:
        release.wait()
        ended.set()
        return len(values)

    async def main() -> None:
        async with asyncio.timeout(0.05):
            await fan_out([lambda: 1], aggregation="merge", merge_fn=merge)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    release.set()

    assert ended.wait(5)


class Remote:
    """A proxy: any name but those of Python is a remote call."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.calls = calls

    def __getattr__(self, name: str) -> "Remote":
        if name.startswith("__"):
            raise AttributeError(name)
        return Remote(f"{self.name}.{name}", self.calls)

    def __call__(self) -> None:
        self.calls.append(self.name)
        raise ConnectionError(self.name)


async def test_a_proxy_that_knows_every_name_is_called_and_nothing_else() -> None:
    calls = list[str]()
    result = await parallel_gather(Remote("rpc", calls))
    assert result.results[0].status is TaskStatus.FAILED
    assert isinstance(result.results[0].error, ConnectionError)
    assert calls == ["rpc"]


async def test_a_mock_is_the_func_of_a_map() -> None:
    func = Mock(return_value=1)
    assert (await parallel_map(func, ["a"])).get_results() == [1]
    func.assert_called_once_with("a")


async def test_a_coroutine_that_comes_in_the_moment_of_the_cancel_is_closed() -> None:
    made, threads, go = (
        list[Coroutine[Any, Any, str]](),
        list[threading.Thread](),
        threading.Event(),
    )

    def late() -> Coroutine[Any, Any, str]:
        threads.append(threading.current_thread())
        go.wait(5)
        made.append(after(0, "nobody asks any more"))
        return made[0]

    run = asyncio.ensure_future(parallel_gather(late))
    while not threads:
        await asyncio.sleep(0)
    go.set()
    while threads[0] in threads_at_work():  # the loop stands still until the coroutine is there
        time.sleep(0.001)  # noqa: ASYNC251
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert inspect.getcoroutinestate(made[0]) == inspect.CORO_CLOSED


# What a thread has its loop await.


@pytest.mark.realtime
async def test_a_thread_may_await_on_the_loop_that_waits_for_it() -> None:
    loop = asyncio.get_running_loop()
    user: ContextVar[str] = ContextVar("user")
    user.set("ada")

    async def asynchronous(text: str) -> tuple[str, bool]:
        await asyncio.sleep(0)
        return user.get() + text, asyncio.get_running_loop() is loop

    assert await in_thread(lambda: from_thread(asynchronous("!"))) == ("ada!", True)


@pytest.mark.realtime
async def test_what_it_raises_comes_out_in_the_thread() -> None:
    async def failing() -> None:
        raise ValueError("no")

    def catches() -> str:
        try:
            from_thread(failing())
        except ValueError as error:
            return f"caught {error}"
        return "nothing"

    assert await in_thread(catches) == "caught no"


@pytest.mark.realtime
async def test_it_is_cancelled_when_nobody_waits_for_the_thread() -> None:
    cancelled, ended = asyncio.Event(), threading.Event()
    started = asyncio.Event()

    async def hanging() -> None:
        started.set()
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def waits() -> None:
        try:
            from_thread(hanging())
        finally:
            ended.set()

    task = asyncio.create_task(in_thread(waits))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(cancelled.wait(), 5)
    assert await asyncio.to_thread(ended.wait, 5)


@pytest.mark.realtime
async def test_nothing_is_begun_for_a_thread_that_nobody_waits_for() -> None:
    go_on, ended, ran = threading.Event(), threading.Event(), []

    async def late() -> None:
        await asyncio.sleep(0.01)
        ran.append("to its end")

    def works() -> None:
        go_on.wait(5)
        try:
            from_thread(late())
        finally:
            ended.set()

    task = asyncio.create_task(in_thread(works))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    go_on.set()
    assert await asyncio.to_thread(ended.wait, 5)
    await asyncio.sleep(0.02)
    assert not ran


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_coroutine_that_a_thread_gave_is_closed_if_its_loop_never_looks(when: str) -> None:
    """An exit stops the loop, *before* or *after* the thread has the coroutine."""
    go_on, made = threading.Event(), []

    def gives() -> Coroutine[Any, Any, int]:
        go_on.wait(5)
        made.append(after(1, 2))
        return made[0]

    def let_it_end() -> None:
        go_on.set()
        until = time.monotonic() + 5
        while threads_at_work() and time.monotonic() < until:
            time.sleep(0.001)

    async def main() -> None:
        waiting: Any = in_thread(gives)
        arrival = waiting.send(None)
        if when == "after":
            let_it_end()
        arrival.cancel()
        with pytest.raises(asyncio.CancelledError):
            waiting.throw(asyncio.CancelledError())
        raise SystemExit

    loop = asyncio.new_event_loop()
    with pytest.raises(SystemExit):
        loop.run_until_complete(main())
    loop.close()
    let_it_end()
    assert inspect.getcoroutinestate(made[0]) == inspect.CORO_CLOSED
