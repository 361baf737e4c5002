"""Measuring: contenders take turns, so that what else the machine does hits all of them alike."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

Contender: TypeAlias = Callable[[], Awaitable[object]]
Times: TypeAlias = dict[str, list[float]]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what was measured.
        figure: what came out, in words.
        bar: what it may be at the most, or must be at the least, in words; empty: the figure is
            only printed.
        met: whether it is.
    """

    what: str
    figure: str
    bar: str = ""
    met: bool = True

    def __str__(self) -> str:
        verdict = ("ok" if self.met else "MISSED") if self.bar else ""
        return f"{self.what:<58}{self.figure:>27}  {self.bar:<10}{verdict}".rstrip()


def at_most(what: str, value: float, bar: float, figure: str) -> Row:
    """A row whose bar is an upper one."""
    return Row(what, figure, f"<= {bar:.4g}", value <= bar)


def at_least(what: str, value: float, bar: float, figure: str) -> Row:
    """A row whose bar is a lower one."""
    return Row(what, figure, f">= {bar:.4g}", value >= bar)


def interleaved(contenders: Mapping[str, Contender], rounds: int) -> Times:
    """Seconds of each contender in each round, after one round that does not count."""
    times: Times = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name in turned(list(contenders), number):
            seconds = asyncio.run(timed(contenders[name]))
            if number:
                times[name].append(seconds)
    return times


def ratio(times: Times, name: str, unit: str) -> float:
    """How often the *unit* a contender took, round by round: the machine's pace drops out."""
    return median(a / b for a, b in zip(times[name], times[unit], strict=True))


async def timed(contender: Contender) -> float:
    """Seconds that *contender* takes on the running loop."""
    gc.collect()
    began = time.perf_counter()
    await contender()
    return time.perf_counter() - began


def turned(names: list[str], by: int) -> list[str]:
    """Nobody always goes first."""
    shift = by % len(names)
    return names[shift:] + names[:shift]
