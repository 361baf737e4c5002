"""Results as they come: an async iterator over a run that goes on while it is read.

Guarantees backpressure (nothing starts while as many results are unread as tasks may be in hand),
one consumer, and that whoever leaves early leaves nothing running. It costs 2 µs a result beside
the run. An async generator was refused: one that yields inside a scope breaks when it is closed
(PEP 789), and its cleanup after a ``break`` comes late.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeAlias, TypeVar, Unpack, overload

from agentos_parallel._core.collect import Many, SupportsAinvoke, check_reach
from agentos_parallel._core.nesting import current, lent
from agentos_parallel._core.run import Run
from agentos_parallel._core.sources import SizedInput, Unsized, source_of
from agentos_parallel._core.stop import rule_of
from agentos_parallel._core.works import Call, begin, call_of
from agentos_parallel.arguments import discard, discarding
from agentos_parallel.checks import flag
from agentos_parallel.results import TaskResult
from agentos_parallel.settings import Options, Settings, entry_point

A = TypeVar("A")
T = TypeVar("T")

CLOSED = "the stream was closed"

Give: TypeAlias = Callable[[Any], Coroutine[Any, Any, None]]
"""Gives the reader of a stream a part of a result."""

UNREAD_PARTS = 64
"""How many parts of results a stream holds for its reader."""


class _Unread:
    """Results that came and were not read; the run knows this, and not the iterator."""

    run: Run

    def __init__(self, *, ordered: bool) -> None:
        self.waiter: asyncio.Future[None] | None = None
        self._ordered = ordered
        self.taken = 0
        self._by_index: dict[int, TaskResult[Any]] = {}
        self._in_turn: deque[TaskResult[Any]] = deque()
        self._head_of_rest: tuple[int, TaskResult[Any]] | None = None

    def put(self, index: int, result: TaskResult[Any]) -> None:
        """One more has come."""
        self.run.intake.unread += 1
        if self._ordered:
            self._by_index[index] = result
        else:
            self._in_turn.append(result)
        self.wake()

    def wake(self) -> None:
        """Have the reader look, if it waits."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def take(self) -> TaskResult[Any] | None:
        """The next to give, if it is there."""
        result = self._of_ended() or self._of_rest()
        if result is not None:
            self.taken += 1
            if self._ordered:
                self.run.intake.next_index = self.taken
        return result

    def _of_ended(self) -> TaskResult[Any] | None:
        if self._ordered:
            return self._by_index.pop(self.taken, None)
        return self._in_turn.popleft() if self._in_turn else None

    def _of_rest(self) -> TaskResult[Any] | None:
        """Of what never started; these results are made while they are read."""
        head = self._head_of_rest or next(self.run.rest, None)
        if head is None or (self._ordered and head[0] != self.taken):
            self._head_of_rest = head
            return None
        self._head_of_rest = None
        self.run.intake.unread += 1  # take() counts it down with the others
        return head[1]


