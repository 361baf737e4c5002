"""What a Runnable over several others promises: one class of tests for all of them.

``RunnableContract`` is what LangChain's RunnableParallel promises as well, which it is run against
as a control; ``ParallelContract`` is what only ours do.
"""

import asyncio
import copy
import operator
import threading
import time
from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from langchain_core.runnables import (
    ConfigurableField,
    Runnable,
    RunnableConfig,
    RunnableGenerator,
    RunnableLambda,
)
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

from agentos_parallel import DeadlineExceeded, TaskThrottler, TaskTimeout
from tests.adapters.parts import Recorder, alambda, says
from tests.pieces import alive, now, settle
from tests.ways import hang

WAYS = ["invoke", "ainvoke", "stream", "astream"]
COUNT = 3


class Counted:
    """The body of a child that is sync and async; knows how many are at work."""

    def __init__(self) -> None:
        self.active = self.peak = self.calls = 0
        self._lock = threading.Lock()

    def sync(self, text: str) -> str:
        with self._lock:
            self._begins()
        time.sleep(0.15)
        with self._lock:
            self.active -= 1
        return text.upper()

    async def asynchronous(self, text: str) -> str:
        self._begins()
        try:
            await asyncio.sleep(1)
        finally:
            self.active -= 1
        return text.upper()

    def _begins(self) -> None:
        self.calls += 1
        self.active += 1
        self.peak = max(self.peak, self.active)

    @property
    def runnable(self) -> RunnableLambda[str, str]:
        return RunnableLambda(self.sync, self.asynchronous)


async def used(runnable: Runnable[Any, Any], way: str, given: Any, config: Any = None) -> Any:
    """Call it in one of four ways; gives the output, or the list of parts."""
    if way == "invoke":
        return await asyncio.to_thread(runnable.invoke, given, config)
    if way == "stream":
        return await asyncio.to_thread(lambda: list(runnable.stream(given, config)))
    if way == "ainvoke":
        return await runnable.ainvoke(given, config)
    return [part async for part in runnable.astream(given, config)]


