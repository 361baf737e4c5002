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

MAX_DEPTH = 64
"""Levels of nesting kept; deeper values (and cycles) become their repr."""


def to_jsonable(value: object, depth: int = 0) -> Any:
    """Give *value* in plain JSON values.

    >>> to_jsonable({"pair": (1, 2), "odd": {3}})
    {'pair': [1, 2], 'odd': {'repr': '{3}', 'type': 'set'}}
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _shown(value)
    if depth >= MAX_DEPTH:
        return _shown(value)
    return _container(value, depth + 1)


def _container(value: object, depth: int) -> Any:
    if isinstance(value, list | tuple):
        return [to_jsonable(item, depth) for item in value]
    if isinstance(value, Mapping):
        return _mapping(value, depth)
    fields = _fields(value)
    return _shown(value) if fields is None else _mapping(fields, depth)


def _mapping(value: Mapping[Any, Any], depth: int) -> Any:
    if not all(isinstance(key, str) for key in value):
        return _shown(value)
    return {str.__str__(key): to_jsonable(item, depth) for key, item in value.items()}


def _fields(value: object) -> Mapping[Any, Any] | None:
    """The dict of a pydantic model (LangChain messages are some) or dataclass, else None."""
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
    dump = getattr(value, "model_dump", None)
    if not callable(dump):
        return None
    try:
        dumped = dump()
    except Exception:  # the value's own code: what can't be dumped is shown by its repr
        return None
    return dumped if isinstance(dumped, Mapping) else None


def _shown(value: object) -> dict[str, str]:
    try:
        text = repr(value)
    except Exception:  # the value's own code, RecursionError included
        text = object.__repr__(value)
    return {"repr": text, "type": type(value).__name__}
