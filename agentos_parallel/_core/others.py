"""What is alive in a run beside its tasks: the feed, a group's body, Futures not yet begun.

Guarantees that the run waits for them, cancels them when it stops, and gives up on them in time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from typing import Any

logger = logging.getLogger("agentos_parallel")


class Others:
    """A set of asyncio Tasks and Futures; empty is false.

    Args:
        loop: the run's.
        context: where callbacks are called.
        gone: called whenever one has ended, or has been given up.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, context: Context, gone: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._context = context
        self._gone = gone
        self._alive: dict[asyncio.Future[Any], Callable[[], object]] = {}

    def __bool__(self) -> bool:
        """Whether one is alive."""
        return bool(self._alive)

    def add(self, other: asyncio.Future[Any], cancel: Callable[[], object]) -> None:
        """Wait for *other* too, which *cancel* cancels, until it is removed."""
        self._alive[other] = cancel

    def remove(self, other: asyncio.Future[Any]) -> None:
        """Wait for *other* no more: it has ended."""
        if self._alive.pop(other, None) is not None:
            self._gone()

    def watch(
        self,
        other: asyncio.Future[Any],
        cancel: Callable[[], object],
        ended: Callable[[], None] | None = None,
    ) -> None:
        """Wait for *other* too, until it has ended; *ended* is called then."""

        def done(_: asyncio.Future[Any]) -> None:
            if not other.cancelled():
                other.exception()  # looked at, so that asyncio does not log it
            if self._alive.pop(other, None) is not None:
                if ended is not None:
                    ended()
                self._gone()

        self.add(other, cancel)
        other.add_done_callback(done, context=self._context)

    def cancel(self) -> None:
        """Cancel all of them."""
        for cancel in list(self._alive.values()):
            cancel()

    def give_up(self, only: asyncio.Future[Any] | None = None) -> None:
        """Wait no more for any of them, or for the one."""
        for other in [other for other in self._alive if only in {None, other}]:
            del self._alive[other]
            # Not from in here: a handler of the user's that raises would keep the run waiting.
            text = "agentos_parallel: %r was abandoned: it ignores its cancel"
            self._loop.call_soon(logger.warning, text, other)
        self._gone()
