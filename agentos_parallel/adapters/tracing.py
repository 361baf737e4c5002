"""What is still open in the trace when a task ends."""

from __future__ import annotations

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager


class OpenRuns(BaseCallbackHandler):
    """The runs below one task that have not ended."""

    def __init__(self, manager: BaseCallbackManager) -> None:
        self.callbacks = manager

    async def close(self, error: BaseException, *, sync: bool) -> None:
        """End them with *error*."""
