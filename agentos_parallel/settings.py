"""The keywords that all entry points share, checked in one place before anything starts.

An entry point takes its arguments apart once, into a ``Settings``; nothing below it checks them
again.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeAlias, TypedDict, TypeVar

from agentos_parallel.arguments import strict_call
from agentos_parallel.checks import flag, seconds, shown, whole_number
from agentos_parallel.throttle import TaskThrottler

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_TIMEOUT = 60.0
"""Seconds that a run may take unless told otherwise."""

ThrottlerOf: TypeAlias = Callable[[Any], TaskThrottler | Iterable[TaskThrottler]]
"""Gives the throttler(s) of one item; of a work, by its task_id."""

TimeoutOf: TypeAlias = Callable[[Any], float | None]
"""Gives the ``task_timeout`` of one item; of a work, by its task_id."""

Limit: TypeAlias = TaskThrottler | ThrottlerOf


class Options(TypedDict, total=False):
    """The keywords that every entry point takes beside its own; None: the default.

    See ``Settings`` for what they mean. On a method of an executor the default is the executor's
    own setting, elsewhere that of ``Settings``.
    """

    task_timeout: float | TimeoutOf | None
    fail_fast: bool | None
    min_success: int | None
    throttler: Limit | None
    grace: float | None


_NO_DEADLINE = " or None for no deadline"


@dataclass(frozen=True, slots=True)
class Settings:
    """What one run is bound by.

    Args:
        max_concurrent: tasks in hand at once; None leaves that to the throttler.
        timeout: seconds that the whole run may take; None or ``math.inf``: no deadline.
        task_timeout: seconds that one attempt may take, or a function of the item; None: no limit.
        fail_fast: stop at the first failure or timeout.
        min_success: stop at this many successes, or once they are out of reach.
        throttler: slots shared with others, or a function of the item that gives one or several.
        grace: seconds to wait for tasks that were cancelled.
        no_deadline: how the caller asks for no deadline, for the error text.
        also: an executor's own limit, held beside ``throttler``.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is allowed.
    """

    max_concurrent: int | None = 8
    timeout: float | None = DEFAULT_TIMEOUT
    task_timeout: float | TimeoutOf | None = None
    fail_fast: bool = False
    min_success: int | None = None
    throttler: Limit | None = None
    grace: float = 5.0
    no_deadline: str = "timeout=None"
    also: Limit | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        if self.max_concurrent is not None:
            whole_number("max_concurrent", self.max_concurrent)
        elif self.throttler is None and self.also is None:
            raise ValueError(
                "max_concurrent=None leaves the limit to throttler=, and none is given"
            )
        if self.timeout is not None:
            seconds("timeout", self.timeout, none=_NO_DEADLINE)
        if self.task_timeout is not None and not callable(self.task_timeout):
            seconds("task_timeout", self.task_timeout, none=", a function of the item, or None")
        flag("fail_fast", self.fail_fast)
        if self.min_success is not None:
            whole_number("min_success", self.min_success)
            if self.fail_fast:
                raise ValueError("fail_fast=True and min_success exclude each other: choose one")
        for limit in self.limits:
            if not (isinstance(limit, TaskThrottler) or callable(limit)):
                raise TypeError(
                    "throttler must be a TaskThrottler, a function of the item, or None, "
                    f"got {shown(limit)}"
                )
        seconds("grace", self.grace, zero=True)

    @property
    def deadline_after(self) -> float | None:
        """Seconds until the deadline; None: there is none."""
        return None if self.timeout is None or self.timeout == math.inf else float(self.timeout)

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Every limit that was asked for: throttlers, and functions of the item that give some."""
        return tuple(limit for limit in (self.also, self.throttler) if limit is not None)

    @property
    def throttlers(self) -> tuple[TaskThrottler, ...]:
        """The throttlers that every task of the run needs, in their one order."""
        return in_order(limit for limit in self.limits if isinstance(limit, TaskThrottler))

    @property
    def throttled_by_item(self) -> bool:
        """Whether the throttlers depend on the item."""
        return not all(isinstance(limit, TaskThrottler) for limit in self.limits)

    def throttlers_of(self, item: object) -> tuple[TaskThrottler, ...]:
        """The throttlers that the task of *item* needs, in their one order.

        Raises:
            TypeError: a function of the item gave something else.
        """
        return in_order(throttler for limit in self.limits for throttler in _given(limit, item))

    @classmethod
    def of(cls, max_concurrent: int | None, timeout: float | None, options: Options) -> Settings:
        """Those of a function, with the *options* that are not None."""
        given: dict[str, Any] = {name: v for name, v in options.items() if v is not None}
        return cls(max_concurrent, timeout, **given)

    def override(self, **given: Any) -> Settings:
        """These settings with the values in *given* that are not None."""
        changed = {name: value for name, value in given.items() if value is not None}
        return replace(self, **changed) if changed else self


def _given(limit: Limit, item: object) -> tuple[TaskThrottler, ...]:
    if isinstance(limit, TaskThrottler):
        return (limit,)
    given = limit(item)
    several: tuple[Any, ...] = (given,)
    if isinstance(given, Iterable) and not isinstance(given, str):
        several = tuple(given)
    for throttler in several:
        if not isinstance(throttler, TaskThrottler):
            raise TypeError(
                "throttler= as a function must give a TaskThrottler or several, "
                f"got {shown(throttler)}"
            )
    return several


def in_order(throttlers: Iterable[TaskThrottler]) -> tuple[TaskThrottler, ...]:
    """Each throttler once, narrow first, then by age.

    One order for everybody, so that no two tasks wait for each other's slots, and a saturated
    narrow throttler keeps no slot of a wide one from others.
    """
    return tuple(sorted(set(throttlers), key=lambda throttler: throttler.order))


def entry_point(function: Callable[P, R]) -> Callable[P, R]:
    """A ``strict_call`` whose ``**options`` are those of ``Options``.

    On a method their default is None, which stands for the executor's own setting.
    """
    of_method = "self" in inspect.signature(function).parameters
    options = {
        name: inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if of_method else Settings.__dataclass_fields__[name].default,
            annotation=getattr(annotation, "__forward_arg__", annotation),
        )
        for name, annotation in Options.__annotations__.items()
    }
    return strict_call(function, options)
