"""A team under one limit and one set of timeouts, over all calls of all its tools."""

import asyncio
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool

from agentos_parallel import (
    GatherResult,
    ParallelExecutor,
    SubAgent,
    parallel_gather,
    remaining,
)
from tests.adapters.parts import (
    acall,
    alambda,
    answers,
    async_node_of,
    call,
    errors,
    go,
    graph,
    node_of,
    statuses,
    supervisor,
    team,
    told,
    toolbox,
)
from tests.pieces import after
from tests.virtual_time import START
from tests.ways import Gauge, hang, now


async def hanging(text: str) -> str:
    await hang()
    return text


def fail(text: str) -> str:
    raise ValueError(f"no {text}")


def seconds_of(message: Any) -> list[float]:
    return [task["duration_ms"] / 1000 for task in message.artifact["results"]]


# One limit.


async def test_one_limit_over_all_calls_of_all_three_tools() -> None:
    gauge = Gauge()

    async def work(text: str) -> str:
        await gauge.work()
        return text

    tools = toolbox(*team(f=work, r=alambda(work)), max_concurrent=3)

    messages = await asyncio.gather(
        acall(tools["parallel_gather"], tasks=[{"agent": "f", "input": "x"}] * 4),
        acall(tools["fan_out"], input="x"),
        acall(tools["parallel_map"], agent="r", inputs=["x"] * 4),
        acall(tools["fan_out"], input="x"),
    )

    assert all(message.artifact["all_succeeded"] for message in messages)
    assert gauge.peak == 3
    assert now() == START + 4, "twelve tasks of a second, three at once"


async def test_get_tools_gives_the_same_team_again() -> None:
    from agentos_parallel import ParallelToolkit

    gauge = Gauge()

    async def work(text: str) -> str:
        await gauge.work()
        return text

    toolkit = ParallelToolkit(team(it=work), max_concurrent=1)
    first, second = (toolkit.get_tools()[1] for _ in range(2))

    await asyncio.gather(acall(first, input="x"), acall(second, input="x"))

    assert gauge.peak == 1


async def test_tasks_start_in_input_order() -> None:
    started = []

    async def work(text: str) -> str:
        started.append(text)
        return await after(1, text)

    tools = toolbox(*team(it=work), max_concurrent=2)
    await acall(tools["parallel_map"], agent="it", inputs=list("abcdefg"))

    assert started == list("abcdefg")


def test_the_limit_holds_over_threads_and_loops() -> None:
    lock, inside, peak = threading.Lock(), 0, 0

    def enter(text: str) -> None:
        nonlocal inside, peak
        with lock:
            inside += 1
            peak = max(peak, inside)

    def leave() -> None:
        nonlocal inside
        with lock:
            inside -= 1

    def work(text: str) -> str:
        enter(text)
        time.sleep(0.005)
        leave()
        return text.upper()

    async def awork(text: str) -> str:
        enter(text)
        await asyncio.sleep(0.005)
        leave()
        return text.upper()

    tools = toolbox(*team(f=work, a=awork, r=RunnableLambda(work)), max_concurrent=2)
    ways: list[Callable[[int], Any]] = [
        lambda n: call(tools["fan_out"], input=f"s{n}"),
        lambda n: asyncio.run(acall(tools["fan_out"], input=f"a{n}")),
        lambda n: call(tools["parallel_map"], agent="a", inputs=[f"m{n}"] * 3),
    ]
    with ThreadPoolExecutor(6) as pool:
        messages = list(pool.map(lambda n: ways[n % 3](n), range(18)))

    assert [answers(m) for m in messages] == [[f"{'SAM'[n % 3]}{n}"] * 3 for n in range(18)]
    assert peak == 2


# Timeouts.


async def test_the_toolkits_task_timeout_is_for_agents_without_one_of_their_own() -> None:
    agents = [
        SubAgent("short", "Hangs.", hanging, task_timeout=2),
        SubAgent("long", "Hangs.", hanging, task_timeout=30),
        SubAgent("none", "Hangs.", hanging),
        SubAgent("endless", "Takes a minute.", lambda t: after(60, t), task_timeout=math.inf),
    ]

    message = await acall(toolbox(*agents, task_timeout=10)["fan_out"], input="x")

    assert statuses(message) == ["timeout"] * 3 + ["completed"]
    assert seconds_of(message) == [2, 30, 10, 60]
    assert errors(message)[:3] == ["TaskTimeout"] * 3


