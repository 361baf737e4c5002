"""One call of a tool, and the sub-agents that it asks.

A sub-agent is called with its sync ``invoke`` in the core's threads where it has no async way of
its own: its ``ainvoke`` would run in the loop's default pool, which ``asyncio.run`` joins.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from contextvars import ContextVar
from functools import partial
from types import TracebackType
from typing import Any, TypeAlias

from langchain_core.callbacks import (
    AsyncCallbackManagerForToolRun,
    BaseCallbackManager,
    CallbackManager,
    CallbackManagerForToolRun,
)
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import ensure_config

from agentos_parallel._core.nesting import take_now
from agentos_parallel._core.task import is_control_flow, reason_of
from agentos_parallel._core.works import call_of, in_thread
from agentos_parallel.adapters import graphs
from agentos_parallel.adapters.answers import answer_from, given_to
from agentos_parallel.adapters.interrupts import Askers
from agentos_parallel.adapters.kinds import only_async, only_sync
from agentos_parallel.adapters.subagents import SubAgent
from agentos_parallel.adapters.tracing import OpenRuns

RunManager: TypeAlias = CallbackManagerForToolRun | AsyncCallbackManagerForToolRun

depth: ContextVar[int] = ContextVar("agentos_parallel_depth", default=0)
"""How many calls of our tools stand around this code."""

below_exclusive: ContextVar[bool] = ContextVar("agentos_parallel_below_exclusive", default=False)
"""Whether this code runs below a sub-agent that can't run twice at once."""

tool_call_id: ContextVar[str | None] = ContextVar("agentos_parallel_tool_call_id", default=None)
"""The id of the tool call that this code runs in."""


class BusyError(RuntimeError):
    """An agent that can't run twice at once runs, and whoever asks it may not wait for it."""


class ToolCall:
    """One call of a tool: ``async with`` it around the run of its tasks.

    Args:
        run_manager: the tool's run in the trace, which its children stand under; None: no trace.
        sync: the caller is sync: prefer the agents' sync methods.

    Raises:
        GraphInterrupt: out of the block, with the questions of all children, in place of one.
        ParentCommand: out of the block, the first in input order.
    """

    def __init__(self, run_manager: RunManager | None, *, sync: bool) -> None:
        self.sync = sync
        self._run_manager = run_manager
        self._askers = Askers(ensure_config(), tool_call_id.get())
        self._opened: list[OpenRuns] = []

    async def __aenter__(self) -> ToolCall:
        """Nothing has to be done."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close what abandoned tasks left open in the trace, and put control flow together."""
        async with AsyncExitStack() as closing:  # all of them, whatever a handler raises
            for runs in self._opened:
                why = asyncio.CancelledError("its task was abandoned")
                closing.push_async_callback(runs.close, why, sync=self.sync)
        if error is not None and is_control_flow(error):
            raise self._askers.joined(error) from None

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
        runs = OpenRuns(self._child_manager(position))
        self._opened.append(runs)
        ended: BaseException = asyncio.CancelledError("its task has ended")
        try:
            _take_turn(agent)
            return await self._answer(agent, task, self._config(agent, position, runs))
        except BaseException as error:
            ended = reason_of(error)
            if is_control_flow(error):
                self._askers.heard(position, agent.name, error)
            raise
        finally:
            if not isinstance(ended, GeneratorExit):  # the collector's: nobody can be told
                await runs.close(ended, sync=self.sync)
            del ended  # or the error would hold itself, through this frame

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
        return await invoked(runnable, given, graphs.config_inside(runnable), sync=self.sync)

    def _child_manager(self, position: int) -> BaseCallbackManager:
        if self._run_manager is None:
            return CallbackManager(handlers=[])
        return self._run_manager.get_child(f"task:{position}")

    def _config(self, agent: SubAgent, position: int, runs: OpenRuns) -> RunnableConfig:
        configurable = self._askers.configurable(position)
        if self.sync:
            configurable = graphs.with_sync_saver(configurable)
        return {
            "callbacks": runs.callbacks,
            "run_name": agent.name,
            "metadata": {"lc_agent_name": agent.name},  # else it would bear its caller's
            "configurable": configurable,
        }


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


async def invoked(
    runnable: Runnable[Any, Any], given: Any, config: RunnableConfig | None, *, sync: bool
) -> Any:
    """What *runnable* makes of *given*: called in a thread where it has no async way of its own.

    *sync* is for a sync caller: called in a thread wherever it has a sync way.
    """
    if not only_async(runnable) if sync else only_sync(runnable):
        try:
            return await in_thread(partial(runnable.invoke, given, config))
        except (NotImplementedError, TypeError) as error:
            # Parts that can't be seen from outside: async-only middleware, what a lambda returns.
            if not any(words in str(error) for words in _ONLY_ASYNC):
                raise
    return await runnable.ainvoke(given, config)


_ONLY_ASYNC = ("Synchronous implementation", "Cannot invoke a coroutine function synchronously")


def _never(_: object) -> Any:
    raise AssertionError("it is called async")