class ResultStream(Generic[T]):
    """An async iterator of ``TaskResult``, and an async context manager that closes it.

    Made by ``parallel_stream`` and ``ParallelExecutor.stream``. The run starts with the first
    result that is asked for, or on entering ``async with``. It has one consumer. A ``break`` inside
    ``async with`` leaves nothing running; after a bare ``break`` the rest is cancelled when the
    iterator is collected.
    """

    def __init__(
        self,
        source: SizedInput | Unsized,
        settings: Settings,
        *,
        call: Call = begin,
        works: bool = False,
        ordered: bool = False,
    ) -> None:
        self._source = source
        self._works = source.items if works and isinstance(source, SizedInput) else ()
        self._unread = _Unread(ordered=ordered)
        self._run = self._unread.run = Run(
            source,
            call,
            settings,
            self._unread.put,
            rule_of(settings),
            works=works,
            lazy_rest=True,
        )
        if ordered:
            self._run.intake.next_index = 0
        self._opened = False
        self._closed = False
        self._reading = False
        self._told = False  # the run is over, and what it ended with has come out

    def __aiter__(self) -> Self:
        """The stream is its own iterator."""
        return self

    async def __anext__(self) -> TaskResult[T]:
        """The next result; cancelling this closes the stream.

        Raises:
            StopAsyncIteration: there is none, or the stream was closed.
            RuntimeError: another task is waiting for one.
            SourceError: after the last result, when the source raised.
            DeadlineExceeded: after the last result, when the deadline ended the run before a
                source of unknown length was drawn to its end.
        """
        if self._reading:
            raise RuntimeError("a stream has one consumer, and another task is reading this one")
        if self._closed:
            raise StopAsyncIteration
        # What never started is there at once: now and then others get their turn.
        if not self._run.stopping or self._unread.taken % 256:
            result = self._take()
            if result is not None:
                return result
        self._reading = True
        try:
            return await self._lent_arrival()
        except asyncio.CancelledError as error:  # perhaps while the slots were taken back
            await self._cancelled(error)
        finally:
            self._reading = False

    async def aclose(self) -> None:
        """Cancel what runs and wait for it to end; results that were not read are dropped.

        A reader that waits in another task is at the end then. Closing twice does nothing more.
        """
        self._closed = True
        if not self._opened:
            self._opened = self._told = self._run.over = True
            discard(self._works)
            if isinstance(self._source, Unsized):
                await self._source.close()
        self._run.stop(CLOSED)
        if not self._told:
            async with lent():
                await self._finish()

    async def __aenter__(self) -> Self:
        """Start the run."""
        self._open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.aclose()

    def __del__(self) -> None:
        """Cancel what a dropped iterator left running; no lock may be taken in here."""
        if not getattr(self, "_opened", True):
            discard(self._works)
        elif not self._run.over:
            stop = partial(self._run.stop, CLOSED)
            with suppress(RuntimeError):  # the loop is closed, and the run with it
                self._run.loop.call_soon_threadsafe(stop, context=self._run.context)

    def _open(self) -> None:
        if self._opened:
            return
        self._opened = True
        try:
            with discarding(self._works):
                self._run.open()
        except BaseException:
            self._closed = self._run.over = True
            raise

    def _take(self) -> TaskResult[T] | None:
        run = self._run
        if run.ledger.exit is not None:
            return None
        result = self._unread.take()
        if result is None:
            return None
        was_full = run.intake.unread >= run.intake.width
        run.intake.unread -= 1
        if was_full and run.intake.open:
            run.resume()
        return result

    async def _lent_arrival(self) -> TaskResult[T]:
        async with lent():
            try:
                self._open()
                if self._run.stopping:
                    await asyncio.sleep(0)
                return await self._arrival()
            except asyncio.CancelledError as error:  # in here: its tasks may have our slots
                await self._cancelled(error)

    async def _cancelled(self, error: asyncio.CancelledError) -> NoReturn:
        """Close it, for its reader was cancelled."""
        self._closed = True
        if not self._told:
            await self._finish(error)
        raise error

    async def _arrival(self) -> TaskResult[T]:
        """Wait for the next result."""
        run = self._run
        while self._closed or (result := self._take()) is None:
            if run.over or run.ledger.exit is not None or self._closed:
                await self._end()
            self._unread.waiter = waiter = run.waiter()
            await waiter
        return result

    def _failure(self) -> BaseException | None:
        run = self._run
        return run.failure(run.ledger.counts, past_deadline=not run.drawn_out)

    async def _finish(self, cancelled: asyncio.CancelledError | None = None) -> None:
        """Wait for the run to end; an exit comes out of it, once."""
        try:
            await self._run.finish(cancelled)
        finally:
            self._told = self._run.over

    async def _end(self) -> NoReturn:
        """Nothing more is given: what ended the run comes out."""
        closed, self._closed = self._closed, True
        await self._finish()
        failure = None if closed else self._failure()
        raise StopAsyncIteration if failure is None else failure


