"""The picture of a run: SVG that is right, small, and shows texts as text."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from agentos_parallel import Timeline, timeline
from tests.display.parts import CANCELLED, FAILED, HOSTILE, TIMEOUT, hostile, many, run_of, task
from tests.display.parts import two_slots as two

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str, tag: str = "text") -> list[str]:
    """What stands in the elements of a kind; the SVG has to be XML."""
    return ["".join(each.itertext()) for each in ElementTree.fromstring(svg).iter(SVG + tag)]


def test_each_task_has_a_bar_and_what_is_read_of_it() -> None:
    read = texts(timeline(two()).svg, "title")
    assert read[0] == "2/4 completed, 1 failed, 1 cancelled in 4 s"
    assert read[1:4] == [
        "0: completed, queued 0 s, ran 2 s",
        "1: failed, queued 0 s, ran 1 s\nValueError: no",
        "2: completed, queued 1 s, ran 3 s, 2 retries",
    ]
    assert read[4] == "3: cancelled, queued 4 s"


def test_the_words_below() -> None:
    assert texts(timeline(two()).svg)[-3:] == [
        "2/4 completed, 1 failed, 1 cancelled in 4 s",
        "critical path: 1 → 2 (4 s of 4 s)",
        "2 slots, idle 25% of the time",
    ]


def test_a_status_has_a_colour_and_a_shape() -> None:
    tasks = [
        task("0", 0, 9),
        task("1", 0, 9, status=FAILED),
        task("2", 0, 9, status=TIMEOUT),
        task("3", 0, 9, status=CANCELLED),
    ]
    svg = timeline(run_of(*tasks)).svg
    legend = texts(svg)[:5]
    assert legend == ["completed", "failed", "timed out", "cancelled", "waiting for a slot"]
    marks = set(re.findall(r'class="mark"[^>]* d="([^"]+)"', svg))
    fills = set(re.findall(r'fill="(#[0-9a-f]{6})"', svg))
    assert len(fills) == 4
    assert len(marks) >= 4


def test_what_waits_is_pale_and_in_one_shade() -> None:
    svg = timeline(two()).svg
    [strips] = re.findall(r'<g class="wait">(.*?)</g>', svg)
    assert strips.count("<rect") == 3


def test_retries_are_marked_where_there_is_room_and_where_there_is_none() -> None:
    wide = timeline(run_of(task("0", 0, 4, retries=2))).svg
    assert "↻2" in wide
    narrow = timeline(run_of(task("0", 0, 4000), task("1", 0, 1, retries=1))).svg
    assert "<circle" in narrow
    assert "1 retry" in narrow


def test_the_winner_and_what_was_abandoned_are_told_of() -> None:
    artifact = {**run_of(task("0", 0, 1), task("1", 0, 2, abandoned=True)).to_dict(), "winner": "0"}
    read = texts(timeline(artifact).svg, "title")
    assert read[1].endswith("ran 1 s, the winner")
    assert read[2].endswith("ran 2 s, abandoned")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_are_shown_as_text(text: str) -> None:
    run = hostile(text)
    artifact = {**run.gather.to_dict(), "agents": {"1": text}, "winner": None}
    for shown in (run, artifact):
        svg = timeline(shown).svg
        ElementTree.fromstring(svg)
        assert len(svg) < 20_000
        assert "<script" not in svg
        assert "\x1b" not in svg


@pytest.mark.parametrize("number", [0, 1, 40, 500])
def test_from_none_to_five_hundred(number: int) -> None:
    svg = timeline(many(number)).svg
    assert len(texts(svg, "title")) == number + 1
    assert len(svg.encode()) <= 300 * 1024


def test_more_are_grouped_by_lane_and_outcome() -> None:
    svg = timeline(many(5_000)).svg
    read = texts(svg, "title")[1:]
    assert (
        sum(int(title.split()[0]) for title in read if " tasks: " in title)
        + sum(" tasks: " not in title for title in read)
        == 5_000
    )
    assert len(svg.encode()) <= 300 * 1024


def test_it_shows_itself_and_is_saved(tmp_path: Path) -> None:
    picture: Any = timeline(two())
    assert isinstance(picture, Timeline)
    assert picture._repr_html_() == picture.svg
    assert repr(picture) == f"<Timeline, {len(picture.svg)} characters of SVG>"
    picture.save(tmp_path / "run.svg")
    assert (tmp_path / "run.svg").read_text(encoding="utf-8") == picture.svg


def test_a_run_that_took_no_time() -> None:
    ElementTree.fromstring(timeline(run_of(task("0", 0, 0))).svg)
