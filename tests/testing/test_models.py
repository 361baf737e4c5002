"""ScriptedChatModel: what it says depends on the messages it receives, and on nothing else."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, ValidationError

from agentos_parallel.testing import ScriptedChatModel, ScriptExhaustedError


@tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


def echo(messages: list[BaseMessage]) -> str:
    return f"I heard: {messages[-1].text}"


def doubling(messages: list[BaseMessage]) -> list[dict[str, Any]]:
    return [{"name": "double", "args": {"number": int(messages[-1].text)}}]


def test_a_list_is_played_by_the_number_of_answers_already_given() -> None:
    model = ScriptedChatModel(script=["first", echo])
    question = HumanMessage("hello")

    first = model.invoke([question])
    second = model.invoke([question, first, HumanMessage("and now?")])

    assert (first.text, second.text) == ("first", "I heard: and now?")
    assert model.invoke([question]).text == "first", "a conversation that is repeated"


def test_a_function_answers_every_request() -> None:
    model = ScriptedChatModel(script=echo)

    assert [model.invoke(text).text for text in "ab"] == ["I heard: a", "I heard: b"]


def test_tool_calls_get_ids_that_differ_within_a_conversation() -> None:
    calls = [{"name": "double", "args": {"number": n}} for n in (1, 2)]
    model = ScriptedChatModel(script=[calls, [{"name": "double", "args": {}, "id": "mine"}], calls])
    history: list[BaseMessage] = [HumanMessage("go")]

    for _ in range(3):
        history.append(model.invoke(history))

    ids = [call["id"] for message in history[1:] for call in message.tool_calls]  # type: ignore[attr-defined]
    assert ids == ["call_0_0", "call_0_1", "mine", "call_2_0", "call_2_1"]


def test_each_answer_is_a_copy() -> None:
    step = AIMessage("same", additional_kwargs={"list": []})
    model = ScriptedChatModel(script=[step])

    first, second = model.invoke("a"), model.invoke("b")
    first.additional_kwargs["list"].append(1)

    assert step.id is None
    assert first.id != second.id
    assert second.additional_kwargs == {"list": []}


def test_a_script_that_runs_out_says_where() -> None:
    model = ScriptedChatModel(script=["only"])

    with pytest.raises(ScriptExhaustedError, match=r"1 steps and answer 2 .* human 'more\?'"):
        model.invoke([HumanMessage("hi"), AIMessage("only"), HumanMessage("more?")])
    with pytest.raises(ScriptExhaustedError, match=r"0 steps .* the last message was none"):
        ScriptedChatModel(script=[]).invoke([])


async def echo_later(messages: list[BaseMessage]) -> str:
    return messages[-1].text


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("hello", "script must be a list of steps or a function, got str"),
        (7, "script must be a list of steps or a function, got int"),
        (["ok", 7], r"script\[1\] must be an AIMessage, .* got 7"),
        ([{"name": "double", "args": {}}], r"script\[0\] must be .* a list of tool calls"),
        (["ok", [{"name": "double"}]], r"script\[1\] must be"),
        (echo_later, "script must be .* got an async function"),
    ],
)
def test_a_wrong_script_is_refused_at_once(script: Any, text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        ScriptedChatModel(script=script)


def test_a_function_must_return_a_step() -> None:
    model = ScriptedChatModel(script=[lambda messages: None])  # type: ignore[list-item,return-value]

    with pytest.raises(TypeError, match=r"step 0 must return an AIMessage, .* got None"):
        model.invoke("hi")


def test_an_answer_names_the_tools_that_were_offered() -> None:
    model = ScriptedChatModel(script=echo)
    search = {"type": "web_search"}

    assert model.invoke("a").response_metadata["offered_tools"] == []
    answer = model.bind_tools([double, search], tool_choice="any").invoke("a")
    assert answer.response_metadata["offered_tools"] == ["double", "web_search"]


class Person(BaseModel):
    """Somebody."""

    name: str


def test_structured_output_is_a_tool_call_of_the_script() -> None:
    model = ScriptedChatModel(script=[[{"name": "Person", "args": {"name": "Ada"}}]])

    assert model.with_structured_output(Person).invoke("who?") == Person(name="Ada")


def agent() -> Any:
    return create_agent(ScriptedChatModel(script=[doubling, echo]), [double], name="doubler")


def test_it_drives_a_real_agent() -> None:
    messages = agent().invoke({"messages": [("user", "21")]})["messages"]

    assert [message.text for message in messages] == ["21", "", "42", "I heard: 42"]
    assert isinstance(messages[2], ToolMessage)
    assert messages[1].response_metadata["offered_tools"] == ["double"]


async def test_one_instance_serves_many_conversations_on_one_loop() -> None:
    shared = agent()

    states = await asyncio.gather(
        *(shared.ainvoke({"messages": [("user", str(number))]}) for number in range(50))
    )

    expected = [f"I heard: {2 * number}" for number in range(50)]
    assert [state["messages"][-1].text for state in states] == expected


def test_one_instance_serves_many_threads() -> None:
    shared = agent()

    def ask(number: int) -> str:
        return str(shared.invoke({"messages": [("user", str(number))]})["messages"][-1].text)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(50))) == [f"I heard: {2 * n}" for n in range(50)]


async def test_a_stream_is_the_whole_answer_tool_calls_included() -> None:
    model = ScriptedChatModel(script=[doubling, "done"])

    chunks = [chunk async for chunk in model.astream("21")]
    events = [event async for event in model.astream_events("21", version="v2")]

    assert [call["args"] for chunk in chunks for call in chunk.tool_calls] == [{"number": 21}]
    assert [call["args"] for call in events[-1]["data"]["output"].tool_calls] == [{"number": 21}]
