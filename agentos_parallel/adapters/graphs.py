"""A graph of one node for each child of a tool call, and what the child is called with in it.

In it whatever asks a human is told apart from its siblings, and what has finished is kept by the
checkpointer: on resume it is read, not run again. LangGraph is looked for, never loaded: what has
not loaded it can't interrupt.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeAlias, TypedDict

from langchain_core.runnables import RunnableBinding, RunnableConfig
from langchain_core.runnables.config import ensure_config

from agentos_parallel import still
from agentos_parallel.adapters.answers import check_answered
from agentos_parallel.adapters.kinds import (
    bound_configurable,
    has_memory,
    is_graph,
    is_remote,
    with_parts,
)
from agentos_parallel.jsonable import to_jsonable

Work: TypeAlias = Callable[[], Awaitable[Any]]

_CHECKPOINTER = "__pregel_checkpointer"
_SCRATCHPAD = "__pregel_scratchpad"
_THREAD_ID = "thread_id"
_OWN_MEMORY = (_THREAD_ID, "checkpoint_ns", "checkpoint_id", "checkpoint_map")


def loaded() -> bool:
    """Whether anybody in this process uses LangGraph."""
    return "langgraph.graph" in sys.modules


class TaskState(TypedDict, total=False):
    """The state of a graph of one node."""

    task: str
    answer: Any


async def in_one_node(work: Work, task: str, config: RunnableConfig) -> Any:
    """What *work* gives in a graph of one node, whose input is the text of the *task*.

    A work that had finished before the graph was resumed is not run again: its value comes in
    plain JSON values, as the checkpointer kept it.

    Raises:
        HumanNeededError: it asks a human, and there is no graph around to pass the question on.
    """
    once = _Once(work)
    token = _once.set(once)
    try:
        output = await _one_node().ainvoke({"task": task}, config)
    except _CarriedError:
        assert once.raised is not None
        raise once.raised from None
    finally:
        _once.reset(token)
        once.raised = None  # or the error would hold itself, through this frame
    check_answered(output)
    return once.value if once.returned else output["answer"]


def config_inside(runnable: Any) -> RunnableConfig:
    """What *runnable* is called with in its node.

    A graph has one number for all its attempts, so that a second hears the answers that were meant
    for the first. One that brings a memory gets a thread of its own where there is none.
    """
    around = ensure_config()
    config: RunnableConfig = {
        "callbacks": around["callbacks"]
    }  # else those it is bound to replace them
    configurable = around["configurable"]
    given: dict[str, Any] = {}
    if is_graph(runnable) and _SCRATCHPAD in configurable:
        given[_SCRATCHPAD] = numbered(configurable[_SCRATCHPAD], 0)
    if not configurable.get(_THREAD_ID) and has_memory(runnable):
        given[_THREAD_ID] = str(uuid.uuid4())
    if not given:
        return config
    own = bound_configurable(runnable)
    return {**config, "configurable": {**configurable, **own, **given}}


def apart(runnable: Any) -> Any:
    """*runnable*, where what is bound to a thread uses that one, and graphs on a server no other.

    LangChain hands the caller's thread to every part of a chain, before those that they are bound
    to, and on a server all tasks would share it.
    """
    if is_remote(runnable) or _has_own_thread(runnable):
        return _Apart(bound=runnable)
    return runnable if is_graph(runnable) else with_parts(runnable, apart)


class _Apart(RunnableBinding[Any, Any]):
    """What is called on no thread but its own, so that its questions reach nobody."""

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002 - LangChain's
        output = self.bound.invoke(input, self._config_apart(config), **kwargs)
        check_answered(output)
        return output

    async def ainvoke(
        self,
        input: Any,  # noqa: A002 - LangChain's
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        output = await self.bound.ainvoke(input, self._config_apart(config), **kwargs)
        check_answered(output)
        return output

    def _config_apart(self, config: RunnableConfig | None) -> RunnableConfig:
        own = bound_configurable(self.bound)
        if not _has_own_thread(self.bound):
            around = ensure_config(config)["configurable"].items()
            own = {**{key: v for key, v in around if key not in _OWN_MEMORY}, **own}
        # No more of what is around: it would rename agents.
        return {**(config or {}), "configurable": own}


def _has_own_thread(runnable: Any) -> bool:
    own = bound_configurable(runnable)
    return any(own.get(key) for key in _OWN_MEMORY)


def numbered(scratchpad: Any, number: int, *, several: bool = False) -> Any:
    """*scratchpad* for a sub-graph that is known by *number*, whenever it is called.

    *several*: for one after the other, known by this number and those after it. LangGraph has no
    public way for that; as it is where its private one has changed.
    """
    if not dataclasses.is_dataclass(scratchpad) or not hasattr(scratchpad, "subgraph_counter"):
        return scratchpad
    next_number = itertools.count(number).__next__ if several else lambda: number
    counter: dict[str, Any] = {"subgraph_counter": next_number}
    return dataclasses.replace(scratchpad, **counter)  # type: ignore[type-var]  # checked above


def with_sync_saver(configurable: Mapping[str, Any]) -> dict[str, Any]:
    """*configurable* of a sync caller, with a checkpointer that its async children can use.

    With none where the checkpointer's own loop stands still for this call, and could not answer.
    """
    saver = configurable.get(_CHECKPOINTER)
    if saver is None:
        return dict(configurable)
    if getattr(saver, "loop", None) in still.loops:
        return {**configurable, _CHECKPOINTER: None}
    from agentos_parallel.adapters.savers import InThreads  # noqa: PLC0415 - LangGraph is loaded

    return {**configurable, _CHECKPOINTER: InThreads(saver)}


class _Once:
    """A work, and what became of it where a state can't hold that."""

    value: Any = None
    returned = False
    raised: BaseException | None = None

    def __init__(self, work: Work) -> None:
        self.work = work


class _CarriedError(Exception):
    """Leaves the graph in place of what its loop would not let through as it is."""


_once: ContextVar[_Once] = ContextVar("agentos_parallel_once")


async def _node(state: TaskState) -> TaskState:
    once = _once.get()
    try:
        once.value = await once.work()
    except BaseException as error:
        if not _to_be_carried(error):
            raise
        once.raised = error
        raise _CarriedError from None
    once.returned = True
    return {"answer": to_jsonable(once.value)}


def _to_be_carried(error: BaseException) -> bool:
    """Exits, which would leave the event loop; a work's own cancel; a command to the graph around.

    LangGraph would have the one node's graph follow the command.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or not task.cancelling()
    if not isinstance(error, Exception):
        return True
    errors = sys.modules.get("langgraph.errors")
    return isinstance(error, getattr(errors, "ParentCommand", ()))


@cache
def _one_node() -> Any:
    from langgraph.graph import START, StateGraph  # noqa: PLC0415 - LangGraph is loaded

    builder: Any = StateGraph(TaskState)
    builder.add_node("task", _node)
    builder.add_edge(START, "task")
    return builder.compile(name="task")
