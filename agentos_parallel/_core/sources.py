"""Where works come from: sized inputs, taken as they are at the call, and sources drawn lazily.

Guarantees that a source is drawn one item at a time, by one task, which closes it too. Threads or
read-ahead were refused: whoever hands over a generator counts on its laziness.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import count, repeat
from typing import Any, TypeAlias

from agentos_parallel.checks import shown

Drawn: TypeAlias = tuple[int, str, Any, float]
"""Index, task_id, the item, and since when it waits (loop time)."""

EXHAUSTED = object()
"""What ``Unsized.draw`` gives after the last item."""


@dataclass(frozen=True, slots=True)
class SizedInput:
    """An input whose length is known.

    Attributes:
        items: the works, or the items of a map, as they were at the call.
        ids: their task_ids, where they are not their positions.
    """

    items: Sequence[Any]
    ids: Sequence[str] | None = None

    def __len__(self) -> int:
        """How many there are."""
        return len(self.items)

    def drawn(self, since: float) -> Iterator[Drawn]:
        """All of them in order, made while they are read."""
        ids = map(str, count()) if self.ids is None else self.ids
        return zip(range(len(self.items)), ids, self.items, repeat(since), strict=False)


class Unsized:
    """An iterable or async iterable of unknown length; everything is done in the drawing task."""

    def __init__(self, items: Iterable[Any] | AsyncIterable[Any]) -> None:
        self._items = items
        self._iterator: Any = None

    async def draw(self) -> Any:
        """The next item, or ``EXHAUSTED``."""
        if isinstance(self._items, AsyncIterable):
            if self._iterator is None:
                self._iterator = aiter(self._items)
            return await anext(self._iterator, EXHAUSTED)
        if self._iterator is None:
            self._iterator = iter(self._items)
        return next(self._iterator, EXHAUSTED)

    async def close(self) -> None:
        """Close it, if it is a generator or has an ``aclose``."""
        iterator = self._items if self._iterator is None else self._iterator
        if inspect.isgenerator(iterator):
            iterator.close()
        elif hasattr(iterator, "aclose"):
            await iterator.aclose()


def source_of(name: str, items: Any) -> SizedInput | Unsized:
    """Make *items* an input for a run.

    Raises:
        TypeError: naming the argument *name*, if it is no iterable, or one of characters.
    """
    if isinstance(items, str | bytes | bytearray):
        raise TypeError(f"{name} must be a list or other iterable, got a {type(items).__name__}: "
                        f"a single one goes into a list, [{name[:-1]}]")  # fmt: skip
    if isinstance(items, Mapping):
        return SizedInput(list(items.values()), _checked_ids(name, items))
    if isinstance(items, range | tuple):
        return SizedInput(items)
    if isinstance(items, Iterable) and not isinstance(items, Iterator):
        return SizedInput(list(items)) if isinstance(items, Sized) else Unsized(items)
    if isinstance(items, Iterable | AsyncIterable) and not inspect.isawaitable(items):
        return Unsized(items)
    hint = "; works of their own go into a list" if _is_work(items) else ""
    if inspect.isasyncgenfunction(items) or inspect.isgeneratorfunction(items):
        hint = f"; call it: {items.__name__}()"
    raise TypeError(
        f"{name} must be an iterable, an async iterable or a mapping, got {shown(items)}{hint}"
    )


def _is_work(items: object) -> bool:
    return callable(items) or inspect.isawaitable(items)


def _checked_ids(name: str, items: Mapping[Any, Any]) -> list[str]:
    for key in items:
        if not isinstance(key, str):
            raise TypeError(f"the keys of {name} become task_ids and must be str, got {shown(key)}")
    return list(items)
