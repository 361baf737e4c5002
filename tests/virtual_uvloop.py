"""uvloop on a clock that jumps, for `--uvloop`: the same tests, on the loop of many servers.

uvloop has no selector to replace. Its timers are kept here instead, and a glance now and then sets
the clock to the next one, where nothing has been called since the last glance and nobody outside is
at work; who is there is waited for really. See tests/virtual_time.py.
"""

import asyncio
import heapq
import itertools
import time
import weakref
from collections.abc import Callable
from contextvars import Context
from typing import Any

import uvloop

from tests.virtual_time import GLANCE, HORIZON, PATIENCE, START, threads_at_work


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
        self._now = START
        self._scheduled: list[Timer] = []  # as asyncio's loops call it
        self._calls = 0
        self._calls_seen = 0
        self._idle_since = time.monotonic()  # seconds of the real clock
        self._in_executor: weakref.WeakSet[asyncio.Future[Any]] = weakref.WeakSet()
        super().call_later(GLANCE / 2, self._glance)

    def time(self) -> float:
        """Tell the seconds on the virtual clock."""
        return self._now

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        """Do what uvloop does, and count it."""
        self._calls += 1
        return super().call_soon(callback, *args, context=context)

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        """Do what uvloop does, and count it."""
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        self._calls += 1  # not before: a glance between the two would see nothing new later
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
        timer = Timer(round(when, 9), callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        return timer

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """Do what uvloop does, and remember the call."""
        future = super().run_in_executor(executor, func, *args)
        self._in_executor.add(future)
        return future

    def _timer_handle_cancelled(self, timer: asyncio.TimerHandle) -> None:
        """Asyncio's handles tell their loop; a cancelled one does nothing when its time comes."""

    def _glance(self) -> None:
        if self.is_closed():
            return
        super().call_later(GLANCE / 2, self._glance)  # uvloop rounds to milliseconds
        if self._calls != self._calls_seen:
            self._calls_seen, self._idle_since = self._calls, time.monotonic()
            return
        while self._scheduled and self._scheduled[0].cancelled():
            heapq.heappop(self._scheduled)
        waited = time.monotonic() - self._idle_since
        limit = self._scheduled[0].when() - self._now if self._scheduled else PATIENCE
        if waited < limit and self._is_somebody_outside():
            return
        if self._scheduled and self._scheduled[0].when() < HORIZON:
            self._ring()
        elif waited > PATIENCE:
            self.stop()  # a deadlock

    def _ring(self) -> None:
        self._now = max(self._now, self._scheduled[0].when())
        while self._scheduled and self._scheduled[0].when() <= self._now:
            timer = heapq.heappop(self._scheduled)
            if not timer.cancelled():
                self.call_soon(timer._run)

    def _is_somebody_outside(self) -> bool:
        return bool(threads_at_work()) or any(not call.done() for call in self._in_executor)
