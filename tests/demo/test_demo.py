"""The whole demo, as a command, on trees of a few files."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import agentos_parallel.demo
from agentos_parallel.demo import agents
from agentos_parallel.demo.__main__ import main
from agentos_parallel.demo.agents import SLOW
from agentos_parallel.testing import ScriptedChatModel

pytestmark = pytest.mark.realtime  # the reviewers are sync: they work in threads

FILES = {
    "LICENSE": "MIT License\n",
    "a.py": '"""A."""\n# TODO: more\n',
    "sub/b.py": '"""B."""\ntry: ...\nexcept: ...\n',
    "sub/c.py": "def f(x=[]): ...\n",
}


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("pages")))
    monkeypatch.setattr(agents, "SLOW_SECONDS", 0.8)
    monkeypatch.setattr(agents, "SLOW_TIMEOUT", 0.4)
    monkeypatch.setattr(agents, "RAISES_AFTER", 0.3)


def test_the_command_prints_contrast_report_table_and_timeline(
    tree: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tree(FILES))]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "project: 3 files, 6 lines"
    assert lines[3].startswith("- after ")
    assert " lost, " in lines[3]
    assert f"for {SLOW}, before it saw any answer" in lines[4]
    assert sum(line.startswith("fan_out ") for line in lines) == 4 + 9 + 7
    assert sum("█" in line for line in lines) >= 9 + 7
    page = Path(lines[-1].removeprefix("The call with the most tasks as a page: "))
    assert page.read_text(encoding="utf-8").count("<tr data-status=") >= 9


def test_another_model_can_be_put_in_charge(
    tree: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = {"mine:small": ScriptedChatModel(script=["I have looked at nothing."])}
    monkeypatch.setattr("agentos_parallel.demo.__main__.init_chat_model", models.__getitem__)

    main([str(tree(FILES)), "--model", "mine:small"])

    assert "\nI have looked at nothing.\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere"], "no Python files in nowhere"),
        (["--model", "nobody:nothing"], "--model nobody:nothing: "),
    ],
)
def test_a_wrong_argument_is_said_at_once(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)

    assert exit_.value.code == 2
    assert text in capsys.readouterr().err


def test_without_langchain_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langchain", None)

    with pytest.raises(ImportError, match=r"pip install 'agentos-parallel\[agents\]'"):
        importlib.reload(agentos_parallel.demo)
