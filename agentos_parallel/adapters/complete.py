"""Runnables that give every output, whole or in parts, or an exception in its place."""

# ruff: noqa: A002 - LangChain calls the input of a Runnable input

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any, Literal, TypeAlias

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.utils import AddableDict

from agentos_parallel._core.collect import collect
from agentos_parallel._core.sources import SizedInput
from agentos_parallel._core.threads import iterate_sync
from agentos_parallel.adapters.branches import Branch, BranchRun, ParallelRunnable
from agentos_parallel.adapters.children import RunManager
from agentos_parallel.adapters.outcomes import check_complete, first_failure, output_of
from agentos_parallel.checks import shown
from agentos_parallel.results import TaskResult, TaskStatus
from agentos_parallel.settings import Settings
from agentos_parallel.stream import Give, PartStream

OnError: TypeAlias = Literal["raise", "return"]
ON_ERROR: tuple[OnError, ...] = ("raise", "return")


class Complete(ParallelRunnable):
    """One that gives the output of every branch, or an exception in its place."""

    on_error: OnError = "raise"

    def __init__(self, on_error: Any, **fields: Any) -> None:
        if on_error not in ON_ERROR:
            raise ValueError(f'on_error must be "raise" or "return", got {shown(on_error)}')
        super().__init__(on_error=on_error, **fields)

    def stream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """``{branch: chunk}`` as the chunks come; leaving early cancels the rest."""
        return self._transform_stream_with_config(iter([input]), self._stream, config, **kwargs)

    def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """``{branch: chunk}`` as the chunks come; leaving early cancels the rest."""
        return self._atransform_stream_with_config(_only(input), self._astream, config, **kwargs)

    def _joined(self, branches: list[Branch], outputs: list[Any]) -> Any:
        """The output of the whole."""
        return outputs

    def _stream(
        self,
        inputs: Iterator[Any],
        run_manager: RunManager,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Iterator[Any]:
        [given] = inputs
        return iterate_sync(self._parts(given, BranchRun(config, run_manager, kwargs, sync=True)))

    async def _astream(
        self,
        inputs: AsyncIterator[Any],
        run_manager: RunManager,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        [given] = [each async for each in inputs]
        parts = self._parts(given, BranchRun(config, run_manager, kwargs, sync=False))
        async with aclosing(parts):
            async for part in parts:
                yield part

    def _settings(self, config: RunnableConfig, branches: list[Branch]) -> Settings:
        limits = self._limits(config, branches)
        for name in ("task_timeout", "throttler"):
            if callable(limits[name]):
                limits[name] = _of_branch(limits[name])
        return Settings(**limits, fail_fast=self.on_error == "raise")

    async def _output(self, given: Any, run: BranchRun) -> Any:
        branches, raises = self._branches(given), self.on_error == "raise"
        settings = self._settings(run.config, branches)

        def call(branch: Branch) -> Awaitable[Any]:
            return run.work(run.invoke, branch)()

        async with run:
            gathered, _ = await collect(
                _source(branches), settings, call=call, return_partial=not raises
            )
        if raises:
            check_complete(gathered)
        return self._joined(branches, [output_of(task) for task in gathered.results])

    async def _parts(self, given: Any, run: BranchRun) -> AsyncGenerator[Any, None]:
        branches, raises = self._branches(given), self.on_error == "raise"
        keys: dict[str, Any] = {branch.task_id: branch.key for branch in branches}
        settings = self._settings(run.config, branches)
        ended: list[TaskResult[Any]] = []

        def call(give: Give, branch: Branch) -> Awaitable[None]:
            return run.work(partial(run.stream, give), branch)()

        async with run, PartStream(_source(branches), settings, call) as tasks:
            async for task in tasks:
                if task.status is TaskStatus.RUNNING:
                    yield AddableDict({keys[task.task_id]: task.result})
                    continue
                ended.append(task)
                if not raises and task.status is not TaskStatus.COMPLETED:
                    yield AddableDict({keys[task.task_id]: task.error})
        error = first_failure(ended) if raises else None
        if error is not None:
            raise error


class Whole(Runnable[Any, Any]):
    """A Runnable in a chain that streams, whose parts would not add up to what it gives."""

    def __init__(self, runnable: Runnable[Any, Any]) -> None:
        self._runnable = runnable

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As the Runnable."""
        return self._runnable.invoke(input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As the Runnable."""
        return await self._runnable.ainvoke(input, config, **kwargs)


def _of_branch(limit: Callable[[str], Any]) -> Callable[[Branch], Any]:
    """A function of the task_id as one of the branch."""
    return lambda branch: limit(branch.task_id)


def _source(branches: list[Branch]) -> SizedInput:
    return SizedInput(branches, [branch.task_id for branch in branches])


async def _only(given: Any) -> AsyncIterator[Any]:
    yield given
