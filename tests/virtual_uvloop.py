"""uvloop on a clock that jumps, for `--uvloop`: the same tests, on the loop of many servers.

uvloop has no selector to replace, and libuv's clock can't be set. Its timers are kept here instead.
A probe in each pass of the loop finds out when nothing is ready: nothing has been called since the
probe before. Then it does what JumpingSelector does. See tests/virtual_time.py.
"""

import asyncio
import heapq
import itertools
import weakref
from collections.abc import Callable
from contextvars import Context
from typing import Any

import uvloop

from tests.virtual_time import GLANCE, HORIZON, PATIENCE, START, DeadlockError, threads_at_work


class Timer(asyncio.TimerHandle):
    """Of two for the same time the older goes off first."""

    _serials = itertools.count()

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._serial = next(self._serials)

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Timer):
            return NotImplemented
        return (self.when(), self._serial) < (other.when(), other._serial)


Uvloop: Any = uvloop.Loop  # its stubs and asyncio's differ in every signature


class VirtualUvloop(Uvloop):
    """A uvloop whose timers go off at once, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0
        self._now = START
        self._scheduled: list[Timer] = []  # as asyncio's loops call it
        self._numbers = itertools.count()
        self._last_call = self._seen = next(self._numbers)
        self._next_probe: Any = None
        self._stopping = False
        self._deadlock: DeadlockError | None = None
        self._target: float | None = None  # the timer that is waited for really
        self._waited = 0.0  # for so many seconds already
        self._in_executor: weakref.WeakSet[asyncio.Future[Any]] = weakref.WeakSet()
        self._connected = False
        self._ending = False

    def time(self) -> float:
        """Tell the seconds on the virtual clock, in steps of a nanosecond."""
        return self._now

    # What is called, and when.

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        """Do what uvloop does, and number it."""
        self._last_call = next(self._numbers)
        return super().call_soon(callback, *args, context=context)

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        """Do what uvloop does, and number it."""
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        self._last_call = next(self._numbers)  # not before: a probe may come between the two
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Set a timer on the virtual clock."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Set a timer on the virtual clock."""
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        timer = Timer(round(when, 9), callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        return timer

    def _timer_handle_cancelled(self, timer: asyncio.TimerHandle) -> None:
        """Asyncio's handles tell their loop; a cancelled one does nothing when its time comes."""

    # Who may call in from outside.

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """Do what uvloop does, and remember the call."""
        future = super().run_in_executor(executor, func, *args)
        self._in_executor.add(future)
        return future

    async def create_server(self, *args: Any, **settings: Any) -> Any:
        """Do what uvloop does; whoever it serves is outside from now on."""
        self._connected = True
        return await super().create_server(*args, **settings)

    async def create_connection(self, *args: Any, **settings: Any) -> Any:
        """Do what uvloop does; whoever answers is outside from now on."""
        self._connected = True
        return await super().create_connection(*args, **settings)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Do what uvloop does, in real time: its threads are joined in a thread."""
        self._ending = True
        await super().shutdown_default_executor()

    def _is_somebody_outside(self) -> bool:
        called = any(not call.done() for call in self._in_executor)
        return self._connected or self._ending or called or bool(threads_at_work())

    # Running.

    def run_forever(self) -> None:
        """Do what uvloop does, with a probe in each pass."""
        self._stopping = False
        self._next_probe = super().call_soon(self._probe)
        try:
            super().run_forever()
        finally:
            self._next_probe.cancel()
        deadlock, self._deadlock = self._deadlock, None
        if deadlock is not None:
            raise deadlock

    def stop(self) -> None:
        """Do what uvloop does; the clock does not jump any more."""
        self._stopping = True
        super().stop()

    def close(self) -> None:
        """Do what uvloop does, and forget the timers."""
        super().close()
        self._scheduled.clear()

    def _probe(self) -> None:
        """Jump if nothing is ready."""
        self.passes += 1
        if self._stopping:
            return
        if self._last_call == self._seen and not self._jump():
            self._next_probe = super().call_later(GLANCE, self._probe)
            self._waited += GLANCE
            return
        self._seen = self._last_call
        self._next_probe = super().call_soon(self._probe)

    def _jump(self) -> bool:
        """Set the clock to the next timer; False: somebody outside may call in before."""
        target = self._next_time()
        if target != self._target:
            self._target, self._waited = target, 0.0
        limit = PATIENCE if target is None else target - self._now
        if self._waited < limit and self._is_somebody_outside():
            return False
        if self._last_call != self._seen:
            return True  # who has just left has called in before

        if target is None or target > HORIZON:
            waiting = "\n  ".join(map(repr, asyncio.all_tasks(self)))
            text = f"nothing can happen any more at {self._now}:\n  {waiting}"
            self._deadlock = DeadlockError(text)
            self.stop()
            return True
        self._now = target
        while self._scheduled and self._scheduled[0].when() <= target:
            self.call_soon(self._ring, heapq.heappop(self._scheduled))
        return True

    def _next_time(self) -> float | None:
        while self._scheduled and self._scheduled[0].cancelled():
            heapq.heappop(self._scheduled)
        return max(self._now, self._scheduled[0].when()) if self._scheduled else None

    @staticmethod
    def _ring(timer: Timer) -> None:
        if not timer.cancelled():
            timer._run()
