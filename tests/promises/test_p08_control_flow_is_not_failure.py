"""P8: interrupts and commands of LangGraph are control flow: never retried, swallowed or a stop."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from langgraph.errors import (
    GraphBubbleUp,
    GraphInterrupt,
    NodeInterrupt,
    NodeTimeoutError,
    ParentCommand,
)
from langgraph.types import Command, Interrupt

from agentos_parallel import (
    FanOutExecutor,
    ParallelExecutor,
    TaskResult,
    TaskStatus,
    fan_out,
    parallel_gather,
    parallel_map,
    parallel_stream,
)
from tests.ways import WAYS, Factory, Results, Way, call, hang, now, read

COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED
TIMEOUT, CANCELLED = TaskStatus.TIMEOUT, TaskStatus.CANCELLED


class OurOwn(GraphBubbleUp):
    """Bubbles up, and is known by its base only."""


def interrupt(question: str = "which one?") -> GraphInterrupt:
    return GraphInterrupt([Interrupt(value=question, id=question)])


BUBBLES: list[GraphBubbleUp] = [
    interrupt(),
    ParentCommand(Command(goto="supervisor")),
    GraphBubbleUp("up"),
    OurOwn("up"),
]


async def after(seconds: float, value: Any = None) -> Any:
    await asyncio.sleep(seconds)
    return value


async def raise_after(seconds: float, error: BaseException) -> None:
    await asyncio.sleep(seconds)
    raise error


async def statuses(works: list[Factory], **settings: Any) -> tuple[list[TaskResult[Any]], Any]:
    """What a stream shows of the tasks before the control flow comes out."""
    seen: Results = []
    with pytest.raises(GraphBubbleUp) as caught:
        await read(ParallelExecutor(**settings).stream(works), seen)
    return sorted(seen, key=lambda task: int(task.task_id)), caught.value


@pytest.mark.parametrize("bubble", BUBBLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("run", WAYS)
async def test_p08_it_comes_out_as_it_was_when_the_others_have_settled(
    run: Way, bubble: GraphBubbleUp
) -> None:
    began, ended = now(), []

    async def other() -> None:
        await asyncio.sleep(3)
        ended.append(now())

    with pytest.raises(GraphBubbleUp) as caught:
        await run([other, partial(raise_after, 1, bubble), other])
    assert caught.value is bubble
    assert ended == [began + 3, began + 3]
    assert not hasattr(bubble, "__notes__")


async def test_p08_its_task_is_cancelled_with_the_exception_as_its_error() -> None:
    asks = interrupt()
    works: list[Factory] = [partial(after, 2, "a"), partial(raise_after, 1, asks), hang]
    tasks, _ = await statuses(works, task_timeout=5)
    assert [task.status for task in tasks] == [COMPLETED, CANCELLED, TIMEOUT]
    assert tasks[1].error is asks
    assert tasks[1].duration_ms == 1_000


@pytest.mark.parametrize("run", WAYS)
async def test_p08_the_first_in_input_order_comes_out(run: Way) -> None:
    first, second, third = interrupt("1"), interrupt("2"), interrupt("3")
    works = [
        partial(after, 1),
        partial(raise_after, 3, first),
        partial(raise_after, 1, second),
        partial(raise_after, 2, third),
    ]
    with pytest.raises(GraphInterrupt) as caught:
        await run(works)
    assert caught.value is first


@pytest.mark.parametrize("run", WAYS)
async def test_p08_it_stops_nothing_under_fail_fast(run: Way) -> None:
    began = now()
    with pytest.raises(GraphInterrupt):
        await run([partial(raise_after, 1, interrupt()), partial(after, 3)], fail_fast=True)
    assert now() - began == 3


async def test_p08_works_still_queued_start_after_it() -> None:
    works: list[Factory] = [partial(raise_after, 1, interrupt()), partial(after, 1, "queued")]
    tasks, _ = await statuses(works, max_concurrent=1, fail_fast=True)
    assert [task.result for task in tasks] == [None, "queued"]


async def test_p08_it_stops_nothing_under_a_quorum() -> None:
    works: list[Factory] = [partial(raise_after, 1, interrupt()), partial(after, 3, "b")]
    tasks, _ = await statuses(works, min_success=2)
    assert [task.status for task in tasks] == [CANCELLED, COMPLETED]


async def test_p08_a_failure_beside_it_is_not_what_comes_out() -> None:
    asks = interrupt()
    with pytest.raises(GraphInterrupt) as caught:
        await parallel_gather(partial(raise_after, 1, ValueError()), partial(raise_after, 2, asks))
    assert caught.value is asks


async def test_p08_where_a_failure_stops_the_run_it_still_comes_out() -> None:
    works = [
        partial(raise_after, 1, interrupt()),
        partial(raise_after, 2, ValueError()),
        partial(after, 9),
    ]
    began = now()
    with pytest.raises(GraphInterrupt):
        await parallel_gather(*works, fail_fast=True)
    assert now() - began == 2


@pytest.mark.parametrize("partial_", [True, False])
async def test_p08_a_deadline_does_not_swallow_it(partial_: bool) -> None:
    with pytest.raises(GraphInterrupt):
        await parallel_gather(
            partial(raise_after, 1, interrupt()), hang, timeout=5, return_partial=partial_
        )


async def test_p08_raised_in_the_drain_it_comes_out() -> None:
    async def asks_at_last() -> None:
        try:
            await hang()
        finally:
            raise interrupt()

    with pytest.raises(GraphInterrupt):
        await parallel_gather(asks_at_last, timeout=5)


async def test_p08_an_outer_cancel_is_honoured_all_the_same() -> None:
    task = asyncio.ensure_future(parallel_gather(partial(raise_after, 1, interrupt()), hang))
    await asyncio.sleep(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_p08_an_exit_goes_before_it() -> None:
    works = [partial(raise_after, 1, interrupt()), partial(raise_after, 2, KeyboardInterrupt())]
    with pytest.raises(KeyboardInterrupt):
        await parallel_gather(*works)


# Retries.


@pytest.mark.parametrize("bubble", BUBBLES, ids=lambda error: type(error).__name__)
async def test_p08_it_is_never_retried(bubble: GraphBubbleUp) -> None:
    calls = []

    async def work() -> None:
        calls.append(now())
        raise bubble

    with pytest.raises(GraphBubbleUp) as caught:
        await fan_out([work], retry_failed=True, max_retries=5)
    assert caught.value is bubble
    assert len(calls) == 1


async def test_p08_a_retry_before_it_counts() -> None:
    errors = [ValueError(), interrupt()]

    async def work() -> None:
        raise errors.pop(0)

    works: dict[str, Factory] = {"asks": work, "answers": partial(after, 1, "yes")}
    outcome = await FanOutExecutor(aggregation="first", retry_failed=True).run(works)
    assert outcome.gather.by_id["asks"].status is CANCELLED
    assert outcome.gather.by_id["asks"].retries == 1


# fan_out.


async def test_p08_in_a_race_a_success_wins() -> None:
    asks = interrupt()
    race = FanOutExecutor(aggregation="first")
    outcome = await race.run([partial(raise_after, 1, asks), partial(after, 2, "won")])
    assert (outcome.value, outcome.winner) == ("won", "1")
    assert outcome.gather.results[0].status is CANCELLED
    assert outcome.gather.results[0].error is asks
    assert outcome.gather.cancelled == 1


async def test_p08_in_a_race_a_success_wins_over_one_that_comes_in_the_drain() -> None:
    async def asks_at_last() -> None:
        try:
            await hang()
        finally:
            raise interrupt()

    assert await fan_out([asks_at_last, partial(after, 1, "won")], aggregation="first") == "won"


async def test_p08_in_a_race_that_nobody_won_the_first_comes_out() -> None:
    first, second = interrupt("1"), interrupt("2")
    works = [
        partial(raise_after, 1, ValueError()),
        partial(raise_after, 3, first),
        partial(raise_after, 2, second),
    ]
    for way in (
        FanOutExecutor(aggregation="first").run(works),
        fan_out(works, aggregation="first"),
    ):
        with pytest.raises(GraphInterrupt) as caught:
            await way
        assert caught.value is first
    assert not hasattr(first, "__notes__")


async def test_p08_it_comes_before_any_merge() -> None:
    merged: list[Any] = []
    works = [partial(after, 1, "a"), partial(raise_after, 2, interrupt())]
    with pytest.raises(GraphInterrupt):
        await fan_out(works, aggregation="merge", merge_fn=merged.append)
    assert merged == []


async def test_p08_out_of_merge_fn_it_comes_as_it_was() -> None:
    asks = interrupt()

    async def merge(values: list[Any]) -> None:
        raise asks

    with pytest.raises(GraphInterrupt) as caught:
        await fan_out([partial(after, 1)], aggregation="merge", merge_fn=merge)
    assert caught.value is asks


# From wherever it comes.


async def test_p08_from_a_thread() -> None:
    asks = interrupt()

    def work() -> None:
        raise asks

    with pytest.raises(GraphInterrupt) as caught:
        await parallel_gather(work, partial(after, 1))
    assert caught.value is asks


async def test_p08_from_a_nested_run_through_the_outer_one() -> None:
    asks, ended = interrupt(), []

    async def agent() -> None:
        await parallel_gather(partial(raise_after, 1, asks), partial(after, 2))

    async def other() -> None:
        await asyncio.sleep(5)
        ended.append(now())

    with pytest.raises(GraphInterrupt) as caught:
        await parallel_gather(agent, other, fail_fast=True)
    assert caught.value is asks
    assert len(ended) == 1


async def test_p08_from_the_source_it_is_not_wrapped() -> None:
    asks, ended = interrupt(), []

    async def source() -> AsyncIterator[float]:
        yield 3
        raise asks

    async def work(seconds: float) -> None:
        await asyncio.sleep(seconds)
        ended.append(now())

    with pytest.raises(GraphInterrupt) as caught:
        await parallel_map(work, source())
    assert caught.value is asks
    assert len(ended) == 1


async def test_p08_from_the_call_of_a_map() -> None:
    asks = interrupt()

    class Work:
        async def ainvoke(self, item: int) -> int:
            if item == 1:
                raise asks
            await asyncio.sleep(2)
            return item

    began = now()
    with pytest.raises(GraphInterrupt) as caught:
        await parallel_map(Work(), [0, 1, 2])
    assert caught.value is asks
    assert now() - began == 2


async def test_p08_a_stream_gives_all_results_first() -> None:
    seen: Results = []
    works: list[Factory] = [partial(raise_after, 1, interrupt()), *[partial(after, 2)] * 5]
    with pytest.raises(GraphInterrupt):
        await read(parallel_stream(call, works, max_concurrent=2, ordered=True), seen)
    assert [task.task_id for task in seen] == ["0", "1", "2", "3", "4", "5"]
    assert [task.status for task in seen] == [CANCELLED, *[COMPLETED] * 5]


async def test_p08_a_subclass_kept_for_older_graphs_counts() -> None:
    with pytest.warns(DeprecationWarning, match="NodeInterrupt"):
        asks = NodeInterrupt("which one?")
    with pytest.raises(GraphInterrupt) as caught:
        await parallel_gather(partial(raise_after, 1, asks))
    assert caught.value is asks


# What only looks like it.


def node_timeout() -> NodeTimeoutError:
    return NodeTimeoutError("search", 2.0, kind="run", run_timeout=1.0)


@pytest.mark.parametrize("run", WAYS)
async def test_p08_a_nodes_timeout_is_a_timeout_as_it_was(run: Way) -> None:
    error = node_timeout()
    results = await run([partial(raise_after, 1, error), partial(after, 2)])
    assert [task.status for task in results] == [TIMEOUT, COMPLETED]
    assert results[0].error is error


async def test_p08_a_nodes_timeout_counts_for_fail_fast() -> None:
    result = await parallel_gather(partial(raise_after, 1, node_timeout()), hang, fail_fast=True)
    assert [task.status for task in result.results] == [TIMEOUT, CANCELLED]
    assert (result.timed_out, result.failed) == (1, 0)


async def test_p08_a_nodes_timeout_is_retried() -> None:
    errors = [node_timeout()]

    async def work() -> str:
        if errors:
            raise errors.pop()
        return "answer"

    result = await fan_out([work], retry_failed=True)
    assert result.results[0].result == "answer"
    assert result.results[0].retries == 1
