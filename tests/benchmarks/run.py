"""Prints what the package costs, beside its peers, measured in the same run.

`python tests/benchmarks/run.py [--check] [NAME ...]`: NAME picks rows by a part of their function's
name; with --check the exit code is 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks import rows


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the package beside its peers.")
    parser.add_argument("--check", action="store_true", help="exit code 1 where a bar is missed")
    parser.add_argument("names", nargs="*", help="parts of the names of the rows wanted")
    options = parser.parse_args()

    print(f"Python {platform.python_version()}, {rows.TASKS:,} tasks at limit {rows.LIMIT}; "
          "medians of rounds in which the contenders take turns")  # fmt: skip
    began = time.perf_counter()
    missed = 0
    for measure in rows.ALL:
        if options.names and not any(name in measure.__name__ for name in options.names):
            continue
        for row in measure():
            print(row, flush=True)
            missed += not row.met
    print(f"{missed or 'no'} bar{'' if missed == 1 else 's'} missed, "
          f"{time.perf_counter() - began:.0f} s")  # fmt: skip
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
