"""What the adapters' tests share: sub-agents of every form, calls of tools, a record of the trace.

A form makes a sub-agent of a function of the task's text, as people would write it. Each form is
there twice: around a sync function, and around one that is async only.
"""

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from operator import itemgetter
from typing import Any, TypeAlias
from uuid import UUID

from langchain.agents import create_agent
from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import (
    RouterRunnable,
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.graph import END, START, MessagesState, StateGraph

from agentos_parallel import ParallelToolkit, ScriptedChatModel, SubAgent

Body: TypeAlias = Callable[[str], Any]
AsyncBody: TypeAlias = Callable[[str], Awaitable[Any]]


# Calls.


def toolbox(*agents: SubAgent, **settings: Any) -> dict[str, BaseTool]:
    """The three tools over *agents*, by name."""
    return {tool.name: tool for tool in ParallelToolkit(agents, **settings).get_tools()}


def team(**runnables: Any) -> tuple[SubAgent, ...]:
    """Sub-agents by name."""
    return tuple(SubAgent(name, f"Does {name}.", each) for name, each in runnables.items())


def tool_call(tool: BaseTool, args: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "tool_call", "name": tool.name, "id": "call_1", "args": dict(args)}


def call(tool: BaseTool, **args: Any) -> ToolMessage:
    """Call it as an agent does, sync."""
    return checked(tool.invoke(tool_call(tool, args)))


async def acall(tool: BaseTool, **args: Any) -> ToolMessage:
    """Call it as an agent does, async."""
    return checked(await tool.ainvoke(tool_call(tool, args)))


def checked(message: Any) -> ToolMessage:
    """The message, once content and artifact are what they always are."""
    assert isinstance(message, ToolMessage)
    assert isinstance(message.content, str)
    assert message.content
    json.dumps(message.artifact, allow_nan=False)
    return message


def statuses(message: ToolMessage) -> list[str]:
    return [task["status"] for task in message.artifact["results"]]


def answers(message: ToolMessage) -> list[Any]:
    return [task["result"] for task in message.artifact["results"]]


def errors(message: ToolMessage) -> list[str | None]:
    """The type of each task's error."""
    return [(task["error"] or {}).get("type") for task in message.artifact["results"]]


# Agents.


def says(*steps: Any) -> ScriptedChatModel:
    return ScriptedChatModel(script=list(steps))


def supervisor(tools: Mapping[str, BaseTool], tool: str, args: Any, **settings: Any) -> Any:
    """A real agent that calls one tool and then repeats what it read."""
    script = [[{"name": tool, "args": args}], lambda messages: f"READ {messages[-1].text}"]
    return create_agent(says(*script), list(tools.values()), **settings)


def go(text: str = "go") -> dict[str, Any]:
    return {"messages": [("user", text)]}


def told(state: Mapping[str, Any]) -> ToolMessage:
    """The message of the tool that a supervisor called."""
    return checked(next(m for m in state["messages"] if isinstance(m, ToolMessage)))


def graph(node: Any, *, state: Any = MessagesState, **compiled: Any) -> Any:
    """A graph of one node."""
    builder: Any = StateGraph(state)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder.compile(**compiled)


def node_of(body: Body) -> Any:
    def node(state: MessagesState) -> Any:
        return {"messages": [AIMessage(body(state["messages"][-1].text))]}

    return node


def async_node_of(body: AsyncBody) -> Any:
    async def node(state: MessagesState) -> Any:
        return {"messages": [AIMessage(await body(state["messages"][-1].text))]}

    return node


class OwnModel(BaseChatModel):
    """A chat model that has nothing but ``_generate``, as many have."""

    body: Any

    @property
    def _llm_type(self) -> str:
        return "own"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._said(self.body(messages[-1].text))

    def _said(self, text: str) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])


class OwnAsyncModel(OwnModel):
    """One that speaks async as well."""

    abody: Any

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._said(await self.abody(messages[-1].text))


class OwnRunnable(Runnable[str, Any]):
    """A Runnable that somebody wrote by hand."""

    def __init__(self, body: Body) -> None:
        self.body = body

    def invoke(self, input: str, config: RunnableConfig | None = None, **_: Any) -> Any:  # noqa: A002
        return self.body(input)


