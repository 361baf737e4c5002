"""Table and timeline, character by character."""

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from agentos_parallel.demo.outcomes import Call, calls
from agentos_parallel.demo.report import ASCII, table, timeline

Make: TypeAlias = Callable[..., Any]


@pytest.fixture
def outcomes(tool_call: Make, result: Make) -> list[Call]:
    survey = [
        result("docs", started=100.0, ran=2.0),
        result("slow", "timeout", started=102.0, ran=5.0, queued=2.0),
        result("never", "cancelled", started=0.0, ran=0.0, queued=0.0),
    ]
    merge = {"aggregation": "merge"}
    return calls(
        tool_call("fan_out", {}, *survey)
        + tool_call("fan_out", merge, result("docs", started=109.0), value="1. a.py")
    )


def test_the_table_has_a_line_for_each_task(outcomes: list[Call]) -> None:
    assert table(outcomes).splitlines() == [
        "call           agent  status     queued ms  running ms",
        "fan_out all    docs   completed          0        2000",
        "fan_out all    slow   timeout         2000        5000",
        "fan_out all    never  cancelled          0           -",
        "fan_out merge  docs   completed          0        1000",
    ]


def test_the_timeline_is_pale_in_the_queue_and_solid_at_work(outcomes: list[Call]) -> None:
    drawn = timeline(outcomes, width=27)

    assert drawn.splitlines() == [
        "      0 s 10.0 s",
        "docs  ██",
        "slow  ░░█████ timeout",
        "never  cancelled",
        "docs           █",
    ]


def test_it_can_be_drawn_in_ascii(outcomes: list[Call]) -> None:
    assert "slow  ..##### timeout" in timeline(outcomes, width=27, marks=ASCII)


def test_no_line_is_wider_than_asked_for(tool_call: Make, result: Make) -> None:
    ending = [
        result("a", started=100.0, ran=100.0),
        result("b", "cancelled", started=199.99, ran=0.01),
    ]
    tasks = calls(tool_call("fan_out", {}, *ending))

    for width in (27, 60, 100):
        assert max(map(len, timeline(tasks, width=width).splitlines())) <= width


def test_a_task_that_took_no_time_is_seen(tool_call: Make, result: Make) -> None:
    drawn = timeline(calls(tool_call("fan_out", {}, result("a", ran=0.0))))

    assert drawn.splitlines()[1] == "a █"


def test_without_tasks_they_say_so() -> None:
    assert timeline([Call("fan_out all", "refused")]) == "no tasks"
    assert table([]) == "call  agent  status  queued ms  running ms"
