"""For all tests: virtual time, and nothing left behind.

Async tests run on a clock that jumps (tests/virtual_time.py) unless they are marked `realtime`.
Sockets reach no further than this machine (pytest-socket). A test that passes but leaves a task or
a thread at work behind fails, unless it is marked `leaky`.
"""

import asyncio
import functools
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Generator, Mapping
from typing import TypeAlias

import pytest

from tests import virtual_time
from tests.virtual_time import threads_at_work

collect_ignore = ["benchmarks", "typing"]

LoopFactory: TypeAlias = Callable[[], asyncio.AbstractEventLoop]

LINGER = 2.0  # real seconds that a thread has to end after its test

loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--eager-tasks",
        action="store_true",
        help="run async tests with asyncio.eager_task_factory (Python 3.12 and later)",
    )
    parser.addoption("--uvloop", action="store_true", help="run all event loops on uvloop")
    parser.addoption(
        "--blockbuster",
        action="store_true",
        help="a call in the package that blocks a running event loop is an error",
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a script's background job
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("PYTHONASYNCIODEBUG"):
        config.option.asyncio_debug = True  # pytest-asyncio would switch it off
    if config.getoption("uvloop"):
        import uvloop

        from tests.virtual_uvloop import VirtualUvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        virtual_time.new_loop = VirtualUvloop
    if config.getoption("blockbuster"):
        from blockbuster import BlockBuster

        blockbuster = BlockBuster("agentos_parallel")
        # A sync call on a loop's own thread waits on purpose, and a new thread for its first step.
        waits = blockbuster.functions["threading.Lock.acquire"]
        waits.can_block_in("agentos_parallel/_core/threads.py", {"_wait", "start", "_loop_at"})
        blockbuster.activate()


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    eager: bool = config.getoption("eager_tasks")
    if item.get_closest_marker("realtime"):
        return {"realtime": functools.partial(make_loop, asyncio.new_event_loop, eager)}
    return {"virtual": functools.partial(make_loop, virtual_time.new_loop, eager)}


def make_loop(factory: LoopFactory, eager: bool) -> asyncio.AbstractEventLoop:
    loop = factory()
    if eager and sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
    loops.add(loop)
    return loop


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    tasks, threads = pending_tasks(), threads_at_work()
    result = yield
    if item.get_closest_marker("leaky"):
        return result

    left = [*(pending_tasks() - tasks), *lasting(threads)]
    if left:
        pytest.fail(f"the test left behind: {left}", pytrace=False)
    return result


def pending_tasks() -> set[asyncio.Task[object]]:
    open_loops = [loop for loop in loops if not loop.is_closed()]
    return {task for loop in open_loops for task in asyncio.all_tasks(loop)}


def lasting(before: set[threading.Thread]) -> set[threading.Thread]:
    """Threads that were not there *before* and are still at work when their time is up."""
    until = time.monotonic() + LINGER
    while (left := threads_at_work() - before) and time.monotonic() < until:
        time.sleep(0.001)
    return left
