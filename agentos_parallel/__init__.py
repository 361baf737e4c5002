"""Fan-out and fan-in for LLM agents: bounded, timed, cancelled and counted right."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentos_parallel._core.nesting import remaining
from agentos_parallel.errors import (
    DeadlineExceeded,
    FanOutError,
    ParallelError,
    PartialResultWarning,
    RestoredError,
    SourceError,
    TaskTimeout,
)
from agentos_parallel.executor import (
    ParallelExecutor,
    create_parallel_agent_gather,
    parallel_gather,
    parallel_map,
)
from agentos_parallel.fanout import FanOutConfig, FanOutExecutor, fan_out
from agentos_parallel.group import TaskGroup
from agentos_parallel.results import FanOutResult, GatherResult, TaskResult, TaskStatus
from agentos_parallel.stream import ResultStream, parallel_stream
from agentos_parallel.throttle import TaskThrottler

if TYPE_CHECKING:
    from agentos_parallel.adapters.middleware import ParallelToolsMiddleware
    from agentos_parallel.adapters.runnables import (
        RunnableFanOut,
        RunnableGather,
        RunnableParallelMap,
    )
    from agentos_parallel.adapters.subagents import SubAgent
    from agentos_parallel.adapters.toolkit import ParallelToolkit
    from agentos_parallel.adapters.tools import FanOutTool, ParallelGatherTool, ParallelMapTool
    from agentos_parallel.display.report import save_report
    from agentos_parallel.display.timeline import Timeline, timeline
    from agentos_parallel.testing.models import ScriptedChatModel, ScriptExhaustedError

# Loaded when they are asked for: most bring LangChain.
_LAZY = {
    "FanOutTool": "agentos_parallel.adapters.tools",
    "ParallelGatherTool": "agentos_parallel.adapters.tools",
    "ParallelMapTool": "agentos_parallel.adapters.tools",
    "ParallelToolkit": "agentos_parallel.adapters.toolkit",
    "ParallelToolsMiddleware": "agentos_parallel.adapters.middleware",
    "RunnableFanOut": "agentos_parallel.adapters.runnables",
    "RunnableGather": "agentos_parallel.adapters.runnables",
    "RunnableParallelMap": "agentos_parallel.adapters.runnables",
    "ScriptExhaustedError": "agentos_parallel.testing.models",
    "ScriptedChatModel": "agentos_parallel.testing.models",
    "SubAgent": "agentos_parallel.adapters.subagents",
    "Timeline": "agentos_parallel.display.timeline",
    "save_report": "agentos_parallel.display.report",
    "timeline": "agentos_parallel.display.timeline",
}

__all__ = [
    "DeadlineExceeded",
    "FanOutConfig",
    "FanOutError",
    "FanOutExecutor",
    "FanOutResult",
    "FanOutTool",
    "GatherResult",
    "ParallelError",
    "ParallelExecutor",
    "ParallelGatherTool",
    "ParallelMapTool",
    "ParallelToolkit",
    "ParallelToolsMiddleware",
    "PartialResultWarning",
    "RestoredError",
    "ResultStream",
    "RunnableFanOut",
    "RunnableGather",
    "RunnableParallelMap",
    "ScriptExhaustedError",
    "ScriptedChatModel",
    "SourceError",
    "SubAgent",
    "TaskGroup",
    "TaskResult",
    "TaskStatus",
    "TaskThrottler",
    "TaskTimeout",
    "Timeline",
    "create_parallel_agent_gather",
    "fan_out",
    "parallel_gather",
    "parallel_map",
    "parallel_stream",
    "remaining",
    "save_report",
    "timeline",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
