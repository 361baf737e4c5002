"""What RunnableParallel and an agent's own tool calls do today, and what they do with ours.

The two tables in the README are what is measured here.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel
from langchain_core.tools import StructuredTool

from agentos_parallel import ParallelToolsMiddleware, RunnableGather, TaskTimeout
from tests.adapters.contract import Counted
from tests.adapters.parts import go, says
from tests.virtual_time import run_virtually

README = Path(__file__).resolve().parents[2] / "README.md"

FOREVER = 10_000.0  # virtual seconds

Kind: TypeAlias = Callable[..., Runnable[Any, Any]]
Rows: TypeAlias = dict[str, Callable[[Any], Coroutine[Any, Any, str]]]

pytestmark = pytest.mark.leaky  # where one fails today, others run on


class Branches:
    """Branches that take so many seconds; keeps which have come to their end."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def taking(self, seconds: float, error: Exception | None = None) -> Any:
        async def branch(_: Any) -> float:
            await asyncio.sleep(seconds)
            if error is not None:
                raise error
            self.ended.append(seconds)
            return seconds

        return RunnableLambda(branch)


def elapsed() -> float:
    return asyncio.get_running_loop().time()


def named(*branches: Any) -> dict[str, Any]:
    return {str(position): branch for position, branch in enumerate(branches)}


# Runnables.


async def one_fails(kind: Kind) -> str:
    work, start = Branches(), elapsed()
    failing = work.taking(1, ConnectionError("no"))
    with pytest.raises(ConnectionError):
        await kind(named(failing, work.taking(3), work.taking(5))).ainvoke("x")
    assert elapsed() - start == 1
    await asyncio.sleep(9)
    return (
        "raises; the others run on, detached" if work.ended else "raises; the others are cancelled"
    )


async def one_fails_sync(kind: Kind) -> str:
    go_on = threading.Event()

    def fail(_: str) -> None:
        raise ConnectionError("no")

    start = time.monotonic()
    threading.Timer(2, go_on.set).start()
    with pytest.raises(ConnectionError):
        kind(named(fail, lambda _: go_on.wait(9))).invoke("x")
    waited = time.monotonic() - start >= 1.5
    return "raises when the slowest is done" if waited else "raises at once"


async def answers_beside_a_failure(kind: Kind) -> str:
    work = Branches()
    branches = named(work.taking(1), work.taking(2), work.taking(3, ConnectionError("no")))
    try:
        settings = {"on_error": "return"} if kind is RunnableGather else {}
        output = await kind(branches, **settings).ainvoke("x")
    except ConnectionError:
        return "lost"
    assert list(output.values())[:2] == [1, 2]
    assert isinstance(output["2"], ConnectionError)
    return '`on_error="return"` keeps them'


async def one_hangs(kind: Kind) -> str:
    work = Branches()
    branches = named(work.taking(1), work.taking(FOREVER * 2))
    settings = {"task_timeout": 20} if kind is RunnableGather else {}
    start = elapsed()
    try:
        async with asyncio.timeout(FOREVER):
            await kind(branches, **settings).ainvoke("x")
    except TaskTimeout:
        assert elapsed() - start == 20
        return "ends at `task_timeout`"
    except TimeoutError:
        return "waits for it"
    return "ends by itself"


async def at_once(kind: Kind) -> str:
    peaks = []
    for way in ("ainvoke", "invoke"):
        counted = Counted()
        runnable = kind(named(*[counted.runnable] * 8))
        config: Any = {"max_concurrency": 2}
        if way == "ainvoke":
            await runnable.ainvoke("x", config)
        else:
            runnable.invoke("x", config)
        peaks.append(f"{counted.peak} in `{way}`")
    return ", ".join(peaks)


async def left_early(kind: Kind) -> str:
    work = Branches()
    runnable: Any = kind(named(RunnableLambda(float) | work_of(work)))
    stream = runnable.abatch_as_completed(["1", "2", "3"])
    async for _ in stream:
        break
    await stream.aclose()
    await asyncio.sleep(9)
    return "the rest runs on" if len(work.ended) == 3 else "the rest is cancelled"


