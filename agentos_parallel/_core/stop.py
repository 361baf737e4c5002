"""Stop rules: small functions that the run asks for a reason to stop.

A rule sees the counts so far and how many works there are (None while nobody knows), and gives a
reason (a text, or an exception, which becomes the error of what it cancels) or None: go on. It
knows nothing of tasks, slots or time. A second loop for races was refused: a race is the rule
``first_success``. Go's ``conc`` and Java's ``StructuredTaskScope`` joiners make the policy of a
group an object in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from agentos_parallel.results import GatherResult
from agentos_parallel.settings import Settings

StopRule: TypeAlias = Callable[[GatherResult[Any], int | None], str | BaseException | None]


def rule_of(settings: Settings) -> StopRule | None:
    """The rule that *settings* ask for; None: go on to the last task."""
    if settings.fail_fast:
        return first_failure
    return None if settings.min_success is None else quorum(settings.min_success)


def first_failure(counts: GatherResult[Any], expected: int | None) -> str | None:
    """Stop at the first failure or timeout."""
    return "fail_fast: a task failed" if counts.failed or counts.timed_out else None


def first_success(counts: GatherResult[Any], expected: int | None) -> str | None:
    """Stop at the first success: a race."""
    return "first: a task succeeded" if counts.completed else None


def quorum(k: int) -> StopRule:
    """Stop at the *k*-th success, or once *k* is out of reach."""

    def rule(counts: GatherResult[Any], expected: int | None) -> str | None:
        if counts.completed >= k:
            return f"min_success: {k} succeeded"
        lost = counts.failed + counts.timed_out + counts.cancelled
        if expected is not None and expected - lost < k:
            return f"min_success: {k} successes are out of reach"
        return None

    return rule
