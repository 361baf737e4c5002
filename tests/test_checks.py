"""The sentence that a bad argument gets: the parameter, the rule, what was given."""

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from agentos_parallel import FanOutConfig, ParallelExecutor, SubAgent, TaskThrottler

anything: Any = None


class Int(int):
    """A whole number by another name, as libraries have them."""


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (0, ValueError, "max_concurrent must be >= 1, got 0"),
        (-1, ValueError, "max_concurrent must be >= 1, got -1"),
        (2.5, TypeError, "max_concurrent must be a whole number >= 1, got 2.5"),
        (2.0, TypeError, "max_concurrent must be a whole number >= 1, got 2.0"),
        (True, TypeError, "max_concurrent must be a whole number >= 1, got True"),
        ("4", TypeError, "max_concurrent must be a whole number >= 1, got '4'"),
        ([4], TypeError, "max_concurrent must be a whole number >= 1, got a list"),
        (math.inf, TypeError, "max_concurrent must be a whole number >= 1, got inf"),
    ],
)
@pytest.mark.parametrize("made", [ParallelExecutor, TaskThrottler, FanOutConfig])
def test_a_limit_is_a_whole_number(
    made: Callable[..., object], value: object, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind) as refused:
        made(max_concurrent=value)
    assert str(refused.value) == text


def test_a_limit_by_another_name_is_a_limit() -> None:
    assert TaskThrottler(Int(3)).max_concurrent == 3


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (0, ValueError),
        (0.0, ValueError),
        (-1, ValueError),
        (-0.5, ValueError),
        (math.nan, ValueError),
        (-math.inf, ValueError),
        (True, TypeError),
        ("60", TypeError),
        (b"60", TypeError),
        (1j, TypeError),
        ([1], TypeError),
        (Decimal("1"), TypeError),
    ],
)
@pytest.mark.parametrize("name", ["timeout", "task_timeout"])
@pytest.mark.parametrize("made", [ParallelExecutor, FanOutConfig])
def test_a_timeout_is_a_number_of_seconds_above_zero(
    made: Callable[..., object], name: str, value: object, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as refused:
        made(**{name: value})
    text = str(refused.value)
    assert text.startswith(f"{name} must be a number of seconds > 0")
    assert "None" in text
    shown = repr(value) if isinstance(value, bool | int | float | str) else type(value).__name__
    assert text.endswith(shown)


@pytest.mark.parametrize("value", [1, 0.001, math.inf, Fraction(1, 2), Int(3)])
def test_any_number_of_seconds_will_do(value: Any) -> None:
    executor = ParallelExecutor(timeout=value, task_timeout=value, grace=value)
    assert executor.timeout == value


def test_a_grace_may_be_zero_and_not_less() -> None:
    assert ParallelExecutor(grace=0).grace == 0
    with pytest.raises(ValueError, match=r"^grace must be a number of seconds >= 0, got -0\.1$"):
        ParallelExecutor(grace=-0.1)
    with pytest.raises(TypeError, match="grace must be a number of seconds >= 0, got None"):
        ParallelExecutor(grace=anything)


@pytest.mark.parametrize("value", [1, 0, "yes", None])
def test_a_flag_is_true_or_false(value: Any) -> None:
    with pytest.raises(TypeError) as refused:
        ParallelExecutor(fail_fast=value)
    assert str(refused.value) == f"fail_fast must be True or False, got {value!r}"
    with pytest.raises(TypeError, match="retry_failed must be True or False"):
        FanOutConfig(retry_failed=value)


def test_retries_may_be_none_and_not_less() -> None:
    assert FanOutConfig(max_retries=0).max_retries == 0
    with pytest.raises(ValueError, match="max_retries must be >= 0, got -1"):
        FanOutConfig(max_retries=-1)
    with pytest.raises(TypeError, match="max_retries must be a whole number >= 0, got None"):
        FanOutConfig(max_retries=anything)


def test_a_long_value_is_cut_in_the_sentence() -> None:
    long: Any = "x" * 1000
    with pytest.raises(TypeError) as refused:
        ParallelExecutor(max_concurrent=long)
    assert len(str(refused.value)) < 150


@pytest.mark.parametrize(("value", "kind"), [("", ValueError), ("  ", ValueError), (5, TypeError)])
def test_a_text_says_something(value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="description"):
        SubAgent("researcher", value, str.upper)
    assert SubAgent("researcher", "looks things up", str.upper).name == "researcher"


@pytest.mark.parametrize("seconds", [10**400, -(10**400), 10**5000], ids=["high", "low", "endless"])
def test_a_whole_number_too_large_for_a_float_is_refused(seconds: int) -> None:
    with pytest.raises(ValueError, match="timeout must be a number of seconds > 0"):
        ParallelExecutor(timeout=seconds)
