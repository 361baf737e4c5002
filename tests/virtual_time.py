"""An event loop whose clock jumps: an hour's sleep takes a test no time, its figures are exact.

When nothing is ready the clock is set to the next timer, which is not waited for. While somebody
outside the loop may still call in (a thread at work, a call in an executor, an open socket or
pipe), the next timer is waited for really; what calls in before has taken no time on this clock.
When nothing at all can happen any more the loop raises DeadlockError.

A loop of our own and not looptime, whose clock runs away from threads that it did not start itself.
"""

import asyncio
import concurrent.futures.thread
import selectors
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

START = 1000.0  # above 0.0, which a task that never started bears as its start
HORIZON = START + 1e7  # a test that gets here runs in circles, or waits for a timer at infinity
PATIENCE = 5.0  # real seconds that a loop without a timer waits for those outside
GLANCE = 0.002  # real seconds after which it looks again whether they are still at work


class DeadlockError(AssertionError):
    """Nothing is ready, no timer is set and nobody outside is at work: the test would hang."""


def threads_at_work() -> set[threading.Thread]:
    """Threads that do something just now: works of the package, and what a test started by hand.

    Abandoned works count. Idle threads don't, nor those of executors: they can't be told apart.
    """
    package: Any = sys.modules.get("agentos_parallel._core.threads")
    worker, idle = (package._Worker, set(package._idle)) if package else (type(None), set())
    pooled = set(concurrent.futures.thread._threads_queues)
    resting = idle | pooled | {threading.main_thread(), threading.current_thread()}

    def counts(thread: threading.Thread) -> bool:
        by_asyncio = thread.name.startswith("asyncio-waitpid")  # waits for a process, before 3.12
        return not thread.daemon or by_asyncio or isinstance(thread, worker)

    return {thread for thread in threading.enumerate() if counts(thread)} - resting


class JumpingSelector(selectors.DefaultSelector):
    """A selector that moves its clock instead of waiting, where nobody outside is at work.

    Attributes:
        passes: how many times it was asked, once for each pass of its loop.
    """

    passes = 0

    def __init__(self, outside: Callable[[], bool]) -> None:
        super().__init__()
        self.now = START
        self.threads_at_work = threads_at_work
        self.patience = 0.0  # real seconds that even an earlier timer waits for those outside
        self._outside = outside
        self._target: float | None = None  # the timer that is waited for really
        self._waited = 0.0  # for so many seconds already

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Give what is ready; if nothing is, set the clock *timeout* seconds on."""
        self.passes += 1
        ready = super().select(0)
        if ready or timeout == 0:
            return ready

        target = None if timeout is None else round(self.now + timeout, 9)
        ready = self._wait(target)
        if ready:
            return ready

        if target is None or target > HORIZON:
            waiting = "\n  ".join(map(repr, asyncio.all_tasks()))
            raise DeadlockError(f"nothing can happen any more at {self.now}:\n  {waiting}")
        self.now = target
        return []

    def _wait(self, target: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        if target != self._target:
            self._target, self._waited = target, 0.0
        limit = PATIENCE if target is None else max(target - self.now, self.patience)

        while self._waited < limit and self._is_somebody_outside():
            began = time.monotonic()
            ready = super().select(min(limit - self._waited, GLANCE))
            self._waited += time.monotonic() - began
            if ready:
                return ready
        return super().select(0)  # who has just left may have called in before

    def _is_somebody_outside(self) -> bool:
        watched = len(self.get_map()) > 1  # one is the loop's own, for wake-up calls
        return watched or self._outside() or bool(self.threads_at_work())


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop on a clock that jumps."""

    def __init__(self) -> None:
        self._clock = JumpingSelector(self._executors_at_work)
        self._calls: weakref.WeakSet[asyncio.Future[Any]] = weakref.WeakSet()
        self._ending = False
        super().__init__(self._clock)

    def time(self) -> float:
        """Tell the seconds on the virtual clock, in steps of a nanosecond."""
        return self._clock.now

    @property
    def passes(self) -> int:
        """How many passes it has made."""
        return self._clock.passes

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> asyncio.Future[Any]:
        """Do what asyncio does, and remember the call."""
        future = super().run_in_executor(executor, func, *args)
        self._calls.add(future)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Do what asyncio does, in real time: its threads are joined in a thread."""
        self._ending = True
        await super().shutdown_default_executor()

    def _executors_at_work(self) -> bool:
        return self._ending or any(not call.done() for call in self._calls)


new_loop: Callable[[], asyncio.AbstractEventLoop] = VirtualTimeLoop
"""Makes the loop of a test; with `--uvloop` tests/conftest.py puts another in its place."""


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Do what asyncio.run does, on a virtual clock: for tests that are no coroutines themselves."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)
