"""What the demo's tests share: a tree to review, and conversations with tool results in them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Give a function that writes files, `{name: text}`, and returns their folder."""

    def write(files: dict[str, str]) -> Path:
        root = tmp_path / "project"
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        return root.resolve()

    return write


@pytest.fixture
def result() -> Callable[..., dict[str, Any]]:
    """Give a function that makes the result of one task, as artifacts have it."""

    def make(
        task_id: str,
        status: str = "completed",
        answer: Any = None,
        *,
        error: tuple[str, str] | None = None,
        queued: float = 0.0,
        started: float = 100.0,
        ran: float = 1.0,
    ) -> dict[str, Any]:
        return {
            "task_id": task_id,
            "status": status,
            "result": answer,
            "error": error and {"type": error[0], "message": error[1]},
            "started_at": started,
            "finished_at": (started or 100.0) + ran,
            "duration_ms": ran * 1000,
            "queued_ms": queued * 1000,
        }

    return make


@pytest.fixture
def tool_call() -> Callable[..., list[BaseMessage]]:
    """Give a function that makes the two messages of one tool call: the request and its answer.

    Without results the answer has no artifact, as when a tool refuses. The agents' names are those
    of the tasks if they are not told.
    """

    def make(
        name: str,
        args: dict[str, Any],
        *results: dict[str, Any],
        agents: Sequence[str] = (),
        value: Any = None,
        winner: str | None = None,
        text: str = "done",
    ) -> list[BaseMessage]:
        call_id = f"{name} {args}"
        request = AIMessage("", tool_calls=[{"name": name, "args": args, "id": call_id}])
        ids = [result["task_id"] for result in results]
        run = {
            "results": list(results),
            "agents": dict(zip(ids, agents or ids, strict=True)),
            "value": value,
            "winner": winner,
        }
        return [request, ToolMessage(text, tool_call_id=call_id, artifact=run if results else None)]

    return make
