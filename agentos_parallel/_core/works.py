"""What a user may hand over, made one async call.

Guarantees that a coroutine that never runs is closed, and that nothing sync runs on the event
loop. A coroutine function costs nothing extra. Guessing from the value that a call returns was
refused as the only way: by then a blocking function has blocked the loop.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from types import CoroutineType
from typing import Any, TypeAlias, TypeVar

from agentos_parallel._core import threads
from agentos_parallel._core.nesting import current
from agentos_parallel.arguments import discard
from agentos_parallel.checks import shown

T = TypeVar("T")

Call: TypeAlias = Callable[[Any], Awaitable[Any]]
"""Starts one work, of an item: what a run calls once a slot is there."""

_NO_LOOP = ("no running event loop", "There is no current event loop")


def call_of(name: str, function: Any) -> Call:
    """Make *function* of one argument (sync, async or a Runnable) an async call.

    Raises:
        TypeError: naming the argument *name*, if it is nothing of the kind.
    """
    if inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{name} must return one value, got the async generator function "
            f"{shown_callable(function)}: return a list instead of yielding"
        )
    # A Runnable, whose module we don't load; by its class, for a Mock has any attribute.
    if callable(getattr(type(function), "ainvoke", None)):
        return function.ainvoke  # type: ignore[no-any-return]  # it has one
    if is_async(function):
        return function  # type: ignore[no-any-return]  # is_async() looked
    if callable(function):
        return functools.partial(in_thread, function)
    raise TypeError(
        f"{name} must be a function (sync or async) or a Runnable, got {shown(function)}"
    )


def begin(work: Any) -> Awaitable[Any]:
    """Start *work*, an awaitable or a zero-argument factory, for the run.

    Raises:
        TypeError: it is neither.
    """
    if type(work) is CoroutineType or inspect.isawaitable(work):
        return work
    if is_async(work):
        return work()  # type: ignore[no-any-return]  # is_async() looked
    check_work("a work", work)
    return in_thread(work)


def check_work(name: str, work: Any) -> None:
    """Refuse what is neither awaitable nor callable.

    Raises:
        TypeError: naming it as *name*.
    """
    if inspect.isasyncgenfunction(work) or inspect.isasyncgen(work):
        raise TypeError(
            f"{name} is an async generator: a work returns one value; parallel_stream() or map() "
            "take one as their items"
        )
    if inspect.isawaitable(work) or callable(work):
        return
    kind = type(work).__name__
    given = shown(work) if shown(work).endswith(f" {kind}") else f"{shown(work)} of type {kind}"
    many = isinstance(work, Iterable) and not isinstance(work, str | bytes)
    hint = "; many works are unpacked, parallel_gather(*works)" if many else ""
    raise TypeError(f"{name} must be awaitable or a zero-argument function, got {given}{hint}")


def check_works(name: str, works: Sequence[Any], ids: Sequence[str] | None) -> None:
    """Refuse a bad work, or the same coroutine twice, before any of them starts.

    Raises:
        TypeError: a work is neither awaitable nor callable.
        ValueError: the same coroutine stands there twice.
    """
    keys: Sequence[Any] = range(len(works)) if ids is None else ids
    for key, work in zip(keys, works, strict=True):
        if type(work) is not CoroutineType:
            check_work(f"{name}[{key!r}]", work)
    if len(set(map(id, works))) == len(works):
        return
    first: dict[int, object] = {}
    for key, work in zip(keys, works, strict=True):
        if inspect.iscoroutine(work) and first.setdefault(id(work), key) != key:
            raise ValueError(
                f"{name}[{key!r}] is the same coroutine as {name}[{first[id(work)]!r}]: "
                "a coroutine runs only once"
            )


def is_async(function: Any) -> bool:
    """Whether calling *function* is known to give an awaitable without running anything.

    Coroutine functions, partials and methods of them, and objects with an async ``__call__``.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    if isinstance(function, type) or not callable(function):
        return False
    return inspect.iscoroutinefunction(type(function).__call__)


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Call *function* in a thread of ours; what it returns is awaited here, if it is awaitable.

    A cancel lets go of the thread at once; the task that it belongs to keeps its slot until the
    thread has ended.
    """
    value = await _called_in_thread(function, *args)
    return await value if inspect.isawaitable(value) else value


async def _called_in_thread(function: Callable[..., Any], *args: Any) -> Any:
    loop = asyncio.get_running_loop()
    task = current.get()
    if task is not None and task.run.loop is not loop:
        task = None  # its own thread runs this loop, and is counted already
    arrived: asyncio.Future[None] = loop.create_future()
    context = copy_context()
    calls = _Calls(loop)
    context.run(_calls.set, calls)
    outcome = _Outcome()

    def arrive() -> None:
        if task is not None:
            task.thread_ended(stray=arrived.done())
        if arrived.done():
            discard(outcome.value)  # nobody waits: it was abandoned
        else:
            arrived.set_result(None)

    def call() -> None:
        try:
            outcome.value = context.run(function, *args)
        except BaseException as raised:  # carried to the loop, exits included
            outcome.error = raised
        if outcome.unwanted:
            outcome.close()
        try:
            loop.call_soon_threadsafe(arrive, context=None if task is None else task.run.context)
        except RuntimeError:  # the loop is closed: there is only the slot to give back
            discard(outcome.value)
            if task is not None:
                task.give_up_slots()

    threads.start(call)
    if task is not None:
        task.threads += 1
    try:
        await arrived
    except BaseException:
        calls.cancel()
        outcome.unwanted = True
        outcome.close()  # its arrival may never come: an exit has stopped the loop, perhaps
        if not arrived.cancelled():  # it came, and the cancel came after it
            discard(outcome.value)
        elif task is not None:
            task.strays += 1
        raise
    if outcome.error is None:
        return outcome.value
    try:
        raise _explained(outcome.error, function)
    finally:
        outcome.error = None  # or the error would hold itself, through this frame


def from_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await *coroutine* on the loop that waits for this thread, which ``in_thread`` has started.

    It is cancelled when nobody waits for the thread any more.

    Raises:
        concurrent.futures.CancelledError: nobody waits for the thread any more.
        BaseException: whatever the coroutine raised.
    """
    calls = _calls.get()
    assert calls is not None
    return calls.result_of(coroutine)


