"""Random works under random settings and cancels: what P1 to P7 and P9 promise holds after each."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from agentos_parallel import (
    FanOutExecutor,
    GatherResult,
    ParallelExecutor,
    TaskResult,
    TaskStatus,
    TaskThrottler,
    TaskTimeout,
    parallel_gather,
    parallel_stream,
)
from tests.virtual_time import run_virtually
from tests.ways import Factory, Results, call, hang, now, one_by_one, read

COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED
TIMEOUT, CANCELLED = TaskStatus.TIMEOUT, TaskStatus.CANCELLED
GRACE = 4.0


class Exit(BaseException):
    """Ends a run."""


# What a work may do. Times are in halves, so that things happen in the same moment.

SECONDS = st.integers(0, 8).map(lambda halves: halves / 2)
LEAVES = st.one_of(
    st.tuples(st.just("succeed"), SECONDS),
    st.tuples(st.just("fail"), SECONDS),
    st.tuples(st.just("time out by itself"), SECONDS),
    st.tuples(st.just("cancel itself"), SECONDS),
    st.tuples(st.just("raise cancelled"), SECONDS),
    st.tuples(st.just("scope"), st.just(100.0)),
    st.tuples(st.just("ignore one cancel"), SECONDS),
    st.tuples(st.just("succeed when cancelled"), SECONDS),
    st.tuples(st.just("clean up slowly"), SECONDS),
    st.tuples(st.just("fail in the cleanup"), SECONDS),
    st.tuples(st.just("scope"), SECONDS),
)
Plan = tuple[str, Any]


def nested(plans: st.SearchStrategy[Plan]) -> st.SearchStrategy[Plan]:
    several = st.lists(plans, max_size=3)
    return st.one_of(
        st.tuples(st.just("gather"), several),
        st.tuples(st.just("race"), several.filter(bool)),
        st.tuples(st.just("stream"), several),
        st.tuples(st.just("two at once"), several),
        st.tuples(st.just("in the cleanup"), several),
    )


PLANS: st.SearchStrategy[Plan] = st.recursive(LEAVES, nested, max_leaves=6)


@dataclass
class World:
    """The works of one example, what they did, and who is at work."""

    throttler: TaskThrottler
    alive: int = 0
    working: int = 0
    peak: int = 0
    started: list[Plan] = field(default_factory=list)

    def work(self, plan: Plan) -> Factory:
        return partial(self.run, plan)

    async def run(self, plan: Plan) -> str:
        self.started.append(plan)
        self.alive += 1
        try:
            await self.step(*plan)
        finally:
            self.alive -= 1
        return plan[0]

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Working with a slot: what follows a cancel goes on without, and is not counted."""
        self.working += 1
        self.peak = max(self.peak, self.working)
        try:
            yield
        finally:
            self.working -= 1

    async def sleep(self, seconds: float) -> None:
        with self.at_work():
            await asyncio.sleep(seconds)

    async def step(self, kind: str, given_: Any) -> None:
        await getattr(self, kind.replace(" ", "_"))(given_)

    async def hang(self) -> None:
        with self.at_work():
            await hang()

    async def succeed(self, seconds: float) -> None:
        with self.at_work():
            await asyncio.sleep(seconds)

    async def fail(self, seconds: float) -> None:
        await self.succeed(seconds)
        raise ValueError("fail")

    async def time_out_by_itself(self, seconds: float) -> None:
        await self.succeed(seconds)
        raise TimeoutError("by itself")

    async def raise_cancelled(self, seconds: float) -> None:
        await self.succeed(seconds)
        raise asyncio.CancelledError

    async def cancel_itself(self, seconds: float) -> None:
        await self.succeed(seconds)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await hang()

    async def succeed_when_cancelled(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self.hang()
        await asyncio.sleep(seconds)

    async def ignore_one_cancel(self, seconds: float) -> None:
        await self.succeed_when_cancelled(seconds)
        raise ValueError("ignored one")

    async def clean_up_slowly(self, seconds: float) -> None:
        try:
            await self.hang()
        finally:
            await asyncio.sleep(seconds)

    async def fail_in_the_cleanup(self, seconds: float) -> None:
        try:
            await self.hang()
        finally:
            await asyncio.sleep(seconds)
            raise LookupError("in the cleanup")

    async def scope(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.hang()

    # Runs in runs.

    async def gather(self, plans: list[Plan], timeout: float | None = None) -> None:
        works = [self.work(plan) for plan in plans]
        result = await parallel_gather(*works, throttler=self.throttler, timeout=timeout)
        check(result, len(works))

    async def race(self, plans: list[Plan]) -> None:
        race = FanOutExecutor(aggregation="first", throttler=self.throttler, timeout=None)
        outcome = await race.run([self.work(plan) for plan in plans])
        check(outcome.gather, len(plans))
        assert (outcome.winner is None) == (outcome.gather.completed == 0)

    async def stream(self, plans: list[Plan]) -> None:
        works = [self.work(plan) for plan in plans]
        async with parallel_stream(call, works, throttler=self.throttler) as results:
            async for task in results:
                check_task(task)
                await self.succeed(0.5)

    async def two_at_once(self, plans: list[Plan]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.gather(plans[::2]))
            group.create_task(self.gather(plans[1::2]))

    async def in_the_cleanup(self, plans: list[Plan]) -> None:
        try:
            await self.succeed(1)
        finally:
            await self.gather(plans, timeout=2)


def check(result: GatherResult[Any], total: int, *, lazy: bool = False) -> None:
    """P1, P4 and P5, as far as they show in a result."""
    assert [task.task_id for task in result.results] == [str(n) for n in range(total)]
    counts = (result.completed, result.failed, result.timed_out, result.cancelled)
    assert result.total == sum(counts) == total
    statuses = [task.status for task in result.results]
    assert counts == tuple(map(statuses.count, (COMPLETED, FAILED, TIMEOUT, CANCELLED)))
    assert result.all_succeeded == (result.completed == total) or lazy
    for task in result.results:
        check_task(task)


def check_task(task: TaskResult[Any]) -> None:
    assert task.status in (COMPLETED, FAILED, TIMEOUT, CANCELLED)
    assert task.queued_ms >= 0
    if task.status is COMPLETED:
        assert task.error is None
        assert isinstance(task.result, str)
    if task.status is FAILED:
        assert isinstance(task.error, ValueError | LookupError | ExceptionGroup)
    if task.status is TIMEOUT:
        assert isinstance(task.error, TimeoutError)
    if task.started_at:
        assert task.finished_at >= task.started_at
        assert task.duration_ms == pytest.approx((task.finished_at - task.started_at) * 1000)
    else:
        assert (task.duration_ms, task.result) == (0, None)
        assert not isinstance(task.error, TaskTimeout)
        assert "timed out" not in str(task.error)


@dataclass
class Setting:
    """How the outer run is started, and what happens to it."""

    way: str
    max_concurrent: int
    timeout: float | None
    task_timeout: float | None
    rule: dict[str, Any]
    throttled: bool
    cancels: list[float]


SETTINGS = st.builds(
    Setting,
    way=st.sampled_from(["gather", "lazy", "async source", "stream", "ordered", "first", "retry"]),
    max_concurrent=st.integers(1, 3),
    timeout=st.one_of(st.none(), st.integers(1, 12).map(lambda halves: halves / 2)),
    task_timeout=st.one_of(st.none(), st.integers(1, 8).map(lambda halves: halves / 2)),
    rule=st.sampled_from([{}, {}, {"fail_fast": True}, {"min_success": 1}, {"min_success": 2}]),
    throttled=st.booleans(),
    cancels=st.lists(SECONDS.map(lambda seconds: seconds * 2), max_size=2),
)


def start(setting: Setting, world: World, works: list[Factory]) -> Any:
    options: dict[str, Any] = {
        "max_concurrent": setting.max_concurrent,
        "timeout": setting.timeout,
        "task_timeout": setting.task_timeout,
        "grace": GRACE,
    }
    if setting.way != "first":
        options |= setting.rule
    if options.get("min_success", 0) > len(works):
        del options["min_success"]
    if setting.throttled:
        options["throttler"] = world.throttler
    match setting.way:
        case "gather":
            return parallel_gather(*works, **options)
        case "lazy":
            return ParallelExecutor(**options).gather(work for work in works)
        case "async source":
            return ParallelExecutor(**options).gather(one_by_one(works))
        case "stream" | "ordered":
            return streamed(works, options, ordered=setting.way == "ordered")
        case "first":
            return FanOutExecutor(aggregation="first", **options).run(works)
        case _:
            options |= {"retry_failed": True, "max_retries": 1}
            return FanOutExecutor(**options).run(works)


async def streamed(works: list[Factory], options: dict[str, Any], *, ordered: bool) -> Results:
    seen: Results = []
    async with parallel_stream(call, works, ordered=ordered, **options) as results:
        await read(results, seen)
    ids = [task.task_id for task in seen]
    assert sorted(ids, key=int) == [str(n) for n in range(len(works))]
    assert not ordered or ids == sorted(ids, key=int)
    return seen


class Abandoned(logging.Handler):
    """Counts the tasks that any run gave up waiting for."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1

    @classmethod
    @contextlib.contextmanager
    def counted(cls) -> Iterator["Abandoned"]:
        logger, handler = logging.getLogger("agentos_parallel"), cls()
        logger.addHandler(handler)
        logger.propagate = False
        try:
            yield handler
        finally:
            logger.propagate = True
            logger.removeHandler(handler)


async def main(setting: Setting, plans: list[Plan]) -> None:
    world, began, before = World(TaskThrottler(2)), now(), asyncio.all_tasks()
    with Abandoned.counted() as abandoned:
        run = asyncio.ensure_future(start(setting, world, [world.work(plan) for plan in plans]))
        cancelled = await cancel_at([*setting.cancels, 40], run)
        took = now() - began

        # P2: nothing is alive but what was abandoned.
        assert world.alive <= abandoned.count
        if not abandoned.count:
            assert asyncio.all_tasks() - before == set()
        # What was abandoned ends by itself; no slot is lost.
        await asyncio.sleep(60)
    assert world.alive == 0
    assert asyncio.all_tasks() - before == set()
    assert (world.throttler.active, world.throttler.waiting) == (0, 0)
    # P9: no more than the limit have a slot, or work where all need one.
    assert world.throttler.peak <= 2
    assert world.peak <= 2 or not setting.throttled

    # P7: a cancel comes out, and nothing else is one.
    assert run.cancelled() == cancelled
    if setting.timeout is not None:
        assert took <= setting.timeout + GRACE
    if not cancelled:
        check_outcome(setting, run.result(), len(plans))


def check_outcome(setting: Setting, outcome: Any, total: int) -> None:
    if isinstance(outcome, list):
        for task in outcome:
            check_task(task)
        return
    result: GatherResult[Any] = getattr(outcome, "gather", outcome)
    lazy = setting.way in ("lazy", "async source")
    assert result.total <= total if lazy else result.total == total
    if setting.way != "retry":
        check(result, result.total, lazy=lazy)


async def cancel_at(times: list[float], run: "asyncio.Future[Any]") -> bool:
    """Cancel *run* at each of *times*, and wait for its end; says whether it was running still."""
    reached: list[bool] = []
    loop = asyncio.get_running_loop()
    timers = [loop.call_later(at, lambda: reached.append(run.cancel())) for at in times]
    await asyncio.wait([run])
    for timer in timers:
        timer.cancel()
    return any(reached)


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(SETTINGS, st.lists(PLANS, max_size=5))
def test_the_promises_hold_whatever_works_do(setting: Setting, plans: list[Plan]) -> None:
    assume(plans or setting.way != "first")
    run_virtually(main(setting, plans))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(LEAVES, max_size=4),
    st.sampled_from([KeyboardInterrupt, SystemExit, Exit]),
    SECONDS,
    st.booleans(),
)
def test_an_exit_comes_out_whatever_the_others_do(
    plans: list[Plan], exit_: type[BaseException], seconds: float, deep: bool
) -> None:
    ended = []

    async def leave() -> None:
        await asyncio.sleep(seconds)
        raise exit_("out")

    async def around() -> None:
        await parallel_gather(leave, hang)

    async def exits() -> None:
        world = World(TaskThrottler(9))
        before = asyncio.all_tasks()
        works = [*map(world.work, plans), around if deep else leave]
        try:
            await parallel_gather(*works)
        finally:
            ended.append(world.alive)
            assert asyncio.all_tasks() - before == set()

    with pytest.raises(exit_, match="out"):
        run_virtually(exits())
    assert ended == [0]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(PLANS, SECONDS), max_size=5), st.integers(1, 3), SECONDS)
def test_a_source_is_closed_whatever_happens(
    drawn: list[tuple[Plan, float]], width: int, cancel_at: float
) -> None:
    async def draws() -> None:
        world = World(TaskThrottler(2))
        drawers: set[Any] = set()
        closed = []

        async def source() -> AsyncIterator[Factory]:
            try:
                for plan, pause in drawn:
                    await asyncio.sleep(pause)
                    drawers.add(asyncio.current_task())
                    yield world.work(plan)
            finally:
                drawers.add(asyncio.current_task())
                closed.append(1)

        before = asyncio.all_tasks()
        gather = ParallelExecutor(width, throttler=world.throttler, grace=GRACE).gather(source())
        run = asyncio.ensure_future(gather)
        asyncio.get_running_loop().call_later(cancel_at * 4, run.cancel)
        await asyncio.wait([run])
        if drawers:
            assert (len(drawers), len(closed)) == (1, 1)
        await asyncio.sleep(60)
        assert asyncio.all_tasks() - before == set()
        assert (world.throttler.active, world.throttler.waiting) == (0, 0)
        assert world.peak <= 2

    run_virtually(draws())
