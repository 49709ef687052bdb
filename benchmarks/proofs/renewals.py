"""``python -m benchmarks.proofs.renewals --requests 100000``: renewals under load, without a failed request.

Two instances serve by TLS and with keys. Sixteen clients read and write, as behind a balancer: a request whose connection was
refused or lost is sent to the other instance, with its idempotency key if it is a write. Meanwhile the instances are restarted
one after the other, the certificate is replaced, and the clients' key is rotated and the old one revoked, again and again. A
request that then gets no answer, or another one than 200, has failed.
"""

import argparse
import asyncio
import os
import random
import signal
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.access.keys import Scope
from benchmarks.steady.testbed import SERVE, Servers, free_port, product_id, servers
from tests.harness import loop
from tests.harness.certificates import Authority, Pair
from tests.harness.client import Endpoint, NoAnswerError
from tests.harness.cluster import ROOT

PRODUCTS = 200
CLIENTS = 16
WRITES_PERCENT = 10
_READY_S = 60.0
_LOOK_S = 5.5
"""A little longer than the pause between two looks of the service at its certificate."""


@dataclass
class Instance:
    """One process that serves."""

    environment: Mapping[str, str]
    endpoint: Endpoint
    log: Path
    process: asyncio.subprocess.Process | None = None

    async def start(self, key: str) -> None:
        """Start it, and return once it serves."""
        with self.log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *SERVE, stdout=output, stderr=output, env=dict(self.environment), cwd=ROOT
            )
        async with asyncio.timeout(_READY_S):
            while not await self._ready(key):  # noqa: ASYNC110 - another process sets no events
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End it in order."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(self.process.wait(), _READY_S)

    async def _ready(self, key: str) -> bool:
        try:
            return (await self.endpoint.request("GET", "/readyz", headers=_shown(key), timeout_s=3)).status == 200
        except NoAnswerError:
            return False


@dataclass
class RunRecord:
    """The counts of the clients, and what they share: the present key, and whether the run is over."""

    requests: int = 0
    sent_again: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    key: str = ""
    over: bool = False


def _shown(key: str) -> str:
    return f"Authorization: Bearer {key}\r\n"


async def _client(number: int, instances: list[Instance], record: RunRecord) -> None:
    chance = random.Random(number)
    while not record.over:
        product = product_id(chance.randrange(PRODUCTS))
        method, path, body, headers = "GET", f"/products/{product}", b"", ""
        if chance.randrange(100) < WRITES_PERCENT:
            method, path, body = "POST", f"{path}/stock/adjustments", b'{"delta": 1, "reason": "receipt"}'
            headers = f"Idempotency-Key: {number}-{record.requests}\r\n"
        record.requests += 1
        outcome = "no instance answered"
        for instance in (order := chance.sample(instances, 2)) * 5:
            try:
                answer = await instance.endpoint.request(method, path, headers=headers + _shown(record.key), body=body)
            except NoAnswerError:
                record.sent_again += 1
                await asyncio.sleep(0.01 if instance is order[1] else 0)
                continue
            outcome = "" if answer.status == 200 else f"{method} {answer.status} {answer.body[:60]!r}"
            break
        if outcome:
            record.failed[outcome] += 1


async def _keys(started: Servers, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.cli", "keys", *arguments),
        env={**os.environ, "LARDER_DATABASE_URL": started.database_url, "LARDER_REDIS_URL": started.redis.url},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    said, wrong = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"larder keys {arguments[0]}: {wrong.decode()}")
    return said.decode().strip()


async def _round(started: Servers, instances: list[Instance], authority: Authority, pair: Pair, record: RunRecord) -> None:
    """Do everything once: both restarts, the certificate, the key."""
    for instance in instances:
        await instance.stop()
        await instance.start(record.key)
        record.done["restarts"] += 1
    new = authority.pair(f"server-{record.done['certificates']}")
    new.key.replace(pair.key)
    new.certificate.replace(pair.certificate)
    await asyncio.sleep(_LOOK_S)
    for instance in instances:
        instance.endpoint.close()  # so that new connections meet the new certificate
    record.done["certificates"] += 1
    old = record.key.split("_")[1]
    made = await _keys(started, "rotate", old)
    await asyncio.sleep(2.0)  # every process knows the new key by then
    record.key = made
    await asyncio.sleep(0.5)
    await _keys(started, "revoke", old)
    record.done["keys"] += 1


async def run(arguments: argparse.Namespace) -> int:
    """Do rounds until enough requests were sent; return the exit status."""
    async with servers() as started:
        await started.fill(PRODUCTS)
        authority = Authority(started.directory)
        pair = authority.pair("server")
        record = RunRecord()
        scopes = [option for scope in Scope for option in ("--scope", scope)]
        record.key = await _keys(started, "create", "--client", "shop", *scopes)
        trusted = ssl.create_default_context(cafile=authority.certificate)
        instances = []
        for number in range(2):
            port = free_port()
            own = {
                "LARDER_DATABASE_URL": started.database_url,
                "LARDER_REDIS_URL": started.redis.url,
                "LARDER_PORT": str(port),
                "LARDER_CLIENT_RATE_PER_S": "0",
                "LARDER_TLS_CERTIFICATE": str(pair.certificate),
                "LARDER_TLS_KEY": str(pair.key),
            }
            environment = {name: value for name, value in os.environ.items() if not name.startswith("LARDER_")} | own
            instances.append(Instance(environment, Endpoint(port, trusted), started.directory / f"larder-{number}.log"))
        for instance in instances:
            await instance.start(record.key)
        began = time.monotonic()
        clients = [asyncio.create_task(_client(number, instances, record)) for number in range(CLIENTS)]
        while record.requests < arguments.requests:
            await _round(started, instances, authority, pair, record)
        record.over = True
        await asyncio.gather(*clients)
        for instance in instances:
            await instance.stop()
    seconds = time.monotonic() - began
    print(f"{record.requests:,} requests in {seconds:.0f} s; sent to the other instance: {record.sent_again:,}")
    print(", ".join(f"{name}: {count}" for name, count in record.done.items()))
    print(f"failed: {sum(record.failed.values())}")
    for text, count in record.failed.most_common(5):
        print(f"  {text}: {count}")
    return int(bool(record.failed))


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proofs.renewals", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="the least number of requests")
    return loop.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
