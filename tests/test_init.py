"""The front door: public names, sorted and true; a light import."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import agentos_parallel

HEAVY = ("langchain", "langgraph", "langsmith", "pydantic", "tenacity", "deepagents", "tqdm")


def test_all_is_sorted() -> None:
    assert agentos_parallel.__all__ == sorted(agentos_parallel.__all__)
    assert len(set(agentos_parallel.__all__)) == len(agentos_parallel.__all__)


def test_every_name_in_all_is_there() -> None:
    for name in agentos_parallel.__all__:
        assert getattr(agentos_parallel, name) is not None


def test_every_name_that_the_module_imports_is_in_all() -> None:
    tree = ast.parse(Path(agentos_parallel.__file__).read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agentos_parallel")
        for alias in node.names
    }
    assert imported <= set(agentos_parallel.__all__)


def test_the_promised_names_are_public() -> None:
    promised = {
        "TaskStatus", "TaskResult", "GatherResult", "TaskThrottler", "ParallelExecutor",
        "parallel_gather", "parallel_map", "parallel_stream", "fan_out", "FanOutConfig",
        "FanOutExecutor", "FanOutResult", "create_parallel_agent_gather", "remaining",
        "ParallelError", "DeadlineExceeded", "TaskTimeout", "FanOutError", "SourceError",
        "RestoredError", "PartialResultWarning",
    }  # fmt: skip
    assert promised <= set(agentos_parallel.__all__)


def in_a_fresh_process(script: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split()


def test_the_import_alone_loads_nothing_heavy() -> None:
    modules = in_a_fresh_process(
        "import sys; before = set(sys.modules); import agentos_parallel; "
        "print(*(set(sys.modules) - before))"
    )
    assert "agentos_parallel" in modules
    assert [name for name in modules if name.startswith(HEAVY)] == []


def test_a_run_loads_nothing_heavy() -> None:
    modules = in_a_fresh_process(
        "import asyncio, sys; from agentos_parallel import parallel_map, fan_out; "
        "asyncio.run(parallel_map(asyncio.sleep, [0, 'not a number'])); "
        "asyncio.run(fan_out([lambda: 1], aggregation='first')); "
        "print(*sys.modules)"
    )
    assert [name for name in modules if name.startswith(HEAVY)] == []


def test_a_star_import_gives_the_public_names() -> None:
    names = in_a_fresh_process(
        "from agentos_parallel import *; "
        "print(*(name for name in dir() if not name.startswith('__')))"
    )
    assert sorted(names) == agentos_parallel.__all__


def test_the_package_is_typed_and_installed_by_its_name() -> None:
    assert (Path(agentos_parallel.__file__).parent / "py.typed").exists()
    assert importlib.metadata.metadata("agentos-parallel")["Requires-Python"] == ">=3.11"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'parallel_grep'"):
        agentos_parallel.parallel_grep  # noqa: B018
    assert not hasattr(agentos_parallel, "__wrapped__")


def test_an_adapter_is_loaded_when_it_is_asked_for() -> None:
    [before, after] = in_a_fresh_process(
        "import sys, agentos_parallel; before = 'langchain_core' in sys.modules; "
        "agentos_parallel.SubAgent; print(before, 'langchain_core' in sys.modules)"
    )
    assert (before, after) == ("False", "True")


def test_dir_has_the_names_that_are_loaded_when_they_are_asked_for() -> None:
    assert {"ParallelToolkit", "ScriptedChatModel", "SubAgent"} <= set(dir(agentos_parallel))
    assert dir(agentos_parallel) == agentos_parallel.__all__
