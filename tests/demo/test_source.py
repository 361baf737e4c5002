"""The tree under review: which files belong to it, and what happens to those that do not parse."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agentos_parallel.demo.source import folder_in, part_of, parts, python_files, sources


def test_files_come_by_name_without_hidden_folders_and_virtualenvs(
    tree: Callable[..., Path],
) -> None:
    root = tree(
        dict.fromkeys(
            [
                *("b.py", "a/z.py", "a/note.txt", ".git/x.py", "a/__pycache__/x.py"),
                *("env/pyvenv.cfg", "env/lib/x.py", "node_modules/x.py"),
            ],
            "",
        )
    )

    assert [path.relative_to(root).as_posix() for path in python_files(root)] == ["a/z.py", "b.py"]
    assert [source.name for source in sources(root)] == ["a/z.py", "b.py"]
    assert [source.name for source in sources(root, root / "a")] == ["a/z.py"]


def test_a_file_is_parsed_again_once_it_has_changed(tree: Callable[..., Path]) -> None:
    root = tree({"a.py": "one = 1\n"})
    [first], [again] = sources(root), sources(root)
    tree({"a.py": "one, two = 1, 2\n"})
    [changed] = sources(root)

    assert first.tree is again.tree
    assert changed.text == "one, two = 1, 2\n"


def test_a_declared_encoding_is_minded(tree: Callable[..., Path]) -> None:
    root = tree({"a.py": ""})
    (root / "a.py").write_bytes(b"# coding: latin-1\nname = '\xe9'\n")

    [source] = sources(root)

    assert source.problem is None
    assert "é" in source.text


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b"good = 1\ndef broken(:\n", 2, "invalid syntax"),
        (b"name = '\xff'\n", 1, "encoding"),
        (b"# coding: klingon\n", 1, "klingon"),
        (b"a = 1\0\n", 1, "null bytes"),
        (b"(" * 10_000, 1, ""),
    ],
)
def test_a_file_that_does_not_parse_is_a_source_with_a_problem(
    tree: Callable[..., Path], content: bytes, line: int, reason: str
) -> None:
    root = tree({"a.py": "", "b.py": "fine = True"})
    (root / "a.py").write_bytes(content)

    broken, fine = sources(root)

    assert broken.problem is not None
    assert broken.problem[0] == line
    assert reason in broken.problem[1]
    assert (broken.text, broken.tree.body) == ("", [])
    assert fine.problem is None


def test_a_file_that_cannot_be_read_is_one_too(tree: Callable[..., Path]) -> None:
    root = tree({"a.py": ""})
    os.symlink(root / "nowhere", root / "gone.py")

    assert [source.problem for source in sources(root)] == [None, (1, "No such file or directory")]


@pytest.mark.parametrize(
    ("task", "folder"),
    [
        (".", "."),
        ("sub", "sub"),
        (" `sub/deep` ", "sub/deep"),
        ("two words", "two words"),
        ("project", "."),
        ("project/sub", "sub"),
        ("Please review sub/deep, all of it.", "sub/deep"),
        ("Please review sub.", "sub"),
    ],
)
def test_a_task_names_a_folder(tree: Callable[..., Path], task: str, folder: str) -> None:
    root = tree({"sub/deep/a.py": "", "two words/b.py": ""})

    assert folder_in(root, task) == (root / folder).resolve()


@pytest.mark.parametrize("task", ["", " , ", "elsewhere", "..", "/", "a.py"])
def test_a_task_without_a_folder_of_the_tree_is_refused(
    tree: Callable[..., Path], task: str
) -> None:
    root = tree({"a.py": ""})

    with pytest.raises(ValueError, match="no folder of the tree in"):
        folder_in(root, task)


def test_parts_are_the_folders_below_the_root(tree: Callable[..., Path]) -> None:
    root = tree(dict.fromkeys(["a.py", "sub/b.py", "sub/deep/c.py", "docs/index.md"], ""))

    assert parts(root) == {".": 1, "sub": 2}
    assert [part_of(name) for name in ("a.py", "sub/deep/c.py")] == [".", "sub"]
    assert parts(Path(root, "docs")) == {}
