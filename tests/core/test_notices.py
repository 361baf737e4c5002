"""An observer of a run hears of every task, and hurts none."""

import asyncio
import logging
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest

from agentos_parallel import (
    FanOutExecutor,
    TaskResult,
    TaskStatus,
    TaskThrottler,
    parallel_gather,
)
from agentos_parallel.fanout import run_fan_out
from tests.pieces import Stubborn, after, alive, now
from tests.virtual_time import START
from tests.ways import hang


async def fail() -> None:
    raise ValueError("no")


async def hanging(task: TaskResult[Any]) -> None:
    await hang()


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


async def test_a_run_in_a_run_lends_its_slot_until_all_is_told() -> None:
    throttler, observer = TaskThrottler(1), Observer(2)
    free_at = []

    async def outer() -> Any:
        return await watched(observer, [partial(after, 1, "a")])

    async def another() -> None:
        async with throttler:
            free_at.append(now() - START)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(parallel_gather(outer, throttler=throttler))
        await after(1.5, None)
        group.create_task(another())

    assert free_at == [1.5]
    assert len(observer.told) == 2


@pytest.mark.parametrize("error", [LookupError("no such reader"), asyncio.CancelledError()])
async def test_one_that_raises_is_logged_and_told_on(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    told = []

    async def raising(task: TaskResult[Any]) -> None:
        told.append((task.task_id, task.status.value))
        raise error

    with caplog.at_level(logging.WARNING, "agentos_parallel"):
        result = await watched(raising, [partial(after, 1, "a")])

    assert result.all_succeeded
    assert told == [("0", "running"), ("0", "completed")]
    assert caplog.text.count(f"an observer raised {error!r}") == 2


async def test_a_log_that_raises_ends_no_telling(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def full(*_: object) -> None:
        raise OSError("disk full")

    async def raising(task: TaskResult[Any]) -> None:
        told.append(task.status.value)
        raise LookupError("no such reader")

    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: failures.append(told))
    monkeypatch.setattr(logging.getLogger("agentos_parallel"), "warning", full)
    result = await watched(raising, [after(0, "a")])

    assert result.all_succeeded
    assert told == ["running", "completed"]
    assert [str(each["exception"]) for each in failures] == ["disk full"] * 2


async def test_one_that_hangs_is_given_up_after_grace(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "agentos_parallel"):
        result = await watched(hanging, [partial(after, 1, "a")], grace=3)

    assert result.all_succeeded
    assert now() == START + 4
    assert "an observer was given up after the run's grace of 3 s, 2 untold" in caplog.text
    assert not alive()


async def test_one_that_ignores_its_cancel_is_waited_for_no_longer() -> None:
    observer = Stubborn()
    result = await watched(observer, [partial(after, 1, "a")], grace=3)

    assert result.all_succeeded
    assert now() == START + 4
    assert observer.cancels == [START + 4]
    await observer.let_go()
    assert not alive()


async def test_a_run_in_a_run_gives_its_observer_up_in_time() -> None:
    async def slow_to_go() -> None:
        try:
            await hang()
        finally:
            await asyncio.sleep(1)

    async def outer() -> Any:
        return await watched(hanging, [slow_to_go], timeout=None)

    result = await parallel_gather(outer, timeout=2)

    assert result.results[0].status is TaskStatus.TIMEOUT
    assert not result.results[0].abandoned


async def test_a_cancelled_call_still_tells() -> None:
    observer = Observer(0.5)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await watched(observer, [hang, hang])

    assert observer.told[2:] == [("0", "cancelled"), ("1", "cancelled")]
    assert now() == START + 3


@pytest.mark.parametrize(("cancel_at", "back_at"), [(0.5, 5.5), (2, 6)], ids=["run", "telling"])
async def test_a_cancelled_call_gives_a_hanging_one_its_grace(
    cancel_at: float, back_at: float
) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(cancel_at):
            await watched(hanging, [partial(after, 1, "a")], grace=5)

    assert now() == START + back_at
    assert not alive()


async def test_an_exit_in_it_ends_the_run() -> None:
    async def leaving(task: TaskResult[Any]) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await watched(leaving, [hang, hang], timeout=None)
    assert now() == START
    assert not alive()


async def test_an_exit_in_it_comes_out_of_a_run_that_is_over() -> None:
    async def leaving(task: TaskResult[Any]) -> None:
        await asyncio.sleep(2)
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await watched(leaving, [partial(after, 1, "a")])
    assert now() == START + 2


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
