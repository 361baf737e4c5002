"""A run: draws works, starts them, stops, drains and counts them.

Guarantees one final result for each work, in input order, and that nothing of the run is alive
when it has ended. A task costs 1.2 to 1.5 times what bare ``asyncio.gather`` takes for it: the
slot first, then one asyncio.Task, whose done-callback counts it and hands the slot straight to the
next work while nobody else waits. The shape is that of trio's nursery, the refill from callbacks
that of aiometer without its streams. A fixed set of workers was refused: it is faster, but context
variables leak from one item to the next.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any, TypeAlias

from agentos_parallel._core.clock import NEVER, Alarms, Clocks
from agentos_parallel._core.feed import Feed
from agentos_parallel._core.lanes import Lane, Lanes
from agentos_parallel._core.nesting import current
from agentos_parallel._core.others import Others
from agentos_parallel._core.sources import Drawn, SizedInput, Unsized
from agentos_parallel._core.stop import StopRule
from agentos_parallel._core.task import Task, is_control_flow, with_own_timeout
from agentos_parallel._core.works import Call
from agentos_parallel.arguments import discard
from agentos_parallel.errors import SourceError
from agentos_parallel.results import GatherResult, TaskResult, TaskStatus
from agentos_parallel.settings import Settings

logger = logging.getLogger("agentos_parallel")

Deliver: TypeAlias = Callable[[int, TaskResult[Any]], object]
"""Called with a task's index and its final result, in the run's loop; must not raise."""

ErrorOf: TypeAlias = Callable[[TaskResult[Any]], BaseException | None]
"""What a cancelled task gets as its error."""

MAX_EAGER_DEPTH = 8
"""Runs around a run from which on its tasks do not start eagerly."""

LAST_CALL = 10
"""Passes of the loop in which a task that lets its cancel through has ended."""

CALLER_CANCELLED = "the caller was cancelled"
CALLER_ABANDONED = "the task around it was abandoned"

_RUNNING, _COMPLETED = TaskStatus.RUNNING, TaskStatus.COMPLETED


class Run:
    """One run over one source.

    Args:
        source: the works, or the items of a map.
        call: what starts the work of one item.
        settings: what bounds the run.
        deliver: takes each final result.
        rule: gives a reason to stop; None: there is none.
        works: the items are works, which are discarded where they never run, and are known to
            the functions in *settings* by their task_id.
        lazy_rest: results of what never started after a stop are not delivered, but made while
            they are read from ``rest``.

    Attributes:
        counts: the live counts; keeping the results is the caller's affair.
        in_hand: works that were drawn (from a sized input: started) and have not ended.
        unread: results that a stream's consumer left unread: at ``width`` nothing starts.
        drawing: works may start.
        stopping: what runs was cancelled.
        over: nothing of the run is alive.
        exit: an exit such as KeyboardInterrupt that a task raised, or the cancel of an abandoned
            task around: it comes out of the call in any case.
        rest: index and result of what never started.
        depth: how many runs stand around it.
        alarms: the clocks of the running tasks.
        due: the running tasks, each with the time at which its clock rings.
    """

    loop: asyncio.AbstractEventLoop
    clocks: Clocks
    alarms: Alarms[Task]
    due: dict[Task, float]
    depth: int
    rest: Iterator[tuple[int, TaskResult[Any]]] = iter(())

    def __init__(
        self,
        source: SizedInput | Unsized,
        call: Call,
        settings: Settings,
        deliver: Deliver,
        rule: StopRule | None = None,
        *,
        works: bool = False,
        lazy_rest: bool = False,
    ) -> None:
        self.counts: GatherResult[Any] = GatherResult()
        self.in_hand = 0
        self.unread = 0
        self.drawing = True
        self.stopping = False
        self.over = False
        self.exit: BaseException | None = None
        self.follows_throttler = settings.max_concurrent is None
        self.call = call
        self._settings = settings
        self._source = source
        self._deliver = deliver
        self._rule = rule
        self._works = works
        self._lazy_rest = lazy_rest
        self._unsized = isinstance(source, Unsized)
        self._expected = None if isinstance(source, Unsized) else len(source)
        self._unsettled = 0
        self._lanes = Lanes(self)
        self._feed: Feed | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._control_flow: tuple[int, BaseException] | None = None
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
        self._spawn = spawner(self.loop, self.depth)
        self.clocks = Clocks(self.loop, self.context, self._settings, self._parent)
        self.alarms = Alarms(self.loop, self.context, self._ring)
        self.due = self.alarms.due
        self._others = Others(self.context, self._look_whether_over)
        try:
            self._fill_lanes()
        except BaseException:
            self._lanes.close()
            discard(*self._handed_over)
            raise
        if self._parent is not None:
            self._parent.opens(self)
            if self._parent.result.abandoned:
                self._cancel_caller(CALLER_ABANDONED)
        deadline = self.clocks.deadline
        if deadline is not None:
            self.clocks.call_at(deadline.at, self._deadline_passed)
            if deadline.at <= self.clocks.started_at:
                self._deadline_passed()
        if self.drawing:
            self.resume()
        self._look_whether_over()

    async def finish(self, cancelled: asyncio.CancelledError | None = None) -> None:
        """Wait until nothing of the run is alive; a cancel meanwhile stops it first.

        Args:
            cancelled: the caller has been cancelled already.

        Raises:
            asyncio.CancelledError: after the drain, when the caller was cancelled.
            BaseException: after the drain, ``exit``.
        """
        if cancelled is not None:
            self._hurry(CALLER_CANCELLED)
        while not self.over:
            try:
                await self.waiter()
            except asyncio.CancelledError as error:
                cancelled = cancelled or error
                self._hurry(CALLER_CANCELLED)
        failure = self.exit or cancelled
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
        self.context.copy().run(self.pump)

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
        if self._control_flow is not None:
            return self._control_flow[1]
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

    @property
    def width(self) -> float:
        """How many works may be in hand."""
        if self._settings.max_concurrent is not None:
            return self._settings.max_concurrent
        return min((t.max_concurrent for t in self._settings.throttlers), default=math.inf)

    def room(self) -> float:
        """How many works may start now; of drawn ones, which are in hand already, all."""
        width = self.width
        if not self.drawing or self.unread >= width:
            return 0
        return math.inf if self._unsized else width - self.in_hand

    def may_draw(self) -> bool:
        """Whether one more work may be drawn."""
        return self.in_hand < self.width > self.unread

    def draw(self, item: Any) -> bool:
        """Take *item*, drawn from the source, into the run; says whether it may start."""
        counts = self.counts
        drawn = (counts.total, str(counts.total), item, self.loop.time())
        counts.total += 1
        self._unsettled += 1
        self.in_hand += 1
        if not self.drawing:  # the source went on through its cancel
            self._refuse(drawn, None)
            return False
        try:
            lane = self._lane_of(drawn)
        except Exception as error:  # the user's throttler=: of a lazy source, its task's failure
            self._refuse(drawn, error)
            return False
        lane.add(drawn)
        self.resume()
        return True

    def pump(self) -> None:
        """Start what may start."""
        self._lanes.pump()
        if self._feed is not None and self.may_draw():
            self._feed.wake()

    def begin(self, lane: Lane) -> None:
        """Start the next work of *lane*, whose slots are there, beside those in hand."""
        if not self._unsized:
            self.in_hand += 1
        self.start(lane, self.loop.time())

    def start(self, lane: Lane, now: float) -> None:
        """Start the next work of *lane* in the place of one in hand."""
        lane.left -= 1
        index, task_id, item, since = lane.take()
        result: TaskResult[Any] = TaskResult(
            task_id, _RUNNING, None, None, now, 0.0, 0.0, 0, (now - since) * 1000
        )
        task = Task(self, lane, index, item, result)
        if self._task_seconds is None:
            self.due[task] = NEVER
        else:
            task.seconds = self._task_seconds
            self.alarms.set(task, now + self._task_seconds)
        current.set(task)
        task.handle = handle = self._spawn(task.live())
        if task.cancelled:  # pragma: no cover - from 3.12 on: a stop while it started eagerly
            handle.cancel()
        handle.add_done_callback(task.ended, context=self.context)

    # The end of a task.

    def ended(self, task: Task) -> None:
        """Count *task*, and start the next with its slots; the success path is flat for speed."""
        now = self.loop.time()
        result, lane = task.result, task.lane
        if result.status is _RUNNING:
            del self.due[task]
            if task.attempt_at is not None:
                result.duration_ms += (now - task.attempt_at) * 1000
            if task.returned:
                result.result = task.value
                self._change(task.index, result, _COMPLETED, now)
            else:
                self._lost(task, now)
        if task.threads:
            return  # they have its slots
        if lane.left and lane.hands_on and not self.unread:
            if not lane.throttlers:
                self.start(lane, now)
                return
            if task.holding and lane.keeps_slots():
                task.holding = False
                self.start(lane, now)
                return
        self.freed(task)

    def freed(self, task: Task) -> None:
        """*task* has ended, and its threads: its slots go back."""
        task.give_up_slots(task.result.status)
        self.in_hand -= 1
        if self.drawing:
            self.pump()
        self._look_whether_over()

    def _lost(self, task: Task, now: float) -> None:
        """Count a task that did not just return."""
        status = task.conclude()
        if task.threads:
            self._abandoned(task)
        self._look_at(task.index, task.result.error)  # before the rule is asked
        self._change(task.index, task.result, status, now)
        self._look_whether_over()

    def _change(self, index: int, result: TaskResult[Any], status: TaskStatus, now: float) -> None:
        """The one door: every task's final status comes through here, once."""
        result.status = status
        result.finished_at = now
        self._unsettled -= 1
        if status is _COMPLETED:
            self.counts.completed += 1
        else:
            self._count_lost(status, 1)
        self._deliver(index, result)
        if self._rule is not None:
            self._ask_rule()

    def _count_lost(self, status: TaskStatus, tasks: int) -> None:
        counts = self.counts
        if status is TaskStatus.FAILED:
            counts.failed += tasks
        elif status is TaskStatus.TIMEOUT:
            counts.timed_out += tasks
        else:
            counts.cancelled += tasks

    def _ask_rule(self) -> None:
        if self._rule is None or self.stopping:
            return
        # Control flow counts as cancelled, and is to stop nothing: no goal is out of reach then.
        expected = None if self._control_flow is not None else self._expected
        reason = self._rule(self.counts, expected)
        if reason is not None:
            self.stop(reason)

    def _look_at(self, index: int, error: BaseException | None) -> None:
        """Exits end the run; of control flow the first in input order comes out of it."""
        if error is None or isinstance(error, asyncio.CancelledError):
            return
        if is_control_flow(error):
            if self._control_flow is None or index < self._control_flow[0]:
                self._control_flow = index, error
        elif not isinstance(error, Exception):
            self.exit = self.exit or error
            self.stop(f"a task raised {type(error).__name__}")

    def _ring(self, task: Task, now: float) -> None:
        """The clock of *task*: its attempt is too long, or it ignores its cancel."""
        if task.cancelled:
            self._last_call(task, LAST_CALL)
        else:
            task.expire()

    def _last_call(self, task: Task, passes: int) -> None:
        """Give up on *task* after some passes of the loop, which even ``grace=0`` leaves it."""
        if passes and not task.settled:
            call = partial(self._last_call, task, passes - 1)
            self.loop.call_soon(call, context=self.context)
        elif not task.settled:
            self._give_up(task, self.loop.time())

    def _give_up(self, task: Task, now: float) -> None:
        del self.due[task]
        task.stop_clock(now)
        assert task.verdict is not None
        status, task.result.error = task.verdict
        self._abandoned(task)
        self._change(task.index, task.result, status, now)
        self._look_whether_over()

    def _abandoned(self, task: Task) -> None:
        task.result.abandoned = True
        what = "its thread can't be cancelled" if task.threads else "it ignores its cancel"
        logger.warning("task %r was abandoned: %s; it keeps its slot", task.result.task_id, what)
        task.cancel_nested()

    # The end of the run.

    def _stop(self, reason: str | BaseException, status: TaskStatus, error_of: ErrorOf) -> None:
        self.stopping = True
        self._stop_starting(reason, status, error_of)
        give_up_at = self.clocks.give_up_at()
        for task in list(self.due):
            task.cancel(status, error_of(task.result), give_up_at)
        if self._others:
            self._others.cancel()
            self.clocks.call_at(give_up_at, self._others.give_up)
        self._look_whether_over()

    def _hurry(self, reason: str) -> None:
        """Stop; where it has stopped already, still give up before the run around does."""
        if not self.stopping:
            self.stop(reason)
            return
        give_up_at = self.clocks.give_up_at()
        for task in list(self.due):
            task.give_up_by(give_up_at)
        if self._others:
            self.clocks.call_at(give_up_at, self._others.give_up)

    def _stop_starting(
        self, reason: str | BaseException, status: TaskStatus, error_of: ErrorOf
    ) -> None:
        """The softer degree: nothing more starts, what runs may finish."""
        if not self.drawing:
            return
        self.drawing = False
        self.counts.reason = str(reason) or type(reason).__name__
        left, now = self._lanes.left, self.loop.time()
        self._lanes.close()
        rest = self._lanes.rest()
        if self._works:
            rest = [self._discarded(drawn) for drawn in rest]
        results = ((drawn[0], self._never_started(status, error_of, now, drawn)) for drawn in rest)
        if self._lazy_rest:
            self._unsettled -= left
            self._count_lost(status, left)
            self.rest = results
            return
        for index, result in results:
            self._change(index, result, status, now)

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
        self.in_hand -= 1
        self._discarded(drawn)
        status = TaskStatus.CANCELLED if error is None else TaskStatus.FAILED
        now = self.loop.time()
        self._change(
            drawn[0], self._never_started(status, lambda _: error, now, drawn), status, now
        )

    def _discarded(self, drawn: Drawn) -> Drawn:
        self.discard(drawn[2])
        return drawn

    def discard(self, item: Any) -> None:
        """Close a work that never ran; a Future, which runs all the same, is drained."""
        if not self._works:
            return
        discard(item)
        if asyncio.isfuture(item) and not item.done() and item.get_loop() is self.loop:
            self._others.add(item)

    def _feed_ended(self) -> None:
        assert self._feed is not None
        error = self._feed.error
        if error is None and self._feed.exhausted:
            self._expected = self.counts.total
            self._ask_rule()
        elif isinstance(error, Exception | asyncio.CancelledError):
            self._stop_starting("its source raised", TaskStatus.CANCELLED, lambda _: None)
        elif error is not None:
            self.exit = self.exit or error
            self.stop(f"its source raised {type(error).__name__}")

    def _deadline_passed(self) -> None:
        deadline, counts = self.clocks.deadline, self.counts
        if self.stopping or deadline is None:
            return
        done = f"{counts.total - self._unsettled} of {counts.total}"
        finished = f"{done} drawn" if self._expected is None else done
        self._finished_in_time = finished

        def error_of(result: TaskResult[Any]) -> BaseException:
            what = "timed out" if result.started_at else "never started"
            return deadline.error(f"task {result.task_id!r} {what}", finished)

        self._stop(f"its timeout of {deadline.seconds:g} s ended", TaskStatus.TIMEOUT, error_of)

    def _cancel_caller(self, reason: str) -> None:
        if not self.over:
            self.exit = self.exit or asyncio.CancelledError(reason)
            self.stop(reason)

    def _look_whether_over(self) -> None:
        if self.over or self._unsettled or self._others:
            return
        self.over = True
        self.drawing = False
        self.alarms.close()
        self.clocks.stop()
        self._lanes.close()
        if self._parent is not None:
            self._parent.closes(self)
        counts = self.counts
        counts.total_duration_ms = (self.loop.time() - self.clocks.started_at) * 1000
        counts.all_succeeded = counts.completed == counts.total and self.drawn_out
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        # A run is in cycles, which the collector finds; items and results don't wait for that.
        self._source, self._deliver = SizedInput(()), _nowhere

    # Setting up.

    def _fill_lanes(self) -> None:
        settings, source = self._settings, self._source
        if isinstance(source, Unsized):
            if self.width == math.inf:
                raise ValueError(
                    "max_concurrent must be a number here: with throttler= as a function nothing "
                    "else says how much of the source to draw"
                )
            self._feed = Feed(self, source)
            self._others.add(self._feed.start(), self._feed_ended)
            return
        self._unsettled = self.counts.total = len(source)
        works = source.drawn(self.clocks.started_at)
        if not settings.throttled_by_item:
            self._lanes.only(settings.throttlers, works, len(source))
            return
        for drawn in works:
            self._lane_of(drawn).add(drawn)

    @property
    def _handed_over(self) -> Sequence[Any]:
        """The works of a sized input."""
        return self._source.items if self._works and isinstance(self._source, SizedInput) else ()

    def _lane_of(self, drawn: Drawn) -> Lane:
        return self._lanes.of(self._settings.throttlers_of(drawn[1] if self._works else drawn[2]))


def spawner(loop: asyncio.AbstractEventLoop, depth: int) -> Callable[[Any], asyncio.Task[None]]:
    """What makes a coroutine a Task of *loop*: ``loop.create_task``, or what that comes down to.

    From Python 3.12 on the first step of a task runs at once, a third less a task. *depth* is how
    many runs stand around: each would add its frames to the stack, so deep ones start as ever.
    """
    if type(loop).create_task is not asyncio.BaseEventLoop.create_task or loop.get_task_factory():
        return loop.create_task
    if sys.version_info >= (3, 12) and depth < MAX_EAGER_DEPTH:  # pragma: no cover - from 3.12 on
        return partial(asyncio.Task, loop=loop, eager_start=True)
    return partial(asyncio.Task, loop=loop)


def _nowhere(index: int, result: TaskResult[Any]) -> None:
    """Where results go once a run is over: there are none."""
