"""Entry points: run many works, or one function over many items, and get every result.

They take their arguments apart, run, and return; what a run promises is kept in ``_core``.
"""

from agentos_parallel.executor.functions import (
    create_parallel_agent_gather,
    parallel_gather,
    parallel_map,
)
from agentos_parallel.executor.parallel_executor import ParallelExecutor

__all__ = ["ParallelExecutor", "create_parallel_agent_gather", "parallel_gather", "parallel_map"]
