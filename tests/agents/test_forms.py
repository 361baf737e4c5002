"""Sub-agents of every form in one fan-out, sync and async, with the same outcome."""

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.pregel.remote import RemoteGraph

from agentos_parallel import ParallelToolkit, SubAgent
from tests.adapters.parts import acall, answers, call, go, graph, says, statuses, supervisor, told
from tests.adapters.remote import graph_server, shouting

WAYS = ["sync", "async"]


def shout(messages: list[Any]) -> str:
    """A model that says it louder."""
    return str(messages[-1].text).upper()


def node(state: Any) -> Any:
    return {"messages": [AIMessage(shout(state["messages"]))]}


@tool
def shouting_tool(task: str) -> str:
    """Say it louder."""
    return task.upper()


async def ashout(text: str) -> str:
    await asyncio.sleep(0)
    return text.upper()


def agents(url: str) -> list[Any]:
    deepagents = pytest.importorskip("deepagents")
    forms = {
        "create_agent": create_agent(says(shout), []),
        "graph": graph(node),
        "deep_agent": deepagents.create_deep_agent(model=says(shout), tools=[]),
        "chain": ChatPromptTemplate.from_messages([("user", "{task}")]) | says(shout),
        "chat_model": says(shout),
        "tool": shouting_tool,
        "function": str.upper,
        "async_function": ashout,
        "remote_graph": RemoteGraph("agent", url=url),
    }
    dicts: list[Any] = [
        {
            "name": "declared",
            "description": "Shouts.",
            "system_prompt": "Shout.",
            "tools": [],
            "model": says(shout),
        },
        {"name": "compiled", "description": "Shouts.", "runnable": create_agent(says(shout), [])},
    ]
    return [*(SubAgent(name, "Shouts.", each) for name, each in forms.items()), *dicts]


@pytest.mark.realtime
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("inside", [False, True])
def test_every_form_gives_the_same_outcome(way: str, inside: bool) -> None:
    with graph_server(shouting) as (url, _):
        tools = {each.name: each for each in ParallelToolkit(agents(url)).get_tools()}
        boss = supervisor(tools, "fan_out", {"input": "hear"}, checkpointer=InMemorySaver())
        thread: Any = {"configurable": {"thread_id": "1"}}
        if inside and way == "sync":
            message = told(boss.invoke(go(), thread))
        elif inside:
            message = told(asyncio.run(boss.ainvoke(go(), thread)))
        elif way == "sync":
            message = call(tools["fan_out"], input="hear")
        else:
            message = asyncio.run(acall(tools["fan_out"], input="hear"))

    assert statuses(message) == ["completed"] * 11
    assert answers(message) == ["HEAR"] * 11
