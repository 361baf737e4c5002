"""The page of a run: it needs nothing from elsewhere, and shows texts as text."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from agentos_parallel import save_report
from tests.display.parts import COMPLETED, HOSTILE, hostile, many, run_of, task, two_slots


class Page(HTMLParser):
    """The elements of a page, and the text of its cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(result: Any, folder: Path) -> str:
    save_report(result, folder / "run.html")
    return (folder / "run.html").read_text(encoding="utf-8")


def test_a_row_for_each_task_and_a_filter_for_each_status(tmp_path: Path) -> None:
    page = page_of(two_slots(), tmp_path)
    assert page.startswith("<!DOCTYPE html>")
    statuses = re.findall(r'<tr data-status="(\w+)">', page)
    assert statuses == ["completed", "failed", "completed", "cancelled"]
    filters = re.findall(r'<input type="checkbox" value="(\w+)" checked>', page)
    assert filters == ["completed", "failed", "cancelled"]
    assert "2/4 completed, 1 failed, 1 cancelled in 4 s" in page


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    page = page_of(many(20), tmp_path)
    assert not re.findall(r"(?:src|href)=|url\(|@import", page)
    assert re.findall(r'https?://[^"]+', page) == ["http://www.w3.org/2000/svg"]


def test_long_answers_are_folded_and_very_long_ones_cut(tmp_path: Path) -> None:
    tasks = [
        task("0", 0, 1, result="short"),
        task("1", 0, 1, result="two\nlines"),
        task("2", 0, 1, result="y" * 30_000),
    ]
    page = page_of(run_of(*tasks), tmp_path)
    assert page.count("<details>") == 2
    assert "<pre>two\nlines</pre>" in page
    assert "y" * 19_000 in page
    assert "(10000 more characters)" in page


def test_what_a_column_is_sorted_by(tmp_path: Path) -> None:
    page = page_of(two_slots(), tmp_path)
    rows = re.findall(r"<tr data-status.*?</tr>", page)
    keys = [re.findall(r'<td data-key="([^"]*)"', row) for row in rows]
    assert [row[0] for row in keys] == ["0", "1", "2", "3"]
    assert [float(row[3]) for row in keys] == [2000, 1000, 3000, -1]


def test_the_winner_is_named(tmp_path: Path) -> None:
    artifact = {**two_slots().to_dict(), "agents": {}, "winner": "0"}
    assert page_of(artifact, tmp_path).count("(the winner)") == 1
    assert "abandoned" in page_of(
        run_of(task("0", 0, 1, status=COMPLETED, abandoned=True)), tmp_path
    )


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_are_shown_as_text(text: str, tmp_path: Path) -> None:
    honest = Page(page_of(hostile("text"), tmp_path))
    shown = Page(page_of(hostile(text), tmp_path))
    # Folding apart, the same elements, and no attribute more.
    folds = {"details", "summary", "pre", "p"}
    assert [t for t in shown.tags if t not in folds] == [t for t in honest.tags if t not in folds]
    assert {name for name, _ in shown.attributes} == {name for name, _ in honest.attributes}
    assert "\x1b" not in shown.text


def test_what_is_no_run_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    nothing: Any = None
    with pytest.raises(TypeError, match="result must be"):
        save_report(nothing, tmp_path / "run.html")
    assert not (tmp_path / "run.html").exists()
