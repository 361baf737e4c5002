"""The one checker: after an example it asserts each promise, as far as it shows from outside.

It reads as the list of promises: what is asked of the whole story, then what of each run in it, and
of each task. The plan of every work is known, and what it did, so a result that is lost, swapped,
copied or made up is found. Claims of a single moment (limits, contexts, deadlines, the width) were
made in that moment by the works themselves, in world.py.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

from agentos_parallel import (
    DeadlineExceeded,
    FanOutError,
    ParallelError,
    SourceError,
    TaskResult,
    TaskStatus,
    TaskTimeout,
)
from tests.chaos.plans import EXITS, GROUPS, WINNERS
from tests.chaos.story import Story
from tests.chaos.world import MOMENT, Bubble, Episode, Execution, Work, closed, is_exit

COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED
TIMEOUT, CANCELLED = TaskStatus.TIMEOUT, TaskStatus.CANCELLED
FINAL = (COMPLETED, FAILED, TIMEOUT, CANCELLED)


def check(story: Story) -> None:
    """Assert all promises on *story*; all that are broken are told at once."""
    broken = list(story.world.broken)

    def claim(holds: object, promise: str, of: object = "") -> None:
        if not holds:
            broken.append(f"{promise} {of}".strip())

    for promise in OF_THE_STORY:
        promise(story, claim)
    for episode in story.world.episodes:
        for promise_ in OF_A_RUN:
            promise_(episode, claim)
        for task in episode.results:
            work = work_of(episode, task)
            if work is None:
                claim(False, f"P1: a result of no work, {task}")
                continue
            for promise__ in OF_A_TASK:
                promise__(work, task, claim)
    if broken:
        raise AssertionError("\n".join([*map(str, broken), *told(story)]))


def told(story: Story) -> Iterable[str]:
    """What happened, for whoever has to find out why."""
    yield f"in {story.example}; cancelled at {story.cancels}"
    for episode in story.world.episodes:
        yield (
            f"  {episode.fan.way} in {episode.parent}: {episode.began - 1000:g} to "
            f"{episode.ended - 1000:g}: {episode.counts!r} {episode.error!r}"
        )
        yield from (f"    {task} {work_of(episode, task)}" for task in episode.results)
        for work in episode.works:
            yield from (f"      {work} {execution}" for execution in work.executions)


Claim = Callable[..., None]


def work_of(episode: Episode, task: TaskResult[Any]) -> Work | None:
    works = [work for work in episode.works if episode.task_id(work.index) == task.task_id]
    return works[0] if works else None


def near(one: float, other: float) -> bool:
    return abs(one - other) < MOMENT


# Of the whole story.


def p02_nothing_outlives_the_call(story: Story, claim: Claim) -> None:
    dropped = any(episode.dropped for episode in story.world.episodes)
    if not story.abandoned and not dropped:
        claim(not story.works_left, "P2: works outlive the call:", story.works_left)
        claim(not story.tasks_left, "P2: tasks outlive the call:", story.tasks_left)
    # What is nested in an abandoned work is cancelled with it, and goes a moment later.
    left = [w for w in story.works_left if w.episode.parent not in story.works_left]
    claim(len(left) <= len(story.abandoned), "P2: not told of:", left)
    claim(not story.tasks_at_last, "P2: tasks are never at their end:", story.tasks_at_last)
    alive = [work for each in story.world.episodes for work in each.works if work.alive]
    claim(not alive, "P2: works are never at their end:", alive)


def p02_every_abandoned_task_is_logged(story: Story, claim: Claim) -> None:
    results = [task for each in story.world.episodes for task in each.results if task.abandoned]
    claim(len(results) <= len(story.abandoned), "P2: abandoned and not logged:", results)


def p02_a_dropped_stream_ends_its_works(story: Story, claim: Claim) -> None:
    late = []
    for episode in story.world.episodes:
        for execution in lasts(episode) if episode.dropped else ():
            dropped_at = episode.stopped_reading + MOMENT
            claim(execution.began <= dropped_at, "P2: starts when its stream is dropped")
            late += [execution] * (execution.ended > dropped_at + episode.grace)
    claim(len(late) <= len(story.abandoned), "P2: works outlive their streams:", late)


def p03_every_coroutine_is_awaited_or_closed(story: Story, claim: Claim) -> None:
    left = [coroutine for coroutine in story.world.coroutines if not closed(coroutine)]
    claim(not left, "P3: left open:", left)


def p07_the_callers_cancels_are_counted_right(story: Story, claim: Claim) -> None:
    """That none was swallowed or made up, the runs claimed themselves."""
    error = story.outermost.error
    later = story.outermost.fan.way in GROUPS and isinstance(error, ExceptionGroup)
    if story.cancels and not is_exit(error) and not later:
        claim(isinstance(error, asyncio.CancelledError), "P7: cancelled, and out came", repr(error))
    if not story.cancels:
        claim(not isinstance(error, asyncio.CancelledError), "P7: CancelledError from nowhere")


def p07_a_cancel_ends_the_run_within_grace(story: Story, claim: Claim) -> None:
    outermost = story.outermost
    if story.cancels:
        late = outermost.ended - story.cancels[0] - outermost.grace
        claim(late < MOMENT, f"P7: {late} s over its grace after a cancel")
        for work in outermost.works:
            began = [e.began for e in work.executions if e.began > story.cancels[0] + MOMENT]
            claim(not began, "P7: starts after the cancel:", work)


def p11_the_callers_context_is_its_own(story: Story, claim: Claim) -> None:
    claim(story.own_context, "P11: a work changed the context of the caller")


def p12_no_slot_is_lost(story: Story, claim: Claim) -> None:
    own = [each.own for each in story.world.episodes if each.own is not None]
    for throttler in (*story.world.throttlers, story.world.by_hand, *own):
        left = (throttler.active, throttler.waiting)
        claim(left == (0, 0), "P12: active and waiting in the end:", left)
    working = +story.world.working
    claim(not working, "P12: somebody still works", working)


def p12_first_come_first_served(story: Story, claim: Claim) -> None:
    for number in range(len(story.world.throttlers)):
        served = [(at, asked) for throttler, asked, at in story.served if throttler == number]
        in_turn = sorted(sorted(served), key=lambda one: one[1])
        claim(sorted(served) == in_turn, "P12: served out of turn:", served)


def callbacks_never_raise(story: Story, claim: Claim) -> None:
    claim(not story.in_callbacks, "P2: the loop was told of", story.in_callbacks)


OF_THE_STORY = (
    p02_nothing_outlives_the_call,
    p02_every_abandoned_task_is_logged,
    p02_a_dropped_stream_ends_its_works,
    p03_every_coroutine_is_awaited_or_closed,
    p07_the_callers_cancels_are_counted_right,
    p07_a_cancel_ends_the_run_within_grace,
    p11_the_callers_context_is_its_own,
    p12_no_slot_is_lost,
    p12_first_come_first_served,
    callbacks_never_raise,
)


# Of each run.


def p01_one_result_per_work_in_input_order(episode: Episode, claim: Claim) -> None:
    ids = [task.task_id for task in episode.results]
    claim(len(set(map(id, episode.results))) == len(ids) == len(set(ids)), "P1: twice:", ids)
    if episode.counts is not None and not episode.fan.streams:
        claim(ids == [episode.task_id(n) for n in range(len(episode.drawn))], "P1: ids", ids)
    if episode.fan.way == "ordered":
        claim(ids == [episode.task_id(n) for n in range(len(ids))], "P1: out of order:", ids)
    to_the_end = episode.fan.reader.ending == "to the end"
    if episode.fan.streams and to_the_end and came_to_its_end(episode):
        claim(len(ids) == len(episode.drawn), "P1: results are missing:", ids)


def came_to_its_end(episode: Episode) -> bool:
    """Its last result was given, if it was a stream: no cancel and no exit came between."""
    error = episode.error
    return not (is_exit(error) or isinstance(error, asyncio.CancelledError)) and (
        not (
            isinstance(error, Exception) and episode.parent is not None and episode.fan.reader.pause
        )
        or isinstance(error, Bubble | SourceError | DeadlineExceeded)
    )


def p01_the_counts_add_up(episode: Episode, claim: Claim) -> None:
    counts = episode.counts
    if counts is None:
        return
    four = (counts.completed, counts.failed, counts.timed_out, counts.cancelled)
    claim(sum(four) == counts.total == len(episode.drawn), "P1: counts", (*four, counts.total))
    if not episode.fan.streams:
        statuses = [task.status for task in counts.results]
        claim(four == tuple(map(statuses.count, FINAL)), "P1: counts and statuses:", counts)


def p01_p10_all_succeeded(episode: Episode, claim: Claim) -> None:
    counts = episode.counts
    if counts is not None:
        all_drawn = len(episode.drawn) == len(episode.works) and episode.source_error is None
        known = episode.fan.way in GROUPS  # what was never handed over, nobody knows of
        claim(
            not counts.all_succeeded or all_drawn or known, "P10: all_succeeded, and not drawn out"
        )
        if episode.fan.sized:
            all_done = counts.completed == counts.total
            claim(counts.all_succeeded == all_done, "P1: all_succeeded", counts)


def p02_who_is_left_alive_is_abandoned(episode: Episode, claim: Claim) -> None:
    by_id = {task.task_id: task for task in episode.results}
    for work in episode.left_alive:
        task = by_id.get(episode.task_id(work.index))
        claim(task is None or task.abandoned, "P2: alive, and not reported abandoned:", task)


def p05_the_deadline_bounds_the_run(episode: Episode, claim: Claim) -> None:
    if episode.exact:
        late = over_at(episode) - episode.deadline - episode.grace
        claim(late < MOMENT, f"P5: {late} s over deadline and grace:", episode.counts)
        for work in episode.works:
            began = [e.began for e in work.executions if e.began > episode.deadline + MOMENT]
            claim(not began, "P5: starts after the deadline:", work)


def over_at(episode: Episode) -> float:
    """When the run was over: its consumer's time, and the taking back of slots, come after."""
    if episode.counts is not None:
        return episode.began + episode.counts.total_duration_ms / 1000
    if episode.parent is None and not episode.fan.streams:
        return episode.ended
    return episode.began


