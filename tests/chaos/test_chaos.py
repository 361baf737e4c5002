"""Many random examples, and a million tasks: run by `make chaos`."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings

from tests.chaos.attack import attack
from tests.chaos.plans import Example, examples

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = int(os.environ.get("CHAOS_EXAMPLES", "20000"))
SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(2**32))

pytestmark = pytest.mark.chaos


@seed(SEED)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(examples(depth=3))
def attacks(example: Example) -> None:
    attack(example)


def test_the_promises_hold_whatever_works_do(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{EXAMPLES} examples; to repeat them: CHAOS_SEED={SEED} make chaos")
    attacks()


@pytest.mark.realtime
def test_a_million_tasks_leave_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    # In a process of its own, whose memory is that of the tasks alone.
    command = [sys.executable, "-m", "tests.chaos.soak"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    with capsys.disabled():
        print(f"\n{told.stdout}", end="")
    assert told.returncode == 0, told.stdout + told.stderr
