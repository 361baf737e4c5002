"""What a sub-agent is given by its runnable's schema, and the answer in what it returned."""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import (
    ConfigurableField,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langchain_core.runnables.config import ensure_config
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import GraphOutput, Interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

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
    supervisor,
    team,
    told,
    toolbox,
)
from tests.adapters.remote import graph_server, shouting

WAYS = ["sync", "async"]


def answer_of(runnable: Any, text: str = "hear", **fields: Any) -> Any:
    agent = SubAgent("it", "Does it.", runnable, **fields)
    return answers(call(toolbox(agent)["fan_out"], input=text))[0]


# What it is given.


def count(state: MessagesState) -> Any:
    kinds = [type(message).__name__ for message in state["messages"]]
    return {"messages": [AIMessage(f"{kinds} {state['messages'][-1].text}")]}


def last(state: Any) -> str:
    return str(state["messages"][-1].text)


class Asked(TypedDict):
    messages: list[Any]


def of_messages(state: Asked) -> str:
    return last(state)


def of_text(text: str) -> str:
    return f"text {text}"


@entrypoint()
def function_of_a_state(state: Asked) -> str:
    return last(state)


@entrypoint()
def function_of_a_state_or_none(state: Asked | None) -> str:
    assert state is not None
    return last(state)


@entrypoint()
def function_of_a_text(text: str) -> str:
    return of_text(text)


ONE_MESSAGE = "['HumanMessage'] hear"
BY_SCHEMA = {
    "graph": (graph(count), ONE_MESSAGE),
    "bound graph": (graph(count).with_config(tags=["x"]), ONE_MESSAGE),
    "retried graph": (graph(count).with_retry(), ONE_MESSAGE),
    "graph with fallbacks": (graph(count).with_fallbacks([graph(count)]), ONE_MESSAGE),
    "chain that begins with a graph": (graph(count) | RunnableLambda(last), ONE_MESSAGE),
    "prompt of messages": (
        ChatPromptTemplate.from_messages([MessagesPlaceholder("messages")])
        | says(lambda messages: f"{len(messages)} {messages[-1].text}"),
        "1 hear",
    ),
    "function of a typed state": (RunnableLambda(of_messages), "hear"),
    "model": (says(lambda messages: f"{len(messages)} {messages[-1].text}"), "1 hear"),
    "typed by hand": (RunnableLambda(last).with_types(input_type=Asked), "hear"),
    "a bound one typed by hand": (
        RunnableLambda(last).with_types(input_type=Asked).with_config(tags=["x"]),
        "hear",
    ),
    "entrypoint of a state": (function_of_a_state, "hear"),
    "entrypoint of a state or None": (function_of_a_state_or_none, "hear"),
    "entrypoint of a text": (function_of_a_text, "text hear"),
    "typed as a state or a text": (
        RunnableLambda(of_text).with_types(input_type=Asked | str),  # type: ignore[arg-type]
        "text hear",
    ),
    "configurable model": (
        says(lambda messages: f"{len(messages)} {messages[-1].text}").configurable_fields(
            script=ConfigurableField("script")
        ),
        "1 hear",
    ),
    "graphs side by side": (
        RunnableParallel(a=graph(count), b=graph(count)) | RunnableLambda(lambda both: both["a"]),
        ONE_MESSAGE,
    ),
    "chain of a text": (RunnablePassthrough() | RunnableLambda(str.upper), "HEAR"),
}


@pytest.mark.parametrize(("runnable", "answer"), BY_SCHEMA.values(), ids=BY_SCHEMA)
def test_the_schema_says_whether_it_takes_messages(runnable: Any, answer: str) -> None:
    assert answer_of(runnable) == answer


async def double(text: str) -> str:
    await asyncio.sleep(0)
    return text * 2


@pytest.mark.parametrize("make", [lambda text: text * 2, double])
def test_input_makes_what_the_runnable_takes(make: Any) -> None:
    assert answer_of(str.upper, input=make) == "HEARHEAR"


def test_input_goes_before_the_schema() -> None:
    def three(text: str) -> Any:
        return {"messages": [HumanMessage(text), HumanMessage(text), AIMessage(text)]}

    assert answer_of(graph(count), input=three).startswith("['HumanMessage', 'HumanMessage', 'AI")


