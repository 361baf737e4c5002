"""Any value as plain JSON values: dict, list, str, int, float, bool, None.

Guarantees that the answer passes ``json.dumps(..., allow_nan=False)`` and is never an error:
what JSON can't hold becomes its ``repr`` and type. Pydantic models, LangChain messages and
dataclasses become their dict. A ``default=`` hook of ``json.dumps`` was refused: it sees neither
keys nor NaN nor subclasses of ``str``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

# Python writes no ints much longer than this, nor reads them.
_LARGEST_INT = 10**4000

MAX_DEPTH = 64
"""Levels of nesting kept; deeper values, and those that hold themselves, become their repr."""


def to_jsonable(value: object, around: tuple[int, ...] = ()) -> Any:
    """Give *value* in plain JSON values; *around* are the ids of the values that it stands in.

    >>> to_jsonable({"pair": (1, 2), "odd": {3}})
    {'pair': [1, 2], 'odd': {'repr': '{3}', 'type': 'set'}}
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int | float):
        return _number(value)
    if len(around) >= MAX_DEPTH or id(value) in around:
        return shown_value(value)
    try:
        return _container(value, (*around, id(value)))
    except Exception:  # the value's own code, which may do anything
        return shown_value(value)


def plain_text(text: str) -> str:
    """*text* as UTF-8 can hold it: half a surrogate pair is spelled out."""
    return str.encode(text, "utf-8", "backslashreplace").decode("utf-8")


def shown_value(value: object) -> dict[str, str]:
    """What stands for a value that JSON can't hold: its repr and its type."""
    try:
        text = repr(value)
    except Exception:  # the value's own code; also an int too long to be written
        text = object.__repr__(value)
    return {"repr": text, "type": type(value).__name__}


def _number(value: float) -> Any:
    if isinstance(value, int):
        return int(value) if abs(value) < _LARGEST_INT else shown_value(value)
    return float(value) if math.isfinite(value) else shown_value(value)


def _container(value: object, around: tuple[int, ...]) -> Any:
    if isinstance(value, list | tuple):
        return [to_jsonable(item, around) for item in value]
    if isinstance(value, Mapping):
        return _mapping(value, around)
    fields = _fields(value)
    return shown_value(value) if fields is None else _mapping(fields, around)


def _mapping(value: Mapping[Any, Any], around: tuple[int, ...]) -> Any:
    if not all(isinstance(key, str) for key in value):
        return shown_value(value)
    return {plain_text(key): to_jsonable(item, around) for key, item in value.items()}


def _fields(value: object) -> Mapping[Any, Any] | None:
    """The dict of a pydantic model (LangChain messages are some) or dataclass, else None."""
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
    dump = getattr(value, "model_dump", None)
    dumped = dump() if callable(dump) else None
    return dumped if isinstance(dumped, Mapping) else None