def p04_the_run_takes_its_time(episode: Episode, claim: Claim) -> None:
    counts = episode.counts
    if counts is None or episode.fan.streams or not episode.exact:
        return
    took = (episode.ended - episode.began) * 1000
    claim(counts.total_duration_ms <= took + MOMENT, "P4: took", counts.total_duration_ms)
    if episode.parent is None:
        claim(near(counts.total_duration_ms, took), "P4: took", counts.total_duration_ms)


def p05_a_stop_cancels_what_runs(episode: Episode, claim: Claim) -> None:
    """Every leaf that runs when the run stops sees its cancel in that moment."""
    moment = stopped_at(episode)
    if moment is None or moment == math.inf:
        return
    settled = {task.task_id for task in episode.results if task.finished_at <= moment + MOMENT}
    for work in episode.works:
        given_up = episode.task_id(work.index) in settled
        for execution in [] if given_up else work.executions:
            through = execution.began < moment - MOMENT and execution.ended > moment + MOMENT
            if (
                through
                and not work.plan.fans
                and not work.plan.sync
                and "lend" not in work.plan.kind
            ):
                seen = any(near(cancel, moment) for cancel in execution.cancels)
                given_up = any(at + episode.grace < moment + MOMENT for at in execution.cancels)
                claim(seen or given_up, f"P5, P7: not cancelled at {moment - 1000:g} s:", work)


