"""Which way a Runnable is called: sync in a thread of ours, async on the loop."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import before_model, wrap_model_call, wrap_tool_call
from langchain_core.runnables import RunnableLambda
from langgraph.func import entrypoint

from tests.adapters.parts import (
    ASYNC_FORMS,
    SYNC_FORMS,
    OwnAsyncModel,
    acall,
    answers,
    async_node_of,
    call,
    graph,
    node_of,
    running_loop,
    says,
    structured,
    team,
    toolbox,
)

sync_forms = pytest.mark.parametrize("form", SYNC_FORMS.values(), ids=SYNC_FORMS)


async_forms = pytest.mark.parametrize("form", ASYNC_FORMS.values(), ids=ASYNC_FORMS)


async def upper(text: str) -> str:
    await asyncio.sleep(0)
    return text.upper()


class Places:
    """Where a body ran."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.loops: list[asyncio.AbstractEventLoop | None] = []

    def here(self, text: str) -> str:
        self.threads.append(threading.current_thread())
        self.loops.append(running_loop())
        return text.upper()

    async def ahere(self, text: str) -> str:
        return self.here(text)


BOTH: dict[str, Callable[[Any, Any], Any]] = {
    "RunnableLambda": RunnableLambda,
    "tool": structured,
    "chat model": lambda body, abody: OwnAsyncModel(body=body, abody=abody),
    "graph": lambda body, abody: graph(RunnableLambda(node_of(body), async_node_of(abody))),
}


@before_model
async def look(state: Any, runtime: Any) -> None:
    await asyncio.sleep(0)


@wrap_model_call
async def around_model(request: Any, handler: Any) -> Any:
    return await handler(request)


@wrap_tool_call
async def around_tool(request: Any, handler: Any) -> Any:
    return await handler(request)


@sync_forms
def test_sync_children_of_a_sync_call_run_in_daemon_threads(form: Any) -> None:
    places = Places()

    call(toolbox(*team(it=form(places.here)))["parallel_map"], agent="it", inputs=["a", "b"])

    assert len(places.threads) == 2
    assert all(thread.daemon for thread in places.threads), "exit would wait for it"
    assert places.loops == [None, None], "it would block a loop"
    assert threading.current_thread() not in places.threads


@sync_forms
async def test_sync_children_of_an_async_call_run_in_daemon_threads(form: Any) -> None:
    places = Places()

    tools = toolbox(*team(it=form(places.here)))
    await acall(tools["parallel_map"], agent="it", inputs=["a", "b"])

    assert len(places.threads) == 2
    assert all(thread.daemon for thread in places.threads), "asyncio.run would wait for it"
    assert places.loops == [None, None], "it would block the loop"


@async_forms
def test_async_children_of_sync_calls_share_one_persistent_loop(form: Any) -> None:
    places = Places()
    tools = toolbox(*team(it=form(places.ahere)))

    for _ in range(2):
        call(tools["parallel_map"], agent="it", inputs=["a", "b"])
        call(tools["fan_out"], input="c")
    call(toolbox(*team(it=form(places.ahere)))["fan_out"], input="another toolkit")

    assert len(places.loops) == 7
    assert len(set(places.loops)) == 1
    assert places.loops[0] is not None
    assert not places.loops[0].is_closed()
    assert all(thread.daemon for thread in places.threads)


async def test_async_children_of_an_async_call_run_on_its_loop() -> None:
    places = Places()
    forms = [form(places.ahere) for form in ASYNC_FORMS.values()]

    await acall(toolbox(*team(**{f"a{i}": f for i, f in enumerate(forms)}))["fan_out"], input="x")

    assert set(places.loops) == {asyncio.get_running_loop()}


@pytest.mark.parametrize("form", BOTH.values(), ids=BOTH)
def test_a_child_that_is_both_is_called_as_the_caller_is(form: Any) -> None:
    async def async_way(text: str) -> str:
        return f"async {text}"

    tools = toolbox(*team(it=form(lambda text: f"sync {text}", async_way)))

    assert answers(call(tools["fan_out"], input="x")) == ["sync x"]
    assert answers(asyncio.run(acall(tools["fan_out"], input="x"))) == ["async x"]


def test_a_chain_of_sync_and_async_steps_answers_a_sync_call() -> None:
    chain = RunnableLambda(str.strip) | RunnableLambda(upper) | RunnableLambda(len)

    assert answers(call(toolbox(*team(it=chain))["fan_out"], input=" abc ")) == [3]


@pytest.mark.parametrize("middleware", [look, around_model, around_tool])
def test_an_agent_with_async_middleware_answers_a_sync_call(middleware: Any) -> None:
    steps = [[{"name": "worker", "args": {"task": "x"}}], "done"]
    agent = create_agent(says(*steps), [structured(str.upper)], middleware=[middleware])

    assert answers(call(toolbox(*team(it=agent))["fan_out"], input="x")) == ["done"]


async def test_a_runnable_that_picks_an_async_one_answers_an_async_call() -> None:
    picks: Any = RunnableLambda(lambda text: RunnableLambda(upper))

    assert await picks.ainvoke("x") == "X", "as it does without us"
    assert answers(await acall(toolbox(*team(it=picks))["fan_out"], input="x")) == ["X"]


def test_an_async_entrypoint_answers_a_sync_call() -> None:
    @entrypoint()
    async def work(text: str) -> str:
        return text.upper()

    assert answers(call(toolbox(*team(it=work))["fan_out"], input="x")) == ["X"]
