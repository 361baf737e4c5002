"""Reviews as agents exchange them: text, one finding a line, that a model and a program can read.

3 findings in 2 of 187 files; most in runnables (2), tools (1)
runnables/base.py:120: long_functions: transform has 93 lines (limit 50)
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentos_parallel.demo import checks
from agentos_parallel.demo.source import Source, folder_in, part_of, sources

_LINE = re.compile(r"^(?P<file>.+?):(?P<line>\d+): (?P<rule>\w+): (?P<message>.*)$", re.MULTILINE)


@dataclass(frozen=True, order=True)
class Finding:
    """One remark on one line of one file; its text is `file:line: rule: message`."""

    file: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule}: {self.message}"


@dataclass(frozen=True)
class Rule:
    """What one reviewer looks for.

    Attributes:
        name: The reviewer's name, and the rule's in each finding.
        weight: What one finding counts when files are ranked.
        description: What the supervisor is told about the reviewer.
        check: Yields line and message for each remark on a source.
    """

    name: str
    weight: int
    description: str
    check: Callable[[Source], Iterator[checks.Remark]]


RULES = (
    Rule("syntax", 20, "Finds files that do not parse.", checks.parse_errors),
    Rule("docstrings", 1, "Finds public names without docstrings.", checks.missing_docstrings),
    Rule("long_functions", 3, "Finds functions that are too long.", checks.long_functions),
    Rule("excepts", 5, "Finds handlers that swallow every error.", checks.broad_excepts),
    Rule("defaults", 5, "Finds mutable default arguments.", checks.mutable_defaults),
    Rule("marks", 1, "Finds TODO, FIXME, XXX and HACK comments.", checks.open_marks),
    Rule("nesting", 3, "Finds functions that are nested too deeply.", checks.deep_nesting),
)
_WEIGHTS = {rule.name: rule.weight for rule in RULES}


def review(root: Path, rule: Rule, task: str) -> str:
    """Look for what *rule* looks for in the folder below *root* that *task* names.

    Raises:
        ValueError: When *task* names no folder of the tree.
    """
    files, findings = 0, list[Finding]()
    for source in sources(root, folder_in(root, task)):
        files += 1
        remarks = sorted(rule.check(source))
        findings += [Finding(source.name, line, rule.name, text) for line, text in remarks]

    return "\n".join([_headline(findings, files), *map(str, findings)])


def findings_in(text: str) -> list[Finding]:
    """Read the findings in *text*, in its order; other lines are passed over."""
    return [
        Finding(match["file"], int(match["line"]), match["rule"], match["message"])
        for match in _LINE.finditer(text)
    ]


def by_part(findings: Iterable[Finding]) -> list[tuple[str, int]]:
    """Count *findings* by the part of the tree they are in, most first, ties by name."""
    return _most_common(part_of(finding.file) for finding in findings)


def rank(answers: Sequence[object]) -> str:
    """Merge the *answers* of several reviewers into one list of files, the heaviest first.

    An answer without findings adds nothing. Where no answer has any, the text says so.
    """
    files: dict[str, list[Finding]] = {}
    for finding in findings_in("\n".join(map(str, answers))):
        files.setdefault(finding.file, []).append(finding)
    if not files:
        return f"nothing to rank: no findings in {counted(len(answers), 'review')}"

    ranked = sorted(files.items(), key=lambda item: (-_weight(item[1]), item[0]))
    return "\n".join(f"{n}. {file}: {_verdict(found)}" for n, (file, found) in enumerate(ranked, 1))


def counted(number: int, noun: str) -> str:
    """Return the two together, the noun in the plural where it belongs there."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _headline(findings: list[Finding], files: int) -> str:
    if not findings:
        return f"no findings in {counted(files, 'file')}"

    found = counted(len(findings), "finding")
    hit = len({finding.file for finding in findings})
    most = ", ".join(f"{part} ({count})" for part, count in by_part(findings)[:3])
    return f"{found} in {hit} of {counted(files, 'file')}; most in {most}"


def _verdict(findings: list[Finding]) -> str:
    rules = _most_common(finding.rule for finding in findings)
    shares = ", ".join(f"{rule} {count}" for rule, count in rules)
    return f"weight {_weight(findings)}, {shares}; first in line {min(findings).line}"


def _weight(findings: list[Finding]) -> int:
    return sum(_WEIGHTS.get(finding.rule, 1) for finding in findings)


def _most_common(words: Iterable[str]) -> list[tuple[str, int]]:
    return sorted(Counter(words).items(), key=lambda item: (-item[1], item[0]))
