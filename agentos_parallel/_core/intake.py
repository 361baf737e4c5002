"""What a run takes in: how much is in hand, what may start, and in which lane it waits.

Guarantees that a run has no more works in hand than its width, drawn ones that wait included, and
starts nothing while as many results are unread. Costs nothing while slots are handed on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from operator import itemgetter

from agentos_parallel._core.lanes import Lane
from agentos_parallel._core.sources import Drawn, SizedInput
from agentos_parallel.settings import Settings
from agentos_parallel.throttle import TaskThrottler


class Intake:
    """The lanes of one run, one for each set of throttlers, and the room in it.

    Args:
        settings: the limits.
        sized: all works are known; else they are drawn, and in hand from then on.
        by_id: functions in *settings* know a work by its task_id, not as the item.
        start: starts the next work of a lane.

    Attributes:
        open: works may start.
        in_hand: works that were drawn (from a sized input: started) and have not ended.
        unread: results that a stream's consumer left unread.
        next_index: index of the work whose result an ordered stream gives next.
        follows_throttler: the width is that of the throttlers, which may be resized.
        draw_more: called when there is room to draw.
    """

    def __init__(
        self, settings: Settings, start: Callable[[Lane], None], *, sized: bool, by_id: bool
    ) -> None:
        self.open = True
        self.in_hand = 0
        self.unread = 0
        self.next_index: int | None = None
        self.draw_more: Callable[[], None] | None = None
        self.follows_throttler = settings.max_concurrent is None
        self._settings = settings
        self._throttlers = settings.throttlers
        self._by_item = settings.throttled_by_item
        self._start = start
        self._sized = sized
        self._by_id = by_id
        self._lanes: dict[tuple[TaskThrottler, ...], Lane] = {}

    @property
    def width(self) -> float:
        """How many works may be in hand."""
        if self._settings.max_concurrent is not None:
            return self._settings.max_concurrent
        if len(self._throttlers) == 1:
            return self._throttlers[0].max_concurrent
        return min((t.max_concurrent for t in self._throttlers), default=math.inf)

    def room(self, lane: Lane) -> float:
        """How many works of *lane* may start now; of drawn ones, which are in hand already, all."""
        if not self.open:
            return 0
        width = self.width
        left = width - self.in_hand if self._sized else math.inf
        if self.unread < width:
            return left
        # In order, nothing can be read before this one has started and ended.
        return min(left, 1) if lane.head == self.next_index else 0

    def may_draw(self) -> bool:
        """Whether one more work may be drawn."""
        return self.in_hand < self.width > self.unread

    def fill(self, source: SizedInput, since: float) -> None:
        """Take in all works of *source*, which wait *since* then (loop time)."""
        works = source.drawn(since)
        if not self._by_item:
            self._lanes[self._throttlers] = Lane(self, self._throttlers, works, len(source))
            return
        for drawn in works:
            self.lane_of(drawn).add(drawn)

    def lane_of(self, drawn: Drawn) -> Lane:
        """The lane in which a work waits, by the throttlers that it needs."""
        throttlers = self._throttlers
        if self._by_item:
            throttlers = self._settings.throttlers_of(drawn[1] if self._by_id else drawn[2])
        if throttlers not in self._lanes:
            self._lanes[throttlers] = Lane(self, throttlers)
        return self._lanes[throttlers]

    def pump(self) -> None:
        """Start what can start now, first what comes first in the input."""
        lanes = [lane for lane in self._lanes.values() if lane.left]
        for lane in sorted(lanes, key=lambda lane: lane.head) if len(lanes) > 1 else lanes:
            lane.pump()
        if self.draw_more is not None and self.may_draw():
            self.draw_more()

    def begin(self, lane: Lane) -> None:
        """Start the next work of *lane*, whose slots are there, beside those in hand."""
        if self._sized:
            self.in_hand += 1
        self._start(lane)

    def close(self) -> None:
        """Start nothing more, and leave all queues."""
        self.open = False
        for lane in self._lanes.values():
            lane.close()

    @property
    def left(self) -> int:
        """How many works have not started."""
        return sum(lane.left for lane in self._lanes.values())

    def rest(self) -> Iterable[Drawn]:
        """The works that never started, in input order, taken out of their lanes."""
        lanes = list(self._lanes.values())
        if len(lanes) == 1:
            return lanes[0].rest()
        return sorted((drawn for lane in lanes for drawn in lane.rest()), key=itemgetter(0))
