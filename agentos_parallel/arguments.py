"""Calls that are refused: their coroutines are closed, unknown keywords answered in our words.

Every entry point stands behind ``entry_point``, for Python refuses a call that does not fit before
a body could see the works. It also gives the call its full signature: the shared keywords are
written once, in ``Options``.
"""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, ValuesView
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar, cast

from agentos_parallel.settings import Options, Settings

P = ParamSpec("P")
R = TypeVar("R")


_MANY = (list, tuple, set, frozenset, deque, ValuesView)


def discard(*values: object) -> None:
    """Close every coroutine in *values* that never ran, in the lists and mappings among them too.

    A Task or Future is cancelled: nobody will await it any more.
    """
    for value in values:
        if inspect.iscoroutine(value):
            if inspect.getcoroutinestate(value) == inspect.CORO_CREATED:
                value.close()
        elif isinstance(value, Coroutine):  # of another kind, such as a compiled one
            value.close()
        elif isinstance(value, _MANY):
            discard(*value)
        elif isinstance(value, Mapping):
            discard(*value.values())
        elif getattr(value, "_asyncio_future_blocking", None) is not None:  # as isfuture() looks
            cast("Any", value).cancel()


@contextmanager
def discarding(*values: object) -> Iterator[None]:
    """On any exception close the coroutines in *values*: the call that was given them refuses."""
    try:
        yield
    except BaseException:
        discard(*values)
        raise


def entry_point(function: Callable[P, R]) -> Callable[P, R]:
    """Answer arguments that *function* can't take in our words, and close their coroutines.

    Args:
        function: sync or async; ``**options`` stands for the keywords of ``Options``.

    Returns:
        The function, of the same kind, with these keywords in its signature.
    """
    signature = _public_signature(function)
    allowed = [name for name in signature.parameters if name != "self"]

    @contextmanager
    def refusing(args: Iterable[Any], kwargs: Mapping[str, Any]) -> Iterator[None]:
        try:
            unknown = [name for name in kwargs if name not in allowed]
            if unknown:
                raise TypeError(unknown_keywords(function.__qualname__, unknown, allowed))
            yield
        except TypeError:
            discard(args, kwargs)
            raise

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with refusing(args, kwargs):
            signature.bind(*args, **kwargs)
        return function(*args, **kwargs)

    @functools.wraps(function)
    async def acall(*args: P.args, **kwargs: P.kwargs) -> Any:
        with refusing(args, kwargs):
            called = function(*args, **kwargs)  # binds the arguments, and runs nothing yet
        return await cast("Coroutine[Any, Any, Any]", called)

    public: Any = acall if inspect.iscoroutinefunction(function) else call
    public.__signature__ = signature
    return cast("Callable[P, R]", public)


def _public_signature(function: Callable[..., Any]) -> inspect.Signature:
    """The signature with ``**options`` spelled out; on a method None stands for the executor's."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if parameters[-1].kind is not inspect.Parameter.VAR_KEYWORD:
        return signature
    of_method = parameters[0].name == "self" and function.__name__ != "__init__"
    keyword = inspect.Parameter.KEYWORD_ONLY
    spelled = [
        inspect.Parameter(
            name,
            keyword,
            default=None if of_method else Settings.__dataclass_fields__[name].default,
            annotation=annotation,
        )
        for name, annotation in Options.__annotations__.items()
    ]
    return signature.replace(parameters=parameters[:-1] + spelled)


def unknown_keywords(where: str, unknown: Iterable[str], allowed: Iterable[str]) -> str:
    """The sentence for keywords that *where* does not know."""
    names = list(unknown)
    given = ", ".join(f"{name}=" for name in names)
    text = f"{where.removesuffix('.__init__')} does not know {given}"
    if "max_concurrency" in names:
        return f"{text}: the limit is called max_concurrent="
    return f"{text}: it knows {', '.join(allowed)}"
