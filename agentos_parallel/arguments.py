"""Calls that are refused: their coroutines are closed, unknown keywords answered in our words.

Every entry point stands behind ``strict_call``, for Python refuses a call that does not fit before
a body could see the works. A ``**kwargs`` in each signature was refused: it would hide unknown
keywords from type checkers.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, ValuesView
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")


_NAME_CHARS = 40
_MANY = (list, tuple, set, frozenset, deque, ValuesView)


def discard(*values: object, depth: int = 4) -> None:
    """Close every coroutine in *values* that never ran, in the lists and mappings among them too.

    A Task or Future is cancelled: nobody will await it any more. *depth*: levels looked into.
    """
    for value in values:
        if inspect.iscoroutine(value):
            if inspect.getcoroutinestate(value) == inspect.CORO_CREATED:
                value.close()
        elif isinstance(value, Coroutine):  # of another kind, such as a compiled one
            value.close()
        elif asyncio.isfuture(value):
            value.cancel()
        elif isinstance(value, _MANY) and depth:
            discard(*value, depth=depth - 1)
        elif isinstance(value, Mapping) and depth:
            discard(*value.values(), depth=depth - 1)


@contextmanager
def discarding(*values: object) -> Iterator[None]:
    """On any exception close the coroutines in *values*: the call that was given them refuses."""
    try:
        yield
    except BaseException:
        discard(*values)
        raise


def strict_call(
    function: Callable[P, R], options: Mapping[str, inspect.Parameter] = MappingProxyType({})
) -> Callable[P, R]:
    """Answer arguments that *function* can't take in our words, and close their coroutines.

    Args:
        function: sync or async.
        options: the keywords that its ``**options`` stands for.

    Returns:
        The function, of the same kind, with these keywords in its signature.
    """
    signature = _public_signature(function, options)
    allowed = [
        name
        for name, parameter in signature.parameters.items()
        if name != "self" and parameter.kind is not inspect.Parameter.VAR_POSITIONAL
    ]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            unknown = [name for name in kwargs if name not in allowed]
            if unknown:
                raise TypeError(unknown_keywords(function.__qualname__, unknown, allowed))
            return function(*args, **kwargs)
        except TypeError:
            discard(args, kwargs)
            raise

    @functools.wraps(function)
    async def acall(*args: P.args, **kwargs: P.kwargs) -> Any:
        # The call binds the arguments, and runs nothing yet.
        return await cast("Coroutine[Any, Any, Any]", call(*args, **kwargs))

    public: Any = acall if inspect.iscoroutinefunction(function) else call
    public.__signature__ = signature
    return cast("Callable[P, R]", public)


def _public_signature(
    function: Callable[..., Any], options: Mapping[str, inspect.Parameter]
) -> inspect.Signature:
    """The signature with ``**options`` spelled out."""
    signature = inspect.signature(function)
    if not options:
        return signature
    named = list(signature.parameters.values())[:-1]
    return signature.replace(parameters=[*named, *options.values()])


def unknown_keywords(where: str, unknown: Iterable[str], allowed: Iterable[str]) -> str:
    """The sentence for keywords that *where* does not know."""
    names = list(unknown)
    given = ", ".join(f"{name[:_NAME_CHARS]}=" for name in names)
    text = f"{where.removesuffix('.__init__')} does not know {given}"
    if "max_concurrency" in names:
        return f"{text}: the limit is called max_concurrent="
    return f"{text}: it knows {', '.join(allowed)}"
