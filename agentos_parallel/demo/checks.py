"""What a reviewer can look for: each check takes a source and yields remarks with their line.

They judge by syntax alone, with `ast` and `tokenize`; nothing is imported or run.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from typing import TypeAlias

from agentos_parallel.demo.source import Source

Remark: TypeAlias = tuple[int, str]
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

MAX_LINES = 50
MAX_DEPTH = 4

_MARK = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
_LOOPS = ast.For | ast.AsyncFor | ast.While
_BLOCKS = _LOOPS | ast.If | ast.With | ast.AsyncWith | ast.Try | ast.TryStar | ast.Match
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)


def parse_errors(source: Source) -> Iterator[Remark]:
    """Report a file that Python can't read or parse."""
    if source.problem:
        line, reason = source.problem
        yield line, f"the file does not parse ({reason})"


def missing_docstrings(source: Source) -> Iterator[Remark]:
    """Report public modules, classes, functions and methods without a docstring.

    Overloads, overrides and setters are left out: what they are for is written elsewhere.
    """
    if any(re.match(r"_(?!_)", part) for part in source.name.split("/")):
        return
    if source.tree.body and not ast.get_docstring(source.tree):
        yield 1, "the module has no docstring"

    yield from _undocumented(source.tree, "")


def _undocumented(parent: ast.Module | ast.ClassDef, prefix: str) -> Iterator[Remark]:
    for node in parent.body:
        if not isinstance(node, _SCOPES) or node.name.startswith("_") or _is_told_elsewhere(node):
            continue
        if not ast.get_docstring(node):
            yield node.lineno, f"{prefix}{node.name} has no docstring"
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(node, f"{prefix}{node.name}.")


def _is_told_elsewhere(node: Function | ast.ClassDef) -> bool:
    decorators = {ast.unparse(decorator).split(".")[-1] for decorator in node.decorator_list}
    return bool(decorators & {"overload", "override", "setter", "deleter"})


def long_functions(source: Source) -> Iterator[Remark]:
    """Report functions of more than `MAX_LINES` lines, their docstring not counted."""
    for function in _functions(source.tree):
        lines = _span(function) - (_span(function.body[0]) if ast.get_docstring(function) else 0)
        if lines > MAX_LINES:
            yield function.lineno, f"{function.name} has {lines} lines (limit {MAX_LINES})"


def deep_nesting(source: Source) -> Iterator[Remark]:
    """Report functions with more than `MAX_DEPTH` blocks inside one another."""
    for function in _functions(source.tree):
        depth = _depth(function)
        if depth > MAX_DEPTH:
            yield function.lineno, f"{function.name} nests {depth} blocks deep (limit {MAX_DEPTH})"


def _depth(function: Function) -> int:
    deepest, todo = 0, [(child, 0) for child in ast.iter_child_nodes(function)]
    while todo:
        node, depth = todo.pop()
        if isinstance(node, _SCOPES):
            continue
        depth += isinstance(node, _BLOCKS)
        deepest = max(deepest, depth)
        # An elif is an if in an else of its own, but reads as no deeper than the first.
        todo += [(child, depth - _is_elif(node, child)) for child in ast.iter_child_nodes(node)]

    return deepest


def _is_elif(node: ast.AST, child: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]


def broad_excepts(source: Source) -> Iterator[Remark]:
    """Report handlers that catch everything and raise nothing."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and not _raises(node):
            caught = _broad_name(node.type)
            if caught:
                yield node.lineno, f"{caught} swallows every error"


def _broad_name(caught: ast.expr | None) -> str | None:
    if caught is None:
        return "a bare except"
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    broad = {ast.unparse(name) for name in names} & {"Exception", "BaseException"}

    return f"except {min(broad)}" if broad else None


def _raises(handler: ast.ExceptHandler) -> bool:
    return any(isinstance(node, ast.Raise) for node in ast.walk(handler))


def mutable_defaults(source: Source) -> Iterator[Remark]:
    """Report default arguments that all calls share and may change."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for default in (*node.args.defaults, *node.args.kw_defaults):
                if default is not None and _is_mutable(default):
                    yield default.lineno, f"the default {ast.unparse(default):.40} is mutable"


def _is_mutable(default: ast.expr) -> bool:
    if isinstance(default, ast.Call):
        return ast.unparse(default.func) in {"list", "dict", "set"}

    return isinstance(default, _MUTABLE)


def open_marks(source: Source) -> Iterator[Remark]:
    """Report comments with TODO, FIXME, XXX or HACK in them."""
    if not _MARK.search(source.text):
        return  # most files: spares them the slow tokenizer

    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT and _MARK.search(token.string):
            yield token.start[0], token.string.lstrip("# ")[:60]


def _functions(tree: ast.Module) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _span(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1
