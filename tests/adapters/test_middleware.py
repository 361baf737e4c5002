"""ParallelToolsMiddleware: an agent's own tool calls, limited, timed and kept apart."""

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    HumanInTheLoopMiddleware,
    ToolCallLimitMiddleware,
    ToolRetryMiddleware,
)
from langchain.tools import InjectedState, ToolRuntime
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool, InjectedToolCallId, StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from pydantic import PydanticSchemaGenerationError

from agentos_parallel import ParallelToolkit, ParallelToolsMiddleware, SubAgent, TaskThrottler
from tests.adapters.contract import Counted
from tests.adapters.parts import Recorder, go, says
from tests.pieces import alive, now
from tests.ways import hang

WAYS = ["sync", "async"]
ways = pytest.mark.parametrize("way", WAYS)


def made(name: str, function: Any = None, coroutine: Any = None) -> StructuredTool:
    return StructuredTool.from_function(function, coroutine, name=name, description="Works.")


def agent_of(tools: list[Any], calls: list[tuple[str, str]], *middleware: Any, **more: Any) -> Any:
    """A real agent that makes these calls at once, each of one text, and then says done."""
    script = [[{"name": name, "args": {"text": text}} for name, text in calls], "done"]
    return create_agent(says(*script), tools, middleware=middleware, **more)


async def run(agent: Any, way: str, given: Any = None, config: Any = None) -> Any:
    given = go() if given is None else given
    if way == "sync":
        return await asyncio.to_thread(agent.invoke, given, config)
    return await agent.ainvoke(given, config)


def messages(state: Mapping[str, Any]) -> list[ToolMessage]:
    """The messages of the tools, each with the id of its call, in the order of the calls."""
    [calls] = [m.tool_calls for m in state["messages"] if getattr(m, "tool_calls", None)]
    told = [m for m in state["messages"] if isinstance(m, ToolMessage)]
    assert [m.tool_call_id for m in told] == [call["id"] for call in calls]
    return told


def texts(state: Mapping[str, Any]) -> list[str]:
    return [str(message.text) for message in messages(state)]


def up(text: str) -> str:
    return text.upper()


async def aup(text: str) -> str:
    await asyncio.sleep(0)
    return text.upper()


def fail(text: str) -> str:
    raise ValueError(f"no {text}")


async def afail(text: str) -> str:
    raise ValueError(f"no {text}")


# Limits.


@ways
async def test_one_limit_over_all_calls(way: str) -> None:
    counted = Counted()
    tools = [made("work", counted.sync, counted.asynchronous)]
    calls = [("work", str(n)) for n in range(6)]
    state = await run(agent_of(tools, calls, ParallelToolsMiddleware(2)), way)

    assert texts(state) == list("012345")
    assert counted.peak == 2


@ways
async def test_a_tool_may_have_a_limit_of_its_own(way: str) -> None:
    narrow, wide = Counted(), Counted()
    tools = [
        made("narrow", narrow.sync, narrow.asynchronous),
        made("wide", wide.sync, wide.asynchronous),
    ]
    limits = ParallelToolsMiddleware(per_tool={"narrow": {"max_concurrent": 1}})
    calls = [("narrow", "a"), ("wide", "b"), ("narrow", "c"), ("wide", "d"), ("wide", "e")]
    state = await run(agent_of(tools, calls, limits), way)

    assert texts(state) == list("ABCDE")
    assert (narrow.peak, wide.peak) == (1, 3)


async def test_the_limit_is_one_for_several_agents_and_for_whom_it_is_shared_with() -> None:
    counted, provider = Counted(), TaskThrottler(3)
    tools = [made("work", counted.sync, counted.asynchronous)]
    agents = [
        agent_of(tools, [("work", "a")] * 3, ParallelToolsMiddleware(throttler=provider))
        for _ in range(3)
    ]
    sub = SubAgent("work", "Works.", counted.runnable)
    [toolkit_tool, *_] = ParallelToolkit([sub], throttler=provider).get_tools()
    tasks = {"tasks": [{"agent": "work", "input": "a"}] * 3}
    await asyncio.gather(*(run(agent, "async") for agent in agents), toolkit_tool.ainvoke(tasks))

    assert (counted.calls, counted.peak, provider.peak) == (12, 3, 3)


