"""The group: what asyncio's TaskGroup does, and the limits, clocks and results that ours adds."""

import asyncio
import gc
import inspect
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from typing import Any

import pytest
from langgraph.errors import GraphInterrupt

from agentos_parallel import (
    DeadlineExceeded,
    TaskGroup,
    TaskStatus,
    TaskThrottler,
    TaskTimeout,
    parallel_gather,
    parallel_map,
    remaining,
)
from tests import virtual_time
from tests.pieces import Stubborn, after, alive, failing_after, now, settle
from tests.virtual_time import run_virtually
from tests.ways import Gauge, hang

PENDING, RUNNING = TaskStatus.PENDING, TaskStatus.RUNNING
COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED
TIMEOUT, CANCELLED = TaskStatus.TIMEOUT, TaskStatus.CANCELLED

who: ContextVar[str] = ContextVar("who", default="nobody")


class Fatal(BaseException):
    """An error that is no Exception."""


def statuses(group: TaskGroup) -> list[TaskStatus]:
    return [task.status for task in group.result.results]


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


def is_closed(coro: Coroutine[Any, Any, Any]) -> bool:
    return inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


async def cleaning_up(seconds: float, notes: list[str]) -> None:
    """Hang; when cancelled take so long to tidy up."""
    try:
        await hang()
    finally:
        await asyncio.sleep(seconds)
        notes.append("tidy")


async def failing_in_cleanup(error: Exception) -> None:
    """Hang; when cancelled raise *error*."""
    try:
        await hang()
    finally:
        raise error


