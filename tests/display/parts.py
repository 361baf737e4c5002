"""Runs to be shown."""

from typing import Any

from agentos_parallel import FanOutResult, GatherResult, TaskResult, TaskStatus

COMPLETED, FAILED, TIMEOUT, CANCELLED = (
    TaskStatus.COMPLETED,
    TaskStatus.FAILED,
    TaskStatus.TIMEOUT,
    TaskStatus.CANCELLED,
)

HOSTILE = {
    "HTML": "<script>alert(1)</script>&amp;\"'",
    "terminal": "\x1b[2J\x1b]0;title\x07\r\x9b31m",
    "lone surrogate": b"caf\xe9".decode("utf-8", "surrogateescape"),
    "right to left": "\u202egpj.exe\u200b",
    "end of a comment": "--></style></title></svg>]]>",
    "nul": "a\x00b",
    "long": "x" * 1_000_000,
}


def task(
    task_id: str,
    start: float | None,
    end: float,
    *,
    queued: float = 0.0,
    status: TaskStatus = COMPLETED,
    **more: Any,
) -> TaskResult[Any]:
    """One that started and ended so many seconds after the run began; the clock shows 100 then."""
    ran = 0.0 if start is None else end - start
    started = 0.0 if start is None else 100 + start
    return TaskResult(
        task_id,
        status,
        started_at=started,
        finished_at=100 + end,
        duration_ms=1000 * ran,
        queued_ms=1000 * queued,
        **more,
    )


def run_of(*tasks: TaskResult[Any], seconds: float = 0.0) -> GatherResult[Any]:
    statuses = [each.status for each in tasks]
    last = max((each.finished_at for each in tasks), default=100.0) - 100
    return GatherResult(
        list(tasks),
        len(tasks),
        completed=statuses.count(COMPLETED),
        failed=statuses.count(FAILED),
        timed_out=statuses.count(TIMEOUT),
        cancelled=statuses.count(CANCELLED),
        total_duration_ms=1000 * max(seconds, last),
    )


def two_slots() -> GatherResult[Any]:
    """Four tasks in two slots: one fails, one is retried, one never starts."""
    return run_of(
        task("0", 0, 2, result="first"),
        task("1", 0, 1, status=FAILED, error=ValueError("no")),
        task("2", 1, 4, queued=1, result="third", retries=2),
        task("3", None, 4, queued=4, status=CANCELLED),
    )


def many(number: int, lanes: int = 20) -> GatherResult[Any]:
    statuses = (COMPLETED, COMPLETED, FAILED, TIMEOUT)
    return run_of(
        *(
            task(
                str(n),
                n // lanes,
                n // lanes + 0.9,
                queued=n // lanes,
                status=statuses[n % 4],
                result=None if n % 4 > 1 else f"answer {n}",
                error=ValueError(f"error {n}") if n % 4 > 1 else None,
            )
            for n in range(number)
        )
    )


def hostile(text: str) -> FanOutResult[Any]:
    """The text as an answer, an error and a task_id."""
    return FanOutResult(
        text,
        text,
        run_of(
            task(text, 0, 1, result=text),
            task("1", 0, 1, status=FAILED, error=ValueError(text)),
            task("2" + text, None, 1, queued=1, status=TIMEOUT, error=TimeoutError(text)),
        ),
    )
