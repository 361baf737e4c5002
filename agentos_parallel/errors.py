"""The exceptions of this package; each survives ``copy`` and ``pickle``.

.. code-block:: text

    ParallelError
    ├── DeadlineExceeded   the run's ``timeout`` ended        (also a TimeoutError)
    ├── TaskTimeout        an attempt passed ``task_timeout`` (also a TimeoutError)
    ├── FanOutError        nothing, or too little, to merge or to choose from
    ├── SourceError        the iterable that gave the works raised
    └── RestoredError      an error read back from plain JSON values

    PartialResultWarning (UserWarning)   a merge went past failed tasks
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentos_parallel.results import GatherResult


class ParallelError(Exception):
    """Base of every exception that this package raises itself.

    Attributes:
        result: what the run had when the exception ended it, finished tasks included;
            None where the exception did not end a run.
    """

    def __init__(self, *args: Any, result: GatherResult[Any] | None = None) -> None:
        super().__init__(*args)
        self.result = result


class DeadlineExceeded(ParallelError, TimeoutError):
    """The run's ``timeout`` ended before the task, or the run, did."""


class TaskTimeout(ParallelError, TimeoutError):
    """One attempt of a task ran longer than its ``task_timeout``."""


class FanOutError(ParallelError):
    """Nothing succeeded, fewer than ``min_success`` did, or ``merge_fn`` raised (the cause)."""


class SourceError(ParallelError):
    """The iterable that gave the works raised; its exception is the ``__cause__``."""


class RestoredError(ParallelError):
    """An error that was read back by ``GatherResult.from_dict``.

    Attributes:
        type_name: name of the original error's class.
        message: text of the original error.
    """

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(type_name, message)
        self.type_name = type_name
        self.message = message

    def __str__(self) -> str:
        """Type and message, as ``error_text`` gave them for the original."""
        return f"{self.type_name}: {self.message}" if self.message else self.type_name


class PartialResultWarning(UserWarning):
    """A merge was made from the tasks that succeeded, and others did not."""


def error_text(error: BaseException) -> str:
    """Type and message of *error*, for a reader; never empty, though ``str(error)`` may be.

    >>> error_text(ValueError("no such page")), error_text(TimeoutError())
    ('ValueError: no such page', 'TimeoutError')
    """
    if isinstance(error, RestoredError):
        return str(error)
    message = error_message(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def error_message(error: BaseException) -> str:
    """``str(error)``, also for an error whose ``__str__`` raises."""
    try:
        return str(error)
    except Exception as broken:  # the user's __str__: it must not hide the error it describes
        return f"(its text can't be read: {type(broken).__name__})"
