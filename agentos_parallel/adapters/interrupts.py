"""Humans who are asked, and handoffs: LangGraph's control flow below a tool or Runnable.

LangGraph knows a sub-graph by the order of the calls in its node, which differs from run to run
where children work at once: a human's answer would go to the wrong one. So each child has a number
of its own, by its position. Every question is heard at once: the children's are raised together.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
import zlib
from typing import Any

from langchain_core.runnables import RunnableConfig

from agentos_parallel.adapters.graphs import numbered

logger = logging.getLogger("agentos_parallel")

_SCRATCHPAD = "__pregel_scratchpad"
_NAMESPACE = "checkpoint_ns"
_PUSH = "__pregel_push"

_APART = 1_000
"""Numbers from one child to the next: a node that calls sub-graphs itself uses those between."""

_CHAINS_APART = 10**6

_CALLS_APART = 10**9


class Askers:
    """The children of one call, as the graph around it tells them apart.

    Args:
        config: that the tool or Runnable was called with.
        tool_call_id: of the call; None: it has none.
        chains: the children may be chains of several graphs, which are not run in a node.
    """

    def __init__(
        self, config: RunnableConfig, tool_call_id: str | None = None, *, chains: bool = False
    ) -> None:
        self._configurable = config["configurable"]
        self._first = _first_number(config, tool_call_id)
        self._chains = chains
        if chains and self._first is not None:
            self._first = (self._first + 1) * _CHAINS_APART
        self._raised: dict[int, tuple[str, BaseException]] = {}

    def configurable(self, position: int) -> dict[str, Any]:
        """What the child at *position* is to be called with."""
        if self._first is None:
            return self._configurable
        given = dict(self._configurable)
        number = self._first + position * _APART
        given[_SCRATCHPAD] = numbered(given[_SCRATCHPAD], number, several=self._chains)
        return given

    def heard(self, position: int, agent: str, error: BaseException) -> None:
        """The *agent* at *position* raised *error*."""
        self._raised[position] = agent, error

    def joined(self, error: BaseException) -> BaseException:
        """What the call raises in place of *error*, the control flow that came out of its run.

        All questions together; where nobody asks, the first handoff in input order. A question goes
        before a handoff, which comes again on resume.
        """
        errors = sys.modules["langgraph.errors"]
        raised = [self._raised[position] for position in sorted(self._raised)]
        asked = [each for _, each in raised if isinstance(each, errors.GraphInterrupt)]
        if asked:
            return errors.GraphInterrupt([one for each in asked for one in each.args[0]])  # type: ignore[no-any-return]  # by name
        handoffs = [(a, each) for a, each in raised if isinstance(each, errors.ParentCommand)]
        if not handoffs:
            return error
        (taken, handoff), *others = handoffs
        if others:
            left = ", ".join(agent for agent, _ in others)
            text = "agentos_parallel: of several handoffs that of %s is taken; not those of %s"
            logger.warning(text, taken, left)
        return errors.ParentCommand(self._of_this_graph(handoff.args[0]))  # type: ignore[no-any-return]  # by name

    def _of_this_graph(self, command: Any) -> Any:
        """*command*, to the graph that the tool was called in if it is to the parent of a child."""
        here = self._configurable.get(_NAMESPACE)
        below = command.graph == command.PARENT or str(command.graph).startswith(f"{here}|")
        return dataclasses.replace(command, graph=here) if here and below else command


def _first_number(config: RunnableConfig, tool_call_id: str | None) -> int | None:
    """The number of the first child; None: there is no graph around.

    A call is known by its turn in its node, as a sub-graph would be, where it is alone there or
    comes without an id. Those of a whole message run at once, and are known by their ids.
    """
    counter = getattr(config["configurable"].get(_SCRATCHPAD), "subgraph_counter", None)
    if counter is None:
        return None
    sent_alone = config["metadata"].get("langgraph_path", ())[:1] == (_PUSH,)
    if tool_call_id is None or sent_alone:
        return int(counter())
    return (zlib.crc32(tool_call_id.encode()) + 1) * _CALLS_APART
