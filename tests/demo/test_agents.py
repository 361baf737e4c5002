"""The sub-agents: functions and a graph answer alike, and troublemakers make trouble."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from agentos_parallel.demo.agents import (
    RAISES,
    SLOW,
    SLOW_SECONDS,
    SLOW_TIMEOUT,
    locators,
    reviewers,
    troublemakers,
)
from agentos_parallel.demo.reviews import RULES, findings_in, review

DEEP = (
    "def f():\n" + "".join(f"{' ' * depth}if {depth}:\n" for depth in range(1, 6)) + "      pass\n"
)


def test_every_rule_has_its_reviewer(tree: Callable[..., Path]) -> None:
    assert [agent.name for agent in reviewers(tree({}))] == [rule.name for rule in RULES]


def test_a_reviewer_that_is_an_agent_answers_like_the_others(tree: Callable[..., Path]) -> None:
    root = tree({"sub/a.py": DEEP, "b.py": DEEP})
    rule = RULES[-1]
    graph = reviewers(root)[-1].runnable

    state = graph.invoke({"messages": [("user", "sub")]})

    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert state["messages"][-1].text == review(root, rule, "sub")
    assert len(findings_in(state["messages"][-1].text)) == 1


async def test_the_troublemakers_are_slow_and_raise() -> None:
    makers = {agent.name: agent for agent in troublemakers()}
    began = asyncio.get_running_loop().time()

    await makers[SLOW].runnable(".")
    took = asyncio.get_running_loop().time() - began
    with pytest.raises(RuntimeError, match="raised on purpose"):
        await makers[RAISES].runnable(".")

    assert makers[SLOW].task_timeout == SLOW_TIMEOUT < took == SLOW_SECONDS


def test_the_locators_are_four(tree: Callable[..., Path]) -> None:
    names = [agent.name for agent in locators(tree({}))]

    assert names == ["headers", "licence_file", "pyproject", "metadata"]
