"""SubAgent: every form of a sub-agent gets its text and gives its answer, sync and async."""

import asyncio
import dataclasses
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import MessagesState
from langgraph.types import interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from agentos_parallel import GatherResult, ParallelToolkit, SubAgent
from tests.adapters.parts import (
    ASYNC_FORMS,
    SYNC_FORMS,
    acall,
    answers,
    call,
    errors,
    graph,
    says,
    statuses,
    team,
    toolbox,
)

sync_forms = pytest.mark.parametrize("form", SYNC_FORMS.values(), ids=SYNC_FORMS)


async_forms = pytest.mark.parametrize("form", ASYNC_FORMS.values(), ids=ASYNC_FORMS)


async def upper(text: str) -> str:
    await asyncio.sleep(0)
    return text.upper()


async def yielding(text: str) -> AsyncIterator[str]:
    yield text


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"name": ""}, ValueError, "name must say something, got ''"),
        ({"name": " "}, ValueError, "name must say something"),
        ({"name": None}, TypeError, "name must be a text, got None"),
        ({"name": 7}, TypeError, "name must be a text, got 7"),
        ({"name": "two words"}, ValueError, "name must be 1 to 64 letters.*'two words'"),
        ({"name": "line\n"}, ValueError, "name must be 1 to 64 letters"),
        ({"name": "größe"}, ValueError, "name must be 1 to 64 letters"),
        ({"name": "a" * 65}, ValueError, "name must be 1 to 64 letters"),
        ({"name": "\ud800"}, ValueError, "name must be 1 to 64 letters"),
        ({"description": ""}, ValueError, "description must say something"),
        ({"description": "\n\t"}, ValueError, "description must say something"),
        ({"description": None}, TypeError, "description must be a text, got None"),
        ({"runnable": None}, TypeError, "runnable must be .*, got None"),
        ({"runnable": "upper"}, TypeError, "runnable must be .*, got 'upper'"),
        ({"runnable": [str.upper]}, TypeError, "runnable must be .*, got a list"),
        ({"runnable": yielding}, TypeError, "runnable"),
        ({"task_timeout": 0}, ValueError, "task_timeout must be .* > 0"),
        ({"task_timeout": -1}, ValueError, "task_timeout"),
        ({"task_timeout": float("nan")}, ValueError, "task_timeout"),
        ({"task_timeout": True}, TypeError, "task_timeout"),
        ({"task_timeout": "5"}, TypeError, "task_timeout"),
        ({"task_timout": 5}, TypeError, "task_timout"),
        ({"input": "text"}, TypeError, "input must be a function"),
        ({"output": 7}, TypeError, "output must be a function"),
        ({"max_concurrent": 0}, ValueError, "max_concurrent must be >= 1, got 0"),
        ({"max_concurrent": 1.5}, TypeError, "max_concurrent must be a whole number"),
        ({"max_concurrency": 1}, TypeError, "the limit is called max_concurrent="),
    ],
)
def test_a_wrong_field_is_refused_at_once(
    fields: dict[str, Any], kind: type[Exception], text: str
) -> None:
    good = {"name": "shout", "description": "Shouts.", "runnable": str.upper}

    with pytest.raises(kind, match=text):
        SubAgent(**{**good, **fields})


def test_a_coroutine_in_place_of_a_function_is_refused() -> None:
    coroutine = upper("text")

    with pytest.raises(TypeError, match="runnable must be"):
        SubAgent("shout", "Shouts.", coroutine)
    coroutine.close()


@pytest.mark.parametrize("name", ["a", "A-1_b", "7", "-", "a" * 64])
def test_names_that_models_know_are_taken(name: str) -> None:
    message = call(toolbox(SubAgent(name, "Shouts.", str.upper))["fan_out"], input="hear")

    assert message.artifact["agents"] == {name: name}
    assert answers(message) == ["HEAR"]


