"""What a child of a tool call is called with, and how it stands in the trace."""

import asyncio
import threading
import time
from contextvars import ContextVar
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphRecursionError
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime, get_runtime
from langgraph.store.memory import InMemoryStore

from agentos_parallel import SubAgent
from tests.adapters.parts import (
    Recorder,
    acall,
    alambda,
    answers,
    call,
    errors,
    go,
    graph,
    node_of,
    says,
    statuses,
    structured,
    supervisor,
    team,
    told,
    tool_call,
    toolbox,
)
from tests.pieces import after
from tests.virtual_time import run_virtually

WAYS = ["sync", "async"]


def fail(text: str) -> str:
    raise ValueError(f"no {text}")


# Traces.


def traced(tools: dict[str, BaseTool], args: dict[str, Any], way: str) -> Recorder:
    recorder = Recorder()
    config: Any = {"callbacks": [recorder]}
    call = tool_call(tools["fan_out"], args)
    if way == "sync":
        tools["fan_out"].invoke(call, config)
    else:
        run_virtually(tools["fan_out"].ainvoke(call, config))
    return recorder


def traced_agents() -> tuple[SubAgent, ...]:
    return team(
        chain=RunnableLambda(str.upper, name="my-lambda"),
        async_chain=alambda(lambda text: after(0, text)).with_config(run_name="my-async-lambda"),
        tool=structured(str.upper),
        graph=graph(node_of(str.upper), name="my-graph"),
        agent=create_agent(says("hi"), name="my-agent"),
        model=says("hello"),
        function=lambda text: RunnableLambda(str.upper, name="inside").invoke(text),
    )


OWN_NAMES = {
    "chain": "my-lambda",
    "async_chain": "my-async-lambda",
    "tool": "worker",
    "graph": "my-graph",
    "agent": "my-agent",
    "model": "ScriptedChatModel",
    "function": "inside",
}


@pytest.mark.parametrize("way", WAYS)
def test_each_task_is_a_child_of_the_tool_named_after_its_agent(way: str) -> None:
    agents = traced_agents()
    recorder = traced(toolbox(*agents), {"input": "x"}, way)

    for position, agent in enumerate(agents):
        [task] = [run for run in recorder.named(agent.name) if recorder.parent(run) == "fan_out"]
        assert f"task:{position}" in recorder.tags[task]
    assert len(recorder.named("fan_out")) == 1
    assert recorder.ended == set(recorder.names)


@pytest.mark.parametrize("way", WAYS)
def test_children_keep_their_own_names_below_it(way: str) -> None:
    recorder = traced(toolbox(*traced_agents()), {"input": "x"}, way)

    for agent, own in OWN_NAMES.items():
        assert any(agent in recorder.above(run) for run in recorder.named(own)), own


@pytest.mark.parametrize("way", WAYS)
def test_children_of_a_named_supervisor_keep_their_names(way: str) -> None:
    agents = team(one=create_agent(says("a"), name="child-one"), two=create_agent(says("b")))
    boss = supervisor(toolbox(*agents), "fan_out", {"input": "x"}, name="the-boss")
    recorder = Recorder()
    config: Any = {"callbacks": [recorder]}

    if way == "sync":
        boss.invoke(go(), config)
    else:
        run_virtually(boss.ainvoke(go(), config))

    [child] = recorder.named("child-one")
    assert "one" in recorder.above(child)
    assert len(recorder.named("the-boss")) == 1, "no child is called after its parent"
    [tool] = recorder.named("fan_out")
    assert "the-boss" in recorder.above(tool)
    assert recorder.ended == set(recorder.names)


@pytest.mark.parametrize("way", WAYS)
def test_the_name_in_a_childs_metadata_is_its_own(way: str) -> None:
    seen: list[str | None] = []

    class Names(Recorder):
        def on_chat_model_start(self, *args: Any, metadata: Any = None, **kwargs: Any) -> None:
            seen.append((metadata or {}).get("lc_agent_name"))

    agents = team(one=create_agent(says("a"), name="child-one"))
    boss = supervisor(toolbox(*agents), "fan_out", {"input": "x"}, name="the-boss")
    config: Any = {"callbacks": [Names()]}

    if way == "sync":
        boss.invoke(go(), config)
    else:
        run_virtually(boss.ainvoke(go(), config))

    assert seen == ["the-boss", "child-one", "the-boss"]


