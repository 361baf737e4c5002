"""Sub-agents: named Runnables and functions, each made a function of a text.

A sub-agent is called with its sync ``invoke`` in the core's threads where it has no async way of
its own: its ``ainvoke`` would run in the loop's default pool, which ``asyncio.run`` joins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnableSequence
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.tools import BaseTool, StructuredTool

from agentos_parallel._core.works import in_thread, is_async
from agentos_parallel.checks import seconds, shown, text

NAME_PATTERN = re.compile(r"[a-zA-Z0-9_-]{1,64}")

Config: TypeAlias = RunnableConfig | None


@dataclass(frozen=True, slots=True)
class SubAgent:
    """An agent that others hand tasks to.

    Args:
        name: how a model calls it: letters, digits, ``_`` and ``-``, at most 64.
        description: what it is good for, for the model that chooses.
        runnable: a ``create_agent`` graph or other LangGraph graph with messages, a chain, a chat
            model, a tool, or a function of the task's text, sync or async.
        task_timeout: seconds that one of its tasks may take; None: the toolkit's.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is allowed.

    Example:
        >>> SubAgent("shout", "Says it louder.", str.upper).name
        'shout'
    """

    name: str
    description: str
    runnable: Any
    task_timeout: float | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        if not NAME_PATTERN.fullmatch(text("name", self.name)):
            raise ValueError(
                "name must be 1 to 64 letters, digits, _ or -, as models know no other names, "
                f"got {shown(self.name)}"
            )
        text("description", self.description)
        if not (isinstance(self.runnable, Runnable) or callable(self.runnable)):
            raise TypeError(
                "runnable must be a LangChain Runnable or a function of the task's text, "
                f"got {shown(self.runnable)}"
            )
        if self.task_timeout is not None:
            seconds("task_timeout", self.task_timeout, none=" or None")


def by_name(agents: Iterable[SubAgent]) -> dict[str, SubAgent]:
    """The agents by their names.

    Raises:
        TypeError: something else stands among them.
        ValueError: there is none, or two have one name.
    """
    named: dict[str, SubAgent] = {}
    for agent in agents:
        if not isinstance(agent, SubAgent):
            raise TypeError(f"agents must be SubAgents, got {shown(agent)}")
        if agent.name in named:
            raise ValueError(f"agents must have names of their own, got {agent.name!r} twice")
        named[agent.name] = agent
    if not named:
        raise ValueError("agents must name at least one SubAgent, got none")
    return named


async def ask(agent: SubAgent, task: str, config: Config, *, sync: bool) -> Any:
    """Hand *task* to *agent* and give its answer.

    Args:
        agent: who is asked.
        task: what it is to do.
        config: the callbacks that make it a child in the trace, or None.
        sync: the caller is sync: prefer the agent's sync methods.

    Raises:
        HumanNeededError: it asks a human, whom nobody can reach here.
    """
    runnable = agent.runnable
    if not isinstance(runnable, Runnable):
        return await (runnable(task) if is_async(runnable) else in_thread(runnable, task))
    given = {"messages": [HumanMessage(task)]} if takes_messages(runnable) else task
    in_a_thread = not only_async(runnable) if sync else only_sync(runnable)
    if in_a_thread:
        return answer_of(await in_thread(partial(runnable.invoke, given, config)))
    return answer_of(await runnable.ainvoke(given, config))


class HumanNeededError(RuntimeError):
    """A sub-agent stopped to ask a human, outside a graph that could pass the question on."""


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


def takes_messages(runnable: Any) -> bool:
    """Whether *runnable* is a graph whose state has messages."""
    runnable = unbound(runnable)
    return "messages" in getattr(runnable, "channels", ())


def unbound(runnable: Any) -> Any:
    """What stands behind ``with_config``, ``bind`` and the like."""
    while isinstance(runnable, RunnableBindingBase):
        runnable = runnable.bound
    return runnable


def only_sync(runnable: Any) -> bool:
    """Whether its ``ainvoke`` would be its ``invoke`` in a pool."""
    runnable = unbound(runnable)
    if isinstance(runnable, RunnableLambda):
        return not hasattr(runnable, "afunc")
    if isinstance(runnable, StructuredTool):
        return runnable.coroutine is None
    if isinstance(runnable, BaseTool):
        return type(runnable)._arun is BaseTool._arun
    if isinstance(runnable, RunnableSequence):
        return all(map(only_sync, runnable.steps))
    return type(runnable).ainvoke is Runnable.ainvoke


def only_async(runnable: Any) -> bool:
    """Whether its ``invoke`` would raise, for some part of it is a coroutine function alone."""
    runnable = unbound(runnable)
    if isinstance(runnable, RunnableLambda):
        return not hasattr(runnable, "func")
    if isinstance(runnable, StructuredTool):
        return runnable.func is None
    if isinstance(runnable, RunnableSequence):
        return any(map(only_async, runnable.steps))
    return any(_node_only_async(node.bound) for node in getattr(runnable, "nodes", {}).values())


def _node_only_async(bound: Any) -> bool:
    """The same of a graph's node: LangGraph's wrapper of a function, or a node with tools."""
    tools = getattr(bound, "tools_by_name", {}).values()
    if any(map(only_async, tools)):
        return True
    if isinstance(bound, Runnable) and getattr(bound, "func", bound) is not None:
        return False
    return getattr(bound, "afunc", None) is not None