def test_input_serves_a_state_of_another_shape() -> None:
    class Report(TypedDict):
        topic: str
        text: str

    builder: Any = StateGraph(Report)
    builder.add_node("write", lambda state: {"text": f"about {state['topic']}"})
    builder.add_edge(START, "write")

    def report(text: str) -> Report:
        return {"topic": text, "text": ""}

    def text_of(state: Report) -> str:
        return state["text"]

    assert answer_of(builder.compile(), input=report, output=text_of) == "about hear"


@pytest.mark.parametrize("field", ["input", "output"])
async def test_an_input_or_output_that_raises_is_its_tasks_failure(field: str) -> None:
    def bad(_: Any) -> Any:
        raise LookupError("no such thing")

    fields: dict[str, Any] = {field: bad}
    agents = [SubAgent("bad", "Bad.", str.upper, **fields), *team(good=str.upper)]
    message = await acall(toolbox(*agents)["fan_out"], input="x")

    assert errors(message) == ["LookupError", None]


def test_a_second_attempt_finds_its_task_once() -> None:
    attempts: list[int] = []

    def flaky(state: MessagesState) -> Any:
        attempts.append(len(state["messages"]))
        if len(attempts) == 1:
            raise ConnectionError
        return {"messages": [AIMessage("there")]}

    child = graph(flaky).with_retry(wait_exponential_jitter=False)
    tools = toolbox(*team(it=child))
    boss = supervisor(tools, "fan_out", {"input": "x"}, checkpointer=InMemorySaver())
    boss.invoke(go(), {"configurable": {"thread_id": "1"}})

    assert attempts == [1, 1]


# The answer in what it returned.


@pytest.mark.parametrize("make", [str.upper, double])
def test_output_makes_the_answer(make: Any) -> None:
    async def whole(state: Any) -> str:
        return str(await make(last(state)) if make is double else make(last(state)))

    assert answer_of(graph(lambda _: {"messages": [AIMessage("ab")]}), output=whole) in {
        "AB",
        "abab",
    }


REASONING = {"type": "reasoning", "reasoning": "Hm."}
THINKING = {"type": "thinking", "thinking": "Hm.", "signature": "x"}


def text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


MESSAGES: dict[str, tuple[Any, Any]] = {
    "blocks": ([AIMessage([REASONING, text_block("a"), THINKING, text_block("b")])], "ab"),
    "a chunk": ([AIMessageChunk(content="a")], "a"),
    "the last with text": ([AIMessage("a"), AIMessage(""), AIMessage([THINKING])], "a"),
    "none with text": ([HumanMessage("a"), AIMessage("")], None),
    "dicts by role": (
        [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}],
        "a",
    ),
    "dicts by type": ([{"type": "ai", "content": [THINKING, text_block("a")]}], "a"),
    "dicts without content": ([{"type": "ai"}, {"type": "ai", "content": None}], None),
    "beside what is none": ([None, AIMessage("a"), 7, "text"], "a"),
    "dicts by LangChain's role": ([{"role": "ai", "content": "a"}], "a"),
    "unchecked": (
        [
            AIMessage.model_construct(content=[None, 7, text_block("a")]),
            AIMessage.model_construct(content=None),
            AIMessage.model_construct(),
        ],
        "a",
    ),
    "unchecked, a number": ([AIMessage.model_construct(content=7)], "7"),
    "dicts with odd content": (
        [
            {"role": "assistant", "content": [{"type": "text"}, {"type": "text", "text": 7}, "a"]},
            {"role": "assistant", "content": [None, 7]},
        ],
        "a",
    ),
    "dicts with a number": ([{"type": "ai", "content": 7}], "7"),
    "a tuple": ((AIMessage("a"),), "a"),
    "nothing": ([], None),
}


@pytest.mark.parametrize(("messages", "answer"), MESSAGES.values(), ids=MESSAGES)
def test_the_answer_is_the_last_text_of_the_agent(messages: Any, answer: Any) -> None:
    assert answer_of(lambda _: {"messages": messages}) == answer


NO_MESSAGES: list[Any] = [
    {"messages": value} for value in ("text", None, 7, {"a": 1}, ["a", 7, None], [["ai", "a"]])
]