class _Calls:
    """What a thread has its loop await."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._open: set[Future[Any]] = set()
        self._cancelled = False

    def result_of(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await *coroutine*; called in the thread."""
        call = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        self._open.add(call)
        if self._cancelled:  # meanwhile, perhaps before it was added
            call.cancel()
        try:
            return call.result()
        finally:
            self._open.discard(call)

    def cancel(self) -> None:
        """Nobody waits for the thread any more; called on the loop."""
        self._cancelled = True
        for call in list(self._open):
            call.cancel()


_calls: ContextVar[_Calls | None] = ContextVar("agentos_parallel_calls", default=None)


class _Outcome:
    """What a call in a thread gave or raised; *unwanted*: nobody waits for it any more."""

    value: Any = None
    error: BaseException | None = None
    unwanted = False

    def close(self) -> None:
        """Close the coroutine that it gave, if it did: from any thread, as it has not begun."""
        if inspect.iscoroutine(self.value):
            discard(self.value)


def _explained(error: BaseException, function: Callable[..., Any]) -> BaseException:
    """*error*, or what to do about it where the call itself needed the running loop."""
    if isinstance(error, RuntimeError) and str(error).startswith(_NO_LOOP):
        told = RuntimeError(
            f"{shown_callable(function)} needs the running event loop in the call itself, and sync "
            "functions are called in a thread: make it a coroutine function (async def)"
        )
        told.__cause__ = error
        return told
    return error


def shown_callable(function: Any) -> str:
    """A function's name, for an error text."""
    return getattr(function, "__qualname__", None) or f"a {type(function).__name__}"
