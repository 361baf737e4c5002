"""A run as a table: in terminals as text, in notebooks as HTML."""

from __future__ import annotations

from collections.abc import Sequence

from agentos_parallel.display.chart import Bar, Shown, chart_of
from agentos_parallel.display.timeline import timeline
from agentos_parallel.display.words import STATUS_WORDS, escaped, one_line, outcome_of, span

_COLUMNS = ("task", "status", "queued", "ran", "retries", "outcome")
_OUTCOME_CHARS = 60
_ROWS = 50


def text_table(result: Shown, rows: int | None = None) -> str:
    """The tasks of a run as a table of text, a line each, in input order."""
    chart = chart_of(result)
    shown = chart.bars if rows is None else chart.bars[:rows]
    lines = [_COLUMNS, *(_cells(bar) for bar in shown)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS) - 1)]
    text = [_aligned(line, widths) for line in lines]
    if len(shown) < len(chart.bars):
        text.append(f"... ({len(chart.bars) - len(shown)} more tasks)")
    return "\n".join([*text, *chart.words()])


def html_table(result: Shown) -> str:
    """A summary of a run for a notebook: its counts, its timeline, and its first tasks."""
    chart = chart_of(result)
    rows = "".join(_row(bar) for bar in chart.bars[:_ROWS])
    left = len(chart.bars) - _ROWS
    more = f"<p>… ({left} more tasks)</p>" if left > 0 else ""
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    return (
        f"<div><p><b>{escaped(chart.summary, 400)}</b></p>{timeline(result).svg}"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}</div>"
    )


def _cells(bar: Bar) -> tuple[str, ...]:
    task = bar.task
    status = STATUS_WORDS[task.status] + (" (abandoned)" if task.abandoned else "")
    return (
        bar.label,
        status,
        span(task.queued_ms),
        "" if bar.start is None else span(task.duration_ms),
        str(task.retries or ""),
        one_line(outcome_of(task), _OUTCOME_CHARS),
    )


def _row(bar: Bar) -> str:
    return f"<tr>{''.join(f'<td>{escaped(cell, 200)}</td>' for cell in _cells(bar))}</tr>"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
    return "  ".join([*padded, line[-1]]).rstrip()
