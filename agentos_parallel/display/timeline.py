"""A run as a picture: a Gantt chart as plain SVG, made of nothing but its result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import groupby
from os import PathLike
from pathlib import Path

from agentos_parallel.display.chart import Bar, Chart, Shown, chart_of
from agentos_parallel.display.words import STATUS_WORDS, escaped, one_line, outcome_of, span
from agentos_parallel.results import TaskStatus

_WIDTH = 960.0
_LEFT, _RIGHT, _TOP = 16.0, 24.0, 44.0
_MOST_BARS = 500
_HOVER_CHARS = 200
_LETTER = 6.6  # pixels that a letter of a label takes

_COLOURS = {
    TaskStatus.COMPLETED: "#2f8f4e",
    TaskStatus.FAILED: "#cf3b45",
    TaskStatus.TIMEOUT: "#c47a11",
    TaskStatus.CANCELLED: "#78818c",
}

# It follows the page: JupyterLab's theme, VS Code's, else what the reader prefers; on a ground of
# its own, for browsers show a picture alone on white.
_STYLE = """
.ap-timeline{font:12px system-ui,sans-serif;max-width:100%;height:auto;
color:var(--jp-content-font-color1,var(--vscode-editor-foreground,#1f2328))}
.ap-timeline .ground{fill:var(--jp-layout-color0,var(--vscode-editor-background,#fff))}
@media(prefers-color-scheme:dark){.ap-timeline{
color:var(--jp-content-font-color1,var(--vscode-editor-foreground,#e6edf3))}
.ap-timeline .ground{fill:var(--jp-layout-color0,var(--vscode-editor-background,#161b22))}}
.ap-timeline text{fill:currentColor}.ap-timeline .in{fill:#fff;pointer-events:none}
.ap-timeline .grid{stroke:currentColor;opacity:.15}.ap-timeline .pale{opacity:.65}
.ap-timeline .wait{fill:currentColor;opacity:.22}.ap-timeline .mark{stroke:#fff;fill:none;
stroke-width:1.6}
"""


@dataclass(frozen=True, slots=True)
class Timeline:
    """A picture of a run; a notebook shows it by itself.

    Attributes:
        svg: its text.
    """

    svg: str

    def save(self, path: str | PathLike[str]) -> None:
        """Write it to the file *path*, for a browser or a README."""
        Path(path).write_text(self.svg, encoding="utf-8")

    def _repr_html_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        """One short line, whatever the size of the picture."""
        return f"<Timeline, {len(self.svg)} characters of SVG>"


def timeline(result: Shown) -> Timeline:
    """Draw a run: a lane for each slot, waiting pale, running solid, status by colour and shape.

    The text below the pointer has each task's times and error. More than 500 tasks are grouped:
    those that follow each other in a lane with the same outcome share a bar.

    Args:
        result: a GatherResult, a FanOutResult, or the artifact of a tool's message.

    Raises:
        TypeError: it is none of these.

    Example:
        >>> import asyncio
        >>> from agentos_parallel import parallel_map
        >>> timeline(asyncio.run(parallel_map(str.upper, ["a", "b"])))
        <Timeline, ... characters of SVG>
    """
    chart = chart_of(result)
    return Timeline("".join(_Drawing(chart).parts()))


class _Drawing:
    """The picture of a chart, part by part."""

    def __init__(self, chart: Chart) -> None:
        self._chart = chart
        self._never = [bar for bar in chart.bars if bar.start is None]
        self._lane = min(24.0, max(5.0, 640 / max(chart.lanes, 1)))
        self._height = max(3.0, self._lane - 6)  # of a bar
        self._scale = (_WIDTH - _LEFT - _RIGHT) / (chart.seconds or 1.0)

    def parts(self) -> Iterator[str]:
        """The text of the SVG."""
        bottom = _TOP + self._lane * self._chart.lanes + 6
        words = [self._chart.summary, *self._chart.words()]
        height = bottom + (26 if self._never else 0) + 30 + 17 * len(words)
        yield (
            f'<svg class="ap-timeline" xmlns="http://www.w3.org/2000/svg" '
            f'viewBox="0 0 {_WIDTH:g} {height:g}" width="{_WIDTH:g}" role="img">'
            f"<title>{escaped(words[0], _HOVER_CHARS)}</title><style>{_STYLE}</style>"
            f'<rect class="ground" width="{_WIDTH:g}" height="{height:g}" rx="6"/>'
        )
        yield from self._legend()
        yield from self._axis(bottom)
        groups = list(self._groups())
        yield '<g class="wait">'
        yield from map(self._waiting, groups)
        yield "</g>"
        for group in groups:
            yield from self._bar(group)
        if self._never:
            bottom += 26
            yield from self._never_started(bottom - 10)
        for line, text in enumerate(words):
            yield f'<text x="{_LEFT:g}" y="{bottom + 34 + 17 * line:g}">{escaped(text, 400)}</text>'
        yield "</svg>"

    def _x(self, seconds: float) -> float:
        return _LEFT + seconds * self._scale

    def _legend(self) -> Iterator[str]:
        x = _LEFT
        there = {bar.task.status for bar in self._chart.bars if bar.start is not None}
        for status, colour in _COLOURS.items():
            if status in there:
                yield f'<rect x="{x:g}" y="6" width="14" height="14" rx="2" fill="{colour}"/>'
                yield _mark(status, x + 7, 13, 4)
                yield f'<text x="{x + 20:g}" y="17">{STATUS_WORDS[status]}</text>'
                x += 36 + _LETTER * len(STATUS_WORDS[status])
        yield f'<rect class="wait" x="{x:g}" y="11" width="14" height="4"/>'
        yield f'<text x="{x + 20:g}" y="17">waiting for a slot</text>'

    def _axis(self, bottom: float) -> Iterator[str]:
        for seconds in _ticks(self._chart.seconds):
            x = self._x(seconds)
            yield f'<path class="grid" d="M{x:.1f} {_TOP - 4:g}V{bottom:g}"/>'
            yield (
                f'<text class="pale" x="{x:.1f}" y="{_TOP - 9:g}" text-anchor="middle">'
                f"{span(1000 * seconds)}</text>"
            )

    def _groups(self) -> Iterator[list[Bar]]:
        """The bars that started, each alone, or as many as have to be together."""
        bars = [bar for bar in self._chart.bars if bar.start is not None]
        if len(bars) <= _MOST_BARS:
            yield from ([bar] for bar in bars)
            return
        bars.sort(key=lambda bar: (bar.lane, bar.start))
        width = self._chart.seconds * self._chart.lanes / _MOST_BARS or 1.0

        def together(bar: Bar) -> tuple[int, int, TaskStatus]:
            return bar.lane, int((bar.start or 0.0) / width), bar.task.status

        for _, group in groupby(bars, together):
            yield list(group)

    def _waiting(self, group: list[Bar]) -> str:
        """The strip below a bar, from when it was queued; all of them are one shade together."""
        first = group[0]
        waited = ((first.start or 0.0) - first.queued) * self._scale
        y = _TOP + self._lane * first.lane + self._height + 1
        x = self._x(first.queued)
        return f'<rect x="{x:.1f}" y="{y:.1f}" width="{waited:.1f}" height="2"/>'

    def _bar(self, group: list[Bar]) -> Iterator[str]:
        first, status = group[0], group[0].task.status
        start, end = first.start or 0.0, group[-1].end
        x, y = self._x(start), _TOP + self._lane * first.lane
        width, height = max(1.5, (end - start) * self._scale - 0.5), self._height
        label = first.label if len(group) == 1 else f"{len(group)} tasks"
        yield f"<g><title>{_hover(group, self._chart)}</title>"
        yield (
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" '
            f'fill="{_COLOURS.get(status, "#78818c")}"/>'
        )
        room = width
        if height >= 10 and width >= 14 and status is not TaskStatus.COMPLETED:
            yield _mark(status, x + 8, y + height / 2, min(4, height / 3))
            room -= 14
        retries = sum(bar.task.retries for bar in group)
        if retries:
            label += f" ↻{retries}"
        if height >= 11 and room >= _LETTER * len(label) + 6:
            yield (
                f'<text class="in" x="{x + width - room + 4:.1f}" y="{y + height / 2 + 4:.1f}">'
                f"{escape(label)}</text>"
            )
        elif retries:
            yield f'<circle cx="{x + 3:.1f}" cy="{y + 3:.1f}" r="2" fill="#fff"/>'
        yield "</g>"

    def _never_started(self, y: float) -> Iterator[str]:
        """One line for all that never had a slot."""
        names = one_line(", ".join(bar.label for bar in self._never[:20]), 90)
        end = self._x(max(bar.end for bar in self._never))
        yield (
            f"<g><title>{_hover(self._never, self._chart)}</title>"
            f'<rect class="wait" x="{_LEFT:g}" y="{y - 4:g}" width="{end - _LEFT:.1f}" height="3"/>'
            f'<text class="pale" x="{_LEFT:g}" y="{y + 12:g}">never started: {escape(names)}'
            f" ({len(self._never)})</text></g>"
        )


def _hover(group: list[Bar], chart: Chart) -> str:
    """What is read of a bar."""
    bar = group[0]
    if len(group) > 1:
        ids = f"{group[0].label} … {group[-1].label}"
        return escaped(f"{len(group)} tasks: {ids}: {STATUS_WORDS[bar.task.status]}", _HOVER_CHARS)
    task = bar.task
    parts = [STATUS_WORDS[task.status], f"queued {span(task.queued_ms)}"]
    if bar.start is not None:
        parts.append(f"ran {span(task.duration_ms)}")
    if task.retries:
        parts.append(f"{task.retries} retries" if task.retries > 1 else "1 retry")
    if task.abandoned:
        parts.append("abandoned")
    if task.task_id == chart.winner:
        parts.append("the winner")
    text = f"{bar.label}: {', '.join(parts)}"
    why = outcome_of(task) if task.error is not None else ""
    return escaped(f"{text}\n{one_line(why, _HOVER_CHARS)}" if why else text, 2 * _HOVER_CHARS)


def _mark(status: TaskStatus, x: float, y: float, size: float) -> str:
    """A shape of its own for each status: tick, cross, clock, bar."""
    shapes = {
        TaskStatus.COMPLETED: f"M{-size} 0L{-size / 3} {size * 0.7}L{size} {-size * 0.7}",
        TaskStatus.FAILED: f"M{-size} {-size}L{size} {size}M{-size} {size}L{size} {-size}",
        TaskStatus.TIMEOUT: f"M0 {-size}V0H{size * 0.8}M{size} 0A{size} {size} 0 1 1 0 {-size}",
        TaskStatus.CANCELLED: f"M{-size} 0H{size}",
    }
    path = shapes.get(status, "")
    return f'<path class="mark" transform="translate({x:.1f} {y:.1f})" d="{path}"/>'


def _ticks(seconds: float) -> Iterator[float]:
    """Some round times from 0 to *seconds*."""
    step = 10.0**-6
    while seconds / step > 10:
        step *= 2.5 if f"{step:e}".startswith("2") else 2
    for number in range(int(seconds / step) + 1):
        yield number * step
