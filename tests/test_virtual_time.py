"""The clock that jumps: exact, and patient with whoever works outside of it."""

import asyncio
import threading
import time

import pytest

from agentos_parallel._core import threads
from tests.virtual_time import START, DeadlockError, run_virtually


async def test_an_idle_loop_jumps_to_its_next_timer_exactly() -> None:
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    assert loop.time() == START

    await asyncio.sleep(3600)
    assert (loop.time() - START) * 1000 == 3_600_000
    await asyncio.sleep(0.1)
    await asyncio.sleep(0.2)
    assert loop.time() == START + 3600.3
    assert time.monotonic() - began < 1


async def test_a_thread_of_asyncio_is_not_overtaken() -> None:
    loop = asyncio.get_running_loop()
    loop.call_later(60, pytest.fail, "overtaken")
    await asyncio.to_thread(time.sleep, 0.05)
    assert loop.time() == START


async def test_a_thread_of_the_package_is_not_overtaken() -> None:
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def work() -> None:
        time.sleep(0.05)
        loop.call_soon_threadsafe(done.set_result, None)

    threads.start(work)
    async with asyncio.timeout(60):
        await done
    assert loop.time() == START


async def test_an_idle_thread_of_the_package_holds_nothing_up() -> None:
    began = time.monotonic()
    threads.start(lambda: None)
    await asyncio.sleep(60)
    assert time.monotonic() - began < 1


async def test_a_timeout_ends_the_wait_for_a_thread() -> None:
    release = threading.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await asyncio.to_thread(release.wait)
    release.set()


async def test_sockets_of_this_machine_are_open() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello\n")
    assert await reader.readline() == b"hello\n"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_sockets_to_elsewhere_are_closed() -> None:
    if not isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop):
        pytest.skip("uvloop makes its sockets itself")
    with pytest.raises(Exception, match=r"tried to use socket\.socket\.connect"):
        await asyncio.open_connection("192.0.2.1", 80)


def test_a_deadlock_is_an_error_at_once() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match="hang"):
        run_virtually(hang())


def test_a_timer_at_infinity_is_a_deadlock() -> None:
    with pytest.raises(DeadlockError):
        run_virtually(asyncio.sleep(float("inf")))


@pytest.mark.realtime
async def test_the_real_clock_is_there_on_demand() -> None:
    assert abs(asyncio.get_running_loop().time() - time.monotonic()) < 1
