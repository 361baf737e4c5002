"""What a sub-agent is given, and the answer in what it returned."""

from __future__ import annotations

import sys
import uuid
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableSequence, RunnableWithFallbacks
from langchain_core.tools import BaseTool

from agentos_parallel._core.works import call_of
from agentos_parallel.adapters.kinds import unbound
from agentos_parallel.jsonable import to_jsonable
from agentos_parallel.results import shorten

if TYPE_CHECKING:
    from agentos_parallel.adapters.subagents import SubAgent

_QUESTION_CHARS = 500


class HumanNeededError(RuntimeError):
    """A sub-agent stopped to ask a human, outside a graph that could pass the question on."""


async def given_to(agent: SubAgent, text: str) -> Any:
    """What the runnable of *agent* is given for the task *text*."""
    if agent.input is not None:
        return await call_of("input", agent.input)(text)
    if is_remote(agent.runnable):
        return {"messages": [{"role": "user", "content": text}]}
    if agent.takes_messages:
        # With an id, for a second attempt may find the first one's messages.
        return {"messages": [HumanMessage(text, id=str(uuid.uuid4()))]}
    return text


async def answer_from(agent: SubAgent, output: Any) -> Any:
    """The answer in what the runnable of *agent* returned.

    Raises:
        HumanNeededError: *output* is a question to a human.
    """
    check_answered(output)
    if agent.output is not None:
        return await call_of("output", agent.output)(output)
    return answer_of(output)


def answer_of(output: Any) -> Any:
    """A structured response, the text of the last message of the agent that has any, or itself.

    None for an agent none of whose messages has text.
    """
    if isinstance(output, AIMessage):
        return str(output.text)
    if not isinstance(output, Mapping):
        return output
    if output.get("structured_response") is not None:
        return output["structured_response"]
    if "messages" not in output:
        return output
    return next(filter(None, map(_said, reversed(output["messages"]))), None)


def check_answered(output: Any) -> None:
    """Refuse a question in place of an answer.

    Raises:
        HumanNeededError: saying what was asked.
    """
    if isinstance(output, Mapping) and output.get("__interrupt__"):
        asked = "; ".join(_question(each) for each in output["__interrupt__"])
        raise HumanNeededError(
            f"it asks a human, whom nobody can reach here: {shorten(asked, _QUESTION_CHARS)}"
        )


def takes_messages(runnable: Any) -> bool:
    """Whether *runnable* takes a state with messages, by its schema."""
    first = _first(runnable)
    if not isinstance(first, Runnable) or isinstance(first, BaseTool | BaseChatModel):
        return False
    if hasattr(first, "channels"):
        builder = getattr(first, "builder", None)
        schemas = getattr(builder, "schemas", {})
        return "messages" in schemas.get(getattr(builder, "input_schema", None), first.channels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pydantic, about others' field names
            schema = first.get_input_jsonschema()
    except Exception:  # of schemas that pydantic can't make: nobody is told of messages
        return False
    named = schema.get("$defs", {}).get(schema.get("$ref", "").rpartition("/")[2], schema)
    return "messages" in named.get("properties", ())


def is_remote(runnable: Any) -> bool:
    """Whether it is a graph on a server, which sends and takes messages as dicts."""
    remote = sys.modules.get("langgraph.pregel.remote")
    return isinstance(unbound(runnable), getattr(remote, "RemoteGraph", ()))


def _first(runnable: Any) -> Any:
    """What gets the input of *runnable*."""
    bare = unbound(runnable)
    if isinstance(bare, RunnableSequence):
        return _first(bare.first)
    return _first(bare.runnable) if isinstance(bare, RunnableWithFallbacks) else bare


def _said(message: Any) -> str:
    """The text of a message of the agent; of others, and where it has none, the empty one."""
    if isinstance(message, AIMessage):
        return str(message.text)
    if not isinstance(message, Mapping):
        return ""
    if message.get("role") != "assistant" and message.get("type") not in _OF_THE_AGENT:
        return ""
    return str(AIMessage(message.get("content") or "").text)


_OF_THE_AGENT = ("ai", "AIMessageChunk")


def _question(interrupt: Any) -> str:
    value = to_jsonable(getattr(interrupt, "value", interrupt))
    if isinstance(value, Mapping) and "value" in value:  # from a server
        value = value["value"]
    return value if isinstance(value, str) else str(value)
