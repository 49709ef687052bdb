"""Clients that open connections and do next to nothing with them, beside clients that read.

The service may open 1,024 files, as is usual. The figures are printed: ``pytest -s``.
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.cli.larder_process import Larder
from tests.harness.client import Endpoint
from tests.outages.hostile_clients import SILENT, TRICKLING

_DESCRIPTORS = 1_024
_READERS = 8
_QUIET_S, _ATTACK_S = 10.0, 45.0
_NOISE_MS = 50.0
_MEMORY_BYTES = 100 * 2**20
_SLACK_S = 3.0
_LIVES_S = {"silent": 10.0, "head": 10.0, "body": 6.0, "unread": 35.0}
"""The longest lives of the kinds: the limits in docs/HTTP.md, and for a body the moment at which it has missed its rate. The
one that does not read is answered for some seconds, until the kernel keeps no more for it."""


@contextmanager
def _children_may_open(files: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class _Readers:
    """Clients that read one product again and again: most keep their connection, a quarter open one for each read."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.durations: list[float] = []
        self.failures: list[str] = []

    async def run(self, seconds: float) -> None:
        await asyncio.gather(*(self._read(seconds, keep=number % 4 > 0) for number in range(_READERS)))

    async def _read(self, seconds: float, *, keep: bool) -> None:
        endpoint = Endpoint(self._port)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.perf_counter()
            try:
                answer = await endpoint.request("GET", "/products/mug", timeout_s=5)
                if answer.status != 200:
                    self.failures.append(f"{answer.status} {answer.body!r}")
            except Exception as error:  # noqa: BLE001 - whatever it was, there was no answer
                self.failures.append(f"after {time.perf_counter() - began:.3f} s, kept {keep}: {error!r}")
            self.durations.append(time.perf_counter() - began)
            if not keep:
                endpoint.close()
                endpoint = Endpoint(self._port)
            await asyncio.sleep(0.005)
        endpoint.close()

    @property
    def p99_ms(self) -> float:
        return sorted(self.durations)[int(len(self.durations) * 0.99)] * 1_000


def _memory(pid: int) -> int:
    own = psutil.Process(pid)
    return sum(process.memory_info().rss for process in (own, *own.children()))


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
async def test_readers_do_not_notice_hostile_clients(
    outage_directory: Path, database_url: str, redis_url: str, namespace: str, workers: int
) -> None:
    """No read fails, p99 is at most twice what it is without them, memory stays within 100 MB, and all are closed in time."""
    own = {
        "LARDER_ACCESS": "open",
        "LARDER_DATABASE_URL": database_url,
        "LARDER_REDIS_URL": redis_url,
        "LARDER_CACHE_NAMESPACE": namespace,
    }
    with _children_may_open(_DESCRIPTORS):
        serving = Larder(outage_directory).serving("serve", "--workers", str(workers), **own)
        service = await serving.__aenter__()
    try:
        port = urlsplit(service.url).port
        assert port is not None
        await _create_mug(port)
        quiet, attacked = _Readers(port), _Readers(port)
        await quiet.run(_QUIET_S)
        before = _memory(service.process.pid)
        hostile = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.outages.hostile_clients", str(port), str(_ATTACK_S)), stdout=asyncio.subprocess.PIPE
        )
        reading = asyncio.create_task(attacked.run(_ATTACK_S))
        most = before
        while not reading.done():
            most = max(most, _memory(service.process.pid))
            await asyncio.sleep(0.1)
        lived = json.loads((await hostile.communicate())[0])
    finally:
        await serving.__aexit__(None, None, None)
    longest = {kind: max((float("inf") if life is None else life) for life in lives) for kind, lives in lived.items()}
    print(  # noqa: T201 - the figures
        f"\n{workers} workers: p99 {quiet.p99_ms:.1f} ms without, {attacked.p99_ms:.1f} ms with hostile clients;"
        f" {len(attacked.failures)} of {len(attacked.durations)} reads failed; memory +{(most - before) / 2**20:.0f} MB;"
        f" longest lives {longest}"
    )
    assert (len(lived["silent"]), len(lived["head"]) + len(lived["body"])) == (SILENT, TRICKLING)
    assert (quiet.failures, attacked.failures) == ([], [])
    # On a machine that does other work, a few milliseconds are noise.
    assert attacked.p99_ms <= max(2 * quiet.p99_ms, _NOISE_MS)
    assert most - before <= _MEMORY_BYTES
    assert {kind: life for kind, life in longest.items() if life > _LIVES_S[kind] + _SLACK_S} == {}


async def _create_mug(port: int) -> None:
    endpoint = Endpoint(port)
    answer = await endpoint.request("PUT", "/products/mug", body=b'{"name": "Mug", "price_cents": 5}')
    assert answer.status == 201
    endpoint.close()
