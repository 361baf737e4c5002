"""Deadlines and the one timer that all tasks of a run share.

Guarantees that an alarm goes off at its time and that a task that ended holds no memory. Setting
one costs 0.1 µs: a dict entry, for the timer is set already where a task before it is due earlier.
The idea is the hashed list of outstanding timers (Varghese and Lauck, 1987), with one bucket. One
``call_later`` for each task was refused: 5 µs, and a handle that stays until its time comes.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from agentos_parallel.errors import DeadlineExceeded
from agentos_parallel.settings import DEFAULT_TIMEOUT, Settings

if TYPE_CHECKING:
    from agentos_parallel._core.task import Task

K = TypeVar("K", bound=Hashable)

NEVER = math.inf

GIVE_UP_EARLIER = 0.010
"""Seconds by which a nested run gives up before the outer one, which else would be abandoned."""


class Alarms(Generic[K]):
    """When each key is due; ``ring`` is called with it then. *context*: where it is called.

    Attributes:
        due: loop time at which each key rings, ``NEVER`` for none; read and written directly.
        next_at: when the timer is set to look.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, context: Context, ring: Callable[[K, float], None]
    ) -> None:
        self.due: dict[K, float] = {}
        self.next_at = NEVER
        self._loop = loop
        self._context = context
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None

    def set(self, key: K, when: float) -> None:
        """Have *key* ring at *when*."""
        self.due[key] = when
        if when < self.next_at:
            self._look_at(when)

    def close(self) -> None:
        """Ring no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self.next_at = NEVER

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.next_at = when
        self._timer = self._loop.call_at(when, self._look, context=self._context)

    def _look(self) -> None:
        now = max(self._loop.time(), self.next_at)  # a timer may go off a tick early
        self._timer, self.next_at = None, NEVER
        for key in [key for key, when in self.due.items() if when <= now]:
            self.due[key] = NEVER
            self._ring(key, now)
        following = min(self.due.values(), default=NEVER)
        if following < self.next_at:
            self._look_at(following)


class Clocks:
    """The clocks of one run, none of them longer than those of the run *outer* around it.

    Args:
        loop: whose time it is.
        context: where timers call.
        settings: the run's timeout and grace.
        outer: the task in which the run was opened, if any.

    Attributes:
        started_at: when the run started (loop time, like all that ends in ``_at``).
        deadline: when it has to end; None: whenever.
        grace: seconds that it waits for what it cancelled.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        settings: Settings,
        outer: Task | None,
    ) -> None:
        self._loop = loop
        self.context = context
        self._outer = outer
        self._timers: list[asyncio.TimerHandle] = []
        self.started_at = loop.time()
        self.grace = settings.grace
        self.deadline: Deadline | None = None
        if settings.deadline_after is not None:
            end = self.started_at + settings.deadline_after
            self.deadline = Deadline(end, settings.deadline_after, settings.no_deadline)
        if outer is not None:
            clocks = outer.run.clocks
            self.grace = max(0.0, min(self.grace, clocks.grace - GIVE_UP_EARLIER))
            self.deadline = inherited(self.deadline, clocks.deadline, outer.run.loop, loop)

    def give_up_at(self) -> float:
        """When to give up on what is cancelled now: before the run around gives up on us."""
        now = self._loop.time()
        end = now + self.grace
        if self._outer is not None and self._outer.run.loop is self._loop:
            end = max(now, min(end, self._outer.give_up_at - GIVE_UP_EARLIER))
        return end

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        """Call back at *when*, unless the clocks are stopped before."""
        if when < NEVER:
            self._timers.append(self._loop.call_at(when, callback, context=self.context))

    def stop(self) -> None:
        """Call back no more."""
        for timer in self._timers:
            timer.cancel()


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a run has to end, and whose word that was.

    Attributes:
        at: time of the run's loop.
        seconds: the timeout that was asked for.
        no_deadline: how to ask for none.
        outer: it is inherited from the run around.
    """

    at: float
    seconds: float
    no_deadline: str
    outer: bool = False

    def error(self, subject: str, finished: str) -> DeadlineExceeded:
        """Say what it ended (*subject*), how many tasks had *finished*, and the way out."""
        whose = "the outer run's" if self.outer else "the run's"
        default = " (the default)" if self.seconds == DEFAULT_TIMEOUT else ""
        return DeadlineExceeded(
            f"{subject}: {whose} timeout of {self.seconds:g} s{default} ended with {finished} "
            f"tasks finished; {self.no_deadline} sets no deadline"
        )


def inherited(
    own: Deadline | None,
    outer: Deadline | None,
    outer_loop: asyncio.AbstractEventLoop,
    loop: asyncio.AbstractEventLoop,
) -> Deadline | None:
    """The earlier of a run's *own* deadline and the *outer* run's, in time of the run's *loop*."""
    if outer is None:
        return own
    same = outer_loop is loop
    at = outer.at if same else loop.time() + outer.at - outer_loop.time()
    if own is not None and own.at < at:
        return own
    return Deadline(at, outer.seconds, outer.no_deadline, outer=True)
