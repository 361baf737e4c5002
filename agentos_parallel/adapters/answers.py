"""What a sub-agent is given, and the answer in what it returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage

from agentos_parallel.adapters.kinds import unbound


class HumanNeededError(RuntimeError):
    """A sub-agent stopped to ask a human, outside a graph that could pass the question on."""


def input_of(runnable: Any, text: str) -> Any:
    """What *runnable* takes, made of the task's *text*: a message for a state with messages."""
    return {"messages": [HumanMessage(text)]} if takes_messages(runnable) else text


def takes_messages(runnable: Any) -> bool:
    """Whether *runnable* is a graph whose state has messages."""
    return "messages" in getattr(unbound(runnable), "channels", ())


async def given_to(agent: Any, text: str) -> Any:
    """What the runnable of *agent* is given."""
    return input_of(agent.runnable, text)


async def answer_from(agent: Any, output: Any) -> Any:
    """The answer in what the runnable of *agent* returned."""
    return answer_of(check_answered(output))


def check_answered(output: Any) -> Any:
    """*output*, unless it is a question.

    Raises:
        HumanNeededError: it is.
    """
    if isinstance(output, Mapping) and output.get("__interrupt__"):
        raise HumanNeededError(f"it asks a human: {output['__interrupt__']!r}")
    return output


def answer_of(output: Any) -> Any:
    """The answer in what a Runnable returned: a structured response, a message's text, or itself.

    Raises:
        HumanNeededError: the output is a question to a human.
    """
    if isinstance(output, AIMessage):
        return output.text
    if not isinstance(output, Mapping):
        return output
    if output.get("__interrupt__"):
        raise HumanNeededError(f"it asks a human: {output['__interrupt__']!r}")
    if output.get("structured_response") is not None:
        return output["structured_response"]
    if "messages" not in output:
        return output
    texts = (m.text for m in reversed(output["messages"]) if isinstance(m, AIMessage))
    return next(filter(None, texts), None)
