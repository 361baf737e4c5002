"""What is known of one example when all has ended; the checker reads it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.plans import Example
from tests.chaos.world import Episode, Work, World


@dataclass
class Story:
    """One example, ended.

    Attributes:
        cancels: when the caller was cancelled while the outermost run lasted.
        tasks_left: asyncio's, when the outermost call ended; works_left: works alive then.
        tasks_at_last: asyncio's, when all should have ended.
        abandoned: the warnings logged.
        served: throttler, order of asking and time of each rival that got a slot.
        own_context: the caller's context was as before.
        in_callbacks: what the loop's exception handler was told.
    """

    example: Example
    world: World
    outermost: Episode
    cancels: list[float] = field(default_factory=list)
    tasks_left: set[asyncio.Task[Any]] = field(default_factory=set)
    works_left: list[Work] = field(default_factory=list)
    tasks_at_last: set[asyncio.Task[Any]] = field(default_factory=set)
    abandoned: list[str] = field(default_factory=list)
    served: list[tuple[int, int, float]] = field(default_factory=list)
    own_context: bool = False
    in_callbacks: list[str] = field(default_factory=list)
