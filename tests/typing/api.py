"""What type checkers infer for callers; mypy and pyright read this file, nothing runs it."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypedDict, assert_type

from langchain_core.runnables import Runnable, RunnableLambda

from agentos_parallel import (
    FanOutConfig,
    FanOutExecutor,
    FanOutResult,
    GatherResult,
    ParallelExecutor,
    ResultStream,
    TaskResult,
    TaskStatus,
    TaskThrottler,
    create_parallel_agent_gather,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
    remaining,
)


async def fetch() -> int:
    return 1


def compute() -> int:
    return 1


async def length(text: str) -> int:
    return len(text)


def scale(factor: float, number: int) -> float:
    return factor * number


def shout(text: str) -> str:
    return text.upper()


class Agent:
    """Looks like a Runnable, as far as a map needs it."""

    async def ainvoke(self, question: str, config: object = None, **kwargs: Any) -> bytes:
        return question.encode()


class State(TypedDict):
    """What an agent is asked."""

    messages: list[Any]


class Config(TypedDict, total=False):
    """What an agent is bound by."""

    tags: list[str]


class StateAgent:
    """Looks like what create_agent makes: its input has a type of its own."""

    async def ainvoke(  # its parameter is called as LangChain calls it
        self,
        input: State,  # noqa: A002
        config: Config | None = None,
        **kwargs: Any,
    ) -> Any:
        return input


class Client:
    """An object with an async __call__."""

    async def __call__(self, text: str) -> float:
        return float(text)


async def texts_as_they_come() -> AsyncIterator[str]:
    yield "a"


def texts() -> Iterator[str]:
    yield "a"


def coroutines() -> Iterator[Coroutine[Any, Any, int]]:
    yield fetch()


async def works_for_parallel_gather() -> None:
    assert_type(await parallel_gather(fetch(), fetch()), GatherResult[int])
    assert_type(await parallel_gather(fetch, fetch), GatherResult[int])
    assert_type(await parallel_gather(compute, compute), GatherResult[int])
    assert_type(await parallel_gather(lambda: 1, max_concurrent=2), GatherResult[int])
    assert_type(await parallel_gather(functools.partial(length, "a")), GatherResult[int])
    assert_type(await parallel_gather(asyncio.create_task(fetch())), GatherResult[int])
    assert_type(await parallel_gather(*[length(text) for text in "ab"]), GatherResult[int])
    assert_type(
        await parallel_gather(
            fetch(),
            max_concurrent=None,
            timeout=None,
            return_partial=False,
            task_timeout=1.5,
            fail_fast=True,
            throttler=TaskThrottler(2),
            grace=0,
        ),
        GatherResult[int],
    )


async def works_for_gather() -> None:
    executor = ParallelExecutor(max_concurrent=2, timeout=1)
    assert_type(await executor.gather([fetch(), fetch()]), GatherResult[int])
    assert_type(await executor.gather([fetch, fetch]), GatherResult[int])
    assert_type(await executor.gather([compute, compute]), GatherResult[int])
    assert_type(await executor.gather((fetch(), fetch()), timeout=3), GatherResult[int])
    assert_type(await executor.gather(coroutines()), GatherResult[int])
    assert_type(await executor.gather({"a": fetch(), "b": fetch()}), GatherResult[int])
    assert_type(await executor.gather({"a": fetch, "b": fetch}), GatherResult[int])
    assert_type(await executor.gather({"a": compute}), GatherResult[int])
    assert_type(await executor.gather([fetch()], None, False), GatherResult[int])


async def works_for_a_stream() -> None:
    executor = ParallelExecutor()
    assert_type(executor.stream([fetch(), fetch()]), ResultStream[int])
    assert_type(executor.stream([fetch, fetch], ordered=True), ResultStream[int])
    assert_type(executor.stream([compute, compute]), ResultStream[int])
    assert_type(executor.stream({"a": fetch()}), ResultStream[int])
    assert_type(executor.stream(coroutines()), ResultStream[int])


async def functions_for_parallel_map() -> None:
    assert_type(await parallel_map(length, ["a", "b"]), GatherResult[int])
    assert_type(await parallel_map(shout, ["a", "b"]), GatherResult[str])
    assert_type(await parallel_map(str.upper, ["a", "b"]), GatherResult[str])
    assert_type(await parallel_map(lambda text: len(text), ["a"]), GatherResult[int])
    assert_type(await parallel_map(Agent(), ["a", "b"]), GatherResult[bytes])
    assert_type(await parallel_map(Client(), ["1"]), GatherResult[float])
    assert_type(await parallel_map(functools.partial(scale, 2), [2]), GatherResult[float])
    assert_type(await parallel_map(length, {"first": "a"}), GatherResult[int])
    assert_type(await parallel_map(length, texts()), GatherResult[int])
    assert_type(await parallel_map(length, texts_as_they_come()), GatherResult[int])
    assert_type(await parallel_map(shout, texts_as_they_come()), GatherResult[str])
    assert_type(await parallel_map(Agent(), texts_as_they_come()), GatherResult[bytes])
    assert_type(await parallel_map(Agent(), {"first": "a"}), GatherResult[bytes])
    assert_type(
        await parallel_map(
            length,
            ["a"],
            2,
            None,
            throttler=lambda text: TaskThrottler(2),
            task_timeout=lambda text: 1.0,
        ),
        GatherResult[int],
    )


async def functions_for_map() -> None:
    executor = ParallelExecutor()
    assert_type(await executor.map(length, ["a", "b"]), GatherResult[int])
    assert_type(await executor.map(shout, ["a", "b"]), GatherResult[str])
    assert_type(await executor.map(Agent(), ["a", "b"]), GatherResult[bytes])
    assert_type(await executor.map(length, {"first": "a"}, timeout=3), GatherResult[int])
    assert_type(await executor.map(shout, texts_as_they_come()), GatherResult[str])


async def functions_for_parallel_stream() -> None:
    assert_type(parallel_stream(length, ["a", "b"]), ResultStream[int])
    assert_type(parallel_stream(shout, texts()), ResultStream[str])
    assert_type(parallel_stream(Agent(), texts_as_they_come()), ResultStream[bytes])
    assert_type(parallel_stream(length, {"first": "a"}, ordered=True, grace=1), ResultStream[int])


async def runnables(runnable: Runnable[str, list[int]]) -> None:
    assert_type(await parallel_map(runnable, ["a"]), GatherResult[list[int]])
    assert_type(await ParallelExecutor().map(runnable, ["a"]), GatherResult[list[int]])
    assert_type(parallel_stream(runnable, ["a"]), ResultStream[list[int]])
    assert_type(await parallel_map(RunnableLambda(shout), ["a"]), GatherResult[str])


async def agents(inputs: list[dict[str, Any]]) -> None:
    assert_type(await parallel_map(StateAgent(), inputs), GatherResult[Any])
    assert_type(await ParallelExecutor().map(StateAgent(), inputs), GatherResult[Any])
    assert_type(parallel_stream(StateAgent(), inputs), ResultStream[Any])
    assert_type(await parallel_map(StateAgent(), [{"messages": []}]), GatherResult[Any])


async def results() -> None:
    result = await parallel_map(length, ["a", "b"])
    assert_type(result.get_results(), list[int])
    assert_type(result.get_errors(), list[tuple[str, BaseException]])
    assert_type(result.raise_for_errors(), GatherResult[int])
    assert_type(result.results, list[TaskResult[int]])
    assert_type(result.results[0].result, int | None)
    assert_type(result.results[0].status, TaskStatus)
    assert_type(result.by_id["0"], TaskResult[int])
    assert_type(result.success_rate, float)
    assert_type(result.abandoned, int)
    assert_type(result.to_dict(), dict[str, Any])
    assert_type(GatherResult.from_dict({}), GatherResult[Any])


async def streams() -> None:
    async for task in parallel_stream(length, ["a", "b"]):
        assert_type(task, TaskResult[int])
    async with ParallelExecutor().stream([fetch]) as stream:
        assert_type(stream, ResultStream[int])
        assert_type([task.result async for task in stream], list[int | None])


async def fan_outs() -> None:
    executor = FanOutExecutor(FanOutConfig(aggregation="first"))
    assert_type(await executor.run([fetch(), fetch()]), FanOutResult[Any])
    assert_type((await executor.run([fetch])).winner, str | None)
    assert_type(await fan_out([fetch, compute, fetch()]), Any)


async def the_rest() -> None:
    assert_type(remaining(), float | None)
    gather = create_parallel_agent_gather(max_concurrent=2)
    assert_type(await gather(fetch(), fetch), GatherResult[Any])
    async with TaskThrottler(2) as throttler:
        assert_type(throttler, TaskThrottler)
        assert_type(throttler.active, int)


async def works_of_several_kinds() -> None:
    executor = ParallelExecutor()
    assert_type(await executor.gather([fetch(), compute]), GatherResult[Any])
    assert_type(await executor.gather({"a": fetch(), "b": compute}), GatherResult[Any])
    assert_type(executor.stream([fetch(), compute]), ResultStream[Any])
    await parallel_gather(fetch(), compute, functools.partial(shout, "a"))


async def works_with_types_of_their_own() -> None:
    executor = ParallelExecutor()
    coroutines: list[Coroutine[Any, Any, int]] = []
    assert_type(await parallel_gather(*coroutines), GatherResult[int])
    assert_type(await executor.gather(coroutines), GatherResult[int])
    assert_type(executor.stream(coroutines), ResultStream[int])

    by_name: dict[str, Coroutine[Any, Any, int]] = {}
    assert_type(await executor.gather(by_name), GatherResult[int])
    assert_type(executor.stream(by_name), ResultStream[int])

    awaitables: list[Awaitable[int]] = []
    assert_type(await executor.gather(awaitables), GatherResult[int])
    async_factories: list[Callable[[], Awaitable[int]]] = []
    assert_type(await executor.gather(async_factories), GatherResult[int])
    factories: list[Callable[[], int]] = []
    assert_type(await executor.gather(factories), GatherResult[int])
    futures: set[asyncio.Future[int]] = set()
    assert_type(await executor.gather(futures), GatherResult[int])


async def works_of_other_collections(
    drawn: AsyncIterator[Coroutine[Any, Any, int]], factories: tuple[Callable[[], int], ...]
) -> None:
    assert_type(await ParallelExecutor().gather(drawn), GatherResult[int])
    assert_type(ParallelExecutor().stream(drawn), ResultStream[int])
    assert_type(await ParallelExecutor().gather(factories), GatherResult[int])
    assert_type(await parallel_gather(*factories), GatherResult[int])
