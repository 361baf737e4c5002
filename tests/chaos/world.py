"""Works that do what their plan says and keep what they did, and the world that they share.

What a promise says of a single moment is claimed where the moment is; the checker asks the rest
when all has ended. A claim that fails is kept, for an exception in a work would be its outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import threading
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from langgraph.errors import GraphBubbleUp

from agentos_parallel import GatherResult, TaskResult, TaskThrottler, remaining
from agentos_parallel._core.nesting import lent
from tests.chaos import clocks
from tests.chaos.plans import GROUPS, Fan, Plan

MOMENT = 1e-6
"""Seconds that count as none."""

GIVE_UP_EARLIER = 0.010

whose: ContextVar[object] = ContextVar("whose", default=None)
"""Set by every work; seen by the runs in it, and by nobody else."""


class Exit(BaseException):
    """Ends a run."""


class Bubble(GraphBubbleUp):
    """Control flow, known by its base only."""


EXITS = {"keyboard interrupt": KeyboardInterrupt, "system exit": SystemExit, "own exit": Exit}


class Answer:
    """What one execution of a work returns; no two are the same."""


def is_exit(error: BaseException | None) -> bool:
    """A TaskGroup has some in a group, as asyncio's."""
    out = isinstance(error, KeyboardInterrupt | SystemExit | Exit | BaseExceptionGroup)
    return out and not isinstance(error, Exception)


@dataclass
class Execution:
    """One execution of a work (times of the world's clock)."""

    began: float
    order: int
    cancels: list[float] = field(default_factory=list)
    ended: float = math.inf
    value: Any = None
    error: BaseException | None = None


class World:
    """What all works of one example share; made in the running loop."""

    def __init__(self, limits: tuple[int, ...], *, several: bool) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = threading.current_thread()
        self.throttlers = [TaskThrottler(limit) for limit in limits]
        self.by_hand = TaskThrottler(2)
        self.several = several
        self.episodes: list[Episode] = []
        self.caller_cancelled: list[float] = []
        self.coroutines: list[Coroutine[Any, Any, Any]] = []
        self.broken: list[str] = []
        self.working: Counter[TaskThrottler] = Counter()
        self.lock = threading.Lock()
        self._executions = 0
        self._limits: dict[TaskThrottler, list[tuple[float, int]]] = {}
        for throttler in (*self.throttlers, self.by_hand):
            self.knows(throttler)

    def now(self) -> float:
        return self.loop.time()

    def claim(self, holds: object, promise: str) -> None:
        if not holds:
            self.broken.append(f"at {self.now() - 1000:g} s: {promise}")

    def next_order(self) -> int:
        with self.lock:
            self._executions += 1
            return self._executions

    def knows(self, throttler: TaskThrottler) -> None:
        self._limits[throttler] = [(-math.inf, throttler.max_concurrent)]

    def resize(self, throttler: TaskThrottler, limit: int) -> None:
        self._limits[throttler].append((self.now(), limit))
        throttler.resize(limit)

    def most(self, throttler: TaskThrottler) -> int:
        """How many may be at work: the limit, or what it was earlier in this moment.

        Who has one slot and waits for another starts late, over a limit lowered meanwhile: where
        there are such, only the widest counts.
        """
        limits, now = self._limits[throttler], self.now()
        if self.several:
            return max(limit for _, limit in limits)
        most = 0
        for since, limit in reversed(limits):
            most = max(most, limit)
            if since < now:
                break
        return most

    @contextlib.contextmanager
    def at_work(self, throttlers: list[TaskThrottler]) -> Iterator[None]:
        """P9, P12: working with a slot of each of *throttlers*."""
        with self.lock:
            self.working.update(throttlers)
            for throttler in throttlers:
                working, most = self.working[throttler], self.most(throttler)
                self.claim(working <= most, f"P9, P12: {working} at work, limit {most}")
        try:
            yield
        finally:
            with self.lock:
                self.working.subtract(throttlers)

    def look_for_idle_slots(self) -> None:
        """P9, P12: while anybody waits for a slot, each is held by somebody at work."""
        if self.several:
            return
        for throttler in self.throttlers:
            working, active = self.working[throttler], throttler.active
            idle = throttler.waiting and not throttler.max_concurrent <= active == working
            what = f"{working} at work, {active} active, {throttler.waiting} waiting"
            self.claim(not idle, f"P9, P12: a slot idles: {what}")