def stopped_at(episode: Episode) -> float | None:
    """When the run was stopped; None where that can't be known from outside."""
    undisturbed = episode.parent is None or is_done(episode.parent)
    told_all = episode.counts is not None or not episode.fan.rule
    if not (undisturbed and told_all and episode.exact) or episode.fan.way in (*WINNERS, *GROUPS):
        return None
    unknown = episode.fan.streams or (not episode.fan.sized and "min" in episode.fan.rule)
    if unknown and episode.fan.rule:
        return None
    exits = [e.ended for work in episode.works for e in work.executions if is_exit(e.error)]
    return min(
        episode.deadline,
        episode.stopped_reading,
        rule_met_at(episode),
        *exits,
        *(episode.world.caller_cancelled if episode.parent is None else ()),
    )


def is_done(work: Work) -> bool:
    return work.last is not None and work.last.value is not None


def succeeded(work: Work) -> bool:
    return is_done(work) and work.plan.kind != "cancel itself at the end"


def succeeded_in_time(work: Work) -> bool:
    last, grace = work.last, work.episode.grace
    given_up = last is not None and any(at + grace < last.ended for at in last.cancels)
    return succeeded(work) and not given_up


def rule_met_at(episode: Episode) -> float:
    """When the stop rule had its reason; infinity: never, or it can't be known."""
    rule, counts = episode.fan.rule, episode.counts
    results = sorted(episode.results, key=lambda task: task.finished_at)
    if counts is None or (episode.fan.streams and len(results) < len(episode.drawn)):
        return math.inf
    won = [task.finished_at for task in results if task.status is COMPLETED]
    if episode.fan.way in WINNERS:
        return won[0] if won else math.inf
    if rule == "fail_fast":
        lost = [task.finished_at for task in results if task.status in (FAILED, TIMEOUT)]
        return lost[0] if lost else math.inf
    if rule:
        k = int(rule.removeprefix("min_success "))
        return won[k - 1] if len(won) >= k else out_of_reach_at(episode, k)
    return math.inf


