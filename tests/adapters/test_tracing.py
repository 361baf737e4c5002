"""The trace of a tool call: every task's run is there, and closed, however the task ended."""

import asyncio
import threading
from typing import Any
from uuid import UUID, uuid4

import pytest
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    AsyncCallbackManager,
    BaseCallbackHandler,
    CallbackManager,
)
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers import BaseTracer
from langchain_core.tracers.schemas import Run

from agentos_parallel.adapters.tracing import OpenRuns
from tests.adapters.parts import (
    OwnAsyncModel,
    OwnModel,
    Recorder,
    graph,
    says,
    structured,
    supervisor,
    team,
    tool_call,
    toolbox,
)
from tests.adapters.parts import go as going
from tests.virtual_time import run_virtually
from tests.ways import hang

WAYS = ["sync", "async"]


async def hanging(text: str) -> str:
    await hang()
    return text


def fail(text: str) -> str:
    raise ValueError(f"no {text}")


class Tree(BaseTracer):
    """LangChain's own way to record a tree."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self.roots.append(run)


def runs_of(root: Run) -> list[Run]:
    return [root, *(each for child in root.child_runs for each in runs_of(child))]


def traced(agents: Any, args: dict[str, Any], *handlers: Any, **settings: Any) -> None:
    """An async call in virtual time."""
    tool = toolbox(*agents, **settings)["fan_out"]
    config: Any = {"callbacks": list(handlers)}
    run_virtually(tool.ainvoke(tool_call(tool, args), config))


# However a task ends.


def kinds() -> dict[str, Any]:
    """Children of each kind that never answer."""
    return {
        "function": hanging,
        "chain": RunnableLambda(hanging, name="my-chain") | RunnableLambda(str),
        "tool": structured(abody=hanging),
        "model": OwnAsyncModel(body=fail, abody=hanging, name="my-model"),
        "graph": graph(node_of_model(), name="my-graph"),
    }


def node_of_model() -> Any:
    model = OwnAsyncModel(body=fail, abody=hanging, name="inner-model")

    async def node(state: Any) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return node


@pytest.mark.parametrize("ending", ["task_timeout", "timeout", "first", "cancel"])
def test_every_run_is_closed_once_whatever_ended_its_task(ending: str) -> None:
    async def quick(text: str) -> str:
        await asyncio.sleep(5)
        return text

    recorder, tree = Recorder(), Tree()
    agents = team(**kinds(), **({"quick": quick} if ending == "first" else {}))
    settings = {ending: 9.0} if ending.endswith("timeout") else {}
    tool = toolbox(*agents, **settings)["fan_out"]
    call = tool_call(tool, {"input": "x", "aggregation": "first" if ending == "first" else "all"})

    async def main() -> None:
        config: Any = {"callbacks": [recorder, tree]}
        if ending == "cancel":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3):
                    await tool.ainvoke(call, config)
        else:
            await tool.ainvoke(call, config)

    run_virtually(main())

    # The tool's own run is LangChain's, whose core 1.7 leaves it open where it was cancelled.
    left_open = {recorder.names[run] for run in set(recorder.names) - recorder.ended}
    assert left_open <= ({"fan_out"} if ending == "cancel" else set())
    assert {len(ends) for ends in recorder.ends.values()} == {1}
    assert {"my-chain", "worker", "my-model", "my-graph", "inner-model"} <= {
        *recorder.names.values()
    }
    if not left_open:
        [root] = tree.roots
        assert all(run.end_time for run in runs_of(root))
        assert {run.name for run in root.child_runs} == {agent.name for agent in agents}


def test_what_langchain_leaves_open_ends_with_the_tasks_reason() -> None:
    recorder = Recorder()
    agents = team(model=OwnAsyncModel(body=fail, abody=hanging, name="my-model"), bad=fail)
    traced(agents, {"input": "x"}, recorder, task_timeout=2)

    assert recorder.error("my-model") == "TaskTimeout"
    assert recorder.error("bad") == "ValueError"


@pytest.mark.parametrize("way", WAYS)
def test_success_and_failure(way: str) -> None:
    recorder, tree = Recorder(), Tree()
    agents = team(good=says("hi"), bad=fail, tool=structured(str.upper), chain=RunnableLambda(fail))
    boss = supervisor(toolbox(*agents), "fan_out", {"input": "x"}, name="boss")
    config: Any = {"callbacks": [recorder, tree]}
    if way == "sync":
        boss.invoke(going(), config)
    else:
        run_virtually(boss.ainvoke(going(), config))

    assert recorder.ended == set(recorder.names)
    assert {len(ends) for ends in recorder.ends.values()} == {1}
    [root] = tree.roots
    [tool] = [run for run in runs_of(root) if run.run_type == "tool" and run.name == "fan_out"]
    in_order = sorted(tool.child_runs, key=lambda run: (run.tags or [""])[0])
    tasks = {run.name: run for run in in_order}
    assert list(tasks) == ["good", "bad", "tool", "chain"]
    assert [run.error is None for run in tasks.values()] == [True, False, True, False]
    assert [run.tags[0] for run in tasks.values() if run.tags] == [f"task:{i}" for i in range(4)]


@pytest.mark.leaky
@pytest.mark.realtime
@pytest.mark.parametrize("way", WAYS)
def test_the_runs_of_an_abandoned_thread_end_with_their_task(way: str) -> None:
    release = threading.Event()

    def hanging_model(text: str) -> str:
        release.wait(20)
        return text

    recorder = Recorder()
    agents = team(model=OwnModel(body=hanging_model, name="my-model"))
    tool = toolbox(*agents, task_timeout=0.05)["fan_out"]
    config: Any = {"callbacks": [recorder]}
    call = tool_call(tool, {"input": "x"})
    if way == "sync":
        tool.invoke(call, config)
    else:
        asyncio.run(tool.ainvoke(call, config))

    assert recorder.ended == set(recorder.names)
    assert recorder.error("my-model") == "TaskTimeout"
    release.set()


def test_an_abandoned_coroutine_ends_in_the_trace_with_its_call() -> None:
    async def stubborn(text: str) -> str:
        for _ in range(3):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue
        return text

    recorder = Recorder()

    async def main() -> None:
        agents = team(it=RunnableLambda(stubborn, name="stubborn"))
        tool = toolbox(*agents, task_timeout=1)["fan_out"]
        await tool.ainvoke(tool_call(tool, {"input": "x"}), {"callbacks": [recorder]})
        assert recorder.ended == set(recorder.names)
        await asyncio.sleep(600)

    run_virtually(main())


# What is seen.


def test_retries_are_seen() -> None:
    attempts: list[str] = []

    def flaky(text: str) -> str:
        attempts.append(text)
        if len(attempts) < 3:
            raise ConnectionError(str(len(attempts)))
        return text

    recorder = Recorder()
    child = RunnableLambda(flaky, name="flaky").with_retry(wait_exponential_jitter=False)
    traced(team(it=child), {"input": "x"}, recorder)

    flakies = recorder.named("flaky")
    assert len(flakies) > len(attempts)
    assert all("it" in recorder.above(run) for run in flakies)
    assert recorder.ended == set(recorder.names)


def test_losers_are_seen_and_closed() -> None:
    recorder = Recorder()
    agents = team(fast=str.upper, slow=RunnableLambda(hanging, name="loser"))
    traced(agents, {"input": "x", "aggregation": "first"}, recorder)

    assert "slow" in recorder.above(recorder.named("loser")[0])
    assert recorder.error("slow") == "CancelledError"
    assert recorder.ended == set(recorder.names)


@pytest.mark.parametrize("way", WAYS)
def test_nested_fan_outs_stand_in_each_other(way: str) -> None:
    recorder = Recorder()
    inner = toolbox(*team(leaf=says("leaf")))
    middle = {
        name: supervisor(inner, "fan_out", {"input": name}, name=f"{name}-agent")
        for name in ("one", "two")
    }
    boss = supervisor(toolbox(*team(**middle)), "fan_out", {"input": "go"}, name="boss")
    config: Any = {"callbacks": [recorder]}
    if way == "sync":
        boss.invoke(going(), config)
    else:
        run_virtually(boss.ainvoke(going(), config))

    above = [list(recorder.above(run)) for run in recorder.named("leaf")]
    assert len(above) == 2
    for name, parents in zip(
        ("one", "two"), sorted(above, key=lambda names: "two" in names), strict=True
    ):
        order = [each for each in parents if each in {"fan_out", name, f"{name}-agent", "boss"}]
        assert order == ["fan_out", f"{name}-agent", name, "fan_out", "boss"]
    assert recorder.ended == set(recorder.names)


def test_events_start_and_end_in_pairs() -> None:
    agents = team(**kinds(), good=says("hi"))
    tool = toolbox(*agents, task_timeout=2)["fan_out"]

    async def main() -> list[Any]:
        call = tool_call(tool, {"input": "x"})
        return [event async for event in tool.astream_events(call, version="v2")]

    events = run_virtually(main())
    started = [e["run_id"] for e in events if e["event"].endswith("_start")]
    assert len(started) == len(set(started))
    assert events[-1]["event"] == "on_tool_end"


# The handler itself.


class Told(BaseCallbackHandler):
    """Notes what it is told, and in which order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, UUID]] = []

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self.told.append(("chain", run_id))

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self.told.append(("tool", run_id))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self.told.append(("llm", run_id))

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self.told.append(("retriever", run_id))


