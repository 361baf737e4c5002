"""Reviews: the text that reviewers answer with, and how it is read, counted and merged."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agentos_parallel.demo.reviews import RULES, Finding, by_part, findings_in, rank, review

BY_NAME = {rule.name: rule for rule in RULES}
MARKED = "# TODO: one\n# FIXME: two\n"


def test_an_answer_has_a_headline_and_a_line_for_each_finding(tree: Callable[..., Path]) -> None:
    root = tree({"a.py": MARKED, "sub/b.py": "# TODO: three\n", "sub/c.py": ""})

    assert review(root, BY_NAME["marks"], ".") == (
        "3 findings in 2 of 3 files; most in . (2), sub (1)\n"
        "a.py:1: marks: TODO: one\n"
        "a.py:2: marks: FIXME: two\n"
        "sub/b.py:1: marks: TODO: three"
    )


def test_a_review_keeps_to_its_folder(tree: Callable[..., Path]) -> None:
    root = tree({"a.py": MARKED, "sub/b.py": "# TODO: three\n", "sub/c.py": ""})

    answer = review(root, BY_NAME["marks"], "Please look at sub.")

    assert answer.splitlines()[0] == "1 finding in 1 of 2 files; most in sub (1)"


def test_nothing_found_is_an_answer_too(tree: Callable[..., Path]) -> None:
    assert review(tree({"a.py": ""}), BY_NAME["marks"], ".") == "no findings in 1 file"


def test_a_folder_that_is_not_there_is_an_error(tree: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="no folder of the tree in 'elsewhere'"):
        review(tree({"a.py": ""}), BY_NAME["marks"], "elsewhere")


def test_a_file_that_does_not_parse_is_a_finding_of_one_reviewer_alone(
    tree: Callable[..., Path],
) -> None:
    root = tree({"a.py": "def broken(:  # TODO\n"})

    found = [finding for rule in RULES for finding in findings_in(review(root, rule, "."))]

    assert found == [Finding("a.py", 1, "syntax", "the file does not parse (invalid syntax)")]


def test_every_reviewer_finds_what_it_is_for(tree: Callable[..., Path]) -> None:
    body = (
        "    if 1:\n     if 1:\n      if 1:\n       if 1:\n        if 1: pass\n"
        + "    x = 1\n" * 50
    )
    root = tree(
        {
            "bad.py": "def (",
            "long.py": f"def work(items=[]):  # TODO\n{body}",
            "wide.py": "'''Doc.'''\ntry: ...\nexcept: ...\n",
        }
    )

    answers = {rule.name: findings_in(review(root, rule, ".")) for rule in RULES}

    assert {name: len(found) for name, found in answers.items()} == {
        "syntax": 1,
        "docstrings": 2,
        "long_functions": 1,
        "excepts": 1,
        "defaults": 1,
        "marks": 1,
        "nesting": 1,
    }


def test_findings_are_read_back_and_other_lines_passed_over() -> None:
    findings = [
        Finding("a: b.py", 12, "marks", "TODO: x:1: y"),
        Finding("sub/c.py", 3, "excepts", ""),
    ]
    text = "\n".join(
        ["2 findings in 2 of 3 files", *map(str, findings), "Yours: 2: all, the reviewer"]
    )

    assert findings_in(text) == findings


def test_parts_are_counted_most_first() -> None:
    findings = [
        Finding(file, 1, "marks", "") for file in ("b/x.py", "a/x.py", "c.py", "c/x.py", "c/y.py")
    ]

    assert by_part(findings) == [("c", 2), (".", 1), ("a", 1), ("b", 1)]


def test_rank_merges_the_reviews_into_one_list_of_files() -> None:
    marks = "3 findings\na.py:9: marks: x\na.py:4: marks: x\nb.py:1: marks: x"
    excepts = "1 findings\nb.py:7: excepts: x"

    assert rank([marks, excepts, "no findings in 2 files"]) == (
        "1. b.py: weight 6, excepts 1, marks 1; first in line 1\n"
        "2. a.py: weight 2, marks 2; first in line 4"
    )


def test_rank_of_nothing_says_so() -> None:
    assert rank(["no findings in 2 files"]) == "nothing to rank: no findings in 1 review"


def test_rank_takes_a_rule_it_does_not_know() -> None:
    assert rank(["a.py:9: invented: x"]) == "1. a.py: weight 1, invented 1; first in line 9"
