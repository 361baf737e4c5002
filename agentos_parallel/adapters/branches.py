"""What the parallel Runnables share: their limits, and one call of their branches.

A branch is a child of the Runnable's run. It is called with the caller's config, tags and metadata,
as the children of LangChain's own Runnables are, but for the name that an agent hands down.
"""

# ruff: noqa: A002 - LangChain calls the input of a Runnable input

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypedDict

from langchain_core.runnables import Runnable, RunnableConfig, RunnableParallel
from langchain_core.runnables.config import (
    ensure_config,
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
)
from langchain_core.runnables.graph import Graph
from langchain_core.runnables.utils import ConfigurableFieldSpec, get_unique_config_specs
from langchain_core.utils.pydantic import TypeBaseModel
from pydantic import ConfigDict

from agentos_parallel._core.threads import run_sync
from agentos_parallel._core.works import from_thread, in_thread
from agentos_parallel.adapters.batches import Batches
from agentos_parallel.adapters.children import (
    Children,
    RunManager,
    in_sync_way,
    invoked,
    lacks_sync_way,
)
from agentos_parallel.adapters.interrupts import Askers
from agentos_parallel.settings import Limit, Settings, TimeoutOf
from agentos_parallel.stream import Give

_AGENT_NAME = "lc_agent_name"


class RunnableOptions(TypedDict, total=False):
    """The fields that all parallel Runnables have; see ``RunnableGather``."""

    max_concurrent: int | None
    timeout: float | None
    task_timeout: float | TimeoutOf | None
    throttler: Limit | None
    grace: float
    name: str | None


class Branch(NamedTuple):
    """A Runnable, by its position and its name, if it has one, and what it is given."""

    position: int
    key: str | int
    runnable: Runnable[Any, Any]
    given: Any

    @property
    def task_id(self) -> str:
        """Of its task."""
        return str(self.key)


Call: TypeAlias = Callable[[Branch, RunnableConfig], Awaitable[Any]]
"""Calls a branch with its config."""


class ParallelRunnable(Batches):
    """A Runnable that runs branches under one set of limits."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    max_concurrent: int | None = 8
    timeout: float | None = None
    task_timeout: Any = None
    throttler: Any = None
    grace: float = 5.0

    def __init__(self, **fields: Any) -> None:
        given = {name: fields[name] for name in _LIMITS if name in fields}
        if given.get("max_concurrent", 1) is None:
            del given["max_concurrent"]  # as many as there are branches
        Settings(**given)
        super().__init__(**fields)

    @abstractmethod
    def _branches(self, given: Any) -> list[Branch]:
        """What runs for the input *given*."""

    @abstractmethod
    def _children(self) -> Iterator[Runnable[Any, Any]]:
        """What it is made of."""

    @abstractmethod
    async def _output(self, given: Any, run: BranchRun) -> Any:
        """The output for the input *given*."""

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Run the branches at once; see the class for what comes of them."""
        config = ensure_config(config)
        manager = get_callback_manager_for_config(config)
        run_manager = manager.on_chain_start(None, input, **self._named(config))
        try:
            run = BranchRun(config, run_manager, kwargs, sync=True)
            output = run_sync(self._output(input, run))
        except BaseException as error:
            run_manager.on_chain_error(error)
            raise
        run_manager.on_chain_end(output)
        return output

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Run the branches at once; see the class for what comes of them."""
        config = ensure_config(config)
        manager = get_async_callback_manager_for_config(config)
        run_manager = await manager.on_chain_start(None, input, **self._named(config))
        try:
            run = BranchRun(config, run_manager, kwargs, sync=False)
            output = await self._output(input, run)
        except BaseException as error:
            await run_manager.on_chain_error(error)
            raise
        await run_manager.on_chain_end(output)
        return output

    def _named(self, config: RunnableConfig) -> dict[str, Any]:
        """Name and id of a run, which are its own: they are taken out of *config*."""
        name = config.pop("run_name", None) or self.get_name()
        return {"name": name, "run_id": config.pop("run_id", None)}

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What can be configured in its branches."""
        return get_unique_config_specs(s for child in self._children() for s in child.config_specs)

    def get_graph(self, config: RunnableConfig | None = None) -> Graph:
        """Its branches, side by side between its input and its output."""
        graph = Graph()
        start = graph.add_node(self.get_input_schema(config))
        end = graph.add_node(self.get_output_schema(config))
        for child in self._children():
            branch = child.get_graph(config)
            branch.trim_first_node()
            branch.trim_last_node()
            first, last = graph.extend(branch) if branch else (end, start)
            graph.add_edge(start, first or end)
            if last and last is not start:
                graph.add_edge(last, end)
        return graph

    def _limits(self, config: RunnableConfig, branches: list[Branch]) -> dict[str, Any]:
        """What bounds a run: of our limit and the config's the smaller."""
        limits = (self.max_concurrent, config.get("max_concurrency"))
        return {
            **{name: getattr(self, name) for name in _LIMITS},
            "max_concurrent": min(filter(None, limits), default=len(branches) or 1),
        }