class AsyncTold(AsyncCallbackHandler):
    """The same, async."""

    def __init__(self) -> None:
        self.told: list[tuple[str, UUID]] = []

    async def on_tool_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        await asyncio.sleep(0)
        self.told.append(("tool", run_id))


@pytest.mark.parametrize("sync", [True, False])
async def test_what_never_ended_is_closed_from_the_inside_out_and_once(sync: bool) -> None:
    told = Told()
    manager: Any = (CallbackManager if sync else AsyncCallbackManager)(handlers=[told])
    runs = OpenRuns(manager)
    ids = [uuid4() for _ in range(5)]
    runs.on_chain_start({}, {}, run_id=ids[0])
    runs.on_tool_start({}, "", run_id=ids[1], parent_run_id=ids[0], tags=["t"])
    runs.on_chat_model_start({}, [], run_id=ids[2])
    runs.on_retriever_start({}, "", run_id=ids[3])
    runs.on_llm_start({}, [], run_id=ids[4])
    runs.on_llm_end(None, run_id=ids[4])

    await runs.close(TimeoutError(), sync=sync)
    await runs.close(TimeoutError(), sync=sync)

    kinds = ["retriever", "llm", "tool", "chain"]
    assert told.told == list(zip(kinds, reversed(ids[:4]), strict=True))


async def test_async_handlers_are_told_too() -> None:
    told = AsyncTold()
    runs = OpenRuns(AsyncCallbackManager(handlers=[told]))
    run_id = uuid4()
    runs.on_tool_start({}, "", run_id=run_id)
    await runs.close(TimeoutError(), sync=False)

    assert told.told == [("tool", run_id)]
