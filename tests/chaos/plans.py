"""What random works do and how random runs run them: plain data, drawn by hypothesis.

Times are in halves of a second, so that things happen in the same moment; most graces lie between,
so that giving up does not.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields, replace
from typing import Any

from hypothesis import strategies as st

HALVES = tuple(halves / 2 for halves in range(13))
SECONDS = st.sampled_from(HALVES[:9])
SOON = st.sampled_from(HALVES[1:])
GRACES = (0.0, 0.3, 2.2, 4.2)
THROTTLERS = 3  # a world has so many, numbered

LEAVES = (
    *("succeed",) * 6,
    *("fail",) * 3,
    "never wait",
    "time out by itself",
    "cancel itself",
    "cancel itself at the end",
    "raise cancelled",
    "hang",
    "ignore one cancel",
    "ignore every cancel",
    *("succeed when cancelled",) * 3,
    "clean up slowly",
    "fail in the cleanup",
    "own scope",
    "own scope raises",
    "stop iteration",
    "take a slot by hand",
    "lend by hand",
    "bubble",
)
THEMES = (  # what shows only where it comes together
    ("succeed", "succeed when cancelled"),
    ("succeed", "bubble"),
    ("sync block", "sync fail", "succeed"),
    ("hang", "clean up slowly", "succeed"),
    ("fail", "time out by itself", "succeed"),
)
SYNC = ("sync succeed", "sync fail", "sync block", "sync stop iteration", "call and await")
EXITS = ("keyboard interrupt", "system exit", "own exit")
IN_THREADS = ("succeed", "fail", "never wait", "bubble", "time out by itself")

SIZED = ("list", "mapping", "coroutines")
UNSIZED = ("generator", "async generator", "generator of coroutines")
WAYS = ("gather", "map", "stream", "ordered", "first", "first", "race", "merge", "retry", "retry")
GROUPS = ("group", "supervisor")
STREAMS = ("stream", "ordered")
WINNERS = ("first", "race")
RULES = ("", "", "fail_fast", "min_success 1", "min_success 2")
ENDINGS = ("to the end",) * 4 + ("break", "close", "drop", "time out")


class Brief:
    """Shows only what is not as usual."""

    def __repr__(self) -> str:
        values = [(field, getattr(self, field.name)) for field in fields(self)]  # type: ignore[arg-type]  # of the dataclasses below
        told = (f"{field.name}={value!r}" for field, value in values if value != field.default)
        return f"{type(self).__name__}({', '.join(told)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For hypothesis, whose own way of showing how it was made takes half a minute."""
        printer.text(repr(self))


@dataclass(frozen=True, repr=False)
class Plan(Brief):
    """What one work does, and the runs in it."""

    kind: str
    seconds: float = 0.0
    fans: tuple[Fan, ...] = ()

    @property
    def sync(self) -> bool:
        """It is a function that is no coroutine function."""
        return self.kind.startswith("sync") or self.kind == "call and await"


@dataclass(frozen=True, repr=False)
class Source(Brief):
    """Where works come from; *raises*: after so many, if it does; *slow*: to close."""

    kind: str
    pauses: tuple[float, ...] = (0.0,)
    raises: int | None = None
    slow: bool = False


@dataclass(frozen=True, repr=False)
class Reader(Brief):
    """Who reads a stream: a pause after each result, and how he ends after so many."""

    pause: float = 0.0
    ending: str = "to the end"
    after: int = 0


@dataclass(frozen=True, repr=False)
class Fan(Brief):
    """One run; ``throttled[i % len]`` are the throttlers of the i-th work, timeouts likewise."""

    way: str
    plans: tuple[Plan, ...]
    source: Source = Source("list")
    max_concurrent: int | None = 2
    timeout: float | None = None
    task_timeouts: tuple[float | None, ...] = ()
    throttled: tuple[tuple[int, ...], ...] = ()
    rule: str = ""
    grace: float = 4.2
    return_partial: bool = True
    reader: Reader = Reader()

    @property
    def streams(self) -> bool:
        """It is read while it runs."""
        return self.way in STREAMS

    @property
    def sized(self) -> bool:
        """Its works are known at the call."""
        return self.source.kind in SIZED

    @property
    def by_threads(self) -> bool:
        """Its works are called in threads, for not all of them are known to be async."""
        by_func = self.way in ("map", *STREAMS) and "coroutines" not in self.source.kind
        return by_func and any(plan.sync for plan in self.plans)


