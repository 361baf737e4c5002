"""What a caller gets of tasks of which it wants every output, or an exception in its place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agentos_parallel.errors import ParallelError
from agentos_parallel.results import GatherResult, TaskResult, TaskStatus

_FAILURES = (TaskStatus.FAILED, TaskStatus.TIMEOUT)


def output_of(task: TaskResult[Any]) -> Any:
    """The output of *task*, or the exception in its place."""
    return task.result if task.status is TaskStatus.COMPLETED else task.error


def first_failure(tasks: Iterable[TaskResult[Any]]) -> BaseException | None:
    """The failure that came first; where there is none, the cancel of a task that ended itself."""
    ended = [task for task in tasks if task.error is not None]
    failures = [task for task in ended if task.status in _FAILURES]
    if failures:
        return min(failures, key=lambda task: task.finished_at).error
    return ended[0].error if ended else None


def check_complete(gathered: GatherResult[Any]) -> None:
    """Raise what keeps *gathered* from being complete; ours carries what has finished.

    Raises:
        BaseException: the first failure, as it was.
    """
    error = first_failure(gathered.results)
    if error is None:
        return
    if isinstance(error, ParallelError) and error.result is None:
        error.result = gathered
    raise error
