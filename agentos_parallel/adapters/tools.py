"""The three tools over named sub-agents, and the toolkit that makes them.

A tool returns content for the model and, as artifact, the whole run in plain JSON values:
``GatherResult.to_dict()`` with the agent of each task and, of a ``fan_out``, the value and the
winner. A failure of some tasks is a normal answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManagerForToolRun
from langchain_core.tools import BaseTool, BaseToolkit
from langchain_core.tools.base import ArgsSchema
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, create_model
from pydantic.v1 import ValidationError as ValidationErrorV1

from agentos_parallel._core.threads import run_sync
from agentos_parallel.adapters.calls import RunManager, ToolCall
from agentos_parallel.adapters.content import describe, describe_task, fenced
from agentos_parallel.adapters.subagents import SubAgent
from agentos_parallel.adapters.team import Assignment, RefusedError, Team
from agentos_parallel.arguments import strict_call
from agentos_parallel.checks import shown
from agentos_parallel.errors import FanOutError
from agentos_parallel.fanout import AGGREGATIONS, Aggregation
from agentos_parallel.jsonable import plain_text, to_jsonable
from agentos_parallel.results import FanOutResult, GatherResult, shorten

Answer: TypeAlias = tuple[str, dict[str, Any] | None]
"""Content for the model, and the artifact; None where nothing ran."""

_FORBID = ConfigDict(extra="forbid")


def refused_arguments(error: ValidationError | ValidationErrorV1) -> str:
    """What is wrong with a model's arguments, without repeating them."""
    told = [
        f"{shorten('.'.join(map(str, e['loc'])), 80)}: {shorten(e['msg'], 200)}"
        for e in error.errors()[:5]
    ]
    return f"These arguments can't be read: {'; '.join(told)}."


class Plan(NamedTuple):
    """What a call of a tool comes down to."""

    tasks: dict[str, Assignment]
    aggregation: Aggregation = "all"


class TeamTool(BaseTool):
    """What the three tools share: a team, and how a run of it is answered."""

    model_config = _FORBID

    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    handle_validation_error: (
        bool | str | Callable[[ValidationError | ValidationErrorV1], str] | None
    ) = refused_arguments
    _team: Team = PrivateAttr()

    def __init__(self, team: Team, **fields: Any) -> None:
        super().__init__(**fields)
        self._team = team

    @property
    def tool_call_schema(self) -> ArgsSchema:
        """What the model is shown: LangChain's own copy of it would lose the enums."""
        assert self.args_schema is not None
        return self.args_schema

    def _plan(self, **arguments: Any) -> Plan:
        """The tasks that the arguments ask for.

        Raises:
            RefusedError: they ask for what can't be had.
        """
        raise NotImplementedError

    def _run(
        self,
        *,
        timeout: float | None = None,
        run_manager: CallbackManagerForToolRun | None = None,
        **arguments: Any,
    ) -> Answer:
        return run_sync(self._answer(arguments, timeout, run_manager, sync=True))

    async def _arun(
        self,
        *,
        timeout: float | None = None,
        run_manager: AsyncCallbackManagerForToolRun | None = None,
        **arguments: Any,
    ) -> Answer:
        return await self._answer(arguments, timeout, run_manager, sync=False)

    async def _answer(
        self,
        arguments: Mapping[str, Any],
        timeout: float | None,
        run_manager: RunManager | None,
        *,
        sync: bool,
    ) -> Answer:
        try:
            tasks, aggregation = self._plan(**arguments)
            outcome = await self._team.run(
                tasks, aggregation, timeout, ToolCall(run_manager, sync=sync)
            )
        except RefusedError as error:
            return plain_text(str(error)), None
        except FanOutError as error:  # the merge failed: the answers are there all the same
            outcome = FanOutResult(None, None, error.result or GatherResult())
            content = f"{error}\n\n{_content(outcome, tasks, 'all')}"
            return plain_text(content), _artifact(outcome, tasks)
        return plain_text(_content(outcome, tasks, aggregation)), _artifact(outcome, tasks)


class ParallelGatherTool(TeamTool):
    """Several tasks at once, each for the agent that is named with it."""

    def __init__(self, team: Team) -> None:
        task = create_model(
            "AgentTask",
            __config__=_FORBID,
            agent=(_agent_name(team), ...),
            input=(str, Field(description=_INPUT)),
        )
        tasks = Field(description="The tasks, one for each piece of work.", min_length=1)
        super().__init__(
            team,
            name="parallel_gather",
            description=f"Give several tasks to agents that work at once.\n{team.listing}",
            args_schema=_arguments("ParallelGatherArgs", team, tasks=(list[task], tasks)),  # type: ignore[valid-type]  # made at run time
        )

    def _plan(self, tasks: list[Any]) -> Plan:  # type: ignore[override]  # its own arguments
        asked = [Assignment(self._team.agent(task.agent), task.input) for task in tasks]
        return Plan({str(position): task for position, task in enumerate(asked)})


