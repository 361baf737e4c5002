"""The way that all entry points go: sources checked, a run opened, awaited and read."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeAlias, TypeVar

from agentos_parallel._core.ledger import Deliver
from agentos_parallel._core.nesting import lent
from agentos_parallel._core.notices import Notices, Observer
from agentos_parallel._core.run import Run
from agentos_parallel._core.sources import SizedInput, Unsized, source_of
from agentos_parallel._core.stop import StopRule, rule_of
from agentos_parallel._core.works import Call, begin, check_works
from agentos_parallel.results import GatherResult, TaskResult, TaskStatus
from agentos_parallel.settings import Settings

A_contra = TypeVar("A_contra", contravariant=True)
T_co = TypeVar("T_co", covariant=True)
W = TypeVar("W")

Many: TypeAlias = Iterable[W] | Mapping[str, W] | AsyncIterable[W]
"""What an entry point takes many of: a list, a mapping, an iterable or an async iterable."""

AnyWork: TypeAlias = Awaitable[Any] | Callable[[], Any]


class SupportsAinvoke(Protocol[A_contra, T_co]):
    """A Runnable, as far as a map needs it."""

    def ainvoke(self, given: A_contra, /) -> Coroutine[Any, Any, T_co]:
        """Give the output for one input."""


def works_of(name: str, works: Any) -> SizedInput | Unsized:
    """Check *works*, the argument *name*, as the source of a run.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    source = source_of(name, works)
    if isinstance(source, SizedInput):
        check_works(name, source.items, source.ids)
    return source


def check_reach(settings: Settings, source: SizedInput | Unsized) -> None:
    """Refuse a ``min_success`` that can't be reached.

    Raises:
        ValueError: it is more than there are works.
    """
    k = settings.min_success
    if k is not None and isinstance(source, SizedInput) and k > len(source):
        raise ValueError(
            f"min_success must be at most the number of works ({len(source)}), got {k}"
        )


async def collect(
    source: SizedInput | Unsized,
    settings: Settings,
    *,
    call: Call = begin,
    works: bool = False,
    rule: StopRule | None = None,
    return_partial: bool = True,
    success_wins: bool = False,
    observer: Observer | None = None,
) -> tuple[GatherResult[Any], str | None]:
    """Run to the end, and give the GatherResult and the task_id of the first task to succeed.

    Args:
        source: the works, or the items for *call*.
        settings: what bounds the run.
        call: starts the work of one item.
        works: the source gives works.
        rule: when to stop, if not as *settings* say.
        return_partial: a run that its deadline ended returns what it has.
        success_wins: where a task succeeded nothing but an exit or a cancel is raised.
        observer: told of each task's start and outcome; None: nobody is.

    Raises:
        DeadlineExceeded: the deadline ended the run, and *return_partial* is False.
        SourceError: the source raised.
        BaseException: what has to come out of the call: control flow, an exit, a cancel.
    """
    results: dict[int, TaskResult[Any]] = {}  # in the order in which the tasks ended
    deliver: Deliver = results.__setitem__
    notices = None
    if observer is not None:
        notices = Notices(observer, lambda error: run.ledger.leave(error, _observer_raised(error)))
        call, deliver = notices.of_starts(call), notices.of_outcomes(deliver)
    run = Run(source, call, settings, deliver, rule or rule_of(settings), works=works)
    async with lent():
        try:
            run.open()
            await run.finish()
        finally:
            if notices is not None:
                await notices.finish(run.clocks)
    in_order = [results[index] for index in range(run.ledger.counts.total)]
    gathered: GatherResult[Any] = replace(run.ledger.counts, results=in_order)
    succeeded = (r.task_id for r in results.values() if r.status is TaskStatus.COMPLETED)
    winner = next(succeeded, None)
    failure = run.failure(gathered, past_deadline=not return_partial)
    if failure is None or (success_wins and winner is not None):
        return gathered, winner
    raise failure


def _observer_raised(error: BaseException) -> str:
    return f"an observer raised {type(error).__name__}"
