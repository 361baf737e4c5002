"""How a Runnable can be called: sync, async, or both, found by looking at its parts.

LangChain answers a missing way in two manners: an ``ainvoke`` that runs ``invoke`` in the loop's
default pool, which ``asyncio.run`` joins at its end, and an ``invoke`` that raises. Calling it to
find out was refused: the parts before the one that raises would have been paid for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import (
    RouterRunnable,
    Runnable,
    RunnableAssign,
    RunnableBranch,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase, RunnableEachBase
from langchain_core.runnables.config import run_in_executor
from langchain_core.runnables.configurable import DynamicRunnable
from langchain_core.tools import BaseTool, StructuredTool


def only_sync(runnable: Any) -> bool:
    """Whether its ``ainvoke`` would come down to its ``invoke`` in a pool."""
    if type(runnable) is RunnableLambda:  # the most frequent: nothing to look for in it
        return not hasattr(runnable, "afunc")
    parts = list(parts_of(runnable))
    return all(map(only_sync, parts)) if parts else not _has_async(runnable)


def only_async(runnable: Any) -> bool:
    """Whether its ``invoke`` would raise, for some part of it is a coroutine function alone."""
    parts = list(parts_of(runnable))
    return any(map(only_async, parts)) if parts else not _has_sync(runnable)


def unbound(runnable: Any) -> Any:
    """What stands behind ``with_config``, ``bind`` and the like."""
    while isinstance(runnable, RunnableBindingBase):
        runnable = runnable.bound
    return runnable


def bound_configurable(runnable: Any) -> dict[str, Any]:
    """The ``configurable`` that *runnable* is bound to, as a graph or by ``with_config``."""
    binding = isinstance(runnable, RunnableBindingBase)
    if not binding and not is_graph(runnable):
        return {}
    # Not merge_configs(), which brings in the caller's.
    own = (getattr(runnable, "config", None) or {}).get("configurable", {})
    return {**bound_configurable(runnable.bound), **own} if binding else dict(own)


def is_graph(runnable: Any) -> bool:
    """Whether it is a graph of LangGraph's, here or on a server, bound to a config or not."""
    protocol = sys.modules.get("langgraph.pregel.protocol")
    return isinstance(unbound(runnable), getattr(protocol, "PregelProtocol", ()))


def is_remote(runnable: Any) -> bool:
    """Whether it is a graph on a server, which sends and takes messages as dicts."""
    remote = sys.modules.get("langgraph.pregel.remote")
    return isinstance(unbound(runnable), getattr(remote, "RemoteGraph", ()))


def has_memory(runnable: Any) -> bool:
    """Whether a graph with a checkpointer of its own is part of *runnable*."""
    if not isinstance(getattr(runnable, "checkpointer", None), bool | None):
        return True
    return not hasattr(runnable, "nodes") and any(map(has_memory, parts_of(runnable)))


def parts_of(runnable: Any) -> Iterator[Any]:
    """What a Runnable that is made of others is made of; nothing of one that is not."""
    if isinstance(runnable, RunnableBindingBase | RunnableEachBase):
        yield runnable.bound
    elif isinstance(runnable, RunnableSequence):
        yield from runnable.steps
    elif isinstance(runnable, RunnableParallel):
        yield from runnable.steps__.values()
    elif isinstance(runnable, RunnableWithFallbacks):
        yield from runnable.runnables
    elif isinstance(runnable, RouterRunnable):
        yield from runnable.runnables.values()
    elif isinstance(runnable, RunnableAssign):
        yield runnable.mapper
    elif isinstance(runnable, DynamicRunnable):
        yield runnable.default
    elif isinstance(runnable, RunnableBranch):
        yield from (part for branch in runnable.branches for part in branch)
        yield runnable.default
    else:
        yield from _parts_of_graph(runnable)


def with_parts(runnable: Any, change: Callable[[Any], Any]) -> Any:
    """*runnable*, or a copy of it where *change* gives another for one of its parts."""
    changed = {id(part): new for part in parts_of(runnable) if (new := change(part)) is not part}
    if not changed:
        return runnable
    fields = {name: _replaced(value, changed) for name, value in vars(runnable).items()}
    return runnable.model_copy(update=fields)


def _replaced(value: Any, changed: Mapping[int, Any]) -> Any:
    if type(value) in (list, tuple):
        return type(value)(_replaced(each, changed) for each in value)
    if type(value) is dict:
        return {key: _replaced(each, changed) for key, each in value.items()}
    return changed.get(id(value), value)


def _parts_of_graph(runnable: Any) -> Iterator[Any]:
    """Of a graph its nodes and their conditional edges, of a node with tools the tools."""
    yield from getattr(runnable, "tools_by_name", {}).values()
    nodes = getattr(runnable, "nodes", None)
    if not isinstance(nodes, dict):
        return
    for node in nodes.values():
        yield node.bound
        for writer in getattr(node, "writers", ()):
            path = getattr(getattr(getattr(writer, "func", None), "__self__", None), "path", None)
            if path is not None:
                yield path


def _has_sync(runnable: Any) -> bool:
    for kind, sync, _ in _KINDS:
        if isinstance(runnable, kind):
            return sync(runnable)
    return getattr(runnable, "func", runnable) is not None  # LangGraph's wrapper of a function


def _has_async(runnable: Any) -> bool:
    for kind, _, own_async in _KINDS:
        if isinstance(runnable, kind):
            return own_async(runnable)
    if not hasattr(runnable, "afunc"):
        return type(runnable).ainvoke is not Runnable.ainvoke
    # LangGraph's wrapper of a function, whose default is a pool too.
    afunc = runnable.afunc
    return afunc is not None and getattr(afunc, "func", None) is not run_in_executor


def _model_has_async(model: Any) -> bool:
    kind, base = type(model), BaseChatModel
    return kind._agenerate is not base._agenerate or kind._astream is not base._astream


_Has = Callable[[Any], bool]

# A kind of Runnable, whether one has a sync way, and whether it has an async way of its own.
_KINDS: tuple[tuple[type[Any], _Has, _Has], ...] = (
    (RunnableLambda, lambda r: hasattr(r, "func"), lambda r: hasattr(r, "afunc")),
    (RunnableGenerator, lambda r: hasattr(r, "_transform"), lambda r: hasattr(r, "_atransform")),
    (StructuredTool, lambda r: r.func is not None, lambda r: r.coroutine is not None),
    (BaseTool, lambda _: True, lambda r: type(r)._arun is not BaseTool._arun),
    (BaseChatModel, lambda _: True, _model_has_async),
)