@ways
async def test_below_a_call_calls_of_the_same_limit_do_not_wait_for_each_other(way: str) -> None:
    limits = ParallelToolsMiddleware(1)
    inner = agent_of([made("up", up, aup)], [("up", "a"), ("up", "b")], limits)

    def ask(text: str) -> str:
        return ",".join(texts(inner.invoke(go())))

    async def aask(text: str) -> str:
        return ",".join(texts(await inner.ainvoke(go())))

    state = await run(agent_of([made("ask", ask, aask)], [("ask", "x")] * 2, limits), way)
    assert texts(state) == ["A,B", "A,B"]


# Time.


async def test_a_timeout_for_each_call_from_its_slot_on() -> None:
    async def wait(text: str) -> str:
        await asyncio.sleep(float(text))
        return text

    limits = ParallelToolsMiddleware(1, task_timeout=4)
    start = now()
    calls = [("wait", "3"), ("wait", "9"), ("wait", "3")]
    state = await run(agent_of([made("wait", coroutine=wait)], calls, limits), "async")

    assert texts(state) == ["3", "timed out after 4 s", "3"]
    assert [m.status for m in messages(state)] == ["success", "error", "success"]
    assert now() - start == pytest.approx(10)
    assert not alive()


async def test_a_tool_may_have_a_timeout_of_its_own() -> None:
    async def wait(text: str) -> str:
        await asyncio.sleep(float(text))
        return text

    tools = [made(name, coroutine=wait) for name in ("search", "ask", "think")]
    limits = ParallelToolsMiddleware(
        task_timeout=5, per_tool={"search": {"task_timeout": 2}, "think": {"task_timeout": None}}
    )
    calls = [("search", "3"), ("ask", "3"), ("think", "9"), ("ask", "9")]
    state = await run(agent_of(tools, calls, limits), "async")
    assert texts(state) == ["timed out after 2 s", "3", "9", "timed out after 5 s"]


@ways
@pytest.mark.realtime
@pytest.mark.leaky
async def test_a_sync_tool_that_hangs_holds_nobody_up(way: str) -> None:
    release = threading.Event()

    def hangs(text: str) -> str:
        release.wait(9)
        return text

    limits = ParallelToolsMiddleware(task_timeout=0.1)
    start = time.monotonic()
    tools = [made("hangs", hangs), made("up", up)]
    try:
        state = await run(agent_of(tools, [("hangs", "x"), ("up", "y")], limits), way)
    finally:
        release.set()
    timed_out, other = texts(state)
    assert timed_out.startswith("timed out after 0.1")
    assert other == "Y"
    assert time.monotonic() - start < 5


@pytest.mark.realtime
async def test_an_async_tool_of_a_sync_agent_is_cancelled_in_time() -> None:
    cancelled = threading.Event()

    async def wait(text: str) -> None:
        try:
            await asyncio.sleep(9)
        finally:
            cancelled.set()

    limits = ParallelToolsMiddleware(task_timeout=0.1)
    state = await run(agent_of([made("wait", coroutine=wait)], [("wait", "x")], limits), "sync")
    assert texts(state)[0].startswith("timed out after 0.1")
    assert cancelled.wait(5)


# What fails.


@ways
async def test_what_a_tool_raises_is_told_and_takes_nobody_along(way: str) -> None:
    tools = [made("up", up, aup), made("fail", fail, afail)]
    agent = agent_of(tools, [("up", "a"), ("fail", "b"), ("up", "c")], ParallelToolsMiddleware())
    state = await run(agent, way)

    assert texts(state) == ["A", "failed: ValueError: no b", "C"]
    assert [m.status for m in messages(state)] == ["success", "error", "success"]
    assert [m.name for m in messages(state)] == ["up", "fail", "up"]
    assert state["messages"][-1].text == "done"


