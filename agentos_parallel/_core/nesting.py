"""The task we are in, what it lends to the runs that it awaits, and what these inherit from it.

Guarantees that runs in runs can't deadlock on slots: while a task awaits a nested run it lends its
slots, and takes them back at the front of the queue when the last nested run has ended. Costs
nothing where nothing nests. Haskell's and Java's managed blockers (``ForkJoinPool``) compensate a
blocked worker in the same way. Simply starting nested tasks outside the limit was refused: a tree
of agents would then pass every limit.
"""

from __future__ import annotations

import asyncio
import os
import threading
from abc import ABC, abstractmethod
from concurrent.futures import Future
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from agentos_parallel.results import TaskStatus
from agentos_parallel.throttle import TaskThrottler

if TYPE_CHECKING:
    from agentos_parallel._core.task import Task

current: ContextVar[Task | None] = ContextVar("agentos_parallel_task", default=None)
"""The task that this code runs in, through threads and nested event loops too."""

# Nested runs may come from other threads; they are rare, so one lock serves them all.
_lock = threading.Lock()


class NestedRun(Protocol):
    """What a task knows of a run that was opened in it."""

    def cancel_from_thread(self) -> None:
        """Cancel the run, from any thread."""


class Lender(ABC):
    """The slots of one task, and the nested runs that it lends them to.

    Attributes:
        holding: it has all its slots now.
        kept: those that it never lends, while it has lent the others.
        own: what it has taken beside them, by ``take_now``.
        cancelled: its run, or its clock, has cancelled it: it goes on without slots.
        settled: it has its outcome, and never needs them again.
    """

    holding = False
    kept: tuple[TaskThrottler, ...] = ()
    own: tuple[TaskThrottler, ...] = ()
    cancelled = False
    lent_to = 0
    _taking: Future[None] | None = None
    _nested: frozenset[NestedRun] = frozenset()

    @property
    @abstractmethod
    def throttlers(self) -> tuple[TaskThrottler, ...]:
        """Those whose slots the task needs, in their one order."""

    @property
    @abstractmethod
    def settled(self) -> bool:
        """Whether the task has its outcome."""

    @abstractmethod
    def slots_in_use(self) -> bool:
        """Whether something works with the slots that does not wait with the task."""

    def give_up_slots(self, outcome: TaskStatus | None = None) -> None:
        """Give back what it holds, if it does."""
        held = self.throttlers if self.holding else self.kept
        if self.own:
            held = (*held, *self.own)
        self._hold_nothing()
        for throttler in held:
            throttler.release(outcome)

    def drop_slots(self) -> None:
        """The same from a closed coroutine: perhaps the collector's, where no lock may be taken."""
        held = (*(self.throttlers if self.holding else self.kept), *self.own)
        self._hold_nothing()
        for throttler in held:
            throttler.release_collected()

    def _hold_nothing(self) -> None:
        self.holding = False
        if self.kept or self.own:
            self.kept = self.own = ()

    def lend(self) -> None:
        """One more nested run is awaited: others may have the slots, once they are idle."""
        keep = self.slots_in_use()
        with _lock:
            self.lent_to += 1
            if not keep:
                self._lend_slots()

    def idle_slots(self) -> None:
        """If nothing works with the slots any more, and they are lent, others have them now."""
        with _lock:
            if self.lent_to and not self.slots_in_use():
                self._lend_slots()

    def _lend_slots(self) -> None:
        """Let others have the slots, but for those that are never lent."""
        if self.holding:
            self.holding = False
            for throttler in self.throttlers:
                if throttler.lends:
                    throttler.release()
                else:
                    self.kept = (*self.kept, throttler)

    async def take_back(self) -> None:
        """One nested run has ended: with the last, wait for the slots.

        Several at once in one task wait together; a cancelled one goes on without.
        """
        with _lock:
            self.lent_to -= 1
        await self.regain_slots()

    async def regain_slots(self) -> None:
        """Wait until it holds its slots, unless they are lent or it needs none."""
        while (turn := self._turn_to_take()) is not None:
            mine, taking = turn
            if mine:
                await self._take(taking)
            else:
                await asyncio.shield(asyncio.wrap_future(taking))

    def _turn_to_take(self) -> tuple[bool, Future[None]] | None:
        """Who takes the slots: None: nobody has to; else whether it is we, and who waits for it."""
        with _lock:
            idle = self.lent_to or self.settled or self.cancelled
            if idle or self.holding or not self.throttlers:
                return None
            if self._taking is not None:
                return False, self._taking
            self._taking = Future()
            return True, self._taking

    async def _take(self, taking: Future[None]) -> None:
        taken: list[TaskThrottler] = []
        try:
            for throttler in self.throttlers:
                if throttler.lends:
                    await throttler.acquire(front=True)
                    taken.append(throttler)
        except GeneratorExit:  # perhaps the collector's: no lock may be taken
            for throttler in taken:
                throttler.release_collected()
            raise
        except asyncio.CancelledError:
            self._took(taken, taking)
            raise
        self._took(taken, taking)

    def _took(self, taken: list[TaskThrottler], taking: Future[None]) -> None:
        with _lock:
            self._taking = None
            # Another run may have opened meanwhile, or the task may be over by now.
            complete = len(taken) == sum(each.lends for each in self.throttlers)
            keep = complete and not (self.lent_to or self.settled)
            if keep:
                self.holding, self.kept = True, ()
        if not keep:
            for throttler in taken:
                throttler.release()
        taking.set_result(None)

    def opens(self, run: NestedRun) -> None:
        """Remember a run that was opened in this task."""
        with _lock:
            self._nested |= {run}

    def closes(self, run: NestedRun) -> None:
        """Forget it."""
        with _lock:
            self._nested -= {run}

    def cancel_nested(self) -> None:
        """Cancel what runs in this task's thread, which itself can't be cancelled."""
        for run in self._nested:
            run.cancel_from_thread()


