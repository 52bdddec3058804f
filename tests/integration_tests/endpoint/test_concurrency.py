"""One object in many threads, loops and processes, and what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from langchain_hfembed import HuggingFaceEndpointEmbeddings
from langchain_hfembed.errors import EmbeddingError
from tests import tei_faults as faults
from tests.integration_tests.endpoint.helpers import (
    TEXTS,
    VECTORS,
    Connect,
    Vectors,
    eventually,
    posts,
)
from tests.tei_server import TEIServer

ROOT = Path(__file__).parents[3]
FEW, FEW_VECTORS = TEXTS[:40], VECTORS[:40]


# Threads and event loops.


def test_one_object_serves_16_threads_at_once(server: TEIServer, connect: Connect) -> None:
    embeddings = connect(server)
    together = threading.Barrier(16)

    def call(number: int) -> Vectors:
        together.wait(10)
        return embeddings.embed_documents(TEXTS[number * 60 : number * 60 + 60])

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(call, range(16)))
    assert found == [VECTORS[number * 60 : number * 60 + 60] for number in range(16)]
    assert [entry.path for entry in server.record].count("/info") == 1
    assert server.max_requests_in_flight <= 8


def test_one_object_serves_several_event_loops_in_turn(server: TEIServer, connect: Connect) -> None:
    embeddings = connect(server)
    for number in range(5):
        texts = TEXTS[number * 50 : number * 50 + 50]
        expected = VECTORS[number * 50 : number * 50 + 50]
        assert asyncio.run(embeddings.aembed_documents(texts)) == expected
    assert server.connections.opened <= 2  # kept from one loop to the next


def test_one_object_serves_threads_and_loops_at_once(server: TEIServer, connect: Connect) -> None:
    embeddings = connect(server)
    together = threading.Barrier(16)

    def call(number: int) -> list[Vectors]:
        texts = TEXTS[number * 60 : number * 60 + 60]
        together.wait(10)
        if number % 2:
            return [embeddings.embed_documents(texts) for _ in range(2)]

        async def twice() -> list[Vectors]:
            return list(
                await asyncio.gather(*(embeddings.aembed_documents(texts) for _ in range(2)))
            )

        return asyncio.run(twice())

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(call, range(16)))
    assert found == [[VECTORS[number * 60 : number * 60 + 60]] * 2 for number in range(16)]


async def test_the_sync_method_works_inside_a_running_loop(
    server: TEIServer, connect: Connect
) -> None:
    embeddings = connect(server)
    assert embeddings.embed_documents(FEW) == FEW_VECTORS
    assert await embeddings.aembed_documents(FEW) == FEW_VECTORS
    assert embeddings.embed_query(FEW[0]) == FEW_VECTORS[0]


async def test_an_async_call_leaves_the_loop_free(connect: Connect) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    with TEIServer(latency=0.4) as server:
        clock = asyncio.create_task(tick())
        await connect(server).aembed_documents(["a"])
        clock.cancel()
    assert ticks > 10


def test_a_call_that_fails_does_not_disturb_its_neighbours(connect: Connect) -> None:
    def script(number: int, entry: faults.Entry) -> faults.Fault | None:
        return faults.status(424) if "bad" in entry.texts else None

    with TEIServer(latency=0.02, faults=script) as server:
        embeddings = connect(server)

        def call(number: int) -> object:
            if number % 4:
                return embeddings.embed_documents(TEXTS[number * 60 : number * 60 + 60])
            with pytest.raises(EmbeddingError):
                embeddings.embed_documents(["bad"])
            return None

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(call, range(16)))
    assert found == [VECTORS[n * 60 : n * 60 + 60] if n % 4 else None for n in range(16)]


# Cancelling.


async def test_cancelling_an_async_call_ends_its_requests(connect: Connect) -> None:
    with TEIServer(latency=10) as server:
        embeddings = connect(server, batch_size=10)
        call = asyncio.create_task(embeddings.aembed_documents(TEXTS))
        while len(posts(server)) < 8:
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        while any(entry.ended is None for entry in posts(server)):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # a batch that comes after all would be here by now
        assert [entry.status for entry in posts(server)] == [0] * 8
        server.latency = 0
        assert await embeddings.aembed_documents(FEW) == FEW_VECTORS
    assert server.max_requests_in_flight == 8


async def test_a_time_limit_of_the_callers_ends_its_requests(connect: Connect) -> None:
    with TEIServer(latency=10) as server:
        embeddings = connect(server)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(embeddings.aembed_query("a"), 0.3)
        assert await asyncio.to_thread(eventually, lambda: posts(server)[0].ended is not None)


async def test_cancelling_one_call_leaves_others_alone_also_while_info_is_asked(
    connect: Connect,
) -> None:
    with TEIServer(info_delay=0.3, latency=0.1) as server:
        embeddings = connect(server)
        first = asyncio.create_task(embeddings.aembed_documents(FEW))
        second = asyncio.create_task(embeddings.aembed_documents(FEW))
        while not server.record:
            await asyncio.sleep(0.01)
        first.cancel()
        assert await second == FEW_VECTORS
        with pytest.raises(asyncio.CancelledError):
            await first
    assert [entry.path for entry in server.record].count("/info") == 1


async def test_cancelled_calls_give_their_turns_back(connect: Connect) -> None:
    """Those under way and those that wait for a turn; the next one must not wait for ever."""
    with TEIServer(latency=0.2, max_concurrent_requests=32) as server:
        embeddings = connect(server, max_concurrency=2)
        for _ in range(5):
            calls = [asyncio.create_task(embeddings.aembed_documents(FEW)) for _ in range(6)]
            await asyncio.sleep(0.1)
            for call in calls:
                call.cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(result) for result in results} == {asyncio.CancelledError}
        await asyncio.to_thread(eventually, lambda: all(entry.ended for entry in posts(server)))
        found = await asyncio.wait_for(embeddings.aembed_documents(FEW), 5)
    assert found == FEW_VECTORS


def test_ctrl_c_ends_the_requests_of_a_sync_call(connect: Connect) -> None:
    with TEIServer(latency=10) as server:
        embeddings = connect(server)
        main = threading.get_ident()

        def interrupt() -> None:
            eventually(lambda: posts(server))
            signal.pthread_kill(main, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            embeddings.embed_documents(FEW)
        thread.join()
        assert eventually(lambda: all(entry.ended for entry in posts(server)))
        assert {entry.status for entry in posts(server)} == {0}


# What is left behind.


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_5000_requests_leak_no_socket_and_less_than_10_mb(connect: Connect) -> None:
    with TEIServer(max_record=10, max_client_batch_size=2) as server:
        embeddings = connect(server)
        texts = TEXTS[:1000]  # 500 requests a call

        def call() -> None:
            assert embeddings.embed_documents(texts) == VECTORS
            assert server.connections.open <= 16

        call()
        gc.collect()
        before = resident_bytes()
        for _ in range(10):
            call()
        gc.collect()
        grown = resident_bytes() - before
        kept = [thing for thing in gc.get_objects() if type(thing) is httpx.Response]
        embeddings.close()
        assert eventually(lambda: server.connections.open == 0)
    assert server.posts == 5500
    assert kept == []
    # One more than 8 where one was still being handed back, but not one a request.
    assert server.connections.opened <= 16
    assert grown < 10_000_000


def test_failures_and_cancelled_calls_leak_no_socket(connect: Connect) -> None:
    kinds = [faults.reset(), faults.status(500), faults.hang(1), faults.html_page(), faults.drip(1)]

    def script(number: int, entry: faults.Entry) -> faults.Fault | None:
        return kinds[number % 10] if number % 10 < len(kinds) else None

    async def cancelled(embeddings: HuggingFaceEndpointEmbeddings) -> None:
        for _ in range(5):
            call = asyncio.create_task(embeddings.aembed_documents(TEXTS[:200]))
            await asyncio.sleep(0.05)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    with TEIServer(faults=script) as server:
        embeddings = connect(server, max_retries=1, timeout=0.2, batch_size=4)
        for start in range(0, 400, 40):
            with pytest.raises(EmbeddingError):
                embeddings.embed_documents(TEXTS[start : start + 40])
            assert server.connections.open <= 8
        asyncio.run(cancelled(embeddings))
        assert eventually(lambda: server.connections.open <= 8)
        embeddings.close()
        assert eventually(lambda: server.connections.open == 0)


@pytest.mark.parametrize("ends_with", ["success", "failure", "cancelled", "info"])
def test_an_object_dropped_without_close_leaves_no_connection(ends_with: str) -> None:
    script = {2: faults.status(401)} if ends_with == "failure" else {}
    with TEIServer(faults=script, latency=0.05) as server:
        embeddings = HuggingFaceEndpointEmbeddings(endpoint_url=server.url, batch_size=10)
        if ends_with == "failure":
            with pytest.raises(EmbeddingError):
                embeddings.embed_documents(TEXTS[:300])
        elif ends_with == "cancelled":
            with pytest.raises(asyncio.TimeoutError):
                asyncio.run(asyncio.wait_for(embeddings.aembed_documents(TEXTS), 0.3))
            assert posts(server)
        elif ends_with == "info":
            embeddings.info()
        else:
            embeddings.embed_documents(TEXTS[:300])
        del embeddings
        # The background loop may still be about to leave a call that was cancelled.
        assert eventually(lambda: gc.collect() >= 0 and server.connections.open == 0)
        assert server.connections.opened > 0


def test_many_objects_need_no_thread_each(server: TEIServer) -> None:
    before = threading.active_count()
    objects = [HuggingFaceEndpointEmbeddings(endpoint_url=server.url) for _ in range(10)]
    for embeddings in objects:
        embeddings.embed_query("a")
    assert threading.active_count() <= before + 1
    for embeddings in objects:
        embeddings.close()
    assert eventually(lambda: server.connections.open == 0)


# Processes of their own.


def run(program: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_VERSION"}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={**environment, **options},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


QUIET_ENDS = {
    "without close": "embeddings.embed_documents(texts)",
    "with close": "embeddings.embed_documents(texts); embeddings.close()",
    "after asyncio.run": "asyncio.run(embeddings.aembed_documents(texts))",
    "while a thread is embedding": (
        "import threading, time; "
        "threading.Thread(target=embeddings.embed_documents, args=(texts * 30,), daemon=True)"
        ".start(); time.sleep(0.2)"
    ),
}


@pytest.mark.parametrize("end", QUIET_ENDS.values(), ids=QUIET_ENDS)
def test_a_program_ends_in_silence(end: str) -> None:
    """Nothing is said of pending tasks or closed loops, and nothing hangs."""
    program = f"""if True:
        import asyncio, sys
        from langchain_hfembed import HuggingFaceEndpointEmbeddings
        embeddings = HuggingFaceEndpointEmbeddings(endpoint_url=sys.argv[1], batch_size=4)
        texts = ["a", "b", "c", "d", "e"]
        {end}
    """
    with TEIServer(latency=0.05) as server:
        done = run(program, server.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


FORK = """if True:
    import gc, json, os, sys, threading, time, warnings
    warnings.simplefilter("ignore")  # of forks in the presence of threads
    from langchain_hfembed import HuggingFaceEndpointEmbeddings
    url, texts, calls, ending = sys.argv[1], json.loads(sys.argv[2]), *sys.argv[3:]
    embeddings = HuggingFaceEndpointEmbeddings(
        endpoint_url=url, batch_size=4, max_concurrency=2, max_retries=0, timeout=10
    )
    before = embeddings.embed_documents(texts)
    during = []
    thread = threading.Thread(target=lambda: during.append(embeddings.embed_documents(texts * 3)))
    if calls == "at the fork":
        thread.start()
        time.sleep(0.15)
    ready, go = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.read(ready, 1)
            here = embeddings.embed_documents(texts)
            if ending == "close":
                embeddings.close()
            elif ending == "drop":
                del embeddings
                gc.collect()
            status = 0 if here == before else 2
        finally:
            os._exit(status)
    if calls == "after it":
        thread.start()
        time.sleep(0.05)
    os.write(go, b"x")
    _, status = os.waitpid(child, 0)
    thread.join(20)
    after = embeddings.embed_documents(texts)
    embeddings.close()
    print(json.dumps({
        "child": os.waitstatus_to_exitcode(status),
        "during": bool(during) and during[0] == before * 3,
        "after": after == before,
    }))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("ending", ["exit", "close", "drop"])
