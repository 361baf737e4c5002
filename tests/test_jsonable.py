"""Any value in plain JSON values, seen through ``to_dict``: never an error, always valid JSON."""

import enum
import json
import math
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import BaseModel

from agentos_parallel import TaskResult, TaskStatus


def told(value: object) -> Any:
    """*value* as a result's ``to_dict`` tells it, which is valid JSON."""
    plain = TaskResult("a", TaskStatus.COMPLETED, value).to_dict()["result"]
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    return plain


class Shade(str):
    """A str that is more than a str."""


class Level(enum.IntEnum):
    HIGH = 3


class Colour(enum.Enum):
    RED = "red"


Pair = namedtuple("Pair", "left right")


@dataclass
class Point:
    x: int
    tags: list[str] = field(default_factory=list)


@dataclass
class Half:
    x: int
    y: int = field(init=False)


class Page(BaseModel):
    title: str
    points: list[Point]


class BrokenModel:
    def model_dump(self) -> dict[str, Any]:
        raise ValueError("no dump")

    def __repr__(self) -> str:
        return "<broken>"


class OddModel:
    def model_dump(self) -> int:
        return 3

    def __repr__(self) -> str:
        return "<odd>"


class Unreadable:
    def __repr__(self) -> str:
        raise LookupError


@pytest.mark.parametrize("value", [None, True, False, 0, -7, 10**30, 2.5, "", "text", [], {}])
def test_what_json_knows_stays_as_it_is(value: object) -> None:
    assert told(value) == value
    assert type(told(value)) is type(value)


def test_containers_become_lists_and_dicts() -> None:
    assert told((1, [2, (3,)])) == [1, [2, [3]]]
    assert told(Pair(1, (2,))) == [1, [2]]
    assert told(OrderedDict(a=1, b=(2,))) == {"a": 1, "b": [2]}
    assert told(MappingProxyType({"a": {"b": 1}})) == {"a": {"b": 1}}


def test_subclasses_become_the_plain_kind() -> None:
    assert type(told(Shade("blue"))) is str
    assert type(told(TaskStatus.FAILED)) is str
    assert told(TaskStatus.FAILED) == "failed"
    assert (told(Level.HIGH), type(told(Level.HIGH))) == (3, int)
    assert type(next(iter(told({Shade("k"): 1})))) is str


def test_dataclasses_and_models_become_their_dict() -> None:
    assert told(Point(1, ["a"])) == {"x": 1, "tags": ["a"]}
    assert told(Page(title="t", points=[Point(1)])) == {
        "title": "t",
        "points": [{"x": 1, "tags": []}],
    }
    assert told(Half(1)) == {"x": 1, "y": None}
    assert told([Point(1)])[0]["x"] == 1


def test_langchain_messages_and_documents_become_their_dict() -> None:
    assert told(HumanMessage("hello"))["content"] == "hello"
    answer = told([AIMessage("hi", tool_calls=[{"name": "f", "args": {"x": 1}, "id": "1"}])])[0]
    assert (answer["type"], answer["tool_calls"][0]["args"]) == ("ai", {"x": 1})
    assert told(Document("text", metadata={"page": 3}))["metadata"] == {"page": 3}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({1}, "set"),
        (b"raw", "bytes"),
        (1 + 2j, "complex"),
        (math.nan, "float"),
        (math.inf, "float"),
        (Colour.RED, "Colour"),
        (Point, "type"),
        (BaseModel, "ModelMetaclass"),
        (BrokenModel(), "BrokenModel"),
        (OddModel(), "OddModel"),
        ({1: "a"}, "dict"),
        (ValueError("no"), "ValueError"),
        (iter(()), "tuple_iterator"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_hold_is_its_repr_and_type(value: object, kind: str) -> None:
    assert told(value) == {"repr": repr(value), "type": kind}


def test_what_cannot_be_shown_is_shown_as_any_object() -> None:
    shown = told(Unreadable())
    assert shown["type"] == "Unreadable"
    assert "Unreadable object at" in shown["repr"]


def test_a_cycle_ends() -> None:
    cycle: list[Any] = [1]
    cycle.append(cycle)
    plain = told(cycle)
    assert plain[0] == 1
    mapping: dict[str, Any] = {}
    mapping["again"] = mapping
    told(mapping)


def test_what_is_nested_too_deep_ends_in_its_repr() -> None:
    deep: Any = "bottom"
    for _ in range(500):
        deep = [deep]
    plain, levels = told(deep), 0
    while isinstance(plain, list):
        plain, levels = plain[0], levels + 1
    assert plain["type"] == "list"
    assert 20 < levels < 500


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary(max_size=4)
    | st.complex_numbers()
    | st.builds(Point, st.integers(), st.lists(st.text(max_size=3), max_size=2))
    | st.sampled_from([OddModel(), BrokenModel(), Level.HIGH, Colour.RED, TaskStatus.FAILED]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(ANYTHING)
def test_any_value_is_valid_json(value: object) -> None:
    told(value)


class Friends(list[Any]):
    """A list that counts how often any of them is read."""

    reads = 0

    def __iter__(self) -> Iterator[Any]:
        Friends.reads += 1
        if Friends.reads > 1000:
            raise AssertionError("no end of it")
        return super().__iter__()


@dataclass
class Person:
    name: str
    friends: Friends = field(default_factory=Friends, repr=False)


def test_those_who_list_each_other_are_told_in_a_few_steps() -> None:
    people = [Person(name) for name in "abc"]
    for person in people:
        person.friends.extend(other for other in people if other is not person)
    plain = told(people[0])
    assert Friends.reads == 5
    assert [friend["name"] for friend in plain["friends"]] == ["b", "c"]
    assert plain["friends"][0]["friends"][0] == {"repr": "Person(name='a')", "type": "Person"}