def out_of_reach_at(episode: Episode, k: int) -> float:
    if not episode.fan.sized or any(isinstance(task.error, Bubble) for task in episode.results):
        return math.inf
    lost = sorted(task.finished_at for task in episode.results if task.status is not COMPLETED)
    return lost[len(episode.works) - k]


def p06_an_error_keeps_its_result(episode: Episode, claim: Claim) -> None:
    """Also where it passes through a run around."""
    error, result = episode.error, episode.error_result
    if isinstance(error, ParallelError) and result is not None:
        claim(error.result is result, "P6: a nested run's finished work was lost:", repr(result))


def the_stop_rule_is_kept(episode: Episode, claim: Claim) -> None:
    """Nothing starts after the rule has its reason, and what runs then is given up in time."""
    met = rule_met_at(episode)
    if met == math.inf or not episode.exact:
        return
    for task in episode.results:
        claim(task.started_at <= met + MOMENT, "rule: starts after the stop:", task)
    late = over_at(episode) - met - episode.grace
    claim(late < MOMENT, f"rule: {late} s over its grace after the stop")


def the_winner_is_the_first_success(episode: Episode, claim: Claim) -> None:
    if episode.error is not None or episode.fan.way not in WINNERS:
        return
    if episode.fan.way == "race":
        answered = [work.last for work in episode.works if work.last and succeeded_in_time(work)]
        # A thread's answer may have come when it was abandoned: it can win, and need not.
        certain = [
            w.last for w in episode.works if w.last and not w.plan.sync and succeeded_in_time(w)
        ]
        first = min((execution.ended for execution in certain), default=math.inf)
        mine = [e.ended for e in answered if e.value is episode.outcome is not None]
        claim(len(mine) == 1 and mine[0] < first + MOMENT, "first: not the first success")
        return
    outcome, done = episode.outcome, [t for t in episode.results if t.status is COMPLETED]
    claim((outcome.winner is None) == (not done), "first: winner", outcome.winner)
    if done:
        won = outcome.gather.by_id[outcome.winner]
        claim(outcome.value is won.result, "first: the value is another's")
        claim(near(won.finished_at, min(t.finished_at for t in done)), "first: not the first:", won)


def a_merge_gets_the_successes_in_input_order(episode: Episode, claim: Claim) -> None:
    if episode.fan.way != "merge" or episode.counts is None or episode.error is not None:
        return
    values = [task.result for task in episode.results if task.status is COMPLETED]
    k = int(episode.fan.rule.removeprefix("min_success ")) if "min" in episode.fan.rule else 1
    if len(values) < k:
        claim(episode.merged is episode.outcome.value is None, "merge: of too few", episode.merged)
        return
    same = episode.merged is not None and list(map(id, episode.merged)) == list(map(id, values))
    claim(same and episode.outcome.value is episode.merged, "merge: merged", episode.merged)


