"""Runs the interpreter's own tests of asyncio.TaskGroup against ours; prints which fail.

`python tests/standard/taskgroups.py`: one line of JSON, the number of tests and the names of those
that fail; exit code 2 where the interpreter ships no tests.
"""

import asyncio
import json
import sys
import unittest
from asyncio import taskgroups
from collections.abc import Sized
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agentos_parallel import TaskGroup


class Ours(TaskGroup):
    """With the one private name of the standard class that its tests look at."""

    @property
    def _tasks(self) -> Sized:
        return self._run.crew.due


def main() -> int:
    asyncio.TaskGroup = taskgroups.TaskGroup = Ours  # type: ignore[assignment,misc]  # the point
    try:
        test_taskgroups = import_module("test.test_asyncio.test_taskgroups")
    except ImportError:
        return 2
    tests = unittest.defaultTestLoader.loadTestsFromModule(test_taskgroups)
    result = unittest.TextTestRunner(stream=sys.stderr).run(tests)
    failed = {test.id().rpartition(".")[2] for test, _ in (*result.failures, *result.errors)}
    print(json.dumps({"run": result.testsRun, "failed": sorted(failed)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
