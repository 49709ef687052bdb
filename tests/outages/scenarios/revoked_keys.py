"""Keys are revoked, up to 100 at a time, while three processes are under load with all of them.

From the moment when ``larder keys revoke`` has returned, no request that is sent with one of its keys is admitted, whatever
happens to a process: one of them hangs now and then, and one loses PostgreSQL.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from app.access.keys import Scope, id_of, make_key
from tests.harness.client import NoAnswerError
from tests.harness.cluster import PROBE, ROOT, Cluster, Instance, larder, start_cluster
from tests.outages.scenarios.report import Report

_KEYS = 1_000
_AT_ONCE = 100
_CLIENTS = 24
_ROUND_S = 4.0
"""About how long a round of revocations takes."""
_INSERT = "INSERT INTO access_keys (id, client, scopes, digest) VALUES (%s, %s, %s, %s)"


@dataclass
class _Seen:
    """What the clients saw."""

    revoked_at: dict[str, float] = field(default_factory=dict)
    """When ``revoke`` returned, by key."""
    statuses: Counter[int] = field(default_factory=Counter)
    admitted_late: list[str] = field(default_factory=list)
    refused_valid: list[str] = field(default_factory=list)
    checked_late: int = 0
    lost: int = 0


def _with_keys(instance: Instance, database: str) -> tuple[Sequence[str], Mapping[str, str]]:
    command, settings = larder(instance, database)
    return command, {**settings, "LARDER_ACCESS": "keys", "LARDER_CLIENT_RATE_PER_S": "0"}


async def run(directory: Path, seconds: float, report: Report) -> None:
    """Run the scenario."""
    rounds = max(2, min(_KEYS // _AT_ONCE, round(seconds / _ROUND_S)))
    keys = [make_key() for _ in range(rounds * _AT_ONCE + _AT_ONCE)]
    async with start_cluster(directory, instances=3, program=_with_keys) as cluster:
        async with await cluster.session() as session, session.cursor() as cursor:
            rows = [(id_of(key), f"client-{n % 50}", [Scope.PRODUCTS_READ], digest) for n, (key, digest) in enumerate(keys)]
            await cursor.executemany(_INSERT, rows)
        await asyncio.sleep(2.0)  # every process knows them within two seconds
        seen, over = _Seen(), asyncio.Event()
        names = [key for key, _ in keys]
        clients = [asyncio.create_task(_ask(cluster, names, Random(n), seen, over)) for n in range(_CLIENTS)]
        took = []
        for number in range(rounds):
            batch = names[number * _AT_ONCE : (number + 1) * _AT_ONCE]
            trouble = asyncio.create_task(_trouble(cluster.instances[number % 3], number))
            began = time.monotonic()
            await _revoke(cluster, [id_of(key) for key in batch])
            returned = time.monotonic()
            took.append(returned - began)
            seen.revoked_at.update(dict.fromkeys(batch, returned))
            await trouble
            await asyncio.sleep(0.3)
        over.set()
        await asyncio.gather(*clients)
    report.tell("keys revoked", len(seen.revoked_at))
    report.at_least("requests sent with a revoked key", seen.checked_late, 100)
    report.none("of them admitted", seen.admitted_late)
    report.none("requests refused as 401 with a key that was never revoked", seen.refused_valid)
    for status, count in sorted(seen.statuses.items()):
        report.tell(f"answers {status}", count)
    report.tell("requests without an answer", seen.lost)
    report.tell("seconds that revoke took, longest", max(took))


async def _ask(cluster: Cluster, keys: Sequence[str], random: Random, seen: _Seen, over: asyncio.Event) -> None:
    never_revoked = set(keys[-_AT_ONCE:])
    while not over.is_set():
        key = random.choice(keys)
        sent = time.monotonic()
        late = sent > seen.revoked_at.get(key, float("inf"))
        try:
            answer = await random.choice(cluster.instances).endpoint.request(
                "GET", f"/products/{PROBE}", headers=f"Authorization: Bearer {key}\r\n", timeout_s=10
            )
        except NoAnswerError:
            seen.lost += 1
            continue
        seen.statuses[answer.status] += 1
        seen.checked_late += late
        if late and answer.status not in (401, 503):
            seen.admitted_late.append(f"{id_of(key)}, {sent - seen.revoked_at[key]:.3f} s after: {answer.status}")
        if answer.status == 401 and key in never_revoked:
            seen.refused_valid.append(id_of(key))
        await asyncio.sleep(0.002)


async def _trouble(instance: Instance, number: int) -> None:
    """Let one process hang, or lose PostgreSQL, for a while that begins before the revocation and may end after it."""
    if number % 2:
        instance.postgres.hold()
        await asyncio.sleep(3.0)
        await instance.postgres.heal()
    else:
        instance.send(signal.SIGSTOP)
        await asyncio.sleep(2.9)
        instance.send(signal.SIGCONT)


async def _revoke(cluster: Cluster, ids: Sequence[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.cli", "keys", "revoke", *ids),
        env={**os.environ, "LARDER_DATABASE_URL": cluster.url, "LARDER_REDIS_URL": "redis://unused"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"larder keys revoke: {said.decode()}")
