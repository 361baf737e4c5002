"""What comes back: plain, mutable records that can be made by hand.

A ``TaskResult`` is what became of one work, a ``GatherResult`` of a whole run, a ``FanOutResult``
of a fan-out. Building one costs 0.4 µs, so results keep slots, and reprs have a constant size:
``asyncio.run`` takes the repr of what it returns. Exceptions stand in them as they were raised;
wrapping them was refused, for it hides the type that callers look for.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib import import_module
from typing import Any, Generic, TypeVar

from agentos_parallel.checks import seconds_text
from agentos_parallel.errors import ParallelError, RestoredError, error_message
from agentos_parallel.jsonable import to_jsonable

T = TypeVar("T")

_REASON_CHARS = 120


class TaskStatus(str, Enum):
    """Where a task stands; PENDING and RUNNING are seen only while its run lasts."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


_WORDS = {
    TaskStatus.COMPLETED: "completed",
    TaskStatus.FAILED: "failed",
    TaskStatus.TIMEOUT: "timed out",
    TaskStatus.CANCELLED: "cancelled",
}


@dataclass(slots=True, repr=False)
class TaskResult(Generic[T]):
    """What became of one work.

    Attributes:
        task_id: the work's position ("0", "1", ...) or its key in a mapping.
        status: see ``TaskStatus``.
        result: what the work returned; None unless it completed.
        error: what it raised, or why it timed out. A task that its run cancelled has one only
            where the run was stopped by an exception.
        started_at: when it got its slot, in seconds of its loop's clock; 0.0: it never started.
        finished_at: when it ended, on the same clock.
        duration_ms: milliseconds that its attempts took together.
        retries: attempts after the first.
        queued_ms: milliseconds it waited for its slot.
        abandoned: it was still running when the run gave up waiting for it.

    Example:
        >>> TaskResult("0", TaskStatus.COMPLETED, 42)
        TaskResult('0', completed, 42)
    """

    task_id: str
    status: TaskStatus = TaskStatus.PENDING
    result: T | None = None
    error: BaseException | None = None
    started_at: float = 0.0
    finished_at: float = 0.0
    duration_ms: float = 0.0
    retries: int = 0
    queued_ms: float = 0.0
    abandoned: bool = False

    def __repr__(self) -> str:
        """One short line, whatever the size of the result."""
        parts = [repr(self.task_id), self.status.value]
        if self.status is TaskStatus.COMPLETED:
            parts.append(reprlib.repr(self.result))
        if self.error is not None:
            parts.append(reprlib.repr(self.error))
        if self.abandoned:
            parts.append("abandoned")
        return f"TaskResult({', '.join(parts)})"

    def to_dict(self) -> dict[str, Any]:
        """The fields in plain JSON values; an error becomes its type and message."""
        return {
            "task_id": self.task_id,
            "status": self.status.value,
            "result": to_jsonable(self.result),
            "error": None if self.error is None else _error_to_dict(self.error),
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "duration_ms": self.duration_ms,
            "retries": self.retries,
            "queued_ms": self.queued_ms,
            "abandoned": self.abandoned,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TaskResult[Any]:
        """Read back what ``to_dict`` gave; an error comes as ``RestoredError``."""
        own = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        error = own.get("error")
        restored = None if error is None else RestoredError(error["type"], error["message"])
        own.update(status=TaskStatus(own["status"]), error=restored)
        return TaskResult[Any](**own)


@dataclass(repr=False)
class GatherResult(Generic[T]):
    """What became of a run: a result for each work, in input order, and their counts.

    Attributes:
        results: one ``TaskResult`` for each work, in input order.
        total: works handed over (of a source without a length: drawn).
        completed: tasks that returned.
        failed: tasks that raised.
        timed_out: tasks that the deadline or their ``task_timeout`` ended.
        cancelled: tasks that were cancelled, before or after their start.
        total_duration_ms: milliseconds from the start of the run to its end.
        all_succeeded: every work completed, and the source was drawn to its end.
        reason: why the run stopped before its last task; empty where it did not.

    Example:
        >>> GatherResult(total=10, completed=7, failed=2, timed_out=1, total_duration_ms=1200)
        <GatherResult 7/10 completed, 2 failed, 1 timed out in 1.2 s>
    """

    results: list[TaskResult[T]] = field(default_factory=list)
    total: int = 0
    completed: int = 0
    failed: int = 0
    timed_out: int = 0
    cancelled: int = 0
    total_duration_ms: float = 0.0
    all_succeeded: bool = False
    reason: str = ""

    @property
    def success_rate(self) -> float:
        """Completed over total, 0.0 to 1.0; 0.0 where there was nothing to do."""
        return self.completed / self.total if self.total else 0.0

    @property
    def abandoned(self) -> int:
        """How many tasks were still running when the run gave up waiting for them."""
        return sum(task.abandoned for task in self.results)

    @property
    def by_id(self) -> dict[str, TaskResult[T]]:
        """The results by task_id; made anew at each call."""
        return {task.task_id: task for task in self.results}

    def get_results(self) -> list[T]:
        """What the completed tasks returned, in input order."""
        # A completed task's result is a T, and None where T allows None.
        return [t.result for t in self.results if t.status is TaskStatus.COMPLETED]  # type: ignore[misc]

    def get_errors(self) -> list[tuple[str, BaseException]]:
        """``(task_id, error)`` of every task that has an error, in input order."""
        return [(t.task_id, t.error) for t in self.results if t.error is not None]

    def raise_for_errors(self) -> GatherResult[T]:
        """Return self when all succeeded, else raise: all or nothing in one call.

        Raises:
            ExceptionGroup: with every error, tracebacks intact; a task that was cancelled and a
                source that was not drawn to its end stand in it as a ``ParallelError``.

        Example:
            >>> done = TaskResult("0", TaskStatus.COMPLETED, "text")
            >>> GatherResult([done], 1, 1, all_succeeded=True).raise_for_errors().get_results()
            ['text']
        """
        if self.all_succeeded:
            return self
        raise ExceptionGroup(self._summary(), list(self._exceptions()))

    def to_dict(self) -> dict[str, Any]:
        """Everything in plain JSON values; the keys are the field names.

        A value that JSON can't hold becomes ``{"repr": ..., "type": ...}``; a pydantic model, a
        dataclass or a LangChain message its dict; an error ``{"type": ..., "message": ...}``.
        """
        return {
            "results": [task.to_dict() for task in self.results],
            "total": self.total,
            "completed": self.completed,
            "failed": self.failed,
            "timed_out": self.timed_out,
            "cancelled": self.cancelled,
            "total_duration_ms": self.total_duration_ms,
            "all_succeeded": self.all_succeeded,
            "reason": self.reason,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GatherResult[Any]:
        """Read back what ``to_dict`` gave, also among other keys, as in a tool's artifact.

        Results stay the plain values that they became.
        """
        own = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        own["results"] = [TaskResult.from_dict(task) for task in data["results"]]
        return GatherResult[Any](**own)

    def table(self, rows: int | None = None) -> str:
        """The tasks as a table of text, a line each, in input order, for a terminal.

        Args:
            rows: so many tasks at the most; None: all.

        Example:
            >>> done = TaskResult("0", TaskStatus.COMPLETED, "text")
            >>> print(GatherResult([done], 1, 1).table().splitlines()[1])
            0     completed  0 s               text
        """
        text: str = _display("table").text_table(self, rows)
        return text

    def _repr_html_(self) -> str:
        """For notebooks: the counts, the timeline, and the first tasks."""
        text: str = _display("table").html_table(self)
        return text

    def __repr__(self) -> str:
        """One line of constant size: the counts, the duration, the reason for a stop."""
        return f"<GatherResult {self._summary()}>"

    def _summary(self) -> str:
        others = {
            "failed": self.failed,
            "timed out": self.timed_out,
            "cancelled": self.cancelled,
        }
        parts = [f"{self.completed}/{self.total} completed"]
        parts += [f"{count} {word}" for word, count in others.items() if count]
        text = f"{', '.join(parts)} in {seconds_text(self.total_duration_ms / 1000)}"
        return f"{text} ({shorten(self.reason, _REASON_CHARS)})" if self.reason else text

    def _exceptions(self) -> Iterator[Exception]:
        lost = [task for task in self.results if task.status is not TaskStatus.COMPLETED]
        yield from map(self._exception, lost)
        if not lost:
            why = self.reason or "the source was not drawn to its end"
            yield ParallelError(f"incomplete: {self.completed} of {self.total} tasks, {why}")

    def _exception(self, task: TaskResult[T]) -> Exception:
        if isinstance(task.error, Exception):
            return task.error
        why = "" if task.error is None else error_message(task.error)
        text = f"task {task.task_id!r} was {_WORDS.get(task.status, task.status.value)}"
        told = ParallelError(": ".join(filter(None, [text, why or self.reason])))
        told.__cause__ = task.error
        return told


@dataclass(repr=False)
class FanOutResult(Generic[T]):
    """What a fan-out made of its works.

    Attributes:
        value: the winner's value, the merged value, or for "all" the GatherResult; None where
            nothing (or less than ``min_success``) succeeded.
        winner: task_id of the first task to succeed, for "first"; else None.
        gather: the whole run.
    """

    value: Any = None
    winner: str | None = None
    gather: GatherResult[T] = field(default_factory=GatherResult)

    def _repr_html_(self) -> str:
        """For notebooks: the value, and the run."""
        text: str = _display("table").html_table(self)
        return text

    def __repr__(self) -> str:
        """One short line, whatever the size of the value."""
        return f"<FanOutResult {reprlib.repr(self.value)} of {self.gather!r}>"

    def to_dict(self) -> dict[str, Any]:
        """The fields in plain JSON values; for "all" the value is None, not the run again."""
        value = None if self.value is self.gather else to_jsonable(self.value)
        return {"value": value, "winner": self.winner, "gather": self.gather.to_dict()}


def shorten(text: str, limit: int) -> str:
    """Cut *text* to *limit* characters, saying so.

    >>> shorten("a long story", 7)
    'a long…'
    """
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _display(module: str) -> Any:
    """What shows results, which knows them: loaded when it is asked for."""
    return import_module(f"agentos_parallel.display.{module}")


def _error_to_dict(error: BaseException) -> dict[str, str]:
    if isinstance(error, RestoredError):
        return {"type": error.type_name, "message": error.message}
    return {"type": type(error).__name__, "message": error_message(error)}
