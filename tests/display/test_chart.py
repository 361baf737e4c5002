"""A run as bars: lanes, the critical path, the lost time."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos_parallel import FanOutResult, GatherResult, TaskResult, TaskStatus, parallel_gather
from agentos_parallel.display.chart import chart_of
from tests.display.parts import run_of, task, two_slots
from tests.pieces import after


def test_a_lane_for_each_slot() -> None:
    chart = chart_of(two_slots())
    assert chart.lanes == 2
    assert [bar.lane for bar in chart.bars] == [0, 1, 1, -1]
    assert [(bar.queued, bar.start, bar.end) for bar in chart.bars] == [
        (0, 0, 2),
        (0, 0, 1),
        (0, 1, 4),
        (0, None, 4),
    ]
    assert chart.seconds == 4


def test_what_held_everybody_up_and_what_was_lost() -> None:
    chart = chart_of(two_slots())
    assert [bar.label for bar in chart.critical_path()] == ["1", "2"]
    assert chart.idle == pytest.approx(1 - 6 / 8)
    assert chart.words() == ["critical path: 1 → 2 (4 s of 4 s)", "2 slots, idle 25% of the time"]


def test_a_long_path_is_shortened() -> None:
    tasks = [task(str(n), n, n + 1, queued=n) for n in range(12)]
    [path, slots] = chart_of(run_of(*tasks)).words()
    assert path.startswith("critical path: 0 → 1 → 2 → 3 → 4 → 5 → 6 → … (4 more) → 11 (12 s")
    assert slots == "1 slot, idle 0% of the time"


def test_a_task_that_waited_for_nobody_begins_a_path() -> None:
    chart = chart_of(run_of(task("0", 0, 1), task("1", 5, 6)))
    assert [bar.label for bar in chart.critical_path()] == ["1"]


@pytest.mark.parametrize("tasks", [[], [task("0", None, 1, status=TaskStatus.TIMEOUT)]])
def test_a_run_in_which_nothing_started(tasks: list[TaskResult[Any]]) -> None:
    chart = chart_of(run_of(*tasks))
    assert chart.words() == ["no task ever started"]
    assert (chart.lanes, chart.idle) == (0, 0)


def test_the_artifact_of_a_tool_has_its_agents() -> None:
    artifact = {**two_slots().to_dict(), "agents": {"0": "web", "1": "1"}, "winner": "0"}
    chart = chart_of(artifact)
    assert [bar.label for bar in chart.bars] == ["0 web", "1", "2", "3"]
    assert chart.winner == "0"


def test_the_result_of_a_fan_out_has_its_winner() -> None:
    assert chart_of(FanOutResult("first", "0", two_slots())).winner == "0"


@pytest.mark.parametrize("given_", [None, 7, "text", [], {}, {"a": 1}])
def test_anything_else_is_refused(given_: Any) -> None:
    with pytest.raises(TypeError, match="result must be a GatherResult, a FanOutResult or the art"):
        chart_of(given_)


async def test_a_run_as_it_really_was() -> None:
    result = await parallel_gather(*(after(1, n) for n in range(6)), max_concurrent=2)
    chart = chart_of(result)
    assert chart.lanes == 2
    assert chart.seconds == pytest.approx(3)
    assert len(chart.critical_path()) == 3
    assert chart.idle == pytest.approx(0)


def test_tasks_that_still_wait_or_work() -> None:
    tasks: list[TaskResult[Any]] = [
        task("0", 0, 2),
        TaskResult("1", TaskStatus.RUNNING, started_at=101.0),
        TaskResult("2"),
    ]
    bars = chart_of(GatherResult(tasks, 3)).bars
    assert [(bar.queued, bar.start, bar.end) for bar in bars] == [
        (0, 0, 2),
        (1, 1, 2),
        (0, None, 2),
    ]


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0.01, 20), st.floats(0, 5)), max_size=60))
def test_bars_of_a_lane_never_overlap_and_there_are_as_many_lanes_as_worked_at_once(
    spans: list[tuple[float, float, float]],
) -> None:
    tasks = [task(str(n), s, s + t, queued=min(q, s)) for n, (s, t, q) in enumerate(spans)]
    chart = chart_of(run_of(*tasks))

    for lane in range(chart.lanes):
        bars = sorted((b for b in chart.bars if b.lane == lane), key=lambda bar: bar.start or 0.0)
        for before, behind in pairwise(bars):
            assert before.end <= (behind.start or 0.0)
    starts = [bar.start or 0.0 for bar in chart.bars]
    at_once = [sum((b.start or 0.0) <= s < b.end for b in chart.bars) for s in starts]
    assert chart.lanes == max(at_once, default=0)
    path = chart.critical_path()
    for before, behind in pairwise(path):
        assert before.end <= (behind.start or 0.0)