class in_task:  # noqa: N801 - reads as a phrase: with in_task(child)
    """The block is in *task*, whatever it was in before."""

    __slots__ = ("_task", "_token")

    def __init__(self, task: Task) -> None:
        self._task = task

    def __enter__(self) -> None:
        """Enter the task."""
        self._token = current.set(self._task)

    def __exit__(self, *exc_info: object) -> None:
        """Go back to the one before."""
        current.reset(self._token)


class lent:  # noqa: N801 - reads as a verb: async with lent()
    """Lend the task's slots while the block waits; they are taken back after it.

    Does nothing outside a task.
    """

    __slots__ = ("_task",)

    async def __aenter__(self) -> None:
        """Give the slots to others."""
        task = current.get()
        self._task = None if task is None or task.settled else task
        if self._task is not None:
            self._task.lend()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the slots, unless the task itself was cancelled."""
        if self._task is None:
            return
        if exc_type is GeneratorExit:  # the collector's, perhaps: nothing can be awaited
            self._task.lent_to -= 1
            return
        try:
            await self._task.take_back()
        except asyncio.CancelledError:
            if exc is None or isinstance(exc, Exception | asyncio.CancelledError):
                raise  # else the nested run raised an exit, which goes before a cancel


def take_now(throttler: TaskThrottler) -> bool:
    """Take a slot for the task that we are in, if one is free; says whether one was.

    It is not lent, and given back when the task has really ended.
    """
    task = current.get()
    assert task is not None
    if not throttler.try_acquire():
        return False
    with _lock:
        task.own = (*task.own, throttler)
    return True


def remaining() -> float | None:
    """Seconds left until the deadline of the run whose task this code is in.

    For works that hand their time on, to an HTTP client say. None without a deadline, and outside
    a run; never below 0.

    Example:
        >>> import asyncio
        >>> from agentos_parallel import parallel_gather
        >>> async def work():
        ...     return 0 < remaining() <= 5
        >>> asyncio.run(parallel_gather(work, timeout=5)).get_results()
        [True]
    """
    task = current.get()
    if task is None or task.run.clocks.deadline is None:
        return None
    return max(0.0, task.run.clocks.deadline.at - task.run.loop.time())


def _after_fork() -> None:
    """A forked child is in no task: the run around it, its loop and its slots are the parent's."""
    global _lock  # noqa: PLW0603 - a lock that another thread held at the fork
    _lock = threading.Lock()
    current.set(None)


if hasattr(os, "register_at_fork"):  # pragma: no branch - there is no fork on Windows
    os.register_at_fork(after_in_child=_after_fork)