def test_it_is_frozen() -> None:
    agent = SubAgent("shout", "Shouts.", str.upper, task_timeout=3)

    with pytest.raises(dataclasses.FrozenInstanceError):
        agent.name = "whisper"  # type: ignore[misc]
    assert dataclasses.replace(agent, name="other").task_timeout == 3


@sync_forms
def test_a_sync_form_answers_a_sync_call(form: Any) -> None:
    message = call(toolbox(*team(it=form(str.upper)))["fan_out"], input="hear")

    assert (statuses(message), answers(message)) == (["completed"], ["HEAR"])


@sync_forms
async def test_a_sync_form_answers_an_async_call(form: Any) -> None:
    message = await acall(toolbox(*team(it=form(str.upper)))["fan_out"], input="hear")

    assert (statuses(message), answers(message)) == (["completed"], ["HEAR"])


@async_forms
def test_an_async_form_answers_a_sync_call(form: Any) -> None:
    message = call(toolbox(*team(it=form(upper)))["fan_out"], input="hear")

    assert (statuses(message), answers(message)) == (["completed"], ["HEAR"])


@async_forms
async def test_an_async_form_answers_an_async_call(form: Any) -> None:
    message = await acall(toolbox(*team(it=form(upper)))["fan_out"], input="hear")

    assert (statuses(message), answers(message)) == (["completed"], ["HEAR"])


async def test_all_forms_answer_in_one_fan_out() -> None:
    agents = [SubAgent(f"s{i}", "Sync.", f(str.upper)) for i, f in enumerate(SYNC_FORMS.values())]
    agents += [SubAgent(f"a{i}", "Async.", f(upper)) for i, f in enumerate(ASYNC_FORMS.values())]

    message = await acall(toolbox(*agents, max_concurrent=3, max_tasks=99)["fan_out"], input="hear")

    assert answers(message) == ["HEAR"] * len(agents)
    assert [task["task_id"] for task in message.artifact["results"]] == [a.name for a in agents]


@pytest.mark.parametrize("ways", ["sync", "async"])
def test_a_graph_with_messages_gets_a_message_and_all_others_the_text(ways: str) -> None:
    given: list[Any] = []

    def see(value: Any) -> str:
        given.append(value)
        return "seen"

    def node(state: MessagesState) -> Any:
        return {"messages": [AIMessage(see(state["messages"]))]}

    @tool
    def look(task: str) -> str:
        """Look."""
        return see(task)

    tools = toolbox(*team(graph=graph(node), bound=graph(node).with_config(tags=["x"]), plain=see))
    tools_ = toolbox(*team(chain=RunnableLambda(see) | RunnableLambda(str), tool=look))
    for each in (tools["fan_out"], tools_["fan_out"]):
        message = (
            call(each, input="do it") if ways == "sync" else asyncio.run(acall(each, input="do it"))
        )
        assert message.artifact["all_succeeded"]

    messages = [value for value in given if isinstance(value, list)]
    assert [[(type(m), m.text) for m in each] for each in messages] == [
        [(HumanMessage, "do it")],
        [(HumanMessage, "do it")],
    ]
    assert [value for value in given if not isinstance(value, list)] == ["do it"] * 3


def test_a_prompt_with_one_variable_takes_the_text() -> None:
    def words(messages: list[BaseMessage]) -> str:
        return f"{len(messages)}: {messages[-1].text}"

    chain = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{task}")])
    agents = team(it=chain | says(words), model=says(words))

    message = call(toolbox(*agents)["fan_out"], input="sum up {this}")

    assert answers(message) == ["2: sum up {this}", "1: sum up {this}"]


class Verdict(BaseModel):
    """A verdict."""

    good: bool
    why: str


def test_a_structured_response_is_the_answer() -> None:
    script = [[{"name": "Verdict", "args": {"good": True, "why": "short"}}]]
    agent = create_agent(says(*script), response_format=ToolStrategy(Verdict))

    message = call(toolbox(*team(it=agent))["fan_out"], input="judge")

    assert answers(message) == [{"good": True, "why": "short"}]
    assert '"why": "short"' in message.text


