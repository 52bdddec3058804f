"""The loop that all requests run on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from langchain_hfembed.http import background


async def where() -> tuple[asyncio.AbstractEventLoop, int]:
    await asyncio.sleep(0)
    return asyncio.get_running_loop(), threading.get_ident()


def in_new_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_result_comes_back():
    async def answer() -> int:
        return 42

    assert background.run(answer()) == 42


async def test_a_result_comes_back_to_a_loop():
    async def answer() -> int:
        return 42

    assert await background.arun(answer()) == 42


def test_an_error_comes_back():
    async def fail() -> None:
        raise ZeroDivisionError("here")

    with pytest.raises(ZeroDivisionError, match="here"):
        background.run(fail())
    with pytest.raises(ZeroDivisionError, match="here"):
        asyncio.run(background.arun(fail()))


def test_threads_meet_on_one_loop_and_do_not_wait_for_each_other():
    """Each of the eight ends only when all have come."""
    come: set[int] = set()

    async def meet(number: int) -> tuple[asyncio.AbstractEventLoop, int]:
        come.add(number)
        while len(come) < 8:
            await asyncio.sleep(0.001)
        return await where()

    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(lambda n: background.run(meet(n)), range(8), timeout=10))
    assert len(set(places)) == 1
    assert places[0][0] is background.loop()
    assert places[0][1] != threading.get_ident()


def test_loops_meet_on_one_loop_one_after_the_other_and_at_once():
    async def twice() -> list[tuple[asyncio.AbstractEventLoop, int]]:
        return await asyncio.gather(background.arun(where()), background.arun(where()))

    places = asyncio.run(twice()) + asyncio.run(twice())
    with ThreadPoolExecutor(4) as pool:
        for more in pool.map(lambda _: asyncio.run(twice()), range(4)):
            places += more
    assert {loop for loop, _ in places} == {background.loop()}


def test_the_first_threads_to_come_start_one_loop_together():
    said = in_new_process("""
        import threading
        from concurrent.futures import ThreadPoolExecutor
        from langchain_hfembed.http import background

        start = threading.Barrier(16)

        def loop(_):
            start.wait()
            return background.loop()

        assert threading.active_count() == 1  # importing starts nothing
        with ThreadPoolExecutor(16) as pool:
            loops = set(pool.map(loop, range(16)))
        print(len(loops), [t.name for t in threading.enumerate()].count("hfembed-http"))
    """)
    assert said.split() == ["1", "1"]


def test_a_sync_call_from_a_running_loop_does_not_deadlock():
    async def call() -> int:
        async def answer() -> int:
            return 42

        return background.run(answer())

    assert asyncio.run(asyncio.wait_for(call(), 10)) == 42


class Endless:
    """A coroutine that tells when it runs, and when it is cancelled."""

    def __init__(self) -> None:
        self.running, self.cancelled = threading.Event(), threading.Event()

    async def run(self) -> None:
        self.running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def test_who_is_cancelled_cancels_the_coroutine():
    endless = Endless()
    call = asyncio.create_task(background.arun(endless.run()))
    while not endless.running.is_set():
        await asyncio.sleep(0.001)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await asyncio.to_thread(endless.cancelled.wait, 10)


async def test_who_has_no_more_time_cancels_the_coroutine():
    endless = Endless()
    with pytest.raises((asyncio.TimeoutError, TimeoutError)):
        await asyncio.wait_for(background.arun(endless.run()), 0.05)
    assert await asyncio.to_thread(endless.cancelled.wait, 10)


async def test_who_is_cancelled_leaves_the_others_alone():
    first, second = Endless(), Endless()
    calls = [asyncio.create_task(background.arun(endless.run())) for endless in (first, second)]
    while not (first.running.is_set() and second.running.is_set()):
        await asyncio.sleep(0.001)
    calls[0].cancel()
    assert await asyncio.to_thread(first.cancelled.wait, 10)
    assert not second.cancelled.is_set()
    calls[1].cancel()
    await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pthread_kill")
def test_ctrl_c_ends_the_call_and_cancels_the_coroutine():
    said = in_new_process("""
        import asyncio, signal, threading
        from langchain_hfembed.http import background

        cancelled, main = threading.Event(), threading.main_thread().ident

        async def endless():
            asyncio.get_running_loop().call_later(
                0.05, signal.pthread_kill, main, signal.SIGINT
            )
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async def answer():
            return 42

        try:
            background.run(endless())
        except KeyboardInterrupt:
            print("interrupted", cancelled.wait(10), background.run(answer()))
    """)
    assert said.split() == ["interrupted", "True", "42"]


FORK = """
    import asyncio, os, signal, sys, threading, time, warnings
    from langchain_hfembed.http import background

    # Python 3.12 and later warn of any fork beside threads.
    warnings.filterwarnings("ignore", category=DeprecationWarning)

    async def answer():
        await asyncio.sleep(0.01)
        return 42

    {before}
    child = os.fork()
    if not child:
        signal.alarm(20)  # a call that hangs ends here
        here = background.loop()
        ok = background.run(answer()) == 42 and asyncio.run(background.arun(answer())) == 42
        print("child", ok, here is not loop, flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("parent", status, background.run(answer()), background.loop() is loop)
"""
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")


@needs_fork
def test_a_fork_has_a_loop_of_its_own_and_the_parent_keeps_its_loop():
    said = in_new_process(FORK.format(before="loop = background.loop(); background.run(answer())"))
    assert said.splitlines() == ["child True True", "parent 0 42 True"]


@needs_fork
def test_a_fork_works_while_another_thread_holds_the_lock():
    """A lock that was held at the fork is never released in the child."""
    hold = """
    loop = background.loop()
    held, go_on = threading.Event(), threading.Event()

    def hold():
        with background._background._lock:
            held.set()
            go_on.wait()

    threading.Thread(target=hold).start()
    held.wait()
    threading.Timer(0.5, go_on.set).start()
    """
    said = in_new_process(FORK.format(before=hold))
    assert said.splitlines() == ["child True True", "parent 0 42 True"]


def test_a_thread_that_could_not_start_is_tried_again(monkeypatch):
    fresh = background._Background()
    monkeypatch.setattr(background, "_background", fresh)

    async def answer():
        return 42

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda self: _no_thread())
        with pytest.raises(RuntimeError, match="can't start new thread"):
            background.run(answer())
    assert background.run(answer()) == 42
    loop = fresh.loop
    loop.call_soon_threadsafe(loop.stop)
    while loop.is_running():
        time.sleep(0.01)
    loop.close()


def _no_thread():
    raise RuntimeError("can't start new thread")
