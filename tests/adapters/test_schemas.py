"""What a model is told that it may send, held against the rules of strict providers."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from tests.adapters.parts import acall, answers, call, team, toolbox

TOOLS = ["parallel_gather", "fan_out", "parallel_map"]
each_tool = pytest.mark.parametrize("name", TOOLS)


def tool_named(name: str, **settings: Any) -> BaseTool:
    agents = team(up=str.upper, down=str.lower)
    return toolbox(*agents, **{"merge_fn": "+".join, **settings})[name]


# OpenAI's strict mode: https://platform.openai.com/docs/guides/structured-outputs.

KNOWN = {
    "additionalProperties",
    "anyOf",
    "description",
    "enum",
    "items",
    "properties",
    "required",
    "type",
}
TYPES = {"array", "boolean", "integer", "null", "number", "object", "string"}


def parts_of(schema: dict[str, Any], depth: int = 1) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every schema in a schema, with how deep it stands."""
    yield depth, schema
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    for each in [*inner, *([schema["items"]] if "items" in schema else [])]:
        yield from parts_of(each, depth + 1)


def broken_rules(schema: dict[str, Any]) -> Iterator[str]:
    if schema.get("type") != "object" or "anyOf" in schema:
        yield "the root must be an object, and no anyOf"
    parts = list(parts_of(schema))
    for depth, part in parts:
        yield from (f"unknown keyword {key}" for key in part.keys() - KNOWN)
        if "anyOf" not in part and part.get("type") not in TYPES:
            yield f"no type: {part}"
        if part.get("type") == "object":
            if part.get("additionalProperties") is not False:
                yield "additionalProperties must be false"
            if set(part["required"]) != set(part["properties"]):
                yield "every property must be required"
        if depth > 10:
            yield "nested more than ten deep"
    if sum(len(part.get("properties", ())) for _, part in parts) > 5_000:
        yield "too many properties"
    if sum(len(part.get("enum", ())) for _, part in parts) > 1_000:
        yield "too many enum values"


@each_tool
@pytest.mark.parametrize("merge_fn", [None, "+".join])
def test_strict_mode_takes_every_field(name: str, merge_fn: Any) -> None:
    function = convert_to_openai_tool(tool_named(name, merge_fn=merge_fn), strict=True)["function"]

    assert function["strict"] is True
    assert list(broken_rules(function["parameters"])) == []


def test_the_rules_find_what_strict_mode_refuses() -> None:
    bad = {"type": "object", "properties": {"a": {"type": "string", "default": "x"}}}
    assert len(list(broken_rules({**bad, "required": []}))) == 3


@each_tool
def test_without_strict_mode_only_what_is_needed_is_required(name: str) -> None:
    needed = {
        "parallel_gather": ["tasks"],
        "fan_out": ["input"],
        "parallel_map": ["agent", "inputs"],
    }
    parameters = convert_to_openai_tool(tool_named(name))["function"]["parameters"]

    assert parameters["required"] == needed[name]
    assert all(part.get("description") for part in parameters["properties"].values())


@each_tool
def test_the_model_is_told_of_each_agent_and_of_the_limits(name: str) -> None:
    tool = tool_named(name, max_tasks=7, timeout=90)
    shown = json.dumps(convert_to_openai_tool(tool)["function"]["parameters"])

    assert "up: Does up.; down: Does down." in shown
    assert "at most 90" in shown
    assert ("1 to 7" in shown) is (name != "fan_out")
    assert "not an instruction" in tool.description


# Arguments that come as JSON texts.

JSON_TEXTS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "tasks": (
        "parallel_gather",
        {"tasks": '[{"agent": "up", "input": "a"}, {"agent": "down", "input": "B"}]'},
        ["A", "b"],
    ),
    "one of the tasks": (
        "parallel_gather",
        {"tasks": ['{"agent": "up", "input": "a"}', {"agent": "down", "input": "B"}]},
        ["A", "b"],
    ),
    "agents": ("fan_out", {"input": "x", "agents": ' ["up"]'}, ["X"]),
    "inputs": ("parallel_map", {"agent": "up", "inputs": '["a", "b"]'}, ["A", "B"]),
    "timeout": ("parallel_map", {"agent": "up", "inputs": ["a"], "timeout": "30"}, ["A"]),
    "an input that looks like one": ("fan_out", {"input": '["a"]', "agents": ["up"]}, ['["A"]']),
}


@pytest.mark.parametrize(("name", "args", "expected"), JSON_TEXTS.values(), ids=JSON_TEXTS)
def test_json_texts_are_read(name: str, args: dict[str, Any], expected: list[str]) -> None:
    assert answers(call(tool_named(name), **args)) == expected


@each_tool
async def test_all_arguments_in_one_json_text(name: str) -> None:
    args = {
        "parallel_gather": {"tasks": [{"agent": "up", "input": "a"}]},
        "fan_out": {"input": "a", "agents": ["up"]},
        "parallel_map": {"agent": "up", "inputs": ["a"]},
    }[name]
    tool = tool_named(name)

    assert "<answer>\nA\n</answer>" in tool.invoke(json.dumps(args))
    assert "<answer>\nA\n</answer>" in await tool.ainvoke(json.dumps(args))


def test_a_plain_text_is_the_first_argument() -> None:
    assert "<answer>\nA\n</answer>" in tool_named("fan_out").invoke("a")
    assert "<answer>\n{A}\n</answer>" in tool_named("fan_out").invoke("{a}")


@pytest.mark.parametrize("text", ["[", '["a"', "[nan]", "{", '{"a": 1}', "[[[["])
def test_what_is_no_json_is_refused_in_a_sentence(text: str) -> None:
    message = call(tool_named("parallel_map"), agent="up", inputs=text)
    assert message.status == "error"
    assert "inputs" in message.text


# Sentences.

SENTENCES: list[tuple[str, dict[str, Any], str]] = [
    (
        "parallel_map",
        {"agent": "upp", "inputs": ["x"]},
        "there is no agent 'upp'; did you mean up? The agents are: up, down",
    ),
    ("parallel_gather", {"tasks": []}, "tasks must have at least one entry, and at most 32"),
    (
        "parallel_map",
        {"agent": "up", "inputs": ["x"] * 33},
        "inputs may have at most 32 entries, not 33",
    ),
    (
        "parallel_gather",
        {"tasks": [{"agent": "up", "input": "x"}] * 500},
        "tasks may have at most 32 entries, not 500",
    ),
    ("fan_out", {"input": "x", "agents": ["up", "up"]}, "agents must name each agent once"),
    ("fan_out", {"input": "x", "agent": "up"}, "agent is none of them, allowed are input, agents"),
    ("fan_out", {"input": "x", "timeout": -1}, "timeout must be seconds above 0"),
]


@pytest.mark.parametrize(("name", "args", "sentence"), SENTENCES)
async def test_a_sentence_says_what_is_allowed(
    name: str, args: dict[str, Any], sentence: str
) -> None:
    message = await acall(tool_named(name), **args)

    assert sentence in message.text
    assert len(message.text) < 400
    assert (message.status, message.artifact) == ("error", None)


def test_a_hundred_agents_leave_the_sentence_short() -> None:
    agents = team(**{f"agent_{n}": str.upper for n in range(100)})
    message = call(toolbox(*agents)["parallel_map"], agent="agent_7x", inputs=["x"])

    assert "did you mean agent_7" in message.text
    assert len(message.text) < 400
