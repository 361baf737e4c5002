"""The demo's sub-agents: reviewers, two that go wrong on purpose, and licence locators.

Most are plain functions of the task's text. `nesting` is a real agent, with a model and a tool of
its own. Two are troublemakers and say so in their names.
"""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import BaseMessage
from langchain_core.tools import tool

from agentos_parallel import SubAgent
from agentos_parallel.demo import licence
from agentos_parallel.demo.reviews import RULES, Rule, review
from agentos_parallel.testing import ScriptedChatModel

SLOW_SECONDS = 3.0
SLOW_TIMEOUT = 1.5
RAISES_AFTER = 1.0

SLOW = "slow_on_purpose"
RAISES = "raises_on_purpose"


def reviewers(root: Path) -> list[SubAgent]:
    """Return the sub-agents that review a folder of the tree; their task is its path below it."""
    return [_reviewer(root, rule) for rule in RULES]


def _reviewer(root: Path, rule: Rule) -> SubAgent:
    if rule.name == "nesting":
        return SubAgent(rule.name, rule.description, nesting_agent(root, rule))

    return SubAgent(rule.name, rule.description, partial(review, root, rule))


def nesting_agent(root: Path, rule: Rule) -> Any:
    """Make a `create_agent` graph that asks its own model, which has a tool do the review."""

    @tool
    def measure(folder: str) -> str:
        """Find the functions in a folder of the tree that are nested too deeply."""
        return review(root, rule, folder)

    def call_measure(messages: list[BaseMessage]) -> list[dict[str, Any]]:
        return [{"name": "measure", "args": {"folder": messages[-1].text}}]

    def repeat_it(messages: list[BaseMessage]) -> str:
        return messages[-1].text

    return create_agent(
        ScriptedChatModel(script=[call_measure, repeat_it]), [measure], name=rule.name
    )


def troublemakers() -> list[SubAgent]:
    """Return one sub-agent that is slow past its task timeout, and one that raises."""
    return [
        SubAgent(SLOW, "Answers too late, on purpose.", slow, task_timeout=SLOW_TIMEOUT),
        SubAgent(RAISES, "Fails, on purpose.", failing),
    ]


async def slow(task: str) -> str:
    """Answer after `SLOW_SECONDS`, long after the task timeout."""
    await asyncio.sleep(SLOW_SECONDS)
    return f"no findings, after {SLOW_SECONDS:g} s"


async def failing(task: str) -> str:
    """Raise after `RAISES_AFTER` seconds, as a service would that has gone away."""
    await asyncio.sleep(RAISES_AFTER)
    raise RuntimeError("raised on purpose: no service behind this sub-agent")


def locators(root: Path) -> list[SubAgent]:
    """Return the sub-agents that look for the tree's licence, each in another place."""
    return [
        SubAgent(
            "headers", "Looks for the licence in every file.", partial(licence.in_headers, root)
        ),
        SubAgent("licence_file", "Looks for a licence file.", partial(licence.in_file, root)),
        SubAgent(
            "pyproject", "Looks for it in pyproject.toml.", partial(licence.in_pyproject, root)
        ),
        SubAgent(
            "metadata", "Looks for it in package metadata.", partial(licence.in_metadata, root)
        ),
    ]
