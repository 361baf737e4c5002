"""Sub-agents: named Runnables and functions, and the dicts that stand for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any

from agentos_parallel._core.works import call_of
from agentos_parallel.adapters.answers import takes_messages
from agentos_parallel.arguments import discarding, strict_call
from agentos_parallel.checks import seconds, shown, text, whole_number
from agentos_parallel.throttle import KeptThrottler, TaskThrottler

NAME_PATTERN = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class SubAgent:
    """An agent that others hand tasks to.

    Args:
        name: how a model calls it: letters, digits, ``_`` and ``-``, at most 64.
        description: what it is good for, for the model that chooses.
        runnable: a ``create_agent`` graph, a deep agent or other LangGraph graph, a
            ``RemoteGraph``, a chain, a chat model, a tool, or a function, sync or async.
        input: a function, sync or async, of the task's text that gives what *runnable* takes;
            None: a message for a state with messages, the text itself for everything else.
        output: a function, sync or async, of what *runnable* returned that gives the answer's
            text; None: the ``structured_response`` where there is one, else the text of the last
            AIMessage that has any, else what was returned.
        task_timeout: seconds that one of its tasks may take; None: the toolkit's; ``math.inf``: no
            limit.
        max_concurrent: tasks of it at once, over all tools that it is given to; None: no limit of
            its own. 1 is for an agent that can't run twice at once: its slot is kept while it
            waits for agents below it, and among those a call to such an agent is refused while
            that one is busy, for two could wait for each other.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is allowed.

    Example:
        >>> SubAgent("shout", "Says it louder.", str.upper, task_timeout=20).name
        'shout'
    """

    name: str
    description: str
    runnable: Any
    _: KW_ONLY
    input: Callable[[str], Any] | None = None
    output: Callable[[Any], Any] | None = None
    task_timeout: float | None = None
    max_concurrent: int | None = None
    throttler: TaskThrottler | None = field(init=False, repr=False, compare=False, default=None)
    takes_messages: bool = field(init=False, repr=False, compare=False, default=False)

    def __post_init__(self) -> None:
        """Check every field."""
        with discarding([getattr(self, name) for name in _OWN]):
            self._check()
        if self.input is None:
            object.__setattr__(self, "takes_messages", takes_messages(self.runnable))
        if self.max_concurrent is not None:
            # Whoever waits while others run below it is at work all the same, where there is one.
            kind = KeptThrottler if self.max_concurrent == 1 else TaskThrottler
            object.__setattr__(self, "throttler", kind(self.max_concurrent))

    def _check(self) -> None:
        if not NAME_PATTERN.fullmatch(text("name", self.name)):
            raise ValueError(
                "name must be 1 to 64 letters, digits, _ or -, as models know no other names, "
                f"got {shown(self.name)}"
            )
        text("description", self.description)
        call_of("runnable", self.runnable)
        for name in ("input", "output"):
            if getattr(self, name) is not None:
                call_of(name, getattr(self, name))
        if self.task_timeout is not None:
            seconds("task_timeout", self.task_timeout, none=" or None")
        if self.max_concurrent is not None:
            whole_number("max_concurrent", self.max_concurrent)


SubAgent.__init__ = strict_call(SubAgent.__init__)  # type: ignore[method-assign]  # made by dataclass

_OWN = {each.name for each in fields(SubAgent) if each.init}
_OF_CREATE_AGENT = {"model", "tools", "system_prompt", "middleware", "response_format"}


def by_name(agents: Iterable[SubAgent | Mapping[str, Any]]) -> dict[str, SubAgent]:
    """The agents by their names.

    Args:
        agents: SubAgents, or dicts as deepagents has them: with a ``runnable``, or with what
            ``create_agent`` makes one of.

    Raises:
        TypeError: something else stands among them.
        ValueError: there is none, two have one name, or a dict has a key that can't be honoured.
    """
    if isinstance(agents, Mapping) or not isinstance(agents, Iterable):
        raise TypeError(f"agents must be a list of SubAgents, got {shown(agents)}")
    given_all = list(agents)
    with discarding(given_all):
        return _named(given_all)


def _named(agents: Iterable[Any]) -> dict[str, SubAgent]:
    named: dict[str, SubAgent] = {}
    for given in agents:
        agent = _made_of(given) if isinstance(given, Mapping) else given
        if not isinstance(agent, SubAgent):
            raise TypeError(
                f"agents must be SubAgents or dicts of their fields, got {shown(given)}"
            )
        if agent.name in named:
            raise ValueError(f"agents must have names of their own, got {agent.name!r} twice")
        named[agent.name] = agent
    if not named:
        raise ValueError("agents must name at least one SubAgent, got none")
    return named


def _made_of(given: Mapping[str, Any]) -> SubAgent:
    """The agent that a dict describes."""
    name = shown(given.get("name"))
    ready = "runnable" in given
    allowed = _OWN if ready else (_OWN - {"runnable"}) | _OF_CREATE_AGENT
    for key in given:
        if key == "interrupt_on":
            raise ValueError(
                f"agent {name}: interrupt_on= is not supported, and without it nobody would be "
                "asked: make the agent with HumanInTheLoopMiddleware, and give it as runnable="
            )
        if key not in allowed:
            known = ", ".join(sorted(allowed))
            raise ValueError(f"agent {name}: {shown(key)} is not supported; allowed are {known}")
    missing = [key for key in ("name", "description") if key not in given]
    if not ready and given.get("model") is None:
        missing.append("model (or runnable)")
    if missing:
        raise ValueError(f"agent {name}: {', '.join(missing)} must be given")
    own = {key: value for key, value in given.items() if key in _OWN}
    return SubAgent(**own) if ready else SubAgent(**own, runnable=_created(given))


def _created(given: Mapping[str, Any]) -> Any:
    try:
        from langchain.agents import create_agent  # noqa: PLC0415 - an extra, loaded when used
    except ImportError as error:
        raise ImportError(
            "an agent without runnable= needs langchain: pip install 'agentos-parallel[agents]'"
        ) from error
    given_parts = _OF_CREATE_AGENT & {key for key, value in given.items() if value is not None}
    parts = {key: given[key] for key in given_parts}
    try:
        return create_agent(**parts, name=given["name"])
    except Exception as error:
        error.add_note(f"of agent {shown(given['name'])}, which create_agent could not make")
        raise
