"""The tasks of a conversation as a table, and as a timeline in text."""

from collections.abc import Sequence

from agentos_parallel.demo.outcomes import Call, Task

BLOCKS = ("░", "█")
ASCII = (".", "#")
_HEADS = ("call", "agent", "status", "queued ms", "running ms")


def table(calls: Sequence[Call]) -> str:
    """List every task of *calls* with its status and its times; never started shows as `-`."""
    rows = [_HEADS, *(_row(call, task) for call in calls for task in call.tasks)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    return "\n".join(_aligned(row, widths) for row in rows)


def _row(call: Call, task: Task) -> tuple[str, ...]:
    running = f"{task.running_ms:.0f}" if task.started else "-"
    return (call.name, task.agent, task.status, f"{task.queued_ms:.0f}", running)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    names = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
    times = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]

    return "  ".join([*names, *times])


def timeline(calls: Sequence[Call], *, width: int = 100, marks: tuple[str, str] = BLOCKS) -> str:
    """Draw a line for every task of *calls*: pale while it queued, solid while it ran.

    Args:
        calls: The calls, of one event loop: their clocks must agree.
        width: Characters in a line.
        marks: The pale and the solid character; `ASCII` where a terminal lacks `BLOCKS`.

    Returns:
        The lines under a scale in seconds; a text that says so where there are no tasks.
    """
    tasks = [task for call in calls for task in call.tasks]
    if not tasks:
        return "no tasks"

    names = max(len(task.agent) for task in tasks)
    columns = max(10, width - names - len(" cancelled") - 2)
    begin, end = min(task.began for task in tasks), max(task.finished for task in tasks)
    per_second = columns / max(end - begin, 0.001)

    scale = f"{'':{names}} 0 s{end - begin:{columns - 5}.1f} s"
    return "\n".join([scale, *(_line(task, begin, per_second, names, marks) for task in tasks)])


def _line(task: Task, begin: float, per_second: float, names: int, marks: tuple[str, str]) -> str:
    pale, solid = marks
    queue = round((task.began - begin) * per_second)
    start = round(((task.started or task.finished) - begin) * per_second)
    run = max(1, round((task.finished - begin) * per_second) - start) if task.started else 0
    bar = " " * queue + pale * (start - queue) + solid * run
    note = "" if task.status == "completed" else f" {task.status}"

    return f"{task.agent:{names}} {bar}{note}"
