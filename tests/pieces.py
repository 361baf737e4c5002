"""What many tests hand over: works that answer, fail, or will not go."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def after(seconds: float, value: T) -> T:
    """Answer *value* in so many seconds."""
    await asyncio.sleep(seconds)
    return value


async def failing_after(seconds: float, error: BaseException) -> Any:
    """Raise *error* in so many seconds."""
    await asyncio.sleep(seconds)
    raise error


async def agen(items: Iterable[T]) -> AsyncIterator[T]:
    """Give *items* as an async iterable."""
    for item in items:
        await asyncio.sleep(0)
        yield item


class Stubborn:
    """A work (or the func of a map) that ignores every cancel until it is let go."""

    def __init__(self, value: str = "late") -> None:
        self.value = value
        self.cancels: list[float] = []
        self.ended = False
        self.release = asyncio.Event()

    async def __call__(self, *_: object) -> str:
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancels.append(now())
        self.ended = True
        return self.value

    async def let_go(self) -> None:
        """Let it end, and everything that follows from that."""
        self.release.set()
        await settle()


def now() -> float:
    """The time of the running loop."""
    return asyncio.get_running_loop().time()


def alive() -> set[asyncio.Task[Any]]:
    """Tasks of the running loop, beside the one that asks."""
    return asyncio.all_tasks() - {asyncio.current_task()}


async def settle() -> None:
    """Let everything run that is ready, and what follows from it."""
    for _ in range(10):
        await asyncio.sleep(0)
