"""One call of a tool, and the sub-agents that it asks.

A sub-agent is called with its sync ``invoke`` in the core's threads where it has no async way of
its own: its ``ainvoke`` would run in the loop's default pool, which ``asyncio.run`` joins.
"""

from __future__ import annotations

from functools import partial
from typing import Any, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManagerForToolRun
from langchain_core.runnables import Runnable, RunnableConfig

from agentos_parallel._core.works import call_of, in_thread
from agentos_parallel.adapters.answers import answer_of, input_of
from agentos_parallel.adapters.kinds import only_async, only_sync
from agentos_parallel.adapters.subagents import SubAgent

RunManager: TypeAlias = CallbackManagerForToolRun | AsyncCallbackManagerForToolRun | None

Config: TypeAlias = RunnableConfig | None

_ONLY_ASYNC = ("Synchronous implementation", "Cannot invoke a coroutine function synchronously")


class ToolCall:
    """One call of a tool.

    Args:
        run_manager: the tool's run in the trace, which its children stand under; None: no trace.
        sync: the caller is sync: prefer the agents' sync methods.
    """

    def __init__(self, run_manager: RunManager, *, sync: bool) -> None:
        self.sync = sync
        self._run_manager = run_manager

    async def ask(self, agent: SubAgent, text: str, position: int) -> Any:
        """Hand the task *text* to *agent* and give its answer.

        Args:
            agent: who is asked.
            text: what it is to do.
            position: of the task in the call.

        Raises:
            HumanNeededError: it asks a human, whom nobody can reach here.
        """
        runnable = agent.runnable
        if not isinstance(runnable, Runnable):
            return answer_of(await call_of("runnable", runnable)(text))
        given = input_of(runnable, text)
        return answer_of(await invoked(runnable, given, self._config(position), sync=self.sync))

    def _config(self, position: int) -> Config:
        if self._run_manager is None:
            return None
        return {"callbacks": self._run_manager.get_child(f"task:{position}")}


async def invoked(runnable: Runnable[Any, Any], given: Any, config: Config, *, sync: bool) -> Any:
    """What *runnable* makes of *given*: called in a thread where it has no async way of its own.

    *sync* is for a sync caller: called in a thread wherever it has a sync way.
    """
    if not only_async(runnable) if sync else only_sync(runnable):
        try:
            return await in_thread(partial(runnable.invoke, given, config))
        except (NotImplementedError, TypeError) as error:
            # Parts that can't be seen from outside: async-only middleware, what a lambda returns.
            if not any(words in str(error) for words in _ONLY_ASYNC):
                raise
    return await runnable.ainvoke(given, config)
