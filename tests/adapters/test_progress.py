"""Custom events: a UI sees each task start and end while the call lasts."""

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.runnables import RunnableLambda

from agentos_parallel import SubAgent
from tests.adapters.parts import acall, call, go, says, supervisor, team, tool_call, toolbox
from tests.pieces import after
from tests.virtual_time import run_virtually
from tests.ways import hang

NAME = "agentos_parallel.task"
WAYS = ["sync", "async"]


class Events(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[tuple[Any, Any]] = []
        self.tools: list[Any] = []

    def on_tool_start(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.tools.append(run_id)

    def on_custom_event(self, name: str, data: Any, *, run_id: Any, **_: Any) -> None:
        assert name == NAME
        self.seen.append((run_id, data))


class AsyncEvents(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        await asyncio.sleep(0)
        self.seen.append(data)


def fail(text: str) -> str:
    raise PermissionError("wrong api_key=hunter2")


async def hanging(text: str) -> str:
    await hang()
    return text


def agents() -> list[SubAgent]:
    slow = SubAgent("slow", "Hangs.", hanging, task_timeout=0.2)
    return [*team(good=str.upper, bad=fail), slow]


def invoked(runnable: Any, given: Any, config: Any, way: str) -> Any:
    if way == "sync":
        return runnable.invoke(given, config)
    return asyncio.run(runnable.ainvoke(given, config))


@pytest.mark.realtime
@pytest.mark.parametrize("way", WAYS)
def test_each_task_has_an_event_for_its_start_and_one_for_its_end(way: str) -> None:
    tool = toolbox(*agents())["fan_out"]
    events = Events()
    invoked(tool, tool_call(tool, {"input": "x"}), {"callbacks": [events]}, way)

    by_agent: dict[str, list[Any]] = {}
    for run_id, data in events.seen:
        assert run_id == events.tools[0], "they belong to the tool's run"
        assert data["tool_call_id"] == "call_1"
        by_agent.setdefault(data["agent"], []).append(data)
    statuses = {name: [each["status"] for each in seen] for name, seen in by_agent.items()}
    assert statuses == {
        "good": ["running", "completed"],
        "bad": ["running", "failed"],
        "slow": ["running", "timeout"],
    }
    ended = by_agent["slow"][1]
    assert ended["task_id"] == "slow"
    assert ended["duration_ms"] >= 200
    assert ended["queued_ms"] >= 0
    assert ended["error"].startswith("TaskTimeout: ")
    assert by_agent["bad"][1]["error"] == "PermissionError: wrong api_key=…"
    assert by_agent["good"][1]["error"] is None


@pytest.mark.parametrize(
    ("message", "told"),
    [("x" * 1_000_000, f"ValueError: {'x' * 987}…"), ("half \ud800", "ValueError: half \\ud800")],
    ids=["long", "no UTF-8"],
)
def test_an_error_text_fits_every_way_to_a_screen(message: str, told: str) -> None:
    def failing(text: str) -> str:
        raise ValueError(message)

    tool = toolbox(*team(bad=failing))["fan_out"]
    events = Events()
    tool.invoke(tool_call(tool, {"input": "x"}), {"callbacks": [events]})

    assert events.seen[-1][1]["error"] == told


async def test_events_come_while_the_call_lasts() -> None:
    tool = toolbox(*team(quick=lambda t: after(1, t), slow=lambda t: after(9, t)))["fan_out"]
    times = []
    async for event in tool.astream_events(tool_call(tool, {"input": "x"}), version="v2"):
        if event["event"] == "on_custom_event":
            data: Any = event["data"]
            now = asyncio.get_running_loop().time()
            times.append((data["agent"], data["status"], now))

    begun = times[0][2]
    assert [(agent, status, at - begun) for agent, status, at in times] == [
        ("quick", "running", 0),
        ("slow", "running", 0),
        ("quick", "completed", 1),
        ("slow", "completed", 9),
    ]


@pytest.mark.parametrize("way", WAYS)
def test_a_graphs_stream_has_them_with_their_name(way: str) -> None:
    boss = supervisor(toolbox(*team(up=str.upper)), "fan_out", {"input": "x"})

    async def streamed() -> list[Any]:
        return [each async for each in boss.astream(go(), stream_mode="custom")]

    if way == "sync":
        chunks = list(boss.stream(go(), stream_mode="custom"))
    else:
        chunks = run_virtually(streamed())

    assert [(c["name"], c["agent"], c["status"], c["tool_call_id"]) for c in chunks] == [
        (NAME, "up", "running", "call_0_0"),
        (NAME, "up", "completed", "call_0_0"),
    ]


def test_several_calls_are_told_apart() -> None:
    calls = [{"name": "fan_out", "args": {"input": text}} for text in "ab"]
    boss: Any = create_agent(says(calls, "done"), list(toolbox(*team(up=str.upper)).values()))

    chunks = list(boss.stream(go(), stream_mode="custom"))

    assert sorted(c["tool_call_id"] for c in chunks if c["status"] == "completed") == [
        "call_0_0",
        "call_0_1",
    ]


@pytest.mark.parametrize("way", WAYS)
def test_agents_below_agents_send_theirs_from_their_own_tool(way: str) -> None:
    below = supervisor(toolbox(*team(leaf=str.upper)), "fan_out", {"input": "x"})
    boss = supervisor(toolbox(*team(mid=below)), "fan_out", {"input": "x"})
    events = Events()
    invoked(boss, go(), {"callbacks": [events]}, way)

    runs = dict(zip(["mid", "leaf"], events.tools, strict=True))
    assert [(run_id, data["agent"], data["status"]) for run_id, data in events.seen] == [
        (runs["mid"], "mid", "running"),
        (runs["leaf"], "leaf", "running"),
        (runs["leaf"], "leaf", "completed"),
        (runs["mid"], "mid", "completed"),
    ]

    chunks = list(boss.stream(go(), stream_mode="custom", subgraphs=True))
    assert [(len(ns), c["agent"]) for ns, c in chunks] == [
        (0, "mid"),
        (2, "leaf"),
        (2, "leaf"),
        (0, "mid"),
    ]


async def test_async_handlers_hear_them() -> None:
    tool = toolbox(*team(up=str.upper))["fan_out"]
    events = AsyncEvents()
    await tool.ainvoke({"input": "x"}, {"callbacks": [events]})

    assert [data["status"] for data in events.seen] == ["running", "completed"]


@pytest.mark.parametrize("way", WAYS)
def test_a_handler_that_raises_hurts_no_call(way: str) -> None:
    class Raising(Events):
        raise_error = True

        def on_custom_event(self, name: str, data: Any, *, run_id: Any, **_: Any) -> None:
            raise LookupError("no such screen")

    tool = toolbox(*team(up=str.upper))["fan_out"]
    message = invoked(tool, tool_call(tool, {"input": "x"}), {"callbacks": [Raising()]}, way)

    assert message.artifact["completed"] == 1


@pytest.mark.parametrize("way", WAYS)
def test_without_run_or_graph_they_are_left_out(way: str) -> None:
    tool = toolbox(*team(up=str.upper))["fan_out"]
    message = call(tool, input="x") if way == "sync" else run_virtually(acall(tool, input="x"))

    assert message.artifact["completed"] == 1


def test_a_chain_around_hears_those_of_its_tool() -> None:
    tool = toolbox(*team(up=str.upper))["fan_out"]
    events = Events()
    chain: Any = RunnableLambda(lambda text: {"input": text}) | tool
    chain.invoke("x", {"callbacks": [events]})

    assert [data["status"] for _, data in events.seen] == ["running", "completed"]
    assert {run_id for run_id, _ in events.seen} == set(events.tools)