class Episode:
    """One run and all that is known of it.

    Attributes:
        parent: the work that opened it; None: it is the outermost.
        results: as they came back, or were read.
        counts: the GatherResult, where there is one.
        error: what came out of the call.
        drawn: when each work was drawn; of a sized input when the run began.
        read_at: when its reader stopped early, or dropped it; infinity: never.
        exact: it is on the world's clock.
    """

    def __init__(self, world: World, fan: Fan, parent: Work | None, *, exact: bool = True) -> None:
        self.world = world
        self.fan = fan
        self.parent = parent
        self.exact: bool = exact and (parent is None or parent.episode.exact)
        self.works = [
            (SyncWork if plan.sync else Work)(self, index, plan)
            for index, plan in enumerate(fan.plans)
        ]
        self.results: list[TaskResult[Any]] = []
        self.counts: GatherResult[Any] | None = None
        self.outcome: Any = None
        self.merged: list[Any] | None = None
        self.error: BaseException | None = None
        self.error_result: GatherResult[Any] | None = None  # what its error had as it came out
        self.began = self.ended = math.inf
        self.stopped_reading = math.inf
        self.dropped = False
        self.reading = False  # its reader waits for a result
        self.own: TaskThrottler | None = None  # of an executor that was given none
        self.alive = 0
        self.left_alive: list[Work] = []
        self.drawn: list[float] = []
        self.source_error: BaseException | None = None
        self.source_began = False
        self.source_closed = 0
        self.drawers: set[Any] = set()
        self.open_sources: list[Any] = []
        world.episodes.append(self)

    def within(self) -> Iterator[Episode]:
        """The runs that were opened in its works, in theirs, and so on."""
        for episode in self.world.episodes:
            parent = episode.parent
            while parent is not None and parent.episode is not self:
                parent = parent.episode.parent
            if parent is not None:
                yield episode

    # What it is bound by.

    @property
    def deadline(self) -> float:
        own = math.inf if self.fan.timeout is None else self.began + self.fan.timeout
        return own if self.parent is None else min(own, self.parent.episode.deadline)

    @property
    def let_go(self) -> bool:
        """It is a dropped stream, or in one."""
        return self.dropped or (self.parent is not None and self.parent.episode.let_go)

    @property
    def grace(self) -> float:
        if self.parent is None:
            return self.fan.grace
        return max(0.0, min(self.fan.grace, self.parent.episode.grace - GIVE_UP_EARLIER))

    @property
    def width(self) -> float:
        if self.fan.max_concurrent is not None:
            return self.fan.max_concurrent
        limits = self.world._limits[self.world.throttlers[0]]
        return max(limit for _, limit in limits)

    def task_timeout(self, index: int) -> float | None:
        given = self.fan.task_timeouts
        return given[index % len(given)] if given else None

    def throttlers_of(self, index: int) -> list[TaskThrottler]:
        given = self.fan.throttled
        numbers = given[index % len(given)] if given else ()
        own = [] if self.own is None else [self.own]
        return [*own, *(self.world.throttlers[number] for number in numbers)]

    def task_id(self, index: int) -> str:
        return f"k{index}" if self.fan.source.kind == "mapping" else str(index)

    # Its source.

    def asked(self, index: int) -> None:
        """P10: one more is asked for, and no more are in hand than the width allows."""
        unfinished = sum(not work.executions or work.alive for work in self.works[:index])
        self.world.claim(unfinished < self.width, f"P10: drew one more with {unfinished} in hand")
        if self.fan.streams:
            self.reads_behind()

    def reads_behind(self, index: int | None = None) -> None:
        """P10: nothing is drawn or starts beyond max_concurrent unread results."""
        if not self.exact:
            return
        now, read = self.world.now(), {task.task_id for task in self.results}
        settled = [w for w in self.works if w.executions and w.executions[-1].ended < now]
        unread = [w for w in settled if self.task_id(w.index) not in read]
        head = self.fan.way == "ordered" and index == len(read)
        # Who asks for one may have it in hand: it waits for its slot, or starts the next first.
        behind = len(unread) - self.reading
        self.world.claim(behind < self.width or head, f"P10: goes on with {behind} unread")

    def fails_here(self, drawn: int) -> None:
        if self.fan.source.raises == drawn:
            self.source_error = OSError("the source")
            raise self.source_error

    def given(self, work: Work) -> Any:
        """What is handed over for *work*."""
        if "coroutines" not in self.fan.source.kind or work.plan.sync:
            return work
        coroutine = work()
        self.world.coroutines.append(coroutine)
        return coroutine

    def generator(self) -> Iterator[Any]:
        self.source_began = True
        try:
            for work in self.works:
                self.asked(work.index)
                self.fails_here(work.index)
                self.drawn.append(self.world.now())
                yield self.given(work)
            self.fails_here(len(self.works))
        finally:
            self.source_closed += 1

    async def async_generator(self) -> AsyncIterator[Any]:
        pauses = self.fan.source.pauses
        self.source_began = True
        try:
            for work in self.works:
                self.drawers.add(asyncio.current_task())
                self.asked(work.index)
                await asyncio.sleep(pauses[work.index % len(pauses)])
                self.fails_here(work.index)
                self.drawn.append(self.world.now())
                yield self.given(work)
            self.fails_here(len(self.works))
        finally:
            self.drawers.add(asyncio.current_task())
            self.source_closed += 1
            if self.fan.source.slow:
                await asyncio.sleep(0.5)

    def source(self) -> Any:
        kind = self.fan.source.kind
        if kind == "mapping":
            return {self.task_id(work.index): work for work in self.works}
        if self.fan.sized:
            return [self.given(work) for work in self.works]
        made = self.async_generator() if kind == "async generator" else self.generator()
        self.open_sources.append(made)
        return made

    def ends(self, error: BaseException | None) -> None:
        """The call has ended."""
        self.error, self.ended = error, self.world.now()
        self.left_alive = [work for work in self.works if work.alive]


