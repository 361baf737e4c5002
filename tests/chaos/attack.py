"""One example from its start until all has ended, and the checker's word on it.

`python -m tests.chaos.attack EXAMPLES [SEED] [--shrink]` runs so many random ones, and ends with 1
at the first that breaks a promise.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator

from hypothesis import HealthCheck, Phase, given, seed, settings

import agentos_parallel
from tests.chaos.checker import check
from tests.chaos.clocks import run_virtually
from tests.chaos.plans import GROUPS, Example, Fan, Rival, every_fan, examples
from tests.chaos.runs import run
from tests.chaos.story import Story
from tests.chaos.turns import LIMITS, RUNS, check_turns
from tests.chaos.world import Episode, World, whose

HANGS = 20  # real seconds after which an example that is not at its end never will be
BACKSTOP = 40.0  # seconds after which everything that hangs is cancelled
AFTERWARDS = 80.0  # seconds in which all that was abandoned has ended by itself
GLANCE = 1.0  # seconds between looks for idle slots
OFFSET = 0.137  # of the looks, so that nothing else happens in their moments


def attack(example: Example) -> None:
    """Run *example* in virtual time, and check what every run promises."""
    check(run_virtually(live(example)))


async def live(example: Example) -> Story:
    """The whole example, from its start until everything has ended."""
    world = World(example.limits, several=any(map(needs_several, every_fan(example.fan))))
    story = Story(example, world, Episode(world, example.fan, None))
    world.loop.set_exception_handler(lambda _, told: story.in_callbacks.append(repr(told)))
    rivals = {asyncio.create_task(compete(story, rival)) for rival in example.rivals}
    for at, number, limit in example.resizes:
        world.loop.call_later(at, world.resize, world.throttlers[number], limit)
    before = asyncio.all_tasks()
    with abandoned_ones(story):
        await outermost(story)
        story.tasks_left = asyncio.all_tasks() - before
        lasting = [episode for episode in world.episodes if not episode.let_go]
        story.works_left = [work for each in lasting for work in each.works if work.alive]
        await asyncio.sleep(AFTERWARDS)
    story.tasks_at_last = (asyncio.all_tasks() - before) | {
        task for task in rivals if not task.done()
    }
    return story


def needs_several(fan: Fan) -> bool:
    """Its works need several throttlers at once; a group's limit is one, too."""
    widest = max((len(numbers) for numbers in fan.throttled), default=0)
    return widest + (fan.way in GROUPS) > 1


async def outermost(story: Story) -> None:
    """Run the outermost run in a task of its own, cancel that, and wait for its end."""

    async def caller() -> None:
        whose.set(None)
        try:
            await run(story.outermost)
        except BaseException:  # exits would come out of the loop; the episode has it
            pass
        story.own_context = whose.get() is None

    loop = asyncio.get_running_loop()
    task = asyncio.create_task(caller())

    def cancel() -> None:
        if task.cancel():
            story.cancels.append(loop.time())
            story.world.caller_cancelled.append(loop.time())

    def backstop() -> None:
        story.world.look_for_idle_slots()
        cancel()

    times = story.example.cancels
    timers = [loop.call_later(at, after_passes, passes, cancel) for at, passes in times]
    timers.append(loop.call_later(BACKSTOP, backstop))
    looking = asyncio.create_task(look_now_and_then(story.world))
    await asyncio.wait([task])
    for timer in timers:
        timer.cancel()
    looking.cancel()
    await asyncio.wait([looking])


def after_passes(passes: int, call: Callable[[], object]) -> None:
    """Call so many passes of the loop from now, between others that are in their midst."""
    if passes:
        asyncio.get_running_loop().call_soon(after_passes, passes - 1, call)
    else:
        call()


async def look_now_and_then(world: World) -> None:
    await asyncio.sleep(OFFSET)
    while True:
        world.look_for_idle_slots()
        await asyncio.sleep(GLANCE)


async def compete(story: Story, rival: Rival) -> None:
    """Take a slot by hand; P12: first come, first served."""
    world, throttler = story.world, story.world.throttlers[rival.throttler]
    await asyncio.sleep(rival.at)
    if rival.cancelled_after is not None:
        task = asyncio.current_task()
        assert task is not None
        world.loop.call_later(rival.cancelled_after, after_passes, rival.passes, task.cancel)
    asked = world.next_order()
    async with throttler:
        story.served.append((rival.throttler, asked, world.now()))
        with world.at_work([throttler]):
            await asyncio.sleep(rival.seconds)


class Abandoned(logging.Handler):
    """Keeps the warnings about what was abandoned."""

    def __init__(self, told: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.told = told

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


@contextlib.contextmanager
def abandoned_ones(story: Story) -> Iterator[None]:
    logger, handler = logging.getLogger("agentos_parallel"), Abandoned(story.abandoned)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = True
        logger.removeHandler(handler)


def hangs(*_: object) -> None:
    """End the process: nothing in it may be able to go on."""
    print("AssertionError: an example hangs", file=sys.stderr, flush=True)
    os._exit(1)


def main() -> None:
    """Random examples; without shrinking, for often it only counts whether any fault is caught."""
    amount, number = int(sys.argv[1]), int((sys.argv[2:] or ["0"])[0])
    print(f"{agentos_parallel.__file__}: {amount} examples, seed {number}", flush=True)
    signal.signal(signal.SIGALRM, hangs)
    phases = [Phase.generate, *([Phase.shrink] if "--shrink" in sys.argv else [])]
    quiet = settings(
        max_examples=amount,
        deadline=None,
        database=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )

    @seed(number)
    @settings(quiet, max_examples=20)
    @given(LIMITS, RUNS)
    def turns(limit: int, runs: list[list[int]]) -> None:
        check_turns(limit, runs)

    @seed(number)
    @quiet
    @given(examples())
    def attacks(example: Example) -> None:
        signal.alarm(HANGS)
        try:
            attack(example)
        finally:
            signal.alarm(0)

    turns()
    attacks()


if __name__ == "__main__":
    main()
