"""Threads that can be abandoned, and the one loop that serves sync callers.

Guarantees that a sync function never blocks the event loop, that a hanging one holds up neither
its run nor the exit of the interpreter, and that a forked child starts afresh. A call in an idle
thread costs about 30 µs. Idle threads are kept on a stack, the warmest on top, as in
``concurrent.futures``; that module itself was refused, for it joins its threads at exit.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextvars import ContextVar, copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from agentos_parallel.still import standing_still

logger = logging.getLogger("agentos_parallel")

T = TypeVar("T")

IDLE_SECONDS = 10.0
"""How long a thread waits for its next call before it ends."""

_idle: list[_Worker] = []


class _Worker(threading.Thread):
    """A daemon thread that runs one call after the other."""

    def __init__(self) -> None:
        super().__init__(name="agentos_parallel", daemon=True)
        self.calls: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def run(self) -> None:
        """Run calls until none has come for ``IDLE_SECONDS``."""
        while (call := self._next_call()) is not None:
            call()
            del call  # or its results live as long as this thread idles
            _idle.append(self)

    def _next_call(self) -> Callable[[], None] | None:
        try:
            return self.calls.get(timeout=IDLE_SECONDS)
        except Empty:
            pass
        try:
            _idle.remove(self)
        except ValueError:  # taken off the stack meanwhile: a call is on its way
            return self.calls.get()
        return None


def start(call: Callable[[], None]) -> None:
    """Run *call*, which must not raise, in a daemon thread; as many at once as are started.

    Raises:
        RuntimeError: the system allows no more threads.
    """
    try:
        worker = _idle.pop()
    except IndexError:
        worker = _Worker()
        worker.start()
    worker.calls.put(call)


class SyncLoop(threading.Thread):
    """An event loop in a daemon thread, kept for all calls from sync code.

    A fresh loop for each call would break clients that cache their connections by loop.
    """

    def __init__(self, depth: int) -> None:
        super().__init__(name=f"agentos_parallel-loop-{depth}", daemon=True)
        self.depth = depth
        self.loop = asyncio.new_event_loop()

    def run(self) -> None:
        """Serve until the interpreter ends."""
        asyncio.set_event_loop(self.loop)
        while True:
            try:
                self.loop.run_forever()
            except BaseException as error:  # an exit in somebody's callback: others are served
                text = "agentos_parallel: an exit in the loop of the sync callers: %r"
                self.loop.call_soon(logger.error, text, error)


_sync_loops: list[SyncLoop] = []
_depth: ContextVar[int] = ContextVar("agentos_parallel_sync_depth", default=0)
_sync_loops_lock = threading.Lock()
# Loops of the parent, in a forked child: closing one would unregister its sockets in the parent.
_loops_of_parent: list[SyncLoop] = []


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run *coroutine* on the persistent loop, and wait for it in this thread.

    The caller's context is copied. An exception here, such as KeyboardInterrupt, cancels the
    coroutine and waits for it to end. Safe in a thread that runs a loop, which stands still
    meanwhile; a call from the persistent loop's own thread is served by a second one.

    Raises:
        BaseException: whatever the coroutine raised.
    """
    depth = _depth_of_this_call()
    loop = _loop_at(depth)
    ended = threading.Event()
    tasks: list[asyncio.Task[None]] = []
    outcome: list[Callable[[], T]] = []

    async def carry() -> None:
        try:
            outcome.append(_returning(await coroutine))
        except BaseException as error:  # carried to the caller, exits included
            outcome.append(_raising(error))

    def begin() -> None:
        if not tasks:  # pragma: no branch - an interrupt may have it called twice
            tasks.append(loop.create_task(carry()))
            tasks[0].add_done_callback(lambda _: ended.set())

    context = copy_context()
    context.run(_depth.set, depth + 1)
    start = partial(loop.call_soon_threadsafe, begin, context=context)
    cancel = partial(loop.call_soon_threadsafe, lambda: tasks[0].cancel())
    with standing_still():
        interrupt = _wait(ended, start, cancel)
    if interrupt is not None:
        raise interrupt
    return outcome.pop()()


def iterate_sync(items: AsyncGenerator[T, None]) -> Iterator[T]:
    """Give what *items* gives, each step on the persistent loop; leaving early closes it."""

    async def step() -> T | _End:
        return await anext(items, _END)

    async def close() -> None:
        await items.aclose()

    try:
        while not isinstance(item := run_sync(step()), _End):
            yield item
    finally:
        run_sync(close())


class _End:
    """Stands behind the last item."""


_END = _End()


def _wait(
    ended: threading.Event, start: Callable[[], object], cancel: Callable[[], object]
) -> BaseException | None:
    """*start*, and wait to the end; *cancel* at the first interrupt, which is returned."""
    interrupt: BaseException | None = None
    steps = [start]
    while not ended.is_set():
        try:
            while steps:
                steps[0]()
                del steps[0]
            ended.wait()
        except BaseException as error:  # KeyboardInterrupt: raised by the caller, after the drain
            if interrupt is None:
                interrupt = error
                steps.append(cancel)
    return interrupt


def _returning(value: T) -> Callable[[], T]:
    return lambda: value


def _raising(error: BaseException) -> Callable[[], Any]:
    def again() -> Any:
        raise error

    return again


def _depth_of_this_call() -> int:
    """How many of the loops stand still until this call has returned."""
    current = threading.current_thread()
    return max(_depth.get(), current.depth + 1 if isinstance(current, SyncLoop) else 0)


def _loop_at(depth: int) -> asyncio.AbstractEventLoop:
    with _sync_loops_lock:
        while len(_sync_loops) <= depth:
            _sync_loops.append(SyncLoop(len(_sync_loops)))
            _sync_loops[-1].start()
        return _sync_loops[depth].loop


def _after_fork() -> None:
    """None of the threads is there in a forked child."""
    global _sync_loops_lock  # noqa: PLW0603 - a lock that another thread held at the fork
    _idle.clear()
    _loops_of_parent.extend(_sync_loops)
    _sync_loops.clear()
    _sync_loops_lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # pragma: no branch - there is no fork on Windows
    os.register_at_fork(after_in_child=_after_fork)
