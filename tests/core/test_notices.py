"""An observer of a run hears of every task, and hurts none."""

import asyncio
import logging
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest

from agentos_parallel import FanOutExecutor, TaskResult, TaskThrottler
from agentos_parallel.fanout import run_fan_out
from tests.pieces import after, alive, now, settle
from tests.virtual_time import START
from tests.ways import hang


async def fail() -> None:
    raise ValueError("no")


class Observer:
    """Notes what it is told, and takes its time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.told: list[tuple[str, str]] = []
        self.records: list[TaskResult[Any]] = []
        self.seconds = seconds

    async def __call__(self, task: TaskResult[Any]) -> None:
        await asyncio.sleep(self.seconds)
        self.told.append((task.task_id, task.status.value))
        self.records.append(task)


async def watched(observer: Any, works: Any, merge_fn: Any = None, **settings: Any) -> Any:
    executor = FanOutExecutor(**settings)
    return (await run_fan_out(executor, "works", works, merge_fn, observer)).gather


async def test_each_start_and_each_outcome_is_told_in_order() -> None:
    observer = Observer()
    works = [partial(after, 3, "a"), fail, partial(after, 1, "b"), hang]

    await watched(observer, works, max_concurrent=2, task_timeout=5)

    assert observer.told == [
        ("0", "running"),
        ("1", "running"),
        ("1", "failed"),
        ("2", "running"),
        ("2", "completed"),
        ("3", "running"),
        ("0", "completed"),
        ("3", "timeout"),
    ]


async def test_what_never_started_has_its_outcome_told_alone() -> None:
    observer = Observer()
    await watched(observer, [hang, hang], max_concurrent=1, timeout=2)

    assert observer.told == [("0", "running"), ("1", "timeout"), ("0", "timeout")]


async def test_a_record_stays_what_it_was_when_it_was_told() -> None:
    observer = Observer(1)
    await watched(observer, [partial(after, 0.5, "a")])

    started, ended = observer.records
    assert (started.started_at, started.finished_at, started.result) == (START, 0.0, None)
    assert (ended.duration_ms, ended.result) == (500, "a")


async def test_a_slow_observer_holds_up_no_task_and_takes_no_slot() -> None:
    observer, throttler = Observer(2), TaskThrottler(1)
    works = [partial(after, 1, n) for n in range(2)]

    result = await watched(observer, works, throttler=throttler, task_timeout=1.5, grace=60)

    assert [task.duration_ms for task in result.results] == [1_000, 1_000]
    assert result.total_duration_ms == 2_000
    assert now() == START + 8, "but the call waits until all is told"
    assert throttler.active == 0


async def test_one_that_raises_is_logged_and_told_on(caplog: pytest.LogCaptureFixture) -> None:
    told = []

    async def raising(task: TaskResult[Any]) -> None:
        told.append(task.task_id)
        raise LookupError("no such reader")

    with caplog.at_level(logging.WARNING, "agentos_parallel"):
        result = await watched(raising, [partial(after, 1, "a")])

    assert result.all_succeeded
    assert told == ["0", "0"]
    assert caplog.text.count("an observer raised LookupError('no such reader')") == 2


async def test_one_that_hangs_is_given_up_after_grace(caplog: pytest.LogCaptureFixture) -> None:
    async def hanging(task: TaskResult[Any]) -> None:
        await hang()

    with caplog.at_level(logging.WARNING, "agentos_parallel"):
        result = await watched(hanging, [partial(after, 1, "a")], grace=3)

    assert result.all_succeeded
    assert now() == START + 4
    assert "an observer was given up after 3 s, 2 notices untold" in caplog.text
    await settle()
    assert not alive()


async def test_a_cancel_of_the_call_cancels_it_too() -> None:
    async def hanging(task: TaskResult[Any]) -> None:
        await hang()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await watched(hanging, [partial(after, 1, "a")], grace=60)

    await settle()
    assert not alive()


async def test_an_exit_in_it_comes_out_of_the_call() -> None:
    async def leaving(task: TaskResult[Any]) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await watched(leaving, [partial(after, 1, "a")])


async def test_where_nothing_is_to_do_nothing_is_told() -> None:
    observer = Observer()
    assert (await watched(observer, [])).total == 0
    assert observer.told == []


async def test_a_failed_merge_leaves_nothing_untold() -> None:
    observer = Observer(1)

    def merge(values: list[Any]) -> Any:
        raise TypeError("they differ")

    with pytest.raises(Exception, match="they differ"):
        await watched(observer, [partial(after, 1, "a")], merge, aggregation="merge")
    assert observer.told == [("0", "running"), ("0", "completed")]


async def test_it_runs_in_the_callers_context() -> None:
    who: ContextVar[str] = ContextVar("who", default="nobody")
    seen = []

    async def look(task: TaskResult[Any]) -> None:
        seen.append(who.get())

    who.set("the caller")
    await watched(look, [partial(after, 1, "a")])
    assert seen == ["the caller"] * 2
