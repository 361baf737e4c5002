"""Each check, on the smallest source that shows what it reports and what it lets pass."""

import ast
from textwrap import dedent

import pytest

from agentos_parallel.demo import checks
from agentos_parallel.demo.source import Source


def source(text: str, name: str = "a.py") -> Source:
    text = dedent(text)
    return Source(name, text, ast.parse(text))


def function(lines: int, docstring: str = "") -> str:
    return "\n".join(
        ["def work():", *([f"    '''{docstring}'''"] if docstring else []), "    x = 1"]
    ) + ("\n    x = 1" * (lines - 2))


def test_parse_errors() -> None:
    assert list(checks.parse_errors(source("x = 1"))) == []
    assert list(checks.parse_errors(Source("a.py", problem=(3, "invalid syntax")))) == [
        (3, "the file does not parse (invalid syntax)")
    ]


PUBLIC = '''
class Shelf:
    def put(self): ...
    def _hide(self): ...
    @property
    def size(self):
        """How many there are."""
    @size.setter
    def size(self, size): ...
    @typing.override
    def clear(self): ...

async def fetch(): ...
def _private():
    def inner(): ...
class _Private:
    def method(self): ...
@overload
def load(x: int): ...
'''


def test_missing_docstrings_of_public_names() -> None:
    assert list(checks.missing_docstrings(source(PUBLIC))) == [
        (1, "the module has no docstring"),
        (2, "Shelf has no docstring"),
        (3, "Shelf.put has no docstring"),
        (13, "fetch has no docstring"),
    ]


@pytest.mark.parametrize(
    ("name", "count"),
    [("_private.py", 0), ("_folder/a.py", 0), ("__main__.py", 2), ("a/__init__.py", 2)],
)
def test_missing_docstrings_spare_private_modules(name: str, count: int) -> None:
    assert len(list(checks.missing_docstrings(source("def f(): ...", name)))) == count


def test_an_empty_module_needs_no_docstring() -> None:
    assert list(checks.missing_docstrings(source(""))) == []


def test_long_functions_are_counted_without_their_docstring() -> None:
    doc = "a\n" * 30

    assert list(checks.long_functions(source(function(50)))) == []
    assert list(checks.long_functions(source(function(50, doc)))) == []
    assert list(checks.long_functions(source(function(51)))) == [
        (1, "work has 51 lines (limit 50)")
    ]
    assert list(checks.long_functions(source(function(51, doc)))) == [
        (1, "work has 51 lines (limit 50)")
    ]


NESTED = """
async def deep():
    for x in y:
        with x:
            try:
                pass
            except OSError:
                match x:
                    case 1:
                        while x:
                            pass

def flat():
    if 1:
        pass
    elif 2:
        pass
    elif 3:
        pass
    elif 4:
        pass
    else:
        if 5:
            if 6:
                pass
    def inner():
        if 1:
            pass
"""


def test_deep_nesting() -> None:
    assert list(checks.deep_nesting(source(NESTED))) == [(2, "deep nests 5 blocks deep (limit 4)")]


HANDLERS = """
try: ...
except: ...
try: ...
except (OSError, Exception): ...
try: ...
except BaseException as e: log(e)
try: ...
except Exception: raise
try: ...
except ValueError: ...
"""


def test_broad_excepts_that_raise_nothing() -> None:
    assert list(checks.broad_excepts(source(HANDLERS))) == [
        (3, "a bare except swallows every error"),
        (5, "except Exception swallows every error"),
        (7, "except BaseException swallows every error"),
    ]


DEFAULTS = """
def f(a, b=[], *, c={}, d=None, e=()): ...
g = lambda x=set(): x
async def h(x=[n for n in ()], y=frozenset()): ...
"""


def test_mutable_defaults() -> None:
    assert sorted(checks.mutable_defaults(source(DEFAULTS))) == [
        (2, "the default [] is mutable"),
        (2, "the default {} is mutable"),
        (3, "the default set() is mutable"),
        (4, "the default [n for n in ()] is mutable"),
    ]


def test_open_marks_are_found_in_comments_alone() -> None:
    text = "x = 'TODO'  # fine\n# TODO: write it\ny = 1  # now FIXME\n# TODOS and a HACKER\n"

    assert list(checks.open_marks(source(text))) == [(2, "TODO: write it"), (3, "now FIXME")]
    assert list(checks.open_marks(source("x = 1  # done"))) == []