def p06_p07_p08_what_comes_out(episode: Episode, claim: Claim) -> None:
    """An exit goes before a cancel, this before control flow, the source's error, the deadline."""
    error = episode.error
    if episode.dropped or episode.fan.way in GROUPS:
        return
    if exit_must_come_out(episode):
        claim(is_exit(error), "P7: an exit was swallowed, out came", repr(error))
    if is_exit(error):
        claim(any(e.error is error for e in lasts(episode)), "P7: whose exit?", repr(error))
    elif isinstance(error, asyncio.CancelledError):
        return
    elif bubbles(episode) and episode.fan.reader.ending == "to the end":
        # What a thread raised in the moment in which it was abandoned came too late.
        told = [work.last.error for work in bubbles(episode) if work.last]
        first = next((work for work in bubbles(episode) if not work.plan.sync), None)
        until = told.index(first.last.error) + 1 if first and first.last else len(told)
        early = any(error is one for one in told[:until])
        claim(early or (first is None and not isinstance(error, Bubble)),
              "P8: control flow, and out came", repr(error))  # fmt: skip
    elif isinstance(error, Bubble):
        claim(any(e.error is error for e in lasts(episode)), "P8: whose control flow?", repr(error))
    elif episode.fan.way == "race" and any(came_from(error, e.error) for e in lasts(episode)):
        p06_the_first_error_of_a_race(episode, claim)
    elif isinstance(error, SourceError):
        ours = error.__cause__ is episode.source_error is not None
        claim(ours and error.result is not None, "P6, P10: SourceError without", repr(error.result))
    elif episode.fan.way == "race":
        p06_the_first_error_of_a_race(episode, claim)
    elif isinstance(error, DeadlineExceeded):
        p06_the_deadline_comes_out(episode, claim)
    elif isinstance(error, ValueError):
        claim(not episode.drawn and episode.fan.way in ("first", "merge"), "P14?", repr(error))
    else:
        claim(error is None or is_of_its_reader(episode), "P6: out came", repr(error))
        nothing_had_to_come_out(episode, claim)


def p07_p08_what_comes_out_of_a_group(episode: Episode, claim: Claim) -> None:
    """All errors in a group, of a strict one; a supervisor keeps them but for exits."""
    error = episode.error
    if episode.fan.way not in GROUPS or isinstance(error, asyncio.CancelledError):
        return
    lost = [task for task in episode.results if task.status in (FAILED, TIMEOUT)]
    mine = [*(task.error for task in episode.results), *(e.error for e in lasts(episode))]
    if isinstance(error, BaseExceptionGroup):
        told = error.exceptions
        claim(all(any(one is each for each in mine) for one in told), "P7: whose errors?", told)
        if episode.fan.way == "supervisor":
            claim(not any(isinstance(one, Exception) for one in told), "P7: of a supervisor:", told)
        else:
            claim({id(task.error) for task in lost} == set(map(id, told)), "P7: not all of", lost)
    elif isinstance(error, DeadlineExceeded) and not any(error is one for one in mine):
        strict = episode.fan.way == "group" and error.result is not None
        claim(strict and "timed out" in str(error), "P6: out came", repr(error))
    elif error is not None:
        own = any(error is one for one in mine) and (isinstance(error, Bubble) or is_exit(error))
        claim(own, "P7, P8: out came", repr(error))
    else:
        claim(episode.fan.way == "supervisor" or not lost, "P7: nothing came out of", lost)
        bubbled = [task for task in episode.results if isinstance(task.error, Bubble)]
        claim(not bubbled, "P8: control flow was swallowed:", bubbled)
    if exit_must_come_out(episode):
        claim(is_exit(error), "P7: an exit was swallowed, out came", repr(error))


def lasts(episode: Episode) -> list[Execution]:
    return [work.last for work in episode.works if work.last is not None]


