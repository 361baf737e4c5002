"""P13: sync functions run in threads and never block the loop; async ones are called on it."""

import asyncio
import functools
import inspect
import itertools
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest

from agentos_parallel import (
    ParallelExecutor,
    TaskStatus,
    TaskThrottler,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from tests.pieces import after, settle
from tests.virtual_time import START
from tests.ways import WAYS, Way


def thread_of(_: object = None) -> threading.Thread:
    return threading.current_thread()


def is_main(_: object = None) -> bool:
    return threading.current_thread() is threading.main_thread()


async def is_main_async(_: object = None) -> bool:
    return threading.current_thread() is threading.main_thread()


class Agent:
    """What people hand over: methods, sync and async, and a call."""

    async def __call__(self, _: object = None) -> bool:
        return is_main()

    async def answer(self, _: object = None) -> bool:
        return is_main()

    def compute(self, _: object = None) -> bool:
        return is_main()

    @classmethod
    async def answer_of_class(cls, _: object = None) -> bool:
        return is_main()

    @staticmethod
    async def answer_of_nobody(_: object = None) -> bool:
        return is_main()


class SyncAgent:
    def __call__(self, _: object = None) -> bool:
        return is_main()


class Runnable:
    """Looks like LangChain's: a sync way in, and an async one, which is taken."""

    def invoke(self, _: object) -> str:
        return "sync"

    async def ainvoke(self, _: object, config: object = None) -> str:
        return "on the loop" if is_main() else "elsewhere"


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that hides a coroutine function behind a sync one."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


# Sync functions: threads of ours.


async def test_a_sync_function_runs_in_a_daemon_thread() -> None:
    result = await parallel_gather(thread_of, functools.partial(thread_of, "item"))
    for thread in result.get_results():
        assert thread is not threading.main_thread()
        assert thread.daemon


async def test_map_and_stream_call_a_sync_func_in_a_thread() -> None:
    result = await parallel_map(is_main, [1, 2])
    assert result.get_results() == [False, False]
    assert [task.result async for task in parallel_stream(is_main, [1, 2])] == [False, False]


async def test_fan_out_calls_sync_works_and_merge_fn_in_threads() -> None:
    assert await fan_out([is_main], aggregation="first") is False
    assert await fan_out([is_main], aggregation="merge", merge_fn=is_main) is False


@pytest.mark.parametrize(
    "function",
    [
        is_main,
        functools.partial(is_main, "item"),
        Agent().compute,
        SyncAgent(),
        functools.partial(SyncAgent()),
        lambda: is_main(),
    ],
    ids=["function", "partial", "method", "callable", "partial of a callable", "lambda"],
)
async def test_what_is_not_known_to_be_async_is_called_in_a_thread(
    function: Callable[[], bool],
) -> None:
    assert (await parallel_gather(function)).get_results() == [False]


async def test_builtins_and_classes_are_called_in_threads_too() -> None:
    assert (await parallel_map(str.upper, ["a", "b"])).get_results() == ["A", "B"]
    assert (await parallel_map(int, ["1", "2"])).get_results() == [1, 2]
    assert (await parallel_gather(dict)).get_results() == [{}]


async def test_a_blocking_function_does_not_block_the_loop() -> None:
    release = threading.Event()

    async def release_later() -> str:
        await settle()
        release.set()
        return "the loop was free"

    result = await ParallelExecutor(max_concurrent=2).gather(
        [lambda: release.wait(10), release_later]
    )
    assert result.get_results() == [True, "the loop was free"]


async def test_as_many_threads_run_at_once_as_the_limit_allows() -> None:
    together = threading.Barrier(50, timeout=10)
    result = await parallel_map(lambda _: together.wait(), range(50), max_concurrent=50)
    assert sorted(result.get_results()) == list(range(50))


async def test_no_more_threads_run_at_once_than_the_limit_allows() -> None:
    lock, inside, peak = threading.Lock(), 0, 0
    both = threading.Barrier(2, timeout=10)

    def work(_: int) -> None:
        nonlocal inside, peak
        with lock:
            inside += 1
            peak = max(peak, inside)
        both.wait()
        with lock:
            inside -= 1

    result = await parallel_map(work, range(20), throttler=TaskThrottler(2))
    assert result.all_succeeded
    assert peak == 2


async def test_threads_are_used_again() -> None:
    result = await parallel_map(lambda _: threading.get_ident(), range(200), max_concurrent=2)
    assert len(set(result.get_results())) <= 10


async def test_a_function_raises_what_it_raises() -> None:
    error = ValueError("as it was")

    def fail() -> None:
        raise error

    result = await parallel_gather(fail, lambda: 1)
    assert result.results[0].error is error
    assert result.results[0].status is TaskStatus.FAILED
    assert error.__traceback__ is not None
    assert result.get_results() == [1]


async def test_a_timeout_that_a_function_raises_is_a_timeout() -> None:
    def give_up() -> None:
        raise TimeoutError("the server said so")

    result = await parallel_gather(give_up)
    assert result.results[0].status is TaskStatus.TIMEOUT


@pytest.mark.parametrize("ending", [StopIteration, StopAsyncIteration])
async def test_the_end_of_an_iterator_is_a_failure(ending: type[Exception]) -> None:
    def stop(_: object = None) -> int:
        raise ending("no more")

    gathered = await parallel_gather(stop, stop, timeout=5)
    mapped = await parallel_map(stop, [1, 2], timeout=5)
    streamed = [task async for task in parallel_stream(stop, [1, 2], timeout=5)]
    for task in (*gathered.results, *mapped.results, *streamed):
        assert task.status is TaskStatus.FAILED
        assert task.error is not None


async def test_a_stop_iteration_is_the_cause_of_its_failure() -> None:
    def stop() -> int:
        raise StopIteration("no more")

    error = (await parallel_gather(stop, timeout=5)).results[0].error
    assert isinstance(error, RuntimeError)
    assert isinstance(error.__cause__, StopIteration)


async def test_a_thread_may_run_a_loop_of_its_own() -> None:
    def nested() -> list[int]:
        return asyncio.run(parallel_gather(lambda: 1, lambda: 2)).get_results()

    result = await parallel_gather(nested, nested, max_concurrent=1)
    assert result.get_results() == [[1, 2], [1, 2]]


# Works that never wait don't starve the loop.


@pytest.mark.parametrize("way", WAYS)
async def test_works_that_never_wait_let_others_in(way: Way) -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def never_waits() -> None:
        pass

    counting = asyncio.create_task(count_turns())
    tasks = await way([never_waits] * 800, max_concurrent=4)
    counting.cancel()
    assert len(tasks) == 800
    assert turns >= 100


async def test_works_that_are_refused_let_others_in() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    def refuse(item: object) -> TaskThrottler:
        raise LookupError(item)

    counting = asyncio.create_task(count_turns())
    result = await parallel_map(is_main_async, iter(range(800)), 4, throttler=refuse)
    counting.cancel()
    assert result.failed == 800
    assert turns >= 100


@pytest.mark.realtime
async def test_a_deadline_reaches_works_that_never_wait() -> None:
    async def never_waits(number: int) -> int:
        return number

    async def endless() -> AsyncIterator[int]:
        for number in itertools.count():
            yield number

    for source in (itertools.count(), endless()):
        result = await parallel_map(never_waits, source, max_concurrent=4, timeout=0.03)
        assert result.completed > 0
        assert not result.all_succeeded


# Callables that give an awaitable.


async def test_a_lambda_is_called_in_a_thread_and_its_awaitable_awaited_on_the_loop() -> None:
    called: list[bool] = []

    def start(agent: Agent) -> Coroutine[Any, Any, bool]:
        called.append(is_main())
        return agent.answer()

    result = await parallel_gather(lambda: start(Agent()))
    assert result.get_results() == [True]
    assert called == [False]


async def test_map_awaits_what_a_sync_func_gives() -> None:
    result = await parallel_map(lambda seconds: after(seconds, is_main()), [1, 2])
    assert result.get_results() == [False, False]
    assert result.total_duration_ms == 2_000


async def test_call_and_awaitable_are_one_attempt() -> None:
    result = await parallel_gather(lambda: after(3, "answer"), task_timeout=4)
    (task,) = result.results
    assert (task.result, task.retries) == ("answer", 0)
    assert task.started_at == START
    assert task.duration_ms == 3_000


async def test_task_timeout_covers_call_and_awaitable() -> None:
    result = await parallel_gather(lambda: after(5, "late"), task_timeout=4)
    assert result.results[0].status is TaskStatus.TIMEOUT
    assert result.total_duration_ms == 4_000


async def test_what_the_awaitable_raises_is_the_tasks() -> None:
    async def fail() -> None:
        raise ValueError("late")

    result = await parallel_gather(lambda: fail())
    assert isinstance(result.results[0].error, ValueError)


async def test_an_awaitable_of_any_kind_is_awaited() -> None:
    class Lazy:
        def __await__(self) -> Iterator[Any]:
            return after(1, "awaited").__await__()

    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    future.set_result("a future's")
    result = await parallel_gather(lambda: Lazy(), lambda: future)
    assert result.get_results() == ["awaited", "a future's"]


async def test_a_coroutine_function_behind_a_sync_decorator_works() -> None:
    assert (await parallel_gather(logged(is_main_async))).get_results() == [True]
    assert (await parallel_map(logged(is_main_async), [1, 2])).get_results() == [True, True]


# Called on the loop.


@pytest.mark.parametrize(
    "function",
    [
        is_main_async,
        functools.partial(is_main_async, "item"),
        functools.partial(functools.partial(is_main_async), "item"),
        Agent().answer,
        functools.partial(Agent().answer, "item"),
        Agent.answer_of_class,
        Agent.answer_of_nobody,
        Agent(),
        functools.partial(Agent()),
    ],
    ids=[
        "coroutine function",
        "partial",
        "partial of a partial",
        "method",
        "partial of a method",
        "class method",
        "static method",
        "async __call__",
        "partial of an async __call__",
    ],
)
async def test_what_is_known_to_be_async_is_called_on_the_loop(
    function: Callable[..., Awaitable[bool]],
) -> None:
    before = {thread for thread in threading.enumerate() if thread.name == "agentos_parallel"}
    assert (await parallel_gather(function)).get_results() == [True]
    assert (await parallel_gather(functools.partial(function))).get_results() == [True]
    after_it = {thread for thread in threading.enumerate() if thread.name == "agentos_parallel"}
    assert after_it <= before


async def test_a_function_that_needs_the_loop_works_as_a_coroutine_function() -> None:
    async def gather() -> list[int]:
        return list(await asyncio.gather(after(1, 1), after(1, 2)))

    assert (await parallel_gather(gather)).get_results() == [[1, 2]]


async def test_a_runnable_is_taken_by_its_async_side() -> None:
    assert (await parallel_map(Runnable(), ["a"])).get_results() == ["on the loop"]
    assert [task.result async for task in parallel_stream(Runnable(), ["a"])] == ["on the loop"]
    merged = await fan_out([is_main], aggregation="merge", merge_fn=Runnable())
    assert merged == "on the loop"


# A call that needs the running loop.


@pytest.mark.parametrize(
    "work",
    [
        lambda: asyncio.gather(),
        lambda: asyncio.get_running_loop().create_future(),
        lambda: asyncio.current_task(),
    ],
    ids=["gather", "get_running_loop", "current_task"],
)
async def test_a_call_that_needs_the_loop_is_told_the_way_out(work: Callable[[], Any]) -> None:
    result = await parallel_gather(work)
    error = result.results[0].error
    assert result.results[0].status is TaskStatus.FAILED
    assert isinstance(error, RuntimeError)
    assert "running event loop" in str(error)
    assert "async def" in str(error)
    assert isinstance(error.__cause__, RuntimeError)


async def test_map_and_merge_fn_are_told_the_way_out_too() -> None:
    result = await parallel_map(lambda _: asyncio.gather(), [1])
    assert "async def" in str(result.results[0].error)


async def test_another_runtime_error_stays_as_it_was() -> None:
    error = RuntimeError("the model is overloaded")

    def fail() -> None:
        raise error

    assert (await parallel_gather(fail)).results[0].error is error


# A thread can't be cancelled.


@pytest.mark.leaky
async def test_a_hanging_function_does_not_hold_its_run() -> None:
    release = threading.Event()
    result = await parallel_gather(lambda: release.wait(10), timeout=0.05, grace=5)
    release.set()
    (task,) = result.results
    assert task.status is TaskStatus.TIMEOUT
    assert task.abandoned
    assert result.total_duration_ms == pytest.approx(50)


@pytest.mark.leaky
async def test_what_an_abandoned_thread_returns_is_closed() -> None:
    release, made = threading.Event(), list[Coroutine[Any, Any, str]]()

    def late() -> Coroutine[Any, Any, str]:
        release.wait(10)
        made.append(after(0, "nobody asks any more"))
        return made[0]

    result = await parallel_gather(late, timeout=0.05)
    assert result.abandoned == 1
    release.set()
    while not made or inspect.getcoroutinestate(made[0]) != inspect.CORO_CLOSED:
        await asyncio.sleep(0.001)


# A fork.

FORK = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def in_child(check: Callable[[], bool]) -> bool:
    """What *check* says in a forked child; False where it hangs."""
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if check() else 1
        finally:
            os._exit(code)
    for _ in range(1000):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        threading.Event().wait(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False


def runs_in_threads() -> bool:
    result = asyncio.run(parallel_map(is_main, range(5), max_concurrent=2, timeout=8))
    return result.get_results() == [False] * 5


@FORK
@pytest.mark.realtime
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_threads_survive_a_fork() -> None:
    assert runs_in_threads()
    assert in_child(runs_in_threads)
    assert runs_in_threads()


@FORK
@pytest.mark.realtime
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_while_threads_are_at_work_leaves_the_child_its_own() -> None:
    started, release = threading.Event(), threading.Event()

    def hold() -> bool:
        started.set()
        return release.wait(10)

    def serve() -> None:
        results.extend(asyncio.run(parallel_gather(hold)).get_results())

    results: list[bool] = []
    parent = threading.Thread(target=serve)
    parent.start()
    assert started.wait(10)
    assert in_child(runs_in_threads)
    release.set()
    parent.join(10)
    assert results == [True]


@FORK
@pytest.mark.realtime
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_throttler_in_use_serves_a_forked_child() -> None:
    throttler = TaskThrottler(1)

    def serves() -> bool:
        result = asyncio.run(parallel_map(is_main, range(3), throttler=throttler, timeout=8))
        return result.all_succeeded and throttler.active == 0

    assert throttler.try_acquire()
    assert in_child(serves)
    throttler.release()
    assert throttler.active == 0


@FORK
@pytest.mark.realtime
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_throttler_that_threads_fight_for_serves_a_forked_child() -> None:
    throttler, stop = TaskThrottler(2), threading.Event()

    async def fight() -> None:
        while not stop.is_set():
            await parallel_map(after_zero, range(9), throttler=throttler)

    def serves() -> bool:
        result = asyncio.run(parallel_map(is_main, range(5), throttler=throttler, timeout=8))
        return result.all_succeeded and (throttler.active, throttler.waiting) == (0, 0)

    threads = [threading.Thread(target=lambda: asyncio.run(fight())) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        assert all(in_child(serves) for _ in range(5))
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    assert (throttler.active, throttler.waiting) == (0, 0)


@FORK
@pytest.mark.realtime
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_a_child_forked_in_a_sync_task_runs_works_of_its_own() -> None:
    executor = ParallelExecutor(max_concurrent=1, timeout=8)

    def serves() -> bool:
        result = asyncio.run(executor.map(after_zero, range(3)))
        return result.get_results() == [0, 1, 2]

    result = await executor.map(lambda _: in_child(serves), [1, 2])
    assert result.get_results() == [True, True]


async def after_zero(item: int) -> int:
    return await after(0, item)
