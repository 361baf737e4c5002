"""Many inputs for one Runnable: LangChain's batch methods, with our cancellation.

LangChain's own ``abatch`` with ``return_exceptions=True`` gives an outer cancel and an exit back as
values, and leaving its ``abatch_as_completed`` early lets the rest run on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

from langchain_core.runnables import Runnable, RunnableConfig, RunnableSerializable
from langchain_core.runnables.config import get_config_list
from langchain_core.runnables.retry import RunnableRetry

from agentos_parallel._core.threads import iterate_sync, run_sync
from agentos_parallel.adapters.children import invoked
from agentos_parallel.adapters.outcomes import check_complete, first_failure, output_of
from agentos_parallel.executor import ParallelExecutor

Configs: TypeAlias = RunnableConfig | Sequence[RunnableConfig] | None


class Batches(RunnableSerializable[Any, Any]):
    """The batch methods of a Runnable.

    The first input's ``max_concurrency`` says how many are worked on at once. The first failure
    cancels the others; with ``return_exceptions=True`` it stands in its output's place instead. An
    outer cancel and exits come out of the call.
    """

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """The output of each of *inputs*, in their order."""
        return run_sync(self._batched(inputs, config, return_exceptions, kwargs, sync=True))

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """The output of each of *inputs*, in their order."""
        return await self._batched(inputs, config, return_exceptions, kwargs, sync=False)

    def batch_as_completed(
        self,
        inputs: Sequence[Any],
        config: Configs = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Iterator[tuple[int, Any]]:
        """The position and output of each as it comes; leaving early cancels the rest."""
        return iterate_sync(
            self._as_completed(inputs, config, return_exceptions, kwargs, sync=True)
        )

    def abatch_as_completed(
        self,
        inputs: Sequence[Any],
        config: Configs = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> AsyncGenerator[tuple[int, Any], None]:
        """The position and output of each as it comes; leaving early cancels the rest."""
        return self._as_completed(inputs, config, return_exceptions, kwargs, sync=False)

    def with_retry(self, **options: Any) -> Runnable[Any, Any]:
        """As LangChain's, with these batches: a slow input holds up no other's next attempt."""
        retry: Any = super().with_retry(**options)
        return Retried(**{name: getattr(retry, name) for name in RunnableRetry.model_fields})

    async def _batched(
        self,
        inputs: Sequence[Any],
        config: Configs,
        return_exceptions: bool,
        kwargs: dict[str, Any],
        *,
        sync: bool,
    ) -> list[Any]:
        if not inputs:
            return []
        executor, works = self._in_batch(inputs, config, return_exceptions, kwargs, sync=sync)
        gathered = await executor.gather(works)
        if not return_exceptions:
            check_complete(gathered)
        return [output_of(task) for task in gathered.results]

    async def _as_completed(
        self,
        inputs: Sequence[Any],
        config: Configs,
        return_exceptions: bool,
        kwargs: dict[str, Any],
        *,
        sync: bool,
    ) -> AsyncGenerator[tuple[int, Any], None]:
        if not inputs:
            return
        executor, works = self._in_batch(inputs, config, return_exceptions, kwargs, sync=sync)
        async with executor.stream(works) as tasks:
            async for task in tasks:
                error = None if return_exceptions else first_failure([task])
                if error is not None:
                    raise error
                yield int(task.task_id), output_of(task)

    def _in_batch(
        self,
        inputs: Sequence[Any],
        config: Configs,
        return_exceptions: bool,
        kwargs: dict[str, Any],
        *,
        sync: bool,
    ) -> tuple[ParallelExecutor, list[Callable[[], Awaitable[Any]]]]:
        configs = get_config_list(config, len(inputs))
        executor = ParallelExecutor(
            configs[0].get("max_concurrency") or len(inputs),
            timeout=None,
            fail_fast=not return_exceptions,
        )
        each = zip(inputs, configs, strict=True)
        return executor, [partial(invoked, self, i, c, sync=sync, **kwargs) for i, c in each]


class Retried(Batches, RunnableRetry[Any, Any]):
    """A Runnable that is retried, whose batches give no cancel back as a value.

    LangChain's own repeats a batch in rounds, and with ``return_exceptions=True`` swallows cancels.
    """