def exit_must_come_out(episode: Episode) -> bool:
    return any(
        work.last is not None
        and is_exit(work.last.error)
        and work.last.ended < episode.ended - MOMENT
        for work in episode.works
        if work.plan.kind in EXITS and episode.stopped_reading > (work.last or episode).ended
    )


def bubbles(episode: Episode) -> list[Work]:
    """Who raised control flow that has to come out, in input order."""
    if episode.fan.way in WINNERS and any(t.status is COMPLETED for t in episode.results):
        return []
    if episode.fan.way == "race" and any(map(succeeded_in_time, episode.works)):
        return []
    return [
        work
        for work in episode.works
        if work.last and isinstance(work.last.error, Bubble) and work.last.ended <= episode.ended
    ]


def is_of_its_reader(episode: Episode) -> bool:
    """A reader in a work may be ended by a scope of that work's own."""
    return episode.fan.streams and episode.parent is not None


def p06_the_first_error_of_a_race(episode: Episode, claim: Claim) -> None:
    error = episode.error
    if error is None or isinstance(
        error, FanOutError | SourceError | DeadlineExceeded | TaskTimeout
    ):
        return
    if isinstance(error, ValueError) and not episode.drawn:
        return
    raised = [execution.error for execution in lasts(episode)]
    claim(any(came_from(error, one) for one in raised), "first: whose error?", repr(error))
    done = list(filter(succeeded_in_time, episode.works))
    in_time = [
        w for w in done if w.last and w.last.ended < episode.ended - MOMENT and not w.plan.sync
    ]
    claim(not in_time, "first: an error came out, and there is a success:", in_time)


def came_from(error: BaseException | None, raised: BaseException | None) -> bool:
    """*error* is what a work *raised*; Python itself wraps a StopIteration."""
    if isinstance(raised, StopIteration):
        return isinstance(error, RuntimeError) and error.__cause__ is raised
    return error is raised


def p06_the_deadline_comes_out(episode: Episode, claim: Claim) -> None:
    error = episode.error
    assert isinstance(error, DeadlineExceeded)
    wanted = not episode.fan.return_partial if episode.fan.way == "gather" else (
        episode.fan.streams and not episode.fan.sized
    )  # fmt: skip
    if is_of_its_reader(episode) and error.result is None:
        return
    claim(wanted and error.result is not None and "timed out" in str(error), "P6: out came", error)
    claim(episode.ended >= episode.deadline - MOMENT, "P5: before its time:", error)


def nothing_had_to_come_out(episode: Episode, claim: Claim) -> None:
    counts, fan = episode.counts, episode.fan
    if fan.streams or counts is None:
        return
    won = fan.way in WINNERS and counts.completed
    late = fan.source.slow  # its error has not come out of it before its cleanup ends
    claim(
        episode.source_error is None or won or late, "P10: the source raised, and nothing came out"
    )
    if fan.way == "gather" and not fan.return_partial:
        claim(not counts.reason.startswith("its timeout"), "P6: the deadline did not come out")
    if not counts.reason:
        unstarted = [task for task in counts.results if not task.started_at]
        claim(not unstarted, "P4: never started, and no reason given:", unstarted)


def p10_sources_are_closed(episode: Episode, claim: Claim) -> None:
    claim(len(episode.drawers) <= 1, "P10: drawn and closed by several tasks", episode.drawers)
    if episode.source_began:
        claim(episode.source_closed == 1, "P10: source closed", episode.source_closed)
    for source in episode.open_sources:
        ended = (
            inspect.getgeneratorstate(source) == inspect.GEN_CLOSED
            if inspect.isgenerator(source)
            else source.ag_frame is None
        )
        never_opened = episode.fan.streams and not episode.source_began
        claim(ended or never_opened, "P10: its source is open")


def p10_p12_works_start_in_input_order(episode: Episode, claim: Claim) -> None:
    """Those that need the same throttlers; when a thread begins is the system's affair."""
    if episode.fan.by_threads or not episode.exact:
        return
    lanes: dict[frozenset[Any], list[int]] = {}
    for work in episode.works:
        if work.executions and not work.plan.sync:
            key = frozenset(episode.throttlers_of(work.index))
            lanes.setdefault(key, []).append(work.executions[0].order)
    for orders in lanes.values():
        claim(orders == sorted(orders), "P10: works start out of order:", orders)