@pytest.mark.parametrize("name", ["parallel_gather", "parallel_map"])
async def test_an_agents_task_timeout_holds_in_every_tool(name: str) -> None:
    agents = [SubAgent("it", "Hangs.", hanging, task_timeout=2), *team(other=str.upper)]
    args: dict[str, dict[str, Any]] = {
        "parallel_gather": {
            "tasks": [{"agent": "it", "input": "a"}, {"agent": "other", "input": "b"}]
        },
        "parallel_map": {"agent": "it", "inputs": ["a", "b"]},
    }

    message = await acall(toolbox(*agents)[name], **args[name])

    assert (statuses(message)[0], seconds_of(message)[0]) == ("timeout", 2)


async def test_task_timeout_counts_from_the_slot() -> None:
    tools = toolbox(*team(it=lambda t: after(5, t)), max_concurrent=1, task_timeout=6)

    message = await acall(tools["parallel_map"], agent="it", inputs=["a", "b", "c"])

    assert statuses(message) == ["completed"] * 3


async def test_without_a_task_timeout_the_toolkits_timeout_bounds_the_call() -> None:
    tools = toolbox(*team(hangs=hanging, ok=str.upper))

    message = await acall(tools["fan_out"], input="x")

    assert statuses(message) == ["timeout", "completed"]
    assert errors(message)[0] == "DeadlineExceeded"
    assert seconds_of(message)[0] == 600, "the default"


@pytest.mark.parametrize(
    ("own", "models", "after_seconds"),
    [(60, 5, 5), (60, None, 60), (60, 600, 60), (60, 1e300, 60), (60, math.inf, 60), (None, 7, 7)],
)
async def test_the_models_timeout_only_lowers(
    own: float | None, models: float | None, after_seconds: float
) -> None:
    tools = toolbox(*team(it=hanging), timeout=own)

    for name, args in (
        ("fan_out", {"input": "x"}),
        ("parallel_map", {"agent": "it", "inputs": ["x"]}),
        ("parallel_gather", {"tasks": [{"agent": "it", "input": "x"}]}),
    ):
        message = await acall(tools[name], **args, timeout=models)

        assert errors(message) == ["DeadlineExceeded"]
        assert seconds_of(message) == [after_seconds]


@pytest.mark.parametrize("models", [None, math.inf])
async def test_no_deadline_where_none_was_set(models: float | None) -> None:
    tools = toolbox(*team(it=lambda t: after(5_000, t)), timeout=None)

    assert statuses(await acall(tools["fan_out"], input="x", timeout=models)) == ["completed"]


async def test_the_models_timeout_stops_no_task_of_another_call() -> None:
    tools = toolbox(*team(it=lambda t: after(5, t)))

    short, long = await asyncio.gather(
        acall(tools["fan_out"], input="x", timeout=2), acall(tools["fan_out"], input="x")
    )

    assert (statuses(short), statuses(long)) == (["timeout"], ["completed"])


async def test_those_that_never_started_say_so() -> None:
    tools = toolbox(*team(it=hanging), max_concurrent=1, timeout=4)

    message = await acall(tools["parallel_map"], agent="it", inputs=["a", "b"])

    assert statuses(message) == ["timeout", "timeout"]
    assert message.artifact["results"][1]["started_at"] == 0.0
    assert "[0 it] timed out after 4 s" in message.text
    assert "[1 it] never started" in message.text


async def test_a_child_can_ask_how_long_it_has() -> None:
    async def left(text: str) -> float | None:
        await asyncio.sleep(1)
        return remaining()

    tools = toolbox(*team(f=left, r=alambda(left)), timeout=60)

    assert answers(await acall(tools["fan_out"], input="x", timeout=10)) == [9, 9]


# Nested.