@pytest.mark.parametrize("way", WAYS)
def test_children_that_fail_are_closed_in_the_trace(way: str) -> None:
    agents = team(bad=RunnableLambda(fail, name="fails"), ok=RunnableLambda(str))

    recorder = traced(toolbox(*agents), {"input": "x"}, way)

    [child] = recorder.named("fails")
    assert "bad" in recorder.above(child)
    assert recorder.ended == set(recorder.names)


@pytest.mark.parametrize("way", WAYS)
def test_a_bound_config_stays_the_childs_own(way: str) -> None:
    own, seen = Recorder(), []

    def look(text: str, config: Any) -> str:
        seen.append((config["tags"], config["metadata"].get("mine"), config["configurable"]))
        return text

    def looking(text: str) -> str:
        from langchain_core.runnables.config import ensure_config

        return look(text, ensure_config())

    child = RunnableLambda(looking, name="child").with_config(
        tags=["t"], metadata={"mine": 1}, configurable={"user": "u1"}, callbacks=[own]
    )
    recorder = traced(toolbox(*team(it=child)), {"input": "x"}, way)

    assert seen[0][1] == 1
    assert "t" in seen[0][0]
    assert seen[0][2]["user"] == "u1"
    assert len(own.named("child")) == 1
    assert "it" in recorder.above(recorder.named("child")[0])


USER: ContextVar[str] = ContextVar("USER", default="nobody")


@pytest.mark.parametrize("way", WAYS)
def test_children_see_the_callers_context(way: str) -> None:
    def who(text: str) -> str:
        name = USER.get()
        USER.set("changed by a child")
        return name

    async def awho(text: str) -> str:
        return who(text)

    agents = team(f=who, a=awho, r=RunnableLambda(who), l=alambda(awho), g=graph(node_of(who)))
    tools = toolbox(*agents, max_concurrent=1)
    token = USER.set("ada")
    try:
        if way == "sync":
            message = call(tools["fan_out"], input="x")
        else:
            message = run_virtually(acall(tools["fan_out"], input="x"))
        assert answers(message) == ["ada"] * 5
        assert USER.get() == "ada"
    finally:
        USER.reset(token)


@pytest.mark.parametrize("way", WAYS)
def test_children_see_the_config_of_the_agents_run(way: str) -> None:
    seen = []

    def node(state: MessagesState, config: Any) -> Any:
        seen.append(config["configurable"].get("user"))
        return {"messages": [AIMessage("ok")]}

    from langchain_core.runnables import RunnableConfig

    node.__annotations__["config"] = RunnableConfig
    boss = supervisor(toolbox(*team(it=graph(node))), "fan_out", {"input": "x"})
    config: Any = {"configurable": {"user": "u7"}}

    if way == "sync":
        boss.invoke(go(), config)
    else:
        run_virtually(boss.ainvoke(go(), config))

    assert seen == ["u7"]


class Context(dict[str, Any]):
    pass


@pytest.mark.parametrize("way", WAYS)
def test_the_callers_context_and_store_reach_every_child(way: str) -> None:
    seen = []

    def look(text: str) -> str:
        runtime: Any = get_runtime()
        seen.append((runtime.context, runtime.store.get(("a",), "k").value))
        return text

    def node(state: MessagesState, runtime: Runtime[Any]) -> Any:
        return node_of(look)(state)

    store = InMemoryStore()
    store.put(("a",), "k", {"v": 1})
    agents = team(graph=graph(node), function=look, chain=RunnableLambda(look) | str)
    boss = supervisor(toolbox(*agents), "fan_out", {"input": "x"}, store=store, context_schema=dict)
    if way == "sync":
        boss.invoke(go(), context={"user": "u"})
    else:
        run_virtually(boss.ainvoke(go(), context={"user": "u"}))

    assert seen == [({"user": "u"}, {"v": 1})] * 3


