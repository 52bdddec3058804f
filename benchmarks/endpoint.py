"""How long it takes to have 1,000 texts embedded by a server, with ours and with other clients.

    python -m benchmarks.endpoint

The server is the tests' double of Text Embeddings Inference, in a process of its own, which takes
50 ms for a request. Each client puts 32 texts into a request, the server's limit, and is otherwise
as it comes; where a setting allows more requests in flight, a second row shows what that brings.
Clients that are not installed are named and left out.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from benchmarks.clients import BATCH_SIZE, CLIENTS, CONCURRENCY, OURS, Calls, Client, Vectors
from tests.tei_contract import hash_vectors
from tests.tei_faults import Entry, Fault, Reply
from tests.tei_server import TEIServer

TEXTS = [
    f"Passage {number}." + " It says nothing in particular." * (1 + number % 7)
    for number in range(1000)
]
DIMENSION = 384
LATENCY = 0.05  # seconds
MODES = ("sync", "async")
_ENVIRONMENT = ("httpx", "huggingface-hub", "langchain-core", "numpy")

_NOTES = f"""
Medians of {{repetitions}} repetition(s), in which the clients take turns. Before the first,
each client embeds one text and then all, untimed: so its connections are open, and the server has
its replies ready. Each time its vectors are compared with the server's.
The limit is ceil({len(TEXTS)} / {BATCH_SIZE}) / {CONCURRENCY} x {LATENCY * 1000:.0f} ms; \
no client reaches it, since replies must be read, too.
Read the ratios to {{ours}}, not the seconds: machine and model would differ.
"""

Seconds = dict[str, dict[str, list[float]]]


@dataclass(kw_only=True)
class _Server(TEIServer):
    """Remembers its replies.

    Else Python's JSON encoder, with 15 ms for 32 vectors, would be slower than the pretended model,
    and what is measured of the quickest clients would be the server.
    """

    replies: dict[tuple[str, str], Reply] = field(init=False, default_factory=dict)

    def results(self, path: str, document: Any, texts: list[str]) -> list[Any]:
        """With as many digits as TEI's 32-bit floats have."""
        vectors = super().results(path, document, texts)
        return [[round(value, 8) for value in vector] for vector in vectors]

    async def reply(self, entry: Entry, fault: Fault) -> Reply:
        """The reply that the same request got before, after the same time."""
        if entry.method != "POST":
            return await super().reply(entry, fault)
        request = (entry.path, json.dumps(entry.json))
        if request in self.replies:
            await asyncio.sleep(entry.started + self.latency - time.monotonic())
            return self.replies[request]
        reply = await super().reply(entry, fault)
        if reply.status == 200:
            self.replies[request] = reply
        return reply


def _serve(parent: Connection) -> None:
    embed = partial(hash_vectors, dim=DIMENSION)
    with _Server(
        latency=LATENCY, embed=embed, max_client_batch_size=BATCH_SIZE, max_record=0
    ) as server:
        parent.send(server.url)
        try:
            parent.recv()
        except EOFError:  # the parent has closed its end, or is gone
            return