@pytest.mark.parametrize("value", [None, [], "", 0, False, {}, {"a": [1]}, *NO_MESSAGES])
def test_anything_else_is_kept_as_it_was_returned(value: Any) -> None:
    assert answer_of(lambda _: value) == value


def test_the_newer_form_of_a_graphs_output_is_read() -> None:
    newer = graph(lambda _: {"messages": [AIMessage("a")]}).bind(version="v2")

    assert answer_of(newer) == "a"
    assert answer_of(lambda _: GraphOutput("a")) == "a"
    asked = toolbox(*team(it=lambda _: GraphOutput({}, (Interrupt("May I?"),))))["fan_out"]
    assert call(asked, input="x").text.endswith("whom nobody can reach here: May I?")


class ModelState(BaseModel):
    messages: list[Any]


@dataclasses.dataclass
class DataState:
    messages: list[Any]


@pytest.mark.parametrize("state", [ModelState, DataState])
def test_the_newer_form_of_a_state_that_is_no_dict_is_read(state: Any) -> None:
    newer = graph(lambda _: {"messages": [AIMessage("a")]}, state=state).bind(version="v2")

    assert answer_of(newer) == "a"


QUESTION = {"value": 1, "kind": "approve"}
QUESTIONS: dict[str, tuple[Any, Any]] = {
    "of a graph": ([Interrupt(QUESTION)], QUESTION),
    "of a graph, like a server's": ([Interrupt({"value": 1, "id": "a"})], {"value": 1, "id": "a"}),
    "of a server": ([{"value": QUESTION, "id": "a"}], QUESTION),
    "of an older server": ([{"value": "a", "resumable": True, "ns": ["b"], "when": "during"}], "a"),
    "of neither": ([QUESTION], QUESTION),
    "not in a list": (QUESTION, QUESTION),
    "a number": (7, 7),
}


@pytest.mark.parametrize(("asked", "told"), QUESTIONS.values(), ids=QUESTIONS)
def test_a_question_is_told_whole(asked: Any, told: Any) -> None:
    message = call(toolbox(*team(it=lambda _: {"__interrupt__": asked}))["fan_out"], input="x")

    assert errors(message) == ["HumanNeededError"]
    assert message.text.endswith(f"whom nobody can reach here: {told}")


def test_with_input_no_schema_is_asked_for() -> None:
    class Odd(RunnableLambda[Any, Any]):
        def get_input_jsonschema(self, config: Any = None, **_: Any) -> Any:
            raise AssertionError("not needed")

    assert answer_of(Odd(str.upper), input=str.title) == "HEAR"


# A graph on a server.