def ending_with(*messages: BaseMessage) -> Any:
    return graph(lambda state: {"messages": list(messages)})


BLOCKS: list[Any] = [
    {"type": "reasoning", "reasoning": "hm"},
    {"type": "text", "text": "one "},
    {"type": "text", "text": "two"},
]


@pytest.mark.parametrize(
    ("messages", "answer"),
    [
        ([AIMessage("first"), AIMessage("last")], "last"),
        ([AIMessage("text"), AIMessage("")], "text"),
        ([AIMessage("text"), HumanMessage("not mine")], "text"),
        ([AIMessage(BLOCKS)], "one two"),
        ([AIMessage("text"), AIMessage([BLOCKS[0]])], "text"),
        ([AIMessage("")], None),
        ([], None),
    ],
)
def test_the_answer_is_the_text_of_the_last_message_of_the_agent_that_has_any(
    messages: list[BaseMessage], answer: str | None
) -> None:
    message = call(toolbox(*team(it=ending_with(*messages)))["fan_out"], input="x")

    assert (statuses(message), answers(message)) == (["completed"], [answer])
    assert ("(no answer)" in message.text) is (answer is None)


async def awaited(message: AIMessage) -> AIMessage:
    return message


MODEL_CALLS: dict[str, Callable[[AIMessage], Any]] = {
    "chat model": lambda message: says(message),
    "chain": lambda message: RunnableLambda(str) | says(message),
    "function that calls a model": lambda message: lambda text: message,
    "async function that calls a model": lambda message: lambda text: awaited(message),
    "RunnableLambda": lambda message: RunnableLambda(lambda text: message),
}


@pytest.mark.parametrize("form", MODEL_CALLS.values(), ids=MODEL_CALLS)
async def test_the_answer_of_a_model_is_its_text(form: Any) -> None:
    tools = toolbox(*team(it=form(AIMessage(BLOCKS))))

    assert answers(await acall(tools["fan_out"], input="x")) == ["one two"]


@pytest.mark.parametrize("value", [None, "", [], {}, 0, False, 1.5, [1, "a"], {"a": {"b": None}}])
async def test_any_other_value_is_kept_as_it_was_returned(value: Any) -> None:
    tools = toolbox(*team(f=lambda text: value, r=RunnableLambda(lambda text: value)))

    message = await acall(tools["fan_out"], input="x")

    assert answers(message) == [value, value]
    assert statuses(message) == ["completed", "completed"]


class Report(TypedDict):
    text: str
    pages: int


def test_a_state_without_messages_is_the_answer() -> None:
    def node(state: Report) -> Any:
        return {"pages": 3}

    report = graph(node, state=Report)
    agent = RunnableLambda(lambda text: {"text": text, "pages": 0}) | report

    assert answers(call(toolbox(*team(it=agent))["fan_out"], input="x")) == [
        {"text": "x", "pages": 3}
    ]


def test_a_chain_may_answer_with_a_structured_response() -> None:
    agent: Any = RunnableLambda(lambda text: {"structured_response": {"n": 1}, "messages": []})
    without: Any = RunnableLambda(
        lambda text: {"structured_response": None, "messages": [AIMessage("t")]}
    )

    message = call(toolbox(*team(a=agent, b=without))["fan_out"], input="x")

    assert answers(message) == [{"n": 1}, "t"]


@pytest.mark.parametrize(
    "messages", [None, 5, "text", [None], [{"role": "assistant"}], [AIMessage]]
)
def test_odd_messages_break_nobody_else(messages: Any) -> None:
    odd: Any = RunnableLambda(lambda text: {"messages": messages})

    message = call(toolbox(*team(odd=odd, good=str.upper))["fan_out"], input="x")

    assert answers(message)[1] == "X"
    assert message.artifact["total"] == 2


def asking(state: MessagesState) -> Any:
    return {"messages": [AIMessage(interrupt("May I?"))]}


async def aasking(state: MessagesState) -> Any:
    return {"messages": [AIMessage(interrupt("May I?"))]}


