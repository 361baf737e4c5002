"""A checkpointer for async children of a sync caller, whose own has perhaps no async methods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from agentos_parallel._core.works import in_thread


class InThreads(BaseCheckpointSaver[Any]):
    """Calls the sync methods of *saver*, in threads where it is called async."""

    def __init__(self, saver: BaseCheckpointSaver[Any]) -> None:
        super().__init__(serde=saver.serde)
        self._saver = saver
        self.loop = getattr(saver, "loop", None)  # of one that is async at heart

    def with_allowlist(self, extra_allowlist: Any) -> InThreads:
        """The same with more types that may be read back."""
        return InThreads(self._saver.with_allowlist(extra_allowlist))

    def get_next_version(self, current: Any, channel: None) -> Any:
        """The version after *current*, as *saver* counts."""
        return self._saver.get_next_version(current, channel)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Read one checkpoint."""
        return self._saver.get_tuple(config)

    def list(self, config: RunnableConfig | None, **options: Any) -> Iterator[CheckpointTuple]:
        """Read several."""
        return self._saver.list(config, **options)

    def put(self, *checkpoint: Any) -> RunnableConfig:
        """Write one."""
        return self._saver.put(*checkpoint)

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",  # LangGraph looks for this parameter
    ) -> None:
        """Write what a task has written."""
        self._saver.put_writes(config, writes, task_id, task_path)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Read one checkpoint."""
        found: CheckpointTuple | None = await in_thread(self.get_tuple, config)
        return found

    async def alist(
        self, config: RunnableConfig | None, **options: Any
    ) -> AsyncIterator[CheckpointTuple]:
        """Read several."""
        for found in await in_thread(lambda: [*self.list(config, **options)]):
            yield found

    async def aput(self, *checkpoint: Any) -> RunnableConfig:
        """Write one."""
        config: RunnableConfig = await in_thread(self.put, *checkpoint)
        return config

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Write what a task has written."""
        await in_thread(self.put_writes, config, writes, task_id, task_path)