class PartStream(ResultStream[Any]):
    """A stream that gives parts of its results as well, while their tasks run: for adapters.

    A part comes as a record of its task that is still RUNNING, with the part as the result, and
    before the final record. A work that gives parts waits while ``UNREAD_PARTS`` are unread, by the
    clock of its task.

    Args:
        source: the items.
        settings: what bounds the run.
        call: starts the work of one item, which gives its parts by the first argument.
    """

    def __init__(
        self, source: SizedInput, settings: Settings, call: Callable[[Give, Any], Awaitable[Any]]
    ) -> None:
        super().__init__(source, settings, call=partial(call, self._give))
        self._parts: deque[TaskResult[Any]] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def _give(self, part: Any) -> None:
        """Have the reader get *part*, from a task of this stream: on its loop, in its context.

        Raises:
            asyncio.CancelledError: nobody waits for the task any more.
        """
        task = current.get()
        assert task is not None
        while len(self._parts) >= UNREAD_PARTS and not (task.settled or self._run.over):
            await self._room()
        if task.settled or self._run.over:
            raise asyncio.CancelledError("nobody reads it any more")
        self._parts.append(replace(task.result, result=part))
        self._unread.wake()

    async def _room(self) -> None:
        room: asyncio.Future[None] = self._run.loop.create_future()
        self._waiting.append(room)
        try:
            await asyncio.wait({room, self._run.waiter()}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not room.done():
                room.cancel()

    def _take(self) -> TaskResult[Any] | None:
        if not self._parts:
            return super()._take()
        while self._waiting:
            room = self._waiting.popleft()
            if not room.done():
                room.set_result(None)
                break
        return self._parts.popleft()


@overload
def parallel_stream(
    func: SupportsAinvoke[A, T],
    items: Many[A],
    *,
    max_concurrent: int | None = 8,
    timeout: float | None = None,
    ordered: bool = False,
    **options: Unpack[Options],
) -> ResultStream[T]: ...
@overload
def parallel_stream(
    func: Callable[[A], Awaitable[T]],
    items: Many[A],
    *,
    max_concurrent: int | None = 8,
    timeout: float | None = None,
    ordered: bool = False,
    **options: Unpack[Options],
) -> ResultStream[T]: ...
@overload
def parallel_stream(
    func: Callable[[A], T],
    items: Many[A],
    *,
    max_concurrent: int | None = 8,
    timeout: float | None = None,
    ordered: bool = False,
    **options: Unpack[Options],
) -> ResultStream[T]: ...
@overload
def parallel_stream(
    func: SupportsAinvoke[Any, T],
    items: Many[Any],
    *,
    max_concurrent: int | None = 8,
    timeout: float | None = None,
    ordered: bool = False,
    **options: Unpack[Options],
) -> ResultStream[T]: ...
@entry_point
def parallel_stream(
    func: Any,
    items: Any,
    *,
    max_concurrent: int | None = 8,
    timeout: float | None = None,
    ordered: bool = False,
    **options: Unpack[Options],
) -> ResultStream[Any]:
    """Run *func* on each of *items*, and give each result as it comes.

    Nothing starts while *max_concurrent* results are unread, so a slow consumer slows the run, and
    memory does not grow with the number of items. The consumer's own time counts against a
    deadline, if there is one.

    Args:
        func: a function of one item, sync (run in a thread) or async, or a Runnable.
        items: a list, an iterable or async iterable (drawn as they are needed), or a mapping,
            whose keys become the task_ids.
        max_concurrent: tasks at once; None: as many as ``throttler`` allows.
        timeout: seconds for the whole run, from the first result asked for; None: no deadline.
        ordered: give the results in input order, not as they come.
        **options: ``task_timeout``, ``fail_fast``, ``min_success``, ``throttler``, ``grace``: see
            ``ParallelExecutor``.

    Returns:
        An async iterator of ``TaskResult``, and an async context manager that closes it.

    Raises:
        TypeError, ValueError: a bad argument; nothing was started.

    Example:
        >>> import asyncio
        >>> async def main():
        ...     async with parallel_stream(str.upper, "a b c".split(), ordered=True) as results:
        ...         return [task.result async for task in results]
        >>> asyncio.run(main())
        ['A', 'B', 'C']
    """
    with discarding(func, items, max_concurrent, timeout, ordered, options):
        call, source = call_of("func", func), source_of("items", items)
        settings = Settings.of(max_concurrent, timeout, options)
        check_reach(settings, source)
        return ResultStream(source, settings, call=call, ordered=flag("ordered", ordered))
