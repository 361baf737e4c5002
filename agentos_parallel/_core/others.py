"""What is alive in a run beside its tasks: the feed, and Futures handed over that had no turn yet.

Guarantees that the run waits for them, cancels them when it stops, and gives up on them in time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context

logger = logging.getLogger("agentos_parallel")


class Others:
    """A set of asyncio Tasks and Futures; empty is false.

    Args:
        context: where callbacks are called.
        gone: called whenever one has ended, or has been given up.
    """

    def __init__(self, context: Context, gone: Callable[[], None]) -> None:
        self._context = context
        self._gone = gone
        self._alive: set[asyncio.Future[None]] = set()

    def __bool__(self) -> bool:
        """Whether one is alive."""
        return bool(self._alive)

    def add(self, other: asyncio.Future[None], ended: Callable[[], None] | None = None) -> None:
        """Wait for *other* too; *ended* is called before ``gone`` when it has ended."""

        def done(_: asyncio.Future[None]) -> None:
            if not other.cancelled():
                other.exception()  # looked at, so that asyncio does not log it
            if other in self._alive:
                self._alive.remove(other)
                if ended is not None:
                    ended()
                self._gone()

        self._alive.add(other)
        other.add_done_callback(done, context=self._context)

    def cancel(self) -> None:
        """Cancel all of them."""
        for other in list(self._alive):
            other.cancel()

    def give_up(self) -> None:
        """Wait for none of them any more."""
        for other in self._alive:
            logger.warning("%r was abandoned: it ignores its cancel", other)
        self._alive.clear()
        self._gone()
