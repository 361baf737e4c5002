"""The trace of a tool call: every task's run is there, and closed, however the task ended."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    AsyncCallbackManager,
    BaseCallbackHandler,
    CallbackManager,
)
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig, RunnableLambda, RunnableParallel
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
    tool = toolbox(*agents, task_timeout=1)["fan_out"]
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


def test_a_handler_that_raises_leaves_no_other_abandoned_task_open() -> None:
    async def stubborn(text: str) -> str:
        for _ in range(3):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue
        return text

    class Raising(BaseCallbackHandler):
        raise_error = True

        def on_chain_error(self, error: BaseException, **_: Any) -> None:
            if "abandoned" in str(error):
                raise LookupError("no such screen")

    recorder = Recorder()

    async def main() -> None:
        child = RunnableLambda(stubborn, name="stubborn")
        tool = toolbox(*team(one=child, two=child), task_timeout=1)["fan_out"]
        with pytest.raises(LookupError):
            await tool.ainvoke({"input": "x"}, {"callbacks": [recorder, Raising()]})
        assert set(recorder.named("stubborn")) <= recorder.ended
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


# The handler itself, under a parent run.


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
    """The same, async, and slow."""

    def __init__(self) -> None:
        self.told: list[UUID] = []

    async def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        await asyncio.sleep(1)
        self.told.append(run_id)


class Raising(Told):
    """One that insists on its failures."""

    raise_error = True

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        super().on_chain_error(error, run_id=run_id)
        raise ValueError("the handler's own")


class Library(BaseRetriever):
    """A retriever that never finds anything."""

    def _get_relevant_documents(self, query: str, **_: Any) -> Any:
        raise NotImplementedError

    async def _aget_relevant_documents(self, query: str, **_: Any) -> Any:
        await hang()


class Streaming(OwnModel):
    """A model that could stream."""

    def _stream(self, *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        raise AssertionError("nobody has asked for tokens")


def opened(*handlers: BaseCallbackHandler, way: str = "async") -> OpenRuns:
    manager = CallbackManager if way == "sync" else AsyncCallbackManager
    return OpenRuns(manager(handlers=list(handlers), inheritable_handlers=list(handlers)))


def started(runs: OpenRuns, count: int) -> list[UUID]:
    """Chains that start and never end, each in the one before."""
    ids = [uuid4() for _ in range(count)]
    for run_id, parent in zip(ids, [None, *ids], strict=False):
        runs.on_chain_start({}, {}, run_id=run_id, parent_run_id=parent)
    return ids


async def cancelled(work: Coroutine[Any, Any, Any]) -> None:
    """Cancel *work* when it hangs."""
    task = asyncio.create_task(work)
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.leaky  # LangChain's own pool, in which a sync caller's async handlers are told
@pytest.mark.parametrize("way", WAYS)
async def test_every_kind_is_closed_from_the_inside_out_and_once(way: str) -> None:
    told, async_told = Told(), AsyncTold()
    runs = opened(told, async_told, way=way)
    ids = [uuid4() for _ in range(5)]
    runs.on_chain_start({}, {}, run_id=ids[0])
    runs.on_tool_start({}, "", run_id=ids[1], parent_run_id=ids[0], tags=["t"])
    runs.on_chat_model_start({}, [], run_id=ids[2])
    runs.on_retriever_start({}, "", run_id=ids[3])
    runs.on_llm_start({}, [], run_id=ids[4])
    runs.on_llm_end(None, run_id=ids[4])

    await runs.close(TimeoutError(), sync=way == "sync")
    await runs.close(TimeoutError(), sync=way == "sync")

    kinds = ["retriever", "llm", "tool", "chain"]
    assert told.told == list(zip(kinds, reversed(ids[:4]), strict=True))
    assert async_told.told == ids[:1]


async def test_a_cancelled_child_ends_in_the_trace_whatever_it_is_made_of() -> None:
    recorder, tree = Recorder(), Tree()
    model = OwnAsyncModel(body=fail, abody=hanging, name="model")
    chain = RunnableLambda(str, name="first") | RunnableParallel(
        model=model, tool=structured(abody=hanging), library=Library(name="library")
    )
    both: list[BaseCallbackHandler] = [recorder, tree]
    manager = AsyncCallbackManager(handlers=both, inheritable_handlers=both)
    parent = await manager.on_chain_start({"name": "parent"}, {})
    runs = OpenRuns(parent.get_child("task:0"))

    await cancelled(chain.with_config(run_name="child").ainvoke("x", {"callbacks": runs.callbacks}))
    await runs.close(TimeoutError(), sync=False)
    await parent.on_chain_end({})

    lines = recorder.tree()
    assert lines[:4] == [
        "chain parent: end",
        "  chain child: CancelledError",
        "    chain first: end",
        "    chain RunnableParallel<model,tool,library>: CancelledError",
    ]
    # A model and a retriever are left open by LangChain, a tool by its core 1.7.
    tool, *others = sorted(lines[4:], key=lambda line: "tool" not in line)
    assert tool.strip() in {"tool worker: CancelledError", "tool worker: TimeoutError"}
    assert sorted(others) == [
        "      model model: TimeoutError",
        "      retriever library: TimeoutError",
    ]
    [root] = tree.roots
    assert all(run.end_time for run in runs_of(root))
    assert root.child_runs[0].tags == ["task:0"]


@pytest.mark.realtime
@pytest.mark.parametrize("way", WAYS)
def test_a_thread_that_goes_on_ends_its_own_runs(way: str) -> None:
    started, release = threading.Event(), threading.Event()

    def work(text: str) -> str:
        started.set()
        release.wait(20)
        return RunnableLambda(str.upper, name="later").invoke(text)

    recorder = Recorder()
    runs = opened(recorder, way=way)
    child, config = RunnableLambda(work, name="child"), {"callbacks": runs.callbacks}
    thread = threading.Thread(target=lambda: child.invoke("x", config))  # type: ignore[arg-type]
    thread.start()
    started.wait(20)

    asyncio.run(runs.close(TimeoutError(), sync=way == "sync"))
    assert recorder.tree() == ["chain child: TimeoutError"]

    release.set()
    thread.join(20)
    assert recorder.tree() == ["chain child: TimeoutError, end", "  chain later: end"]


async def test_what_begins_after_the_close_is_left_for_the_next() -> None:
    told = Told()
    runs = opened(told)
    await runs.close(TimeoutError(), sync=False)
    [late] = started(runs, 1)
    assert not told.told

    await runs.close(TimeoutError(), sync=False)
    assert told.told == [("chain", late)]


@pytest.mark.parametrize("end", ["end", "error"])
@pytest.mark.parametrize("kind", ["chain", "tool", "llm", "retriever"])
async def test_what_has_ended_is_not_closed(kind: str, end: str) -> None:
    told = Told()
    runs, run_id = opened(told), uuid4()
    getattr(runs, f"on_{kind}_start")({}, "", run_id=run_id)
    getattr(runs, f"on_{kind}_{end}")(None, run_id=run_id)

    await runs.close(TimeoutError(), sync=True)
    assert not told.told


async def test_what_ends_while_others_are_closed_is_not_closed_again() -> None:
    class Ending(Told):
        def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
            super().on_chain_error(error, run_id=run_id)
            runs.on_chain_end(None, run_id=ids[0])

    told = Ending()
    runs = opened(told)
    ids = started(runs, 3)
    await runs.close(TimeoutError(), sync=True)

    assert told.told == [("chain", ids[2]), ("chain", ids[1])]


async def test_another_cancel_leaves_nothing_open_and_comes_out() -> None:
    told = AsyncTold()
    runs = opened(told)
    ids = started(runs, 4)
    closing = asyncio.create_task(runs.close(TimeoutError(), sync=False))
    await asyncio.sleep(0.5)
    closing.cancel()

    with pytest.raises(asyncio.CancelledError):
        await closing
    assert set(told.told) == set(ids)


@pytest.mark.parametrize("way", WAYS)
async def test_a_handler_that_raises_leaves_nothing_open(way: str) -> None:
    raising = Raising()
    runs = opened(raising, way=way)
    ids = started(runs, 3)

    with pytest.raises(ValueError, match="the handler's own"):
        await runs.close(TimeoutError(), sync=way == "sync")
    assert [run_id for _, run_id in raising.told] == ids[::-1]


@pytest.mark.realtime
def test_threads_may_be_at_work_while_it_closes() -> None:
    over = threading.Event()
    recorder = Recorder()
    runs = opened(recorder, way="sync")
    config: Any = {"callbacks": runs.callbacks}
    chain = RunnableLambda(str.upper) | RunnableLambda(str.lower)

    def work() -> None:
        while not over.is_set():
            chain.invoke("x", config)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        asyncio.run(runs.close(TimeoutError(), sync=True))
    over.set()
    for thread in threads:
        thread.join(20)
    asyncio.run(runs.close(TimeoutError(), sync=True))

    assert recorder.ended == set(recorder.names)


# What its presence does not change.


def test_the_manager_stays_what_it_was() -> None:
    told = Told()
    parent = CallbackManager(
        handlers=[told],
        inheritable_handlers=[told],
        inheritable_tags=["t"],
        inheritable_metadata={"m": 1},
    ).on_chain_start({}, {})
    runs = OpenRuns(parent.get_child("task:0"))

    manager = runs.callbacks
    assert manager.handlers == manager.inheritable_handlers == [told, runs]
    assert manager.parent_run_id == parent.run_id
    assert manager.tags == ["t", "task:0"]
    assert manager.metadata == {"m": 1}


def test_where_nobody_listens_nothing_is_noted() -> None:
    assert opened(way="sync").callbacks.handlers == []


@pytest.mark.parametrize("way", WAYS)
async def test_no_tokens_are_asked_for(way: str) -> None:
    model: Any = Streaming(body=str.upper)
    config = {"callbacks": opened(Told(), way=way).callbacks}
    answer = model.invoke("x", config) if way == "sync" else await model.ainvoke("x", config)
    assert answer.text == "X"


async def test_it_is_called_where_the_child_runs() -> None:
    threads: list[int] = []

    class Noting(OpenRuns):
        def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
            threads.append(threading.get_ident())
            super().on_chain_start(*args, **kwargs)

    runs = Noting(AsyncCallbackManager(handlers=[AsyncTold()]))
    await RunnableLambda(str).ainvoke("x", {"callbacks": runs.callbacks})
    assert threads == [threading.get_ident()]


async def test_graphs_still_stream_their_messages() -> None:
    def ask(state: Any, config: RunnableConfig) -> Any:
        callbacks: Any = config["callbacks"]
        runs = OpenRuns(callbacks)
        return {"messages": [says("hello").invoke("x", {"callbacks": runs.callbacks})]}

    streamed = graph(ask).astream(going(), stream_mode="messages")
    assert "".join([message.text async for message, _ in streamed]) == "hello"


async def test_events_of_a_closed_child_start_and_end_in_pairs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def parent(text: str, config: RunnableConfig) -> str:
        callbacks: Any = config["callbacks"]
        runs = OpenRuns(callbacks)
        await callbacks.on_tool_start({"name": "lost"}, "x")  # as core 1.7 leaves a cancelled one
        tool = structured(abody=hanging)
        await cancelled(tool.ainvoke({"task": text}, {"callbacks": runs.callbacks}))
        await runs.close(TimeoutError(), sync=False)
        return text

    events = [e async for e in RunnableLambda(parent).astream_events("x", version="v2")]

    tools = [(e["event"], e["name"]) for e in events if e["event"].startswith("on_tool")]
    assert sorted(tools) == [
        ("on_tool_error", "lost"),
        ("on_tool_error", "worker"),
        ("on_tool_start", "lost"),
        ("on_tool_start", "worker"),
    ]
    assert not caplog.records
