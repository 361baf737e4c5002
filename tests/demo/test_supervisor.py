"""The supervisor: another tree gives another report, with what the others found."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agentos_parallel.demo import agents
from agentos_parallel.demo.agents import RAISES, SLOW
from agentos_parallel.demo.outcomes import Call, calls
from agentos_parallel.demo.supervisor import supervise

pytestmark = pytest.mark.realtime  # the reviewers are sync: they work in threads

FILES = {
    "LICENSE": "MIT License\n",
    "a.py": '"""A."""\n# TODO: more\n',
    "sub/b.py": '"""B."""\ntry: ...\nexcept: ...\n',
    "sub/c.py": "def f(x=[]): ...\n",
}


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "SLOW_SECONDS", 0.8)
    monkeypatch.setattr(agents, "SLOW_TIMEOUT", 0.4)
    monkeypatch.setattr(agents, "RAISES_AFTER", 0.3)


async def run(root: Path) -> tuple[str, list[Call]]:
    messages = await supervise(root)
    return messages[-1].text, calls(messages)


async def test_the_report_has_what_the_others_found(tree: Callable[..., Path]) -> None:
    text, (race, survey, ranking) = await run(tree(FILES))

    assert "5 findings by 7 of 9 sub-agents:" in text
    for line in (
        "a.py:2: marks: TODO: more",
        "sub/b.py:3: excepts: a bare except swallows every error",
        "sub/c.py:1: docstrings: f has no docstring",
        "sub/c.py:1: defaults: the default [] is mutable",
    ):
        assert f"    {line}" in text.splitlines()
    assert f"- {SLOW}: no answer, timeout (TaskTimeout: " in text
    assert f"- {RAISES}: no answer, failed (RuntimeError: raised on purpose" in text
    assert "Licence: MIT License (on top of LICENSE), first found by licence_file" in text
    assert [call.name for call in (race, survey, ranking)] == [
        "fan_out first",
        "fan_out all",
        "fan_out merge",
    ]


async def test_the_closer_look_ranks_the_worst_folder(tree: Callable[..., Path]) -> None:
    _, (_, survey, ranking) = await run(tree(FILES))

    able = [task.agent for task in survey.tasks if task.status == "completed"]
    assert [task.agent for task in ranking.tasks] == able
    assert ranking.value == (
        "1. sub/c.py: weight 7, docstrings 2, defaults 1; first in line 1\n"
        "2. sub/b.py: weight 5, excepts 1; first in line 3"
    )


async def test_another_tree_gives_another_report(tree: Callable[..., Path]) -> None:
    before, _ = await run(tree(FILES))
    after, _ = await run(tree({"sub/b.py": '"""B."""\n', "other/d.py": "def broken(:\n"}))

    assert "sub/b.py:3" in before
    assert "sub/b.py:3" not in after
    assert (
        "    other/d.py:1: syntax: the file does not parse (invalid syntax)" in after.splitlines()
    )
