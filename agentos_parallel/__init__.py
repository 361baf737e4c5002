"""Fan-out and fan-in for LLM agents: bounded, timed, cancelled and counted right."""

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
from agentos_parallel.results import FanOutResult, GatherResult, TaskResult, TaskStatus
from agentos_parallel.stream import ResultStream, parallel_stream
from agentos_parallel.throttle import TaskThrottler

__all__ = [
    "DeadlineExceeded",
    "FanOutConfig",
    "FanOutError",
    "FanOutExecutor",
    "FanOutResult",
    "GatherResult",
    "ParallelError",
    "ParallelExecutor",
    "PartialResultWarning",
    "RestoredError",
    "ResultStream",
    "SourceError",
    "TaskResult",
    "TaskStatus",
    "TaskThrottler",
    "TaskTimeout",
    "create_parallel_agent_gather",
    "fan_out",
    "parallel_gather",
    "parallel_map",
    "parallel_stream",
    "remaining",
]