@pytest.mark.parametrize("way", ["sync", "async"])
def test_an_agent_with_tools_of_its_own_below_one_slot(way: str) -> None:
    inner = toolbox(*team(up=str.upper), max_concurrent=1)
    args = {"agent": "up", "inputs": ["a", "b"]}
    middle = supervisor(inner, "parallel_map", args, name="middle")
    outer = toolbox(*team(middle=middle, up=str.upper), max_concurrent=1)
    boss = supervisor(outer, "fan_out", {"input": "x"}, name="boss")

    state = boss.invoke(go()) if way == "sync" else asyncio.run(boss.ainvoke(go()))

    first, second = answers(told(state))
    assert first.startswith("READ 2 of 2 tasks completed.")
    assert second == "X"


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("kind", ["function", "RunnableLambda", "graph"])
def test_a_toolkit_called_from_its_own_agent_below_one_slot(way: str, kind: str) -> None:
    tools: dict[str, BaseTool] = {}

    def ask(text: str) -> str:
        return "+".join(answers(call(tools["parallel_map"], agent="up", inputs=["a", "b"])))

    async def aask(text: str) -> str:
        message = await acall(tools["parallel_map"], agent="aup", inputs=["a", "b"])
        return "+".join(answers(message))

    forms: dict[str, Callable[[], tuple[Any, Any]]] = {
        "function": lambda: (ask, aask),
        "RunnableLambda": lambda: (RunnableLambda(ask), alambda(aask)),
        "graph": lambda: (graph(node_of(ask)), graph(async_node_of(aask))),
    }
    sync, asynchronous = forms[kind]()
    agents = team(s=sync, a=asynchronous, up=str.upper, aup=alambda(lambda t: after(0, t.upper())))
    tools.update(toolbox(*agents, max_concurrent=1, timeout=20))
    args = {"input": "x", "agents": ["s", "a"]}

    if way == "sync":
        message = call(tools["fan_out"], **args)
    else:
        message = asyncio.run(acall(tools["fan_out"], **args))

    assert answers(message) == ["A+B", "A+B"]


async def test_a_sync_call_in_an_async_child_of_a_sync_call() -> None:
    """Each blocks the loop that it is called on, and is served by another."""
    inner = toolbox(*team(up=alambda(lambda t: after(0, t.upper()))), max_concurrent=1)

    async def ask(text: str) -> list[str]:
        return answers(call(inner["parallel_map"], agent="up", inputs=["a", "b"]))

    outer = toolbox(*team(it=ask), max_concurrent=1)

    assert answers(call(outer["fan_out"], input="x")) == [["A", "B"]]


@pytest.mark.parametrize("kind", ["async", "sync", "by turns"])
def test_calls_in_calls_five_deep_on_one_slot(kind: str) -> None:
    tools: dict[str, BaseTool] = {}

    def agent_of(depth: int) -> str:
        return {"async": "a", "sync": "s", "by turns": "as"[depth % 2]}[kind]

    def args(depth: int) -> dict[str, Any]:
        return {"agent": agent_of(depth), "inputs": [str(depth)] * 2}

    def ask(text: str) -> int:
        depth = int(text)
        return sum(answers(call(tools["parallel_map"], **args(depth - 1)))) if depth else 1

    async def aask(text: str) -> int:
        depth = int(text)
        return sum(answers(await acall(tools["parallel_map"], **args(depth - 1)))) if depth else 1

    tools.update(toolbox(*team(s=ask, a=aask), max_concurrent=1, timeout=30, max_depth=6))

    assert answers(asyncio.run(acall(tools["parallel_map"], **args(5)))) == [32, 32]


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_a_work_that_calls_a_tool_lends_its_slot(way: str) -> None:
    executor, gauge = ParallelExecutor(max_concurrent=1, timeout=20), Gauge()

    async def answer(text: str) -> str:
        (done,) = (await executor.gather([leaf])).get_results()
        return f"{text} {done}"

    async def leaf() -> str:
        with gauge:
            await asyncio.sleep(0.001)
        return "answered"

    tool = toolbox(*team(it=answer), max_concurrent=1)["fan_out"]

    async def awork() -> Any:
        return answers(await acall(tool, input="x"))

    def work() -> Any:
        return answers(call(tool, input="x"))

    result: GatherResult[Any] = await executor.gather([awork if way == "async" else work] * 3)

    assert result.raise_for_errors().get_results() == [["x answered"]] * 3
    assert gauge.peak == 1
    assert repr(executor.throttler) == "<TaskThrottler 0/1 active>"


