"""What came of the supervisor's tool calls, read from its conversation.

The tools give the model a text and keep the whole result as the `artifact` of their message: that
is what is read here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolCall, ToolMessage


@dataclass(frozen=True)
class Task:
    """One task of a tool call.

    Attributes:
        agent: Whose task it was; where one agent had several, with their position.
        status: completed, failed, timeout or cancelled.
        result: The answer, None where there is none.
        error: Type and message of what went wrong, empty where nothing did.
        queued_ms: The wait for a slot.
        running_ms: From the slot to the end.
        began: When it was queued, in seconds of the loop's clock.
        started: When it got its slot; None if it never did.
        finished: When it ended.
    """

    agent: str
    status: str
    result: Any
    error: str
    queued_ms: float
    running_ms: float
    began: float
    started: float | None
    finished: float


@dataclass(frozen=True)
class Call:
    """One tool call: its name (with the aggregation, for `fan_out`), tasks, value and winner.

    Value and winner are those of "first" and "merge", else None. A call that the tool refused has
    no tasks, only the text that the model was given.
    """

    name: str
    text: str
    tasks: tuple[Task, ...] = ()
    value: Any = None
    winner: str | None = None


def calls(messages: Sequence[BaseMessage]) -> list[Call]:
    """List the tool calls of a conversation that were answered, in the order they were made."""
    answers = {
        message.tool_call_id: message for message in messages if isinstance(message, ToolMessage)
    }
    asked = [
        call
        for message in messages
        if isinstance(message, AIMessage)
        for call in message.tool_calls
    ]
    return [_call(call, answers[call["id"]]) for call in asked if call["id"] in answers]


def _call(call: ToolCall, answer: ToolMessage) -> Call:
    name = call["name"]
    if name == "fan_out":
        name = f"fan_out {call['args'].get('aggregation', 'all')}"
    run = answer.artifact
    if not isinstance(run, dict):
        return Call(name, answer.text)

    tasks = tuple(_task(result, run["agents"]) for result in run["results"])
    return Call(name, answer.text, tasks, run["value"], run["winner"])


def _task(result: Mapping[str, Any], agents: Mapping[str, str]) -> Task:
    task_id, error, queued = result["task_id"], result["error"], result["queued_ms"]
    agent = agents[task_id]
    started = result["started_at"] or None

    return Task(
        agent=agent if agent == task_id else f"{agent}[{task_id}]",
        status=result["status"],
        result=result["result"],
        error=f"{error['type']}: {error['message']}" if error else "",
        queued_ms=queued,
        running_ms=result["duration_ms"],
        began=(started or result["finished_at"]) - queued / 1000,
        started=started,
        finished=result["finished_at"],
    )
