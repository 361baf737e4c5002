"""The run of a ``TaskGroup``: its works are handed over one by one, and its body is alive too.

Guarantees what every run does, and that the body's cancel count is right whatever happens: a
cancel of ours is taken back, one from outside is kept. A child costs one asyncio.Task, which is
there before its slots and waits for them inside. What comes out, and when, is as in the standard
TaskGroup of Python 3.13; building on that one was refused: it knows no slots, no clocks and no
drain that ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextlib import suppress
from contextvars import Context
from types import coroutine
from typing import Any

from agentos_parallel._core.clock import NEVER
from agentos_parallel._core.crew import ErrorOf
from agentos_parallel._core.lanes import Lane
from agentos_parallel._core.nesting import in_task
from agentos_parallel._core.run import CALLER_CANCELLED, Run
from agentos_parallel._core.sources import Drawn
from agentos_parallel._core.stop import rule_of
from agentos_parallel._core.task import Task, attempt, is_control_flow
from agentos_parallel._core.works import begin
from agentos_parallel.results import GatherResult, TaskResult, TaskStatus
from agentos_parallel.settings import Settings

_PENDING, _RUNNING, _CANCELLED = TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.CANCELLED

_EXITS = (KeyboardInterrupt, SystemExit)


class Child(Task):
    """A task whose asyncio.Task is there before its slots, and waits for them inside.

    Attributes:
        since: when it was handed over (loop time).
    """

    run: GroupRun
    attempt_at = None
    _admitted: asyncio.Future[None] | None = None

    def __init__(self, run: GroupRun, lane: Lane, index: int, item: Any, since: float) -> None:
        self.run = run
        self.lane = lane
        self.index = index
        self.item = item
        self.result = TaskResult(str(index))
        self.since = since

    @property
    def drawn(self) -> Drawn:
        """Its entry in the lane."""
        return self.index, self.result.task_id, self, self.since

    async def live(self) -> Any:
        """Wait for the slots and run the work; its outcome is the asyncio.Task's too."""
        try:
            await self._turn()
            self.value = await self.run.call(self.item)
            self.returned = True
            return self.value
        except BaseException as error:
            self.raised = error
            if isinstance(error, _EXITS):
                # It would leave the loop before the drain; the run has it come out of the group.
                raise asyncio.CancelledError(f"it raised {type(error).__name__}") from error
            if isinstance(error, GeneratorExit):
                self.dropped()
            raise
        finally:
            del self  # or the error would hold itself, through this frame

    async def _turn(self) -> None:
        """Wait for the slots, and behind those who have had theirs and are waking up."""
        waking = self.run.waking
        try:
            if self.result.status is _PENDING:
                self._admitted = self.run.loop.create_future()
                await self._admitted
            elif waking:
                waking.add(self)
                await asyncio.sleep(0)
        finally:
            waking.discard(self)

    def admit(self, now: float) -> None:
        """It has its slots: go on."""
        self.holding = bool(self.lane.throttlers)
        result = self.result
        result.status = _RUNNING
        result.started_at = now
        result.queued_ms = (now - self.since) * 1000
        self.start_clock(now)
        if self._admitted is not None and not self._admitted.done():
            self._admitted.set_result(None)
            self.run.waking.add(self)

    def ended(self, handle: asyncio.Task[Any]) -> None:
        """Its asyncio.Task has ended, perhaps before it had its slots."""
        if handle.cancelled():
            self.returned = False  # in its last step, perhaps
        else:
            handle.exception()  # looked at, so that asyncio does not log it
        self._leave_lane()
        super().ended(handle)

    def not_made(self, error: BaseException) -> None:
        """There is no asyncio.Task for it: the loop's task factory refused."""
        self.raised = error
        self._leave_lane()
        self.run.crew.ended(self)

    def _leave_lane(self) -> None:
        if self.result.status is _PENDING:
            self.result.queued_ms = (self.run.loop.time() - self.since) * 1000
            self.lane.remove(self.drawn)
            self.result.status = _RUNNING  # to the crew it is one more that has ended


