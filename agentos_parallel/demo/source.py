"""The tree under review: which files it has, and each of them read and parsed once."""

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import decode_source
from pathlib import Path

_SKIPPED = {"__pycache__", "node_modules"}


@dataclass(frozen=True)
class Source:
    """One Python file.

    Attributes:
        name: Its path below the root of the tree, with slashes.
        text: What is in it; empty where it cannot be read.
        tree: Its syntax tree; empty where it does not parse, so that other checks stay silent.
        problem: Where and why it does not parse, else None.
    """

    name: str
    text: str = ""
    tree: ast.Module = field(default_factory=lambda: ast.Module([], []), repr=False)
    problem: tuple[int, str] | None = None


def sources(root: Path, folder: Path | None = None) -> Iterator[Source]:
    """Yield the Python files of *folder* (default: of *root*, which must contain it), by name.

    A file is parsed once, until it changes; the trees are shared and must not be written to.
    """
    for path in python_files(folder or root):
        name = path.relative_to(root).as_posix()
        try:
            stat = path.stat()
            text, tree = _parsed(path, stat.st_mtime_ns, stat.st_size)
        except (SyntaxError, ValueError, OSError, RecursionError, MemoryError) as error:
            yield Source(name, problem=_problem(error))
        else:
            yield Source(name, text, tree)


def python_files(folder: Path) -> list[Path]:
    """List the `.py` files in *folder* and below, leaving out hidden folders and virtualenvs."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if _is_own(Path(parent, name))]
        found += [Path(parent, name) for name in files if name.endswith(".py")]

    return sorted(found)


def folder_in(root: Path, task: str) -> Path:
    """Find the folder of the tree that *task* names, as its whole text or as one of its words.

    Args:
        root: The tree under review, an absolute path without links.
        task: What a model wrote: `runnables`, `.` for the whole tree, or a sentence with a path.

    Raises:
        ValueError: When no word of *task* is a folder of the tree.
    """
    for text in (task, *task.split()):
        word = text.strip(" \n`'\",;:")
        word = word.rstrip(".") or word  # the end of a sentence, but not '.' itself
        for folder in ((root / word).resolve(), (root.parent / word).resolve()):
            if word and folder.is_dir() and folder.is_relative_to(root):
                return folder

    raise ValueError(f"no folder of the tree in {task!r:.80}: name one, or '.' for all of it")


def parts(root: Path) -> dict[str, int]:
    """Count the Python files of each folder directly below *root*, folders without any left out."""
    counts: dict[str, int] = {}
    for path in python_files(root):
        part = part_of(path.relative_to(root).as_posix())
        counts[part] = counts.get(part, 0) + 1

    return counts


def part_of(name: str) -> str:
    """Return the first folder in the file name *name*, `.` for a file in the root itself."""
    return name.split("/", maxsplit=1)[0] if "/" in name else "."


@lru_cache(maxsize=10_000)
def _parsed(path: Path, changed: int, size: int) -> tuple[str, ast.Module]:
    text = decode_source(path.read_bytes())  # minds the encoding that the file declares
    return text, ast.parse(text)


def _problem(error: Exception) -> tuple[int, str]:
    if isinstance(error, SyntaxError):
        return error.lineno or 1, error.msg
    if isinstance(error, OSError):
        return 1, error.strerror or type(error).__name__

    return 1, f"{type(error).__name__}: {error}"


def _is_own(folder: Path) -> bool:
    hidden = folder.name.startswith(".") or folder.name in _SKIPPED
    return not hidden and not (folder / "pyvenv.cfg").exists()
