"""A run as a page of its own: opens from disk, with no network; filters, sorts and folds."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from agentos_parallel.display.chart import Bar, Chart, Shown, chart_of
from agentos_parallel.display.timeline import timeline
from agentos_parallel.display.words import STATUS_WORDS, escaped, one_line, outcome_of, span

_OUTCOME_CHARS = 20_000
_FOLDED_CHARS = 100

_STYLE = """
:root{color-scheme:light dark;--line:#d0d7de;--pale:#59636e;--back:#f6f8fa}
@media(prefers-color-scheme:dark){:root{--line:#3d444d;--pale:#9198a1;--back:#151b23}}
body{font:14px system-ui,sans-serif;margin:2em auto;max-width:1100px;padding:0 1em}
h1{font-size:1.4em}label{margin-right:1.2em}table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.35em .6em;border-bottom:1px solid var(--line)}
th button{font:inherit;font-weight:600;border:0;background:none;color:inherit;padding:0;
cursor:pointer}th[aria-sort=ascending] button::after{content:" ▲"}
th[aria-sort=descending] button::after{content:" ▼"}td.number{text-align:right;white-space:nowrap}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--back);padding:.6em;margin:.4em 0}
summary{cursor:pointer}.pale{color:var(--pale)}
"""

# Rows know what they are sorted by; a filter hides those of a status.
_SCRIPT = """
"use strict";
const body = document.querySelector("tbody"), rows = [...body.rows];
for (const box of document.querySelectorAll("input")) box.onchange = () => {
  const off = [...document.querySelectorAll("input:not(:checked)")].map(each => each.value);
  for (const row of rows) row.hidden = off.includes(row.dataset.status);
};
document.querySelectorAll("th").forEach((head, column) => {
  head.firstChild.onclick = () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => row.cells[column].dataset.key;
    const numbers = rows.every(row => key(row) !== "" && !isNaN(key(row)));
    const compare = (a, b) => numbers ? key(a) - key(b) : key(a).localeCompare(key(b));
    rows.sort((a, b) => down ? compare(b, a) : compare(a, b));
    body.append(...rows);
  };
});
"""

_COLUMNS = ("task", "status", "queued", "ran", "retries", "outcome")


def save_report(result: Shown, path: str | PathLike[str]) -> None:
    """Write a run to an HTML file: its timeline, and a table that filters, sorts and unfolds.

    The file has all that it needs in it, and nothing in it is loaded from elsewhere. Answers and
    errors of more than 20,000 characters are cut.

    Args:
        result: a GatherResult, a FanOutResult, or the artifact of a tool's message.
        path: of the file; one that is there is replaced.

    Raises:
        TypeError: *result* is none of these.
        OSError: the file can't be written.

    Example:
        >>> import asyncio, pathlib, tempfile
        >>> from agentos_parallel import parallel_map
        >>> path = pathlib.Path(tempfile.mkdtemp(), "run.html")
        >>> save_report(asyncio.run(parallel_map(str.upper, ["a", "b"])), path)
        >>> "2/2 completed" in path.read_text()
        True
    """
    Path(path).write_text("".join(_page(chart_of(result), timeline(result).svg)), encoding="utf-8")


def _page(chart: Chart, picture: str) -> Iterator[str]:
    summary = escaped(chart.summary, 400)
    yield (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{summary}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{summary}</h1>{picture}<p>"
    )
    for status in dict.fromkeys(bar.task.status for bar in chart.bars):
        number = sum(bar.task.status is status for bar in chart.bars)
        yield (
            f'<label><input type="checkbox" value="{status.value}" checked> '
            f"{STATUS_WORDS[status]} ({number})</label>"
        )
    head = "".join(f"<th><button>{name}</button></th>" for name in _COLUMNS)
    yield f"</p><table><thead><tr>{head}</tr></thead><tbody>"
    for position, bar in enumerate(chart.bars):
        yield "".join(_row(position, bar, winner=bar.task.task_id == chart.winner))
    yield f"</tbody></table><script>{_SCRIPT}</script></body></html>"


def _row(position: int, bar: Bar, *, winner: bool) -> Iterator[str]:
    task = bar.task
    ran = task.duration_ms if bar.start is not None else -1.0
    status = STATUS_WORDS[task.status] + (", abandoned" if task.abandoned else "")
    yield f'<tr data-status="{task.status.value}">'
    yield _cell(position, escaped(bar.label, 200) + (" (the winner)" if winner else ""))
    yield _cell(status, status)
    yield _cell(task.queued_ms, span(task.queued_ms), number=True)
    yield _cell(ran, "" if bar.start is None else span(ran), number=True)
    yield _cell(task.retries, str(task.retries or ""), number=True)
    text = outcome_of(task)
    yield _cell(one_line(text, _FOLDED_CHARS), _folded(text))
    yield "</tr>"


def _cell(key: object, shown: str, *, number: bool = False) -> str:
    """A cell that is sorted by *key*, and shows some HTML."""
    kind = ' class="number"' if number else ""
    return f'<td data-key="{escaped(str(key), _FOLDED_CHARS)}"{kind}>{shown}</td>'


def _folded(text: str) -> str:
    """A text, folded where it is long."""
    if len(text) <= _FOLDED_CHARS and "\n" not in text:
        return escaped(text, _FOLDED_CHARS)
    line = one_line(text, _FOLDED_CHARS)
    left = len(text) - _OUTCOME_CHARS
    more = f'<p class="pale">… ({left} more characters)</p>' if left > 0 else ""
    whole = f"<pre>{escaped(text, _OUTCOME_CHARS)}</pre>{more}"
    return f"<details><summary>{escaped(line, _FOLDED_CHARS)}</summary>{whole}</details>"
