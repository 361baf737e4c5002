"""RunnableGather, RunnableFanOut and RunnableParallelMap, and RunnableParallel as a control."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import (
    Runnable,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
)
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from agentos_parallel import (
    DeadlineExceeded,
    FanOutError,
    GatherResult,
    PartialResultWarning,
    RunnableFanOut,
    RunnableGather,
    RunnableParallelMap,
    TaskTimeout,
)
from tests.adapters.contract import (
    COUNT,
    Counted,
    ParallelContract,
    RunnableContract,
    graph_of,
    used,
)
from tests.adapters.parts import Recorder, alambda, graph, says
from tests.pieces import alive, now, settle
from tests.ways import hang

NAMES = [f"b{n}" for n in range(COUNT)]


@pytest.mark.leaky  # where one branch fails the others run on, detached
class TestRunnableParallel(RunnableContract):
    """The control."""

    def make(self, child: Any, **settings: Any) -> Runnable[Any, Any]:
        return RunnableParallel(dict.fromkeys(NAMES, child))

    def outputs(self, output: Any) -> list[Any]:
        return [output[name] for name in NAMES]


class TestRunnableGather(ParallelContract):
    def make(self, child: Any, **settings: Any) -> Runnable[Any, Any]:
        return RunnableGather(dict.fromkeys(NAMES, child), **settings)

    def outputs(self, output: Any) -> list[Any]:
        return [output[name] for name in NAMES]


class TestRunnableGatherOfAList(ParallelContract):
    def make(self, child: Any, **settings: Any) -> Runnable[Any, Any]:
        return RunnableGather([child] * COUNT, **settings)

    def outputs(self, output: Any) -> list[Any]:
        assert isinstance(output, list)
        return output


class TestRunnableParallelMap(ParallelContract):
    given = ["x"] * COUNT

    def make(self, child: Any, **settings: Any) -> Runnable[Any, Any]:
        return RunnableParallelMap(child, **settings)

    def outputs(self, output: Any) -> list[Any]:
        assert isinstance(output, list)
        return output


class TestRunnableFanOut(ParallelContract):
    streams = False

    def make(self, child: Any, **settings: Any) -> Runnable[Any, Any]:
        return RunnableFanOut([child] * COUNT, **settings)

    def outputs(self, output: Any) -> list[Any]:
        results: list[Any] = output.get_results()
        return results

    def failing(self, child: Any, **settings: Any) -> Runnable[Any, Any]:
        return RunnableFanOut([child] * COUNT, aggregation="first", **settings)


# Branches.


async def test_functions_and_dicts_are_branches_too() -> None:
    both = RunnableGather({"loud": str.upper, "more": {"long": len, "title": str.title}})
    expected = {"loud": "HEAR", "more": {"long": 4, "title": "Hear"}}

    assert both.invoke("hear") == await both.ainvoke("hear") == expected


@pytest.mark.parametrize("empty", [{}, []])
async def test_no_branches(empty: Any) -> None:
    gather = RunnableGather(empty)
    assert gather.invoke("x") == await gather.ainvoke("x") == empty
    assert list(gather.stream("x")) == []


@pytest.mark.parametrize(
    ("branches", "text"),
    [
        (7, "branches must be a dict or a list of Runnables, got 7"),
        ("ab", "branches must be a dict or a list of Runnables, got 'ab'"),
        ({"a": 7}, r"branches\['a'\] must be a Runnable, a function or a dict of them, got 7"),
        ([str, None], r"branches\[1\] must be a Runnable, a function or a dict of them, got None"),
        ({1: str}, "the names of branches must be texts, got 1"),
    ],
)
@pytest.mark.parametrize("kind", [RunnableGather, RunnableFanOut])
def test_a_bad_branch_is_named(kind: Any, branches: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        kind(branches)


async def test_a_coroutine_in_place_of_a_branch_is_refused_and_closed() -> None:
    for kind, given in (
        (RunnableGather, list),
        (RunnableFanOut, list),
        (RunnableParallelMap, None),
    ):
        coroutine: Any = hang()
        make: Any = kind
        with pytest.raises(TypeError, match="must be a Runnable"):
            make([coroutine] if given else coroutine)
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def test_names() -> None:
    assert RunnableGather({"a": str, "b": str}).get_name() == "RunnableGather<a,b>"
    assert RunnableFanOut([str, str]).get_name() == "RunnableFanOut<0,1>"
    assert RunnableParallelMap(RunnableLambda(str, name="it")).get_name() == (
        "RunnableParallelMap<it>"
    )
    assert RunnableGather({"a": str}, name="mine").get_name() == "mine"


async def test_a_map_takes_a_list_alone() -> None:
    each = RunnableParallelMap(str.upper)
    assert await each.ainvoke(("a", "b")) == ["A", "B"]
    for given in ("ab", 7, {"a": 1}, None):
        with pytest.raises(TypeError, match="takes a list, got"):
            await each.ainvoke(given)


async def test_a_map_gives_outputs_in_order_however_they_come() -> None:
    async def wait(seconds: int) -> int:
        await asyncio.sleep(seconds)
        return seconds

    assert await RunnableParallelMap(alambda(wait)).ainvoke([3, 1, 2]) == [3, 1, 2]  # type: ignore[arg-type]  # numbers


async def test_limits_by_the_name_of_the_branch() -> None:
    async def wait(_: str) -> str:
        await asyncio.sleep(5)
        return "done"

    gather = RunnableGather(
        {"quick": alambda(wait), "slow": alambda(wait)},
        task_timeout=lambda name: 2 if name == "quick" else None,
        on_error="return",
    )
    output = await gather.ainvoke("x")
    assert isinstance(output["quick"], TaskTimeout)
    assert output["slow"] == "done"


# What fails.


async def test_the_first_failure_cancels_the_others_and_drains_them() -> None:
    cancelled = []

    async def wait(text: str) -> None:
        try:
            await hang()
        except asyncio.CancelledError:
            await asyncio.sleep(1)
            cancelled.append(text)
            raise

    async def fail(text: str) -> None:
        await asyncio.sleep(2)
        raise ValueError(text)

    start = now()
    with pytest.raises(ValueError, match="x"):
        await RunnableGather([alambda(wait), alambda(fail), alambda(wait)]).ainvoke("x")
    assert cancelled == ["x", "x"]
    assert now() - start == pytest.approx(3)
    assert not alive()


async def test_the_first_in_time_comes_out() -> None:
    async def fail(seconds: float, _: str) -> None:
        await asyncio.sleep(seconds)
        raise ValueError(f"after {seconds}")

    late, soon = (alambda(partial(fail, seconds)) for seconds in (3, 1))
    with pytest.raises(ValueError, match="after 1"):
        await RunnableGather([late, soon]).ainvoke("x")


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_exceptions_may_stand_in_the_place_of_outputs(way: str) -> None:
    def cancels(text: str) -> str:
        raise asyncio.CancelledError("myself")

    branches = {"good": str.upper, "bad": int, "gone": cancels}
    output = await used(RunnableGather(branches, on_error="return"), way, "x")

    assert output["good"] == "X"
    assert isinstance(output["bad"], ValueError)
    assert isinstance(output["gone"], asyncio.CancelledError)


async def test_a_branch_that_cancels_itself_cancels_nobody_and_comes_out() -> None:
    done = []

    async def cancels(text: str) -> None:
        raise asyncio.CancelledError("myself")

    async def works(text: str) -> None:
        await asyncio.sleep(1)
        done.append(text)

    with pytest.raises(asyncio.CancelledError, match="myself"):
        await RunnableGather([alambda(cancels), alambda(works)]).ainvoke("x")
    assert done == ["x"]


@pytest.mark.parametrize("on_error", ["raise", "return"])
async def test_a_deadline_keeps_what_has_finished(on_error: Any) -> None:
    async def wait(text: str) -> None:
        await hang()

    gather = RunnableGather([str.upper, alambda(wait)], timeout=2, on_error=on_error)
    if on_error == "return":
        output = await gather.ainvoke("x")
        assert output[0] == "X"
        assert isinstance(output[1], DeadlineExceeded)
        return
    with pytest.raises(DeadlineExceeded) as caught:
        await gather.ainvoke("x")
    assert caught.value.result is not None
    assert caught.value.result.get_results() == ["X"]


async def test_a_task_timeout_that_comes_out_has_what_has_finished() -> None:
    async def wait(text: str) -> None:
        await hang()

    with pytest.raises(TaskTimeout) as caught:
        await RunnableGather([str.upper, alambda(wait)], task_timeout=2).ainvoke("x")
    assert caught.value.result is not None
    assert caught.value.result.get_results() == ["X"]


def test_on_error_is_one_of_two() -> None:
    unknown: Any = "ignore"
    with pytest.raises(ValueError, match='on_error must be "raise" or "return", got \'ignore\''):
        RunnableGather([str], on_error=unknown)


# Parts.


def spelled(texts: Iterator[str]) -> Iterator[str]:
    for text in texts:
        yield from text


async def aspelled(texts: AsyncIterator[str]) -> AsyncIterator[str]:
    async for text in texts:
        for letter in text:
            await asyncio.sleep(1)
            yield letter


SPELLED = RunnableGenerator(spelled, aspelled)


async def test_parts_come_when_they_are_there() -> None:
    async def slow(text: str) -> str:
        await asyncio.sleep(2.5)
        return text

    gather = RunnableGather({"letters": SPELLED, "slow": alambda(slow)})
    parts = [(now(), part) async for part in gather.astream("abc")]

    start = parts[0][0] - 1
    assert [(at - start, part) for at, part in parts] == [
        (1, {"letters": "a"}),
        (2, {"letters": "b"}),
        (2.5, {"slow": "abc"}),
        (3, {"letters": "c"}),
    ]


@pytest.mark.parametrize("way", ["stream", "astream"])
@pytest.mark.parametrize("key", [0, "a"])
async def test_parts_add_up(way: str, key: Any) -> None:
    gather = RunnableGather([SPELLED] if key == 0 else {"a": SPELLED})
    parts = await used(gather, way, "abc")
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    assert total == {key: "abc"}


async def test_a_map_gives_parts_by_position() -> None:
    parts = [part async for part in RunnableParallelMap(SPELLED).astream(["a", "bc"])]
    assert parts == [{0: "a"}, {1: "b"}, {1: "c"}]


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_exceptions_are_parts_too(way: str) -> None:
    gather = RunnableGather({"good": SPELLED, "bad": int}, on_error="return")
    parts = await used(gather, way, "ab")
    assert [part["good"] for part in parts if "good" in part] == ["a", "b"]
    assert [type(part["bad"]) for part in parts if "bad" in part] == [ValueError]


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_a_failure_ends_the_parts(way: str) -> None:
    def fail(text: str) -> str:
        raise ValueError(text)

    with pytest.raises(ValueError, match="ab"):
        await used(RunnableGather({"good": SPELLED, "bad": fail}), way, "ab")


async def test_a_slow_reader_holds_up_what_gives_parts() -> None:
    given = []

    async def endless(texts: AsyncIterator[str]) -> AsyncIterator[str]:
        async for text in texts:
            for _ in range(1_000):
                given.append(text)
                yield text

    stream: Any = RunnableGather([RunnableGenerator(endless)]).astream("x")
    await anext(stream)
    await asyncio.sleep(1)
    assert 60 < len(given) < 80
    await stream.aclose()
    await settle()


@pytest.mark.realtime
def test_a_sync_stream_left_early_ends_its_threads_at_their_next_part() -> None:
    ended = threading.Event()

    def endless(texts: Iterator[str]) -> Iterator[str]:
        try:
            for text in texts:
                while True:
                    yield text
        finally:
            ended.set()

    stream: Any = RunnableGather([RunnableGenerator(endless)]).stream("x")
    assert next(stream) == {0: "x"}
    stream.close()
    assert ended.wait(5)


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_async_only_parts_that_nobody_sees_are_streamed_async(way: str) -> None:
    async def up(text: str) -> str:
        return text.upper()

    hidden = RunnableLambda(lambda _: alambda(up))  # gives a Runnable, which is called in its place
    assert await used(RunnableGather({"a": hidden}), way, "x") == [{"a": "X"}]


# One value.


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_all_gives_the_whole_run(way: str) -> None:
    result = await used(RunnableFanOut({"good": str.upper, "bad": int}), way, "x")
    assert isinstance(result, GatherResult)
    assert [task.task_id for task in result.results] == ["good", "bad"]
    assert (result.completed, result.failed) == (1, 1)


async def test_the_first_wins_and_the_losers_are_cancelled() -> None:
    trace, cancelled = Recorder(), []

    async def slow(text: str) -> None:
        try:
            await hang()
        except asyncio.CancelledError:
            cancelled.append(text)
            raise

    async def quick(text: str) -> str:
        await asyncio.sleep(1)
        return text.upper()

    race = RunnableFanOut({"slow": alambda(slow), "quick": alambda(quick)}, aggregation="first")
    config: Any = {"callbacks": [trace]}
    assert await race.ainvoke("x", config) == "X"
    assert cancelled == ["x"]
    assert all(len(trace.ends_of(run)) == 1 for run in trace.names)


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
@pytest.mark.parametrize("merge", [" ".join, RunnableLambda(" ".join)])
async def test_a_merge(way: str, merge: Any) -> None:
    both = RunnableFanOut([str.upper, str.lower], aggregation="merge", merge_fn=merge)
    assert await used(both, way, "Ab") == "AB ab"


async def test_a_merge_by_a_runnable_is_a_child() -> None:
    trace = Recorder()
    merge = RunnableLambda(" ".join).with_config(run_name="merge")
    both = RunnableFanOut([str.upper], aggregation="merge", merge_fn=merge)
    await both.ainvoke("x", {"callbacks": [trace], "run_name": "whole"})
    assert trace.parent(trace.named("merge")[0]) == "whole"


async def test_a_merge_past_failures_warns() -> None:
    both = RunnableFanOut([str.upper, int], aggregation="merge", merge_fn=" ".join)
    with pytest.warns(PartialResultWarning, match="merged 1 of 2"):
        assert await both.ainvoke("x") == "X"


async def test_a_merge_of_nothing_fails() -> None:
    both = RunnableFanOut([int], aggregation="merge", merge_fn=" ".join)
    with pytest.raises(FanOutError, match="0 of 1 tasks succeeded, 1 needed"):
        await both.ainvoke("x")


async def test_a_quorum() -> None:
    async def wait(text: str) -> None:
        await hang()

    result = await RunnableFanOut([str.upper, str.lower, alambda(wait)], min_success=2).ainvoke("x")
    assert (result.completed, result.cancelled) == (2, 1)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"aggregation": "most"}, 'aggregation must be one of "all", "first", "merge"'),
        ({"aggregation": "merge"}, 'aggregation="merge" needs merge_fn='),
        ({"merge_fn": len}, 'merge_fn= belongs to aggregation="merge"'),
        ({"min_success": 0}, "min_success must be >= 1"),
        ({"aggregation": "first", "min_success": 1}, "exclude each other"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        RunnableFanOut([str], **settings)


# In graphs.


def asks(name: str) -> Any:
    """A graph that asks a human, and repeats the answer."""
    return graph(lambda _: {"messages": [("ai", f"{name}: {interrupt(f'{name}?')}")]})


def said(output: Any) -> str:
    return str(output["messages"][-1].text)


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_every_question_is_heard_and_each_answer_goes_to_its_asker(way: str) -> None:
    branches = [asks("a") | RunnableLambda(said), asks("b") | asks("c") | RunnableLambda(said)]
    node: Any = (
        RunnableLambda(lambda _: {"messages": [HumanMessage("go")]})
        | RunnableGather(branches)
        | (lambda outputs: {"answers": outputs})
    )
    app: Any = graph_of(node, checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}

    state = await used(app, way, {"answers": []}, config)
    asked = {each.value: each.id for each in state["__interrupt__"]}
    assert list(asked) == ["a?", "b?"]
    answers: Any = {asked["a?"]: "A", asked["b?"]: "B"}
    state = await used(app, way, Command(resume=answers), config)
    assert [each.value for each in state["__interrupt__"]] == ["c?"]
    state = await used(app, way, Command(resume="C"), config)
    assert state["answers"] == ["a: A", "c: C"]


async def test_a_nested_one_lends_its_slots() -> None:
    counted = Counted()
    inner = RunnableGather([counted.runnable] * 2, max_concurrent=1)
    outer = RunnableGather([inner] * 2, max_concurrent=1)
    assert await outer.ainvoke("x") == [["X", "X"]] * 2
    assert counted.peak == 1


async def test_a_chat_model_streams_through_it() -> None:
    model = says("hello there")
    parts = [part async for part in RunnableGather({"model": model}).astream("x")]
    assert "".join(part["model"].text for part in parts) == "hello there"
