"""A human's answer inside a fan-out: each goes to the one who asked."""

import asyncio
import functools
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt

from agentos_parallel import SubAgent
from tests.adapters.parts import (
    acall,
    answers,
    call,
    errors,
    go,
    graph,
    says,
    statuses,
    structured,
    supervisor,
    team,
    told,
    tool_call,
    toolbox,
)
from tests.virtual_time import run_virtually

THREAD: Any = {"configurable": {"thread_id": "1"}}
WAYS = ["sync", "async"]


# Who asks.


class Asking:
    """Makes children that ask, after delays that differ each time, and counts their runs."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.runs: Counter[str] = Counter()

    def ask(self, text: str) -> str:
        self.runs[text] += 1
        time.sleep(self.random.random() / 100)
        return f"{text} was told {interrupt(f'May {text}?')}"

    async def aask(self, text: str) -> str:
        self.runs[text] += 1
        await asyncio.sleep(self.random.random() / 50)
        return f"{text} was told {interrupt(f'May {text}?')}"

    def node(self, state: MessagesState) -> Any:
        return {"messages": [AIMessage(self.ask(state["messages"][-1].text))]}

    async def anode(self, state: MessagesState) -> Any:
        return {"messages": [AIMessage(await self.aask(state["messages"][-1].text))]}

    def two_graphs(self, text: str) -> str:
        """Calls a graph that asks nothing before the one that asks."""
        first = graph(lambda state: {"messages": [AIMessage("nothing")]})
        first.invoke(go())
        state = graph(self.node).invoke({"messages": [("user", text)]})
        return str(state["messages"][-1].text)

    def forms(self) -> dict[str, Any]:
        return {
            "graph": graph(self.node),
            "async_graph": graph(self.anode),
            "bound": graph(self.node).with_config(tags=["mine"]),
            "function": self.ask,
            "async_function": self.aask,
            "tool": structured(self.ask),
            "async_tool": structured(abody=self.aask),
            "chain": RunnableLambda(self.ask) | RunnableLambda(str),
            "two_graphs": self.two_graphs,
        }


def tasks_for(names: Any) -> dict[str, Any]:
    return {"tasks": [{"agent": name, "input": f"{name}-{i}"} for name in names for i in range(2)]}


def inputs(args: dict[str, Any]) -> list[str]:
    return [task["input"] for task in args["tasks"]]


# How it is run.


@contextmanager
def saver_of(kind: str, way: str, path: Path) -> Iterator[Any]:
    """A checkpointer; an async one is opened in the loop where it is used."""
    if kind == "memory":
        yield InMemorySaver()
        return
    pytest.importorskip("langgraph.checkpoint.sqlite")
    from langgraph.checkpoint.sqlite import SqliteSaver

    assert way == "sync"
    with SqliteSaver.from_conn_string(str(path / "checkpoints.sqlite")) as saver:
        yield saver


def runner(boss: Any, way: str) -> Callable[[Any], Any]:
    def run(given: Any) -> Any:
        if way == "sync":
            return boss.invoke(given, THREAD)
        return run_virtually(boss.ainvoke(given, THREAD))

    return run


def asked(state: Any) -> dict[str, str]:
    """The id of each question, by its text."""
    return {each.value: each.id for each in state.get("__interrupt__", ())}


def answered(state: Any, **_: Any) -> Command[Any]:
    """Each question answered with itself."""
    return Command(resume={each.id: f"<{each.value}>" for each in state["__interrupt__"]})


def own_answer(text: str) -> str:
    return f"{text} was told <May {text}?>"


# Every question at once, each answer to its asker.


@pytest.mark.parametrize(
    ("kind", "way"), [("memory", "sync"), ("memory", "async"), ("sqlite", "sync")]
)
@pytest.mark.parametrize("seed", range(2))
def test_all_forms_ask_at_once_and_each_hears_its_own_answer(
    kind: str, way: str, seed: int, tmp_path: Path
) -> None:
    asking = Asking(seed)
    args = tasks_for(asking.forms())
    tools = toolbox(*team(**asking.forms()), max_concurrent=32)
    with saver_of(kind, way, tmp_path) as saver:
        run = runner(supervisor(tools, "parallel_gather", args, checkpointer=saver), way)

        state = run(go())
        assert list(asked(state)) == [f"May {text}?" for text in inputs(args)], "in input order"
        message = told(run(answered(state)))

    assert answers(message) == list(map(own_answer, inputs(args)))
    assert set(asking.runs.values()) == {2}, "once to ask, once with the answer"


@pytest.mark.parametrize("way", WAYS)
def test_some_answers_now_and_the_others_later(way: str) -> None:
    asking = Asking(7)
    args = tasks_for(["graph", "function", "async_graph", "tool"])
    tools = toolbox(*team(**asking.forms()))
    run = runner(supervisor(tools, "parallel_gather", args, checkpointer=InMemorySaver()), way)

    state = run(go())
    rounds = 0
    while questions := asked(state):
        rounds += 1
        some = dict(list(questions.items())[rounds % 2 :: 2] or questions.items())
        state = run(Command(resume={key: f"<{text}>" for text, key in some.items()}))

    assert rounds > 2
    assert answers(told(state)) == list(map(own_answer, inputs(args)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", Asking().forms())
def test_a_plain_answer_where_one_asked(form: str, way: str) -> None:
    asking = Asking()
    agents = team(asks=asking.forms()[form], other=str.upper, another=graph(lambda _: {}))
    boss = supervisor(toolbox(*agents), "fan_out", {"input": "it"}, checkpointer=InMemorySaver())
    run = runner(boss, way)

    assert list(asked(run(go()))) == ["May it?"]
    assert answers(told(run(Command(resume="yes"))))[0] == "it was told yes"


def test_a_child_that_asks_twice() -> None:
    def twice(text: str) -> str:
        return f"{interrupt(f'{text} 1?')} and {interrupt(f'{text} 2?')}"

    boss = supervisor(
        toolbox(*team(it=twice)),
        "parallel_map",
        {"agent": "it", "inputs": ["a", "b"]},
        checkpointer=InMemorySaver(),
    )
    run = runner(boss, "sync")

    state = run(go())
    assert list(asked(state)) == ["a 1?", "b 1?"]
    state = run(answered(state))
    assert list(asked(state)) == ["a 2?", "b 2?"]
    message = told(run(answered(state)))
    assert answers(message) == ["<a 1?> and <a 2?>", "<b 1?> and <b 2?>"]


@tool
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


def payer(amount: int) -> Any:
    """An agent whose payment a human has to approve."""
    script = [[{"name": "pay", "args": {"amount": amount}}], lambda messages: messages[-1].text]
    ask = HumanInTheLoopMiddleware(interrupt_on={"pay": True})
    return create_agent(says(*script), [pay], middleware=[ask])


@pytest.mark.parametrize("way", WAYS)
def test_a_human_approves_the_tools_of_several_children_at_once(way: str) -> None:
    tools = toolbox(*team(one=payer(1), two=payer(2), other=str.upper))
    run = runner(supervisor(tools, "fan_out", {"input": "go"}, checkpointer=InMemorySaver()), way)

    first, second = run(go())["__interrupt__"]
    amounts = [each.value["action_requests"][0]["args"]["amount"] for each in (first, second)]
    assert amounts == [1, 2]
    decided = {
        first.id: {"decisions": [{"type": "approve"}]},
        second.id: {"decisions": [{"type": "reject", "message": "too much"}]},
    }
    one, two, other = answers(told(run(Command(resume=decided))))
    assert (one, other) == ("paid 1", "GO")
    assert "too much" in two


# Several calls, calls in calls.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(2))
def test_several_calls_in_one_node(way: str, seed: int) -> None:
    asking = Asking(seed)
    agents = team(**asking.forms())
    calls: list[dict[str, Any]] = [
        {"name": "parallel_map", "args": {"agent": form, "inputs": [f"{form}-a", f"{form}-b"]}}
        for form in ("graph", "async_function")
    ]
    said = [{**each, "id": str(i), "type": "tool_call"} for i, each in enumerate(calls)]
    builder: Any = StateGraph(MessagesState)
    builder.add_node("model", lambda _: {"messages": [AIMessage("", tool_calls=said)]})
    builder.add_node("tools", ToolNode([*toolbox(*agents).values()]))
    builder.add_edge(START, "model")
    builder.add_edge("model", "tools")
    builder.add_edge("tools", END)
    run = runner(builder.compile(checkpointer=InMemorySaver()), way)

    state = run(go())
    while asked(state):
        state = run(answered(state))

    messages = [m for m in state["messages"] if isinstance(m, ToolMessage)]
    expected = [list(map(own_answer, each["args"]["inputs"])) for each in calls]
    assert [answers(message) for message in messages] == expected


@pytest.mark.parametrize("way", WAYS)
def test_grandchildren_ask(way: str) -> None:
    asking = Asking(3)
    inner = toolbox(*team(**asking.forms()))
    args = {"agent": "function", "inputs": ["x", "y"]}
    more = {"agent": "async_graph", "inputs": ["z"]}
    bosses = {
        "one": supervisor(inner, "parallel_map", args, name="one"),
        "two": supervisor(inner, "parallel_map", more, name="two"),
    }
    boss = supervisor(
        toolbox(*team(**bosses)), "fan_out", {"input": "go"}, checkpointer=InMemorySaver()
    )
    run = runner(boss, way)

    state = run(go())
    assert sorted(asked(state)) == ["May x?", "May y?", "May z?"]
    first, second = answers(told(run(answered(state))))
    assert own_answer("x") in first
    assert own_answer("y") in first
    assert own_answer("z") in second


@pytest.mark.parametrize("way", WAYS)
def test_a_node_that_calls_a_tool_and_graphs_of_its_own(way: str) -> None:
    asking = Asking(5)
    tool = toolbox(*team(**asking.forms()))["parallel_gather"]
    args = tasks_for(["function", "graph"])
    own = graph(asking.node)

    def node(state: MessagesState) -> Any:
        before = own.invoke({"messages": [("user", "before")]})["messages"][-1]
        message = call(tool, **args)
        after = own.invoke({"messages": [("user", "after")]})["messages"][-1]
        return {"messages": [before, AIMessage(str(answers(message))), after]}

    async def anode(state: MessagesState) -> Any:
        before = (await own.ainvoke({"messages": [("user", "before")]}))["messages"][-1]
        message = await acall(tool, **args)
        after = (await own.ainvoke({"messages": [("user", "after")]}))["messages"][-1]
        return {"messages": [before, AIMessage(str(answers(message))), after]}

    run = runner(graph(node if way == "sync" else anode, checkpointer=InMemorySaver()), way)
    state = run(go())
    for _ in range(3):
        state = run(answered(state))

    texts = [message.text for message in state["messages"][1:]]
    expected = str(list(map(own_answer, inputs(args))))
    assert texts == [own_answer("before"), expected, own_answer("after")]


def family(rng: random.Random, depth: int, path: str) -> dict[str, Any]:
    """Children of every kind, supervisors with such children too, that ask by their path."""

    async def aask(text: str, path: str) -> str:
        await asyncio.sleep(random.random() / 50)
        return f"{path}={interrupt(path)}"

    def ask(text: str, path: str) -> str:
        return f"{path}={interrupt(path)}"

    def asking_graph(own: str) -> Any:
        return graph(lambda _: {"messages": [AIMessage(ask("", own))]})

    def boss(own: str) -> Any:
        tools = toolbox(*team(**family(rng, depth - 1, own)), max_depth=9)
        return supervisor(tools, "fan_out", {"input": own})

    makers: list[Any] = [
        lambda own: functools.partial(aask, path=own),
        lambda own: functools.partial(ask, path=own),
        asking_graph,
        lambda own: str.upper,
        *([boss, boss] if depth else []),
    ]
    return {f"n{i}": rng.choice(makers)(f"{path}.{i}") for i in range(rng.randint(1, 3))}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(5))
def test_in_any_tree_each_asks_once_and_hears_its_answer(way: str, seed: int) -> None:
    rng = random.Random(seed)
    tools = toolbox(*team(**family(rng, 2, "r")), max_depth=9)
    run = runner(supervisor(tools, "fan_out", {"input": "go"}, checkpointer=InMemorySaver()), way)

    state, heard = run(go()), []
    while questions := list(state.get("__interrupt__", ())):
        some = rng.sample(questions, rng.randint(1, len(questions)))
        heard += [each.value for each in some]
        state = run(Command(resume={each.id: f"<{each.value}>" for each in some}))

    assert len(heard) == len(set(heard)), "asked twice"
    assert all(f"{path}=<{path}>" in told(state).text for path in heard)


# Retries, and what runs again.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(2))
def test_a_retried_child_asks_once(way: str, seed: int) -> None:
    asking = Asking(seed)
    failed: Counter[str] = Counter()

    def flaky(state: MessagesState) -> Any:
        text = state["messages"][-1].text
        failed[text] += 1
        if failed[text] == 1:
            raise ConnectionError("once")
        return asking.node(state)

    async def aflaky(state: MessagesState) -> Any:
        await asyncio.sleep(asking.random.random() / 50)
        return flaky(state)

    child = graph(flaky if way == "sync" else aflaky).with_retry(
        retry_if_exception_type=(ConnectionError,), wait_exponential_jitter=False
    )
    texts = ["a", "b", "c"]
    boss = supervisor(
        toolbox(*team(it=child)),
        "parallel_map",
        {"agent": "it", "inputs": texts},
        checkpointer=InMemorySaver(),
    )
    run = runner(boss, way)

    state = run(go())
    assert list(asked(state)) == ["May a?", "May b?", "May c?"]
    assert answers(told(run(answered(state)))) == list(map(own_answer, texts))
    assert failed == dict.fromkeys(texts, 3), "the failure, the question, the answer"


@pytest.mark.parametrize(
    ("kind", "way"), [("memory", "sync"), ("memory", "async"), ("sqlite", "sync")]
)
def test_finished_siblings_are_not_run_again(kind: str, way: str, tmp_path: Path) -> None:
    runs: Counter[str] = Counter()

    def counted(name: str, function: Any = str.upper) -> Any:
        def body(text: str) -> Any:
            runs[name] += 1
            return function(text)

        return body

    def counted_async(name: str) -> Any:
        async def body(text: str) -> Any:
            runs[name] += 1
            return text.upper()

        return body

    def node(state: MessagesState) -> Any:
        return {"messages": [AIMessage(counted("graph")(state["messages"][-1].text))]}

    finished = {
        "graph": graph(node),
        "function": counted("function"),
        "async_function": counted_async("async_function"),
        "chain": RunnableLambda(counted("chain")) | RunnableLambda(str),
        "tool": structured(counted("tool")),
        "model": says(lambda messages: counted("model")(messages[-1].text)),
        "odd": counted("odd", lambda text: {1, 2}),
    }
    agents = team(asks=Asking().ask, **finished)
    with saver_of(kind, way, tmp_path) as saver:
        boss = supervisor(toolbox(*agents), "fan_out", {"input": "it"}, checkpointer=saver)
        run = runner(boss, way)
        state = run(go())
        message = told(run(answered(state)))

    assert runs == dict.fromkeys(finished, 1)
    shown = {"repr": "{1, 2}", "type": "set"}
    assert answers(message) == [own_answer("it"), *["IT"] * 6, shown]


@pytest.mark.parametrize(("durability", "runs"), [("sync", 1), ("async", 1), ("exit", 2)])
def test_another_process_resumes(durability: str, runs: int, tmp_path: Path) -> None:
    """With durability="exit" LangGraph keeps nothing of a sub-graph that has finished."""
    asking = Asking()
    args = tasks_for(["function", "async_graph", "chain"])
    finished: list[str] = []

    def finishes(text: str) -> str:
        finished.append(text)
        return text

    def boss_of(saver: Any) -> Any:
        tools = toolbox(*team(**asking.forms(), finishes=finishes))
        done = {"agent": "finishes", "input": "done"}
        tasks = {"tasks": [done, *args["tasks"]]}
        return supervisor(tools, "parallel_gather", tasks, checkpointer=saver)

    with saver_of("sqlite", "sync", tmp_path) as saver:
        state = boss_of(saver).invoke(go(), THREAD, durability=durability)
    with saver_of("sqlite", "sync", tmp_path) as saver:
        state = boss_of(saver).invoke(answered(state), THREAD, durability=durability)

    assert answers(told(state)) == ["done", *map(own_answer, inputs(args))]
    assert finished == ["done"] * runs


@pytest.mark.realtime
async def test_the_async_saver_of_an_async_agent(tmp_path: Path) -> None:
    pytest.importorskip("langgraph.checkpoint.sqlite")
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    asking = Asking()
    args = tasks_for(asking.forms())
    tools = toolbox(*team(**asking.forms()), max_concurrent=32)
    path = str(tmp_path / "checkpoints.sqlite")
    async with AsyncSqliteSaver.from_conn_string(path) as saver:
        boss = supervisor(tools, "parallel_gather", args, checkpointer=saver)
        state = await boss.ainvoke(go(), THREAD)
        state = await boss.ainvoke(answered(state), THREAD)

    assert answers(told(state)) == list(map(own_answer, inputs(args)))


@pytest.mark.realtime
async def test_a_sync_call_on_the_loop_of_an_async_saver_does_not_wait_for_it(
    tmp_path: Path,
) -> None:
    pytest.importorskip("langgraph.checkpoint.sqlite")
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    inner = toolbox(*team(up=str.upper), timeout=5)["fan_out"]

    async def calls_sync(text: str) -> Any:
        return answers(call(inner, input=text))

    tools = toolbox(*team(it=calls_sync), timeout=10)
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.sqlite")) as saver:
        boss = supervisor(tools, "fan_out", {"input": "x"}, checkpointer=saver)
        assert answers(told(await boss.ainvoke(go(), THREAD))) == [["X"]]


@pytest.mark.parametrize("way", WAYS)
def test_children_that_failed_run_again(way: str) -> None:
    runs: Counter[str] = Counter()

    def fails(text: str) -> str:
        runs["fails"] += 1
        if runs["fails"] == 1:
            raise ConnectionError("once")
        return "there now"

    agents = team(asks=Asking().ask, fails=fails)
    run = runner(
        supervisor(toolbox(*agents), "fan_out", {"input": "it"}, checkpointer=InMemorySaver()), way
    )

    assert answers(told(run(answered(run(go()))))) == [own_answer("it"), "there now"]


def test_merge_gets_the_answers_after_a_resume() -> None:
    def report(text: str) -> Any:
        return {"of": text}

    agents = team(asks=Asking().ask, report=report)
    tools = toolbox(*agents, merge_fn=lambda given: given)
    args = {"input": "it", "aggregation": "merge"}
    run = runner(supervisor(tools, "fan_out", args, checkpointer=InMemorySaver()), "sync")

    message = told(run(answered(run(go()))))
    assert message.artifact["value"] == [own_answer("it"), {"of": "it"}]


@pytest.mark.parametrize("way", WAYS)
def test_in_a_race_a_success_goes_before_a_question(way: str) -> None:
    async def slow(text: str) -> str:
        await asyncio.sleep(0.05)
        return "won"

    tools = toolbox(*team(asks=Asking().aask, slow=slow))
    args = {"input": "it", "aggregation": "first"}
    run = runner(supervisor(tools, "fan_out", args, checkpointer=InMemorySaver()), way)

    assert told(run(go())).artifact["winner"] == "slow"


# Outside of a graph.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", Asking().forms())
def test_a_child_that_asks_outside_of_any_graph_fails_and_says_what_it_asked(
    form: str, way: str
) -> None:
    if form == "two_graphs":
        pytest.skip("calls its graphs itself")
    tool = toolbox(*team(asks=Asking().forms()[form], other=str.upper))["fan_out"]

    message = call(tool, input="it") if way == "sync" else run_virtually(acall(tool, input="it"))

    assert statuses(message) == ["failed", "completed"]
    assert errors(message) == ["HumanNeededError", None]
    assert "May it?" in message.content


# Handoffs.


def handing_off(name: str) -> Any:
    def node(state: MessagesState) -> Any:
        return Command(
            goto=name, graph=Command.PARENT, update={"messages": [AIMessage(f"to {name}")]}
        )

    return graph(node)


def with_targets(agents: tuple[SubAgent, ...]) -> Any:
    tool = toolbox(*agents)["fan_out"]

    async def ask(state: MessagesState) -> Any:
        await tool.ainvoke(tool_call(tool, {"input": "go"}))
        return {"messages": [AIMessage("not reached")]}

    def ask_sync(state: MessagesState) -> Any:
        tool.invoke(tool_call(tool, {"input": "go"}))
        return {"messages": [AIMessage("not reached")]}

    builder: Any = StateGraph(MessagesState)
    builder.add_node("ask", RunnableLambda(ask_sync, ask))
    for name in ("sales", "support"):
        builder.add_node(name, lambda _, name=name: {"messages": [AIMessage(f"{name} here")]})
    builder.add_edge(START, "ask")
    return builder.compile()


@pytest.mark.parametrize("way", WAYS)
def test_the_first_of_several_handoffs_is_taken_and_a_warning_names_the_others(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    agents = team(a=str.upper, b=handing_off("support"), c=handing_off("sales"))
    boss = with_targets(agents)

    with caplog.at_level(logging.WARNING, "agentos_parallel"):
        state = boss.invoke(go()) if way == "sync" else run_virtually(boss.ainvoke(go()))

    texts = [message.text for message in state["messages"]]
    assert texts == ["go", "to support", "support here"]
    assert "that of b is taken; not those of c" in caplog.text


@pytest.mark.parametrize("way", WAYS)
def test_a_question_goes_before_a_handoff_which_comes_again(way: str) -> None:
    agents = team(b=handing_off("support"), asks=Asking().ask)
    boss = with_targets(agents)
    boss.checkpointer = InMemorySaver()
    run = runner(boss, way)

    state = run(go())
    assert list(asked(state)) == ["May go?"]
    assert run(answered(state))["messages"][-1].text == "support here"
