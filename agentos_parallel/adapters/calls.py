"""One call of a tool, and the sub-agents that it asks."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import ensure_config

from agentos_parallel._core.nesting import take_now
from agentos_parallel._core.works import call_of
from agentos_parallel.adapters import graphs
from agentos_parallel.adapters.answers import answer_from, given_to
from agentos_parallel.adapters.children import Children, RunManager, invoked
from agentos_parallel.adapters.interrupts import Askers
from agentos_parallel.adapters.subagents import SubAgent

depth: ContextVar[int] = ContextVar("agentos_parallel_depth", default=0)
"""How many calls of our tools stand around this code."""

below_exclusive: ContextVar[bool] = ContextVar("agentos_parallel_below_exclusive", default=False)
"""Whether this code runs below a sub-agent that can't run twice at once."""

tool_call_id: ContextVar[str | None] = ContextVar("agentos_parallel_tool_call_id", default=None)
"""The id of the tool call that this code runs in."""


class BusyError(RuntimeError):
    """An agent that can't run twice at once runs, and whoever asks it may not wait for it."""


class ToolCall(Children):
    """The children of one call of a tool, which are sub-agents.

    Args:
        run_manager: the tool's run in the trace, which theirs stand under; None: no trace.
        sync: the caller is sync: prefer the agents' sync methods.
    """

    def __init__(self, run_manager: RunManager | None, *, sync: bool) -> None:
        super().__init__(Askers(ensure_config(), tool_call_id.get()), run_manager, sync=sync)

    async def ask(self, agent: SubAgent, task: str, position: int) -> Any:
        """Hand *task*, a text, to *agent*, and give its answer.

        Args:
            agent: who is asked.
            task: what it is to do.
            position: of the task in the call.

        Raises:
            BusyError: the agent can't run twice at once, and may not be waited for.
            HumanNeededError: it asks a human, whom nobody can reach here.
        """
        depth.set(depth.get() + 1)

        async def asked(own: RunnableConfig) -> Any:
            _take_turn(agent)
            # Else it would bear its caller's name.
            named: RunnableConfig = {
                "run_name": agent.name,
                "metadata": {"lc_agent_name": agent.name},
            }
            return await self._answer(agent, task, {**own, **named})

        return await self.run(position, agent.name, str(position), asked)

    async def _answer(self, agent: SubAgent, task: str, config: RunnableConfig) -> Any:
        async def answer(_: object = None) -> Any:
            given = await given_to(agent, task)
            return await answer_from(agent, await self._output(agent.runnable, given))

        if graphs.loaded():
            return await graphs.in_one_node(answer, task, config)
        return await RunnableLambda(_never, answer).ainvoke(task, config)

    async def _output(self, runnable: Any, given: Any) -> Any:
        if not isinstance(runnable, Runnable):
            return await call_of("runnable", runnable)(given)
        config = graphs.config_inside(runnable)
        return await invoked(graphs.apart(runnable), given, config, sync=self.sync)


def _take_turn(agent: SubAgent) -> None:
    """Have *agent* run alone, if it can't run twice at once.

    Below such an agent nobody waits for another: two could wait for each other.

    Raises:
        BusyError: it runs already.
    """
    if agent.max_concurrent != 1:
        return
    assert agent.throttler is not None
    # Above, the run has taken the slot before it started the task.
    if below_exclusive.get() and not take_now(agent.throttler):
        raise BusyError(
            f"{agent.name} is at work and takes one task at a time, and an agent that does so too "
            "can't wait for it: go on without it, or let your caller ask it"
        )
    below_exclusive.set(True)


def _never(_: object) -> Any:
    raise AssertionError("it is called async")
