"""P11: each task has a copy of the caller's context, threads included."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar

import pytest

from agentos_parallel import (
    FanOutExecutor,
    ParallelExecutor,
    TaskThrottler,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
    remaining,
)
from tests.ways import WAYS, Way

user: ContextVar[str] = ContextVar("user", default="nobody")


async def who() -> str:
    return user.get()


def who_in_thread() -> str:
    return user.get()


async def become(name: str) -> str:
    before = user.get()
    user.set(name)
    await asyncio.sleep(1)
    return f"{before} became {user.get()}"


@pytest.mark.parametrize("way", WAYS)
async def test_a_task_sees_the_callers_context(way: Way) -> None:
    user.set("ada")
    tasks = await way([who, who])
    assert [task.result for task in tasks] == ["ada", "ada"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("limit", [1, 8])
async def test_what_a_task_sets_nobody_else_sees(way: Way, limit: int) -> None:
    user.set("ada")
    works = [lambda name=name: become(name) for name in "xyz"]
    tasks = await way(works, max_concurrent=limit)
    assert [task.result for task in tasks] == ["ada became x", "ada became y", "ada became z"]
    assert user.get() == "ada"


async def test_a_coroutine_made_before_has_the_context_of_the_call() -> None:
    user.set("whoever made it")
    works = [who(), become("x")]
    user.set("ada")
    result = await parallel_gather(*works)
    assert result.get_results() == ["ada", "ada became x"]


async def test_a_thread_sees_the_callers_context() -> None:
    user.set("ada")
    result = await parallel_gather(who_in_thread, lambda: user.get())
    assert result.get_results() == ["ada", "ada"]


async def test_what_a_thread_sets_nobody_else_sees() -> None:
    def become_in_thread(name: str) -> str:
        before = user.get()
        user.set(name)
        return before

    user.set("ada")
    result = await parallel_map(become_in_thread, ["x", "y", "z"], max_concurrent=1)
    assert result.get_results() == ["ada", "ada", "ada"]
    assert user.get() == "ada"


async def test_many_threads_at_once_each_have_a_copy() -> None:
    together = threading.Barrier(20, timeout=10)

    def meet(_: int) -> str:
        together.wait()
        return user.get()

    user.set("ada")
    result = await parallel_map(meet, range(20), max_concurrent=20)
    assert result.get_results() == ["ada"] * 20


async def test_an_awaitable_made_in_a_thread_sees_the_callers_context() -> None:
    user.set("ada")
    result = await parallel_gather(lambda: become("x"), lambda: who())
    assert result.get_results() == ["ada became x", "ada"]
    assert user.get() == "ada"


async def test_a_thread_sees_what_its_task_has_set() -> None:
    async def outer() -> list[str]:
        user.set("outer")
        threaded = await parallel_gather(who_in_thread)
        return threaded.get_results() + (await parallel_gather(who)).get_results()

    assert (await parallel_gather(outer)).get_results() == [["outer", "outer"]]
    assert user.get() == "nobody"


async def test_a_slot_from_another_run_brings_none_of_its_context() -> None:
    throttler = TaskThrottler(1)

    async def run_as(name: str) -> list[str]:
        user.set(name)
        names = [f"{name}{n}" for n in range(3)]
        return (await parallel_map(become, names, throttler=throttler)).get_results()

    async with asyncio.TaskGroup() as group:
        first, second = group.create_task(run_as("a")), group.create_task(run_as("b"))
    assert first.result() == ["a became a0", "a became a1", "a became a2"]
    assert second.result() == ["b became b0", "b became b1", "b became b2"]


async def test_a_slot_from_a_plain_holder_brings_none_of_its_context() -> None:
    throttler = TaskThrottler(1)

    async def hold() -> None:
        user.set("holder")
        async with throttler:
            await asyncio.sleep(1)

    async with asyncio.TaskGroup() as group:
        group.create_task(hold())
        await asyncio.sleep(0)
        user.set("ada")
        result = await parallel_gather(who, who, throttler=throttler)
    assert result.get_results() == ["ada", "ada"]


async def test_a_resize_brings_none_of_the_resizers_context() -> None:
    executor = ParallelExecutor(max_concurrent=1)

    async def widen() -> None:
        user.set("resizer")
        await asyncio.sleep(0.5)
        executor.throttler.resize(3)  # type: ignore[union-attr]

    user.set("ada")
    async with asyncio.TaskGroup() as group:
        group.create_task(widen())
        result = await executor.gather([lambda: become("x") for _ in range(3)])
    assert result.get_results() == ["ada became x"] * 3
    assert result.total_duration_ms == 1_500


async def test_what_a_lazy_source_sets_reaches_no_task() -> None:
    def names() -> Iterator[str]:
        for name in "xyz":
            user.set(f"source of {name}")
            yield name

    async def later() -> AsyncIterator[str]:
        for name in names():
            await asyncio.sleep(1)
            yield name

    user.set("ada")
    for source in (names(), later()):
        result = await parallel_map(become, source, max_concurrent=1)
        assert result.get_results() == ["ada became x", "ada became y", "ada became z"]
    assert user.get() == "ada"


async def test_a_reader_of_a_stream_and_its_tasks_keep_apart() -> None:
    user.set("ada")
    async with parallel_stream(become, ["x", "y", "z"], max_concurrent=1) as results:
        async for task in results:
            assert task.result == f"ada became {'xyz'[int(task.task_id)]}"
            assert user.get() == "ada"


async def test_each_attempt_of_a_retry_sees_the_callers_context() -> None:
    seen: list[str] = []

    async def fail_twice() -> str:
        seen.append(user.get())
        if len(seen) < 3:
            raise ConnectionError
        return user.get()

    user.set("ada")
    assert await fan_out([fail_twice], aggregation="first", retry_failed=True) == "ada"
    assert seen == ["ada", "ada", "ada"]


async def test_merge_fn_sees_the_callers_context() -> None:
    user.set("ada")
    executor = FanOutExecutor(aggregation="merge")

    async def merge(_: list[str]) -> str:
        return user.get()

    assert await executor.fan_out([who], merge_fn=merge) == "ada"
    assert await executor.fan_out([who], merge_fn=lambda _: user.get()) == "ada"


async def test_a_run_leaves_nothing_in_the_callers_context() -> None:
    await parallel_gather(who, timeout=5)
    assert remaining() is None
    async with parallel_stream(become, ["x", "y"], timeout=5) as results:
        async for _ in results:
            assert remaining() is None


async def test_a_task_that_an_abandoned_thread_held_up_sees_the_callers_context() -> None:
    release = threading.Event()

    def blocks_first(n: int) -> str:
        if n == 0:
            release.wait()
        return user.get()

    user.set("ada")
    asyncio.get_running_loop().call_later(0.25, release.set)
    result = await parallel_map(blocks_first, [0, 1], max_concurrent=1, task_timeout=0.01)

    assert result.results[0].abandoned
    assert result.results[1].result == "ada"
