"""Retry: repeat a work that failed.

Guarantees that control flow, cancellation and a run that has ended are never repeated, and that a
repeat waits for its slot like any work that goes on. Costs nothing for a work that succeeds but
one ``attempt()``, 1 µs. tenacity's loop around the whole run was refused: it repeats what worked.
"""

from __future__ import annotations

import asyncio
from typing import Any

from agentos_parallel._core.nesting import lent
from agentos_parallel._core.task import attempt, is_control_flow, stopping
from agentos_parallel._core.works import Call


def with_retry(call: Call, max_retries: int) -> Call:
    """Repeat *call* after every Exception and timeout, up to *max_retries* times."""

    async def retried(item: Any) -> Any:
        retries = 0
        while True:
            try:
                async with attempt():
                    return await call(item)
            except Exception as error:
                if retries >= max_retries or is_control_flow(error) or stopping():
                    raise
            retries += 1
            async with lent():
                await asyncio.sleep(0)

    return retried