class Caller:
    """An object with an async call."""

    def __init__(self, body: AsyncBody) -> None:
        self.body = body

    async def __call__(self, text: str) -> Any:
        return await self.body(text)


def structured(body: Body | None = None, abody: AsyncBody | None = None) -> StructuredTool:
    def taking(function: Any) -> Any:
        def sync(task: str) -> Any:
            return function(task)

        return sync

    def ataking(function: Any) -> Any:
        async def of_task(task: str) -> Any:
            return await function(task)

        return of_task

    return StructuredTool.from_function(
        func=None if body is None else taking(body),
        coroutine=None if abody is None else ataking(abody),
        name="worker",
        description="Works.",
    )


def branching(branch: Any) -> Any:
    return RunnableBranch((RunnableLambda(lambda _: False), RunnablePassthrough()), branch)


def subgraph(inner: Any) -> Any:
    return graph(inner)


def with_node_tool(tool: BaseTool) -> Any:
    """A real agent whose one tool does the work, and which repeats what that said."""

    def begin(messages: list[BaseMessage]) -> Any:
        return [{"name": "worker", "args": {"task": messages[-1].text}}]

    return create_agent(says(begin, lambda messages: messages[-1].text), [tool])


SYNC_FORMS: dict[str, Callable[[Body], Any]] = {
    "function": lambda body: body,
    "partial": functools.partial,
    "RunnableLambda": RunnableLambda,
    "bound RunnableLambda": lambda body: RunnableLambda(body).with_config(tags=["mine"]),
    "retried RunnableLambda": lambda body: RunnableLambda(body).with_retry(),
    "with fallbacks": lambda body: RunnableLambda(body).with_fallbacks([RunnableLambda(body)]),
    "chain": lambda body: RunnableLambda(body) | RunnableLambda(str),
    "bound chain": lambda body: (RunnableLambda(body) | RunnableLambda(str)).with_config(
        tags=["x"]
    ),
    "RunnableParallel": lambda body: RunnableParallel(a=RunnableLambda(body)) | itemgetter("a"),
    "RunnableBranch": lambda body: branching(RunnableLambda(body)),
    "assign": lambda body: (
        RunnableLambda(lambda text: {"text": text})
        | RunnablePassthrough.assign(answer=itemgetter("text") | RunnableLambda(body))
        | itemgetter("answer")
    ),
    "own Runnable": OwnRunnable,
    "tool": structured,
    "chat model": lambda body: OwnModel(body=body),
    "graph": lambda body: graph(node_of(body)),
    "bound graph": lambda body: graph(node_of(body)).with_config(tags=["mine"]),
    "subgraph": lambda body: subgraph(graph(node_of(body))),
}


def generated(body: AsyncBody) -> Any:
    async def generate(texts: AsyncIterator[str]) -> AsyncIterator[str]:
        yield await body("".join([text async for text in texts]))

    return RunnableGenerator(generate)


def alambda(body: AsyncBody) -> RunnableLambda[str, Any]:
    async def run(text: str) -> Any:
        return await body(text)

    return RunnableLambda(run)


def route_to_it(text: str) -> Any:
    return {"key": "it", "input": text}


def routed(body: AsyncBody) -> Any:
    """A graph in which only a route is async."""

    async def route(state: MessagesState) -> str:
        await body("")
        return END

    async_route: Any = route
    builder: Any = StateGraph(MessagesState)
    builder.add_node("node", node_of(str.upper))
    builder.add_edge(START, "node")
    builder.add_conditional_edges("node", async_route, [END])
    return builder.compile()


