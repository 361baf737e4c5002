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
from langchain_core.runnables import Runnable, RunnableConfig

from agentos_parallel._core.works import call_of, in_thread
from agentos_parallel.adapters.kinds import only_async, only_sync, unbound
from agentos_parallel.arguments import discarding, strict_call
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
        task_timeout: seconds that one of its tasks may take; None: the toolkit's; ``math.inf``: no
            limit.

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
        with discarding(self.runnable):
            call_of("runnable", self.runnable)
        if self.task_timeout is not None:
            seconds("task_timeout", self.task_timeout, none=" or None")


SubAgent.__init__ = strict_call(SubAgent.__init__)  # type: ignore[method-assign]  # made by dataclass


def by_name(agents: Iterable[SubAgent]) -> dict[str, SubAgent]:
    """The agents by their names.

    Raises:
        TypeError: something else stands among them.
        ValueError: there is none, or two have one name.
    """
    if not isinstance(agents, Iterable):
        raise TypeError(f"agents must be a list of SubAgents, got {shown(agents)}")
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
        return answer_of(await call_of("runnable", runnable)(task))
    given = {"messages": [HumanMessage(task)]} if takes_messages(runnable) else task
    return answer_of(await invoked(runnable, given, config, sync=sync))


async def invoked(runnable: Runnable[Any, Any], given: Any, config: Config, *, sync: bool) -> Any:
    """What *runnable* makes of *given*: called in a thread where it has no async way of its own.

    *sync* is for a sync caller: called in a thread wherever it has a sync way.
    """
    if not only_async(runnable) if sync else only_sync(runnable):
        try:
            return await in_thread(partial(runnable.invoke, given, config))
        except (NotImplementedError, TypeError) as error:
            # Parts that can't be seen from outside: async-only middleware, what a lambda returns.
            if not any(words in str(error) for words in _ONLY_ASYNC):
                raise
    return await runnable.ainvoke(given, config)


_ONLY_ASYNC = ("Synchronous implementation", "Cannot invoke a coroutine function synchronously")


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