def asked(agents: Any, way: str, *, inside: bool = True) -> Any:
    """What a fan-out says of "hear", *inside*: to an agent on a thread."""
    tools = toolbox(*agents)
    if not inside and way == "sync":
        return call(tools["fan_out"], input="hear")
    if not inside:
        return asyncio.run(acall(tools["fan_out"], input="hear"))
    boss = supervisor(tools, "fan_out", {"input": "hear"}, checkpointer=InMemorySaver())
    callers: Any = {"configurable": {"thread_id": "callers"}}
    if way == "sync":
        return told(boss.invoke(go(), callers))
    return told(asyncio.run(boss.ainvoke(go(), callers)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.realtime
def test_a_remote_graph_answers(way: str, inside: bool) -> None:
    with graph_server(shouting) as (url, paths):
        message = asked(team(it=RemoteGraph("agent", url=url), up=str.upper), way, inside=inside)

    assert (statuses(message), answers(message)) == (["completed"] * 2, ["HEAR"] * 2)
    assert paths == ["/runs/stream"], "on no thread, which others would share"


def same(state: Any) -> Any:
    return state


def messages_of(text: str) -> Any:
    return {"messages": [HumanMessage(text)]}


def failing(_: Any) -> Any:
    raise ConnectionError


def local() -> Any:
    """A graph that repeats what it was told, as an agent."""
    return graph(lambda state: {"messages": [AIMessage(last(state))]})


OWN_THREAD: Any = {"configurable": {"thread_id": "own"}}
ON_NO_THREAD = "/runs/stream"
ON_ITS_THREAD = "/threads/own/runs/stream"
FORMS_OF_REMOTE: dict[str, Callable[[Any], Any]] = {
    "alone": same,
    "retried": lambda remote: remote.with_retry(),
    "in a chain": lambda remote: remote | RunnableLambda(same),
    "second in a chain": lambda remote: RunnableLambda(messages_of) | remote,
    "in a chain in a chain": lambda remote: (
        RunnableLambda(str) | RunnableLambda(messages_of) | (remote | RunnableLambda(same))
    ),
    "with fallbacks": lambda remote: remote.with_fallbacks([RunnableLambda(str)]),
    "a fallback": lambda remote: graph(failing).with_fallbacks([remote]),
    "before a local graph": lambda remote: remote | local(),
    "after a local graph": lambda remote: local() | remote,
    "after a function that calls a local graph": lambda remote: (
        RunnableLambda(lambda text: local().invoke(messages_of(text))) | remote
    ),
    "beside a local graph": lambda remote: (
        RunnableParallel(here=local(), there=remote) | RunnableLambda(lambda both: both["there"])
    ),
}


@pytest.mark.parametrize("form", FORMS_OF_REMOTE.values(), ids=FORMS_OF_REMOTE)
@pytest.mark.parametrize("own_thread", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.realtime
def test_a_remote_graph_uses_no_thread_but_its_own(form: Any, own_thread: bool, way: str) -> None:
    with graph_server(shouting) as (url, paths):
        remote: Any = RemoteGraph("agent", url=url)
        if own_thread:
            remote = remote.with_config(OWN_THREAD)
        message = asked(team(it=form(remote)), way)

    assert answers(message) == ["HEAR"]
    assert paths == [ON_ITS_THREAD if own_thread else ON_NO_THREAD]


@pytest.mark.realtime
def test_a_chain_that_is_bound_to_a_thread_uses_it_on_the_server() -> None:
    with graph_server(shouting) as (url, paths):
        chain: Any = RemoteGraph("agent", url=url) | RunnableLambda(same)
        bound = chain.with_config(OWN_THREAD)
        message = asked(team(alone=bound, inside=bound | RunnableLambda(same)), "sync")

    assert answers(message) == ["HEAR"] * 2
    assert paths == [ON_ITS_THREAD] * 2


def test_an_agent_on_a_thread_of_its_own_keeps_its_name() -> None:
    def who(messages: Any) -> str:
        return str(ensure_config()["metadata"]["lc_agent_name"])

    child = create_agent(says(who), [], checkpointer=InMemorySaver(), name="own_name")

    assert answers(asked(team(it=child.with_config(OWN_THREAD)), "sync")) == ["own_name"]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_graph_with_a_memory_of_its_own_keeps_its_thread_in_a_chain(
    inside: bool, way: str
) -> None:
    saver = InMemorySaver()
    child = graph(count, checkpointer=saver).with_config(OWN_THREAD)
    agents = team(it=child | RunnableLambda(same))

    said = [answers(asked(agents, way, inside=inside)) for _ in range(2)]

    assert said == [[ONE_MESSAGE], ["['HumanMessage', 'AIMessage', 'HumanMessage'] hear"]]
    assert list(saver.storage) == ["own"]


@pytest.mark.realtime
def test_a_remote_graph_that_asks_has_not_answered() -> None:
    def asking(state: Any) -> Any:
        return {**state, "__interrupt__": [{"value": "May I?", "id": "1"}]}

    with graph_server(asking) as (url, _):
        message = call(toolbox(*team(it=RemoteGraph("agent", url=url)))["fan_out"], input="x")

    assert errors(message) == ["HumanNeededError"]
    assert message.text.endswith("whom nobody can reach here: May I?")


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.realtime
def test_a_remote_graph_that_asks_in_a_chain_has_not_answered(way: str, inside: bool) -> None:
    def asking(state: Any) -> Any:
        return {**state, "__interrupt__": [{"value": "May I?", "id": "1"}]}

    with graph_server(asking) as (url, _):
        chain = RemoteGraph("agent", url=url) | RunnableLambda(lambda _: "I may.")
        message = asked(team(it=chain), way, inside=inside)

    assert errors(message) == ["HumanNeededError"]
