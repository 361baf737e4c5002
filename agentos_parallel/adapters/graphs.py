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

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config

from agentos_parallel import still
from agentos_parallel.adapters.answers import check_answered
from agentos_parallel.adapters.kinds import (
    bound_configurable,
    graphs_of,
    has_memory,
    is_graph,
    is_remote,
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
    """What *runnable* is called with in its node; what it is bound to stays its own.

    A graph has one number for all its attempts, so that a second hears the answers that were meant
    for the first. One that brings a memory gets a thread of its own where it has none.
    """
    around = ensure_config()
    config: RunnableConfig = {
        "callbacks": around["callbacks"]
    }  # else those it is bound to replace them
    own = bound_configurable(runnable)
    if any(own.get(key) for key in _OWN_MEMORY):
        return config
    configurable = around["configurable"]
    graphs = list(graphs_of(runnable))
    if graphs and all(map(is_remote, graphs)):  # tasks would share the thread of their caller
        elsewhere = {key: v for key, v in configurable.items() if key not in _OWN_MEMORY}
        return {**config, "configurable": {**elsewhere, **own}}
    given: dict[str, Any] = {}
    if is_graph(runnable) and _SCRATCHPAD in configurable:
        given[_SCRATCHPAD] = numbered(configurable[_SCRATCHPAD], 0)
    if not configurable.get(_THREAD_ID) and has_memory(runnable):
        given[_THREAD_ID] = str(uuid.uuid4())
    return {**config, "configurable": {**configurable, **own, **given}} if given else config


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
