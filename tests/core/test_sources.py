"""Where works come from; laziness stands in promises/test_p10, what is refused in test_p14."""

import asyncio
from collections import ChainMap, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import MappingProxyType
from typing import Any

import pytest

from agentos_parallel import ParallelExecutor, SourceError, parallel_map, parallel_stream


async def double(number: int) -> int:
    return 2 * number


class OnlyIter:
    """Iterable, of a length that nobody knows, and afresh each time."""

    def __iter__(self) -> Iterator[int]:
        return iter([1, 2, 3])


class Sized(OnlyIter):
    def __len__(self) -> int:
        return 3


class Indexed:
    """A sequence as they were before iterators."""

    def __getitem__(self, index: int) -> int:
        return [1, 2, 3][index]

    def __len__(self) -> int:
        return 3


class Countdown:
    """An async iterator that is no generator, and can't be closed."""

    def __init__(self) -> None:
        self.left = 3

    def __aiter__(self) -> "Countdown":
        return self

    async def __anext__(self) -> int:
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        return 3 - self.left


class OnlyAsyncIter:
    def __aiter__(self) -> AsyncIterator[int]:
        return Countdown()


async def as_they_come() -> AsyncIterator[int]:
    for number in (1, 2, 3):
        yield number


SOURCES: dict[str, Callable[[], Any]] = {
    "list": lambda: [1, 2, 3],
    "tuple": lambda: (1, 2, 3),
    "range": lambda: range(1, 4),
    "deque": lambda: deque([1, 2, 3]),
    "dict view": lambda: {1: "a", 2: "b", 3: "c"}.keys(),
    "sized": Sized,
    "mapping": lambda: {"a": 1, "b": 2, "c": 3},
    "ordered dict": lambda: OrderedDict(a=1, b=2, c=3),
    "proxy": lambda: MappingProxyType({"a": 1, "b": 2, "c": 3}),
    "chain map": lambda: ChainMap({"a": 1, "b": 2, "c": 3}),
    "iterator": lambda: iter([1, 2, 3]),
    "generator": lambda: (number for number in (1, 2, 3)),
    "map object": lambda: map(int, "123"),
    "only iterable": OnlyIter,
    "async generator": as_they_come,
    "async iterator": Countdown,
    "only async iterable": OnlyAsyncIter,
}
NAMED = {"mapping", "ordered dict", "proxy", "chain map"}


@pytest.mark.parametrize("kind", SOURCES)
async def test_every_kind_of_source_is_drawn_in_its_order(kind: str) -> None:
    result = await parallel_map(double, SOURCES[kind]())
    assert result.get_results() == [2, 4, 6]
    assert result.total == 3
    assert result.all_succeeded
    ids = [task.task_id for task in result.results]
    assert ids == (["a", "b", "c"] if kind in NAMED else ["0", "1", "2"])


@pytest.mark.parametrize("kind", SOURCES)
async def test_every_kind_of_source_can_be_streamed(kind: str) -> None:
    stream = parallel_stream(double, SOURCES[kind](), max_concurrent=2, ordered=True)
    assert [task.result async for task in stream] == [2, 4, 6]


async def test_works_come_from_the_same_kinds_of_sources() -> None:
    async def works() -> AsyncIterator[Any]:
        yield double(1)
        yield lambda: 4
        yield lambda: double(3)

    executor = ParallelExecutor()
    assert (await executor.gather(works())).get_results() == [2, 4, 6]
    assert (await executor.gather({double(1), double(1)})).get_results() == [2, 2]
    assert (await executor.gather(map(double, (1, 2)))).get_results() == [2, 4]


async def test_a_set_is_sized() -> None:
    result = await parallel_map(double, {1, 2, 3}, min_success=3)
    assert sorted(result.get_results()) == [2, 4, 6]


@pytest.mark.parametrize("kind", ["list", "mapping", "generator", "async generator"])
async def test_an_empty_source_is_an_empty_result(kind: str) -> None:
    empty: dict[str, Any] = {
        "list": [],
        "mapping": {},
        "generator": iter([]),
        "async generator": parallel_stream(double, []),
    }
    result = await parallel_map(double, empty[kind])
    assert result.total == 0
    assert result.all_succeeded


async def test_a_stream_is_a_source() -> None:
    doubled = parallel_stream(double, [1, 2, 3], ordered=True)

    async def again(task: Any) -> int:
        return await double(task.result)

    assert (await parallel_map(again, doubled)).get_results() == [4, 8, 12]


async def test_an_iterator_is_drawn_on_from_where_it_stands() -> None:
    numbers = iter([1, 2, 3])
    assert next(numbers) == 1
    assert (await parallel_map(double, numbers)).get_results() == [4, 6]


async def test_a_source_that_can_not_be_iterated_after_all_is_a_source_error() -> None:
    class Broken:
        def __iter__(self) -> Iterator[int]:
            raise LookupError("no cursor")

    with pytest.raises(SourceError) as raised:
        await parallel_map(double, Broken())
    assert isinstance(raised.value.__cause__, LookupError)
    assert raised.value.result is not None
    assert raised.value.result.total == 0


async def test_a_source_that_raises_on_closing_is_a_source_error() -> None:
    class Connection(Countdown):
        async def aclose(self) -> None:
            raise ConnectionError("reset")

    with pytest.raises(SourceError) as raised:
        await parallel_map(double, Connection())
    assert isinstance(raised.value.__cause__, ConnectionError)
    assert raised.value.result is not None
    assert raised.value.result.get_results() == [2, 4, 6]


async def test_an_async_source_may_take_its_time() -> None:
    async def slow() -> AsyncIterator[int]:
        for number in (1, 2, 3):
            await asyncio.sleep(1)
            yield number

    result = await parallel_map(double, slow())
    assert result.total_duration_ms == 3_000
    assert [task.queued_ms for task in result.results] == [0, 0, 0]


async def test_a_generator_function_is_to_be_called() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match=r"call it: numbers\(\)"):
        await parallel_map(str, numbers)  # type: ignore[call-overload]