class FanOutTool(TeamTool):
    """One task for several agents: all answers, the first, or all of them merged."""

    def __init__(self, team: Team) -> None:
        allowed = AGGREGATIONS if team.merge_fn is not None else AGGREGATIONS[:2]
        names = Field(default=None, description="Which agents; left out: all of them.")
        how = Field(
            default="all",
            description="What comes back: " + "; ".join(_MEANINGS[name] for name in allowed),
            json_schema_extra={"enum": list(allowed)},
        )
        super().__init__(
            team,
            name="fan_out",
            description=f"Give one task to several agents at once.\n{team.listing}",
            args_schema=_arguments(
                "FanOutArgs",
                team,
                input=(str, Field(description=_INPUT)),
                agents=(list[_agent_name(team)] | None, names),  # type: ignore[misc]  # made at run time
                aggregation=(str, how),
            ),
        )

    def _plan(  # type: ignore[override]  # its own arguments
        self,
        input: str,  # noqa: A002 - the name that the model sees
        agents: list[str] | None = None,
        aggregation: str = "all",
    ) -> Plan:
        allowed = AGGREGATIONS if self._team.merge_fn is not None else AGGREGATIONS[:2]
        if aggregation not in allowed:
            raise RefusedError(
                f"aggregation must be one of {', '.join(allowed)}, not {shown(aggregation)}."
            )
        chosen = [self._team.agent(name) for name in agents or self._team.agents]
        if len({agent.name for agent in chosen}) < len(chosen):
            raise RefusedError("agents must name each agent once.")
        return Plan({agent.name: Assignment(agent, input) for agent in chosen}, aggregation)


class ParallelMapTool(TeamTool):
    """One agent over many inputs."""

    def __init__(self, team: Team) -> None:
        inputs = Field(description=f"{_INPUT} One task for each.", min_length=1)
        super().__init__(
            team,
            name="parallel_map",
            description=f"Give one agent many tasks, which it works on at once.\n{team.listing}",
            args_schema=_arguments(
                "ParallelMapArgs",
                team,
                agent=(_agent_name(team), ...),
                inputs=(list[str], inputs),
            ),
        )

    def _plan(self, agent: str, inputs: list[str]) -> Plan:  # type: ignore[override]  # its own arguments
        asked = self._team.agent(agent)
        return Plan(
            {str(position): Assignment(asked, text) for position, text in enumerate(inputs)}
        )


class ParallelToolkit(BaseToolkit):
    """Tools with which a model hands tasks to sub-agents that work at once.

    ``parallel_gather(tasks=[{agent, input}], timeout=None)``, ``fan_out(input, agents=None,
    aggregation="all", timeout=None)`` and ``parallel_map(agent, inputs, timeout=None)``.

    Args:
        agents: the sub-agents, with names of their own.
        max_concurrent: tasks at once, over all calls of all three tools together.
        timeout: seconds that one call may take; the model can only lower it; None: no deadline.
        task_timeout: seconds that one task may take, for agents without one of their own.
        merge_fn: makes one answer of the list of answers, for the aggregation "merge": a function
            (sync or async) or a Runnable; None: models are not offered "merge".

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is allowed.

    Example:
        >>> toolkit = ParallelToolkit([SubAgent("shout", "Says it louder.", str.upper)])
        >>> [tool.name for tool in toolkit.get_tools()]
        ['parallel_gather', 'fan_out', 'parallel_map']
        >>> print(toolkit.get_tools()[2].invoke({"agent": "shout", "inputs": ["hear"]}))
        1 of 1 tasks completed.
        <BLANKLINE>
        [0 shout] completed:
        <answer>
        HEAR
        </answer>
    """

    _team: Team = PrivateAttr()

    @strict_call
    def __init__(
        self,
        agents: Iterable[SubAgent],
        *,
        max_concurrent: int = 8,
        timeout: float | None = 600.0,
        task_timeout: float | None = None,
        merge_fn: Any = None,
    ) -> None:
        super().__init__()
        self._team = Team(
            agents,
            max_concurrent=max_concurrent,
            timeout=timeout,
            task_timeout=task_timeout,
            merge_fn=merge_fn,
        )

    def get_tools(self) -> list[BaseTool]:
        """The three tools, which share one limit."""
        return [kind(self._team) for kind in (ParallelGatherTool, FanOutTool, ParallelMapTool)]


_INPUT = "The task in full: the agent sees nothing else."

_MEANINGS = {
    "all": "all: every answer",
    "first": "first: the first answer, the other agents are stopped",
    "merge": "merge: one answer made of all",
}


def _agent_name(team: Team) -> Any:
    """A field for an agent's name: the model sees the names, and a wrong one gets a sentence."""
    field = Field(
        description="Name of the agent, as the tool lists them.",
        json_schema_extra={"enum": list(team.agents)},
    )
    return Annotated[str, field]


def _arguments(name: str, team: Team, **fields: Any) -> type[BaseModel]:
    longest = team.executor.timeout
    most = "" if longest is None else f", at most {longest:g}"
    timeout = Field(
        default=None, description=f"Seconds for the whole call{most}; leave out if unsure."
    )
    return create_model(name, __config__=_FORBID, **fields, timeout=(float | None, timeout))


def _content(
    outcome: FanOutResult[Any], tasks: Mapping[str, Assignment], aggregation: Aggregation
) -> str:
    agents = {task_id: task.agent.name for task_id, task in tasks.items()}
    gathered = outcome.gather
    if aggregation == "first" and outcome.winner is not None:
        winner = gathered.by_id[outcome.winner]
        return f"The first of {gathered.total}: {describe_task(winner, agents[winner.task_id])}"
    if aggregation == "merge" and gathered.completed:
        lost = [task for task in gathered.results if task.error is not None]
        parts = [
            f"Merged {gathered.completed} of {gathered.total} answers:\n{fenced(outcome.value)}"
        ]
        return "\n\n".join(parts + [describe_task(task, agents[task.task_id]) for task in lost])
    return describe(gathered, agents)


def _artifact(outcome: FanOutResult[Any], tasks: Mapping[str, Assignment]) -> dict[str, Any]:
    value = None if isinstance(outcome.value, GatherResult) else to_jsonable(outcome.value)
    return {
        **outcome.gather.to_dict(),
        "agents": {task_id: task.agent.name for task_id, task in tasks.items()},
        "value": value,
        "winner": outcome.winner,
    }
