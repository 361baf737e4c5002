"""Slots: how many tasks may work at once, wherever they run.

Guarantees that never more than the limit hold a slot, that waiters are served in turn (a run takes
one slot and goes to the end of the queue), and that no slot is lost to a cancelled waiter or to a
closed loop. A slot that is free costs 0.3 µs and no await. The queue of places that stand for many
wanted slots is deficit round robin with a quantum of one (Shreedhar and Varghese, 1995).
``asyncio.Semaphore`` was refused: it belongs to one loop, can't be resized, and serves calls where
turns by slot are fair.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import select
import sys
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from contextvars import Context, copy_context
from types import TracebackType
from typing import Self

from agentos_parallel import still
from agentos_parallel.arguments import strict_call
from agentos_parallel.checks import shown, whole_number
from agentos_parallel.results import TaskStatus

_serials = itertools.count()


class Place:
    """A place in the queue of one throttler, for one waiter or for all works of a run.

    Made and used by one event loop; slots may come from any thread.

    Args:
        grant: called in the place's loop, in the context in which the place was made, with the
            number of slots that have come.
    """

    def __init__(self, grant: Callable[[int], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.context: Context = copy_context()
        self.grant = grant
        self.wants = 0
        self.front = False
        self.undelivered = 0


class TaskThrottler:
    """A limit on how many tasks work at once, shared by whoever is given it.

    Executors, tools, threads and event loops may share one. ``async with throttler:`` holds one
    slot by hand; a run takes its slots itself. Waiters are served first come, first served; runs
    take turns, slot by slot.

    Args:
        max_concurrent: how many slots there are, at least 1.

    Raises:
        TypeError: ``max_concurrent`` is no whole number.
        ValueError: it is less than 1.

    Example:
        >>> import asyncio
        >>> async def main():
        ...     throttler = TaskThrottler(2)
        ...     async with throttler:
        ...         return throttler.active, throttler.max_concurrent
        >>> asyncio.run(main())
        (1, 2)
    """

    lends = True
    """Whether a task gives its slot to others while it awaits a nested run."""

    @strict_call
    def __init__(self, max_concurrent: int = 10) -> None:
        self._limit = whole_number("max_concurrent", max_concurrent)
        # Whoever needs several throttlers takes them in this order, which resizing never changes.
        self.order = (self._limit, next(_serials))
        self._active = 0
        self._peak = 0
        self._lock = threading.Lock()
        self._urgent: OrderedDict[Place, None] = OrderedDict()
        self._queue: OrderedDict[Place, None] = OrderedDict()
        self._watching: set[Place] = set()
        # Grants on their way to a loop: where it closes first, they are taken back from here.
        self._undelivered: set[Place] = set()
        # Slots of coroutines that were collected while they held them.
        self._collected: deque[None] = deque()
        _throttlers.add(self)

    @property
    def max_concurrent(self) -> int:
        """How many slots there are."""
        return self._limit

    @property
    def active(self) -> int:
        """How many slots are taken now."""
        return self._active

    @property
    def peak(self) -> int:
        """The most slots that were taken at once."""
        return self._peak

    @property
    def waiting(self) -> int:
        """How many slots are waited for now."""
        with self._turn():
            return sum(place.wants for place in (*self._urgent, *self._queue))

    def resize(self, max_concurrent: int) -> None:
        """Change the number of slots; what runs goes on, and more than the limit only drains.

        Raises:
            TypeError: ``max_concurrent`` is no whole number.
            ValueError: it is less than 1.
        """
        limit = whole_number("max_concurrent", max_concurrent)
        with self._turn():
            self._limit = limit
            self._serve()
            for place in self._watching:
                self._notify(place)

    async def acquire(self, *, front: bool = False) -> None:
        """Take one slot, waiting for it in turn; without a wait where one is free.

        Args:
            front: wait before all that are not ``front``; for a task that lent its slot.
        """
        if self.try_acquire():
            return
        granted = asyncio.get_running_loop().create_future()
        collected = False

        def grant(slots: int) -> None:
            if slots and (granted.done() or collected):
                self.release()
            elif slots:
                granted.set_result(None)

        place = Place(grant)
        if self.request(place, 1, front=front):  # pragma: no cover - another thread's, just now
            return
        try:
            await granted
        except asyncio.CancelledError:
            self.leave(place)
            if granted.done() and not granted.cancelled():
                self.release()
            raise
        except GeneratorExit:
            collected = True  # a grant that still comes is given back
            if granted.done() and not granted.cancelled():
                self.release_collected()
            raise

    def try_acquire(self) -> bool:
        """Take one slot if one is free and nobody waits; says whether it did."""
        with self._turn():
            if self._active >= self._limit and (self._undelivered or self._collected):
                self._serve()  # some may be lost
            if self._queue or self._urgent or self._active >= self._limit:
                return False
            self._take(1)
            return True

    def release(self, outcome: TaskStatus | None = None) -> None:
        """Give one slot back; the next in turn gets it.

        Args:
            outcome: what became of the attempt that had it, for throttlers that learn; this one
                ignores it.

        Raises:
            RuntimeError: no slot is taken.
        """
        with self._turn():
            if not self._active:
                raise RuntimeError(
                    "release() without acquire(): no slot of this throttler is taken"
                )
            self._active -= 1
            self._serve()

    def may_keep(self) -> bool:
        """Whether who has a slot may hand it on: nobody waits, and the limit was not lowered."""
        return not self._queue and not self._urgent and self._active <= self._limit

    def request(self, place: Place, wants: int, *, front: bool = False) -> int:
        """Say how many more slots *place* wants; returns how many of them it has at once.

        The rest comes through ``place.grant``, one slot a turn. A new number replaces the last.
        """
        queue = self._urgent if front else self._queue
        with self._turn():
            place.front = front
            place.wants = wants = max(0, wants - place.undelivered)
            if place in queue:
                if not wants:
                    del queue[place]
                return 0
            if self._undelivered or self._collected:
                self._serve()  # whoever waited gets those that were lost
            taken = 0
            if not self._queue and not self._urgent:
                taken = max(0, min(wants, self._limit - self._active))
                self._take(taken)
            place.wants -= taken
            if place.wants > 0:
                queue[place] = None
                if still.loops:
                    self._serve()  # those before it may be unable to use what is free
        if self._collected:  # pragma: no cover - came from another thread while we had the lock
            self._serve_collected()
        return taken

    def serve(self) -> None:
        """Give out what is free; for when somebody can be served again who could not."""
        with self._turn():
            self._serve()

    def watch(self, place: Place) -> None:
        """Have ``place.grant`` called at every resize too, with 0 slots where none has come."""
        with self._turn():
            self._watching.add(place)

    def leave(self, place: Place) -> None:
        """Take *place* out of the queue, and back what was granted to it and did not arrive."""
        with self._turn():
            place.wants = 0
            self._watching.discard(place)
            self._queue.pop(place, None)
            self._urgent.pop(place, None)
            if self._take_back(place):
                self._serve()

    async def __aenter__(self) -> TaskThrottler:
        """Take one slot."""
        await self.acquire()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the slot back."""
        if exc_type is GeneratorExit:
            self.release_collected()
        else:
            self.release()

    def release_collected(self) -> None:
        """Give a slot back from a closed coroutine: perhaps the collector's, under our own lock."""
        self._collected.append(None)
        self._serve_collected()

    def _serve_collected(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                self._serve()
            finally:
                self._lock.release()

    def __copy__(self) -> Self:
        """Itself: whoever copies an executor, a tool or a chain shares its limits."""
        return self

    def __deepcopy__(self, memo: object) -> Self:
        """Itself, as for a copy."""
        return self

    def __repr__(self) -> str:
        """How many slots are taken."""
        return f"<TaskThrottler {self._active}/{self._limit} active>"

    def _turn(self) -> threading.Lock:
        """The lock, once it is free: nobody else's turn lasts longer than a few microseconds.

        Who waits inside ``acquire`` is given the lock before the GIL, and who has the GIL then
        stops for the lock: once begun, such a convoy goes on, at three times the price of a task.
        """
        while self._lock.locked() and sys.platform != "win32":
            # Lets others run for a microsecond. Watchdogs of the event loop take time.sleep() for
            # a call that blocks; Windows selects among sockets only.
            select.select((), (), (), 1e-6)
        return self._lock

    # What follows is called with the lock held.

    def _take(self, slots: int) -> None:
        self._active += slots
        if self._active > self._peak:
            self._peak = self._active

    def _serve(self) -> None:
        self._reclaim()
        while self._active < self._limit and (queue := self._queue_to_serve()):
            place, _ = queue.popitem(last=False)
            place.wants -= 1
            if not self._notify(place):
                continue  # its loop is closed
            place.undelivered += 1
            self._take(1)
            if place.wants > 0:
                queue[place] = None

    def _queue_to_serve(self) -> OrderedDict[Place, None] | None:
        """The queue whose first place is next: one in a loop that does not stand still."""
        if not still.loops:
            return self._urgent or self._queue
        for queue in (self._urgent, self._queue):
            for place in queue:
                if not still.passed_over(place.loop, self):
                    queue.move_to_end(place, last=False)
                    return queue
        return None

    def _notify(self, place: Place) -> bool:
        """Have *place* fetch its grants, in its loop; False where that loop is closed."""
        if place in self._undelivered:
            return True
        same_thread = place.thread == threading.get_ident()
        call = place.loop.call_soon if same_thread else place.loop.call_soon_threadsafe
        try:
            call(self._deliver, place, context=place.context)
        except RuntimeError:
            return False
        self._undelivered.add(place)
        return True

    def _reclaim(self) -> None:
        """Take back what was on its way to loops that don't run any more, or was collected."""
        while self._collected:
            self._collected.pop()
            self._active -= 1
        for place in list(self._undelivered):
            if place.loop.is_closed():
                self._take_back(place)
            elif still.loops and still.passed_over(place.loop, self):
                self._put_back(place)

    def _put_back(self, place: Place) -> None:
        """Have *place* wait on at the head of its queue for what was on its way to it."""
        slots = self._take_back(place)
        if slots:  # and not just word of a resize
            place.wants += slots
            queue = self._urgent if place.front else self._queue
            queue[place] = None
            queue.move_to_end(place, last=False)

    def _take_back(self, place: Place) -> int:
        slots, place.undelivered = place.undelivered, 0
        self._undelivered.discard(place)
        self._active -= slots
        return slots

    # Called by the loop of the place, without the lock.

    def _deliver(self, place: Place) -> None:
        with self._turn():
            slots, place.undelivered = place.undelivered, 0
            self._undelivered.discard(place)
        place.grant(slots)


class KeptThrottler(TaskThrottler):
    """One whose slots a task keeps while it awaits a nested run: for what can't run twice at once.

    It is taken before all others: who waits for its slot has no other that its holder, which has
    lent those, could wait for. A nested run must not wait for one.
    """

    lends = False

    def __init__(self, max_concurrent: int = 1) -> None:
        super().__init__(max_concurrent)
        self.order = (0, self.order[1])


def throttler_or_none(value: object) -> TaskThrottler | None:
    """Check that *value* is a throttler, or None: there is none to share.

    Raises:
        TypeError: it is something else.
    """
    if value is None or isinstance(value, TaskThrottler):
        return value
    raise TypeError(f"throttler must be a TaskThrottler or None, got {shown(value)}")


_throttlers: weakref.WeakSet[TaskThrottler] = weakref.WeakSet()


def _after_fork() -> None:
    """A forked child has none of the threads that held or waited for slots."""
    for throttler in _throttlers:
        throttler._lock = threading.Lock()
        throttler._active = 0
        throttler._urgent.clear()
        throttler._queue.clear()
        throttler._watching.clear()
        throttler._undelivered.clear()
        throttler._collected.clear()


if hasattr(os, "register_at_fork"):  # pragma: no branch - there is no fork on Windows
    os.register_at_fork(after_in_child=_after_fork)
