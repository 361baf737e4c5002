"""Random works under random settings, cancels and readers: all promises hold after each.

A quick share, the same each time; `make chaos` runs many more, and tries the checker itself.
"""

from hypothesis import HealthCheck, given, settings

from tests.chaos.attack import attack
from tests.chaos.plans import Example, examples
from tests.chaos.turns import LIMITS, RUNS, check_turns


@settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(examples())
def test_the_promises_hold_whatever_works_do(example: Example) -> None:
    attack(example)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(LIMITS, RUNS)
def test_p12_runs_take_turns_slot_by_slot(limit: int, runs: list[list[int]]) -> None:
    check_turns(limit, runs)
