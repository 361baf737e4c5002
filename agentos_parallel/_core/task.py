"""The life of one task: its slots, its clocks, its outcome.

Guarantees that a task has one outcome, whatever ends it: it returns, raises, times out, is
cancelled by its run, by itself or before its first step. A task that just returns passes through
``live`` and nothing else here. Its clocks start with the slot; ``attempt()`` starts them anew.
``asyncio.timeout`` for each task was refused: 5 µs, and no word about who cancelled.
"""

from __future__ import annotations

import asyncio
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from agentos_parallel._core.clock import NEVER
from agentos_parallel._core.nesting import Lender, current
from agentos_parallel._core.works import Call
from agentos_parallel.checks import seconds
from agentos_parallel.errors import TaskTimeout
from agentos_parallel.results import TaskResult, TaskStatus
from agentos_parallel.settings import TimeoutOf
from agentos_parallel.throttle import TaskThrottler

if TYPE_CHECKING:
    from agentos_parallel._core.lanes import Lane
    from agentos_parallel._core.run import Run


_LIVE = (TaskStatus.RUNNING, TaskStatus.PENDING)

Verdict: TypeAlias = tuple[TaskStatus, BaseException | None]
"""Status and error that a cancelled task gets if it lets its cancel through."""


class Task(Lender):
    """One work in its run. Attributes that most tasks never need have their default in the class.

    Attributes:
        run: the run it belongs to.
        lane: where it came from, and the next that needs the same slots.
        index: its position in the run's input.
        item: the work, or the item of a map; let go of at the end.
        result: the record that the caller gets.
        attempt_at: when the present attempt started (loop time); None between attempts.
        handle: the asyncio.Task that runs it, until that has ended.
        threads: threads that work for it; it keeps its slots until they have ended.
        strays: those among them that nobody waits for, of attempts that timed out.
        verdict: status and error that it gets if it lets its cancel through.
        give_up_at: when its run stops waiting for it, once it is cancelled (loop time).
    """

    handle: asyncio.Task[None] | None = None
    value: Any = None
    returned = False
    raised: BaseException | None = None
    threads = 0
    strays = 0
    attempts = 0
    seconds: float | None = None
    expired: TaskTimeout | None = None
    verdict: Verdict | None = None
    give_up_at = NEVER
    _thread_waiter: asyncio.Future[None] | None = None

    def __init__(
        self,
        run: Run,
        lane: Lane,
        index: int,
        item: Any,
        result: TaskResult[Any],
    ) -> None:
        self.run = run
        self.lane = lane
        self.index = index
        self.item = item
        self.result = result
        self.attempt_at: float | None = result.started_at
        if lane.throttlers:
            self.holding = True

    @property
    def throttlers(self) -> tuple[TaskThrottler, ...]:
        """Those whose slots it needs, in their one order."""
        return self.lane.throttlers

    async def live(self) -> None:
        """Run the work and keep what becomes of it; an exit ends the run, not the loop."""
        try:
            self.value = await self.run.call(self.item)
            self.returned = True
        except BaseException as error:
            self.raised = error
            if isinstance(error, GeneratorExit):
                self.dropped()
            del self  # or the error would hold itself, through this frame

    def dropped(self) -> None:
        """Its coroutine was closed: perhaps by the collector, and nobody says that it has ended."""
        if not self.threads:
            self.drop_slots()

    def ended(self, handle: asyncio.Task[None]) -> None:
        """Its asyncio.Task has ended."""
        if handle.cancelled() and self.verdict is None:
            self.returned = False  # it cancelled itself in its last step
        self.handle = None  # or it would hold itself, through the context of the handle
        self.run.crew.ended(self)
        self.item = None

    def conclude(self) -> TaskStatus:
        """What became of a work that did not just return."""
        result, error, self.raised = self.result, self.raised, None
        self.run.discard(self.item)  # it may never have been reached
        if error is None:
            error = asyncio.CancelledError()  # before its first step, or by itself in its last
        if isinstance(error, asyncio.CancelledError) and self.verdict is not None:
            status, result.error = self.verdict
            return status
        result.error = error
        if isinstance(error, asyncio.CancelledError) or is_control_flow(error):
            return TaskStatus.CANCELLED
        return TaskStatus.TIMEOUT if is_timeout(error) else TaskStatus.FAILED

    @property
    def settled(self) -> bool:
        """It has its outcome, as an abandoned task has while it still runs."""
        return self.result.status not in _LIVE

    # Its clocks.

    def start_clock(self, now: float) -> None:
        """Start an attempt at *now*, and its ``task_timeout`` with it."""
        self.attempt_at = now
        if self.seconds is not None and not self.cancelled:
            self.run.crew.alarms.set(self, now + self.seconds)

    def stop_clock(self, now: float) -> None:
        """Add the attempt to the task's duration."""
        if self.attempt_at is not None:
            self.result.duration_ms += (now - self.attempt_at) * 1000
            self.attempt_at = None

    def expire(self) -> None:
        """The attempt has had its ``task_timeout``."""
        self.expired = TaskTimeout(
            f"task {self.result.task_id!r} timed out after {self.seconds:g} s (its task_timeout)"
        )
        self.cancel(TaskStatus.TIMEOUT, self.expired, self.run.clocks.give_up_at())

    def cancel(self, status: TaskStatus, error: BaseException | None, give_up_at: float) -> None:
        """Cancel it for a reason; the first reason counts, the run gives up at the first time."""
        if self.verdict is None:
            self.verdict = status, error
        self.cancelled = True
        self.give_up_by(give_up_at)
        if self.handle is not None:  # pragma: no branch - None in an eager start, from 3.12 on
            self.handle.cancel()

    def give_up_by(self, when: float) -> None:
        """Have its run give up on it at *when*, if not earlier."""
        self.give_up_at = min(self.give_up_at, when)
        self.run.crew.alarms.set(self, self.give_up_at)

    # Its threads.

    def thread_ended(self, *, stray: bool) -> None:
        """One of its threads has ended; *stray*: nobody waited for it any more."""
        self.threads -= 1
        self.strays -= stray
        self.idle_slots()
        if self._thread_waiter is not None and not self._thread_waiter.done():
            self._thread_waiter.set_result(None)
        if self.handle is None and not self.threads:
            self.run.crew.freed(self)

    def slots_in_use(self) -> bool:
        """Whether threads work with its slots that nobody waits for any more.

        One that opens a run, in a loop of its own, waits itself.
        """
        return self.strays > 0 and asyncio.get_running_loop() is self.run.loop

    async def strays_ended(self) -> None:
        """Wait for the threads of earlier attempts, which have the task's slots."""
        while self.strays:
            self._thread_waiter = self.run.loop.create_future()
            await self._thread_waiter