ASYNC_FORMS: dict[str, Callable[[AsyncBody], Any]] = {
    "function": lambda body: body,
    "partial": functools.partial,
    "object": Caller,
    "lambda around a coroutine": lambda body: lambda text: body(text),
    "RunnableLambda": alambda,
    "bound RunnableLambda": lambda body: alambda(body).with_config(tags=["mine"]),
    "retried RunnableLambda": lambda body: alambda(body).with_retry(),
    "with fallbacks": lambda body: alambda(body).with_fallbacks([alambda(body)]),
    "chain": lambda body: alambda(body) | RunnableLambda(str),
    "RunnableParallel": lambda body: RunnableParallel(a=alambda(body)) | itemgetter("a"),
    "RunnableBranch": lambda body: branching(alambda(body)),
    "assign": lambda body: (
        RunnableLambda(lambda text: {"text": text})
        | RunnablePassthrough.assign(answer=itemgetter("text") | alambda(body))
        | itemgetter("answer")
    ),
    "router": lambda body: RunnableLambda(route_to_it) | RouterRunnable({"it": alambda(body)}),
    "RunnableGenerator": generated,
    "tool": lambda body: structured(abody=body),
    "agent with an async tool": lambda body: with_node_tool(structured(abody=body)),
    "graph": lambda body: graph(async_node_of(body)),
    "bound graph": lambda body: graph(async_node_of(body)).with_config(tags=["mine"]),
    "subgraph": lambda body: subgraph(graph(async_node_of(body))),
    "graph of a chain": lambda body: graph(
        RunnableLambda(lambda state: state["messages"][-1].text)
        | alambda(body)
        | RunnableLambda(lambda text: {"messages": [AIMessage(text)]})
    ),
    "graph with an async route": routed,
}


# Traces.


class Recorder(BaseCallbackHandler):
    """Keeps the tree of runs: each one's kind, name, parent and tags, and all its ends.

    An end is "end", or the error.
    """

    def __init__(self) -> None:
        self.kinds: dict[UUID, str] = {}
        self.names: dict[UUID, str] = {}
        self.parents: dict[UUID, UUID | None] = {}
        self.tags: dict[UUID, list[str]] = {}
        self.ends: dict[UUID, list[str | BaseException]] = {}

    def _start(
        self,
        kind: str,
        serialized: Any,
        *args: Any,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.kinds[run_id] = kind
        self.names[run_id] = name or (serialized or {}).get("name", "?")
        self.parents[run_id] = parent_run_id
        self.tags[run_id] = kwargs.get("tags") or []

    def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
        self._start("chain", *args, **kwargs)

    def on_tool_start(self, *args: Any, **kwargs: Any) -> None:
        self._start("tool", *args, **kwargs)

    def on_llm_start(self, *args: Any, **kwargs: Any) -> None:
        self._start("model", *args, **kwargs)

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self._start("model", *args, **kwargs)

    def on_retriever_start(self, *args: Any, **kwargs: Any) -> None:
        self._start("retriever", *args, **kwargs)

    def _end(self, *_: Any, run_id: UUID, **kwargs: Any) -> None:
        self.ends.setdefault(run_id, []).append("end")

    def _error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self.ends.setdefault(run_id, []).append(error)

    on_chain_end = on_tool_end = on_llm_end = on_retriever_end = _end
    on_chain_error = on_tool_error = on_llm_error = on_retriever_error = _error

    @property
    def ended(self) -> set[UUID]:
        return set(self.ends)

    def error(self, name: str) -> str:
        """The type of what the only run of that name ended with."""
        [run_id] = self.named(name)
        [end] = self.ends[run_id]
        return type(end).__name__

    def tree(self) -> list[str]:
        """A line for each run, indented below its parent: its kind, name and ends."""
        roots = [run for run, parent in self.parents.items() if parent not in self.names]
        return [line for root in roots for line in self._lines(root, "")]

    def _lines(self, run_id: UUID, indent: str) -> Iterator[str]:
        ends = [end if isinstance(end, str) else type(end).__name__ for end in self.ends_of(run_id)]
        yield f"{indent}{self.kinds[run_id]} {self.names[run_id]}: {', '.join(ends) or 'open'}"
        for child, parent in self.parents.items():
            if parent == run_id:
                yield from self._lines(child, f"{indent}  ")

    def ends_of(self, run_id: UUID) -> list[str | BaseException]:
        """How it ended, once for each time; nothing while it is open."""
        return self.ends.get(run_id, [])

    def named(self, name: str) -> list[UUID]:
        return [run_id for run_id, each in self.names.items() if each == name]

    def above(self, run_id: UUID) -> Iterator[str]:
        """The names of its parents, the nearest first."""
        parent = self.parents[run_id]
        while parent is not None:
            yield self.names[parent]
            parent = self.parents[parent]

    def parent(self, run_id: UUID) -> str | None:
        return next(self.above(run_id), None)


def running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
