"""Sub-agents: named Runnables and functions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from agentos_parallel._core.works import call_of
from agentos_parallel.arguments import discarding, strict_call
from agentos_parallel.checks import seconds, shown, text

NAME_PATTERN = re.compile(r"[a-zA-Z0-9_-]{1,64}")


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
    max_concurrent: int | None = None
    throttler: Any = None

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
