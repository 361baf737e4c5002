"""Outcomes: tool calls and their tasks, read from the artifacts of a conversation."""

from collections.abc import Callable
from typing import Any, TypeAlias

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from agentos_parallel.demo.outcomes import Call, calls

Make: TypeAlias = Callable[..., Any]


def test_a_task_is_read_with_its_times(tool_call: Make, result: Make) -> None:
    failed = result("b", "failed", error=("ValueError", "no"), queued=0.5, started=10.0, ran=2.0)
    [call] = calls(tool_call("fan_out", {"input": "."}, failed))
    [task] = call.tasks

    assert call.name == "fan_out all"
    assert (task.agent, task.status, task.error) == ("b", "failed", "ValueError: no")
    assert (task.queued_ms, task.running_ms) == (500.0, 2000.0)
    assert (task.began, task.started, task.finished) == (9.5, 10.0, 12.0)


def test_a_task_that_never_started_began_when_it_was_queued(tool_call: Make, result: Make) -> None:
    never = result("a", "cancelled", queued=3.0, started=0.0, ran=0.0)
    [call] = calls(tool_call("fan_out", {"aggregation": "all"}, never))

    assert call.tasks[0].started is None
    assert (call.tasks[0].began, call.tasks[0].finished) == (97.0, 100.0)


def test_a_race_has_a_value_and_a_winner(tool_call: Make, result: Make) -> None:
    won = result("a", answer="MIT")
    args = {"aggregation": "first"}
    [call] = calls(tool_call("fan_out", args, won, value="MIT", winner="a"))

    assert (call.name, call.value, call.winner) == ("fan_out first", "MIT", "a")
    assert [task.result for task in call.tasks] == ["MIT"]


def test_tasks_without_a_name_of_their_own_bear_agent_and_position(
    tool_call: Make, result: Make
) -> None:
    results = [result("0"), result("1")]
    [call] = calls(tool_call("parallel_gather", {"tasks": []}, *results, agents=["x", "y"]))

    assert call.name == "parallel_gather"
    assert [task.agent for task in call.tasks] == ["x[0]", "y[1]"]


def test_a_refused_call_has_its_text_alone(tool_call: Make) -> None:
    messages = tool_call("fan_out", {"agents": ["nobody"]}, text="There is no agent 'nobody'.")

    assert calls(messages) == [Call("fan_out all", "There is no agent 'nobody'.")]


def test_calls_come_in_the_order_they_were_made(tool_call: Make) -> None:
    asked, told = tool_call("one", {}), tool_call("two", {})
    both = AIMessage("", tool_calls=[*asked[0].tool_calls, *told[0].tool_calls])
    messages: list[BaseMessage] = [HumanMessage("go"), both, told[1], asked[1]]

    assert [call.name for call in calls(messages)] == ["one", "two"]
    assert [call.name for call in calls(messages[:3])] == ["two"], "the other has no answer yet"
