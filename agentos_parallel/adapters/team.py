"""A team of sub-agents under one limit: what the three tools have in common."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeAlias, TypedDict, TypeVar

from langchain_core.runnables import Runnable

from agentos_parallel._core.works import call_of
from agentos_parallel.adapters.answers import answer_of, check_answered
from agentos_parallel.adapters.calls import ToolCall, below_exclusive, depth
from agentos_parallel.adapters.children import invoked
from agentos_parallel.adapters.progress import progress
from agentos_parallel.adapters.subagents import SubAgent, by_name
from agentos_parallel.arguments import strict_call
from agentos_parallel.checks import seconds, whole_number
from agentos_parallel.fanout import Aggregation, FanOutExecutor, run_fan_out
from agentos_parallel.results import FanOutResult
from agentos_parallel.throttle import TaskThrottler, throttler_or_none

Agents: TypeAlias = "Iterable[SubAgent | Mapping[str, Any]] | Team"

P = ParamSpec("P")
R = TypeVar("R")


class Assignment(NamedTuple):
    """Who is asked, and what."""

    agent: SubAgent
    text: str


class RefusedError(Exception):
    """A model asked for what can't be had; the text tells it what can."""


class TeamOptions(TypedDict, total=False):
    """The keywords of a team, which the tools and the toolkit take; see ``ParallelToolkit``."""

    max_concurrent: int
    timeout: float | None
    task_timeout: float | None
    merge_fn: Any
    max_tasks: int
    max_depth: int
    max_result_chars: int
    max_content_chars: int
    throttler: TaskThrottler | None


class Team:
    """Sub-agents that share one limit and one set of timeouts.

    Args:
        agents: who is in it.
        max_concurrent: tasks at once, over all calls of all tools together.
        timeout: seconds for one call; None: no deadline.
        task_timeout: seconds for one task of an agent that has none of its own; None: no limit.
        merge_fn: what "merge" makes of the answers; None: there is no merge.
        max_tasks: tasks in one call.
        max_depth: calls of such tools inside each other.
        max_result_chars: characters of one answer that a model reads.
        max_content_chars: characters of one message to a model.
        throttler: slots shared with others, beside the team's own limit.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is allowed.
    """

    def __init__(
        self,
        agents: Iterable[SubAgent | Mapping[str, Any]],
        *,
        max_concurrent: int = 8,
        timeout: float | None = 600.0,
        task_timeout: float | None = None,
        merge_fn: Any = None,
        max_tasks: int = 32,
        max_depth: int = 3,
        max_result_chars: int = 8_000,
        max_content_chars: int = 40_000,
        throttler: TaskThrottler | None = None,
    ) -> None:
        self.merge_fn = None if merge_fn is None else call_of("merge_fn", merge_fn)
        if isinstance(merge_fn, Runnable):
            self.merge_fn = partial(_merged, merge_fn)
        self.agents = by_name(agents)
        if task_timeout is not None:
            seconds("task_timeout", task_timeout, none=" or None")
        self.max_concurrent = whole_number("max_concurrent", max_concurrent)
        if timeout is not None:
            seconds("timeout", timeout, none=" or None for no deadline")
        self.timeout = timeout
        self.task_timeout = task_timeout
        self.max_tasks = whole_number("max_tasks", max_tasks)
        self.max_depth = whole_number("max_depth", max_depth)
        self.max_result_chars = whole_number("max_result_chars", max_result_chars)
        self.max_content_chars = whole_number("max_content_chars", max_content_chars, least=1_000)
        shared = TaskThrottler(self.max_concurrent)
        given = throttler_or_none(throttler)
        self.throttlers = [shared] if given is None else [shared, given]

    @classmethod
    def of(cls, agents: Agents, options: TeamOptions) -> Team:
        """The team of these agents; a team that is there already stays itself."""
        return agents if isinstance(agents, Team) else cls(agents, **options)

    @property
    def listing(self) -> str:
        """Each agent with its description, a line each."""
        return "\n".join(f"- {agent.name}: {agent.description}" for agent in self.agents.values())

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
            RefusedError: the model asks for what can't be had.
        """
        if depth.get() >= self.max_depth:
            raise RefusedError(
                f"agents may not call agents more than {self.max_depth} deep: do it yourself"
            )
        executor = FanOutExecutor(
            max_concurrent=self.max_concurrent,
            timeout=self._lowered(timeout),
            aggregation=aggregation,
            task_timeout=partial(self._timeout_of, tasks),
            throttler=partial(self._throttlers_of, tasks),
        )
        works = {
            task_id: partial(call.ask, task.agent, task.text, position)
            for position, (task_id, task) in enumerate(tasks.items())
        }
        merge = self.merge_fn if aggregation == "merge" else None
        names = {task_id: task.agent.name for task_id, task in tasks.items()}
        async with call:
            told = progress(names, sync=call.sync)
            return await run_fan_out(executor, "works", works, merge, told)

    def _lowered(self, timeout: float | None) -> float | None:
        if timeout is not None and not timeout > 0:
            raise RefusedError("timeout must be seconds above 0, or left out")
        given = [t for t in (timeout, self.timeout) if t is not None]
        return min(given, default=None)

    def _timeout_of(self, tasks: Mapping[str, Assignment], task_id: str) -> float | None:
        own = tasks[task_id].agent.task_timeout
        return self.task_timeout if own is None else own

    def _throttlers_of(self, tasks: Mapping[str, Assignment], task_id: str) -> list[TaskThrottler]:
        agent = tasks[task_id].agent
        by_hand = agent.max_concurrent == 1 and below_exclusive.get()  # ToolCall takes it
        if agent.throttler is None or by_hand:
            return self.throttlers
        return [*self.throttlers, agent.throttler]


def team_options(function: Callable[P, R]) -> Callable[P, R]:
    """A ``strict_call`` whose ``**options`` are those of ``Team``."""
    parameters = inspect.signature(Team.__init__).parameters
    return strict_call(function, {name: parameters[name] for name in TeamOptions.__annotations__})


async def _merged(merge: Runnable[Any, Any], answers: list[Any]) -> Any:
    merged = await invoked(merge, answers, None, sync=False)
    check_answered(merged)
    return answer_of(merged)