class RunnableContract:
    """Of a Runnable that runs a child several times at once."""

    given: Any = "x"

    @abstractmethod
    def make(self, child: Any, **settings: Any) -> Runnable[Any, Any]:
        """The Runnable, over COUNT of *child*."""

    @abstractmethod
    def outputs(self, output: Any) -> list[Any]:
        """The outputs of the children in *output*."""

    def failing(self, child: Any, **settings: Any) -> Runnable[Any, Any]:
        """One that raises when *child* fails."""
        return self.make(child, **settings)

    # What comes out.

    @pytest.mark.parametrize("way", ["invoke", "ainvoke"])
    async def test_every_child_gives_its_output(self, way: str) -> None:
        output = await used(self.make(RunnableLambda(str.upper)), way, self.given)
        assert self.outputs(output) == ["X"] * COUNT

    @pytest.mark.parametrize("way", ["invoke", "ainvoke"])
    async def test_in_a_chain(self, way: str) -> None:
        chain = RunnableLambda(lambda _: self.given) | self.make(str.upper) | self.outputs
        assert await used(chain, way, "start") == ["X"] * COUNT

    @pytest.mark.parametrize("way", ["stream", "astream"])
    async def test_in_a_chain_that_streams_what_follows_gets_the_same(self, way: str) -> None:
        chain = RunnableLambda(lambda _: self.given) | self.make(str.upper) | self.outputs
        assert await used(chain, way, "start") == [["X"] * COUNT]

    @pytest.mark.parametrize("way", WAYS)
    async def test_a_failure_comes_out_as_it_was(self, way: str) -> None:
        error = ValueError("no")

        def fail(text: str) -> str:
            raise error

        with pytest.raises(ValueError, match="no") as caught:
            await used(self.failing(fail), way, self.given)
        assert caught.value is error

    # What children are called with.

    @pytest.mark.parametrize("way", WAYS)
    async def test_config_reaches_the_children(self, way: str) -> None:
        seen: list[RunnableConfig] = []

        def note(text: str, config: RunnableConfig) -> str:
            seen.append(config)
            return text

        config = {"tags": ["t"], "metadata": {"m": 1}, "configurable": {"c": 2}}
        await used(self.make(RunnableLambda(note)), way, self.given, config)

        assert len(seen) == COUNT
        for each in seen:
            assert "t" in each["tags"]
            assert each["metadata"]["m"] == 1
            assert each["configurable"]["c"] == 2

    @pytest.mark.parametrize("way", WAYS)
    async def test_the_trace_is_a_tree(self, way: str) -> None:
        trace = Recorder()
        child = RunnableLambda(str.upper).with_config(run_name="child")
        config = {"callbacks": [trace], "run_name": "whole"}
        await used(self.make(child), way, self.given, config)

        assert trace.tree() == ["chain whole: end", *["  chain child: end"] * COUNT]

    @pytest.mark.parametrize("way", ["invoke", "stream"])
    async def test_the_limit_of_the_config_holds(self, way: str) -> None:
        counted = Counted()
        await used(self.make(counted.runnable), way, self.given, {"max_concurrency": 2})
        assert (counted.peak, counted.calls) == (2, COUNT)

    # What LangChain makes of a Runnable.

    async def test_batch_and_abatch(self) -> None:
        runnable = self.make(str.upper)
        assert list(map(self.outputs, runnable.batch([self.given] * 2))) == [["X"] * COUNT] * 2
        outputs = await runnable.abatch([self.given] * 2)
        assert list(map(self.outputs, outputs)) == [["X"] * COUNT] * 2

    async def test_a_batch_may_give_exceptions_back(self) -> None:
        runnable = self.failing(int)
        for outputs in (
            runnable.batch([self.given] * 2, return_exceptions=True),
            await runnable.abatch([self.given] * 2, return_exceptions=True),
        ):
            assert [type(each) for each in outputs] == [ValueError, ValueError]

    async def test_batches_as_they_come(self) -> None:
        runnable = self.make(str.upper)
        batch = sorted(runnable.batch_as_completed([self.given] * 2))
        abatch = sorted([each async for each in runnable.abatch_as_completed([self.given] * 2)])
        for each in (batch, abatch):
            assert [(i, self.outputs(o)) for i, o in each] == [(n, ["X"] * COUNT) for n in (0, 1)]

    def test_an_empty_batch(self) -> None:
        runnable = self.make(str.upper)
        assert runnable.batch([]) == list(runnable.batch_as_completed([])) == []

    def test_a_bound_config(self) -> None:
        trace = Recorder()
        bound = self.make(str.upper).with_config(callbacks=[trace], run_name="bound")
        assert self.outputs(bound.invoke(self.given)) == ["X"] * COUNT
        assert trace.tree()[0] == "chain bound: end"

    async def test_with_retry(self) -> None:
        calls = []

        def second_time(text: str) -> str:
            calls.append(text)
            if len(calls) <= COUNT:
                raise ConnectionError("no")
            return text.upper()

        retried = self.failing(second_time).with_retry(wait_exponential_jitter=False)
        assert "X" in str(await retried.ainvoke(self.given))
        assert len(calls) > COUNT

    @pytest.mark.parametrize("way", ["invoke", "ainvoke"])
    async def test_with_fallbacks(self, way: str) -> None:
        fallen = self.failing(int).with_fallbacks([RunnableLambda(lambda _: "else")])
        assert await used(fallen, way, self.given) == "else"

    def test_types_given_by_hand(self) -> None:
        typed = self.make(str.upper).with_types(input_type=str)
        assert typed.get_input_jsonschema()["type"] == "string"

    def test_schemas(self) -> None:
        runnable = self.make(str.upper)
        assert runnable.get_input_jsonschema()
        assert runnable.get_output_jsonschema()
        assert runnable.InputType is not None
        assert runnable.OutputType is not None

    def test_what_children_are_configurable_by(self) -> None:
        model: Any = says("hello").configurable_fields(script=ConfigurableField("script"))
        assert [spec.id for spec in self.make(model).config_specs] == ["script"]

    def test_the_graph_shows_the_children(self) -> None:
        graph = self.make(RunnableLambda(str.upper, name="child")).get_graph()
        names = [node.name for node in graph.nodes.values()]
        assert "child" in names
        assert graph.first_node() is not None
        assert graph.last_node() is not None

    def test_a_deep_copy_does_the_same(self) -> None:
        copied = copy.deepcopy(self.make(str.upper))
        assert self.outputs(copied.invoke(self.given)) == ["X"] * COUNT

    @pytest.mark.filterwarnings("ignore:This API is in beta")
    def test_as_a_tool(self) -> None:
        tool = (RunnableLambda(lambda given: given["it"]) | self.make(str.upper)).as_tool(
            name="it", description="Does it.", arg_types={"it": type(self.given)}
        )
        assert self.outputs(tool.invoke({"it": self.given})) == ["X"] * COUNT

    async def test_events_start_and_end_in_pairs(self) -> None:
        child = RunnableLambda(str.upper).with_config(run_name="child")
        events = [e async for e in self.make(child).astream_events(self.given, version="v2")]
        assert pairs(events) == [("on_chain_start", COUNT + 1), ("on_chain_end", COUNT + 1)]

    # Cancels and exits.

    async def test_an_outer_cancel_reaches_the_children_and_comes_out(self) -> None:
        cancelled = []

        async def wait(text: str) -> None:
            try:
                await hang()
            except asyncio.CancelledError:
                cancelled.append(text)
                raise

        task = asyncio.create_task(self.make(alambda(wait)).ainvoke(self.given))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cancelled == ["x"] * COUNT
        assert not alive()

    # In graphs.

    @pytest.mark.parametrize("way", ["invoke", "ainvoke"])
    async def test_as_a_node(self, way: str) -> None:
        node = RunnableLambda(lambda _: self.given) | self.make(str.upper) | answer_of(self)
        assert (await used(graph_of(node), way, {"answers": []}))["answers"] == ["X"] * COUNT

    @pytest.mark.parametrize("way", ["invoke", "ainvoke"])
    async def test_as_what_is_sent_to(self, way: str) -> None:
        builder: Any = StateGraph(State)
        node = RunnableLambda(lambda _: self.given) | self.make(str.upper) | answer_of(self)
        builder.add_node("node", node)
        builder.add_conditional_edges(START, lambda _: [Send("node", {}), Send("node", {})])
        builder.add_edge("node", END)
        state = await used(builder.compile(), way, {"answers": []})
        assert state["answers"] == ["X"] * COUNT * 2


