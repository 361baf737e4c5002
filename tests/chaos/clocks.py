"""Threads that wait for the virtual clock: blocked works, and loops that idle in a thread.

Such a thread is not at work: the clock may jump while it waits, and does not while it runs.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tests import virtual_time

T = TypeVar("T")

parked: set[threading.Thread] = set()


def threads_at_work() -> set[threading.Thread]:
    """As the clock knows them, without those that wait for it."""
    return virtual_time.threads_at_work() - parked


class ChaosLoop(virtual_time.VirtualTimeLoop):
    """A loop on a clock that jumps over parked threads too."""

    def __init__(self) -> None:
        super().__init__()
        self._clock.threads_at_work = threads_at_work
        self._clock.patience = virtual_time.PATIENCE  # whoever is not parked soon has ended


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Do what asyncio.run does, on a virtual clock."""
    with asyncio.Runner(loop_factory=ChaosLoop) as runner:
        return runner.run(main)


def block(loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Block this thread for so many *seconds* of *loop*'s clock."""
    thread, over = threading.current_thread(), threading.Event()

    def release() -> None:
        parked.discard(thread)
        over.set()

    def arm() -> None:
        parked.add(thread)
        loop.call_later(seconds, release)

    try:
        loop.call_soon_threadsafe(arm)
    except RuntimeError:  # it is closed: nobody waits any more
        return
    over.wait()


class ParkingSelector(selectors.DefaultSelector):
    """Parks its thread while it waits."""

    def __init__(self, lock: threading.Lock) -> None:
        super().__init__()
        self._lock = lock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        with self._lock:
            ready = super().select(0)
            if ready or timeout == 0:
                return ready
            parked.add(threading.current_thread())
        try:
            return super().select(timeout)
        finally:
            parked.discard(threading.current_thread())


class ThreadLoop(asyncio.SelectorEventLoop):
    """A loop in a thread of a work; who calls in has it at work again at once."""

    def __init__(self) -> None:
        self._calling = threading.Lock()
        self._thread = threading.current_thread()
        super().__init__(ParkingSelector(self._calling))

    def call_soon_threadsafe(  # type: ignore[override]  # typeshed ties the arguments together
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        with self._calling:
            parked.discard(self._thread)
            return super().call_soon_threadsafe(callback, *args, context=context)


def run_in_this_thread(main: Coroutine[Any, Any, T]) -> T:
    """Do what asyncio.run does."""
    with asyncio.Runner(loop_factory=ThreadLoop) as runner:
        return runner.run(main)
