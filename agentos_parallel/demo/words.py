"""The scripted supervisor: what a model would say and call, worked out from what it was told.

It asks two questions at once, looks closer where the most was found, and reports. Every step reads
the tool messages it received: another tree gives another second step and another report.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage

from agentos_parallel.demo.outcomes import Call, Task, calls
from agentos_parallel.demo.reviews import Finding, by_part, counted, findings_in
from agentos_parallel.testing import ScriptedChatModel

_SHOWN = 3
_RANKED = 5


def scripted_supervisor(reviewers: Sequence[str], locators: Sequence[str]) -> ScriptedChatModel:
    """Make the model that leads the sub-agents with these names."""

    def survey(messages: list[BaseMessage]) -> list[dict[str, Any]]:
        licence = "Which licence is this project under?"
        return [
            _fan_out("first", licence, locators),
            _fan_out("all", ".", reviewers),
        ]

    return ScriptedChatModel(script=[survey, look_closer, report])


def look_closer(messages: list[BaseMessage]) -> list[dict[str, Any]]:
    """Have those who found something in the worst part of the tree rank its files together."""
    everywhere = calls(messages)[-1].tasks
    part = _worst_part([finding for task in everywhere for finding in _findings(task)])
    able = [task.agent for task in everywhere if task.status == "completed"]

    return [_fan_out("merge", part, able or [task.agent for task in everywhere])]


def report(messages: list[BaseMessage]) -> str:
    """Sum up what came of the race, the survey and the ranking, in this order."""
    race, survey, ranking = calls(messages)[-3:]
    return "\n\n".join([_survey(survey), _ranking(ranking), _licence(race)])


def _survey(call: Call) -> str:
    answered = sum(task.status == "completed" for task in call.tasks)
    found = sum(len(_findings(task)) for task in call.tasks)
    head = f"{counted(found, 'finding')} by {answered} of {counted(len(call.tasks), 'sub-agent')}:"

    return "\n".join([head, *(line for task in call.tasks for line in _lines(task))])


def _lines(task: Task) -> list[str]:
    if task.status != "completed":
        return [f"- {task.agent}: no answer, {task.status} ({task.error})"]

    found = _findings(task)
    head = f"- {task.agent}: {str(task.result).splitlines()[0]}"
    shown = [f"    {finding}" for finding in found[:_SHOWN]]
    return [head, *shown, *_and_more(len(found) - _SHOWN)]


def _ranking(call: Call) -> str:
    files = str(call.value).splitlines() if call.value else [f"no ranking: {call.text}"]
    shown = [f"    {line}" for line in files[:_RANKED]]

    return "\n".join(
        ["Where to begin, by all of them together:", *shown, *_and_more(len(files) - _RANKED)]
    )


def _licence(call: Call) -> str:
    if call.winner is None:
        ways = "; ".join(f"{task.agent}: {task.error}" for task in call.tasks)
        return f"Licence: not found ({ways or call.text})"

    others = Counter(task.status for task in call.tasks if task.agent != call.winner)
    rest = ", ".join(f"{count} {status}" for status, count in sorted(others.items()))
    return f"Licence: {call.value}, first found by {call.winner} (the others: {rest})"


def _worst_part(findings: list[Finding]) -> str:
    below = [part for part, _ in by_part(findings) if part != "."]
    return below[0] if below else "."


def _findings(task: Task) -> list[Finding]:
    return findings_in(str(task.result)) if task.status == "completed" else []


def _and_more(count: int) -> list[str]:
    return [f"    ... and {count} more"] if count > 0 else []


def _fan_out(aggregation: str, task: str, agents: Sequence[str]) -> dict[str, Any]:
    args = {"input": task, "agents": list(agents), "aggregation": aggregation}
    return {"name": "fan_out", "args": args}
