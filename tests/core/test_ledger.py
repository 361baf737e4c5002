"""The accounts of a run: they add up at any time, and the rule is asked after each outcome."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos_parallel import GatherResult, TaskResult, TaskStatus
from agentos_parallel._core.ledger import Ledger

FINAL = [TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.TIMEOUT, TaskStatus.CANCELLED]


def ledger(expected: int | None, rule: Any = None) -> tuple[Ledger, list[int], list[object]]:
    delivered: list[int] = []
    reasons: list[object] = []
    made = Ledger(expected, lambda index, _: delivered.append(index), rule, reasons.append)
    return made, delivered, reasons


def lost(counts: GatherResult[Any]) -> int:
    return counts.failed + counts.timed_out + counts.cancelled


@given(st.lists(st.sampled_from(FINAL)), st.lists(st.sampled_from(FINAL)))
def test_the_counts_add_up_at_any_time(
    settled: list[TaskStatus], written_off: list[TaskStatus]
) -> None:
    accounts, delivered, _ = ledger(len(settled) + len(written_off))
    counts = accounts.counts

    for index, status in enumerate(settled):
        accounts.settle(index, TaskResult(str(index)), status, 1.0)
        assert counts.completed + lost(counts) + accounts.unsettled == counts.total
    for status in written_off:
        accounts.write_off(status, 1)

    assert accounts.unsettled == 0
    assert delivered == list(range(len(settled)))


def test_works_that_are_drawn_are_expected_once_there_are_no_more() -> None:
    accounts, _, _ = ledger(None)

    assert [accounts.draw(), accounts.draw()] == [0, 1]
    assert (accounts.expected, accounts.unsettled, accounts.counts.total) == (None, 2, 2)
    accounts.drawn_out()
    assert accounts.expected == 2


def test_the_rule_is_asked_after_each_outcome_and_once_all_are_known() -> None:
    seen: list[tuple[int, int | None]] = []

    def rule(counts: GatherResult[Any], expected: int | None) -> str | None:
        seen.append((counts.completed, expected))
        return "enough" if counts.completed == 2 else None

    accounts, _, reasons = ledger(None, rule)
    for index in (accounts.draw(), accounts.draw()):
        accounts.settle(index, TaskResult(str(index)), TaskStatus.COMPLETED, 1.0)
    accounts.drawn_out()

    assert seen == [(1, None), (2, None), (2, 2)]
    assert reasons == ["enough", "enough"]


@pytest.mark.parametrize("first", [SystemExit(3), KeyboardInterrupt()])
def test_the_first_exit_counts(first: BaseException) -> None:
    accounts, _, reasons = ledger(2)

    accounts.look_at(0, ValueError("no exit"))
    accounts.look_at(1, first)
    accounts.look_at(0, GeneratorExit())

    assert accounts.exit is first
    assert len(reasons) == 2


def test_nothing_is_delivered_once_it_is_closed() -> None:
    accounts, delivered, _ = ledger(1)

    accounts.close(1.5, drawn_out=True)
    accounts.settle(0, TaskResult("0"), TaskStatus.COMPLETED, 1.0)

    assert delivered == []
    assert accounts.counts.total_duration_ms == 1500
