"""The task that draws works from a source of unknown length, and closes it.

Guarantees that no more is drawn than the run may have in hand, and that the source is closed in
the task that drew from it, as scopes inside an async generator need. Costs one task a run and one
wake-up for all room that came at once. Drawing from callbacks was refused for the same scopes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agentos_parallel._core.sources import EXHAUSTED, Unsized

if TYPE_CHECKING:
    from agentos_parallel._core.run import Run

BREATH = 256
"""Works that are drawn, where there is room for more, before other tasks get their turn."""


class Feed:
    """Draws from *source* for *run*.

    Attributes:
        exhausted: the source has given its last item.
        error: what the source raised.
    """

    def __init__(self, run: Run, source: Unsized) -> None:
        self.exhausted = False
        self.error: BaseException | None = None
        self._run = run
        self._source = source
        self._begun = False
        self._handle: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Start drawing, in the caller's context."""
        # Never eagerly, whatever the loop's task factory: the run may stop in this very step.
        self._handle = asyncio.Task(self._live(), loop=self._run.loop)
        return self._handle

    def cancel(self) -> None:
        """Draw no more; one that has not begun still closes its source."""
        if self._begun and self._handle is not None:
            self._handle.cancel()

    def wake(self) -> None:
        """There may be room."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _live(self) -> None:
        self._begun = True
        for step in (self._draw_all, self._source.close):
            try:
                await step()
            except GeneratorExit as error:  # the collector's, or the source's: await nothing more
                self.error = error
                return
            except BaseException as error:  # exits included: they end the run, not the loop
                own_stop = isinstance(error, asyncio.CancelledError) and not self._run.intake.open
                if self.error is None and not own_stop:
                    self.error = error

    async def _draw_all(self) -> None:
        run = self._run
        while run.intake.open:
            if not run.intake.may_draw():
                self._waiter = run.loop.create_future()
                await self._waiter
                continue
            item = await self._source.draw()
            if item is EXHAUSTED:
                self.exhausted = True
                return
            refused = not run.draw(item)
            if refused or run.ledger.counts.total % BREATH == 0:
                await asyncio.sleep(0)  # or a source that never waits would starve the loop
