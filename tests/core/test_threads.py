"""Threads that can be abandoned, and the one loop that serves sync callers."""

import asyncio
import gc
import os
import signal
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from contextvars import ContextVar
from typing import Any

import pytest

from agentos_parallel import ParallelExecutor, parallel_gather, parallel_map
from agentos_parallel._core import threads
from agentos_parallel._core.threads import iterate_sync, run_sync, start
from tests.pieces import after

pytestmark = pytest.mark.realtime

FORK = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
user: ContextVar[str] = ContextVar("user", default="nobody")


def run_in_thread(call: Callable[[], object]) -> threading.Thread:
    """Run *call* in a thread of ours, and give that thread when it has run."""
    seen: list[threading.Thread] = []
    ended = threading.Event()

    def body() -> None:
        call()
        seen.append(threading.current_thread())
        ended.set()

    start(body)
    assert ended.wait(10)
    return seen[0]


def until(check: Callable[[], bool]) -> bool:
    """Wait for *check* to hold, ten seconds at the most."""
    for _ in range(10_000):
        if check():
            return True
        threading.Event().wait(0.001)
    return False


# Threads.


def test_a_call_runs_in_a_named_daemon_thread() -> None:
    thread = run_in_thread(lambda: None)
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert thread.name == "agentos_parallel"


def test_an_idle_thread_takes_the_next_call() -> None:
    first = run_in_thread(lambda: None)
    assert until(lambda: first in threads._idle)
    assert run_in_thread(lambda: None) is first


def test_a_busy_thread_takes_no_call() -> None:
    release, started = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        release.wait(10)

    start(hold)
    assert started.wait(10)
    assert run_in_thread(lambda: None).is_alive()
    release.set()


def test_an_idle_thread_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(threads, "IDLE_SECONDS", 0.001)
        patch.setattr(threads, "_idle", [])
        thread = run_in_thread(lambda: None)
        thread.join(10)
        assert not thread.is_alive()
        assert not threads._idle


def test_a_call_that_meets_the_end_of_an_idle_thread_is_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Taken(list[threads._Worker]):
        """A stack from which somebody has just taken what is put on it."""

        def append(self, worker: threads._Worker) -> None:
            taken.append(worker)

    taken: list[threads._Worker] = []
    ran = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threads, "IDLE_SECONDS", 0.001)
        patch.setattr(threads, "_idle", Taken())
        thread = run_in_thread(lambda: None)
        assert until(lambda: bool(taken))
        thread.join(0.02)
        assert thread.is_alive()  # its time is up, and it waits for the call that is on its way

        patch.setattr(threads, "_idle", [])
        taken[0].calls.put(ran.set)
        assert ran.wait(10)
        thread.join(10)
        assert not thread.is_alive()


def test_a_result_does_not_live_as_long_as_its_thread() -> None:
    class Document:
        pass

    async def main() -> weakref.ref[Document]:
        result = await parallel_gather(Document)
        return weakref.ref(result.get_results()[0])

    document = asyncio.run(main())
    gc.collect()
    assert until(lambda: document() is None)


def test_a_system_without_threads_to_spare_is_the_tasks_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    executor = ParallelExecutor(max_concurrent=2)
    with monkeypatch.context() as patch:
        patch.setattr(threads, "_idle", [])
        patch.setattr(threads._Worker, "start", refuse)
        result = asyncio.run(executor.gather([lambda: 1, lambda: 2, lambda: 3]))
    assert result.failed == 3
    assert "can't start new thread" in str(result.results[0].error)
    assert executor.throttler.active == 0  # type: ignore[union-attr]


# The loop for sync callers.


def test_run_sync_gives_what_the_coroutine_returns() -> None:
    assert run_sync(after(0, "answer")) == "answer"


def test_run_sync_raises_what_the_coroutine_raises() -> None:
    error = ValueError("as it was")

    async def fail() -> None:
        raise error

    with pytest.raises(ValueError, match="as it was") as raised:
        run_sync(fail())
    assert raised.value is error


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_an_exit_comes_out_and_the_loop_goes_on(ending: type[BaseException]) -> None:
    async def end() -> None:
        raise ending

    with pytest.raises(ending):
        run_sync(end())
    assert run_sync(after(0, "still there")) == "still there"


def test_all_sync_calls_share_one_loop_in_a_daemon_thread() -> None:
    async def where() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
        return asyncio.get_running_loop(), threading.current_thread()

    first, second = run_sync(where()), run_sync(where())
    assert first == second
    assert first[1].daemon
    assert first[1] is not threading.current_thread()


def test_the_callers_context_is_copied() -> None:
    async def become(name: str) -> str:
        before = user.get()
        user.set(name)
        return before

    token = user.set("ada")
    try:
        assert run_sync(become("x")) == "ada"
        assert user.get() == "ada"
    finally:
        user.reset(token)


