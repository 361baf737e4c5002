"""A run: takes works in, has them run, stops, drains and is over.

Guarantees that nothing of the run is alive when it has ended, whatever ends it: its last task, a
stop rule, the deadline, a cancel from outside, an exit in a task. The shape is that of trio's
nursery, with the works drawn where a nursery is handed its tasks. The standard TaskGroup was
refused: it swallows a cancel in some corners, and knows no drain that ends.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextvars import copy_context
from functools import partial
from typing import Any

from agentos_parallel._core.clock import Clocks
from agentos_parallel._core.crew import Crew, ErrorOf
from agentos_parallel._core.feed import Feed
from agentos_parallel._core.intake import Intake
from agentos_parallel._core.lanes import Lane
from agentos_parallel._core.ledger import Deliver, Ledger
from agentos_parallel._core.nesting import current
from agentos_parallel._core.others import Others
from agentos_parallel._core.sources import Drawn, SizedInput, Unsized
from agentos_parallel._core.stop import StopRule
from agentos_parallel._core.task import is_control_flow, with_own_timeout
from agentos_parallel._core.works import Call
from agentos_parallel.arguments import discard
from agentos_parallel.errors import SourceError
from agentos_parallel.results import GatherResult, TaskResult, TaskStatus
from agentos_parallel.settings import Settings

# Runs that nobody awaits: asyncio holds tasks weakly, and what a dropped stream leaves would be
# collected with it before it could be cancelled and closed.
_streaming: set[Run] = set()

CALLER_CANCELLED = "the caller was cancelled"
CALLER_ABANDONED = "the task around it was abandoned"


class Run:
    """One run over one source.

    Args:
        source: the works, or the items of a map; None: they are handed over while it lasts.
        call: what starts the work of one item.
        settings: what bounds the run.
        deliver: takes each final result.
        rule: gives a reason to stop; None: there is none.
        works: the items are works, which are discarded where they never run, and are known to
            the functions in *settings* by their task_id.
        lazy_rest: results of what never started after a stop are not delivered, but made while
            they are read from ``rest``.

    Attributes:
        ledger: its accounts.
        intake: what may start.
        stopping: what runs was cancelled.
        over: nothing of the run is alive.
        rest: index and result of what never started.
        depth: how many runs stand around it.
        crew: the tasks that are alive.
    """

    loop: asyncio.AbstractEventLoop
    clocks: Clocks
    crew: Crew
    depth: int
    rest: Iterator[tuple[int, TaskResult[Any]]] = iter(())

    def __init__(
        self,
        source: SizedInput | Unsized | None,
        call: Call,
        settings: Settings,
        deliver: Deliver,
        rule: StopRule | None = None,
        *,
        works: bool = False,
        lazy_rest: bool = False,
    ) -> None:
        expected = len(source) if isinstance(source, SizedInput) else None
        self.ledger = Ledger(expected, deliver, rule, self.stop)
        self.intake = Intake(settings, self._begin, sized=expected is not None, by_id=works)
        self.call = call
        self.stopping = False
        self.over = False
        self._source = source
        self._settings = settings
        self._works = works
        self._lazy_rest = lazy_rest
        self._feed: Feed | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._finished_in_time: str | None = None  # once the deadline has ended the run
        self._task_seconds: float | None = None
        if callable(settings.task_timeout):
            self.call = with_own_timeout(call, settings.task_timeout, by_id=works)
        else:
            self._task_seconds = settings.task_timeout

    # From the outside.

    def open(self) -> None:
        """Start the run in the running loop, in the caller's context.

        Raises:
            ValueError: neither ``max_concurrent`` nor one throttler says how much to draw.
        """
        self.loop = asyncio.get_running_loop()
        self.context = copy_context()
        parent = current.get()
        live = parent is not None and (parent.result.abandoned or not parent.settled)
        self._parent = parent if live else None
        self.depth = 0 if self._parent is None else self._parent.run.depth + 1
        # A context of their own: a cancelled timer stays for a while, and ours knows the last task.
        self.clocks = Clocks(self.loop, copy_context(), self._settings, self._parent)
        self.crew = Crew(self, self.context, self.depth, self._task_seconds)
        self._others = Others(self.loop, self.context, self.look_whether_over)
        self._take_in()
        if self._lazy_rest:
            keep_alive(self)
        if self._parent is not None:
            self._parent.opens(self)
            if self._parent.result.abandoned:
                self._cancel_caller(CALLER_ABANDONED)
        deadline = self.clocks.deadline
        if deadline is not None:
            self.clocks.call_at(deadline.at, self._deadline_passed)
            if deadline.at <= self.clocks.started_at:
                self._deadline_passed()
        if self.intake.open:
            self.resume()
        self.look_whether_over()

    async def finish(self, cancelled: asyncio.CancelledError | None = None) -> None:
        """Wait until nothing of the run is alive; a cancel meanwhile stops it first.

        Args:
            cancelled: the caller has been cancelled already.

        Raises:
            asyncio.CancelledError: after the drain, when the caller was cancelled.
            BaseException: after the drain, the ledger's ``exit``.
        """
        if cancelled is not None:
            self._hurry(CALLER_CANCELLED)
        while not self.over:
            try:
                await self.waiter()
            except asyncio.CancelledError as error:
                cancelled = cancelled or error
                self._hurry(CALLER_CANCELLED)
        failure = cancelled if self.ledger.exit is None else self.ledger.exit
        if failure is not None:
            try:
                raise failure
            finally:
                del failure, cancelled  # or the exception would hold itself, through this frame

    def waiter(self) -> asyncio.Future[None]:
        """A future that is done once the run is over."""
        waiter: asyncio.Future[None] = self.loop.create_future()
        self._waiters.add(waiter)
        waiter.add_done_callback(self._waiters.discard)
        return waiter

    def resume(self) -> None:
        """Start what may start now; for calls from outside the run's own callbacks."""
        self.context.copy().run(self.intake.pump)

    def stop(self, reason: str | BaseException) -> None:
        """Start nothing more and cancel what runs; an exception becomes the error of both."""
        if not self.stopping and not self.over:
            error = reason if isinstance(reason, BaseException) else None
            self._stop(reason, TaskStatus.CANCELLED, lambda _: error)

    def cancel_from_thread(self) -> None:
        """Stop, from any thread: the thread in which this run was opened was abandoned."""
        cancel = partial(self._cancel_caller, CALLER_ABANDONED)
        try:
            self.loop.call_soon_threadsafe(cancel, context=self.context)
        except RuntimeError:  # its loop is closed, and it with it
            return

    def failure(self, gathered: GatherResult[Any], *, past_deadline: bool) -> BaseException | None:
        """What has to come out of the finished call instead of *gathered*.

        *past_deadline*: the deadline's word counts too.
        """
        if self.ledger.control_flow is not None:
            return self.ledger.control_flow[1]
        error = None if self._feed is None else self._feed.error
        if error is not None:
            if is_control_flow(error):
                return error
            told = SourceError(f"the source of the works raised {error!r}", result=gathered)
            told.__cause__ = error
            return told
        if self._finished_in_time is not None and past_deadline:
            assert self.clocks.deadline is not None
            late = self.clocks.deadline.error("timed out", self._finished_in_time)
            late.result = gathered
            return late
        return None

    @property
    def drawn_out(self) -> bool:
        """All works that there are were drawn."""
        return self._feed is None or self._feed.exhausted

    # Drawing and starting.

    def draw(self, item: Any) -> bool:
        """Take *item*, drawn from the source, into the run; says whether it may start."""
        index = self.ledger.draw()
        drawn = (index, str(index), item, self.loop.time())
        self.intake.in_hand += 1
        if not self.intake.open:  # the source went on through its cancel
            self._refuse(drawn, None)
            return False
        try:
            lane = self.intake.lane_of(drawn)
        except (
            BaseException
        ) as error:  # the user's throttler=: of a lazy source, its task's failure
            self._refuse(drawn, error)
            if not isinstance(error, Exception):
                raise
            return False
        lane.add(drawn)
        self.resume()
        return True

    def _begin(self, lane: Lane) -> None:
        self.crew.start(lane, self.loop.time())

    # The end of the run.

    def _stop(self, reason: str | BaseException, status: TaskStatus, error_of: ErrorOf) -> None:
        self.stopping = True
        self._stop_starting(reason, status, error_of)
        give_up_at = self.clocks.give_up_at()
        self.crew.cancel(status, error_of, give_up_at)
        if self._others:
            self._others.cancel()
            self.clocks.call_at(give_up_at, self._others.give_up)
        self.look_whether_over()

    def _hurry(self, reason: str) -> None:
        """Stop; where it has stopped already, still give up before the run around does."""
        if not self.stopping:
            self.stop(reason)
            return
        give_up_at = self.clocks.give_up_at()
        self.crew.give_up_by(give_up_at)
        if self._others:
            self.clocks.call_at(give_up_at, self._others.give_up)

    def _stop_starting(
        self, reason: str | BaseException, status: TaskStatus, error_of: ErrorOf
    ) -> None:
        """The softer degree: nothing more starts, what runs may finish."""
        if not self.intake.open:
            return
        self.intake.close()
        self.ledger.counts.reason = str(reason) or type(reason).__name__
        self._write_off(status, error_of)

    def _write_off(self, status: TaskStatus, error_of: ErrorOf) -> None:
        """Give their outcome to the works that will never start."""
        left, rest, now = self.intake.left, self.intake.rest(), self.loop.time()
        if self._works:
            rest = [self._discarded(drawn) for drawn in rest]
        results = ((drawn[0], self._never_started(status, error_of, now, drawn)) for drawn in rest)
        if self._lazy_rest:
            self.ledger.write_off(status, left)
            self.rest = results
            return
        for index, result in results:
            self.ledger.settle(index, result, status, now)

    def _never_started(
        self, status: TaskStatus, error_of: ErrorOf, now: float, drawn: Drawn
    ) -> TaskResult[Any]:
        result: TaskResult[Any] = TaskResult(drawn[1], status)
        result.finished_at = now
        result.queued_ms = (now - drawn[3]) * 1000
        result.error = error_of(result)
        return result

    def _refuse(self, drawn: Drawn, error: BaseException | None) -> None:
        """End a work of a lazy source that can't start."""
        self.intake.in_hand -= 1
        self._discarded(drawn)
        status = TaskStatus.CANCELLED if error is None else TaskStatus.FAILED
        now = self.loop.time()
        result = self._never_started(status, lambda _: error, now, drawn)
        self.ledger.settle(drawn[0], result, status, now)

    def _discarded(self, drawn: Drawn) -> Drawn:
        self.discard(drawn[2])
        return drawn

    def discard(self, item: Any) -> None:
        """Close a work that never ran; a Future, which runs all the same, is drained."""
        if not self._works:
            return
        discard(item)
        if asyncio.isfuture(item) and not item.done() and item.get_loop() is self.loop:
            self._others.watch(item, item.cancel)
            self.clocks.call_at(self.clocks.give_up_at(), partial(self._others.give_up, item))

    def _feed_ended(self) -> None:
        assert self._feed is not None
        error = self._feed.error
        if error is None and self._feed.exhausted:
            self.ledger.drawn_out()
        elif isinstance(error, Exception | asyncio.CancelledError):
            self._stop_starting("its source raised", TaskStatus.CANCELLED, lambda _: None)
        elif error is not None:
            self.ledger.leave(error, f"its source raised {type(error).__name__}")

    def _deadline_passed(self) -> None:
        deadline, ledger = self.clocks.deadline, self.ledger
        if self.stopping or deadline is None:
            return
        finished = f"{ledger.counts.total - ledger.unsettled} of {ledger.counts.total}"
        if not self.drawn_out:
            finished += " drawn"
        self._finished_in_time = finished

        def error_of(result: TaskResult[Any]) -> BaseException:
            what = "timed out" if result.started_at else "never started"
            return deadline.error(f"task {result.task_id!r} {what}", finished)

        self._stop(f"its timeout of {deadline.seconds:g} s ended", TaskStatus.TIMEOUT, error_of)

    def _cancel_caller(self, reason: str) -> None:
        if not self.over:
            self.ledger.leave(asyncio.CancelledError(reason), reason)

    def look_whether_over(self) -> None:
        """Be over, if nothing is left to wait for; asked after whatever may have been the last."""
        if self.over or self.ledger.unsettled or self._others:
            return
        self.over = True
        self.crew.alarms.close()
        self.clocks.stop()
        self.intake.close()
        if self._parent is not None:
            self._parent.closes(self)
        duration = self.loop.time() - self.clocks.started_at
        self.ledger.close(duration, drawn_out=self.drawn_out)
        # A run is in cycles, and its items don't wait for the collector.
        self._source = SizedInput(())
        _streaming.discard(self)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _take_in(self) -> None:
        """Fill the lanes, or start to draw."""
        source = self._source
        assert source is not None  # else there is nothing to take in: see GroupRun
        if isinstance(source, SizedInput):
            try:
                self.intake.fill(source, self.clocks.started_at)
            except BaseException:  # the user's throttler=: nothing starts
                self.intake.close()
                discard(*source.items if self._works else ())
                raise
        else:
            if self.intake.width == math.inf:
                raise ValueError(
                    "max_concurrent must be a number here: with throttler= as a function nothing "
                    "else says how much of the source to draw"
                )
            self._feed = Feed(self, source)
            self.intake.draw_more = self._feed.wake
            self._others.watch(self._feed.start(), self._feed.cancel, self._feed_ended)


def keep_alive(run: Run) -> None:
    """Hold *run* until it is over, or its loop is."""
    for other in [other for other in list(_streaming) if other.loop.is_closed()]:
        _streaming.discard(other)
    _streaming.add(run)