class ParallelContract(RunnableContract):
    """What ours promise beyond that."""

    # Limits.

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize(
        ("ours", "configs", "peak"), [(2, None, 2), (2, 9, 2), (9, 2, 2), (None, None, COUNT)]
    )
    async def test_the_smaller_limit_holds(
        self, way: str, ours: int | None, configs: int | None, peak: int
    ) -> None:
        counted = Counted()
        config: Any = {} if configs is None else {"max_concurrency": configs}
        await used(self.make(counted.runnable, max_concurrent=ours), way, self.given, config)
        assert (counted.peak, counted.calls) == (peak, COUNT)

    @pytest.mark.parametrize("way", WAYS)
    async def test_a_shared_throttler_holds_over_calls(self, way: str) -> None:
        counted = Counted()
        runnable = self.make(counted.runnable, throttler=TaskThrottler(2))
        await asyncio.gather(*(used(runnable, way, self.given) for _ in range(3)))
        assert (counted.peak, counted.calls) == (2, COUNT * 3)

    @pytest.mark.parametrize("way", WAYS)
    async def test_no_deadline_unless_one_is_given(self, way: str) -> None:
        assert self.make(str.upper).timeout is None  # type: ignore[attr-defined]  # a field of ours

    @pytest.mark.parametrize("way", ["ainvoke", "astream"])
    async def test_one_limit_of_time_for_each_child_and_one_for_all(self, way: str) -> None:
        async def slow(text: str) -> str:
            await asyncio.sleep(5)
            return text

        for settings, error, seconds in (
            ({"task_timeout": 2}, TaskTimeout, 2),
            ({"timeout": 3}, DeadlineExceeded, 3),
        ):
            start = now()
            raised = await self.raised(self.failing(alambda(slow), **settings), way)
            assert isinstance(raised, error)
            assert now() - start == seconds
            assert not alive()

    @pytest.mark.parametrize("way", ["invoke", "stream"])
    @pytest.mark.leaky
    async def test_a_sync_child_that_hangs_holds_nobody_up(self, way: str) -> None:
        release = threading.Event()

        def hangs(text: str) -> str:
            release.wait(9)
            return text

        start = time.monotonic()
        try:
            raised = await self.raised(self.failing(hangs, task_timeout=0.05), way)
        finally:
            release.set()
        assert isinstance(raised, TaskTimeout)
        assert time.monotonic() - start < 5

    async def raised(self, runnable: Any, way: str) -> BaseException | None:
        """What a call raises that did not get all outputs."""
        try:
            await used(runnable, way, self.given)
        except Exception as error:
            return error
        return None

    @pytest.mark.parametrize("field", ["max_concurrency", "max_workers"])
    def test_an_unknown_field_is_refused(self, field: str) -> None:
        with pytest.raises(TypeError, match=f"does not know {field}="):
            self.make(str.upper, **{field: 2})

    @pytest.mark.parametrize(
        ("settings", "text"),
        [
            ({"max_concurrent": 0}, "max_concurrent must be >= 1, got 0"),
            ({"timeout": -1}, "timeout must be a number of seconds > 0"),
            ({"task_timeout": 0}, "task_timeout must be a number of seconds > 0"),
            ({"grace": -1}, "grace must be a number of seconds >= 0"),
            ({"throttler": 3}, "throttler must be a TaskThrottler"),
        ],
    )
    def test_a_bad_field_is_refused_by_name(self, settings: Any, text: str) -> None:
        with pytest.raises((TypeError, ValueError), match=text):
            self.make(str.upper, **settings)

    async def test_a_field_can_be_configured(self) -> None:
        counted = Counted()
        made: Any = self.make(counted.runnable)
        runnable = made.configurable_fields(max_concurrent=ConfigurableField("limit"))
        await runnable.ainvoke(self.given, {"configurable": {"limit": 1}})
        assert (counted.peak, counted.calls) == (1, COUNT)

    async def test_what_is_bound_reaches_the_children(self) -> None:
        def repeat(text: str, times: int = 1) -> str:
            return text * times

        bound = self.make(RunnableLambda(repeat)).bind(times=2)
        assert self.outputs(await bound.ainvoke(self.given)) == ["xx"] * COUNT
        assert self.outputs(bound.invoke(self.given)) == ["xx"] * COUNT

    def test_a_deep_copy_shares_the_throttler(self) -> None:
        throttler = TaskThrottler(2)
        copied: Any = copy.deepcopy(self.make(str.upper, throttler=throttler))
        assert copied.throttler is throttler

    # The trace.

    async def test_each_child_is_tagged_with_its_task(self) -> None:
        trace = Recorder()
        child = RunnableLambda(str.upper).with_config(run_name="child")
        await self.make(child).ainvoke(self.given, {"callbacks": [trace]})

        tags = [tag for run in trace.named("child") for tag in trace.tags[run]]
        assert len(set(tags)) == COUNT
        assert all(tag.startswith("task:") for tag in tags)

    async def test_a_child_keeps_its_own_name_below_an_agent(self) -> None:
        seen: list[Any] = []

        def note(text: str, config: RunnableConfig) -> str:
            seen.append(config["metadata"])
            return text

        config: Any = {"metadata": {"lc_agent_name": "caller", "m": 1}}
        await self.make(note).ainvoke(self.given, config)
        assert [(each.get("lc_agent_name"), each["m"]) for each in seen] == [(None, 1)] * COUNT

    @pytest.mark.parametrize("way", WAYS)
    async def test_what_fails_is_closed_in_the_trace(self, way: str) -> None:
        trace = Recorder()
        # LangChain drops what a handler in its pool has not begun when a child is cancelled.
        trace.run_inline = True

        async def fail(text: str) -> str:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await used(self.failing(alambda(fail)), way, self.given, {"callbacks": [trace]})
        assert all(len(trace.ends_of(run)) == 1 for run in trace.names)

    @pytest.mark.parametrize("settings", [{"task_timeout": 2}, {"timeout": 2}, {}])
    async def test_events_are_paired_when_it_is_cut_short(self, settings: Any) -> None:
        async def model(text: str) -> None:
            await hang()

        trace, child = Recorder(), alambda(model).with_config(run_name="child")
        config: Any = {"callbacks": [trace]}
        task = asyncio.create_task(self.make(child, **settings).ainvoke(self.given, config))
        await asyncio.sleep(1)
        if not settings:
            task.cancel()
        await asyncio.wait({task})
        task.cancelled() or task.exception()

        assert len(trace.named("child")) == COUNT
        assert all(len(trace.ends_of(run)) == 1 for run in trace.names)

    # Cancels and exits.

    streams = True

    async def test_leaving_the_stream_early_cancels_the_rest(self) -> None:
        if not self.streams:
            pytest.skip("it gives one value, and not in parts")
        closed = []

        async def endless(texts: AsyncIterator[str]) -> AsyncIterator[str]:
            text = "".join([text async for text in texts])
            try:
                while True:
                    yield text
                    await asyncio.sleep(1)
            finally:
                closed.append(text)

        stream: Any = self.make(RunnableGenerator(endless)).astream(self.given)
        await anext(stream)
        await stream.aclose()
        await settle()  # LangChain's own generators around the child's are closed by the loop
        assert closed == ["x"] * COUNT
        assert not alive()

    @pytest.mark.parametrize("retried", [False, True])
    async def test_abatch_swallows_no_cancel(self, retried: bool) -> None:
        runnable = self.make(alambda(lambda _: hang()))
        if retried:
            runnable = runnable.with_retry()
        batch = runnable.abatch([self.given], return_exceptions=True)
        task = asyncio.create_task(batch)
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not alive()

    async def test_in_a_batch_each_input_is_retried_by_itself(self) -> None:
        tried: list[str] = []

        async def second_time(text: str) -> str:
            tried.append(text)
            if len(tried) == 1:
                raise ConnectionError("no")
            return text.upper()

        retried = self.failing(alambda(second_time)).with_retry(wait_exponential_jitter=False)
        config: Any = {"max_concurrency": 1}
        assert "X" in str(await retried.abatch([self.given], config))
        tried.clear()
        assert "X" in str(retried.batch([self.given], config))
        tried.clear()
        assert "X" in str([each async for each in retried.abatch_as_completed([self.given])])

    async def test_leaving_a_batch_early_cancels_the_rest(self) -> None:
        async def wait(text: str) -> str:
            await asyncio.sleep(float(len(calls)) * 10)
            calls.append(text)
            return text

        calls: list[str] = []
        runnable = self.make(alambda(wait), max_concurrent=1)
        stream: Any = runnable.abatch_as_completed([self.given] * 5, {"max_concurrency": 1})
        await anext(stream)
        await stream.aclose()
        assert len(calls) == COUNT
        assert not alive()

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
    def test_an_exit_comes_out(self, way: str, kind: type[BaseException]) -> None:
        def leave(text: str) -> str:
            raise kind

        async def aleave(text: str) -> str:
            raise kind

        runnable = self.make(RunnableLambda(leave, aleave))
        with pytest.raises(kind):
            if way == "invoke":
                runnable.invoke(self.given)
            elif way == "stream":
                list(runnable.stream(self.given))
            else:
                asyncio.run(used(runnable, way, self.given))

    def test_a_batch_gives_no_exit_back_as_a_value(self) -> None:
        async def leave(text: str) -> str:
            raise SystemExit

        with pytest.raises(SystemExit):
            asyncio.run(self.make(alambda(leave)).abatch([self.given], return_exceptions=True))
        with pytest.raises(SystemExit):
            self.make(alambda(leave)).batch([self.given], return_exceptions=True)

    # Kinds of children.

    @pytest.mark.parametrize("way", WAYS)
    async def test_async_only_children_work_for_sync_callers_too(self, way: str) -> None:
        async def up(text: str) -> str:
            return text.upper()

        output = await used(self.make(alambda(up)), way, self.given)
        assert way in ("stream", "astream") or self.outputs(output) == ["X"] * COUNT

    @pytest.mark.parametrize("way", ["ainvoke", "astream"])
    async def test_async_children_run_on_the_callers_loop(self, way: str) -> None:
        threads: list[int] = []

        async def note(text: str) -> str:
            threads.append(threading.get_ident())
            return text

        await used(self.make(alambda(note)), way, self.given)
        assert threads == [threading.get_ident()] * COUNT

    async def test_sync_children_run_in_our_threads_for_async_callers(self) -> None:
        names: list[str] = []

        def note(text: str) -> str:
            names.append(threading.current_thread().name)
            return text

        await self.make(note).ainvoke(self.given)
        assert names == ["agentos_parallel"] * COUNT

    @pytest.mark.parametrize("way", ["invoke", "stream"])
    async def test_sync_calls_in_a_running_loop(self, way: str) -> None:
        runnable = self.make(str.upper)
        output = (
            runnable.invoke(self.given) if way == "invoke" else list(runnable.stream(self.given))
        )
        assert output


class State(TypedDict):
    answers: Annotated[list[str], operator.add]


def graph_of(node: Any, **compiled: Any) -> Any:
    builder: Any = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder.compile(**compiled)


def answer_of(contract: RunnableContract) -> Any:
    return lambda output: {"answers": contract.outputs(output)}


def pairs(events: list[Any]) -> list[tuple[str, int]]:
    return [
        (kind, sum(event["event"] == kind for event in events))
        for kind in ("on_chain_start", "on_chain_end")
    ]
