"""A run as a table, in terminals and notebooks."""

from typing import Any

import pytest

from agentos_parallel import FanOutResult
from tests.display.parts import HOSTILE, hostile, many, two_slots


def test_in_a_terminal() -> None:
    assert two_slots().table() == (
        "task  status     queued  ran  retries  outcome\n"
        "0     completed  0 s     2 s           first\n"
        "1     failed     0 s     1 s           ValueError: no\n"
        "2     completed  1 s     3 s  2        third\n"
        "3     cancelled  4 s\n"
        "critical path: 1 → 2 (4 s of 4 s)\n"
        "2 slots, idle 25% of the time"
    )


def test_of_many_tasks_so_many_rows() -> None:
    lines = many(100).table(rows=10).splitlines()
    assert len(lines) == 1 + 10 + 1 + 2
    assert lines[11] == "... (90 more tasks)"


def test_in_a_notebook() -> None:
    shown = many(60)._repr_html_()
    assert "<svg" in shown
    assert shown.count("<tr>") == 51
    assert "(10 more tasks)" in shown
    assert FanOutResult(1, "0", two_slots())._repr_html_().count("<tr>") == 5


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_are_shown_as_text(text: str) -> None:
    run: Any = hostile(text)
    table = run.gather.table()
    assert not any(ord(letter) < 32 and letter != "\n" for letter in table)
    assert len(table.splitlines()) == 6
    assert len(table) < 2_000
    shown = run.gather._repr_html_()
    assert "<script" not in shown
    assert shown.encode("utf-8")
    assert len(shown) < 30_000
