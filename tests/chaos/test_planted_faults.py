"""The checker catches each fault that is planted in a copy of the package, and nothing without."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS, Fault, plant

ROOT = Path(__file__).resolve().parents[2]
AT_MOST = "20000"  # examples; the first that catches the fault is the last
WITHOUT = "4000"

pytestmark = pytest.mark.chaos


def attacked(fault: Fault | None, copy: Path, examples: str) -> subprocess.CompletedProcess[str]:
    """Attack a copy of the package with *fault* in it."""
    plant(fault, copy)
    return subprocess.run(
        [sys.executable, "-m", "tests.chaos.attack", examples],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(copy), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_a_copy_without_a_fault_passes(tmp_path: Path) -> None:
    told = attacked(None, tmp_path, WITHOUT)
    assert told.returncode == 0, told.stdout + told.stderr
    assert str(tmp_path) in told.stdout  # it was the copy that was attacked


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_the_checker_catches(fault: Fault, tmp_path: Path) -> None:
    told = attacked(fault, tmp_path, AT_MOST)
    assert told.returncode == 1, f"{fault.name} was not caught:\n{told.stdout}{told.stderr}"
    # It is the checker that found it, or a run that could not go on (P9), not a broken copy.
    assert "AssertionError" in told.stderr or "DeadlockError" in told.stderr, told.stderr
