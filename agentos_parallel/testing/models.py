"""A chat model that says what its script tells it to: no key, no network, no chance.

What it says next is decided by the messages it receives and by nothing else. It keeps no cursor
that moves, so one instance serves any number of conversations, threads and event loops at once,
and a conversation that is resumed or repeated hears the same words again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from langchain_core.caches import BaseCache
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.tool import ToolCall, tool_call
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import SkipValidation, field_validator

Said: TypeAlias = AIMessage | str | Sequence[Mapping[str, Any]]
Answer: TypeAlias = Callable[[list[BaseMessage]], Said]
Script: TypeAlias = Answer | Sequence[Said | Answer]

_SAID = "an AIMessage, a text or a list of tool calls"
_STEP = f"{_SAID}, or a sync function of the messages"


class ScriptExhaustedError(RuntimeError):
    """The conversation went on after the last step of the script."""


class ScriptedChatModel(BaseChatModel):
    """A chat model for tests and examples that plays a script.

    A step is an `AIMessage`, a text, a list of tool calls (`{"name": ..., "args": {...}}`; ids are
    added where there are none), or a sync function from the messages so far to one of these. Which
    step is due is counted from the `AIMessage`s among the messages received: the first request
    gets step 0. Each answer is a copy, and its `response_metadata["offered_tools"]` names the
    tools that were bound when it was given.

    It does not stream by itself (a stream is one chunk, the whole answer), counts no tokens, and
    ignores `stop`. Where middleware drops or summarises messages the count goes wrong: use a
    function there.

    Attributes:
        script: The steps in order, or one function that answers every request.
        cache: Off. LangChain's cache knows models by their settings and would mix up two scripts.

    Raises:
        ScriptExhaustedError: From a call, when more answers are asked for than there are steps.
        TypeError: When a function returns something that is not a step.
        ValueError: From the constructor, for a script or a step of a wrong kind.
    """

    script: SkipValidation[Script]
    cache: BaseCache | bool | None = False

    @field_validator("script")
    @classmethod
    def _check_script(cls, script: Any) -> Any:
        if callable(script):
            return _checked(script, "script")
        if isinstance(script, str) or not isinstance(script, Sequence):
            kind = type(script).__name__
            raise ValueError(f"script must be a list of steps or a function, got {kind}")

        return tuple(_checked(step, f"script[{index}]") for index, step in enumerate(script))

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer *tools* to the model; the script alone decides which it calls.

        Args:
            tools: Whatever a LangChain chat model takes: tools, functions, classes or dicts.
            tool_choice: Taken and ignored, as every other keyword is.
            **kwargs: Taken and ignored.

        Returns:
            The model with the tools bound, in the form OpenAI's API has for them.
        """
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        position = sum(isinstance(message, AIMessage) for message in messages)
        message = _as_message(self._said(messages, position), position)
        message.response_metadata["offered_tools"] = _names(kwargs.get("tools") or [])

        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        # On the loop, not in a thread as the default does: under a virtual clock a thread ends
        # at a random time.
        return self._generate(messages, stop, **kwargs)

    def _said(self, messages: list[BaseMessage], position: int) -> Said:
        if callable(self.script):
            return self.script(messages)
        if position >= len(self.script):
            raise ScriptExhaustedError(
                f"the script has {len(self.script)} steps and answer {position + 1} was asked for;"
                f" the last message was {_quoted(messages)}: add a step, or script a function"
            )

        step = self.script[position]
        return step(messages) if callable(step) else step


def _checked(step: Any, where: str) -> Any:
    """Return *step* if a script may hold it, else say *where* it stands and what is allowed."""
    if inspect.iscoroutinefunction(step):
        raise ValueError(f"{where} must be {_STEP}, got an async function")
    if not callable(step) and not _is_said(step):
        raise ValueError(f"{where} must be {_STEP}, got {step!r:.80}")

    return step


def _is_said(step: object) -> bool:
    if isinstance(step, AIMessage | str):
        return True

    return isinstance(step, Sequence) and all(
        isinstance(call, Mapping) and "name" in call and "args" in call for call in step
    )


def _as_message(said: Said, position: int) -> AIMessage:
    """Make a fresh message of *said*: agents write an id and a name into what they receive."""
    if not _is_said(said):
        raise TypeError(f"step {position} must return {_SAID}, got {said!r:.80}")
    if isinstance(said, AIMessage):
        message = said.model_copy(deep=True)
    elif isinstance(said, str):
        message = AIMessage(said)
    else:
        message = AIMessage("", tool_calls=[_tool_call(call) for call in said])

    for index, call in enumerate(message.tool_calls):
        call["id"] = call["id"] or f"call_{position}_{index}"
    return message


def _tool_call(call: Mapping[str, Any]) -> ToolCall:
    return tool_call(name=call["name"], args=dict(call["args"]), id=call.get("id"))


def _names(tools: Sequence[dict[str, Any]]) -> list[str]:
    functions = [tool.get("function", tool) for tool in tools]
    return [str(function.get("name", function.get("type"))) for function in functions]


def _quoted(messages: list[BaseMessage]) -> str:
    return f"{messages[-1].type} {messages[-1].text!r:.80}" if messages else "none"
