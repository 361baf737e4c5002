"""Texts of strangers as screens can show them."""

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos_parallel import TaskResult, TaskStatus
from agentos_parallel.display.words import escaped, one_line, outcome_of, safe, span


@given(st.text(), st.integers(1, 50))
def test_nothing_is_left_that_a_screen_would_obey(text: str, limit: int) -> None:
    shown = safe(text, limit)
    assert len(shown) <= limit
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert not any(ord(letter) < 32 and letter not in "\t\n" for letter in shown)
    assert "\x7f" not in shown
    assert "\u202e" not in shown


@given(st.text(max_size=60))
def test_html_stays_text(text: str) -> None:
    shown = escaped(text, 60)
    assert html.unescape(shown) == safe(text, 60)
    assert "<" not in shown


def test_one_line() -> None:
    assert one_line("a\n\n  b\tc", 40) == "a b c"
    assert one_line("a" * 50, 10) == "a" * 9 + "…"


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (TaskResult("0", TaskStatus.COMPLETED, "text"), "text"),
        (TaskResult("0", TaskStatus.COMPLETED, {"a": [1]}), "{'a': [1]}"),
        (TaskResult("0", TaskStatus.FAILED, error=ValueError("no")), "ValueError: no"),
        (TaskResult("0", TaskStatus.CANCELLED), ""),
    ],
)
def test_an_outcome(task: TaskResult[object], text: str) -> None:
    assert outcome_of(task) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0 s"), (0.01, "0.01 ms"), (42.4, "42 ms"), (900, "0.9 s"), (61_000, "61 s")],
)
def test_a_span(milliseconds: float, text: str) -> None:
    assert span(milliseconds) == text