@ways
async def test_a_tool_that_cancels_itself_is_told_of(way: str) -> None:
    def cancel(text: str) -> str:
        raise asyncio.CancelledError

    async def acancel(text: str) -> str:
        raise asyncio.CancelledError

    tools = [made("cancel", cancel, acancel), made("up", up, aup)]
    agent = agent_of(tools, [("cancel", "a"), ("up", "b")], ParallelToolsMiddleware())
    assert texts(await run(agent, way)) == ["cancelled", "B"]


@ways
async def test_what_it_raises_may_come_out_of_the_agent(way: str) -> None:
    agent = agent_of(
        [made("fail", fail, afail)], [("fail", "b")], ParallelToolsMiddleware(on_error="raise")
    )
    with pytest.raises(ValueError, match="no b"):
        await run(agent, way)


@ways
async def test_no_key_reaches_the_model(way: str) -> None:
    def fails(text: str) -> str:
        raise PermissionError("Incorrect API key provided: sk-abcdEFGH1234abcdEFGH1234")

    agent = agent_of([made("fails", fails)], [("fails", "x")], ParallelToolsMiddleware())
    assert texts(await run(agent, way)) == [
        "failed: PermissionError: Incorrect API key provided: sk-…"
    ]


@ways
async def test_a_long_error_is_cut(way: str) -> None:
    def fails(text: str) -> str:
        raise ValueError("x" * 100_000)

    agent = agent_of([made("fails", fails)], [("fails", "x")], ParallelToolsMiddleware())
    assert len(texts(await run(agent, way))[0]) <= 2_000


@ways
async def test_a_tool_that_is_not_there_is_told_of_as_ever(way: str) -> None:
    agent = agent_of([made("up", up, aup)], [("down", "a"), ("up", "b")], ParallelToolsMiddleware())
    there_is_none, other = texts(await run(agent, way))
    assert "down is not a valid tool" in there_is_none
    assert other == "B"


@ways
async def test_bad_arguments_are_told_of_as_ever(way: str) -> None:
    script = [[{"name": "up", "args": {"wrong": 1}}], "done"]
    agent = create_agent(
        says(*script), [made("up", up, aup)], middleware=[ParallelToolsMiddleware()]
    )
    [told] = messages(await run(agent, way))
    assert told.status == "error"
    assert "Field required" in told.text


async def test_an_outer_cancel_reaches_the_tools() -> None:
    cancelled = []

    async def wait(text: str) -> None:
        try:
            await hang()
        except asyncio.CancelledError:
            cancelled.append(text)
            raise

    agent = agent_of([made("wait", coroutine=wait)], [("wait", "a")] * 2, ParallelToolsMiddleware())
    task = asyncio.create_task(agent.ainvoke(go()))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled == ["a", "a"]


# Kinds of tools.


class Own(BaseTool):
    """A tool that somebody wrote by hand."""

    name: str = "own"
    description: str = "Works."

    def _run(self, text: str) -> str:
        return f"{text} in {threading.current_thread().name}"


@ways
async def test_sync_tools_run_in_our_threads(way: str) -> None:
    names = []

    def note(text: str) -> str:
        names.append(threading.current_thread().name)
        return text

    agent = agent_of(
        [made("note", note), Own()], [("note", "a"), ("own", "b")], ParallelToolsMiddleware()
    )
    state = await run(agent, way)
    assert texts(state) == ["a", "b in agentos_parallel"]
    assert names == ["agentos_parallel"]


@ways
async def test_async_only_tools_work_in_sync_agents_too(way: str) -> None:
    agent = agent_of(
        [made("up", coroutine=aup)], [("up", "a"), ("up", "b")], ParallelToolsMiddleware()
    )
    assert texts(await run(agent, way)) == ["A", "B"]


@ways
@pytest.mark.parametrize("only", ["sync", "async"])
async def test_what_is_injected_is_there(way: str, only: str) -> None:
    def look(
        text: str,
        state: Annotated[dict[str, Any], InjectedState],
        call_id: Annotated[str, InjectedToolCallId],
    ) -> str:
        """Look."""
        return f"{text} {len(state['messages'])} {call_id is not None}"

    async def alook(
        text: str,
        state: Annotated[dict[str, Any], InjectedState],
        call_id: Annotated[str, InjectedToolCallId],
    ) -> str:
        """Look."""
        return look(text, state, call_id)

    tools = [tool(look) if only == "sync" else tool("look")(alook)]
    agent = agent_of(tools, [("look", "a")], ParallelToolsMiddleware())
    assert texts(await run(agent, way)) == ["a 2 True"]