ASKING: dict[str, Any] = {
    "graph": lambda: graph(asking, checkpointer=InMemorySaver()),
    "async graph": lambda: graph(aasking, checkpointer=InMemorySaver()),
    "chain": lambda: (
        RunnableLambda(lambda text: {"messages": [HumanMessage(text)]})
        | graph(asking, checkpointer=InMemorySaver())
    ),
    "function": lambda: (
        lambda text: graph(asking, checkpointer=InMemorySaver()).invoke(
            {"messages": [HumanMessage(text)]}, {"configurable": {"thread_id": "1"}}
        )
    ),
}


@pytest.mark.parametrize("form", ASKING.values(), ids=ASKING)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_child_that_asks_outside_of_a_graph_has_not_completed(form: Any, way: str) -> None:
    agent = form()
    if hasattr(agent, "with_config"):
        agent = agent.with_config(configurable={"thread_id": "1"})
    tools = toolbox(*team(asks=agent, other=str.upper))

    fan_out = tools["fan_out"]
    message = call(fan_out, input="x") if way == "sync" else asyncio.run(acall(fan_out, input="x"))

    assert statuses(message)[0] != "completed"
    assert answers(message) == [None, "X"]
    assert "May I?" in message.text
    assert errors(message)[0]


def test_a_child_that_asks_is_no_winner_of_a_race() -> None:
    agent = ASKING["graph"]().with_config(configurable={"thread_id": "1"})
    tools = toolbox(*team(asks=agent, other=str.upper))

    message = call(tools["fan_out"], input="x", aggregation="first")

    assert message.artifact["winner"] == "other"


def test_the_artifact_reads_back() -> None:
    message = call(toolbox(*team(a=str.upper, b=len))["fan_out"], input="abc")

    gathered = GatherResult.from_dict(message.artifact)

    assert gathered.get_results() == ["ABC", 3]
    assert gathered.all_succeeded