OF_A_RUN = (
    p01_one_result_per_work_in_input_order,
    p01_the_counts_add_up,
    p01_p10_all_succeeded,
    p02_who_is_left_alive_is_abandoned,
    p04_the_run_takes_its_time,
    p05_the_deadline_bounds_the_run,
    p05_a_stop_cancels_what_runs,
    p06_p07_p08_what_comes_out,
    p06_an_error_keeps_its_result,
    p07_p08_what_comes_out_of_a_group,
    p10_sources_are_closed,
    p10_p12_works_start_in_input_order,
    the_stop_rule_is_kept,
    the_winner_is_the_first_success,
    a_merge_gets_the_successes_in_input_order,
)


# Of each task.


def p01_its_outcome_is_its_works_own(work: Work, task: TaskResult[Any], claim: Claim) -> None:
    """The very value that its work returned, or the very error that it raised."""
    claim(task.status in FINAL, "P1: not final:", task)
    claim(task.result is None or task.status is COMPLETED, "P1: a result:", task)
    last = work.last
    if task.status is COMPLETED:
        own = last is not None and task.result is last.value is not None
        claim(own and task.error is None, f"P1: not what {work} returned:", task)
    elif not stopped_by_its_run(work, task):
        own = last is not None and came_from(task.error, last.error)
        claim(own, f"P5: {task.error!r} is not what {work} raised")
        claim(task.status is status_of(task.error), "P5: status:", task)


def status_of(error: BaseException | None) -> TaskStatus:
    if isinstance(error, asyncio.CancelledError | Bubble):
        return CANCELLED
    return TIMEOUT if isinstance(error, TimeoutError) else FAILED


def stopped_by_its_run(work: Work, task: TaskResult[Any]) -> bool:
    """Its status is that of a reason, not of what it did."""
    own = (
        work.last is not None and task.error is not None and came_from(task.error, work.last.error)
    )
    if own:
        return False
    if task.status is TIMEOUT:
        return isinstance(task.error, DeadlineExceeded | TaskTimeout)
    in_the_end = work.plan.kind == "cancel itself at the end"
    made_up = isinstance(task.error, asyncio.CancelledError) and in_the_end
    return task.status is CANCELLED and (task.error is None or made_up)


def p05_what_it_did_counts(work: Work, task: TaskResult[Any], claim: Claim) -> None:
    """Who ends by himself in time counts as what he did, whatever ended the run."""
    last = work.last
    if last is None or task.abandoned or not stopped_by_its_run(work, task):
        return
    lets_through = isinstance(last.error, asyncio.CancelledError)
    in_the_end = work.plan.kind == "cancel itself at the end"
    before_its_next = work.episode.fan.way == "retry"
    from_thread = (work.plan.sync or work.episode.fan.by_threads) and near(
        last.ended, task.finished_at
    )
    claim(lets_through or in_the_end or before_its_next or from_thread,
          f"P5: {work} ended by itself, and is", task)  # fmt: skip


def p05_its_reason_is_a_true_one(work: Work, task: TaskResult[Any], claim: Claim) -> None:
    if not work.episode.exact or not stopped_by_its_run(work, task):
        return
    episode, error, at = work.episode, task.error, task.finished_at + MOMENT
    if isinstance(error, DeadlineExceeded):
        claim(at >= episode.deadline, "P5: before the deadline:", task)
        word = "timed out" if task.started_at else "never started"
        claim(word in str(error), "P4, P5: text:", error)
    elif isinstance(error, TaskTimeout):
        allowed = episode.task_timeout(work.index)
        began = work.last.began if work.last else task.started_at
        timely = allowed is not None and at >= began + allowed and task.started_at
        claim(timely, f"P4: {allowed} s from {began - 1000:g} s:", task)
    else:
        let_go = work.last.cancels[0] if work.last and work.last.cancels else None
        when = task.finished_at if not task.started_at else let_go
        claim(when is None or when <= episode.deadline + MOMENT, "P5: cancelled late:", task)


