"""Errors: one base, and each survives copy and pickle."""

import asyncio
import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from agentos_parallel import (
    DeadlineExceeded,
    FanOutError,
    GatherResult,
    ParallelError,
    PartialResultWarning,
    RestoredError,
    SourceError,
    TaskResult,
    TaskStatus,
    TaskTimeout,
    fan_out,
    parallel_gather,
    parallel_map,
)
from agentos_parallel.errors import error_text
from tests.pieces import after, failing_after

THROUGH: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    lambda error: pickle.loads(pickle.dumps(error)),
]
RESULT: GatherResult[Any] = GatherResult([TaskResult("a", TaskStatus.COMPLETED, 1)], 1, 1)
ERRORS: list[ParallelError] = [
    ParallelError("text", result=RESULT),
    DeadlineExceeded("text", result=RESULT),
    TaskTimeout("text", result=RESULT),
    FanOutError("text", result=RESULT),
    SourceError("text", result=RESULT),
    ParallelError(),
    DeadlineExceeded(),
    TaskTimeout("one", "two"),
    RestoredError("ValueError", "no such page"),
]


def test_all_errors_have_one_base() -> None:
    ours = [DeadlineExceeded, TaskTimeout, FanOutError, SourceError, RestoredError]
    assert all(issubclass(kind, ParallelError) for kind in ours)
    assert not issubclass(ParallelError, TimeoutError)


def test_the_two_timeouts_are_timeout_errors() -> None:
    assert issubclass(DeadlineExceeded, TimeoutError)
    assert issubclass(TaskTimeout, TimeoutError)
    assert not any(issubclass(kind, TimeoutError) for kind in (FanOutError, SourceError))


def test_the_warning_is_a_user_warning() -> None:
    assert issubclass(PartialResultWarning, UserWarning)


@pytest.mark.parametrize("through", THROUGH, ids=["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_each_survives_copy_and_pickle(error: ParallelError, through: Callable[[Any], Any]) -> None:
    error.add_note("a note")
    back = through(error)
    assert type(back) is type(error)
    assert (back.args, str(back)) == (error.args, str(error))
    assert back.result == error.result
    assert back.__notes__ == error.__notes__


@pytest.mark.parametrize("through", THROUGH, ids=["copy", "deepcopy", "pickle"])
def test_a_restored_error_keeps_its_parts(through: Callable[[Any], Any]) -> None:
    back = through(RestoredError("ValueError", "no such page"))
    assert (back.type_name, back.message) == ("ValueError", "no such page")
    assert str(back) == "ValueError: no such page"


@pytest.mark.parametrize("through", THROUGH, ids=["copy", "deepcopy", "pickle"])
async def test_those_that_a_run_raises_survive_with_their_result(
    through: Callable[[Any], Any],
) -> None:
    def source() -> Any:
        yield 1
        raise OSError("the disk is gone")

    raised: list[ParallelError] = []
    for call in (
        parallel_gather(after(1, 1), after(9, 2), timeout=2, return_partial=False),
        parallel_map(asyncio.sleep, source()),
        fan_out([failing_after(0, ValueError("no"))], aggregation="merge", merge_fn=list),
    ):
        with pytest.raises(ParallelError) as caught:
            await call
        raised.append(caught.value)

    for error in raised:
        back = through(error)
        assert (type(back), str(back)) == (type(error), str(error))
        assert back.result.total == error.result.total  # type: ignore[union-attr]
        assert repr(back.result) == repr(error.result)


@pytest.mark.parametrize("through", THROUGH, ids=["copy", "deepcopy", "pickle"])
async def test_the_errors_of_tasks_survive_too(through: Callable[[Any], Any]) -> None:
    result = await parallel_gather(after(9, 1), after(9, 2), timeout=3, task_timeout={"0": 1.0}.get)
    for _, error in result.get_errors():
        assert str(through(error)) == str(error)


def test_an_error_without_a_run_has_no_result() -> None:
    assert ParallelError("text").result is None
    assert RestoredError("ValueError", "no").result is None


def test_a_restored_error_without_a_message_is_its_type() -> None:
    assert str(RestoredError("ValueError", "")) == "ValueError"


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise LookupError


async def test_an_error_is_told_by_type_and_message() -> None:
    works: list[Any] = [failing_after(0, ValueError("no")), failing_after(0, KeyError())]
    with pytest.raises(FanOutError) as raised:
        await fan_out(works, aggregation="merge", merge_fn=list)
    assert "ValueError: no" in str(raised.value)
    assert "KeyError" in str(raised.value)


def test_the_text_of_an_error_is_never_empty() -> None:
    assert error_text(TimeoutError()) == "TimeoutError"
    assert error_text(ValueError("no")) == "ValueError: no"
    assert error_text(RestoredError("OSError", "gone")) == "OSError: gone"
    assert error_text(UnreadableError()).startswith("UnreadableError: ")
