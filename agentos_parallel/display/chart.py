"""A finished run as bars in lanes: what a timeline draws, and what it says in words.

A lane is a slot: each task is put into the first lane that is free when it starts, as graph
colouring of intervals does, so that there are as many lanes as tasks were at work at once.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from agentos_parallel.checks import shown
from agentos_parallel.display.words import one_line, span
from agentos_parallel.results import FanOutResult, GatherResult, TaskResult

Shown: TypeAlias = GatherResult[Any] | FanOutResult[Any] | Mapping[str, Any]
"""What can be shown: the result of a run, or the artifact of a tool's message."""

_LABEL_CHARS = 60
_CHAIN = 8  # tasks of the critical path that are named


@dataclass(slots=True)
class Bar:
    """One task in a chart; times in seconds from the start of the run.

    Attributes:
        task: its record.
        label: its task_id, with its agent if it has one.
        queued: when it began to wait.
        start: when it got its slot; None: it never did.
        end: when it ended.
        lane: its slot; -1: it had none.
        after: the bar whose end let it start, if it waited for one.
    """

    task: TaskResult[Any]
    label: str
    queued: float
    start: float | None
    end: float
    lane: int = -1
    after: Bar | None = None


@dataclass(slots=True)
class Chart:
    """A run as bars.

    Attributes:
        run: the run.
        bars: one for each task, in input order.
        lanes: how many slots were used.
        seconds: from its start to its end.
        winner: the task_id of the winner of a race, if it was one.
    """

    run: GatherResult[Any]
    bars: list[Bar] = field(default_factory=list)
    lanes: int = 0
    seconds: float = 0.0
    winner: str | None = None

    @property
    def summary(self) -> str:
        """The counts of the run, in words."""
        return repr(self.run)[1:-1].removeprefix("GatherResult ")

    @property
    def idle(self) -> float:
        """The share of the slots' time in which they had nothing to do, 0.0 to 1.0."""
        worked = sum(bar.end - bar.start for bar in self.bars if bar.start is not None)
        there = self.lanes * self.seconds
        return max(0.0, 1 - worked / there) if there else 0.0

    def critical_path(self) -> list[Bar]:
        """The chain of tasks that held everybody up: the last to end, and those it waited for."""
        started = [bar for bar in self.bars if bar.start is not None]
        bar = max(started, key=lambda bar: bar.end, default=None)
        path: list[Bar] = []
        while bar is not None:
            path.append(bar)
            bar = bar.after
        return path[::-1]

    def words(self) -> list[str]:
        """The critical path and the lost time, a line each."""
        path = self.critical_path()
        if not path:
            return ["no task ever started"]
        names = [bar.label for bar in path]
        if len(names) > _CHAIN:
            names = [*names[: _CHAIN - 1], f"… ({len(names) - _CHAIN} more)", names[-1]]
        took = span(1000 * sum(bar.end - (bar.start or 0.0) for bar in path))
        slots = "slot" if self.lanes == 1 else "slots"
        return [
            f"critical path: {' → '.join(names)} ({took} of {span(1000 * self.seconds)})",
            f"{self.lanes} {slots}, idle {self.idle:.0%} of the time",
        ]


def chart_of(shown_run: Shown) -> Chart:
    """The chart of a run.

    Args:
        shown_run: a GatherResult, a FanOutResult, or the artifact of a tool's message.

    Raises:
        TypeError: it is none of these.
    """
    run: Any = shown_run
    agents: Mapping[str, str] = {}
    winner: str | None = None
    if isinstance(shown_run, FanOutResult):
        run, winner = shown_run.gather, shown_run.winner
    elif isinstance(shown_run, Mapping) and "results" in shown_run:
        run, winner = GatherResult.from_dict(shown_run), shown_run.get("winner")
        agents = shown_run.get("agents") or {}
    if not isinstance(run, GatherResult):
        raise TypeError(
            "result must be a GatherResult, a FanOutResult or the artifact of a tool's message, "
            f"got {shown(run)}"
        )
    times = [time for task in run.results for time in _times(task)]
    begin, last = min(times, default=0.0), max(times, default=0.0)
    bars = [_bar(task, agents.get(task.task_id), begin, last) for task in run.results]
    seconds = max(last - begin, run.total_duration_ms / 1000)
    return Chart(run, bars, _put_in_lanes(bars), seconds, winner)


def _times(task: TaskResult[Any]) -> list[float]:
    """What the loop's clock showed at its beginning and its end, as far as it has come."""
    known = [time for time in (task.started_at, task.finished_at) if time]
    return [known[0] - task.queued_ms / 1000, *known] if known else []


def _bar(task: TaskResult[Any], agent: str | None, begin: float, last: float) -> Bar:
    """A task as a bar; one that still waits or works goes on to the *last* time that is known."""
    label = task.task_id if agent in (None, task.task_id) else f"{task.task_id} {agent}"
    start = task.started_at - begin if task.started_at else None
    end = (task.finished_at or last) - begin
    queued = next(iter(_times(task)), begin) - begin
    return Bar(task, one_line(label, _LABEL_CHARS), queued, start, end)


def _put_in_lanes(bars: list[Bar]) -> int:
    """Give each bar its lane, and whose end it waited for; says how many lanes there are."""
    free: list[int] = []
    at_work: list[tuple[float, int, Bar]] = []
    lanes = 0
    freed: Bar | None = None  # the last to end before
    started = [(bar.start, bar) for bar in bars if bar.start is not None]
    for start, bar in sorted(started, key=lambda each: each[0]):
        while at_work and at_work[0][0] <= start:
            _, lane, freed = heapq.heappop(at_work)
            heapq.heappush(free, lane)
        if free:
            bar.lane = heapq.heappop(free)
        else:
            bar.lane, lanes = lanes, lanes + 1
        if freed is not None and bar.queued < freed.end:
            bar.after = freed
        heapq.heappush(at_work, (bar.end, bar.lane, bar))
    return lanes