async def test_a_coroutine_in_place_of_a_runnable_is_refused_and_closed() -> None:
    async def answer(text: str) -> str:
        return text

    coroutine: Any = answer("called too early")
    with pytest.raises(TypeError, match="runnable"):
        SubAgent("a", "A", coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED

    coroutine = answer("called too early")
    make: Any = SubAgent
    with pytest.raises(TypeError, match="SubAgent does not know tool="):
        make("a", "A", str.upper, tool=coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


@pytest.mark.parametrize("field", ["description", "runnable", "input", "output", "task_timeout"])
async def test_a_coroutine_in_any_field_is_closed_with_a_name_that_is_refused(field: str) -> None:
    coroutine = upper("called too early")
    fields: Any = {"description": "A.", "runnable": str, field: coroutine}
    with pytest.raises(ValueError, match="name must say something"):
        SubAgent("", **fields)

    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


@pytest.mark.parametrize("agents", [[], team(it=str)])
async def test_a_coroutine_in_place_of_a_merge_is_closed(agents: Any) -> None:
    coroutine: Any = upper("called too early")
    with pytest.raises(TypeError, match="merge_fn must be a function"):
        ParallelToolkit(agents, merge_fn=coroutine, max_concurrent=0)

    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


@pytest.mark.parametrize("first", [7, {"name": "it"}, SubAgent("it", "Does it.", str)])
async def test_coroutines_among_agents_that_are_refused_are_closed(first: Any) -> None:
    async def answer(text: str) -> str:
        return text

    alone, inside = answer("called too early"), answer("called too early")
    agents: Any = [first, alone, {"name": "a", "description": "A.", "runnable": inside}]
    with pytest.raises((TypeError, ValueError)):
        ParallelToolkit(agents)

    states = [inspect.getcoroutinestate(each) for each in (alone, inside)]
    assert states == [inspect.CORO_CLOSED] * 2


# Dicts.


@tool
def measure(task: str) -> str:
    """Measure."""
    return f"{task} is long"


def using_a_tool() -> Any:
    return says([{"name": "measure", "args": {"task": "it"}}], lambda messages: messages[-1].text)


DICTS: dict[str, tuple[dict[str, Any], Any]] = {
    "ready": ({"runnable": str.upper}, "HEAR"),
    "ready, with fields of ours": ({"runnable": str.upper, "output": len, "task_timeout": 5}, 4),
    "a model": ({"model": says("hello"), "system_prompt": "Be brief.", "tools": []}, "hello"),
    "a model alone": ({"model": says("hello")}, "hello"),
    "tools": ({"model": using_a_tool(), "tools": [measure], "middleware": []}, "it is long"),
    "what is None is not given": (
        {
            "model": says("hello"),
            "system_prompt": None,
            "tools": None,
            "middleware": None,
            "response_format": None,
        },
        "hello",
    ),
    "a structured response": (
        {
            "model": says([{"name": "Verdict", "args": {"good": True, "why": "it is"}}]),
            "response_format": ToolStrategy(Verdict),
        },
        {"good": True, "why": "it is"},
    ),
}


@pytest.mark.parametrize(("given", "answer"), DICTS.values(), ids=DICTS)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_dict_describes_an_agent(given: dict[str, Any], answer: Any, way: str) -> None:
    agents: list[Any] = [{"name": "it", "description": "Does it.", **given}, *team(other=str)]
    fan_out = {tool.name: tool for tool in ParallelToolkit(agents).get_tools()}["fan_out"]

    message = (
        call(fan_out, input="hear") if way == "sync" else asyncio.run(acall(fan_out, input="hear"))
    )
    assert answers(message) == [answer, "hear"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"runnable": str.upper, "interrupt_on": {"pay": True}}, "interrupt_on= is not supported"),
        ({"model": says("a"), "interrupt_on": {}}, "HumanInTheLoopMiddleware"),
        ({"model": says("a"), "skills": ["x"]}, "'skills' is not supported; allowed are"),
        ({"model": says("a"), "permissions": []}, "'permissions' is not supported"),
        ({"model": says("a"), "mode": "fork"}, "'mode' is not supported"),
        ({"runnable": str.upper, "model": says("a")}, "'model' is not supported"),
        ({"graph_id": "x"}, "'graph_id' is not supported"),
        ({"model": None}, r"model \(or runnable\) must be given"),
        ({"tools": []}, r"model \(or runnable\) must be given"),
        ({"runnable": str.upper, "name": "two words"}, "name must be 1 to 64"),
    ],
)
def test_a_key_that_would_be_dropped_is_refused_by_name(given: dict[str, Any], text: str) -> None:
    agent: Any = {"name": "it", "description": "Does it.", **given}
    with pytest.raises(ValueError, match=text):
        ParallelToolkit([agent])


def test_of_an_agent_that_cannot_be_made_the_name_is_told() -> None:
    agent: Any = {"name": "it", "description": "Does it.", "model": says("a"), "tools": [7]}
    with pytest.raises(ValueError) as caught:
        ParallelToolkit([agent])

    assert caught.value.__notes__ == ["of agent 'it', which create_agent could not make"]


def test_a_dict_without_a_name_or_description_is_refused() -> None:
    nameless: Any = {"runnable": str.upper}
    with pytest.raises(ValueError, match="agent None: name, description must be given"):
        ParallelToolkit([nameless])


def test_a_dict_and_an_agent_of_one_name_are_refused() -> None:
    agents: list[Any] = [
        SubAgent("it", "Does it.", str),
        {"name": "it", "description": "Does it.", "runnable": str},
    ]
    with pytest.raises(ValueError, match="'it' twice"):
        ParallelToolkit(agents)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_deep_agent_answers(way: str) -> None:
    deepagents = pytest.importorskip("deepagents")
    agent = deepagents.create_deep_agent(model=says("deep thoughts"), tools=[])
    fan_out = toolbox(*team(deep=agent, up=str.upper))["fan_out"]

    message = call(fan_out, input="x") if way == "sync" else asyncio.run(acall(fan_out, input="x"))
    assert answers(message) == ["deep thoughts", "X"]
