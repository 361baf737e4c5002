"""The works of a run that need the same throttlers, and the run's places in their queues.

Guarantees that such works start in input order, that one needing several throttlers takes them in
their one order, and that no slot idles in the hands of a run that has no work for it. Without
throttlers it costs nothing; with one a request for each slot that could not be handed on. Slots
are counted, not bound to works: one that comes goes to the next in line. One waiter for each work
was refused: a run of 10 000 would have 10 000 turns to another's one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from agentos_parallel._core.sources import Drawn
from agentos_parallel.throttle import Place, TaskThrottler

if TYPE_CHECKING:
    from agentos_parallel._core.intake import Intake


NOWHERE = -1
"""The index of no work."""


class Lane:
    """Works that need the same throttlers, in input order.

    Args:
        intake: what may start, and where it starts.
        throttlers: what each of them needs, in the order in which slots are taken.
        works: all there will be; None: they are added one by one.

    Attributes:
        take: gives the next work.
        left: how many works there are.
        hands_on: the slots of a task that ends may go straight to the next work: they were there
            before the run stopped, all works are known, and no other lane is to have its turn.
    """

    def __init__(
        self,
        intake: Intake,
        throttlers: tuple[TaskThrottler, ...],
        works: Iterator[Drawn] | None = None,
        left: int = 0,
    ) -> None:
        self.intake = intake
        self.throttlers = throttlers
        self.left = left
        self.hands_on = works is not None
        self._queue: deque[Drawn] = deque()
        self.take: Callable[[], Drawn] = works.__next__ if works else self._queue.popleft
        self._places = [Place(partial(self._granted, i)) for i in range(len(throttlers))]
        # waiting[i]: works that hold the slots before the i-th and wait for that one.
        self._waiting = [0] * len(throttlers)
        if intake.follows_throttler:
            for throttler, place in zip(throttlers, self._places, strict=True):
                throttler.watch(place)

    def add(self, drawn: Drawn) -> None:
        """One more work."""
        self._queue.append(drawn)
        self.left += 1

    def remove(self, drawn: Drawn) -> None:
        """Take out one that waits."""
        self._queue.remove(drawn)
        self.left -= 1

    @property
    def head(self) -> int:
        """Index of the next work, in a lane to which works were added; else ``NOWHERE``."""
        return self._queue[0][0] if self._queue else NOWHERE

    def pump(self) -> None:
        """Start what can start now, and queue for the rest."""
        if not self.throttlers:
            while self.left and self.intake.room(self):
                self.intake.begin(self)
            return
        wanted = int(min(self.left, self.intake.room(self)))
        self._shed(sum(self._waiting[1:]) - wanted)
        self._ask(0, wanted - sum(self._waiting[1:]))

    def keeps_slots(self) -> bool:
        """Whether a task may hand its slots to the next work of the lane."""
        for throttler in self.throttlers:  # noqa: SIM110 - all() costs 0.3 µs a task
            if not throttler.may_keep():
                return False
        return True

    def close(self) -> None:
        """Leave the queues, and give back what works hold that wait for a further slot."""
        self.hands_on = False
        if not self.left:
            self.take = self._queue.popleft  # lets go of the items
        self._shed(sum(self._waiting[1:]))
        for throttler, place in zip(self.throttlers, self._places, strict=True):
            throttler.leave(place)

    def rest(self) -> Iterator[Drawn]:
        """The works that never started, taken out of the lane."""
        while self.left:
            self.left -= 1
            yield self.take()

    def _ask(self, stage: int, wanted: int) -> None:
        """Have *wanted* slots of the throttler at *stage* requested; those free come at once."""
        got = self.throttlers[stage].request(self._places[stage], max(0, wanted))
        if got:
            self._advance(stage, got)

    def _granted(self, stage: int, slots: int) -> None:
        """*slots* have come from the throttler at *stage*; 0: it was resized."""
        self._advance(stage, slots)
        self.intake.pump()

    def _advance(self, stage: int, slots: int) -> None:
        """*slots* works have the slot of *stage*: on to the next, or start."""
        if stage:
            surplus = max(0, slots - self._waiting[stage])
            slots -= surplus
            self._waiting[stage] -= slots
            self._give_back(stage, surplus, first=stage)
        if stage + 1 < len(self.throttlers):
            self._waiting[stage + 1] += slots
            self._ask(stage + 1, self._waiting[stage + 1])
            return
        for _ in range(slots):
            if self.left and self.intake.room(self):
                self.intake.begin(self)
            else:
                self._give_back(stage, 1)

    def _shed(self, surplus: int) -> None:
        """Give back what *surplus* works hold that wait for a further slot."""
        for stage in range(1, len(self.throttlers)):
            if surplus <= 0:
                return
            shed = min(surplus, self._waiting[stage])
            if shed:
                surplus -= shed
                self._waiting[stage] -= shed
                self.throttlers[stage].request(self._places[stage], self._waiting[stage])
                self._give_back(stage - 1, shed)

    def _give_back(self, stage: int, works: int, first: int = 0) -> None:
        """Release the slots from *first* to *stage* of so many works."""
        for throttler in self.throttlers[first : stage + 1] * works:
            throttler.release()
