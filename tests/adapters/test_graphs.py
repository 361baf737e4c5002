"""The graph of one node that a child runs in."""

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.errors import ParentCommand
from langgraph.types import Command

from tests.adapters.parts import Recorder, acall, call, graph, node_of, statuses, team, toolbox
from tests.pieces import alive, settle
from tests.virtual_time import START
from tests.ways import now


class OddExitError(BaseException):
    """Neither an Exception nor an exit."""


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, OddExitError])
def test_an_exit_comes_out_as_it_is(kind: type[BaseException]) -> None:
    raised = kind()

    async def exits(text: str) -> str:
        raise raised

    tool = toolbox(*team(exits=exits, other=str.upper))["fan_out"]
    with pytest.raises(kind) as caught:
        call(tool, input="x")
    assert caught.value is raised


async def test_a_child_that_cancels_itself_is_cancelled_and_nobody_else() -> None:
    async def cancels(text: str) -> str:
        raise asyncio.CancelledError

    message = await acall(toolbox(*team(a=cancels, b=str.upper))["fan_out"], input="x")
    assert statuses(message) == ["cancelled", "completed"]


async def test_a_cancelled_child_has_its_time_to_clean_up() -> None:
    cleaned = []

    async def slow(text: str) -> str:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(1)
            cleaned.append(now())
        return text

    message = await acall(toolbox(*team(it=slow), task_timeout=5)["fan_out"], input="x")

    assert statuses(message) == ["timeout"]
    assert cleaned == [START + 6]
    await settle()
    assert not alive()


async def test_a_handoff_outside_of_any_graph_comes_out() -> None:
    def hands_off(text: str) -> str:
        raise ParentCommand(Command(goto="x", graph=Command.PARENT))

    with pytest.raises(ParentCommand):
        await acall(toolbox(*team(it=hands_off))["fan_out"], input="x")


async def test_a_value_is_handed_on_as_it_was_returned() -> None:
    value = {1, 2}
    seen = []

    def merge(answers: list[Any]) -> str:
        seen.extend(answers)
        return "merged"

    tool = toolbox(*team(it=lambda _: value), merge_fn=merge)["fan_out"]
    await acall(tool, input="x", aggregation="merge")
    assert seen[0] is value


async def test_children_of_all_kinds_stand_in_the_trace_alike() -> None:
    agents = team(
        function=str.upper, chain=RunnableLambda(str.upper), graph=graph(node_of(str.upper))
    )
    recorder = Recorder()
    tool = toolbox(*agents)["fan_out"]
    await tool.ainvoke({"input": "x"}, {"callbacks": [recorder]})

    assert {recorder.parent(run) for agent in agents for run in recorder.named(agent.name)} == {
        "fan_out"
    }


WITHOUT_LANGGRAPH = """
import asyncio, sys
sys.modules["langgraph"] = None
from langchain_core.runnables import RunnableLambda
from agentos_parallel import ParallelToolkit, SubAgent

async def answer(text):
    return text + "!"

agents = [
    SubAgent("loud", "Says it louder.", str.upper),
    SubAgent("sure", "Says it surely.", answer),
    SubAgent("chain", "Says it.", RunnableLambda(str.lower)),
]
tool = ParallelToolkit(agents).get_tools()[1]
call = {"type": "tool_call", "name": "fan_out", "id": "1", "args": {"input": "Yes"}}
for message in (tool.invoke(call), asyncio.run(tool.ainvoke(call))):
    print([task["result"] for task in message.artifact["results"]])
"""


def test_without_langgraph_children_are_called_as_they_are() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LANGGRAPH], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["['YES', 'Yes!', 'yes']"] * 2, done.stderr