# Memory.


def remembering(**compiled: Any) -> Any:
    """A graph that tells how many messages it has seen."""

    def node(state: MessagesState) -> Any:
        return {"messages": [AIMessage(str(len(state["messages"])))]}

    return graph(node, **compiled)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wrapped", ["graph", "chain", "bound"])
@pytest.mark.parametrize("inside", [False, True])
def test_tasks_of_one_agent_share_no_memory(wrapped: str, way: str, inside: bool) -> None:
    child = remembering(checkpointer=InMemorySaver())
    if wrapped == "chain":
        given: Any = RunnableLambda(lambda text: {"messages": [("user", text)]})
        child = given | child | RunnableLambda(lambda state: state["messages"][-1].text)
    if wrapped == "bound":
        child = child.with_config(tags=["mine"])
    args = {"agent": "it", "inputs": ["a", "b", "c"]}
    tools = toolbox(*team(it=child))

    if inside:
        boss = supervisor(tools, "parallel_map", args)
        message = told(boss.invoke(go()) if way == "sync" else run_virtually(boss.ainvoke(go())))
    elif way == "sync":
        message = call(tools["parallel_map"], **args)
    else:
        message = run_virtually(acall(tools["parallel_map"], **args))

    assert answers(message) == ["1", "1", "1"]


def test_a_child_that_asks_for_a_memory_has_one_for_each_position() -> None:
    tools = toolbox(*team(it=remembering(checkpointer=True)))
    call_it = {"name": "parallel_map", "args": {"agent": "it", "inputs": ["a", "b"]}}
    boss: Any = create_agent(
        says([call_it], [call_it], "done"), list(tools.values()), checkpointer=InMemorySaver()
    )
    state = boss.invoke(go(), {"configurable": {"thread_id": "1"}})

    messages = [m for m in state["messages"] if m.type == "tool"]
    assert [answers(message) for message in messages] == [["1", "1"], ["3", "3"]]


def test_a_thread_that_a_child_is_bound_to_is_its_own() -> None:
    child = remembering(checkpointer=InMemorySaver()).with_config(configurable={"thread_id": "7"})
    tool = toolbox(*team(it=child))["fan_out"]
    boss = supervisor({"fan_out": tool}, "fan_out", {"input": "x"}, checkpointer=InMemorySaver())

    assert answers(call(tool, input="x")) == ["1"]
    assert answers(call(tool, input="x")) == ["3"]
    assert answers(told(boss.invoke(go(), {"configurable": {"thread_id": "1"}}))) == ["5"]


def test_a_childs_state_is_not_merged_into_its_parents() -> None:
    def node(state: MessagesState) -> Any:
        return {"messages": [AIMessage(f"inner {i}") for i in range(3)]}

    boss = supervisor(toolbox(*team(it=graph(node))), "fan_out", {"input": "x"})

    assert len(boss.invoke(go())["messages"]) == 4


@pytest.mark.parametrize("way", WAYS)
def test_a_childs_recursion_limit_is_its_own_failure(way: str) -> None:
    builder: Any = StateGraph(MessagesState)
    builder.add_node("again", lambda _: {})
    builder.add_edge(START, "again")
    builder.add_edge("again", "again")
    child = builder.compile().with_config(recursion_limit=5)
    boss = supervisor(toolbox(*team(loops=child, fine=str.upper)), "fan_out", {"input": "x"})

    message = told(boss.invoke(go()) if way == "sync" else run_virtually(boss.ainvoke(go())))

    assert statuses(message) == ["failed", "completed"]
    assert errors(message) == [GraphRecursionError.__name__, None]


# Agents that can't run twice at once.


class Alone:
    """An agent that notes how many of its tasks run at once, and what it calls meanwhile."""

    def __init__(self, calls: Any = None) -> None:
        self.running = self.peak = 0
        self.calls = calls

    async def __call__(self, text: str) -> Any:
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await asyncio.sleep(1)
            return text if self.calls is None else await self.calls(text)
        finally:
            self.running -= 1


