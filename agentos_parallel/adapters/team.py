"""A team of sub-agents under one limit: what the three tools have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from langchain_core.runnables import Runnable

from agentos_parallel._core.works import call_of
from agentos_parallel.adapters.answers import answer_of
from agentos_parallel.adapters.calls import ToolCall, invoked
from agentos_parallel.adapters.subagents import SubAgent, by_name
from agentos_parallel.checks import seconds, shown
from agentos_parallel.executor import ParallelExecutor
from agentos_parallel.fanout import Aggregation, FanOutExecutor
from agentos_parallel.results import FanOutResult


class Assignment(NamedTuple):
    """Who is asked, and what."""

    agent: SubAgent
    text: str


class RefusedError(Exception):
    """A model asked for what can't be had; the text tells it what can."""


class Team:
    """Sub-agents that share one limit and one set of timeouts.

    Args:
        agents: who is in it.
        max_concurrent: tasks at once, over all calls of all tools together.
        timeout: seconds for one call; None: no deadline.
        task_timeout: seconds for one task of an agent that has none of its own; None: no limit.
        merge_fn: what "merge" makes of the answers; None: there is no merge.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is allowed.
    """

    def __init__(
        self,
        agents: Iterable[SubAgent],
        *,
        max_concurrent: int,
        timeout: float | None,
        task_timeout: float | None,
        merge_fn: Any,
    ) -> None:
        self.agents = by_name(agents)
        if task_timeout is not None:
            seconds("task_timeout", task_timeout, none=" or None")
        self.executor = ParallelExecutor(max_concurrent, timeout)
        self.task_timeout = task_timeout
        self.merge_fn = None if merge_fn is None else call_of("merge_fn", merge_fn)
        if isinstance(merge_fn, Runnable):
            self.merge_fn = partial(_merged, merge_fn)

    @property
    def listing(self) -> str:
        """Each agent with its description, a line each."""
        return "\n".join(f"- {agent.name}: {agent.description}" for agent in self.agents.values())

    def agent(self, name: str) -> SubAgent:
        """The agent of that name.

        Raises:
            RefusedError: there is none.
        """
        if name not in self.agents:
            raise RefusedError(
                f"There is no agent {shown(name)}; there are: {', '.join(self.agents)}."
            )
        return self.agents[name]

    async def run(
        self,
        tasks: Mapping[str, Assignment],
        aggregation: Aggregation,
        timeout: float | None,
        call: ToolCall,
    ) -> FanOutResult[Any]:
        """Hand each task to its agent.

        Args:
            tasks: by task_id.
            aggregation: what to make of the answers.
            timeout: seconds that the model allows; it can only lower the team's.
            call: the call of the tool that they come from.

        Raises:
            FanOutError: ``merge_fn`` raised.
            RefusedError: the model's timeout is no time at all.
        """
        executor = FanOutExecutor(
            max_concurrent=self.executor.max_concurrent,
            timeout=self._lowered(timeout),
            aggregation=aggregation,
            task_timeout=partial(self._timeout_of, tasks),
            throttler=self.executor.throttler,
        )
        works = {
            task_id: partial(call.ask, task.agent, task.text, position)
            for position, (task_id, task) in enumerate(tasks.items())
        }
        async with call:
            return await executor.run(works, self.merge_fn if aggregation == "merge" else None)

    def _lowered(self, timeout: float | None) -> float | None:
        if timeout is not None and not timeout > 0:
            raise RefusedError(f"timeout must be seconds above 0, or left out, not {timeout:g}.")
        given = [t for t in (timeout, self.executor.timeout) if t is not None]
        return min(given, default=None)

    def _timeout_of(self, tasks: Mapping[str, Assignment], task_id: str) -> float | None:
        own = tasks[task_id].agent.task_timeout
        return self.task_timeout if own is None else own


async def _merged(merge: Runnable[Any, Any], answers: list[Any]) -> Any:
    return answer_of(await invoked(merge, answers, None, sync=False))
