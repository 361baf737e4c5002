"""The tasks of a run that are alive: started, counted when they end, cancelled, given up.

Guarantees that each task is counted once, that its slots go on to the next work or back, and that
one which ignores its cancel is given up in time. A task costs 1.1 times what bare
``asyncio.gather`` takes for it: one asyncio.Task, whose done-callback counts it and hands the slot
straight to the next work while nobody else waits. The refill from callbacks is that of aiometer
without its streams. A fixed set of workers was refused: it is faster, but context variables leak
from one item to the next.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from agentos_parallel._core.clock import NEVER, Alarms
from agentos_parallel._core.lanes import Lane
from agentos_parallel._core.nesting import current
from agentos_parallel._core.task import Task, Verdict
from agentos_parallel.results import TaskResult, TaskStatus

if TYPE_CHECKING:
    from agentos_parallel._core.run import Run

logger = logging.getLogger("agentos_parallel")

ErrorOf: TypeAlias = Callable[[TaskResult[Any]], BaseException | None]
"""What a cancelled task gets as its error."""

MAX_EAGER_DEPTH = 8
"""Runs around a run from which on its tasks do not start eagerly."""

LAST_CALL = 10
"""Passes of the loop in which a task that lets its cancel through has ended."""

_RUNNING, _COMPLETED = TaskStatus.RUNNING, TaskStatus.COMPLETED


class Crew:
    """The tasks of *run*.

    Args:
        run: whose they are.
        context: what each task gets a copy of.
        depth: how many runs stand around.
        seconds: the ``task_timeout`` of every task; None: there is none, or each has its own.

    Attributes:
        alarms: their clocks.
        due: each of them, with the time at which its clock rings.
    """

    def __init__(self, run: Run, context: Context, depth: int, seconds: float | None) -> None:
        self.alarms: Alarms[Task] = Alarms(run.loop, run.clocks.context, self._ring)
        self.due = self.alarms.due
        self._run = run
        self._loop = run.loop
        self._context = context
        self._seconds = seconds
        self._spawn = spawner(run.loop, depth)

    def start(self, lane: Lane, now: float) -> None:
        """Start the next work of *lane* in the place of one in hand."""
        lane.left -= 1
        index, task_id, item, since = lane.take()
        result: TaskResult[Any] = TaskResult(
            task_id, _RUNNING, None, None, now, 0.0, 0.0, 0, (now - since) * 1000
        )
        task = Task(self._run, lane, index, item, result)
        if self._seconds is None:
            self.due[task] = NEVER
        else:
            task.seconds = self._seconds
            self.alarms.set(task, now + self._seconds)
        current.set(task)
        task.handle = handle = self._spawn(task.live())
        if task.cancelled:  # pragma: no cover - from 3.12 on: a stop while it started eagerly
            handle.cancel()
        handle.add_done_callback(task.ended, context=self._context)

    def ended(self, task: Task) -> None:
        """Count *task*, and start the next with its slots; the success path is flat for speed."""
        now = self._loop.time()
        result, lane, intake = task.result, task.lane, self._run.intake
        if result.status is _RUNNING:
            del self.due[task]
            if task.attempt_at is not None:
                result.duration_ms += (now - task.attempt_at) * 1000
            if task.returned:
                result.result = task.value
                self._run.ledger.settle(task.index, result, _COMPLETED, now)
            else:
                self._lost(task, now)
        if task.threads:
            return  # they have its slots
        if lane.left and lane.hands_on and not (intake.unread or result.abandoned or task.own):
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
        if task.result.abandoned:
            text = "agentos_parallel: task %r, which was abandoned, has ended"
            self._loop.call_soon(logger.info, text, task.result.task_id)
        task.give_up_slots(task.result.status)
        self._run.intake.in_hand -= 1
        if self._run.intake.open:
            self._run.intake.pump()
        self._run.look_whether_over()

    def _lost(self, task: Task, now: float) -> None:
        """Count a task that did not just return."""
        status = task.conclude()
        if task.threads:
            self._abandoned(task)
        self._run.ledger.look_at(task.index, task.result.error)  # before the rule is asked
        self._run.ledger.settle(task.index, task.result, status, now)
        self._run.look_whether_over()

    def _ring(self, task: Task, now: float) -> None:
        """The clock of *task*: its attempt is too long, or it ignores its cancel."""
        if task.verdict is None:
            task.expire()
        else:
            self._last_call(task, task.verdict, LAST_CALL)

    def _last_call(self, task: Task, verdict: Verdict, passes: int) -> None:
        """Give up on *task* after some passes of the loop, which even ``grace=0`` leaves it."""
        if task.settled or task.verdict is not verdict:
            return  # it ended, or its attempt did and the next has begun
        if passes:
            call = partial(self._last_call, task, verdict, passes - 1)
            self._loop.call_soon(call, context=self._context)
        else:
            self._give_up(task, verdict, self._loop.time())

    def _give_up(self, task: Task, verdict: Verdict, now: float) -> None:
        del self.due[task]
        task.stop_clock(now)
        status, task.result.error = verdict
        self._abandoned(task)
        self._run.ledger.settle(task.index, task.result, status, now)
        self._run.look_whether_over()

    def _abandoned(self, task: Task) -> None:
        task.result.abandoned = True
        what = "its thread can't be cancelled" if task.threads else "it ignores its cancel"
        # Not from in here: a handler of the user's that raises would stop the accounting.
        text = "agentos_parallel: task %r was abandoned: %s; it keeps its slot"
        self._loop.call_soon(logger.warning, text, task.result.task_id, what)
        task.cancel_nested()

    def cancel(self, status: TaskStatus, error_of: ErrorOf, give_up_at: float) -> None:
        """Cancel all of them; what still runs at *give_up_at* (loop time) is abandoned."""
        for task in list(self.due):
            task.cancel(status, error_of(task.result), give_up_at)

    def give_up_by(self, when: float) -> None:
        """Give up on all of them at *when*, if not earlier."""
        for task in list(self.due):
            task.give_up_by(when)


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