class attempt:  # noqa: N801 - reads as a verb: async with attempt()
    """One attempt of a task: its clocks start anew, and passing ``task_timeout`` is TaskTimeout.

    For policies, which run a work several times. Does nothing outside a task.

    Raises:
        TaskTimeout: out of the block, when it took longer than the run's ``task_timeout``.
    """

    __slots__ = ("_cancels", "_task")

    async def __aenter__(self) -> None:
        """Start the clocks, once the slots are there."""
        task = self._task = current.get()
        if task is None or task.settled:
            self._task = None
            return
        task.handle = asyncio.current_task()  # not known yet where it was started eagerly
        assert task.handle is not None
        task.attempts += 1
        if task.attempts > 1:
            await task.strays_ended()
            await task.regain_slots()
            task.result.retries += 1
            task.start_clock(task.run.loop.time())
        self._cancels = task.handle.cancelling()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the clocks; the clock's own cancel becomes TaskTimeout."""
        task = self._task
        if task is None or task.handle is None or task.settled:
            return
        task.stop_clock(task.run.loop.time())
        expired, task.expired = task.expired, None
        if expired is not None and not task.run.stopping:
            others_cancelled = task.handle.uncancel() > self._cancels
            if not (others_cancelled and exc_type is asyncio.CancelledError):
                task.verdict, task.cancelled, task.give_up_at = None, False, NEVER
        task.run.crew.alarms.due[task] = task.give_up_at
        if expired is not None and exc_type is asyncio.CancelledError and not task.cancelled:
            raise expired from None


def with_own_timeout(call: Call, timeout_of: TimeoutOf, *, by_id: bool) -> Call:
    """Give each task the ``task_timeout`` that *timeout_of* says of its item, or of its task_id."""

    async def timed(item: Any) -> Any:
        task = current.get()
        assert task is not None
        value = timeout_of(task.result.task_id if by_id else item)
        if value is not None:
            task.seconds = seconds("task_timeout", value, none=" or None")
            task.start_clock(task.result.started_at)
        return await call(item)

    return timed


def reason_of(error: BaseException) -> BaseException:
    """Why the work of the task that we are in ends with *error*: of a cancel, who cancelled."""
    task = current.get()
    if task is None or task.verdict is None or not isinstance(error, asyncio.CancelledError):
        return error
    return task.verdict[1] or error


def stopping() -> bool:
    """Whether the task that we are in is to end: no policy starts another attempt then."""
    task = current.get()
    return task is not None and (task.run.stopping or task.settled)


def is_control_flow(error: BaseException) -> bool:
    """Whether *error* is LangGraph's own control flow: an interrupt, a command to a parent."""
    langgraph = sys.modules.get("langgraph.errors")
    return isinstance(error, getattr(langgraph, "GraphBubbleUp", ()))


_TIMEOUTS = (
    ("langgraph.errors", "NodeTimeoutError"),
    ("langchain_core.exceptions", "ModelTimeoutError"),
)


def is_timeout(error: BaseException) -> bool:
    """Whether *error* is a timeout, by whatever name."""
    if isinstance(error, TimeoutError):
        return True
    named = (getattr(sys.modules.get(module), name, None) for module, name in _TIMEOUTS)
    return any(kind is not None and isinstance(error, kind) for kind in named)