_LIMITS = ("max_concurrent", "timeout", "task_timeout", "throttler", "grace")


class OverBranches(ParallelRunnable):
    """One that gives the same input to each of its branches."""

    branches: Any

    def __init__(self, branches: Any, **fields: Any) -> None:
        super().__init__(branches=branches, **fields)

    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        """Its name; where it has none, that of its class with those of its branches."""
        keys = ",".join(branch.task_id for branch in self._branches(None))
        return super().get_name(suffix, name=name or self.name or f"{type(self).__name__}<{keys}>")

    @property
    def InputType(self) -> Any:  # noqa: N802 - LangChain's name
        """What its branches take."""
        return self._alike().InputType

    def get_input_schema(self, config: RunnableConfig | None = None) -> TypeBaseModel:
        """What its branches take."""
        return self._alike().get_input_schema(config)

    def _branches(self, given: Any) -> list[Branch]:
        branches = self.branches
        named = branches.items() if isinstance(branches, dict) else enumerate(branches)
        return [
            Branch(position, key, runnable, given) for position, (key, runnable) in enumerate(named)
        ]

    def _children(self) -> Iterator[Runnable[Any, Any]]:
        return (branch.runnable for branch in self._branches(None))

    def _alike(self) -> RunnableParallel[Any]:
        """LangChain's own, which makes schemas."""
        branches = {branch.task_id: branch.runnable for branch in self._branches(None)}
        alike: RunnableParallel[Any] = RunnableParallel(branches)
        alike.name = self.get_name()
        return alike


class BranchRun(Children):
    """One call of a Runnable's branches: ``async with`` it around the run of their works.

    Args:
        config: that the Runnable was called with.
        run_manager: its run in the trace.
        kwargs: what ``bind`` adds to each call.
        sync: the caller is sync: prefer the branches' sync methods.

    Attributes:
        config: what each branch is called with, but for what is its own.
    """

    def __init__(
        self,
        config: RunnableConfig,
        run_manager: RunManager,
        kwargs: dict[str, Any],
        *,
        sync: bool,
    ) -> None:
        super().__init__(Askers(config, chains=True), run_manager, sync=sync)
        self.config = config
        if _AGENT_NAME in config["metadata"]:
            others = {k: v for k, v in config["metadata"].items() if k != _AGENT_NAME}
            self.config = {**config, "metadata": others}
        self._kwargs = kwargs

    def work(self, call: Call, branch: Branch) -> Callable[[], Awaitable[Any]]:
        """*call* for *branch*, as a child of this run."""
        task_id = branch.task_id
        return partial(self.run, branch.position, task_id, task_id, self._called, call, branch)

    def invoke(self, branch: Branch, config: RunnableConfig) -> Awaitable[Any]:
        """The output of *branch*."""
        return invoked(branch.runnable, branch.given, config, sync=self.sync, **self._kwargs)

    async def stream(self, give: Give, branch: Branch, config: RunnableConfig) -> None:
        """*give* the chunks of the output of *branch*."""
        if in_sync_way(branch.runnable, sync=self.sync):
            try:
                await in_thread(self._stream_in_thread, give, branch, config)
                return
            except (NotImplementedError, TypeError) as error:
                if not lacks_sync_way(error):
                    raise
        chunks = branch.runnable.astream(branch.given, config, **self._kwargs)
        try:
            async for chunk in chunks:
                await give(chunk)
        finally:
            if hasattr(chunks, "aclose"):
                await chunks.aclose()

    def _stream_in_thread(self, give: Give, branch: Branch, config: RunnableConfig) -> None:
        for chunk in branch.runnable.stream(branch.given, config, **self._kwargs):
            from_thread(give(chunk))

    def merge(self, merge: Runnable[Any, Any], outputs: list[Any]) -> Awaitable[Any]:
        """What *merge* makes of the outputs of the branches."""
        config: RunnableConfig = {**self.config, "callbacks": self.manager_of("merge")}
        return invoked(merge, outputs, config, sync=self.sync, **self._kwargs)

    def _called(self, own: RunnableConfig, call: Call, branch: Branch) -> Awaitable[Any]:
        return call(branch, {**self.config, **own})