@contextmanager
def running_server() -> Iterator[str]:
    """The URL of a server in another process, so that it does not share our interpreter."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), daemon=True)
    process.start()
    there.close()
    try:
        yield here.recv()
    finally:
        here.close()
        process.join()


def measure(url: str, clients: Sequence[Client], repetitions: int) -> Seconds:
    """Seconds by client and mode, one number a repetition; the clients take turns.

    Raises:
        RuntimeError: If a client does not return the server's vectors in the order of the texts.
    """
    connected = {client.name: client.connect(url) for client in clients}
    runs = [(name, mode) for name in connected for mode in MODES]
    loop = asyncio.new_event_loop()  # one for all, since connections belong to a loop
    expected = np.array(hash_vectors(TEXTS, DIMENSION), dtype=np.float32)

    def timed(name: str, mode: str, texts: list[str]) -> float:
        seconds, vectors = _timed(connected[name], mode, texts, loop)
        _check(f"{name}, {mode}", vectors, expected[: len(texts)])
        return seconds

    for texts in (TEXTS[:1], TEXTS):  # these times are dropped
        for name, mode in runs:
            timed(name, mode, texts)
    results: Seconds = {name: {mode: [] for mode in MODES} for name in connected}
    for _ in tqdm(range(repetitions), desc="measuring"):
        for name, mode in runs:
            results[name][mode].append(timed(name, mode, TEXTS))
    for calls in connected.values():
        if calls.close:
            calls.close()
    return results


def _timed(
    calls: Calls, mode: str, texts: list[str], loop: asyncio.AbstractEventLoop
) -> tuple[float, Vectors]:
    prepared = calls.prepare(texts)
    gc.collect()  # so that no client pays for the garbage of the one before
    started = time.perf_counter()
    if mode == "sync":
        vectors = calls.embed(prepared)
    else:
        vectors = loop.run_until_complete(calls.aembed(prepared))
    return time.perf_counter() - started, vectors


def _check(who: str, vectors: Vectors, expected: np.ndarray[Any, Any]) -> None:
    found = np.array(vectors, dtype=np.float32)
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=0, atol=1e-6):
        raise RuntimeError(
            f"{who}: returned vectors of shape {found.shape} that are not the server's, of shape "
            f"{expected.shape}, in the order of the texts; its time means nothing"
        )


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def main() -> None:
    """Print a table, or JSON."""
    arguments = _arguments()
    # Before the clients are imported. Offline, huggingface_hub does not even ask this machine.
    os.environ |= {
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HAYSTACK_TELEMETRY_ENABLED": "False",
    }
    clients = [client for client in CLIENTS if all(map(_is_installed, client.packages))]
    with running_server() as url:
        results = measure(url, clients, arguments.repetitions)
    packages = {package for client in clients for package in client.packages} | {*_ENVIRONMENT}
    report = {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "python": platform.python_version(),
        "versions": {package: version(package) for package in sorted(packages)},
        "limit": math.ceil(len(TEXTS) / BATCH_SIZE) / CONCURRENCY * LATENCY,
        "seconds": results,
        "not_installed": [client.name for client in CLIENTS if client not in clients],
    }
    if arguments.json:
        print(json.dumps(report))
    else:
        _print_report(report, clients)


def _print_report(report: dict[str, Any], clients: Sequence[Client]) -> None:
    print(
        f"{len(TEXTS):,} texts, {DIMENSION} dimensions, {LATENCY * 1000:.0f} ms a request, "
        f"{BATCH_SIZE} texts a request. {report['machine']}, Python {report['python']}\n"
    )
    heads = [f"{mode}, {what}" for mode in MODES for what in ("in flight", "seconds", "ratio")]
    print(f"| | {' | '.join(heads)} |")
    print(f"|---|{'---:|' * len(heads)}")
    medians = {
        name: [statistics.median(seconds[mode]) for mode in MODES]
        for name, seconds in report["seconds"].items()
    }
    rows = [(client.name, client.in_flight, medians[client.name]) for client in clients]
    rows.append(("the limit", (CONCURRENCY,) * 2, [report["limit"]] * 2))
    for name, in_flight, seconds in rows:
        cells = [
            f"{number} | {value:.2f} | {value / ours:.1f}"
            for number, value, ours in zip(in_flight, seconds, medians[OURS.name], strict=True)
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    if report["not_installed"]:
        print(f"\nNot installed: {'; '.join(report['not_installed'])}.")
    print(_NOTES.format(ours=OURS.name, repetitions=len(report["seconds"][OURS.name]["sync"])))
    print(", ".join(f"{package} {number}" for package, number in report["versions"].items()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repetitions", type=int, default=5, help="fewer only to try it")
    parser.add_argument("--json", action="store_true", help="all times, in one line of JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