def work_of(work: Branches) -> Any:
    async def wait(seconds: float) -> None:
        await work.taking(seconds).ainvoke("x")

    return RunnableLambda(wait)


RUNNABLES: dict[str, Callable[[Kind], Coroutine[Any, Any, str]]] = {
    "one of three branches fails, async": one_fails,
    "the same, sync": one_fails_sync,
    "the answers of the other two": answers_beside_a_failure,
    "a branch hangs": one_hangs,
    "`max_concurrency=2`, eight branches: at once": at_once,
    "`abatch_as_completed`, left early": left_early,
}


# Agents.


class Tools:
    """What three tools do: one answers in 3 s, one fails after 1 s, one hangs."""

    def __init__(self) -> None:
        self.counted = Counted()

    async def answer(self, text: str) -> str:
        await self.counted.asynchronous(text)
        await asyncio.sleep(2)
        return text

    async def fail(self, text: str) -> str:
        await asyncio.sleep(1)
        raise ConnectionError("no")

    async def hang(self, text: str) -> None:
        await asyncio.sleep(FOREVER * 2)

    async def cancel(self, text: str) -> None:
        raise asyncio.CancelledError

    def agent(self, names: list[str], middleware: list[Any]) -> Any:
        """An agent that calls the tools of these *names* at once."""
        tools = [
            StructuredTool.from_function(
                coroutine=getattr(self, name), name=name, description="Works."
            )
            for name in dict.fromkeys(names)
        ]
        calls = [{"name": name, "args": {"text": name}} for name in names]
        return create_agent(says(calls, "done"), tools, middleware=middleware)


async def outcome(names: list[str], middleware: list[Any]) -> str:
    """How the run ends, and how many answers the model reads."""
    try:
        async with asyncio.timeout(FOREVER):
            state = await Tools().agent(names, middleware).ainvoke(go())
    except TimeoutError:
        return "waits for it"
    except Exception as error:
        return f"raises {type(error).__name__}"
    told = [m for m in state["messages"] if isinstance(m, ToolMessage)]
    answers = sum(message.status == "success" for message in told)
    [other] = [str(message.text) for message in told if message.status == "error"]
    return f'goes on: {answers} answers, and "{other}"'


async def a_call_fails(middleware: list[Any]) -> str:
    return await outcome(["answer", "fail", "answer"], middleware)


async def a_call_hangs(middleware: list[Any]) -> str:
    return await outcome(["answer", "hang", "answer"], middleware)


async def a_tool_cancels_itself(middleware: list[Any]) -> str:
    return await outcome(["answer", "cancel", "answer"], middleware)


async def calls_at_once(middleware: list[Any]) -> str:
    tools = Tools()
    await tools.agent(["answer"] * 8, middleware).ainvoke(go())
    return str(tools.counted.peak)


AGENTS: dict[str, Callable[[list[Any]], Coroutine[Any, Any, str]]] = {
    "one of three calls raises": a_call_fails,
    "one hangs": a_call_hangs,
    "one cancels itself": a_tool_cancels_itself,
    "eight calls: at once": calls_at_once,
}


# The tables.


def table(
    rows: dict[str, Callable[[Any], Coroutine[Any, Any, str]]], columns: dict[str, Any]
) -> str:
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    for row, measure in rows.items():
        lines.append([row, *(run_virtually(measure(each)) for each in columns.values())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def test_the_table_of_runnables_is_what_is_measured() -> None:
    columns = {"`RunnableParallel`": RunnableParallel, "`RunnableGather`": RunnableGather}
    measured = table(RUNNABLES, columns)
    assert measured in README.read_text(), f"\n{measured}"


def test_the_table_of_agents_is_what_is_measured() -> None:
    limits = ParallelToolsMiddleware(2, task_timeout=20)
    columns = {"`create_agent`": [], "with `ParallelToolsMiddleware(2, task_timeout=20)`": [limits]}
    measured = table(AGENTS, columns)
    assert measured in README.read_text(), f"\n{measured}"
