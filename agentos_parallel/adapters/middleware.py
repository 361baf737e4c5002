"""Limits for the tool calls that a model makes itself: middleware for any agent.

An agent makes each call by itself, in a node or a thread of its own; here each is a run of one on
throttlers that all of them share.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, Self, TypeAlias, TypedDict, cast

from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langchain_core.utils.pydantic import TypeBaseModel

from agentos_parallel._core.threads import run_sync
from agentos_parallel._core.works import from_thread, in_thread
from agentos_parallel.adapters.content import why
from agentos_parallel.adapters.kinds import only_async, only_sync
from agentos_parallel.arguments import strict_call
from agentos_parallel.checks import seconds, shown, whole_number
from agentos_parallel.executor import parallel_gather
from agentos_parallel.results import GatherResult, TaskResult, TaskStatus, shorten
from agentos_parallel.throttle import TaskThrottler, throttler_or_none

try:
    from langchain.agents.middleware import AgentMiddleware
    from langchain.agents.middleware.types import ToolCallRequest
    from langgraph.types import Command
except ImportError as error:
    raise ImportError(
        "ParallelToolsMiddleware needs langchain: pip install 'agentos-parallel[agents]'"
    ) from error

Answer: TypeAlias = ToolMessage | Command[Any]
OnError: TypeAlias = Literal["message", "raise"]

_ERROR_CHARS = 2_000


class ToolLimits(TypedDict, total=False):
    """The limits of one tool."""

    task_timeout: float | None
    max_concurrent: int


class ParallelToolsMiddleware(AgentMiddleware[Any, Any, Any]):
    """One limit over an agent's tool calls, a timeout for each, and none that takes others along.

    The limit is one for all runs of the agents that the middleware is given to. Sync tools run in
    threads that hold up neither the agent nor the interpreter's exit. Interrupts and commands pass.
    Middleware behind it in the list runs inside a call: the attempts of ``ToolRetryMiddleware``
    count as one call there, and each as a call of its own if it stands before it.

    Args:
        max_concurrent: calls at once.
        task_timeout: seconds for one call, counted from its slot; None: no limit.
        throttler: slots shared with others, beside that limit.
        on_error: "message": a call that raises, is cancelled or takes too long becomes an error
            message for the model; "raise": what it raised comes out of the agent.
        per_tool: by the name of a tool its own ``task_timeout`` (in place of the general one) and
            ``max_concurrent`` (beside the general one).

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is allowed.

    Example:
        >>> from langchain.agents import create_agent
        >>> from agentos_parallel import ScriptedChatModel
        >>> def search(query: str) -> str:
        ...     "Search."
        ...     raise ConnectionError("no network")
        >>> limits = ParallelToolsMiddleware(per_tool={"search": {"task_timeout": 20}})
        >>> script = [[{"name": "search", "args": {"query": "tides"}}], lambda told: told[-1].text]
        >>> agent = create_agent(ScriptedChatModel(script=script), [search], middleware=[limits])
        >>> agent.invoke({"messages": [("user", "What of tides?")]})["messages"][-1].text
        'failed: ConnectionError: no network'
    """

    @strict_call
    def __init__(
        self,
        max_concurrent: int = 8,
        task_timeout: float | None = None,
        throttler: TaskThrottler | None = None,
        on_error: OnError = "message",
        per_tool: Mapping[str, ToolLimits] | None = None,
    ) -> None:
        super().__init__()
        if on_error not in ("message", "raise"):
            raise ValueError(f'on_error must be "message" or "raise", got {shown(on_error)}')
        own = TaskThrottler(whole_number("max_concurrent", max_concurrent))
        given = throttler_or_none(throttler)
        shared = (own,) if given is None else (own, given)
        self._raises = on_error == "raise"
        self._limits = _Limits(_timeout("task_timeout", task_timeout), shared)
        self._of_tools = _limits_of_tools(per_tool, self._limits)

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Answer]
    ) -> Answer:
        """Run one call within the limits, for a sync agent."""
        if request.tool is not None and only_async(request.tool):
            request = request.override(tool=_AsyncTool.of(request.tool))
        return run_sync(self._answer(request, partial(handler, request)))

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Answer]]
    ) -> Answer:
        """Run one call within the limits, for an async agent."""
        if request.tool is not None and only_sync(request.tool):
            request = request.override(tool=_SyncTool.of(request.tool))

        async def work() -> Answer:
            return await handler(request)

        return await self._answer(request, work)

    async def _answer(self, request: ToolCallRequest, work: Callable[[], Any]) -> Answer:
        name = request.tool_call["name"]
        limits = self._of_tools.get(name, self._limits)
        gathered: GatherResult[Answer] = await parallel_gather(
            work,
            max_concurrent=None,
            timeout=None,
            task_timeout=limits.task_timeout,
            throttler=lambda _: limits.throttlers,
        )
        [task] = gathered.results
        if task.status is TaskStatus.COMPLETED:
            return cast("Answer", task.result)
        if self._raises and task.error is not None:
            raise task.error
        return ToolMessage(
            _told(task), name=name, tool_call_id=request.tool_call["id"], status="error"
        )


class _Limits(NamedTuple):
    """What bounds the calls of a tool."""

    task_timeout: float | None
    throttlers: tuple[TaskThrottler, ...]


def _limits_of_tools(given: Any, general: _Limits) -> dict[str, _Limits]:
    """Those of each tool that has some of its own."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"per_tool must be a dict by the names of tools, got {shown(given)}")
    return {name: _limits_of(f"per_tool[{name!r}]", own, general) for name, own in given.items()}


def _limits_of(what: str, given: Any, general: _Limits) -> _Limits:
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} must be a dict of its limits, got {shown(given)}")
    for key in given:
        if key not in ToolLimits.__annotations__:
            known = ", ".join(ToolLimits.__annotations__)
            raise ValueError(f"{what}: {shown(key)} is not known; allowed are {known}")
    timeout, throttlers = general
    if "task_timeout" in given:
        timeout = _timeout(f"{what}: task_timeout", given["task_timeout"])
    if "max_concurrent" in given:
        limit = whole_number(f"{what}: max_concurrent", given["max_concurrent"])
        throttlers = (TaskThrottler(limit), *throttlers)
    return _Limits(timeout, throttlers)


def _timeout(name: str, given: Any) -> float | None:
    return None if given is None else seconds(name, given, none=" or None")


def _told(task: TaskResult[Any]) -> str:
    """What the model reads of a call that gave nothing."""
    words, error = why(task)
    return shorten(f"{words}: {error}" if error else words, _ERROR_CHARS)


class _OtherWay(BaseTool):
    """A tool that has one way to be called, called the other way; all else is the tool's."""

    tool: BaseTool

    @classmethod
    def of(cls, tool: BaseTool) -> Self:
        """One that does what *tool* does."""
        return cls(
            tool=tool, name=tool.name, description=tool.description, args_schema=tool.args_schema
        )

    def get_input_schema(self, config: RunnableConfig | None = None) -> TypeBaseModel:
        """As the tool's."""
        return self.tool.get_input_schema(config)

    def _run(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("the tool behind it is called")


class _AsyncTool(_OtherWay):
    """One that is async only, in a thread of ours: the loop that waits for that awaits it."""

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002 - LangChain's name
        """Call the tool."""
        return from_thread(self.tool.ainvoke(input, config, **kwargs))


class _SyncTool(_OtherWay):
    """One that is sync only, called in a thread of ours: LangChain's hold up the exit."""

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002 - LangChain's name
        """Call the tool."""
        return await in_thread(partial(self.tool.invoke, input, config, **kwargs))
