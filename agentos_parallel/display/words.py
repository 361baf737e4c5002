"""Texts of strangers as screens can show them, and spans of time in words."""

from __future__ import annotations

import html
import re

from agentos_parallel.checks import seconds_text
from agentos_parallel.errors import error_text
from agentos_parallel.jsonable import plain_text, to_jsonable
from agentos_parallel.results import TaskResult, TaskStatus, shorten

STATUS_WORDS = {
    TaskStatus.COMPLETED: "completed",
    TaskStatus.FAILED: "failed",
    TaskStatus.TIMEOUT: "timed out",
    TaskStatus.CANCELLED: "cancelled",
    TaskStatus.PENDING: "waiting",
    TaskStatus.RUNNING: "running",
}

# What moves a terminal's cursor, hides text, or is no XML.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffe\uffff]"
)


def safe(text: str, limit: int) -> str:
    r"""*text* of at most *limit* characters, without what is no character of a text.

    >>> safe("red: \x1b[31mtext", 40)
    'red: �[31mtext'
    """
    return shorten(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", plain_text(text[: limit + 1])), limit)


def one_line(text: str, limit: int) -> str:
    """The same, on one line."""
    return safe(" ".join(text[: 4 * limit].split()), limit)


def escaped(text: str, limit: int) -> str:
    """The same as HTML, where it stays text."""
    return html.escape(safe(text, limit))


def outcome_of(task: TaskResult[object]) -> str:
    """What a task gave, or its error, as text; empty where there is neither."""
    if task.error is not None:
        return error_text(task.error)
    if task.status is not TaskStatus.COMPLETED:
        return ""
    value = to_jsonable(task.result)
    return value if isinstance(value, str) else str(value)


def span(milliseconds: float) -> str:
    """A span of time, for a reader.

    >>> span(0), span(4.2), span(1500)
    ('0 s', '4.2 ms', '1.5 s')
    """
    if not milliseconds:
        return "0 s"
    return f"{milliseconds:.2g} ms" if milliseconds < 100 else seconds_text(milliseconds / 1000)
