"""The executor in chains: Runnables that gather, fan out and map."""

# ruff: noqa: A002 - LangChain calls the input of a Runnable input

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from typing import Any, ParamSpec, TypeVar, Unpack

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableEach, coerce_to_runnable
from langchain_core.utils.pydantic import TypeBaseModel

from agentos_parallel.adapters.branches import (
    Branch,
    BranchRun,
    OverBranches,
    ParallelRunnable,
    RunnableOptions,
)
from agentos_parallel.adapters.complete import Complete, OnError, Whole
from agentos_parallel.arguments import discarding, strict_call
from agentos_parallel.checks import shown
from agentos_parallel.fanout import Aggregation, FanOutConfig, FanOutExecutor, merge_call

P = ParamSpec("P")
R = TypeVar("R")


def _options(function: Callable[P, R]) -> Callable[P, R]:
    """A ``strict_call`` whose ``**options`` are those of ``RunnableOptions``."""
    fields = ParallelRunnable.model_fields
    return strict_call(
        function,
        {
            name: inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=fields[name].default
            )
            for name in RunnableOptions.__annotations__
        },
    )


class RunnableGather(OverBranches, Complete):
    """Gives the same input to every branch, and all outputs: a drop-in for ``RunnableParallel``.

    Its limits hold in ``invoke``, ``ainvoke``, ``stream`` and ``astream``, each for one call. Of
    ``max_concurrent`` and the config's ``max_concurrency`` the smaller counts. A branch that is a
    function which calls LangGraph's ``interrupt`` itself is told apart from others only in a graph
    of its own.

    Args:
        branches: Runnables, functions or dicts of them: a dict by name, or a list.
        on_error: "raise": the first failure cancels the other branches, and comes out when they
            have ended; "return": the exception stands in the failed branch's place.
        max_concurrent: branches at once; None: all of them, or as many as ``throttler`` allows.
        timeout: seconds for one call; None: no deadline.
        task_timeout: seconds for one branch, or a function of its name (a list's: "0", "1", ...);
            None: no limit.
        throttler: slots shared with others, or a function of the branch's name that gives some.
        grace: seconds to wait for branches that were cancelled.
        name: in traces; None: made of the branches' names.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is allowed.
        DeadlineExceeded: out of a call that its ``timeout`` ended, with ``on_error="raise"``; it
            has the GatherResult as ``.result``.

    Example:
        >>> both = RunnableGather({"loud": str.upper, "long": len}, task_timeout=20)
        >>> both.invoke("hear")
        {'loud': 'HEAR', 'long': 4}
        >>> RunnableGather([str.upper, int], on_error="return").invoke("hear")[0]
        'HEAR'
    """

    @_options
    def __init__(
        self,
        branches: Any,
        *,
        on_error: OnError = "raise",
        **options: Unpack[RunnableOptions],
    ) -> None:
        with discarding(branches):
            super().__init__(branches=_branches_of(branches), on_error=on_error, **options)

    @property
    def OutputType(self) -> Any:  # noqa: N802 - LangChain's name
        """A dict or list of what the branches give."""
        return dict[str, Any] if isinstance(self.branches, dict) else list[Any]

    def get_output_schema(self, config: RunnableConfig | None = None) -> TypeBaseModel:
        """The outputs of the branches; anything where exceptions may stand among them."""
        if isinstance(self.branches, dict) and self.on_error == "raise":
            return self._alike().get_output_schema(config)
        return super().get_output_schema(config)

    def transform(
        self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """In a chain: the parts of a dict as they come; a list whole."""
        if isinstance(self.branches, dict):
            return super().transform(input, config, **kwargs)
        return Whole(self).transform(input, config, **kwargs)

    def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """In a chain: the parts of a dict as they come; a list whole."""
        if isinstance(self.branches, dict):
            return super().atransform(input, config, **kwargs)
        return Whole(self).atransform(input, config, **kwargs)

    def _joined(self, branches: list[Branch], outputs: list[Any]) -> Any:
        if not isinstance(self.branches, dict):
            return outputs
        return {branch.key: output for branch, output in zip(branches, outputs, strict=True)}


class RunnableParallelMap(Complete):
    """Gives each item of a list to one Runnable, and the outputs in order: ``.map()`` with limits.

    Args:
        runnable: a Runnable, a function, or a dict of them.
        on_error: "raise": the first failure cancels the other items, and comes out once they have
            ended; "return": the exception stands in the failed item's place.
        **options: ``max_concurrent``, ``timeout``, ``task_timeout``, ``throttler``, ``grace``,
            ``name``: see ``RunnableGather``; functions get the item's position: "0", "1", ...

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is allowed.

    Example:
        >>> RunnableParallelMap(str.upper, max_concurrent=2).invoke(["a", "b", "c"])
        ['A', 'B', 'C']
    """

    runnable: Any

    @_options
    def __init__(
        self,
        runnable: Any,
        *,
        on_error: OnError = "raise",
        **options: Unpack[RunnableOptions],
    ) -> None:
        with discarding(runnable):
            super().__init__(
                runnable=_runnable_of("runnable", runnable), on_error=on_error, **options
            )

    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        """Its name; where it has none, that of its class with the Runnable's."""
        own = f"{type(self).__name__}<{self.runnable.get_name()}>"
        return super().get_name(suffix, name=name or self.name or own)

    @property
    def InputType(self) -> Any:  # noqa: N802 - LangChain's name
        """A list of what the Runnable takes."""
        return self._alike().InputType

    @property
    def OutputType(self) -> Any:  # noqa: N802 - LangChain's name
        """A list of what the Runnable gives."""
        return list[Any] if self.on_error == "return" else self._alike().OutputType

    def get_input_schema(self, config: RunnableConfig | None = None) -> TypeBaseModel:
        """A list of what the Runnable takes."""
        return self._alike().get_input_schema(config)

    def get_output_schema(self, config: RunnableConfig | None = None) -> TypeBaseModel:
        """A list of what the Runnable gives; of anything where exceptions may stand in it."""
        if self.on_error == "return":
            return super().get_output_schema(config)
        return self._alike().get_output_schema(config)

    def transform(
        self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """In a chain the list comes whole."""
        return Whole(self).transform(input, config, **kwargs)

    def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """In a chain the list comes whole."""
        return Whole(self).atransform(input, config, **kwargs)

    def _branches(self, given: Any) -> list[Branch]:
        if not isinstance(given, list | tuple):
            raise TypeError(f"{self.get_name()} takes a list, got {shown(given)}")
        return [Branch(n, n, self.runnable, item) for n, item in enumerate(given)]

    def _children(self) -> Iterator[Runnable[Any, Any]]:
        yield self.runnable

    def _alike(self) -> RunnableEach[Any, Any]:
        """LangChain's own, which makes schemas."""
        return RunnableEach(bound=self.runnable, name=self.get_name())


class RunnableFanOut(OverBranches):
    """Gives the same input to every branch, and makes one value of their outputs.

    Args:
        branches: Runnables, functions or dicts of them: a dict by name, or a list.
        aggregation: "all": the GatherResult, with failures in it; "first": the output of the first
            branch to succeed, the others are cancelled; "merge": what *merge_fn* makes of the
            outputs that came.
        merge_fn: for "merge": a function (sync or async) or Runnable of the list of outputs that
            came, in the order of the branches.
        min_success: stop at so many successes; "merge" then merges all that came; not with "first".
        **options: ``max_concurrent``, ``timeout``, ``task_timeout``, ``throttler``, ``grace``,
            ``name``: see ``RunnableGather``.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what is allowed.
        FanOutError: out of a call: "merge", and nothing (or less than ``min_success``) succeeded,
            or *merge_fn* raised; it has the GatherResult as ``.result``.
        BaseException: out of a call: "first", and nothing succeeded: the first error in the order
            of the branches, with a note that names the others.

    Warns:
        PartialResultWarning: "merge" went past branches that did not succeed.

    Example:
        >>> RunnableFanOut([str.upper, len], aggregation="first").invoke("a") in {"A", 1}
        True
    """

    aggregation: Aggregation = "all"
    merge_fn: Any = None
    min_success: int | None = None

    @_options
    def __init__(
        self,
        branches: Any,
        *,
        aggregation: Aggregation = "all",
        merge_fn: Any = None,
        min_success: int | None = None,
        **options: Unpack[RunnableOptions],
    ) -> None:
        with discarding(branches, merge_fn):
            merge_call(aggregation, merge_fn)
            FanOutConfig(aggregation=aggregation, min_success=min_success)
            super().__init__(
                branches=_branches_of(branches),
                aggregation=aggregation,
                merge_fn=merge_fn,
                min_success=min_success,
                **options,
            )

    async def _output(self, given: Any, run: BranchRun) -> Any:
        branches, merge = self._branches(given), self.merge_fn
        executor = FanOutExecutor(
            **self._limits(run.config, branches),
            aggregation=self.aggregation,
            min_success=self.min_success,
        )
        if isinstance(merge, Runnable):
            merge = partial(run.merge, merge)
        works = {branch.task_id: run.work(run.invoke, branch) for branch in branches}
        async with run:
            return await executor.fan_out(works, merge)


def _branches_of(given: Any) -> dict[str, Runnable[Any, Any]] | list[Runnable[Any, Any]]:
    if isinstance(given, Mapping):
        for key in given:
            if not isinstance(key, str):
                raise TypeError(f"the names of branches must be texts, got {shown(key)}")
        return {key: _runnable_of(f"branches[{key!r}]", each) for key, each in given.items()}
    if isinstance(given, list | tuple):
        return [_runnable_of(f"branches[{i}]", each) for i, each in enumerate(given)]
    raise TypeError(f"branches must be a dict or a list of Runnables, got {shown(given)}")


def _runnable_of(name: str, given: Any) -> Runnable[Any, Any]:
    """*given* as a Runnable; a dict becomes one with our limits."""
    if isinstance(given, Mapping):
        return RunnableGather(given)
    if not (isinstance(given, Runnable) or callable(given)):
        raise TypeError(
            f"{name} must be a Runnable, a function or a dict of them, got {shown(given)}"
        )
    runnable: Runnable[Any, Any] = coerce_to_runnable(given)
    return runnable
