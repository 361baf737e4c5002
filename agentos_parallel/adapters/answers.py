"""What a sub-agent is given, and the answer in what it returned."""

from __future__ import annotations

import sys
import uuid
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import (
    Runnable,
    RunnableParallel,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.tools import BaseTool

from agentos_parallel._core.works import call_of
from agentos_parallel.adapters.kinds import is_remote
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
    if is_remote(_first(agent.runnable)):
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
    state = output
    if isinstance(output, _graph_output()):
        output = output.value
        # In this form, and no other, the state of a graph may be a model.
        state = output if isinstance(output, Mapping) else getattr(output, "__dict__", None)
    if isinstance(output, AIMessage):
        return _said(output)
    if not isinstance(state, Mapping):
        return output
    if state.get("structured_response") is not None:
        return state["structured_response"]
    messages = state.get("messages")
    if not _many(messages) or (messages and not any(map(_is_message, messages))):
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
        asked = "; ".join(map(_question, questions if _many(questions) else [questions]))
        raise HumanNeededError(
            f"it asks a human, whom nobody can reach here: {shorten(asked, _QUESTION_CHARS)}"
        )


def takes_messages(runnable: Any) -> bool:
    """Whether *runnable* takes a state with messages, by its schema."""
    first = _first(runnable)
    if is_remote(first):
        return True
    if isinstance(first, RunnableParallel):
        return all(map(takes_messages, first.steps__.values()))
    if not isinstance(first, Runnable) or isinstance(first, BaseTool | BaseChatModel):
        return False
    builder = getattr(first, "builder", None)
    if builder is not None and not isinstance(first, RunnableBindingBase):
        schemas = getattr(builder, "schemas", {})
        own = getattr(first, "channels", ())
        return "messages" in schemas.get(getattr(builder, "input_schema", None), own)
    kinds = list(_input_kinds(first))
    text = any(kind.get("type") == "string" for kind in kinds)
    return not text and any("messages" in kind.get("properties", ()) for kind in kinds)


def _input_kinds(runnable: Runnable[Any, Any]) -> Iterator[Mapping[str, Any]]:
    """The JSON schemas of what *runnable* takes, one or the other."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pydantic, about others' field names
            schema = runnable.get_input_jsonschema()
    except Exception:  # of schemas that pydantic can't make: nobody is told of messages
        return
    named = {f"#/$defs/{name}": kind for name, kind in schema.get("$defs", {}).items()}
    for kind in schema.get("anyOf", [schema]):
        yield named.get(kind.get("$ref"), kind)


def _first(runnable: Any) -> Any:
    """What gets the input of *runnable*, and says of what type it is."""
    while isinstance(runnable, RunnableBindingBase) and runnable.custom_input_type is None:
        runnable = runnable.bound
    if isinstance(runnable, RunnableSequence):
        return _first(runnable.first)
    return _first(runnable.runnable) if isinstance(runnable, RunnableWithFallbacks) else runnable


def _is_message(value: Any) -> bool:
    in_dict = isinstance(value, Mapping) and not {"role", "type"}.isdisjoint(value)
    return in_dict or isinstance(value, BaseMessage)


def _said(message: Any) -> str:
    """The text of a message of the agent; of others, and where it has none, the empty one."""
    if isinstance(message, AIMessage):
        content = getattr(message, "content", None)  # not .text, which raises for odd ones
    elif isinstance(message, Mapping) and _is_of_the_agent(message):
        content = message.get("content")
    else:
        return ""
    if not _many(content):
        return "" if content is None else str(content)
    return "".join(map(_text_of, content))


def _is_of_the_agent(message: Mapping[Any, Any]) -> bool:
    return message.get("role") in _AGENT_ROLES or message.get("type") in _AGENT_TYPES


_AGENT_ROLES = ("assistant", "ai")
_AGENT_TYPES = ("ai", "AIMessageChunk")


def _many(value: Any) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    return isinstance(value, list | tuple)


def _text_of(block: Any) -> str:
    if isinstance(block, Mapping) and block.get("type") == "text":
        block = block.get("text")
    return block if isinstance(block, str) else ""


def _graph_output() -> Any:
    """What a graph returns in LangGraph's newer form, if this process can have any."""
    return getattr(sys.modules.get("langgraph.types"), "GraphOutput", ())


def _question(interrupt: Any) -> str:
    from_server = isinstance(interrupt, Mapping) and _OF_INTERRUPT.issuperset(interrupt)
    found = interrupt.get("value", interrupt) if from_server else interrupt
    value = to_jsonable(getattr(found, "value", found))
    return value if isinstance(value, str) else str(value)


# What a server sends of one, in all its versions.
_OF_INTERRUPT = {"value", "id", "response_schema", "interrupt_id", "ns", "resumable", "when"}