def p04_task_timeout_ends_each_attempt(work: Work, task: TaskResult[Any], claim: Claim) -> None:
    allowed = work.episode.task_timeout(work.index)
    scope = work.plan.fans or work.plan.sync or "lend" in work.plan.kind
    if allowed is None or scope or not work.episode.exact or work.episode.fan.by_threads:
        return
    for execution in work.executions:
        due = execution.began + allowed
        if execution.ended > due + MOMENT:
            earlier = [cancel for cancel in execution.cancels if cancel < due + MOMENT]
            claim(earlier, f"P4: not cancelled after {allowed} s:", work)


def p04_clocks_start_with_the_slot(work: Work, task: TaskResult[Any], claim: Claim) -> None:
    if not task.started_at:
        claim(not work.executions, "P4: never started, and ran:", task)
        claim(task.duration_ms == 0 and not isinstance(task.error, TaskTimeout), "P4:", task)
        claim("timed out" not in str(task.error), "P4: timed out, and never started:", task.error)
    if not work.episode.exact:
        return
    first = work.executions[0] if work.executions else None
    claim(first is None or near(first.began, task.started_at), "P4: started_at", task.started_at)
    since = work.episode.drawn[work.index]
    waited = ((task.started_at or task.finished_at) - since) * 1000
    parent = work.episode.parent
    delayed = parent is not None and parent.episode.fan.way == "retry"  # opened after its threads
    exact = near(task.queued_ms, waited) or (delayed and 0 <= task.queued_ms <= waited)
    streams_rest = work.episode.fan.streams and not task.started_at
    claim(exact or streams_rest, f"P4: queued_ms {task.queued_ms}, waited {waited}:", task)


def p04_its_duration_is_that_of_its_attempts(
    work: Work, task: TaskResult[Any], claim: Claim
) -> None:
    retried = work.episode.fan.way == "retry"
    claim(task.retries == 0 or retried, "P4: retries", task)
    if not work.episode.exact or not task.started_at:
        return
    claim(task.finished_at >= task.started_at, "P4: ends before it starts:", task)
    took = (task.finished_at - task.started_at) * 1000
    if not retried:
        claim(
            near(task.duration_ms, took), f"P4: duration_ms {task.duration_ms}, took {took}:", task
        )
    elif not work.plan.sync and not task.abandoned:
        ran = sum(execution.ended - execution.began for execution in work.executions) * 1000
        claim(near(task.duration_ms, ran), f"P4: duration_ms {task.duration_ms}, ran {ran}:", task)
        claim(task.retries == max(0, len(work.executions) - 1), "P4: retries", task.retries)


def p04_it_ends_when_its_work_ends(work: Work, task: TaskResult[Any], claim: Claim) -> None:
    last = work.last
    if last is None or not work.episode.exact or work.episode.fan.way == "retry":
        return
    if task.abandoned:
        claim(last.ended >= task.finished_at - MOMENT, "P2: ended, and abandoned after:", task)
    elif not (work.plan.sync or work.episode.fan.by_threads):
        claim(near(last.ended, task.finished_at), f"P4: finished_at, {last.ended}:", task)


def p02_a_thread_gets_no_grace(work: Work, task: TaskResult[Any], claim: Claim) -> None:
    """It is reported abandoned at once: by then its work had not ended."""
    last = work.last
    if not work.plan.kind.startswith("sync") or last is None or not work.episode.exact:
        return
    if last.ended > task.finished_at + MOMENT:
        claim(task.abandoned, "P2: its thread is alive, and it is not abandoned:", task)


OF_A_TASK = (
    p01_its_outcome_is_its_works_own,
    p02_a_thread_gets_no_grace,
    p04_clocks_start_with_the_slot,
    p04_its_duration_is_that_of_its_attempts,
    p04_it_ends_when_its_work_ends,
    p04_task_timeout_ends_each_attempt,
    p05_what_it_did_counts,
    p05_its_reason_is_a_true_one,
)