def test_sync_callers_in_several_threads_run_at_once() -> None:
    together = asyncio.Barrier(5)
    results: list[str] = []

    async def meet() -> str:
        async with asyncio.timeout(10):
            await together.wait()
        return "met"

    callers = [threading.Thread(target=lambda: results.append(run_sync(meet()))) for _ in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(10)
    assert results == ["met"] * 5


def test_a_sync_call_inside_a_sync_call_is_served_by_another_loop() -> None:
    async def outer(depth: int) -> list[asyncio.AbstractEventLoop]:
        below = run_sync(outer(depth - 1)) if depth else []
        return [asyncio.get_running_loop(), *below]

    loops = run_sync(outer(3))
    assert len(set(loops)) == 4
    assert run_sync(outer(3)) == loops


async def test_a_sync_call_in_a_thread_that_runs_a_loop_is_safe() -> None:
    assert run_sync(after(0.001, "answer")) == "answer"


async def test_a_sync_call_in_a_thread_of_ours_is_safe() -> None:
    result = await parallel_map(lambda text: run_sync(after(0, text)), ["a", "b"])
    assert result.get_results() == ["a", "b"]


def test_a_run_inside_a_sync_call_is_a_run() -> None:
    result = run_sync(parallel_gather(lambda: 1, lambda: 2))
    assert result.get_results() == [1, 2]


def test_ctrl_c_cancels_the_coroutine_and_waits_for_its_end() -> None:
    steps: list[str] = []

    async def hang() -> None:
        steps.append("started")
        asyncio.get_running_loop().call_later(0.02, press_ctrl_c)
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.02)
            steps.append("ended")

    with pytest.raises(KeyboardInterrupt):
        run_sync(hang())
    assert steps == ["started", "ended"]


def test_ctrl_c_twice_does_not_cut_the_end_short() -> None:
    steps: list[str] = []

    async def hang() -> None:
        asyncio.get_running_loop().call_later(0.02, press_ctrl_c)
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.02)
            press_ctrl_c()
            await asyncio.sleep(0.02)
            steps.append("ended")

    with pytest.raises(KeyboardInterrupt):
        run_sync(hang())
    assert steps == ["ended"]


def press_ctrl_c() -> None:
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


@FORK
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_a_loop_of_its_own() -> None:
    assert run_sync(after(0, "parent")) == "parent"
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if run_sync(after(0, "child")) == "child" else 1
        finally:
            os._exit(code)
    ended: list[int] = []

    def look() -> bool:
        pid, status = os.waitpid(child, os.WNOHANG)
        ended.append(status)
        return bool(pid)

    assert until(look)
    assert os.waitstatus_to_exitcode(ended[-1]) == 0
    assert run_sync(after(0, "parent")) == "parent"


# What may befall the loop.


def test_a_loop_made_anew_outlives_an_exit(caplog: pytest.LogCaptureFixture) -> None:
    made = threads.SyncLoop(7)
    made.start()
    made.loop.call_soon_threadsafe(sys.exit, 3)

    assert until(lambda: "an exit in the loop of the sync callers" in caplog.text)
    assert made.is_alive()


def test_an_exit_in_a_callback_leaves_the_loop_to_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def leaves() -> str:
        asyncio.get_running_loop().call_soon(sys.exit, 3)
        return await after(0.01, "still served")

    def calls() -> None:
        seen.append(run_sync(leaves()))
        seen.append(run_sync(after(0, "others too")))

    seen = list[str]()
    caller = threading.Thread(target=calls, daemon=True)
    caller.start()
    caller.join(5)
    assert seen == ["still served", "others too"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "an exit" in caplog.text


def test_a_sync_call_in_a_thread_of_a_nested_call_has_a_loop_that_is_free() -> None:
    def innermost() -> str:
        return run_sync(after(0, "innermost"))

    async def inner() -> list[str]:
        return (await parallel_gather(innermost, timeout=5)).raise_for_errors().get_results()

    async def outer() -> list[str]:
        return run_sync(inner())

    assert run_sync(outer()) == ["innermost"]


# A sync caller of an async iterator.


async def counted(ended: list[str]) -> AsyncGenerator[int, None]:
    try:
        for number in range(3):
            await asyncio.sleep(0)
            yield number
    finally:
        ended.append("closed")


def test_an_async_iterator_is_read_sync() -> None:
    ended: list[str] = []
    assert list(iterate_sync(counted(ended))) == [0, 1, 2]
    assert ended == ["closed"]


def test_leaving_it_early_closes_it() -> None:
    ended: list[str] = []
    numbers: Any = iterate_sync(counted(ended))
    assert next(numbers) == 0
    numbers.close()
    assert ended == ["closed"]


def test_what_it_raises_comes_out() -> None:
    async def failing() -> AsyncGenerator[int, None]:
        yield 0
        raise ValueError("no")

    numbers = iterate_sync(failing())
    assert next(numbers) == 0
    with pytest.raises(ValueError, match="no"):
        next(numbers)
