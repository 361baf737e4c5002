"""End to end with the real ChatOpenAI, against a server on this machine."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent

from agentos_parallel import ParallelToolkit, SubAgent
from agentos_parallel._core.threads import run_sync
from tests.adapters.parts import acall, answers, call, go, statuses, told, toolbox

ChatOpenAI: Any = pytest.importorskip("langchain_openai").ChatOpenAI
scenarios: Any = pytest.importorskip("llmock.scenarios")

pytestmark = pytest.mark.realtime

AGENTS = ["web", "limited", "broken", "hangs"]

TIMEOUTS = itertools.count(600)


@pytest.fixture
def server() -> Iterator[Any]:
    """A server of each test's own.

    The clients are cached by address and timeout, closed ones too, and a port may come again.
    """
    from llmock.testing import LLMockServer

    with LLMockServer() as started:
        server: Any = started
        server.timeout = next(TIMEOUTS)
        yield server


def model(server: Any, name: str) -> Any:
    return ChatOpenAI(
        model=name,
        base_url=server.base_url("openai"),
        api_key="no-key",
        max_retries=0,
        timeout=server.timeout,
    )


async def close_async(server: Any) -> None:
    """Close the cached async client, in the loop that has used it."""
    await model(server, "any").root_async_client.close()


def close(server: Any) -> None:
    model(server, "any").root_client.close()
    run_sync(close_async(server))


def of(name: str) -> Any:
    """The requests for one model."""
    return scenarios.Match(model=name)


def script(server: Any, *replies: Any) -> None:
    server.state.reset()  # what an earlier test queued would be answered here
    server.state.scenarios.add(
        *replies,
        scenarios.Reply("Tides come twice a day.", times=None, match=of("web")),
        scenarios.Fail(429, times=None, match=of("limited")),
        scenarios.Fail(500, times=None, match=of("broken")),
        scenarios.Delay(1.0, times=None, match=of("hangs")),
    )


def told_to(server: Any, name: str) -> str:
    """The last message of the last request for a model, as it came over the wire."""
    bodies = [record.body for record in server.state.journal.records() if record.model == name]
    return str(bodies[-1]["messages"][-1]["content"])


@pytest.mark.leaky  # a sync caller's hanging thread ends with its request
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_supervisor_names_what_succeeded_and_what_did_not(server: Any, way: str) -> None:
    asked = scenarios.ToolCall("fan_out", {"input": "What of tides?"})
    answer = "The web knows. limited (429), broken (500) and hangs (too late) did not answer."
    script(
        server,
        scenarios.Reply(tool_calls=(asked,), match=of("boss")),
        scenarios.Reply(answer, match=of("boss")),
    )
    agents = [
        SubAgent(
            name,
            f"Is {name}.",
            create_agent(model(server, name), [], name=name),
            task_timeout=0.5 if name == "hangs" else None,
        )
        for name in AGENTS
    ]
    boss: Any = create_agent(model(server, "boss"), ParallelToolkit(agents).get_tools())

    async def ainvoke() -> Any:
        try:
            return await boss.ainvoke(go())
        finally:
            await close_async(server)

    if way == "sync":
        state = boss.invoke(go())
        close(server)
    else:
        state = asyncio.run(ainvoke())

    message = told(state)
    assert statuses(message) == ["completed", "failed", "failed", "timeout"]
    assert answers(message)[0] == "Tides come twice a day."
    read = told_to(server, "boss")
    assert read == message.text
    for expected in (
        "1 of 4 tasks completed.",
        "[0 web] completed:\n<answer>\nTides come twice a day.\n</answer>",
        "[1 limited] failed: OpenAIRateLimitError: Error code: 429",
        "[2 broken] failed: OpenAIAPIError: Error code: 500",
        "[3 hangs] timed out after ",
    ):
        assert expected in read
    assert state["messages"][-1].text == answer


def test_twenty_sync_calls_share_the_cached_async_client(server: Any) -> None:
    """A loop for each call, or a second one beside, would break the client's connections."""
    script(server)

    def async_only(name: str) -> Any:
        chat = model(server, "web")

        async def ask(text: str) -> str:
            return str((await chat.ainvoke(text)).text)

        return SubAgent(name, "Asks async.", ask)

    both = SubAgent("agent", "Asks.", create_agent(model(server, "web"), []))
    tool = toolbox(async_only("one"), async_only("two"), both)["fan_out"]

    for _ in range(20):
        assert answers(call(tool, input="tides")) == ["Tides come twice a day."] * 3
    close(server)


async def test_an_async_call_after_sync_ones(server: Any) -> None:
    script(server)
    chat = model(server, "web")
    tool = toolbox(SubAgent("chat", "Chats.", chat))["fan_out"]

    await asyncio.to_thread(call, tool, input="tides")
    message = await acall(tool, input="tides")
    await close_async(server)
    chat.root_client.close()
    assert answers(message) == ["Tides come twice a day."]
