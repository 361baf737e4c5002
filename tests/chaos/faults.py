"""Faults to plant in a copy of the package: each a piece of its source, and what stands there then.

The checker has to catch every one; a piece that is not there exactly once is an error, so that a
fault never goes missing when the source changes.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "agentos_parallel"


@dataclass(frozen=True)
class Fault:
    """One fault: in *file*, *there* is replaced by *instead*."""

    name: str
    file: str
    there: str
    instead: str

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def plant(fault: Fault | None, into: Path) -> None:
    """Copy the package to *into*, and plant *fault* there.

    Raises:
        LookupError: its piece of source is not there exactly once.
    """
    shutil.copytree(PACKAGE, into / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    if fault is None:
        return
    file = into / PACKAGE.name / fault.file
    source = file.read_text()
    if source.count(fault.there) != 1:
        raise LookupError(f"{fault}: found {source.count(fault.there)} times: {fault.there!r}")
    file.write_text(source.replace(fault.there, fault.instead))


FAULTS = (
    Fault(
        "results in the wrong order",
        "_core/collect.py",
        "for index in range(run.ledger.counts.total)]",
        "for index in reversed(range(run.ledger.counts.total))]",
    ),
    Fault(
        "a result is lost",
        "_core/collect.py",
        "results=in_order)",
        "results=in_order[:-1] if len(in_order) > 1 else in_order)",
    ),
    Fault(
        "a result is given twice",
        "stream.py",
        "self._in_turn.append(result)",
        "self._in_turn.extend([result] * (1 + (index == 2)))",
    ),
    Fault(
        "a result is counted twice",
        "_core/ledger.py",
        "            self._count_lost(status, 1)",
        "            self._count_lost(status, 1 + (status is TaskStatus.TIMEOUT))",
    ),
    Fault(
        "results are swapped",
        "_core/crew.py",
        "result.result = task.value",
        "result.result, self.kept = getattr(self, 'kept', task.value), task.value",
    ),
    Fault(
        "an error is replaced by a copy",
        "_core/task.py",
        "        result.error = error\n        if isinstance",
        "        import copy\n        result.error = copy.copy(error)\n        if isinstance",
    ),
    Fault(
        "a late answer is no answer",
        "_core/task.py",
        "            self.returned = True",
        "            self.returned = self.verdict is None",
    ),
    Fault(
        "no lending",
        "_core/nesting.py",
        "            if not keep:",
        "            if self.settled:",
    ),
    Fault(
        "a lent slot is not taken back",
        "_core/nesting.py",
        "        await self.regain_slots()\n\n    async def regain",
        "\n    async def regain",
    ),
    Fault(
        "a slot is not given back",
        "_core/nesting.py",
        "            throttler.release(outcome)",
        "            if outcome is not TaskStatus.CANCELLED:\n"
        "                throttler.release(outcome)",
    ),
    Fault(
        "a slot is given back twice",
        "_core/nesting.py",
        "            throttler.release(outcome)",
        "            throttler.release(outcome)\n"
        "            if outcome is TaskStatus.FAILED and throttler.active:\n"
        "                throttler.release(outcome)",
    ),
    Fault(
        "a slot is lost with a cancelled waiter",
        "throttle.py",
        "                self.release()\n            raise\n        except GeneratorExit:",
        "                pass\n            raise\n        except GeneratorExit:",
    ),
    Fault(
        "one slot too many",
        "throttle.py",
        "while self._active < self._limit and",
        "while self._active <= self._limit and",
    ),
    Fault(
        "the last come is served first",
        "throttle.py",
        "queue.popitem(last=False)",
        "queue.popitem(last=True)",
    ),
    Fault(
        "a run never goes to the end of the queue",
        "throttle.py",
        "                queue[place] = None\n\n    def _queue_to_serve",
        "                queue[place] = None\n"
        "                queue.move_to_end(place, last=False)\n\n    def _queue_to_serve",
    ),
    Fault(
        "a cancel is swallowed",
        "_core/run.py",
        "failure = cancelled if self.ledger.exit is None else self.ledger.exit",
        "failure = self.ledger.exit",
    ),
    Fault(
        "a cancel is made up",
        "_core/run.py",
        'self._stop_starting("its source raised", TaskStatus.CANCELLED, lambda _: None)',
        'self.ledger.leave(asyncio.CancelledError(), "its source raised")',
    ),
    Fault(
        "the second cancel cuts the drain short",
        "_core/run.py",
        "                cancelled = cancelled or error\n",
        "                if cancelled is not None:\n                    raise\n"
        "                cancelled = error\n",
    ),
    Fault(
        "a cancel is not uncancelled",
        "_core/task.py",
        "others_cancelled = task.handle.uncancel() > self._cancels",
        "others_cancelled = task.handle.cancelling() > self._cancels + 1",
    ),
    Fault(
        "the deadline is not inherited",
        "_core/clock.py",
        "self.deadline = inherited(self.deadline, clocks.deadline, outer.run.loop, loop)",
        "pass",
    ),
    Fault(
        "the deadline is not kept",
        "_core/run.py",
        "            self.clocks.call_at(deadline.at, self._deadline_passed)",
        "            self.clocks.call_at(deadline.at + 1, self._deadline_passed)",
    ),
    Fault(
        "a nested run gives up after the run around it",
        "_core/clock.py",
        "clocks.grace - GIVE_UP_EARLIER",
        "clocks.grace + 1",
    ),
    Fault(
        "task_timeout counts from the queue",
        "_core/crew.py",
        "self.alarms.set(task, now + self._seconds)",
        "self.alarms.set(task, max(now, since + self._seconds))",
    ),
    Fault(
        "task_timeout is not kept in a retry",
        "_core/task.py",
        "            task.start_clock(task.run.loop.time())",
        "            task.attempt_at = task.run.loop.time()",
    ),
    Fault(
        "nobody is given up",
        "_core/crew.py",
        "            self._last_call(task, task.verdict, LAST_CALL)",
        "            self._loop.call_later(1, self._last_call, task, task.verdict, LAST_CALL)",
    ),
    Fault(
        "a stop rule is never asked",
        "_core/ledger.py",
        "        if self._rule is not None:\n            self.ask()\n",
        "",
    ),
    Fault(
        "a stop rule is asked too late",
        "_core/stop.py",
        "if counts.completed >= k:",
        "if counts.completed > k:",
    ),
    Fault(
        "the running are not cancelled at a stop",
        "_core/run.py",
        "        self.crew.cancel(status, error_of, give_up_at)",
        "        if status is not TaskStatus.CANCELLED:\n"
        "            self.crew.cancel(status, error_of, give_up_at)",
    ),
    Fault(
        "the winner is another",
        "_core/collect.py",
        "for r in results.values() if",
        "for r in reversed(results.values()) if",
    ),
    Fault(
        "a coroutine that never ran stays open",
        "_core/run.py",
        "            rest = [self._discarded(drawn) for drawn in rest]",
        "            rest = list(rest)",
    ),
    Fault(
        "a source is not closed",
        "_core/feed.py",
        "for step in (self._draw_all, self._source.close):",
        "for step in (self._draw_all,):",
    ),
    Fault(
        "one more is drawn",
        "_core/intake.py",
        "return self.in_hand < self.width > self.unread",
        "return self.in_hand <= self.width > self.unread",
    ),
    Fault(
        "unread results are not waited for",
        "_core/intake.py",
        "        if self.unread < width:",
        "        if self.unread <= width + 1:",
    ),
    Fault(
        "the context is shared",
        "_core/crew.py",
        "        task.handle = handle = self._spawn(task.live())",
        "        task.handle = handle = self._spawn(task.live(), context=self._context)",
    ),
    Fault(
        "control flow is a failure",
        "_core/ledger.py",
        "        if is_control_flow(error):\n            if self",
        "        if not error:\n            if self",
    ),
    Fault(
        "the last control flow comes out",
        "_core/ledger.py",
        "index < self.control_flow[0]",
        "index > self.control_flow[0]",
    ),
    Fault(
        "an exit is swallowed",
        "_core/ledger.py",
        "        elif not isinstance(error, Exception):",
        "        elif isinstance(error, SystemExit):",
    ),
    Fault(
        "the deadline does not come out",
        "_core/run.py",
        "if self._finished_in_time is not None and past_deadline:",
        "if self._finished_in_time is not None and past_deadline and gathered.completed:",
    ),
    Fault(
        "a thread is not counted",
        "_core/works.py",
        "        task.threads += 1",
        "        task.threads += 0",
    ),
    Fault(
        "a stray thread is not counted",
        "_core/works.py",
        "            task.strays += 1",
        "            task.strays += 0",
    ),
    Fault(
        "sync functions run on the loop",
        "_core/works.py",
        "    value = await _called_in_thread(function, *args)",
        "    value = function(*args)",
    ),
    Fault(
        "queued_ms counts from the start of the run",
        "_core/run.py",
        "drawn = (index, str(index), item, self.loop.time())",
        "drawn = (index, str(index), item, self.clocks.started_at)",
    ),
    Fault(
        "a race takes the result of a nested run's error",
        "fanout.py",
        "isinstance(error, ParallelError) and error.result is None",
        "isinstance(error, ParallelError)",
    ),
    Fault(
        "a dropped stream runs on",
        "stream.py",
        "        elif not self._run.over:\n            stop",
        "        elif not self._opened:\n            stop",
    ),
)
