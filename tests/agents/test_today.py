"""What the same five sub-agents give as plain tools of an agent today, and through the toolkit.

One fails, one hangs, three answer. The table in the README is what is measured here.
"""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import StructuredTool

from agentos_parallel import ParallelToolkit, SubAgent
from tests.adapters.parts import go, says, told

README = Path(__file__).resolve().parents[2] / "README.md"

SECONDS = {"one": 0.05, "fails": 0.2, "two": 0.9, "three": 1.0, "hangs": 3.5}
TASK_TIMEOUT = 2.0

pytestmark = [
    pytest.mark.realtime,
    pytest.mark.slow,
    pytest.mark.leaky,
]  # sync, the hanging thread runs on


class Work:
    """What the five do, sync and async; keeps who has answered, and when."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.answered: list[str] = []

    def _end(self, name: str) -> str:
        if name == "fails":
            raise ConnectionError("the archive is down")
        if name != "hangs":
            self.answered.append(name)
        return f"answer {name}"

    def of(self, name: str) -> tuple[Any, Any]:
        def work(task: str) -> str:
            time.sleep(SECONDS[name])
            return self._end(name)

        async def awork(task: str) -> str:
            await asyncio.sleep(SECONDS[name])
            return self._end(name)

        return work, awork


def plain(work: Work) -> Any:
    """An agent that has them as tools, and calls all at once."""
    tools = []
    for name in SECONDS:
        sync, coroutine = work.of(name)
        tools.append(StructuredTool.from_function(sync, coroutine, name=name, description=name))
    calls = [{"name": name, "args": {"task": "x"}} for name in SECONDS]
    return create_agent(says(calls, lambda messages: messages[-1].text), tools)


def ours(work: Work, way: str) -> Any:
    agents = [
        SubAgent(name, name, work.of(name)[way == "async"], task_timeout=TASK_TIMEOUT)
        for name in SECONDS
    ]
    calls = [{"name": "fan_out", "args": {"input": "x"}}]
    model = says(calls, lambda messages: messages[-1].text)
    return create_agent(model, ParallelToolkit(agents).get_tools())


def measured(agent: Any, work: Work, way: str) -> dict[str, str]:
    work.began = time.monotonic()
    try:
        state = agent.invoke(go()) if way == "sync" else asyncio.run(agent.ainvoke(go()))
        read = str(told(state).text)
        outcome = "goes on, and knows why two have none"
        assert "fails] failed: ConnectionError" in read
        assert "hangs] timed out after 2" in read
    except ConnectionError:
        read, outcome = "", "raises ConnectionError"
    ended = time.monotonic() - work.began
    answers = sum(f"answer {name}" in read for name in SECONDS)
    return {
        "the agent's run": outcome,
        "ends": moment(ended),
        "answers that the model reads": f"{answers} of 3",
        "finished answers lost": str(len(work.answered) - answers),
    }


def moment(ended: float) -> str:
    """What the run waited for, by when it ended."""
    if ended < SECONDS["two"] - 0.05:
        return "when one fails"
    return (
        "when the hanging one is through" if ended >= SECONDS["hangs"] else "at its `task_timeout`"
    )


def table() -> str:
    columns = {}
    for way in ("async", "sync"):
        work = Work()
        columns[f"plain tools, {way}"] = measured(plain(work), work, way)
    work, again = Work(), Work()
    both = [
        measured(ours(work, "async"), work, "async"),
        measured(ours(again, "sync"), again, "sync"),
    ]
    assert both[0] == both[1]
    columns["`ParallelToolkit`, both"] = both[0]
    rows = [["", *columns], ["---"] * (len(columns) + 1)]
    rows += [[row, *(column[row] for column in columns.values())] for row in both[0]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_the_table_of_the_readme_is_what_is_measured() -> None:
    measured_now = table()
    assert measured_now in README.read_text(), f"\n{measured_now}"
