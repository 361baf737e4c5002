"""The run without the package: what is said about it is what happened, to the second."""

import asyncio
from collections.abc import Awaitable, Callable

from langchain.agents import create_agent

from agentos_parallel import SubAgent
from agentos_parallel.demo.plain import run_plain
from agentos_parallel.testing import ScriptedChatModel


def after(seconds: float, error: str = "") -> Callable[[str], Awaitable[str]]:
    async def work(task: str) -> str:
        await asyncio.sleep(seconds)
        if error:
            raise RuntimeError(error)
        return task

    return work


def agents(**works: Callable[[str], Awaitable[str]]) -> list[SubAgent]:
    return [SubAgent(name, f"Is {name}.", work) for name, work in works.items()]


async def test_a_failure_loses_every_answer() -> None:
    diary = await run_plain(agents(quick=after(1), bad=after(2, "gone"), slow=after(9)), ".")

    assert diary.answered == {"quick": 1.0}
    assert diary.verdict == (
        "after 2.0 s the run raised RuntimeError ('gone'):"
        " 1 finished answer lost, 1 sub-agent cut off"
    )


async def test_a_slow_one_holds_up_every_answer() -> None:
    diary = await run_plain(agents(quick=after(1), slow=after(9), medium=after(2)), ".")

    assert diary.error is None
    assert diary.verdict == (
        "the model had to wait 9.0 s, for slow, before it saw any answer;"
        " the other 2 were there after 2.0 s"
    )


async def test_a_graph_is_asked_as_an_agent() -> None:
    graph = create_agent(ScriptedChatModel(script=lambda messages: messages[-1].text))

    diary = await run_plain([SubAgent("graph", "Is a graph.", graph)], "sub")

    assert list(diary.answered) == ["graph"]
    assert diary.verdict.endswith("the other 0 were there after 0.0 s")
