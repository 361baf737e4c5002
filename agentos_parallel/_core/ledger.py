"""The counts of a run, and the one door through which its tasks get their outcome.

Guarantees that the counts add up at any time, that a result is delivered once, and that the stop
rule is asked after each. Costs one call a task. Live results, events and journals belong here:
counting in the end was refused, for a rule needs the counts while the run lasts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

from agentos_parallel._core.stop import StopRule
from agentos_parallel._core.task import is_control_flow
from agentos_parallel.results import GatherResult, TaskResult, TaskStatus

Deliver: TypeAlias = Callable[[int, TaskResult[Any]], object]
"""Called with a task's index and its final result, in the run's loop; must not raise."""

_COMPLETED = TaskStatus.COMPLETED


class Ledger:
    """The accounts of one run.

    Args:
        expected: how many works there are; None: nobody knows yet.
        deliver: takes each final result.
        rule: gives a reason to stop; None: there is none.
        stop: called with a reason to stop.

    Attributes:
        counts: the live counts; keeping the results is the caller's affair.
        unsettled: works that are known and have no outcome yet.
        exit: an exception that has to come out of the call in any case: an exit such as
            KeyboardInterrupt that a task raised, or the cancel of an abandoned task around.
        control_flow: the first of LangGraph's control flow, in input order, with its index.
    """

    def __init__(
        self,
        expected: int | None,
        deliver: Deliver,
        rule: StopRule | None,
        stop: Callable[[str | BaseException], None],
    ) -> None:
        self.counts: GatherResult[Any] = GatherResult(total=expected or 0)
        self.unsettled = expected or 0
        self.expected = expected
        self.exit: BaseException | None = None
        self.control_flow: tuple[int, BaseException] | None = None
        self._deliver = deliver
        self._rule = rule
        self._stop = stop

    def draw(self) -> int:
        """One more work is known; gives its index."""
        self.counts.total += 1
        self.unsettled += 1
        return self.counts.total - 1

    def drawn_out(self) -> None:
        """There are no more works than are known."""
        self.expected = self.counts.total
        self.ask()

    def settle(self, index: int, result: TaskResult[Any], status: TaskStatus, now: float) -> None:
        """The door: a task has its final status."""
        result.status = status
        result.finished_at = now
        self.unsettled -= 1
        if status is _COMPLETED:
            self.counts.completed += 1
        else:
            self._count_lost(status, 1)
        self._deliver(index, result)
        if self._rule is not None:
            self.ask()

    def write_off(self, status: TaskStatus, tasks: int) -> None:
        """So many tasks end with *status*, whose results are made and read elsewhere."""
        self.unsettled -= tasks
        self._count_lost(status, tasks)

    def ask(self) -> None:
        """Stop the run, if the rule has a reason."""
        if self._rule is None:
            return
        # Control flow counts as cancelled, and is to stop nothing: no goal is out of reach then.
        expected = None if self.control_flow is not None else self.expected
        reason = self._rule(self.counts, expected)
        if reason is not None:
            self._stop(reason)

    def look_at(self, index: int, error: BaseException | None) -> None:
        """Remember control flow and exits; an exit stops the run."""
        if error is None or isinstance(error, asyncio.CancelledError):
            return
        if is_control_flow(error):
            if self.control_flow is None or index < self.control_flow[0]:
                self.control_flow = index, error
        elif not isinstance(error, Exception):
            self.leave(error, f"a task raised {type(error).__name__}")

    def leave(self, error: BaseException, reason: str) -> None:
        """Stop, and have *error* come out of the call; the first counts."""
        if self.exit is None:
            self.exit = error
        self._stop(reason)

    def close(self, duration: float, *, drawn_out: bool) -> None:
        """The run is over after *duration* seconds; nothing is delivered any more."""
        self.counts.total_duration_ms = duration * 1000
        self.counts.all_succeeded = self.counts.completed == self.counts.total and drawn_out
        self._deliver = _nowhere  # it holds the results, and the run is in a cycle

    def _count_lost(self, status: TaskStatus, tasks: int) -> None:
        counts = self.counts
        if status is TaskStatus.FAILED:
            counts.failed += tasks
        elif status is TaskStatus.TIMEOUT:
            counts.timed_out += tasks
        else:
            counts.cancelled += tasks


def _nowhere(index: int, result: TaskResult[Any]) -> None:
    """Where results go once the run is over: there are none."""
