"""The checks that every argument passes, and the sentences that a refused one gets."""

from __future__ import annotations

import math
import numbers


def whole_number(name: str, value: object, least: int = 1) -> int:
    """Check that *value* is a whole number, *least* or more.

    >>> whole_number("max_concurrent", 0)
    Traceback (most recent call last):
    ValueError: max_concurrent must be >= 1, got 0
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number >= {least}, got {shown(value)}")
    if value < least:
        raise ValueError(f"{name} must be >= {least}, got {value}")
    return int(value)


def seconds(name: str, value: object, *, zero: bool = False, none: str = "") -> float:
    """Check that *value* is a number of seconds, above 0 (or 0 too, if *zero*); infinity may be.

    *none* says how to ask for no limit, for the message.
    """
    rule = f"must be a number of seconds {'>=' if zero else '>'} 0{none}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} {rule}, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.nan  # a whole number that no float can hold: no number of seconds
    if math.isnan(number) or number < 0 or (number == 0 and not zero):
        raise ValueError(f"{name} {rule}, got {shown(value)}")
    return number


def text(name: str, value: object) -> str:
    """Check that *value* is a text that says something."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, got {shown(value)}")
    if not value.strip():
        raise ValueError(f"{name} must say something, got {shown(value)}")
    return value


def flag(name: str, value: object) -> bool:
    """Check that *value* is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return value


def seconds_text(value: float) -> str:
    """A span of *value* seconds, for a reader.

    >>> seconds_text(0.00042), seconds_text(1.5), seconds_text(3600)
    ('0.42 ms', '1.5 s', '3600 s')
    """
    if 0 < value < 0.001:
        return f"{value * 1000:.3g} ms"
    return f"{value:.0f} s" if value >= 100 else f"{value:.3g} s"


def shown(value: object) -> str:
    """A value for an error message: short, with its type unless that is plain to see."""
    if value is None or isinstance(value, bool | int | float | str):
        try:
            text = repr(value)
        except ValueError:  # Python writes no whole number of more than 4,300 digits
            return "a number of too many digits"
        return text if len(text) <= 60 else f"{text[:59]}…"
    return f"a {type(value).__name__}"