@contextmanager
def no_tasks() -> Iterator[None]:
    """The loop's task factory raises OSError."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("no task today")

    loop = asyncio.get_running_loop()
    factory = loop.get_task_factory()
    loop.set_task_factory(refuse)
    try:
        yield
    finally:
        loop.set_task_factory(factory)


# What create_task gives.


async def test_a_child_is_a_task_with_the_coroutines_result() -> None:
    async with TaskGroup() as group:
        task = group.create_task(after(1, "done"))
        assert isinstance(task, asyncio.Task)
        assert await task == "done"
    assert task.result() == "done"


async def test_a_child_is_a_task_with_the_coroutines_exception() -> None:
    error = ValueError("no")
    async with TaskGroup(fail_fast=False) as group:
        task = group.create_task(failing_after(1, error))
    assert task.exception() is error
    assert group.result.results[0].error is error


async def test_the_group_ends_with_its_last_child() -> None:
    started = now()
    async with TaskGroup() as group:
        tasks = [group.create_task(after(seconds, seconds)) for seconds in (3, 1, 2)]
        assert not any(task.done() for task in tasks)
    assert now() - started == 3
    assert group.result.get_results() == [3, 1, 2]


async def test_a_group_without_children_ends_at_once() -> None:
    async with TaskGroup() as group:
        pass
    assert group.result.all_succeeded
    assert group.result.total == 0


@pytest.mark.parametrize("context", [None, Context()], ids=["copy", "own"])
async def test_a_child_has_the_name_that_is_given(context: Context | None) -> None:
    async def name() -> str:
        await asyncio.sleep(0)  # an eager factory names a task after its first step
        task = asyncio.current_task()
        assert task is not None
        return task.get_name()

    async with TaskGroup() as group:
        task = group.create_task(name(), name="reader", context=context)
        other = group.create_task(name())
    assert task.result() == task.get_name() == "reader"
    assert other.result() == other.get_name() != "reader"


async def test_a_child_has_a_copy_of_the_callers_context() -> None:
    async def rename(name: str) -> str:
        seen = who.get()
        who.set(name)
        return seen

    async with TaskGroup() as group:
        who.set("Ann")  # after the group was entered
        first = group.create_task(rename("Bob"))
        await first
        second = group.create_task(rename("Eve"))
    assert (first.result(), second.result(), who.get()) == ("Ann", "Ann", "Ann")


async def test_a_context_that_is_given_is_used_itself() -> None:
    context = copy_context()
    context.run(who.set, "Ann")

    async def rename() -> str:
        seen = who.get()
        await asyncio.sleep(1)
        who.set("Bob")
        return seen

    async with TaskGroup() as group:
        task = group.create_task(rename(), context=context)
    assert (task.result(), context[who], who.get()) == ("Ann", "Bob", "nobody")


async def test_children_may_share_one_context_at_once() -> None:
    context = copy_context()

    async def hand_on(name: str, seconds: float) -> str:
        await asyncio.sleep(seconds)
        seen = who.get()
        who.set(name)
        await asyncio.sleep(5)
        return seen

    async with TaskGroup() as group:
        for seconds, name in enumerate(["Ann", "Bob", "Eve"]):
            group.create_task(hand_on(name, seconds), context=context)
    assert group.result.get_results() == ["nobody", "Ann", "Bob"]
    assert context[who] == "Eve"


async def test_children_in_one_context_are_each_in_their_own_task() -> None:
    context, load = copy_context(), Gauge()

    async def nests() -> float | None:
        await asyncio.sleep(1)
        await parallel_gather(load.work, throttler=throttler)
        return remaining()

    throttler = TaskThrottler(1)
    async with TaskGroup(timeout=20, throttler=throttler) as group:
        for _ in range(3):
            group.create_task(nests(), context=context)
    assert group.result.all_succeeded
    assert load.peak == throttler.peak == 1
    assert throttler.active == 0
    assert None not in group.result.get_results()
    assert context.run(remaining) is None


async def test_the_callers_own_context_may_be_given() -> None:
    loop, context = asyncio.get_running_loop(), copy_context()
    if loop.get_task_factory() is not None:
        pytest.skip("an eager start can't enter the context that it is in")

    async def rename() -> None:
        await asyncio.sleep(1)
        who.set("Bob")

    async def body() -> tuple[str, float | None]:
        async with TaskGroup(timeout=9) as group:
            group.create_task(rename(), context=context)
            await asyncio.sleep(2)
            left = remaining()
        return who.get(), left

    assert await body() == ("nobody", None)
    context.run(who.set, "Ann")
    task = asyncio.Task(body(), loop=loop, context=context)
    assert await task == ("Bob", None)


async def test_an_error_crosses_a_context_that_is_given() -> None:
    error = ValueError("no")

    async def stubborn_once() -> str:
        with suppress(asyncio.CancelledError):
            await hang()
        return "cancelled"

    async with TaskGroup(fail_fast=False) as group:
        failing = group.create_task(failing_after(1, error), context=copy_context())
        caught = group.create_task(stubborn_once(), context=copy_context())
        await asyncio.sleep(2)
        caught.cancel()
    assert failing.exception() is error
    assert caught.result() == "cancelled"


# Nesting and growing.


async def test_groups_nest() -> None:
    async with TaskGroup() as outer:
        async with TaskGroup() as inner:
            outside = outer.create_task(after(3, "outer"))
            inside = inner.create_task(after(1, "inner"))
        assert (inside.result(), outside.done()) == ("inner", False)
    assert outside.result() == "outer"


async def test_an_error_of_an_inner_group_ends_the_outer_one_too() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with TaskGroup() as outer:
            sibling = outer.create_task(hang())
            async with TaskGroup() as inner:
                inner.create_task(failing_after(1, ValueError("deep")))
    (inner_group,) = raised.value.exceptions
    assert isinstance(inner_group, ExceptionGroup)
    assert str(inner_group.exceptions[0]) == "deep"
    assert sibling.cancelled()
    assert cancelling() == 0


async def test_an_error_of_the_outer_group_ends_the_inner_one() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with TaskGroup() as outer:
            outer.create_task(failing_after(1, ValueError("outer")))
            async with TaskGroup() as inner:
                task = inner.create_task(hang())
    assert [str(error) for error in raised.value.exceptions] == ["outer"]
    assert task.cancelled()
    assert statuses(inner) == [CANCELLED]
    assert cancelling() == 0


@pytest.mark.parametrize(
    ("outer_class", "inner_class"), [(asyncio.TaskGroup, TaskGroup), (TaskGroup, asyncio.TaskGroup)]
)
async def test_it_nests_with_asyncios(
    outer_class: type[TaskGroup], inner_class: type[TaskGroup]
) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with outer_class() as outer:
            sibling = outer.create_task(hang())
            async with inner_class() as inner:
                inner.create_task(failing_after(1, ValueError("deep")))
                await hang()  # asyncio's own count is wrong before 3.13 where it waits in its exit
    assert len(raised.value.exceptions) == 1
    assert sibling.cancelled()
    assert cancelling() == 0

    with pytest.raises(ExceptionGroup) as raised:
        async with outer_class() as outer:
            outer.create_task(failing_after(1, ValueError("outer")))
            async with inner_class() as inner:
                sibling = inner.create_task(hang())
    assert [str(error) for error in raised.value.exceptions] == ["outer"]
    assert sibling.cancelled()
    assert cancelling() == 0


async def test_children_may_create_children() -> None:
    async def grow(group: TaskGroup, levels: int) -> int:
        await asyncio.sleep(1)
        if levels:
            group.create_task(grow(group, levels - 1))
        return levels

    started = now()
    async with TaskGroup() as group:
        group.create_task(grow(group, 3))
    assert group.result.get_results() == [3, 2, 1, 0]
    assert [task.task_id for task in group.result.results] == ["0", "1", "2", "3"]
    assert now() - started == 4


async def test_others_may_create_children_while_the_body_waits() -> None:
    group = TaskGroup()

    async def body() -> None:
        async with group:
            group.create_task(after(3, "early"))

    task = asyncio.create_task(body())
    await asyncio.sleep(1)
    late = group.create_task(after(5, "late"))
    await task
    assert late.result() == "late"
    assert group.result.total_duration_ms == 6000


# What create_task refuses.


async def test_a_group_that_was_not_entered_takes_nothing() -> None:
    group, coro = TaskGroup(), hang()
    with pytest.raises(RuntimeError, match="has not been entered"):
        group.create_task(coro)
    assert is_closed(coro)


async def test_a_finished_group_takes_nothing() -> None:
    async with TaskGroup() as group:
        pass
    coro = hang()
    with pytest.raises(RuntimeError, match="is finished"):
        group.create_task(coro)
    assert is_closed(coro)
    assert group.result.total == 0


async def test_a_group_that_shuts_down_takes_nothing() -> None:
    coro = hang()

    async def late(group: TaskGroup) -> None:
        try:
            await hang()
        finally:
            with pytest.raises(RuntimeError, match="is shutting down"):
                group.create_task(coro)

    with pytest.raises(ExceptionGroup, match="unhandled errors"):
        async with TaskGroup() as group:
            group.create_task(late(group))
            group.create_task(failing_after(1, ValueError("no")))
    assert is_closed(coro)
    assert group.result.total == 2


async def test_the_body_of_a_group_that_shuts_down_is_refused_too() -> None:
    coro = hang()
    with pytest.raises(ExceptionGroup, match="unhandled errors"):
        async with TaskGroup() as group:
            group.create_task(failing_after(1, ValueError("no")))
            try:
                await hang()
            finally:
                with pytest.raises(RuntimeError, match="is shutting down"):
                    group.create_task(coro)
    assert is_closed(coro)


@pytest.mark.parametrize("given", [None, 3, hang, object()])
async def test_what_is_no_coroutine_is_refused(given: Any) -> None:
    async with TaskGroup() as group:
        with pytest.raises(TypeError, match=r"create_task\(\) takes a coroutine, got"):
            group.create_task(given)
        group.create_task(after(1, None))
    assert group.result.total == 1


async def test_a_function_that_was_not_called_is_told_so() -> None:
    async with TaskGroup() as group:
        with pytest.raises(TypeError, match="call it"):
            group.create_task(hang)  # type: ignore[arg-type]  # the mistake


async def test_a_keyword_that_it_does_not_know_closes_the_coroutine() -> None:
    coro = hang()
    async with TaskGroup() as group:
        with pytest.raises(TypeError, match="does not know nam="):
            group.create_task(coro, nam="x")  # type: ignore[call-arg]  # the mistake
    assert is_closed(coro)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"max_concurrency": 3}, TypeError, "max_concurrent="),
        ({"limit": 3}, TypeError, "does not know limit="),
        ({"max_concurrent": 0}, ValueError, "max_concurrent"),
        ({"max_concurrent": 1.5}, TypeError, "max_concurrent"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"task_timeout": 0}, ValueError, "task_timeout"),
        ({"fail_fast": 1}, TypeError, "fail_fast"),
        ({"throttler": 3}, TypeError, "throttler"),
        ({"grace": -1}, ValueError, "grace"),
    ],
)
def test_bad_arguments_fail_at_once(
    settings: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        TaskGroup(**settings)


def test_it_takes_keywords_only() -> None:
    with pytest.raises(TypeError):
        TaskGroup(3)  # type: ignore[call-arg]  # the mistake


async def test_a_group_is_entered_once() -> None:
    async with TaskGroup() as group:
        with pytest.raises(RuntimeError, match="already been entered"):
            await group.__aenter__()
    with pytest.raises(RuntimeError, match="already been entered"):
        await group.__aenter__()


async def test_it_needs_a_task_around() -> None:
    raised: list[BaseException] = []

    def enter() -> None:
        entering = TaskGroup().__aenter__()
        try:
            entering.send(None)
        except RuntimeError as error:
            raised.append(error)

    asyncio.get_running_loop().call_soon(enter)
    await settle()
    assert "cannot determine the parent task" in str(raised[0])


async def test_a_task_factory_that_raises_leaves_nothing() -> None:
    throttler, coro = TaskThrottler(1), hang()
    async with TaskGroup(throttler=throttler, fail_fast=False) as group:
        with no_tasks(), pytest.raises(OSError, match="no task today"):
            group.create_task(coro)
        assert is_closed(coro)
        assert throttler.active == 0
        after_it = group.create_task(after(1, "next"))
    assert after_it.result() == "next"
    assert statuses(group) == [FAILED, COMPLETED]


async def test_a_task_factory_that_raises_while_it_would_wait() -> None:
    coro = hang()
    async with TaskGroup(max_concurrent=1, fail_fast=False) as group:
        group.create_task(after(1, "first"))
        with no_tasks(), pytest.raises(OSError, match="no task today"):
            group.create_task(coro)
        group.create_task(after(1, "last"))
    assert is_closed(coro)
    assert group.result.get_results() == ["first", "last"]


# What comes out.


async def test_the_first_failure_cancels_siblings_and_body() -> None:
    started, notes = now(), list[str]()
    with pytest.raises(ExceptionGroup, match="unhandled errors in a TaskGroup") as raised:
        async with TaskGroup() as group:
            group.create_task(cleaning_up(2, notes))
            group.create_task(failing_after(1, ValueError("no")))
            try:
                await hang()
            except asyncio.CancelledError:
                notes.append("body")
                raise
    assert [repr(error) for error in raised.value.exceptions] == ["ValueError('no')"]
    assert notes == ["body", "tidy"]
    assert now() - started == 3
    assert statuses(group) == [CANCELLED, FAILED]
    assert cancelling() == 0
    await asyncio.sleep(1)  # and no cancel arrives later


async def test_errors_come_in_the_order_in_which_they_were_raised() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with TaskGroup() as group:
            group.create_task(failing_in_cleanup(KeyError("late")))
            group.create_task(failing_after(1, ValueError("first")))
    assert [type(error) for error in raised.value.exceptions] == [ValueError, KeyError]


async def test_a_failure_after_the_body_has_ended() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with TaskGroup() as group:
            task = group.create_task(hang())
            group.create_task(failing_after(1, ValueError("no")))
    assert raised.value.__context__ is None or raised.value.__suppress_context__
    assert task.cancelled()
    assert cancelling() == 0


async def test_an_error_of_the_body_cancels_the_children() -> None:
    error = ValueError("body")
    with pytest.raises(ExceptionGroup) as raised:
        async with TaskGroup() as group:
            task = group.create_task(hang())
            await settle()
            raise error
    assert raised.value.exceptions == (error,)
    assert task.cancelled()
    assert "its body raised ValueError" in group.result.reason


async def test_an_error_of_the_body_comes_after_the_childs() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with TaskGroup() as group:
            group.create_task(failing_after(1, ValueError("child")))
            try:
                await hang()
            finally:
                raise KeyError("body")
    assert [type(error) for error in raised.value.exceptions] == [ValueError, KeyError]
    assert cancelling() == 0


async def test_an_error_of_the_body_comes_out_of_a_collecting_group_too() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with TaskGroup(fail_fast=False) as group:
            group.create_task(failing_after(1, ValueError("collected")))
            task = group.create_task(hang())
            await asyncio.sleep(2)
            raise KeyError("body")
    assert [type(error) for error in raised.value.exceptions] == [KeyError]
    assert task.cancelled()
    assert statuses(group) == [FAILED, CANCELLED]


async def test_a_body_that_swallows_the_cancel_does_not_hide_the_failure() -> None:
    with pytest.raises(ExceptionGroup, match="unhandled errors"):
        async with TaskGroup() as group:
            group.create_task(failing_after(1, ValueError("no")))
            try:
                await hang()
            except asyncio.CancelledError:
                pass
    assert cancelling() == 0
    await asyncio.sleep(1)


@pytest.mark.parametrize("by_hand", [True, False])
async def test_a_child_that_is_cancelled_stops_nobody(by_hand: bool) -> None:
    async def cancels_itself() -> None:
        await asyncio.sleep(1)
        raise asyncio.CancelledError

    async with TaskGroup() as group:
        task = group.create_task(hang() if by_hand else cancels_itself())
        other = group.create_task(after(5, "other"))
        await asyncio.sleep(2)
        if by_hand:
            task.cancel()
    assert task.cancelled()
    assert other.result() == "other"
    assert statuses(group) == [CANCELLED, COMPLETED]
    assert not group.result.all_succeeded


async def test_a_child_that_swallows_a_cancel_by_hand_completes() -> None:
    async def swallows() -> str:
        with suppress(asyncio.CancelledError):
            await hang()
        return "went on"

    async with TaskGroup() as group:
        task = group.create_task(swallows())
        await settle()
        task.cancel()
    assert task.result() == "went on"
    assert statuses(group) == [COMPLETED]


async def test_a_child_that_cancels_itself_in_its_last_step() -> None:
    async def work() -> str:
        await asyncio.sleep(1)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "too late"

    async with TaskGroup() as group:
        task = group.create_task(work())
    assert task.cancelled()
    assert statuses(group) == [CANCELLED]
    assert group.result.results[0].result is None


async def test_a_child_cancelled_before_its_first_step() -> None:
    ran: list[int] = []

    async def work() -> None:
        ran.append(1)
        await hang()

    coro = work()
    async with TaskGroup() as group:
        task = group.create_task(coro)
        task.cancel()
    assert task.cancelled()
    assert statuses(group) == [CANCELLED]
    assert is_closed(coro)


async def test_another_base_exception_comes_in_a_group() -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        async with TaskGroup() as group:
            task = group.create_task(hang())
            group.create_task(failing_after(1, Fatal("no")))
    assert not isinstance(raised.value, ExceptionGroup)
    assert [type(error) for error in raised.value.exceptions] == [Fatal]
    assert task.cancelled()
    assert statuses(group) == [CANCELLED, FAILED]


async def test_another_base_exception_ends_a_collecting_group_too() -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        async with TaskGroup(fail_fast=False) as group:
            group.create_task(failing_after(0.5, ValueError("collected")))
            task = group.create_task(hang())
            group.create_task(failing_after(1, Fatal("no")))
    assert [type(error) for error in raised.value.exceptions] == [Fatal]
    assert task.cancelled()


async def test_another_base_exception_of_the_body() -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        async with TaskGroup() as group:
            group.create_task(hang())
            raise Fatal("no")
    assert [type(error) for error in raised.value.exceptions] == [Fatal]


@pytest.mark.parametrize("exit_", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("run", [run_virtually, "run_until_complete"])
def test_an_exit_of_a_child_comes_out_after_the_drain(
    exit_: type[BaseException], run: Callable[..., Any] | str
) -> None:
    notes: list[str] = []
    error = exit_()

    async def main() -> None:
        try:
            async with TaskGroup() as group:
                group.create_task(cleaning_up(2, notes))
                group.create_task(failing_after(1, error))
                await hang()
        finally:
            assert statuses(group) == [CANCELLED, FAILED]
            assert group.result.results[1].error is error
            assert cancelling() == 0
            notes.append("out")

    with pytest.raises(exit_) as raised:
        if callable(run):
            run(main())
        else:
            run_until_complete(main())
    assert raised.value is error
    assert notes == ["tidy", "out"]


def run_until_complete(main: Coroutine[Any, Any, Any]) -> None:
    loop = virtual_time.new_loop()
    try:
        loop.run_until_complete(main)
    finally:
        loop.close()


@pytest.mark.parametrize("exit_", [KeyboardInterrupt, SystemExit])
async def test_an_exit_of_the_body_comes_out_after_the_drain(exit_: type[BaseException]) -> None:
    notes: list[str] = []
    with pytest.raises(exit_):
        async with TaskGroup() as group:
            group.create_task(cleaning_up(2, notes))
            await settle()
            raise exit_
    assert notes == ["tidy"]


async def test_an_exit_of_a_child_leaves_its_errors_behind() -> None:
    with pytest.raises(KeyboardInterrupt):
        async with TaskGroup() as group:
            group.create_task(failing_after(1, ValueError("no")))
            group.create_task(failing_after(1, KeyboardInterrupt()))
    assert statuses(group) == [FAILED, FAILED]


async def test_awaiting_a_child_that_raised_an_exit_is_a_cancel() -> None:
    with pytest.raises(KeyboardInterrupt):
        async with TaskGroup() as group:
            task = group.create_task(failing_after(1, KeyboardInterrupt()))
    assert task.cancelled()


def test_an_exit_comes_out_of_groups_in_groups() -> None:
    notes: list[str] = []

    async def inner() -> None:
        async with TaskGroup() as group:
            group.create_task(cleaning_up(1, notes))
            group.create_task(failing_after(1, KeyboardInterrupt()))
            await hang()

    async def main() -> None:
        async with TaskGroup() as group:
            group.create_task(inner())
            group.create_task(cleaning_up(1, notes))

    with pytest.raises(KeyboardInterrupt):
        run_virtually(main())
    assert notes == ["tidy", "tidy"]


async def test_control_flow_comes_out_bare_and_cancels_nobody() -> None:
    first, second = GraphInterrupt([]), GraphInterrupt([])
    with pytest.raises(GraphInterrupt) as raised:
        async with TaskGroup() as group:
            group.create_task(failing_after(2, first))
            group.create_task(failing_after(1, second))
            last = group.create_task(after(5, "last"))
    assert raised.value is first
    assert last.result() == "last"
    assert statuses(group) == [CANCELLED, CANCELLED, COMPLETED]
    assert group.result.results[0].error is first


async def test_control_flow_of_the_body_comes_out_bare() -> None:
    with pytest.raises(GraphInterrupt):
        async with TaskGroup() as group:
            task = group.create_task(hang())
            raise GraphInterrupt([])
    assert task.cancelled()


# Cancels, and their counts.


async def cancelled_after(seconds: float, main: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    task = asyncio.create_task(main)
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.wait([task])
    return task


@pytest.mark.parametrize("in_body", [True, False])
async def test_a_cancel_from_outside_reaches_all_and_comes_out(in_body: bool) -> None:
    notes: list[str] = []
    group = TaskGroup()

    async def main() -> None:
        try:
            async with group:
                group.create_task(cleaning_up(2, notes))
                if in_body:
                    await hang()
        finally:
            assert cancelling() == 1
            notes.append("out")

    task = await cancelled_after(1, main())
    assert task.cancelled()
    assert notes == ["tidy", "out"]
    assert statuses(group) == [CANCELLED]
    assert group.result.reason == "the caller was cancelled"


async def test_a_second_cancel_does_not_cut_the_drain_short() -> None:
    notes: list[str] = []

    async def main() -> None:
        async with TaskGroup() as group:
            group.create_task(cleaning_up(3, notes))

    task = asyncio.create_task(main())
    for _ in range(3):
        await asyncio.sleep(1)
        task.cancel()
        assert not notes
    await asyncio.wait([task])
    assert task.cancelled()
    assert notes == ["tidy"]


@pytest.mark.parametrize("in_body", [True, False])
@pytest.mark.parametrize("cancel_first", [True, False])
async def test_a_cancel_and_a_failure_at_once(in_body: bool, cancel_first: bool) -> None:
    seen: list[object] = []
    group = TaskGroup()

    async def fails(gate: asyncio.Future[None]) -> None:
        await gate
        raise ValueError("no")

    async def main() -> None:
        try:
            async with group:
                group.create_task(fails(gate))
                if in_body:
                    await hang()
        except* ValueError:
            seen.append(cancelling())
        await asyncio.sleep(1)
        seen.append("went on")

    loop = asyncio.get_running_loop()
    gate: asyncio.Future[None] = loop.create_future()
    task = asyncio.create_task(main())
    await settle()
    steps: list[Callable[[], object]] = [task.cancel, lambda: gate.set_result(None)]
    for step in steps if cancel_first else reversed(steps):
        step()
    await asyncio.wait([task])
    assert task.cancelled()
    # A cancel that comes first reaches the child before it can fail.
    assert (seen, statuses(group)) == (([], [CANCELLED]) if cancel_first else ([1], [FAILED]))


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_a_cancel_beside_a_failure_in_the_drain_arrives_after_it(cancel_first: bool) -> None:
    seen: list[object] = []

    async def main() -> None:
        try:
            async with TaskGroup() as group:
                if cancel_first:
                    group.create_task(failing_in_cleanup(ValueError("late")))
                else:
                    group.create_task(cleaning_up(4, []))
                    group.create_task(failing_after(1, ValueError("no")))
                await hang()
        except* ValueError:
            seen.append(cancelling())
        await asyncio.sleep(1)
        seen.append("went on")

    assert (await cancelled_after(3, main())).cancelled()
    assert seen == [1]


async def test_a_group_in_a_cleanup_leaves_the_count_as_it_was() -> None:
    counts: list[int] = []

    async def main() -> None:
        try:
            await hang()
        finally:
            async with TaskGroup() as group:
                group.create_task(after(1, "fine"))
                await asyncio.sleep(1)
            counts.append(cancelling())
            try:
                async with TaskGroup() as group:
                    group.create_task(failing_after(1, ValueError("no")))
                    await hang()
            except* ValueError:
                counts.append(cancelling())
            await asyncio.sleep(1)  # nothing arrives
            counts.append(cancelling())

    assert (await cancelled_after(1, main())).cancelled()
    assert counts == [1, 1, 1]


async def test_a_cancel_in_a_group_in_a_cleanup_comes_out() -> None:
    seen: list[object] = []

    async def main() -> None:
        try:
            await hang()
        finally:
            try:
                async with TaskGroup() as group:
                    group.create_task(hang())
            except asyncio.CancelledError:
                seen.append((cancelling(), statuses(group)))
                raise

    task = asyncio.create_task(main())
    await settle()
    task.cancel()
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert seen == [(2, [CANCELLED])]


async def test_a_body_without_an_await_gets_no_cancel_later() -> None:
    counts: list[int] = []

    async def main() -> None:
        with pytest.raises(ExceptionGroup):
            async with TaskGroup() as group:
                group.create_task(failing_after(0, ValueError("no")))
        counts.append(cancelling())
        await asyncio.sleep(1)

    await asyncio.create_task(main())
    assert counts == [0]


async def test_a_group_that_is_late_at_its_entrance_takes_its_cancel_back() -> None:
    counts: list[int] = []

    async def lingers() -> None:
        try:
            await hang()
        except asyncio.CancelledError:
            before = cancelling()
            with pytest.raises(DeadlineExceeded):
                async with TaskGroup():
                    pass  # the outer deadline has passed: it is stopped already
            counts.append(cancelling() - before)
            await asyncio.sleep(1)
            raise

    result = await parallel_gather(lingers, timeout=2)
    assert counts == [0]
    assert result.results[0].status is TIMEOUT
    assert result.results[0].finished_at - result.results[0].started_at == 3


async def test_a_body_that_cancels_its_own_task() -> None:
    async def main() -> None:
        async with TaskGroup() as group:
            group.create_task(hang())
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        pytest.fail("the cancel was swallowed")

    task = asyncio.create_task(main())
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_cancelled_error_that_the_body_raises_itself_comes_out() -> None:
    async with asyncio.timeout(60):
        with pytest.raises(asyncio.CancelledError):
            async with TaskGroup() as group:
                task = group.create_task(hang())
                await settle()
                raise asyncio.CancelledError
    assert task.cancelled()
    assert cancelling() == 0


async def test_asyncios_timeout_around_works() -> None:
    started = now()
    with pytest.raises(TimeoutError) as raised:
        async with asyncio.timeout(2), TaskGroup() as group:
            task = group.create_task(hang())
            await hang()
    assert not isinstance(raised.value, DeadlineExceeded)
    assert task.cancelled()
    assert now() - started == 2
    assert cancelling() == 0


async def test_asyncios_timeout_in_the_body_works() -> None:
    async with TaskGroup() as group:
        task = group.create_task(after(3, "child"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await task
        assert task.cancelled()
    assert statuses(group) == [CANCELLED]


# Limits.


async def test_max_concurrent_bounds_the_working_children() -> None:
    load, started = Gauge(), now()
    async with TaskGroup(max_concurrent=3) as group:
        for _ in range(9):
            group.create_task(load.work())
        await settle()
        assert load.inside == 3
    assert load.peak == 3
    assert now() - started == 3


async def test_without_a_limit_all_work_at_once() -> None:
    load = Gauge()
    async with TaskGroup() as group:
        for _ in range(100):
            group.create_task(load.work())
    assert load.peak == 100


@pytest.mark.parametrize("context", [None, Context()], ids=["copy", "own"])
async def test_children_start_in_the_order_of_their_creation(context: Context | None) -> None:
    order: list[int] = []

    async def work(n: int) -> None:
        order.append(n)
        await asyncio.sleep(1)

    async with TaskGroup(max_concurrent=2) as group:
        for n in range(7):
            group.create_task(work(n), context=context)
    assert order == list(range(7))


async def test_a_throttler_is_shared_with_other_runs() -> None:
    load, throttler = Gauge(), TaskThrottler(3)

    async def work(_: int) -> None:
        await load.work()

    async with TaskGroup(throttler=throttler) as group:
        for _ in range(10):
            group.create_task(load.work())
        result = await parallel_map(work, range(10), throttler=throttler)
    assert result.all_succeeded
    assert group.result.all_succeeded
    assert load.peak == throttler.peak == 3
    assert throttler.active == 0


async def test_max_concurrent_and_a_throttler_both_hold() -> None:
    load, throttler = Gauge(), TaskThrottler(5)
    async with TaskGroup(max_concurrent=2, throttler=throttler) as group:
        for _ in range(6):
            group.create_task(load.work())
    assert load.peak == 2
    assert throttler.peak <= 2


async def test_a_throttler_is_chosen_by_the_task_id() -> None:
    narrow, wide = TaskThrottler(1), TaskThrottler(3)
    asked: list[str] = []

    def throttlers_of(task_id: str) -> TaskThrottler | list[TaskThrottler]:
        asked.append(task_id)
        return wide if int(task_id) % 2 else [wide, narrow]

    small, all_of_them = Gauge(), Gauge()

    async def work(n: int) -> None:
        with all_of_them:
            await (asyncio.sleep(1) if n % 2 else small.work())

    async with TaskGroup(throttler=throttlers_of) as group:
        for n in range(12):
            group.create_task(work(n))
    assert asked == [str(n) for n in range(12)]
    assert (small.peak, all_of_them.peak) == (1, 3)
    assert (narrow.active, wide.active) == (0, 0)


async def test_a_limit_may_be_raised_while_children_wait() -> None:
    load, throttler, started = Gauge(), TaskThrottler(1), now()
    async with TaskGroup(throttler=throttler) as group:
        for _ in range(5):
            group.create_task(load.work())
        await asyncio.sleep(0.5)
        throttler.resize(4)
        await asyncio.sleep(0.1)
        assert load.inside == 4
    assert now() - started == 2


async def test_a_limit_may_be_lowered_while_children_work() -> None:
    load, throttler = Gauge(), TaskThrottler(3)
    async with TaskGroup(throttler=throttler) as group:
        for _ in range(6):
            group.create_task(load.work())
        await asyncio.sleep(0.5)
        throttler.resize(1)
        await asyncio.sleep(1)
        assert load.inside == 1
    assert group.result.total_duration_ms == 4000
    assert throttler.active == 0


async def test_a_pending_child_that_is_cancelled_leaves_the_queue() -> None:
    throttler = TaskThrottler(1)
    coro = after(1, "never")
    async with TaskGroup(throttler=throttler) as group:
        group.create_task(after(3, "first"))
        gone = group.create_task(coro)
        group.create_task(after(1, "next"))
        await asyncio.sleep(1)
        gone.cancel()
        await settle()
        assert statuses(group) == [RUNNING, CANCELLED, PENDING]
        assert throttler.waiting == 1
    first, cancelled, following = group.result.results
    assert gone.cancelled()
    assert is_closed(coro)
    assert (cancelled.started_at, cancelled.queued_ms, cancelled.duration_ms) == (0.0, 1000, 0)
    assert following.started_at == first.finished_at
    assert throttler.active == 0


async def test_a_child_cancelled_as_its_slot_comes_loses_no_slot() -> None:
    throttler = TaskThrottler(1)
    async with TaskGroup(throttler=throttler) as group:
        first = group.create_task(after(1, "first"))
        second = group.create_task(after(1, "second"))
        group.create_task(after(1, "third"))
        first.add_done_callback(lambda _: second.cancel())
    assert statuses(group) == [COMPLETED, CANCELLED, COMPLETED]
    assert throttler.active == 0


# Clocks.


async def test_the_deadline_ends_children_and_body() -> None:
    started, seen = now(), list[str]()
    with pytest.raises(DeadlineExceeded, match="timed out") as raised:
        async with TaskGroup(timeout=2, max_concurrent=2) as group:
            group.create_task(after(1, "done"))
            group.create_task(hang())
            group.create_task(hang())
            group.create_task(after(1, "never"))
            try:
                await hang()
            except asyncio.CancelledError:
                seen.append("body")
                raise
    assert seen == ["body"]
    assert now() - started == 2
    assert raised.value.result is group.result
    assert "1 of 4 tasks finished" in str(raised.value)
    assert "timeout=None" in str(raised.value)
    assert statuses(group) == [COMPLETED, TIMEOUT, TIMEOUT, TIMEOUT]
    last = group.result.results[-1]
    assert (last.started_at, last.queued_ms) == (0.0, 2000)
    assert isinstance(last.error, DeadlineExceeded)
    assert "never started" in str(last.error)
    assert cancelling() == 0
    await asyncio.sleep(1)


async def test_the_deadline_holds_while_the_group_waits_for_its_children() -> None:
    with pytest.raises(DeadlineExceeded) as raised:
        async with TaskGroup(timeout=2) as group:
            task = group.create_task(hang())
    assert raised.value.result is group.result
    assert task.cancelled()
    assert cancelling() == 0


async def test_the_deadline_ends_a_body_without_children() -> None:
    with pytest.raises(DeadlineExceeded):
        async with TaskGroup(timeout=2):
            await hang()
    assert cancelling() == 0


async def test_a_group_in_time_is_not_late() -> None:
    async with TaskGroup(timeout=2) as group:
        group.create_task(after(1, "done"))
    await asyncio.sleep(5)
    assert group.result.all_succeeded


async def test_children_know_the_time_that_is_left() -> None:
    async def left() -> float | None:
        await asyncio.sleep(1)
        return remaining()

    async with TaskGroup(timeout=10) as group:
        task = group.create_task(left())
        assert remaining() is None  # the body is in no task of the group
    assert task.result() == 9


async def test_a_cancel_in_the_drain_after_the_deadline_comes_out() -> None:
    async def main() -> None:
        async with TaskGroup(timeout=1) as group:
            group.create_task(cleaning_up(3, []))

    assert (await cancelled_after(2, main())).cancelled()


async def test_an_error_in_the_drain_after_the_deadline_is_the_tasks_own() -> None:
    with pytest.raises(DeadlineExceeded):
        async with TaskGroup(timeout=1) as group:
            group.create_task(failing_in_cleanup(KeyError("late")))
    assert statuses(group) == [FAILED]


async def test_an_error_of_the_body_comes_beside_the_deadlines() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with TaskGroup(timeout=1):
            try:
                await hang()
            finally:
                raise KeyError("body")
    assert [type(error) for error in raised.value.exceptions] == [KeyError, DeadlineExceeded]


async def test_failures_are_collected() -> None:
    error = ValueError("no")
    async with TaskGroup(fail_fast=False, task_timeout=3) as group:
        group.create_task(failing_after(1, error))
        group.create_task(after(2, "done"))
        group.create_task(hang())
        group.create_task(failing_after(1, TimeoutError("own")))
    assert statuses(group) == [FAILED, COMPLETED, TIMEOUT, TIMEOUT]
    assert group.result.get_errors()[0] == ("0", error)
    assert isinstance(group.result.results[2].error, TaskTimeout)
    counts = group.result
    assert (counts.completed, counts.failed, counts.timed_out, counts.cancelled) == (1, 1, 2, 0)
    assert not counts.all_succeeded


async def test_the_deadline_is_collected_too() -> None:
    started, seen = now(), list[str]()
    async with TaskGroup(fail_fast=False, timeout=2) as group:
        group.create_task(after(1, "done"))
        group.create_task(hang())
        try:
            await hang()
        finally:
            seen.append("body")
    assert seen == ["body"]
    assert now() - started == 2
    assert statuses(group) == [COMPLETED, TIMEOUT]
    assert "timeout of 2 s" in group.result.reason
    assert cancelling() == 0
    await asyncio.sleep(1)


async def test_a_childs_timeout_is_its_failure() -> None:
    started = now()
    with pytest.raises(ExceptionGroup) as raised:
        async with TaskGroup(task_timeout=2) as group:
            task = group.create_task(hang())
            other = group.create_task(after(1, "in time"))
    (error,) = raised.value.exceptions
    assert isinstance(error, TaskTimeout)
    assert task.exception() is error
    assert other.result() == "in time"
    assert now() - started == 2
    assert statuses(group) == [TIMEOUT, COMPLETED]


async def test_a_function_for_the_timeout_that_raises_fails_its_child() -> None:
    def seconds_of(task_id: str) -> float:
        raise KeyError(task_id)

    coro = hang()
    with pytest.raises(ExceptionGroup) as raised:
        async with TaskGroup(task_timeout=seconds_of) as group:
            group.create_task(coro)
    assert [repr(error) for error in raised.value.exceptions] == ["KeyError('0')"]
    assert is_closed(coro)


async def test_awaiting_a_child_that_timed_out_raises_task_timeout() -> None:
    async with TaskGroup(task_timeout=2, fail_fast=False) as group:
        task = group.create_task(hang())
        with pytest.raises(TaskTimeout, match="task '0' timed out after 2 s"):
            await task
    assert not task.cancelled()


async def test_a_childs_timeout_may_depend_on_its_task_id() -> None:
    def seconds_of(task_id: str) -> float | None:
        return [1.0, 3.0, None][int(task_id)]

    async with TaskGroup(task_timeout=seconds_of, fail_fast=False) as group:
        for _ in range(3):
            group.create_task(after(4, "done"))
    assert statuses(group) == [TIMEOUT, TIMEOUT, COMPLETED]
    assert [task.duration_ms for task in group.result.results] == [1000, 3000, 4000]


async def test_a_childs_clock_starts_with_its_slot() -> None:
    async with TaskGroup(max_concurrent=1, task_timeout=2) as group:
        for _ in range(4):
            group.create_task(after(1.5, "done"))
    assert group.result.all_succeeded
    assert [task.queued_ms for task in group.result.results] == [0, 1500, 3000, 4500]
    assert [task.duration_ms for task in group.result.results] == [1500] * 4


async def test_a_child_that_answers_its_timeout_is_what_it_did() -> None:
    async def answers() -> str:
        with suppress(asyncio.CancelledError):
            await hang()
        return "partial"

    async with TaskGroup(task_timeout=1) as group:
        task = group.create_task(answers())
    assert task.result() == "partial"
    assert statuses(group) == [COMPLETED]


@pytest.mark.parametrize("grace", [0, 1])
async def test_a_child_that_will_not_go_is_abandoned(
    grace: float, caplog: pytest.LogCaptureFixture
) -> None:
    stubborn, throttler, started = Stubborn(), TaskThrottler(2), now()
    with (
        caplog.at_level(logging.WARNING, "agentos_parallel"),
        pytest.raises(ExceptionGroup, match="unhandled errors"),
    ):
        async with TaskGroup(grace=grace, throttler=throttler) as group:
            task = group.create_task(stubborn())
            group.create_task(failing_after(1, ValueError("no")))
    assert now() - started == 1 + grace
    assert statuses(group) == [CANCELLED, FAILED]
    assert [task.abandoned for task in group.result.results] == [True, False]
    assert "task '0' was abandoned" in caplog.text
    assert throttler.active == 1  # until it really ends
    await stubborn.let_go()
    assert task.result() == "late"
    assert throttler.active == 0
    assert statuses(group) == [CANCELLED, FAILED]


async def test_an_abandoned_child_of_a_group_past_its_deadline() -> None:
    stubborn = Stubborn()
    async with TaskGroup(timeout=1, grace=1, fail_fast=False) as group:
        group.create_task(stubborn())
    assert statuses(group) == [TIMEOUT]
    assert group.result.abandoned == 1
    await stubborn.let_go()
    assert statuses(group) == [TIMEOUT]


async def test_a_body_that_will_not_go_ends_when_it_ends() -> None:
    started = now()
    with pytest.raises(DeadlineExceeded):
        async with TaskGroup(timeout=1, grace=1) as group:
            group.create_task(hang())
            try:
                await hang()
            except asyncio.CancelledError:
                await asyncio.sleep(5)
                with pytest.raises(RuntimeError, match="is shutting down"):
                    group.create_task(hang())
    assert now() - started == 6
    assert cancelling() == 0


# The result.


async def test_the_result_is_live() -> None:
    async with TaskGroup(max_concurrent=1) as group:
        group.create_task(after(1, "a"))
        group.create_task(after(1, "b"))
        assert statuses(group) == [RUNNING, PENDING]
        assert group.result.results[1].started_at == 0.0
        await asyncio.sleep(1.5)
        assert statuses(group) == [COMPLETED, RUNNING]
        counts = group.result
        assert (counts.total, counts.completed) == (2, 1)
        assert not counts.all_succeeded
        group.create_task(after(1, "c"))
        assert group.result is counts
        assert counts.total == 3
    assert statuses(group) == [COMPLETED] * 3
    assert counts.total_duration_ms == 3000
    assert counts.all_succeeded
    assert not counts.reason


async def test_the_clock_of_a_child_that_waited() -> None:
    async with TaskGroup(max_concurrent=1) as group:
        await asyncio.sleep(1)
        group.create_task(after(2, "a"))
        group.create_task(after(3, "b"))
    first, second = group.result.results
    assert (first.queued_ms, second.queued_ms) == (0, 2000)
    assert second.started_at == first.finished_at
    assert (first.duration_ms, second.duration_ms) == (2000, 3000)


async def test_children_that_never_started_say_so() -> None:
    with pytest.raises(ExceptionGroup, match="unhandled errors"):
        async with TaskGroup(max_concurrent=1) as group:
            group.create_task(failing_after(1, ValueError("no")))
            task = group.create_task(hang())
    assert task.cancelled()
    never = group.result.results[1]
    assert (never.status, never.started_at, never.queued_ms) == (CANCELLED, 0.0, 1000)
    assert never.error is None


async def test_its_repr_says_how_far_it_is() -> None:
    group = TaskGroup()
    assert repr(group) == "<TaskGroup not entered, 0/0 completed>"
    async with group:
        group.create_task(after(1, "a"))
        group.create_task(after(3, "b"))
        await asyncio.sleep(2)
        assert repr(group) == "<TaskGroup entered, 1/2 completed>"
    assert repr(group) == "<TaskGroup finished, 2/2 completed>"


async def test_nothing_is_left_after_an_early_end() -> None:
    with pytest.raises(ExceptionGroup, match="unhandled errors"):
        async with TaskGroup(max_concurrent=2) as group:
            for _ in range(5):
                group.create_task(hang())
            raise ValueError("no")
    assert not alive()
    assert statuses(group) == [CANCELLED] * 5


async def test_a_task_factory_that_raises_leaves_nothing_of_a_context() -> None:
    async def tries() -> None:
        async with TaskGroup(fail_fast=False) as group:
            with no_tasks(), suppress(OSError):
                group.create_task(hang(), context=Context())

    await tries()
    gc.collect()


async def test_what_is_no_context_is_refused() -> None:
    coro = hang()
    async with asyncio.timeout(5), TaskGroup() as group:
        with pytest.raises(TypeError, match="context"):
            group.create_task(coro, context="mine")  # type: ignore[arg-type]  # the mistake


async def test_a_child_that_stops_its_group_in_its_last_step_has_one_outcome() -> None:
    async def stops(group: TaskGroup) -> str:
        await asyncio.sleep(1)
        with no_tasks(), suppress(OSError):
            group.create_task(hang())
        return "done"

    with pytest.raises(ExceptionGroup):
        async with TaskGroup() as group:
            task = group.create_task(stops(group))
    assert task.cancelled() == (statuses(group)[0] is TaskStatus.CANCELLED)


@pytest.mark.parametrize("group_class", [TaskGroup, asyncio.TaskGroup])
async def test_no_cancel_arrives_after_a_timeout_around_that_took_its_own_back(
    group_class: type[TaskGroup],
) -> None:
    with pytest.raises(ExceptionGroup):
        async with asyncio.timeout(1), group_class() as group:
            group.create_task(failing_in_cleanup(ValueError("late")))
            await hang()
    assert cancelling() == 0
    await asyncio.sleep(1)


async def test_a_cancel_that_is_on_its_way_at_the_entrance_comes_out() -> None:
    async def enters() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        async with TaskGroup() as group:
            children.append(group.create_task(hang()))
        return "completed"

    children: list[asyncio.Task[None]] = []
    task = asyncio.create_task(enters())
    await asyncio.wait([task])

    assert task.cancelled()
    assert children[0].cancelled()


async def test_a_cancel_that_the_body_swallowed_is_delivered_again_after_errors() -> None:
    async def swallows() -> str:
        with pytest.raises(ExceptionGroup):
            async with TaskGroup() as group:
                with suppress(asyncio.CancelledError):
                    await hang()
                group.create_task(failing_after(1, ValueError("x")))
        await asyncio.sleep(1)
        return "went on"

    assert (await cancelled_after(1, swallows())).cancelled()