@dataclass(frozen=True, repr=False)
class Rival(Brief):
    """Takes a slot by hand, and may be cancelled, so many passes of the loop after that time."""

    at: float
    throttler: int
    seconds: float
    cancelled_after: float | None
    passes: int = 0


@dataclass(frozen=True, repr=False)
class Example(Brief):
    """A run, its world, and what happens to it from outside."""

    fan: Fan
    limits: tuple[int, ...]
    cancels: tuple[tuple[float, int], ...] = ()  # seconds, and passes of the loop after them
    resizes: tuple[tuple[float, int, int], ...] = ()
    rivals: tuple[Rival, ...] = ()


def every_fan(fan: Fan) -> list[Fan]:
    """This run and all that are nested in it."""
    inner = [nested for plan in fan.plans for nested in plan.fans]
    return [fan, *(deeper for nested in inner for deeper in every_fan(nested))]


# How they are drawn.


# One draw for each setting, from a list of those that matter: drawing costs more than running.

MAYBE = st.sampled_from((*(None,) * 7, *HALVES[1:8]))
TASK_TIMEOUTS = st.sampled_from(
    [*[()] * 6, *[(seconds,) for seconds in HALVES[1:8]], (0.5, None, 2.0), (None, 1.0), (3.0, 1.5)]
)
THROTTLED = st.sampled_from(
    [
        *[()] * 5,
        *[((0,),)] * 6,
        ((0,), (1,)),
        ((), (0,)),
        ((0, 1),),
        ((0,), (1, 0), (2,)),
        ((2, 1), (1, 2)),
    ]
)
SOURCES = st.one_of(
    st.sampled_from(SIZED).map(Source),
    st.builds(
        Source,
        st.sampled_from(UNSIZED),
        st.sampled_from([(0.0,), (0.0,), (0.5,), (1.0, 0.0), (0.0, 3.0, 0.5), (40.0,)]),
        st.sampled_from([None, None, None, 0, 1, 2, 3]),
        st.booleans(),
    ),
)
READERS = st.sampled_from(
    [Reader(pause, ending, after)
     for pause in (0.0, 0.5, 2.0) for ending in ENDINGS for after in range(4)]
)  # fmt: skip


def leaves(*, exits: bool) -> st.SearchStrategy[Plan]:
    kinds = (*LEAVES * 2, *SYNC, *(EXITS if exits else ()))
    return st.builds(Plan, st.sampled_from(kinds), SECONDS)


@functools.cache
def themed(*, exits: bool) -> st.SearchStrategy[list[Plan]]:
    """Several works of a few kinds."""
    return st.one_of(
        *[st.lists(st.builds(Plan, st.sampled_from(kinds), SECONDS), min_size=2, max_size=6)
          for kinds in (*THEMES, *[(*EXITS, "succeed")] * exits)]
    )  # fmt: skip


def plans(depth: int, *, exits: bool) -> st.SearchStrategy[Plan]:
    """What a work may do, with so many levels of runs in it."""
    leaf = leaves(exits=exits)
    if depth == 0:
        return leaf
    fan = fans(depth - 1, exits=exits, most=3)
    one = fan.map(lambda only: (only,))
    # One half can't work while the other has lent the slot of both.
    half = fan.map(without_pauses)
    nests = st.one_of(
        st.builds(Plan, st.sampled_from(["nest", "nest", "in the cleanup"]), SECONDS, one),
        st.builds(Plan, st.just("nest in a scope"), SOON, one),
        st.builds(Plan, st.just("two at once"), SECONDS, st.tuples(half, half)),
        st.builds(Plan, st.just("sync run"), st.just(0.0), one.map(fit_for_a_thread)),
    )
    return st.one_of(leaf, leaf, nests)


def without_pauses(fan: Fan) -> Fan:
    source = Source(fan.source.kind) if fan.way in GROUPS else fan.source
    return replace(fan, source=source, reader=replace(fan.reader, pause=0.0))


