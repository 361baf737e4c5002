"""Prints by how many MiB the peak memory grows while a stream is read; run in its own process."""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

from agentos_parallel import parallel_stream

LIMIT = 64
WARM_UP = 1_000


async def double(number: int) -> int:
    return 2 * number


async def read(items: int) -> None:
    async with parallel_stream(double, range(items), max_concurrent=LIMIT) as results:
        async for _ in results:
            pass


def peak_mib() -> float:
    """Peak memory of this process; getrusage alone would tell of the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def main() -> None:
    asyncio.run(read(WARM_UP))
    before = peak_mib()
    asyncio.run(read(int(sys.argv[1])))
    print(f"{peak_mib() - before:.3f}")


if __name__ == "__main__":
    main()
