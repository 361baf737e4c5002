"""The toolkit, and its tools made one by one."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import ToolMessage

from agentos_parallel import (
    FanOutTool,
    GatherResult,
    ParallelGatherTool,
    ParallelMapTool,
    ParallelToolkit,
    SubAgent,
    TaskThrottler,
)
from tests.adapters.parts import acall, answers, call, statuses, supervisor, team, told, toolbox
from tests.adapters.parts import go as going
from tests.pieces import after

ALONE: dict[str, tuple[Any, dict[str, Any]]] = {
    "parallel_gather": (ParallelGatherTool, {"tasks": [{"agent": "up", "input": "a"}]}),
    "fan_out": (FanOutTool, {"input": "a"}),
    "parallel_map": (ParallelMapTool, {"agent": "up", "inputs": ["a"]}),
}
each_alone = pytest.mark.parametrize(("kind", "args"), ALONE.values(), ids=ALONE)


def fail(text: str) -> str:
    raise ValueError(f"no {text}")


# One by one.


@each_alone
def test_each_tool_stands_alone_with_the_toolkits_arguments(
    kind: Any, args: dict[str, Any]
) -> None:
    tool = kind(
        team(up=str.upper),
        max_concurrent=2,
        timeout=30,
        task_timeout=5,
        merge_fn=len,
        max_tasks=4,
        max_depth=1,
        max_result_chars=100,
        max_content_chars=2_000,
        throttler=TaskThrottler(1),
    )
    assert answers(call(tool, **args)) == ["A"]
    assert tool.name in ALONE


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"max_concurrency": 2}, TypeError, "does not know max_concurrency=: .* max_concurrent="),
    ({"max_dept": 2}, TypeError, "does not know max_dept=: it knows agents, max_concurrent"),
    ({"max_tasks": 0}, ValueError, "max_tasks must be >= 1, got 0"),
    ({"max_depth": 1.5}, TypeError, "max_depth must be a whole number >= 1, got 1.5"),
    ({"max_result_chars": 0}, ValueError, "max_result_chars must be >= 1"),
    ({"max_content_chars": 999}, ValueError, "max_content_chars must be >= 1000, got 999"),
    ({"throttler": 5}, TypeError, "throttler must be a TaskThrottler or None, got 5"),
    ({"timeout": 0}, ValueError, "timeout must be a number of seconds > 0"),
    ({"max_concurrent": None}, TypeError, "max_concurrent must be a whole number"),
]


@pytest.mark.parametrize("kind", [ParallelToolkit, *(kind for kind, _ in ALONE.values())])
@pytest.mark.parametrize(("settings", "error", "text"), BAD)
def test_a_bad_argument_fails_at_once(
    kind: Any, settings: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        kind(team(up=str.upper), **settings)


def test_the_error_names_the_tool() -> None:
    make: Any = FanOutTool
    with pytest.raises(TypeError, match=r"^FanOutTool does not know workers="):
        make(team(up=str.upper), workers=2)


# Limits.


async def test_slots_are_shared_with_others() -> None:
    provider, peaks = TaskThrottler(2), []

    async def work(text: str) -> str:
        peaks.append(provider.active)
        return await after(1, text)

    tools = [toolbox(*team(it=work), throttler=provider)["parallel_map"] for _ in range(2)]
    await asyncio.gather(*(acall(tool, agent="it", inputs=list("abc")) for tool in tools))

    assert provider.peak == 2
    assert max(peaks) == 2


async def test_both_limits_hold() -> None:
    provider = TaskThrottler(5)
    tool = toolbox(*team(it=lambda t: after(1, t)), throttler=provider, max_concurrent=2)
    await acall(tool["parallel_map"], agent="it", inputs=list("abcdef"))

    assert provider.peak == 2


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize(("max_depth", "deepest"), [(1, 1), (2, 2), (3, 3)])
def test_calls_in_calls_end_at_max_depth(way: str, max_depth: int, deepest: int) -> None:
    tools: dict[str, Any] = {}
    reached = []

    def deeper(text: str) -> str:
        reached.append(len(text))
        return call(tools["fan_out"], input=text + "x").text

    async def adeeper(text: str) -> str:
        reached.append(len(text))
        return (await acall(tools["fan_out"], input=text + "x")).text

    body = deeper if way == "sync" else adeeper
    tools.update(toolbox(*team(it=body), max_depth=max_depth))
    message = (
        call(tools["fan_out"], input="x")
        if way == "sync"
        else asyncio.run(acall(tools["fan_out"], input="x"))
    )

    assert reached == list(range(1, deepest + 1))
    assert f"more than {max_depth} deep" in message.text
    assert message.status == "success"


# What the message's status says.


@pytest.mark.parametrize("way", ["sync", "async"])
def test_where_all_failed_the_message_is_an_error_and_has_the_artifact(way: str) -> None:
    tools = toolbox(*team(a=fail, b=fail))
    boss = supervisor(tools, "fan_out", {"input": "x"})
    state = boss.invoke(going()) if way == "sync" else asyncio.run(boss.ainvoke(going()))
    message = told(state)

    assert message.status == "error"
    assert statuses(message) == ["failed", "failed"]
    assert state["messages"][-1].text.startswith("READ 0 of 2 tasks completed."), "it goes on"


@pytest.mark.parametrize("aggregation", ["all", "first", "merge"])
def test_a_partial_failure_is_no_error(aggregation: str) -> None:
    tools = toolbox(*team(a=fail, b=str.upper), merge_fn="+".join)
    assert call(tools["fan_out"], input="x", aggregation=aggregation).status == "success"


# The artifact and checkpointers.

STRICT = """
import sys
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from tests.adapters.parts import go, structured, supervisor, team, told, toolbox
from tests.adapters.test_toolkit import fail, odd
from agentos_parallel import GatherResult

def of(saver):
    agents = team(up=str.upper, bad=fail, odd=odd)
    boss = supervisor(toolbox(*agents), "fan_out", {"input": "x"}, checkpointer=saver)
    thread = {"configurable": {"thread_id": "1"}}
    before = told(boss.invoke(go(), thread)).artifact
    after = told(boss.get_state(thread).values).artifact
    assert before == after, (before, after)
    print(GatherResult.from_dict(after))

of(InMemorySaver())
with SqliteSaver.from_conn_string(sys.argv[1]) as saver:
    of(saver)
"""


def odd(text: str) -> Any:
    """A value that no checkpointer holds as it is."""
    return {"set": {1}, "path": Path("x"), "agent": SubAgent("a", "A.", str), 5: fail}


def test_the_artifact_survives_every_checkpointer_in_strict_mode(tmp_path: Path) -> None:
    pytest.importorskip("langgraph.checkpoint.sqlite")
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", STRICT, str(tmp_path / "c.sqlite")],
        env={
            **os.environ,
            "LANGGRAPH_STRICT_MSGPACK": "true",
            "PYTHONPATH": path,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count("<GatherResult 2/3 completed, 1 failed") == 2, done.stderr
    assert "Deserializing" not in done.stderr


def test_an_artifact_reads_back() -> None:
    message = call(toolbox(*team(up=str.upper, bad=fail))["fan_out"], input="x")
    assert isinstance(message, ToolMessage)
    gathered = GatherResult.from_dict(message.artifact)
    assert (gathered.get_results(), gathered.failed) == (["X"], 1)
