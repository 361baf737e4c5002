"""Fan-out and fan-in: many works, one value.

"all" gives the whole run, "first" the value of the first task to succeed, "merge" what a function
makes of all that succeeded. A race is a run with another stop rule, not another loop.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any, Literal, TypeAlias, Unpack

from agentos_parallel._core.collect import AnyWork, Many, check_reach, collect, works_of
from agentos_parallel._core.notices import Observer
from agentos_parallel._core.sources import SizedInput, Unsized
from agentos_parallel._core.stop import first_success
from agentos_parallel._core.task import is_control_flow
from agentos_parallel._core.works import Call, begin, call_of
from agentos_parallel.arguments import discard, discarding, strict_call, unknown_keywords
from agentos_parallel.checks import flag, shown, whole_number
from agentos_parallel.errors import FanOutError, ParallelError, PartialResultWarning, error_text
from agentos_parallel.executor import ParallelExecutor
from agentos_parallel.policies.retry import with_retry
from agentos_parallel.results import FanOutResult, GatherResult, shorten
from agentos_parallel.settings import DEFAULT_TIMEOUT, Limit, Options, TimeoutOf, entry_point

Aggregation: TypeAlias = Literal["all", "first", "merge"]
AGGREGATIONS: tuple[Aggregation, ...] = ("all", "first", "merge")

_NOTE = "Nothing succeeded; the others: "
_NOTE_CHARS = 2_000


@dataclass
class FanOutConfig:
    """What a fan-out is bound by, and what it makes of its tasks.

    Attributes:
        max_concurrent: tasks at once; None: as many as ``throttler`` allows.
        timeout: seconds for the whole run; None: no deadline.
        aggregation: "all": the GatherResult; "first": the value of the first task to succeed, the
            others are cancelled; "merge": what ``merge_fn`` makes of the values that came.
        retry_failed: repeat a work after every Exception and timeout; it must be a function.
        max_retries: how often a work is repeated at the most.
        task_timeout: seconds for one attempt, or a function of the task_id; None: no limit.
        fail_fast: stop at the first failure or timeout; not with "first".
        min_success: stop at so many successes; "merge" then merges all that came; not with "first".
        throttler: slots shared with others, or a function of the task_id that gives some.
        grace: seconds to wait for cancelled tasks.

    Raises:
        TypeError, ValueError: naming the field, what was given and what is allowed.
    """

    max_concurrent: int | None = 8
    timeout: float | None = DEFAULT_TIMEOUT
    aggregation: Aggregation = "all"
    retry_failed: bool = False
    max_retries: int = 2
    _: KW_ONLY
    task_timeout: float | TimeoutOf | None = None
    fail_fast: bool = False
    min_success: int | None = None
    throttler: Limit | None = None
    grace: float = 5.0

    def __post_init__(self) -> None:
        """Check every field."""
        if self.aggregation not in AGGREGATIONS:
            allowed = ", ".join(f'"{name}"' for name in AGGREGATIONS)
            raise ValueError(f"aggregation must be one of {allowed}, got {shown(self.aggregation)}")
        flag("retry_failed", self.retry_failed)
        whole_number("max_retries", self.max_retries, least=0)
        if self.aggregation == "first" and (self.fail_fast or self.min_success is not None):
            given = "fail_fast=True" if self.fail_fast else "min_success"
            raise ValueError(f'{given} and aggregation="first" exclude each other: choose one')
        self.executor()

    def executor(self) -> ParallelExecutor:
        """An executor with these limits."""
        return ParallelExecutor(
            self.max_concurrent,
            self.timeout,
            self.fail_fast,
            task_timeout=self.task_timeout,
            min_success=self.min_success,
            throttler=self.throttler,
            grace=self.grace,
        )


FanOutConfig.__init__ = strict_call(FanOutConfig.__init__)  # type: ignore[method-assign]  # made by dataclass


class FanOutExecutor:
    """Fans works out and their results in again; all its runs share one limit.

    Args:
        config: what it is bound by; None: the defaults.
        **changes: fields of ``FanOutConfig``, instead of those in *config*.

    Attributes:
        config: as given, with the changes.
        executor: the ``ParallelExecutor`` that runs the works.

    Raises:
        TypeError, ValueError: naming the field, what was given and what is allowed.

    Example:
        >>> import asyncio
        >>> race = FanOutExecutor(aggregation="first", max_concurrent=2)
        >>> asyncio.run(race.fan_out([lambda: "quick", lambda: "quick"]))
        'quick'
    """

    def __init__(self, config: FanOutConfig | None = None, **changes: Any) -> None:
        allowed = [field.name for field in fields(FanOutConfig)]
        unknown = [name for name in changes if name not in allowed]
        if unknown:
            raise TypeError(unknown_keywords("FanOutExecutor", unknown, allowed))
        if not (config is None or isinstance(config, FanOutConfig)):
            discard(config)
            raise TypeError(f"config must be a FanOutConfig or None, got {shown(config)}")
        self.config = replace(config or FanOutConfig(), **changes)
        self.executor = self.config.executor()

    @strict_call
    async def fan_out(self, worker_coros: Many[AnyWork], merge_fn: Any = None) -> Any:
        """Run the works, and give the one value.

        Args:
            worker_coros: as for ``ParallelExecutor.gather``.
            merge_fn: for "merge": a function (sync or async) or Runnable of the list of values
                that came, in input order; called after the run, without slot or deadline.

        Returns:
            For "all" the GatherResult, for "first" the winner's value, for "merge" what
            *merge_fn* returned.

        Raises:
            FanOutError: "merge", and nothing (or less than ``min_success``) succeeded, or
                *merge_fn* raised; it has the GatherResult as ``.result``.
            BaseException: "first", and nothing succeeded: the first error in input order, as it
                was, with a note that names the others.
            TypeError, ValueError: a bad argument; nothing was started, every coroutine is closed.

        Warns:
            PartialResultWarning: "merge" went past tasks that did not succeed.
        """
        return _value(self.config, await run_fan_out(self, "worker_coros", worker_coros, merge_fn))

    @strict_call
    async def run(self, works: Many[AnyWork], merge_fn: Any = None) -> FanOutResult[Any]:
        """The same with nothing hidden: nothing is raised for tasks that failed.

        Returns:
            Value, winner and the whole run; the value is None where nothing (or less than
            ``min_success``) succeeded.

        Raises:
            FanOutError: *merge_fn* raised; its exception is the cause.
            TypeError, ValueError: a bad argument; nothing was started, every coroutine is closed.
        """
        return await run_fan_out(self, "works", works, merge_fn)


async def run_fan_out(
    executor: FanOutExecutor,
    name: str,
    works: Any,
    merge_fn: Any,
    observer: Observer | None = None,
) -> FanOutResult[Any]:
    """``FanOutExecutor.run`` of *works*, the argument *name*, with an *observer* of its tasks."""
    config = executor.config
    with discarding(works, merge_fn):
        merge = merge_call(config.aggregation, merge_fn)
        source = works_of(name, works)
        settings = executor.executor.settings(no_deadline="timeout=None")
        check_reach(settings, source)
        _check_source(config, name, source)
    first = config.aggregation == "first"
    gathered, winner = await collect(
        source,
        settings,
        call=with_retry(_begin_factory, config.max_retries) if config.retry_failed else begin,
        works=True,
        rule=first_success if first else None,
        success_wins=first,
        observer=observer,
    )
    if config.aggregation == "all":
        return FanOutResult(gathered, None, gathered)
    if not gathered.total:
        raise ValueError(_NOTHING.format(config.aggregation))
    if merge is not None:
        return FanOutResult(await _merged(merge, gathered, config), None, gathered)
    return FanOutResult(gathered.by_id[winner].result if winner else None, winner, gathered)


@entry_point
async def fan_out(
    works: Many[AnyWork],
    *,
    aggregation: Aggregation = "all",
    merge_fn: Any = None,
    max_concurrent: int | None = 8,
    timeout: float | None = DEFAULT_TIMEOUT,
    retry_failed: bool = False,
    max_retries: int = 2,
    **options: Unpack[Options],
) -> Any:
    """Run *works* and give one value: a race, a merge, or the whole run.

    Args:
        works: as for ``ParallelExecutor.gather``.
        aggregation: "all": the GatherResult; "first": the value of the first task to succeed, the
            others are cancelled; "merge": what *merge_fn* makes of the values that came.
        merge_fn: for "merge": a function (sync or async) or Runnable of the list of values that
            came, in input order; called after the run, without slot or deadline.
        max_concurrent: tasks at once; None: as many as ``throttler`` allows.
        timeout: seconds for the whole run; None: no deadline.
        retry_failed: repeat a work after every Exception and timeout; it must be a function.
        max_retries: how often a work is repeated at the most.
        **options: ``task_timeout``, ``fail_fast``, ``min_success``, ``throttler``, ``grace``: see
            ``ParallelExecutor``.

    Returns:
        For "all" the GatherResult, for "first" the winner's value, for "merge" what *merge_fn*
        returned. ``FanOutExecutor.run`` gives the value and the run.

    Raises:
        FanOutError: "merge", and nothing (or less than ``min_success``) succeeded, or *merge_fn*
            raised; it has the GatherResult as ``.result``.
        BaseException: "first", and nothing succeeded: the first error in input order, as it was,
            with a note that names the others.
        TypeError, ValueError: a bad argument; nothing was started, every coroutine is closed.

    Warns:
        PartialResultWarning: "merge" went past tasks that did not succeed.

    Example:
        >>> import asyncio
        >>> async def ask(name, seconds):
        ...     await asyncio.sleep(seconds)
        ...     return name
        >>> asyncio.run(fan_out([ask("slow", 9), ask("fast", 0)], aggregation="first"))
        'fast'
        >>> asyncio.run(fan_out([ask("a", 0), ask("b", 0)], aggregation="merge", merge_fn="+".join))
        'a+b'
    """
    with discarding(works):
        given: dict[str, Any] = {name: v for name, v in options.items() if v is not None}
        executor = FanOutExecutor(
            max_concurrent=max_concurrent,
            timeout=timeout,
            aggregation=aggregation,
            retry_failed=retry_failed,
            max_retries=max_retries,
            **given,
        )
    return _value(executor.config, await executor.run(works, merge_fn))


_NOTHING = 'aggregation="{}" needs at least one work, got none'


def merge_call(aggregation: Aggregation, merge_fn: Any) -> Call | None:
    """What "merge" calls with the list of values; None for the others.

    Raises:
        TypeError, ValueError: *merge_fn* does not go with *aggregation*.
    """
    if aggregation == "merge":
        if merge_fn is None:
            raise ValueError(
                'aggregation="merge" needs merge_fn=, a function of the list of values'
            )
        return call_of("merge_fn", merge_fn)
    if merge_fn is not None:
        raise ValueError(
            f'merge_fn= belongs to aggregation="merge", got aggregation="{aggregation}"'
        )
    return None


def _check_source(config: FanOutConfig, name: str, source: SizedInput | Unsized) -> None:
    if not isinstance(source, SizedInput):
        return
    if config.aggregation != "all" and not len(source):
        raise ValueError(_NOTHING.format(config.aggregation))
    if config.retry_failed:
        for position, work in enumerate(source.items):
            _check_factory(f"{name}[{position}]", work)


def _check_factory(name: str, work: Any) -> None:
    if inspect.isawaitable(work):
        raise ValueError(
            f"{name} is {shown(work)}, which runs only once: retry_failed=True needs functions, "
            "such as functools.partial(fetch, url)"
        )


def _begin_factory(work: Any) -> Awaitable[Any]:
    try:
        _check_factory("a work", work)
    except ValueError:
        discard(work)
        raise
    return begin(work)


async def _merged(merge: Call, gathered: GatherResult[Any], config: FanOutConfig) -> Any:
    if gathered.completed < (config.min_success or 1):
        return None
    try:
        return await merge(gathered.get_results())
    except Exception as error:
        if is_control_flow(error):
            raise
        raise FanOutError(f"merge_fn raised {error_text(error)}", result=gathered) from error


def _value(config: FanOutConfig, outcome: FanOutResult[Any]) -> Any:
    """The value of *outcome*, or what has to be raised or said instead."""
    gathered = outcome.gather
    if config.aggregation == "first" and outcome.winner is None:
        raise _first_error(gathered)
    if config.aggregation == "merge":
        needed = config.min_success or 1
        if gathered.completed < needed:
            text = f"{gathered.completed} of {gathered.total} tasks succeeded, {needed} needed"
            raise FanOutError(f"{text}: {_told(gathered)}", result=gathered)
        if not gathered.all_succeeded:
            # 4: past this function, fan_out and the wrapper around it, at the caller.
            warnings.warn(
                f"merged {gathered.completed} of {gathered.total}: {_told(gathered)}",
                PartialResultWarning,
                stacklevel=4,
            )
    return outcome.value


def _first_error(gathered: GatherResult[Any]) -> BaseException:
    """The first error in input order, with a note that names the others."""
    errors = [(key, error) for key, error in gathered.get_errors() if isinstance(error, Exception)]
    if not errors:
        text = f"nothing succeeded: {gathered.cancelled} of {gathered.total} tasks were cancelled"
        return FanOutError(text, result=gathered)
    key, error = errors[0]
    notes = getattr(error, "__notes__", None)
    if notes:
        notes[:] = [note for note in notes if not note.startswith(_NOTE)]
    with suppress(AttributeError, TypeError):  # an exception that takes no attributes
        error.add_note(_NOTE + (_told(gathered, leave_out=key) or "none"))
    # One that ended a nested run has that run's finished work.
    if isinstance(error, ParallelError) and error.result is None:
        error.result = gathered
    return error


def _told(gathered: GatherResult[Any], leave_out: str | None = None) -> str:
    """The errors, each with its task_id, in one line of bounded length."""
    told = [f"{key}: {error_text(e)}" for key, e in gathered.get_errors() if key != leave_out]
    return shorten("; ".join(told), _NOTE_CHARS)
