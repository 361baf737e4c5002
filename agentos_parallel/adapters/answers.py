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
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.tools import BaseTool

from agentos_parallel._core.works import call_of
from agentos_parallel.adapters.kinds import graphs_of, is_remote
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
    if not agent.takes_messages:
        return text
    if any(map(is_remote, graphs_of(agent.runnable))):
        return {"messages": [{"role": "user", "content": text}]}
    # With an id, for a second attempt may find the first one's messages.
    return {"messages": [HumanMessage(text, id=str(uuid.uuid4()))]}


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
    if isinstance(output, _graph_output()):
        output = output.value
    if isinstance(output, AIMessage):
        return str(output.text)
    if not isinstance(output, Mapping):
        return output
    if output.get("structured_response") is not None:
        return output["structured_response"]
    messages = output.get("messages")
    if not isinstance(messages, list | tuple):
        return output
    return next(filter(None, map(_said, reversed(messages))), None)


def check_answered(output: Any) -> None:
    """Refuse a question in place of an answer.

    Raises:
        HumanNeededError: saying what was asked.
    """
    questions = output.get("__interrupt__") if isinstance(output, Mapping) else None
    if isinstance(output, _graph_output()):
        questions = output.interrupts
    if questions:
        asked = "; ".join(map(_question, questions))
        raise HumanNeededError(
            f"it asks a human, whom nobody can reach here: {shorten(asked, _QUESTION_CHARS)}"
        )


def takes_messages(runnable: Any) -> bool:
    """Whether *runnable* takes a state with messages, by its schema."""
    first = _first(runnable)
    if is_remote(first):
        return True
    if not isinstance(first, Runnable) or isinstance(first, BaseTool | BaseChatModel):
        return False
    builder = getattr(first, "builder", None)
    if builder is not None and not isinstance(first, RunnableBindingBase):
        schemas = getattr(builder, "schemas", {})
        own = getattr(first, "channels", ())
        return "messages" in schemas.get(getattr(builder, "input_schema", None), own)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pydantic, about others' field names
            schema = first.get_input_jsonschema()
    except Exception:  # of schemas that pydantic can't make: nobody is told of messages
        return False
    named = schema.get("$defs", {}).get(schema.get("$ref", "").rpartition("/")[2], schema)
    return "messages" in named.get("properties", ())


def _first(runnable: Any) -> Any:
    """What gets the input of *runnable*, and says of what type it is."""
    while isinstance(runnable, RunnableBindingBase) and runnable.custom_input_type is None:
        runnable = runnable.bound
    if isinstance(runnable, RunnableSequence):
        return _first(runnable.first)
    return _first(runnable.runnable) if isinstance(runnable, RunnableWithFallbacks) else runnable


def _said(message: Any) -> str:
    """The text of a message of the agent; of others, and where it has none, the empty one."""
    if isinstance(message, AIMessage):
        return str(message.text)
    if not isinstance(message, Mapping):
        return ""
    if message.get("role") != "assistant" and message.get("type") not in _OF_THE_AGENT:
        return ""
    content = message.get("content")
    if not isinstance(content, list):
        return "" if content is None else str(content)
    return "".join(map(_text_of, content))


_OF_THE_AGENT = ("ai", "AIMessageChunk")


def _text_of(block: Any) -> str:
    if isinstance(block, Mapping) and block.get("type") == "text":
        block = block.get("text")
    return block if isinstance(block, str) else ""


def _graph_output() -> Any:
    """What a graph returns in LangGraph's newer form, if this process can have any."""
    return getattr(sys.modules.get("langgraph.types"), "GraphOutput", ())


def _question(interrupt: Any) -> str:
    from_server = isinstance(interrupt, Mapping)
    found = interrupt.get("value", interrupt) if from_server else interrupt
    value = to_jsonable(getattr(found, "value", found))
    return value if isinstance(value, str) else str(value)
