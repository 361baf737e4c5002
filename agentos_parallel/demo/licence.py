"""Four ways to find out which licence a tree is under, fit for a race: any first answer will do.

Each is an async function of the question's text that raises `LookupError` where its way leads
nowhere. Three read a file or two and are quick; the fourth reads them all and gives way after each,
so that it can be cancelled.
"""

import asyncio
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from agentos_parallel.demo.source import sources

_HEADER = re.compile(
    r"SPDX-License-Identifier: *(?P<id>\S+)|^# *Licensed under (the )?(?P<name>[\w ,.-]+)", re.M
)
_HEADER_CHARS = 2_000
_NAMES = ("LICENSE*", "LICENCE*", "COPYING*")
_SHARED = {"site-packages", "dist-packages"}  # what lies there belongs to everybody


async def in_metadata(root: Path, question: str) -> str:
    """Ask the metadata of the installed distribution that the tree is, if it is one."""
    try:
        distribution = metadata.distribution(root.name.replace("_", "-"))
    except metadata.PackageNotFoundError as error:
        raise LookupError(f"no distribution named {root.name} is installed") from error
    if not _holds(distribution, root):
        raise LookupError(f"{root.name} is installed, but from another folder")

    fields: Any = distribution.metadata
    licence = fields.get("License-Expression") or fields.get("License")
    return _found(licence, f"in the metadata of {fields['Name']} {fields['Version']}")


async def in_pyproject(root: Path, question: str) -> str:
    """Read the nearest `pyproject.toml`, in the tree's folder or up to two above it."""
    for folder in _around(root):
        file = folder / "pyproject.toml"
        if file.is_file():
            stated = tomllib.loads(file.read_text("utf-8")).get("project", {}).get("license")
            licence = stated.get("text") if isinstance(stated, dict) else stated
            return _found(licence, "in pyproject.toml")

    raise LookupError("no pyproject.toml in the tree's folder or above it")


async def in_file(root: Path, question: str) -> str:
    """Read the title of the nearest licence file, in the tree's folder or up to two above it."""
    for folder in _around(root):
        for file in sorted(path for name in _NAMES for path in folder.glob(name) if path.is_file()):
            title = file.read_text("utf-8", errors="replace").strip().split("\n")[0]
            return _found(title.strip(), f"on top of {file.name}")

    raise LookupError("no licence file in the tree's folder or above it")


async def in_headers(root: Path, question: str) -> str:
    """Search the comments on top of every file."""
    for source in sources(root):
        match = _HEADER.search(source.text[:_HEADER_CHARS])
        if match:
            return _found(match["id"] or match["name"].strip(), f"in the header of {source.name}")
        await asyncio.sleep(0)

    raise LookupError("no file's header names a licence")


def _holds(distribution: metadata.Distribution, root: Path) -> bool:
    return Path(str(distribution.locate_file(root.name))).resolve() == root


def _around(root: Path) -> Iterator[Path]:
    for folder in (root, *root.parents[:2]):
        if folder.name in _SHARED:
            return
        yield folder


def _found(licence: str | None, where: str) -> str:
    if not licence:
        raise LookupError(f"no licence named {where}")

    return f"{licence} ({where})"