def fit_for_a_thread(nested: tuple[Fan, ...]) -> tuple[Fan, ...]:
    """Runs on a loop of their own, whose clock is the real one: they never sleep."""
    quiet = (
        replace(
            fan,
            way=fan.way if fan.way in ("gather", "map", "stream", "merge", "retry") else "gather",
            plans=tuple(quick(plan) for plan in fan.plans),
            source=Source("list"),
            timeout=None,
            task_timeouts=(),
            reader=Reader(),
        )
        for fan in nested
    )
    return tuple(map(admissible, quiet))


def quick(plan: Plan) -> Plan:
    return Plan(plan.kind if plan.kind in IN_THREADS else "succeed")


def fans(depth: int, *, exits: bool = False, most: int = 7) -> st.SearchStrategy[Fan]:
    """Runs of up to *most* works."""
    several = st.lists(plans(depth, exits=exits), max_size=most)
    drawn = st.builds(
        Fan,
        way=st.sampled_from(WAYS + GROUPS),
        plans=st.one_of(several, several, several, themed(exits=exits)).map(tuple),
        source=SOURCES,
        max_concurrent=st.sampled_from([1, 1, 2, 2, 3, None]),
        timeout=MAYBE,
        task_timeouts=TASK_TIMEOUTS,
        throttled=THROTTLED,
        rule=st.sampled_from(RULES),
        grace=st.sampled_from(GRACES),
        return_partial=st.booleans(),
        reader=READERS,
    )
    return drawn.map(admissible)


def admissible(fan: Fan) -> Fan:
    """The nearest run that the entry points take: what they refuse has tests of its own."""
    source, way = fan.source, fan.way
    if way in ("retry", "map") and "coroutines" in source.kind:
        source = replace(source, kind="list")
    fan = replace(fan, source=source)
    if way in GROUPS:  # which take coroutines, one by one
        fan = replace(
            fan, source=Source("list", source.pauses), plans=tuple(map(as_async, fan.plans))
        )
    if way not in STREAMS:
        fan = replace(fan, reader=Reader())
    if not fan.plans and way in ("first", "race", "merge"):
        fan = replace(fan, plans=(Plan("succeed", 1.0),))
    if fan.throttled != ((0,),) and fan.max_concurrent is None and way not in GROUPS:
        fan = replace(fan, max_concurrent=2)
    k = fan.rule.removeprefix("min_success ")
    if way in (*WINNERS, *GROUPS) or (k.isdigit() and fan.sized and int(k) > len(fan.plans)):
        fan = replace(fan, rule="")
    if way in GROUPS:
        fan = replace(fan, rule="fail_fast" if way == "group" else "")
    return fan


def as_async(plan: Plan) -> Plan:
    return replace(plan, kind="succeed", fans=()) if plan.sync else plan


PASSES = st.sampled_from((0, 0, 1, 2, 3, 4, 5))
CANCELS = st.one_of(
    st.just(()),
    st.tuples(st.tuples(SECONDS.map(lambda seconds: seconds * 2), PASSES)),
    st.tuples(SECONDS, st.sampled_from((0.0, 0.5, 1.0)), PASSES).map(
        lambda drawn: ((drawn[0], 0), (drawn[0] + drawn[1], drawn[2]))
    ),
)
RIVALS = st.builds(Rival, SECONDS, st.integers(0, THROTTLERS - 1), SECONDS, MAYBE, PASSES)
RESIZES = st.tuples(SECONDS, st.integers(0, THROTTLERS - 1), st.integers(1, 3))


@st.composite
def examples(draw: st.DrawFn, depth: int = 2) -> Example:
    """Whole examples; one in a few has works that raise exits."""
    # A copy, of which hypothesis does not know how it was made.
    return replace(draw(whole(depth)))


@functools.cache
def whole(depth: int) -> st.SearchStrategy[Example]:
    return st.builds(
        Example,
        fan=st.one_of(*[fans(depth)] * 4, fans(depth, exits=True)),
        limits=st.tuples(*[st.integers(1, 3)] * THROTTLERS),
        cancels=CANCELS,
        resizes=st.one_of(st.just(()), st.lists(RESIZES, max_size=3).map(tuple)),
        rivals=st.one_of(st.just(()), st.lists(RIVALS, max_size=4).map(tuple)),
    )