@pytest.mark.parametrize("calls", ["at the fork", "after it"])
def test_after_a_fork_the_child_embeds_and_the_parent_goes_on(calls: str, ending: str) -> None:
    """Also if the child closes its object: the sockets it got by the fork are the parent's."""
    with TEIServer(latency=0.2) as server:
        done = run(FORK, server.url, json.dumps(FEW[:8]), calls, ending)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"child": 0, "during": True, "after": True}, done.stderr
        sent = posts(server)
    assert {entry.status for entry in sent} == {200}
    assert len(sent) == 2 * (1 + 3 + 1 + 1)  # nobody had to send anything twice


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_during_the_very_first_call_leaves_the_child_able_to_embed() -> None:
    """A lock that another thread held at the fork is never released in the child."""
    program = """if True:
        import os, sys, threading, time, warnings
        warnings.simplefilter("ignore")
        import httpx
        from langchain_hfembed import HuggingFaceEndpointEmbeddings
        embeddings = HuggingFaceEndpointEmbeddings(endpoint_url=sys.argv[1])
        begun, made = threading.Event(), httpx.AsyncClient.__init__
        def slowly(self, *arguments, **options):  # to read the authorities may take so long
            begun.set()
            time.sleep(0.3)
            made(self, *arguments, **options)
        httpx.AsyncClient.__init__ = slowly
        thread = threading.Thread(target=embeddings.embed_query, args=("a",))
        thread.start()
        begun.wait(10)
        child = os.fork()
        if not child:
            threading.Timer(5, os._exit, (3,)).start()
            embeddings.embed_query("a")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        thread.join(10)
        sys.exit(os.waitstatus_to_exitcode(status))
    """
    with TEIServer() as server:
        done = run(program, server.url)
    assert done.returncode == 0, done.stderr
