"""``python -m benchmarks.steady.healing``: how long after a fault reads are hits again, with default settings.

Redis hangs for 5 s, or is killed and started empty after 5 s; a master behind Sentinel is killed; a PostgreSQL is killed and
its standby promoted. Seconds count from the moment when Redis answers again, when all sentinels name the new master, or when
the standby is the primary, to the first hit after the last miss. For a moment after the end of a fault reads may still be hits,
because an earlier proof has not expired; then the cache starts clean.
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from statistics import median
from urllib.parse import parse_qs, urlsplit

import psycopg

from app.private_servers import PostgresServer
from benchmarks import results
from benchmarks.results import Cell, Result, Target
from benchmarks.steady.pace import clock
from benchmarks.steady.testbed import Servers, Service, hit, larder, product_id, servers, warm
from benchmarks.tables import markdown
from tests.harness.client import NoAnswerError
from tests.harness.loop import run
from tests.harness.sentinels import start_sentinels
from tests.harness.standby import copy_server, until_level

AWAY_S = 5.0
"""Longer than any fence lives."""
WATCHED_S = 8.0
"""How long reads are looked at after the end of a fault, at least."""
ANSWERS_S, NAMED_S = 2.5, 3.5
_READ = f"/products/{product_id(0)}"
_POLL_S = 0.005
_PATIENCE_S = 60.0

Loss = Callable[[], Awaitable[None]]
"""Brings a fault about; returns at the moment from which the seconds count."""


@asynccontextmanager
async def _hanging_redis(started: Servers) -> AsyncIterator[tuple[Service, Loss]]:
    async def lose() -> None:
        started.redis.pause()
        await asyncio.sleep(AWAY_S)
        started.redis.resume()

    async with larder(started) as service:
        yield service, lose


@asynccontextmanager
async def _killed_redis(started: Servers) -> AsyncIterator[tuple[Service, Loss]]:
    async def lose() -> None:
        await started.redis.kill()
        await asyncio.sleep(AWAY_S)
        await started.redis.restart()

    async with larder(started) as service:
        yield service, lose


@asynccontextmanager
async def _killed_master(started: Servers) -> AsyncIterator[tuple[Service, Loss]]:
    directory = started.directory / "sentinels"
    directory.mkdir()
    async with start_sentinels(directory) as sentinels:
        master = await sentinels.master()

        async def lose() -> None:
            await master.kill()
            await sentinels.other_master(master)

        own = {"LARDER_REDIS_URL": sentinels.url, "LARDER_SENTINEL_PASSWORD": sentinels.password}
        async with larder(started, own) as service:
            yield service, lose


@asynccontextmanager
async def _promoted_standby(started: Servers) -> AsyncIterator[tuple[Service, Loss]]:
    name = urlsplit(started.postgres.url).path.strip("/")
    standby = await copy_server(started.postgres, started.directory / "standby", name, streaming=True)
    try:
        await standby.start()

        async def lose() -> None:
            await until_level(started.postgres, standby)
            await started.postgres.kill()
            async with await psycopg.AsyncConnection.connect(standby.url, autocommit=True) as session:
                await session.execute("SELECT pg_promote()")

        hosts = ",".join(_host(server) for server in (started.postgres, standby))
        url = f"postgresql://postgres@/{name}?host={hosts}&target_session_attrs=primary"
        async with larder(started, {"LARDER_DATABASE_URL": url}) as service:
            yield service, lose
    finally:
        await standby.stop()


def _host(server: PostgresServer) -> str:
    return parse_qs(urlsplit(server.url).query)["host"][0]


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault, and the seconds after each of them."""

    name: str
    claim: str
    since: str
    limit_s: float
    stage: Callable[[Servers], AbstractAsyncContextManager[tuple[Service, Loss]]]
    back_s: list[float] = field(default_factory=list)

    def row(self) -> dict[str, Cell]:
        """The table's row."""
        return {
            "fault": self.name,
            "seconds since": self.since,
            "hits after s": round(median(self.back_s), 2),
            "slowest": round(max(self.back_s), 2),
            "times": len(self.back_s),
        }


_ANSWERS, _NAMED = "hits again after Redis answers", "hits again after a new master or primary is named"


def faults() -> list[Fault]:
    """The kinds of faults."""
    return [
        Fault("Redis hangs for 5 s", _ANSWERS, "it goes on", ANSWERS_S, _hanging_redis),
        Fault("Redis is killed, and started empty after 5 s", _ANSWERS, "it is ready", ANSWERS_S, _killed_redis),
        Fault("the master is killed", _NAMED, "all sentinels name another", NAMED_S, _killed_master),
        Fault("the primary is killed", _NAMED, "its standby is promoted", NAMED_S, _promoted_standby),
    ]


async def measure(rounds: int) -> Result:
    """Bring every fault about in each round, each time on new servers."""
    found = faults()
    for number in range(rounds):
        for fault in found:
            async with servers() as started:
                await started.fill(1)
                async with fault.stage(started) as (service, lose):
                    await warm(service.endpoint, [_READ])
                    await lose()
                    fault.back_s.append(await _until_hits(service))
            print(f"round {number + 1}: {fault.name}: {fault.back_s[-1]:.2f} s", flush=True)
    return Result(
        "healing",
        "Until hits are back",
        [fault.row() for fault in found],
        [_target([fault for fault in found if fault.claim == claim]) for claim in (_ANSWERS, _NAMED)],
        ["One process with default settings; one product is read every 5 ms. While PostgreSQL answers, no read fails."],
    )


async def _until_hits(service: Service) -> float:
    """Return the seconds from now to the first hit after which all reads were hits."""
    began = clock()
    back = began
    was_hit = True
    async with asyncio.timeout(_PATIENCE_S):
        while clock() < began + WATCHED_S or not was_hit:
            is_hit = False
            with suppress(NoAnswerError):
                is_hit = await hit(service.endpoint, _READ)
            if is_hit and not was_hit:
                back = clock()
            was_hit = is_hit
            await asyncio.sleep(_POLL_S)
    return back - began


def _target(kinds: Sequence[Fault]) -> Target:
    worst = max(kinds, key=lambda fault: median(fault.back_s))
    found = median(worst.back_s)
    return Target(worst.claim, f"<= {worst.limit_s:g} s", f"{found:.2f} s ({worst.name})", passed=found <= worst.limit_s)


def main() -> int:
    """Measure, print, keep the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady.healing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    result = run(measure(parser.parse_args().rounds))
    results.write(result)
    print(markdown(result.rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
