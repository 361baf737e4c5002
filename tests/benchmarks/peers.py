"""The same job as others do it, and as one writes it by hand."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

Work = Callable[..., Coroutine[Any, Any, None]]


async def no_op(_: int = 0) -> None:
    """A work, or function of an item, that never waits."""


async def yields_once(_: int = 0) -> None:
    """The same, and it lets others in once."""
    await asyncio.sleep(0)


async def bare_gather(work: Work, tasks: int) -> None:
    """No limit, no accounting: what a task costs at the least, as most people write it."""
    await asyncio.gather(*[work() for _ in range(tasks)])


async def bare_group(work: Work, tasks: int) -> None:
    """No limit, no accounting, with the standard TaskGroup."""
    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(work())


async def group_and_semaphore(work: Work, tasks: int, limit: int) -> None:
    """The usual way by hand: a TaskGroup, and a semaphore inside each task."""
    semaphore = asyncio.Semaphore(limit)

    async def limited() -> None:
        async with semaphore:
            await work()

    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(limited())


async def workers(work: Work, tasks: int, limit: int) -> None:
    """The floor: as many workers as the limit allows, on one iterator, nothing kept apart."""
    works = iter([work() for _ in range(tasks)])

    async def worker() -> None:
        for each in works:
            await each

    await asyncio.gather(*[worker() for _ in range(limit)])


async def asyncqueue(work: Work, tasks: int, limit: int) -> None:
    """asyncqueue-py: workers on an asyncio.Queue."""
    queue = importlib.import_module("asyncqueue").AsyncQueue(max_concurrent=limit)
    await queue.puts([work() for _ in range(tasks)])
    await queue.run()


async def aiometer(work: Work, tasks: int, limit: int) -> None:
    """aiometer: an anyio task group with a limiter."""
    run_all = importlib.import_module("aiometer").run_all
    await run_all([work] * tasks, max_at_once=limit)


async def abatch(work: Work, tasks: int, limit: int) -> None:
    """LangChain: RunnableLambda.abatch."""
    runnables = importlib.import_module("langchain_core.runnables")
    config = {"max_concurrency": limit}
    await runnables.RunnableLambda(work).abatch(list(range(tasks)), config)


def installed(work: Work, tasks: int, limit: int) -> dict[str, Callable[[], Awaitable[None]]]:
    """Those of the libraries that are here, ready to run."""
    libraries = {"asyncqueue": asyncqueue, "aiometer": aiometer, "langchain_core": abatch}
    return {
        f"{module}.{peer.__name__}" if peer is abatch else module: partial(peer, work, tasks, limit)
        for module, peer in libraries.items()
        if importlib.util.find_spec(module) is not None
    }
