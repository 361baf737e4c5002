"""What a model is told that it may send, and how what it sends is read.

The fields are few, and none has what a provider's strict mode refuses: no defaults, no lengths.
Limits stand in the descriptions, and who passes one is answered in a sentence.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic.v1 import ValidationError as ValidationErrorV1

from agentos_parallel.adapters.team import RefusedError, Team
from agentos_parallel.checks import shown
from agentos_parallel.fanout import AGGREGATIONS, Aggregation
from agentos_parallel.results import shorten

SENTENCE_CHARS = 390
"""The longest sentence that a model gets for what it did wrong."""

_FORBID = ConfigDict(extra="forbid")

_INPUT = "The task in full: the agent sees nothing else."

_MEANINGS = {
    "all": "all: every answer (if left out)",
    "first": "first: the first answer, the other agents are stopped",
    "merge": "merge: one answer made of all",
}


# What it may send.


def gather_arguments(team: Team) -> type[BaseModel]:
    """Of ``parallel_gather``."""
    task = create_model(
        "AgentTask", __config__=_FORBID, agent=(_agent_name(team), ...), input=(str, _told(_INPUT))
    )
    tasks = _told(f"The tasks, one for each piece of work: 1 to {team.max_tasks}.")
    listed = _many(Annotated[task, BeforeValidator(read_json)])
    return _arguments("ParallelGatherArgs", team, tasks=(listed, tasks))


def fan_out_arguments(team: Team) -> type[BaseModel]:
    """Of ``fan_out``."""
    agents = _told("Which agents, each once; null: all of them.", default=None)
    how = "What comes back: " + "; ".join(_MEANINGS[name] for name in aggregations(team)) + "."
    aggregation = _told(how, default="all", enum=[*aggregations(team)])
    return _arguments(
        "FanOutArgs",
        team,
        input=(str, _told(_INPUT)),
        agents=(_many(_agent_name(team)) | None, agents),
        aggregation=(str, aggregation),
    )


def map_arguments(team: Team) -> type[BaseModel]:
    """Of ``parallel_map``."""
    inputs = _told(f"One task for each, 1 to {team.max_tasks}. {_INPUT}")
    return _arguments(
        "ParallelMapArgs", team, agent=(_agent_name(team), ...), inputs=(_many(str), inputs)
    )


def aggregations(team: Team) -> tuple[Aggregation, ...]:
    """Those that *team* offers: "merge" only where a merge exists."""
    return AGGREGATIONS if team.merge_fn is not None else AGGREGATIONS[:2]


def _arguments(name: str, team: Team, **fields: Any) -> type[BaseModel]:
    longest = team.timeout
    most = "" if longest is None else f", at most {longest:g}"
    timeout = _told(f"Seconds for the whole call{most}; null: as long as allowed.", default=None)
    return create_model(name, __config__=_FORBID, **fields, timeout=(float | None, timeout))


def _agent_name(team: Team) -> Any:
    """The model sees the names, and a wrong one gets a sentence."""
    told = "; ".join(f"{agent.name}: {agent.description}" for agent in team.agents.values())
    return Annotated[str, _told(f"Name of an agent. {told}", enum=list(team.agents))]


def _many(kind: Any) -> Any:
    return Annotated[list[kind], BeforeValidator(read_json)]


def _told(description: str, default: Any = ..., **more: Any) -> Any:
    def without_default(schema: dict[str, Any]) -> None:
        schema.pop("default", None)
        schema.update(more)

    return Field(default=default, description=description, json_schema_extra=without_default)


# How it is read.


def read_json(value: Any) -> Any:
    """*value*, or the list or object that it is the JSON text of."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def read_arguments(given: Any, schema: type[BaseModel]) -> Any:
    """The arguments in *given*: a dict, the JSON text of one, or the text of the first."""
    if not isinstance(given, str):
        return given
    read = read_json(given)
    return read if isinstance(read, dict) else {next(iter(schema.model_fields)): given}


def asked_for(names: list[str], team: Team) -> list[Any]:
    """The agents of these *names*.

    Raises:
        RefusedError: there is none of a name, with the nearest that there are.
    """
    for name in names:
        if name not in team.agents:
            known = list(team.agents)
            near = difflib.get_close_matches(name[:64], known, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            listed = shorten(", ".join(known), 200)
            raise RefusedError(f"there is no agent {shown(name)}; {hint}The agents are: {listed}")
    return [team.agents[name] for name in names]


def check_number(name: str, number: int, team: Team) -> None:
    """Refuse no tasks, and too many.

    Raises:
        RefusedError: naming the argument *name*.
    """
    if not number:
        raise RefusedError(f"{name} must have at least one entry, and at most {team.max_tasks}")
    if number > team.max_tasks:
        raise RefusedError(
            f"{name} may have at most {team.max_tasks} entries, not {number}: "
            "make several calls, one after the other"
        )


def refusal(error: ValidationError | ValidationErrorV1, schema: type[BaseModel]) -> str:
    """What is wrong with a model's arguments, in a sentence that does not repeat them."""
    told = "; ".join(_told_of(each, schema) for each in error.errors()[:3])
    return shorten(f"These arguments can't be read: {told}.", SENTENCE_CHARS)


def _told_of(error: Mapping[str, Any], schema: type[BaseModel]) -> str:
    where = shorten(".".join(map(str, error["loc"])), 60) or "they"
    if error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
        return f"{where} is none of them, allowed are {', '.join(schema.model_fields)}"
    return f"{where}: {shorten(str(error['msg']), 120)}"