class GroupRun(Run):
    """A run whose works are handed over while it lasts; *settings* with ``fail_fast`` are strict.

    Attributes:
        body: the asyncio.Task around the group.
        errors: what has to come out of the group, in the order in which it was raised.
        waking: children that have their slots, and start in the next pass of the loop.
    """

    body: asyncio.Task[Any]

    def __init__(self, settings: Settings) -> None:
        call = begin if settings.task_timeout is None else _in_one_attempt
        super().__init__(None, call, settings, self._keep, rule_of(settings), works=True)
        self.errors: list[BaseException] = []
        self.waking: set[Child] = set()
        self._strict = settings.fail_fast
        self._lent = False
        self._body_cancelled = False

    def enter(self, body: asyncio.Task[Any]) -> None:
        """Open the run around what follows in *body*, the asyncio.Task that calls."""
        self.body = body
        # One that is on its way will arrive in here: it is from outside, and to come out.
        self._cancels = body.cancelling() - _is_on_its_way(body)
        self.open()

    def spawn(
        self, work: Coroutine[Any, Any, Any], name: str | None, context: Context | None
    ) -> asyncio.Task[Any]:
        """Make *work* a child, which starts once its slots are there."""
        index, now = self.ledger.counts.total, self.loop.time()
        lane = self.intake.lane_of((index, str(index), work, now))
        child = Child(self, lane, index, work, now)
        child.seconds = self._task_seconds
        self.ledger.draw()
        self.ledger.counts.results.append(child.result)
        self.crew.due[child] = NEVER
        self._lend()
        self.intake.in_hand += 1
        lane.add(child.drawn)
        self.intake.pump()
        child.handle = handle = self._task_of(child, name, context)
        if child.cancelled:  # by a stop while it started eagerly
            handle.cancel()
        handle.add_done_callback(child.ended, context=self.context)
        return handle

    async def leave(self, error: BaseException | None) -> BaseException | None:
        """The body has ended, with *error*: wait for the children; gives what has to come out.

        That may be *error* itself; None where it was the group's own cancel.
        """
        if isinstance(error, GeneratorExit):  # the coroutine is closed: nothing can be awaited
            self._drop()
            return error
        try:
            cancelled = await self._drain(error)
        except GeneratorExit:
            self._drop()
            raise
        failure = self._failure(error, cancelled)
        # A run is in cycles, and what its children gave doesn't wait for the collector.
        self.errors, self.ledger.counts = [], GatherResult()
        return failure

    # The children.

    def _task_of(
        self, child: Child, name: str | None, context: Context | None
    ) -> asyncio.Task[Any]:
        live = child.live() if context is None else _alone(child)
        try:
            if context is not None:
                return self.loop.create_task(live, name=name, context=context)
            with in_task(child):
                return self.loop.create_task(live, name=name)
        except BaseException as error:
            live.close()
            child.not_made(error)
            raise

    def _lend(self) -> None:
        if self._parent is not None and not self._lent:
            self._lent = True
            self._parent.lend()

    def _begin(self, lane: Lane) -> None:
        lane.left -= 1
        child: Child = lane.take()[2]
        child.admit(self.loop.time())

    def _write_off(self, status: TaskStatus, error_of: ErrorOf) -> None:
        """Nothing: a child that waits has an asyncio.Task, and gets its outcome when that ends."""

    def _keep(self, index: int, result: TaskResult[Any]) -> None:
        """Keep the error of a child, if it has to come out of the group."""
        error = result.error
        if error is None or result.status is _CANCELLED:
            return
        strict = self._strict and self._finished_in_time is None  # else the deadline comes out
        if strict or not isinstance(error, Exception):
            self.errors.append(error)

    # The body.

    def _take_in(self) -> None:
        """Nothing is there yet but the body."""
        self._others.add(self.body, self._cancel_body)

    def _cancel_body(self) -> None:
        self._body_cancelled = True
        self.body.cancel()

    async def _drain(self, error: BaseException | None) -> asyncio.CancelledError | None:
        """Wait until nothing is alive and the slots are back; gives the cancel from outside."""
        cancelled = error if isinstance(error, asyncio.CancelledError) else None
        self._others.remove(self.body)
        if error is not None:
            what = f"its body raised {type(error).__name__}"
            self._hurry(what if cancelled is None else CALLER_CANCELLED)
        ours_comes = False
        if self._body_cancelled and self.body.uncancel() <= self._cancels:
            cancelled = None
            ours_comes = _is_on_its_way(self.body)  # the body had no await for it
        while ours_comes or not self.over:
            ours_comes = False
            try:
                await (asyncio.sleep(0) if self.over else self.waiter())
            except asyncio.CancelledError as late:
                if self.body.cancelling() > self._cancels:
                    cancelled = cancelled or late
                    self._hurry(CALLER_CANCELLED)
        try:
            await self._take_back()
        except asyncio.CancelledError as late:
            return cancelled or late
        return cancelled

    def _cancel_again(self) -> None:
        """Have a cancel from outside delivered, unless who cancelled has taken it back."""
        # Not at once: before 3.13 an uncancel() leaves a cancel that is on its way.
        if self.body.cancelling() > self._cancels:
            self.body.uncancel()
            self.body.cancel()

    async def _take_back(self) -> None:
        if self._parent is not None and self._lent:
            self._lent = False
            await self._parent.take_back()

    def _drop(self) -> None:
        """Cancel what runs, and wait for nothing."""
        self._others.remove(self.body)
        with suppress(RuntimeError):  # the loop is closed
            self.stop("its body was closed")
        if self._parent is not None and self._lent:
            self._parent.lent_to -= 1

    def _failure(
        self, error: BaseException | None, cancelled: asyncio.CancelledError | None
    ) -> BaseException | None:
        """What has to come out, when the body ended with *error*."""
        exit_ = self.ledger.exit
        if isinstance(exit_, (*_EXITS, asyncio.CancelledError)):
            return exit_
        if isinstance(error, _EXITS):
            return error
        ended = self.failure(self.ledger.counts, past_deadline=self._strict)
        if self.ledger.control_flow is not None:
            return cancelled or ended
        if error is not None and is_control_flow(error):
            return error
        if error is not None and not isinstance(error, asyncio.CancelledError):
            self.errors += [error, *([] if ended is None else [ended])]
        if not self.errors:
            return cancelled or ended
        if self.body.cancelling() > self._cancels:
            # Errors come first, and the cancel at the next await.
            self.loop.call_soon(self._cancel_again, context=self.context)
        group = BaseExceptionGroup("unhandled errors in a TaskGroup", self.errors)
        group.__suppress_context__ = True
        return group


def _is_on_its_way(task: asyncio.Task[Any]) -> bool:
    """Whether *task* will be cancelled at its next await."""
    return getattr(task, "_must_cancel", False)  # there is no public word for it


async def _in_one_attempt(work: Coroutine[Any, Any, Any]) -> Any:
    """Await *work*; passing its ``task_timeout`` is TaskTimeout."""
    async with attempt():
        return await work


async def _alone(child: Child) -> Any:
    """Run *child* in a context that others may use too: only its own steps are in its task."""
    return await _in_steps(child.live(), child)


@coroutine
def _in_steps(live: Coroutine[Any, Any, Any], child: Child) -> Generator[Any, Any, Any]:
    step, given = live.send, None
    while True:
        try:
            with in_task(child):
                awaited = step(given)
        except StopIteration as returned:
            return returned.value
        try:
            given = yield awaited
            step = live.send
        except BaseException as error:  # GeneratorExit too: live ends by it
            given = error
            step = live.throw