def alone(name: str, body: Any) -> SubAgent:
    return SubAgent(name, "Runs alone.", body, max_concurrent=1)


async def test_one_that_cannot_run_twice_at_once_does_not_even_while_it_waits() -> None:
    inner = toolbox(*team(low=str.lower))["fan_out"]
    body = Alone(lambda text: acall(inner, input=text))
    agent = alone("it", body)
    tools = [toolbox(agent)["parallel_map"], toolbox(agent)["parallel_map"]]

    messages = await asyncio.gather(
        *(acall(tool, agent="it", inputs=["a", "b", "c"]) for tool in tools)
    )

    assert [statuses(message) for message in messages] == [["completed"] * 3] * 2
    assert body.peak == 1


async def test_an_agents_own_limit_holds_over_toolkits() -> None:
    body = Alone()
    agent = SubAgent("it", "Two at once.", body, max_concurrent=2)
    tools = [toolbox(agent)["parallel_map"], toolbox(agent)["parallel_map"]]

    await asyncio.gather(*(acall(tool, agent="it", inputs=list("abcd")) for tool in tools))

    assert body.peak == 2


async def test_an_agent_that_calls_itself_is_refused_in_a_sentence() -> None:
    tools: dict[str, BaseTool] = {}
    agent = alone("it", Alone(lambda text: acall(tools["fan_out"], input=text)))
    tools.update(toolbox(agent))

    message = await acall(tools["fan_out"], input="x")

    [inner] = answers(message)
    assert statuses(message) == ["completed"]
    assert "it is at work and takes one task at a time" in str(inner)


async def test_two_that_call_each_other_do_not_wait_for_each_other() -> None:
    tools: dict[str, BaseTool] = {}
    one = alone("one", Alone(lambda text: acall(tools["fan_out"], input=text, agents=["two"])))
    two = alone("two", Alone(lambda text: acall(tools["fan_out"], input=text, agents=["one"])))
    tools.update(toolbox(one, two, timeout=30))

    message = await acall(tools["fan_out"], input="x")

    assert statuses(message) == ["completed", "completed"]
    assert "takes one task at a time" in str(answers(message))
    assert [agent.throttler.active for agent in (one, two) if agent.throttler] == [0, 0]


async def test_below_one_an_idle_one_is_served_and_a_second_task_for_it_is_refused() -> None:
    other = alone("other", Alone())
    inner = toolbox(other)["parallel_map"]
    body = Alone(lambda text: acall(inner, agent="other", inputs=["a", "b"]))

    message = await acall(toolbox(alone("it", body))["fan_out"], input="x")

    assert "1 of 2 tasks completed" in str(answers(message))
    assert "other is at work" in str(answers(message))
    assert other.throttler is not None
    assert other.throttler.active == 0


def test_a_refused_call_below_one_in_threads() -> None:
    tools: dict[str, BaseTool] = {}
    agent = alone("it", lambda text: str(call(tools["fan_out"], input=text).content))
    tools.update(toolbox(agent, timeout=30))

    assert "takes one task at a time" in answers(call(tools["fan_out"], input="x"))[0]


@pytest.mark.leaky
@pytest.mark.realtime
def test_below_one_an_abandoned_thread_keeps_its_agent_busy_until_it_has_ended() -> None:
    release, running = threading.Event(), []

    def hangs(text: str) -> str:
        running.append(text)
        release.wait(20)
        return text

    slow = SubAgent("slow", "Hangs.", hangs, max_concurrent=1, task_timeout=1)
    inner = toolbox(slow)["fan_out"]
    outer = toolbox(alone("it", lambda text: call(inner, input=text).text))["parallel_map"]

    message = call(outer, agent="it", inputs=["a", "b"])
    assert "timed out after 1" in answers(message)[0]
    assert "slow is at work" in answers(message)[1]
    assert running == ["a"]

    release.set()
    assert slow.throttler is not None
    while slow.throttler.active:
        time.sleep(0.01)
