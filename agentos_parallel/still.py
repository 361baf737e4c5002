"""Loops that stand still: their thread waits for a run in another loop.

Guarantees that a slot is not on its way to a loop that waits for the very run which needs it, and
that whoever was passed over is served when the loop goes on. Costs a look at an empty dict where
none stands still. Refusing sync calls on a loop's own thread was refused: agents make them.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Server(Protocol):
    """Who passes over what waits in such a loop."""

    def serve(self) -> None:
        """Serve again; from any thread."""


loops: dict[asyncio.AbstractEventLoop, set[Server]] = {}
"""Those that stand still now, each with who has passed it over."""

_lock = threading.Lock()


@contextmanager
def standing_still() -> Iterator[None]:
    """The loop that runs in this thread, if one does, stands still in the block."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        yield
        return
    try:
        with _lock:
            loops[loop] = set()
        yield
    finally:
        with _lock:
            servers = loops.pop(loop, ())
        for server in servers:
            server.serve()


def passed_over(loop: asyncio.AbstractEventLoop, server: Server) -> bool:
    """Whether *loop* stands still; *server* is told when it goes on."""
    with _lock:
        if loop not in loops:
            return False
        loops[loop].add(server)
        return True


def _after_fork() -> None:
    """A forked child has none of the threads that wait."""
    global _lock  # noqa: PLW0603 - a lock that another thread held at the fork
    _lock = threading.Lock()
    loops.clear()


if hasattr(os, "register_at_fork"):  # pragma: no branch - there is no fork on Windows
    os.register_at_fork(after_in_child=_after_fork)
