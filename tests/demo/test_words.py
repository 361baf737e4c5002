"""The scripted supervisor: what it calls next and says at last follows from what it was told."""

from collections.abc import Callable
from typing import Any, TypeAlias

from langchain_core.messages import HumanMessage

from agentos_parallel.demo.words import look_closer, report, scripted_supervisor

Make: TypeAlias = Callable[..., Any]

MARKS = "3 findings\na.py:1: marks: x\na.py:2: marks: x\nsub/b.py:3: marks: x"
EXCEPTS = "2 findings\nsub/b.py:4: excepts: x\nsub/b.py:5: excepts: x"


def test_it_asks_both_questions_at_once() -> None:
    model = scripted_supervisor(["marks", "slow"], ["headers", "metadata"])

    race, survey = (call["args"] for call in model.invoke("go").tool_calls)

    assert (race["aggregation"], race["agents"]) == ("first", ["headers", "metadata"])
    assert survey == {"input": ".", "agents": ["marks", "slow"], "aggregation": "all"}


def test_it_looks_closer_where_most_was_found_with_those_who_answered(
    tool_call: Make, result: Make
) -> None:
    results = [
        result("marks", answer=MARKS),
        result("excepts", answer=EXCEPTS),
        result("slow", "timeout", error=("TaskTimeout", "late")),
    ]

    [call] = look_closer(tool_call("fan_out", {}, *results))

    assert call["args"] == {"input": "sub", "agents": ["marks", "excepts"], "aggregation": "merge"}


def test_it_looks_at_the_whole_tree_when_nothing_is_below(tool_call: Make, result: Make) -> None:
    only_root = result("marks", answer="1 findings\na.py:1: marks: x")
    failed = result("marks", "failed", error=("ValueError", "no"))

    for outcome in (only_root, failed):
        [call] = look_closer(tool_call("fan_out", {}, outcome))
        assert (call["args"]["input"], call["args"]["agents"]) == (".", ["marks"])


def test_the_report_is_made_of_what_the_tools_answered(tool_call: Make, result: Make) -> None:
    lookups = [
        result("headers", "cancelled"),
        result("metadata", answer="MIT (in a file)"),
        result("pyproject", "failed", error=("LookupError", "none")),
    ]
    survey = [
        result("marks", answer=MARKS + "\nsub/b.py:9: marks: y"),
        result("slow", "timeout", error=("TaskTimeout", "late")),
    ]
    ranked = "\n".join(f"{n}. f{n}.py: weight 1" for n in range(1, 8))
    conversation = [
        HumanMessage("go"),
        *tool_call("fan_out", {"n": 1}, *lookups, value="MIT (in a file)", winner="metadata"),
        *tool_call("fan_out", {"n": 2}, *survey),
        *tool_call("fan_out", {"n": 3}, result("marks", answer=MARKS), value=ranked),
    ]

    assert report(conversation).splitlines() == [
        "4 findings by 1 of 2 sub-agents:",
        "- marks: 3 findings",
        "    a.py:1: marks: x",
        "    a.py:2: marks: x",
        "    sub/b.py:3: marks: x",
        "    ... and 1 more",
        "- slow: no answer, timeout (TaskTimeout: late)",
        "",
        "Where to begin, by all of them together:",
        *(f"    {n}. f{n}.py: weight 1" for n in range(1, 6)),
        "    ... and 2 more",
        "",
        "Licence: MIT (in a file), first found by metadata (the others: 1 cancelled, 1 failed)",
    ]


def test_the_report_says_what_did_not_come(tool_call: Make, result: Make) -> None:
    none_found = result("headers", "failed", error=("LookupError", "no header"))
    conversation = [
        *tool_call("fan_out", {"n": 1}, none_found),
        *tool_call("fan_out", {"n": 2}, text="refused"),
        *tool_call("fan_out", {"n": 3}, text="nobody succeeded"),
    ]

    said = report(conversation)

    assert "Licence: not found (headers: LookupError: no header)" in said
    assert "0 findings by 0 of 0 sub-agents:" in said
    assert "no ranking: nobody succeeded" in said
