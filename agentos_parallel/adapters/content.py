"""What a model reads of a run: short, labelled, each answer fenced."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentos_parallel.checks import seconds_text
from agentos_parallel.errors import DeadlineExceeded, TaskTimeout, error_text
from agentos_parallel.jsonable import shown_value, to_jsonable
from agentos_parallel.results import GatherResult, TaskResult, TaskStatus, shorten

MAX_RESULT_CHARS = 8_000
"""Characters of one answer that a model gets to read; the artifact has all of them."""

NO_ANSWER = "(no answer)"


def describe(gathered: GatherResult[Any], agents: Mapping[str, str]) -> str:
    """A run for the model: counts, then each task with its status and answer.

    Args:
        gathered: the run.
        agents: the name of the agent of each task_id.
    """
    parts = [f"{gathered.completed} of {gathered.total} tasks completed."]
    parts += [describe_task(task, agents[task.task_id]) for task in gathered.results]
    return "\n\n".join(parts)


def describe_task(task: TaskResult[Any], agent: str) -> str:
    """One task for the model: whose it is, how it ended, its answer in a fence."""
    label = agent if task.task_id == agent else f"{task.task_id} {agent}"
    if task.status is TaskStatus.COMPLETED:
        return f"[{label}] completed:\n{fenced(task.result)}"
    return f"[{label}] {shorten(why(task), MAX_RESULT_CHARS)}"


def why(task: TaskResult[Any]) -> str:
    """How a task ended that has no answer, in words."""
    if task.status is TaskStatus.TIMEOUT and not task.started_at:
        word = "never started"
    elif task.status is TaskStatus.TIMEOUT:
        word = f"timed out after {seconds_text(task.duration_ms / 1000)}"
        if isinstance(task.error, TaskTimeout | DeadlineExceeded):
            return word
    else:
        word = "failed" if task.status is TaskStatus.FAILED else "cancelled"
    return word if task.error is None else f"{word}: {error_text(task.error)}"


def fenced(answer: object) -> str:
    """An answer as text between two marks; what is too long is cut, and says so."""
    text = text_of(answer).replace("</answer", "<\\/answer")
    left_out = len(text) - MAX_RESULT_CHARS
    if left_out > 0:
        text = f"{text[:MAX_RESULT_CHARS]}\n... ({left_out} more characters)"
    return f"<answer>\n{text}\n</answer>"


def text_of(answer: object) -> str:
    """An answer as text: itself, its JSON, or its repr."""
    value = to_jsonable(answer)
    if isinstance(value, str):
        return value or NO_ANSWER
    if value is None:
        return NO_ANSWER
    shown = shown_value(answer)
    return shown["repr"] if value == shown else json.dumps(value, ensure_ascii=False)