@ways
@pytest.mark.parametrize("only", ["sync", "async"])
async def test_the_runtime_is_there(way: str, only: str) -> None:
    def look(text: str, runtime: ToolRuntime) -> str:
        """Look."""
        return f"{text} {len(runtime.state['messages'])}"

    async def alook(text: str, runtime: ToolRuntime) -> str:
        """Look."""
        return look(text, runtime)

    try:
        tools = [tool(look) if only == "sync" else tool("look")(alook)]
    except PydanticSchemaGenerationError:
        pytest.skip("LangChain's ToolRuntime needs a newer pydantic")
    agent = agent_of(tools, [("look", "a")], ParallelToolsMiddleware())
    assert texts(await run(agent, way)) == ["a 2"]


@ways
@pytest.mark.parametrize("only", ["sync", "async"])
async def test_artifacts_and_commands_pass(way: str, only: str) -> None:
    def answer(text: str) -> tuple[str, dict[str, Any]]:
        return text, {"its": "artifact"}

    async def aanswer(text: str) -> tuple[str, dict[str, Any]]:
        return answer(text)

    def command(text: str, call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
        told = ToolMessage("commanded", tool_call_id=call_id)
        return Command(update={"messages": [told]})

    async def acommand(text: str, call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
        return command(text, call_id)

    with_artifact = StructuredTool.from_function(
        answer if only == "sync" else None,
        aanswer if only == "async" else None,
        name="answer",
        description="Answers.",
        response_format="content_and_artifact",
    )
    commands = made("command", command) if only == "sync" else made("command", coroutine=acommand)
    calls = [("answer", "a"), ("command", "b")]
    state = await run(agent_of([with_artifact, commands], calls, ParallelToolsMiddleware()), way)
    assert texts(state) == ["a", "commanded"]
    assert messages(state)[0].artifact == {"its": "artifact"}


@ways
async def test_a_toolkits_tools_in_an_agent_with_it(way: str) -> None:
    kit = ParallelToolkit([SubAgent("up", "Says it louder.", str.upper)]).get_tools()
    script = [[{"name": "fan_out", "args": {"input": "hear"}}], "done"]
    agent = create_agent(says(*script), kit, middleware=[ParallelToolsMiddleware(1)])
    [told] = messages(await run(agent, way))
    assert told.artifact["results"][0]["result"] == "HEAR"


@ways
async def test_a_tools_run_is_closed_in_the_trace(way: str) -> None:
    trace = Recorder()
    tools = [made("up", up, aup), made("fail", fail, afail)]
    agent = agent_of(tools, [("up", "a"), ("fail", "b")], ParallelToolsMiddleware())
    await run(agent, way, config={"callbacks": [trace]})

    assert {trace.kinds[run] for name in ("up", "fail") for run in trace.named(name)} == {"tool"}
    assert len(trace.named("up")) == len(trace.named("fail")) == 1
    assert all(len(trace.ends_of(run)) == 1 for run in trace.names)


@ways
async def test_a_deep_agents_tools(way: str) -> None:
    deepagents = pytest.importorskip("deepagents")
    calls = [{"name": name, "args": {"text": name}} for name in ("fail", "up")]
    agent = deepagents.create_deep_agent(
        model=says(calls, "done"),
        tools=[made("up", up, aup), made("fail", fail, afail)],
        middleware=[ParallelToolsMiddleware(2)],
    )
    assert texts(await run(agent, way)) == ["failed: ValueError: no fail", "UP"]


# With LangChain's own middleware.


@ways
@pytest.mark.parametrize("order", ["behind", "before"])
async def test_with_retries(way: str, order: str) -> None:
    calls = []

    def second_time(text: str) -> str:
        calls.append(text)
        if len(calls) == 1:
            raise ConnectionError("no")
        return text

    async def asecond_time(text: str) -> str:
        return second_time(text)

    retry = ToolRetryMiddleware(max_retries=2, initial_delay=0, jitter=False)
    limits = ParallelToolsMiddleware(on_error="raise" if order == "before" else "message")
    both = [limits, retry] if order == "behind" else [retry, limits]
    agent = agent_of([made("work", second_time, asecond_time)], [("work", "a")], *both)
    assert texts(await run(agent, way)) == ["a"]
    assert len(calls) == 2


@ways
async def test_with_a_limit_of_calls(way: str) -> None:
    limit = ToolCallLimitMiddleware(run_limit=1, exit_behavior="continue")
    calls = [("up", "a"), ("up", "b")]
    agent = agent_of([made("up", up, aup)], calls, ParallelToolsMiddleware(), limit)
    state = await run(agent, way)
    told = [m.text for m in state["messages"] if isinstance(m, ToolMessage)]
    assert len(told) == 2
    assert "A" in told
    assert any("limit" in text for text in told)


@ways
async def test_with_a_human_in_the_loop(way: str) -> None:
    human = HumanInTheLoopMiddleware(interrupt_on={"up": True})
    agent = agent_of(
        [made("up", up, aup)],
        [("up", "a"), ("up", "b")],
        ParallelToolsMiddleware(),
        human,
        checkpointer=InMemorySaver(),
    )
    config = {"configurable": {"thread_id": "1"}}
    state = await run(agent, way, config=config)
    assert state["__interrupt__"]
    decisions = [{"type": "approve"}, {"type": "approve"}]
    state = await run(agent, way, Command(resume={"decisions": decisions}), config)
    assert texts(state) == ["A", "B"]


@ways
@pytest.mark.parametrize("only", ["sync", "async", "both"])
async def test_questions_pass_each_with_its_id(way: str, only: str) -> None:
    def ask(text: str) -> str:
        return f"{text}: {interrupt(f'{text}?')}"

    async def aask(text: str) -> str:
        return f"{text}: {interrupt(f'{text}?')}"

    asks = made("ask", None if only == "async" else ask, None if only == "sync" else aask)
    calls = [("ask", "a"), ("up", "b"), ("ask", "c")]
    limits = ParallelToolsMiddleware(1)
    agent = agent_of([asks, made("up", up, aup)], calls, limits, checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}

    state = await run(agent, way, config=config)
    asked = {each.value: each.id for each in state["__interrupt__"]}
    assert sorted(asked) == ["a?", "c?"]
    answers = {asked["a?"]: "A", asked["c?"]: "C"}
    state = await run(agent, way, Command(resume=answers), config)
    assert texts(state) == ["a: A", "B", "c: C"]


# Bad settings.


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"max_concurrent": 0}, "max_concurrent must be >= 1, got 0"),
        ({"task_timeout": -1}, "task_timeout must be a number of seconds > 0 or None, got -1"),
        ({"throttler": 3}, "throttler must be a TaskThrottler or None, got 3"),
        ({"on_error": "ignore"}, 'on_error must be "message" or "raise", got \'ignore\''),
        ({"per_tool": [1]}, "per_tool must be a dict by the names of tools, got a list"),
        ({"per_tool": {"a": 3}}, r"per_tool\['a'\] must be a dict of its limits, got 3"),
        (
            {"per_tool": {"a": {"timeout": 3}}},
            r"per_tool\['a'\]: 'timeout' is not known; allowed are task_timeout, max_concurrent",
        ),
        (
            {"per_tool": {"a": {"max_concurrent": 0}}},
            r"per_tool\['a'\]: max_concurrent must be >= 1, got 0",
        ),
        (
            {"per_tool": {"a": {"task_timeout": 0}}},
            r"per_tool\['a'\]: task_timeout must be a number of seconds > 0",
        ),
        ({"max_concurrency": 3}, "the limit is called max_concurrent="),
        ({"timeout": 3}, "does not know timeout="),
    ],
)
def test_a_bad_setting_is_refused_by_name(settings: Any, text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        ParallelToolsMiddleware(**settings)