class Work:
    """One work of one run."""

    def __init__(self, episode: Episode, index: int, plan: Plan) -> None:
        self.episode = episode
        self.world = episode.world
        self.index = index
        self.plan = plan
        self.executions: list[Execution] = []

    def __repr__(self) -> str:
        return f"<work {self.index}: {self.plan.kind} {self.plan.seconds:g}>"

    @property
    def alive(self) -> bool:
        return bool(self.executions) and self.executions[-1].ended == math.inf

    @property
    def last(self) -> Execution | None:
        return self.executions[-1] if self.executions else None

    async def __call__(self) -> Any:
        execution = self.begin()
        try:
            execution.value = await self.act()
            return execution.value
        except BaseException as error:
            execution.error = error
            raise
        finally:
            self.end(execution)

    def begin(self) -> Execution:
        world, episode, now = self.world, self.episode, self.world.now()
        seen = whose.get()
        world.claim(seen is self.episode.parent or (seen is self and self.executions),
                    f"P11: {self} sees the context of {seen}")  # fmt: skip
        whose.set(self)
        left, due = remaining(), episode.deadline
        if episode.exact and due == math.inf:
            world.claim(left is None, f"P5: {left} s remain, and there is no deadline")
        elif episode.exact:
            inherits = left is not None and abs(left - max(0, due - now)) < MOMENT
            world.claim(inherits, f"P5: {left} s remain of {due - now}")
        world.claim(not self.alive, f"P2, P9: {self} runs twice at once")
        episode.alive += not self.alive
        in_hand = f"P9: {episode.alive} in hand, width {episode.width}"
        world.claim(episode.alive <= episode.width or episode.fan.way in GROUPS, in_hand)
        if episode.fan.streams:
            episode.reads_behind(self.index)
        if not self.plan.sync:
            task = asyncio.current_task()
            world.claim(task and not task.cancelling(), f"P7: {self} starts cancelled")
        in_loop = threading.current_thread() is world.thread
        in_thread = self.plan.kind.startswith("sync")
        world.claim(in_thread != in_loop or not episode.exact, "P13: not where it belongs")
        self.executions.append(Execution(now, world.next_order()))
        return self.executions[-1]

    def end(self, execution: Execution) -> None:
        execution.ended = self.world.now()
        self.episode.alive -= 1
        self.world.claim(whose.get() is self, f"P11: the context of {self} was changed")

    async def act(self) -> Any:
        act = getattr(self, "do_" + self.plan.kind.replace(" ", "_"))
        if self.plan.kind.startswith("lend"):
            return await act(self.plan.seconds) or Answer()
        if not self.plan.fans:
            with self.at_work():
                return await act(self.plan.seconds) or Answer()
        return await act(self.plan.seconds, *self.plan.fans) or Answer()

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        return self.world.at_work(self.episode.throttlers_of(self.index))

    async def sleep(self, seconds: float) -> None:
        """Sleep, and know when it was cancelled."""
        try:
            if seconds == math.inf:
                await asyncio.get_running_loop().create_future()
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.executions[-1].cancels.append(self.world.now())
            raise

    async def hang(self) -> None:
        await self.sleep(math.inf)

    # What it may do.

    async def do_succeed(self, seconds: float) -> None:
        await self.sleep(seconds)

    async def do_never_wait(self, seconds: float) -> None:
        pass

    async def do_hang(self, seconds: float) -> None:
        await self.hang()

    async def do_fail(self, seconds: float) -> None:
        await self.sleep(seconds)
        raise ValueError("fail")

    async def do_time_out_by_itself(self, seconds: float) -> None:
        await self.sleep(seconds)
        raise TimeoutError("by itself")

    async def do_stop_iteration(self, seconds: float) -> None:
        await self.sleep(seconds)
        raise StopIteration

    async def do_bubble(self, seconds: float) -> None:
        await self.sleep(seconds)
        raise Bubble("up")

    async def leave(self, seconds: float) -> None:
        await self.sleep(seconds)
        raise EXITS[self.plan.kind]("out")

    do_keyboard_interrupt = do_system_exit = do_own_exit = leave

    async def do_raise_cancelled(self, seconds: float) -> None:
        await self.sleep(seconds)
        raise asyncio.CancelledError

    async def do_cancel_itself(self, seconds: float) -> None:
        await self.sleep(seconds)
        self.cancel_itself()
        await self.hang()

    async def do_cancel_itself_at_the_end(self, seconds: float) -> None:
        await self.sleep(seconds)
        self.cancel_itself()

    def cancel_itself(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def do_succeed_when_cancelled(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self.hang()
        await self.sleep(seconds)

    async def do_ignore_one_cancel(self, seconds: float) -> None:
        await self.do_succeed_when_cancelled(seconds)
        raise ValueError("ignored one")

    async def do_ignore_every_cancel(self, seconds: float) -> None:
        until = self.world.now() + 3 * seconds
        while (left := until - self.world.now()) > MOMENT:
            with contextlib.suppress(asyncio.CancelledError):
                await self.sleep(left)

    async def do_clean_up_slowly(self, seconds: float) -> None:
        try:
            await self.hang()
        finally:
            await self.sleep(seconds)

    async def do_fail_in_the_cleanup(self, seconds: float) -> None:
        try:
            await self.hang()
        finally:
            await self.sleep(seconds)
            raise LookupError("in the cleanup")

    async def do_own_scope(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await self.do_own_scope_raises(seconds)

    async def do_own_scope_raises(self, seconds: float) -> None:
        async with asyncio.timeout(seconds or 100):
            await self.hang()

    async def do_take_a_slot_by_hand(self, seconds: float) -> None:
        try:
            async with self.world.by_hand:
                with self.world.at_work([self.world.by_hand]):
                    await self.sleep(seconds)
        except asyncio.CancelledError:
            if not self.executions[-1].cancels:
                self.executions[-1].cancels.append(self.world.now())
            raise

    async def do_lend_by_hand(self, seconds: float) -> None:
        async with lent():
            await self.sleep(seconds)

    # Runs in runs. What is slept around them is work with a slot, unless it follows a cancel.

    async def work(self, seconds: float) -> None:
        if self.executions[-1].cancels:  # it goes on without a slot
            await self.sleep(seconds)
            return
        with self.at_work():
            await self.sleep(seconds)

    @property
    def given_up(self) -> bool:
        """Its run may have given up on it by now."""
        episode, execution = self.episode, self.executions[-1]
        allowed = episode.task_timeout(self.index)
        cancels = [*execution.cancels, *([] if allowed is None else [execution.began + allowed])]
        if episode.ended <= self.world.now():
            return True
        return any(at + episode.grace < self.world.now() + MOMENT for at in cancels)

    async def nested(self, fan: Fan) -> None:
        from tests.chaos.runs import run  # they import us

        await run(Episode(self.world, fan, self))

    async def do_nest(self, seconds: float, fan: Fan) -> None:
        await self.work(seconds)
        await self.nested(fan)
        if fan.reader.ending != "time out":  # which may have cancelled the taking back
            await self.work(0.5)

    async def do_in_the_cleanup(self, seconds: float, fan: Fan) -> None:
        try:
            await self.work(seconds)
        finally:
            await self.nested(fan)

    async def do_nest_in_a_scope(self, seconds: float, fan: Fan) -> None:
        due = self.world.now() + seconds - MOMENT
        async with asyncio.timeout(seconds) as scope:
            try:
                await self.nested(fan)
            finally:
                early = scope.expired() and self.world.now() < due
                self.world.claim(not early, "P7: a scope around a run ended before its time")

    async def do_two_at_once(self, seconds: float, one: Fan, other: Fan) -> None:
        await self.work(seconds / 8)
        await at_once(self.nested(one), self.nested(other))


class SyncWork(Work):
    """A work that is a sync function."""

    def __call__(self) -> Any:
        if self.plan.kind == "call and await":
            self.world.claim(threading.current_thread() is not self.world.thread,
                             "P13: called on the loop")  # fmt: skip
            coroutine = AwaitedWork.__call__(self)
            self.world.coroutines.append(coroutine)
            return coroutine
        execution = self.begin()
        try:
            act = getattr(self, "do_" + self.plan.kind.replace(" ", "_"))
            if self.plan.fans:
                act(*self.plan.fans)
            else:
                with self.at_work():
                    act(self.plan.seconds)
            execution.value = Answer()
            return execution.value
        except BaseException as error:
            execution.error = error
            raise
        finally:
            self.end(execution)

    def do_sync_succeed(self, seconds: float) -> None:
        pass

    def do_sync_fail(self, seconds: float) -> None:
        raise ValueError("fail")

    def do_sync_stop_iteration(self, seconds: float) -> None:
        raise StopIteration

    def do_sync_block(self, seconds: float) -> None:
        clocks.block(self.world.loop, seconds)

    async def do_call_and_await(self, seconds: float) -> None:
        await self.sleep(seconds)

    def do_sync_run(self, fan: Fan) -> None:
        from tests.chaos.runs import run  # they import us

        clocks.run_in_this_thread(run(Episode(self.world, fan, self, exact=False)))


class AwaitedWork(Work):
    """The async half of a sync function that returns an awaitable."""


async def at_once(*halves: Coroutine[Any, Any, None]) -> None:
    """Await all, to the end of each; a cancel goes to all, and exits stay out of the loop."""
    errors: list[BaseException] = []

    async def kept(half: Coroutine[Any, Any, None]) -> None:
        try:
            await half
        except BaseException as error:
            errors.append(error)

    tasks = [asyncio.create_task(kept(half)) for half in halves]
    cancelled: BaseException | None = None
    while not all(task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError as error:
            cancelled = error
            for task in tasks:
                task.cancel()
    for first in [*filter(is_exit, errors), *filter(None, [cancelled]), *errors]:
        raise first


def closed(coroutine: Coroutine[Any, Any, Any]) -> bool:
    return inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
