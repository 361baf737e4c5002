"""The same sub-agents without this package: each a plain tool of `create_agent`.

A diary is kept of who answered when, so that what is said about the run is measured.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import BaseTool, StructuredTool

from agentos_parallel import SubAgent
from agentos_parallel.demo.reviews import counted
from agentos_parallel.testing import ScriptedChatModel


@dataclass
class Diary:
    """What happened in one run, in seconds since it began.

    Attributes:
        asked: The sub-agents that were called.
        answered: When each of them that answered did.
        ended: When the run ended.
        error: What the run raised, None if it gave its answer.
    """

    asked: list[str] = field(default_factory=list)
    answered: dict[str, float] = field(default_factory=dict)
    ended: float = 0.0
    error: RuntimeError | None = None

    @property
    def verdict(self) -> str:
        """What the model lost in this run, or had to wait for."""
        return self._wait() if self.error is None else self._loss(self.error)

    def _loss(self, error: RuntimeError) -> str:
        lost = counted(len(self.answered), "finished answer")
        running = counted(len(self.asked) - len(self.answered) - 1, "sub-agent")
        raised = f"after {self.ended:.1f} s the run raised {type(error).__name__} ('{error}')"

        return f"{raised}: {lost} lost, {running} cut off"

    def _wait(self) -> str:
        *others, last = sorted(self.answered, key=self.answered.__getitem__)
        ready = self.answered[others[-1]] if others else 0.0

        return (
            f"the model had to wait {self.ended:.1f} s, for {last}, before it saw any answer;"
            f" the other {len(others)} were there after {ready:.1f} s"
        )


async def run_plain(agents: Sequence[SubAgent], task: str) -> Diary:
    """Let a scripted model call *agents* in parallel, as plain tools, with the text *task*."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    diary = Diary()
    at_once = [{"name": agent.name, "args": {"task": task}} for agent in agents]
    model = ScriptedChatModel(script=[at_once, "all have answered"])
    supervisor = create_agent(model, [_plain_tool(agent, diary, began) for agent in agents])

    try:
        await supervisor.ainvoke({"messages": [HumanMessage("Review the tree.")]})
    except RuntimeError as error:
        diary.error = error
    diary.ended = loop.time() - began

    return diary


def _plain_tool(agent: SubAgent, diary: Diary, began: float) -> BaseTool:
    async def ask(task: str) -> str:
        diary.asked.append(agent.name)
        answer = await _answer(agent.runnable, task)
        diary.answered[agent.name] = asyncio.get_running_loop().time() - began
        return answer

    return StructuredTool.from_function(
        coroutine=ask, name=agent.name, description=agent.description
    )


async def _answer(runnable: Any, task: str) -> str:
    if isinstance(runnable, Runnable):  # a graph of create_agent
        state = await runnable.ainvoke({"messages": [HumanMessage(task)]})
        return str(state["messages"][-1].text)

    return str(await RunnableLambda(runnable).ainvoke(task))