def test_a_sync_call_in_a_work_has_what_is_left_of_the_works_deadline() -> None:
    async def left(text: str) -> float | None:
        return remaining()

    tool = toolbox(*team(it=left), timeout=None)["fan_out"]

    def work() -> Any:
        return answers(call(tool, input="x"))

    ((seconds,),) = asyncio.run(parallel_gather(work, timeout=100)).get_results()
    assert 50 < seconds <= 100


def test_sync_calls_in_async_children_of_calls_that_share_one_slot() -> None:
    tools: dict[str, BaseTool] = {}
    gauge = Gauge()

    async def up(text: str) -> str:
        await gauge.work(0.001)
        return text.upper()

    async def ask(text: str) -> str:
        return "+".join(answers(call(tools["parallel_map"], agent="up", inputs=["a", "b"])))

    async def main() -> list[Any]:
        calls = [acall(tools["parallel_map"], agent="ask", inputs=["x", "y"]) for _ in range(3)]
        return await asyncio.gather(*calls)

    tools.update(toolbox(*team(up=alambda(up), ask=ask), max_concurrent=1, timeout=20))
    messages: list[Any] = []
    thread = threading.Thread(target=lambda: messages.extend(asyncio.run(main())), daemon=True)
    thread.start()
    thread.join(15)

    assert [answers(message) for message in messages] == [["A+B", "A+B"]] * 3
    assert gauge.peak == 1


async def test_a_nested_call_has_what_is_left_of_the_outer_timeout() -> None:
    async def left(text: str) -> float | None:
        await asyncio.sleep(1)
        return remaining()

    inner = toolbox(*team(it=left), timeout=600)

    async def ask(text: str) -> Any:
        await asyncio.sleep(2)
        return answers(await acall(inner["fan_out"], input=text))

    message = await acall(toolbox(*team(it=ask), timeout=10)["fan_out"], input="x")

    assert answers(message) == [[7]]


# A hanging thread.

HANGING = """
import sys, threading, time
from langchain_core.runnables import RunnableLambda
from agentos_parallel import ParallelToolkit, SubAgent

def hang(text):
    threading.Event().wait()

agents = [
    SubAgent("f", "Hangs.", hang),
    SubAgent("r", "Hangs.", RunnableLambda(hang)),
    SubAgent("ok", "Answers.", str.upper),
]
tool = ParallelToolkit(agents, task_timeout=0.05).get_tools()[1]
call = {"type": "tool_call", "name": "fan_out", "id": "1", "args": {"input": "x"}}
began = time.monotonic()
if sys.argv[1] == "sync":
    message = tool.invoke(call)
else:
    import asyncio
    message = asyncio.run(tool.ainvoke(call))
print([task["status"] for task in message.artifact["results"]], time.monotonic() - began < 2)
"""


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_hanging_thread_holds_up_no_exit(way: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HANGING, way], capture_output=True, text=True, timeout=30, check=True
    )

    assert ended.stdout.strip() == "['timeout', 'timeout', 'completed'] True"


# Many at once.


def test_one_toolkit_serves_many_threads_and_the_failures_of_one_are_its_own() -> None:
    def moody(text: str) -> str:
        return fail(text) if text.endswith("3") else text

    tools = toolbox(*team(f=moody, r=alambda(lambda t: after(0.001, moody(t)))), max_concurrent=4)

    def one(n: int) -> Any:
        if n % 2:
            return call(tools["fan_out"], input=f"t{n}")
        return asyncio.run(acall(tools["fan_out"], input=f"t{n}"))

    with ThreadPoolExecutor(8) as pool:
        messages = list(pool.map(one, range(40)))

    expected = [[None] * 2 if n % 10 == 3 else [f"t{n}"] * 2 for n in range(40)]
    assert [answers(message) for message in messages] == expected


async def test_an_interrupted_call_gives_its_slots_back() -> None:
    tools = toolbox(*team(hangs=hanging, up=str.upper), max_concurrent=2)
    calls = [
        asyncio.create_task(acall(tools["parallel_map"], agent="hangs", inputs=["x"] * 5))
        for _ in range(3)
    ]
    await asyncio.sleep(1)
    for each in calls:
        each.cancel()
    await asyncio.gather(*calls, return_exceptions=True)

    message = await acall(tools["parallel_map"], agent="up", inputs=["a", "b", "c"])

    assert answers(message) == ["A", "B", "C"]
