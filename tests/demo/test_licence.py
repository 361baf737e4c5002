"""The four ways to the licence: each finds it where it is, and raises where it is not."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import langchain_core
import pytest

from agentos_parallel.demo import licence

INSTALLED = Path(langchain_core.__path__[0]).resolve()
QUESTION = "Which licence?"


async def test_the_metadata_of_an_installed_distribution() -> None:
    answer = await licence.in_metadata(INSTALLED, QUESTION)

    assert answer.startswith("MIT (in the metadata of langchain-core ")


async def test_metadata_of_another_folder_with_that_name_does_not_count(
    tree: Callable[..., Path],
) -> None:
    root = tree({"langchain_core/a.py": ""}) / "langchain_core"

    with pytest.raises(LookupError, match="installed, but from another folder"):
        await licence.in_metadata(root, QUESTION)


@pytest.mark.parametrize("stated", ['"MIT"', '{text = "MIT"}'])
async def test_the_nearest_pyproject(tree: Callable[..., Path], stated: str) -> None:
    root = tree({"pyproject.toml": f"[project]\nlicense = {stated}\n", "src/package/a.py": ""})

    assert await licence.in_pyproject(root / "src/package", QUESTION) == "MIT (in pyproject.toml)"


async def test_the_nearest_licence_file(tree: Callable[..., Path]) -> None:
    root = tree({"LICENSE.md": "\nMIT License\n\nPermission ...", "package/a.py": ""})

    assert await licence.in_file(root / "package", QUESTION) == "MIT License (on top of LICENSE.md)"


async def test_what_lies_in_site_packages_belongs_to_everybody(tree: Callable[..., Path]) -> None:
    root = tree({"site-packages/LICENSE": "GPL", "site-packages/package/a.py": ""})

    with pytest.raises(LookupError, match="no licence file"):
        await licence.in_file(root / "site-packages/package", QUESTION)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("# SPDX-License-Identifier: MIT\n", "MIT"),
        (
            '# Licensed under the Apache License, Version 2.0 (the "License");',
            "Apache License, Version 2.0",
        ),
    ],
)
async def test_the_header_of_a_file(tree: Callable[..., Path], header: str, name: str) -> None:
    root = tree({"a.py": "x = 1\n", "b.py": f"#!/usr/bin/env python\n{header}"})

    assert await licence.in_headers(root, QUESTION) == f"{name} (in the header of b.py)"


@pytest.mark.parametrize(
    "way", [licence.in_metadata, licence.in_pyproject, licence.in_file, licence.in_headers]
)
async def test_a_way_that_leads_nowhere_raises(
    tree: Callable[..., Path], way: Callable[[Path, str], Awaitable[str]]
) -> None:
    root = tree({"pyproject.toml": "[project]\n", "LICENSE": "", "a.py": ""})

    with pytest.raises(LookupError):
        await way(root, QUESTION)
