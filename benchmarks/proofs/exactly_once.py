"""A replay of sales while everything is killed: is each invoice done exactly once, to the unit?

    python -m benchmarks.proofs.exactly_once SALES.csv.gz [--kills 20] [--rate 60] [--repeat 3] [--stock-share 0.5] [--holds]

Private servers; the service is killed with SIGKILL two seconds after each time it was ready, Redis is stopped for five seconds
and PostgreSQL restarted once meanwhile, and the replay's clients retry. Then every stock and every movement is compared
with the file by ``benchmarks/sales/verify.py``. With ``--holds`` sales are held, and then committed, released, or left to their
end, while nobody tidies ended holds; after the comparison a service tidies them, and all is compared once more
(``verify_holds.py``). Exit status 0 only if all agree and the kills were done.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import httpx
import psycopg

from app.private_servers import PostgresServer, RedisServer, ServerDirectory, start_postgres, start_redis

SALES = (sys.executable, "-m", "benchmarks.sales")
LARDER = str(Path(sys.executable).with_name("larder"))
LIFE_S = 2.0
"""From ready to SIGKILL."""
REDIS_PAUSE_S = 5.0
HELD = "SELECT 1 FROM products WHERE reserved > 0 LIMIT 1"
TIDY_S = 30.0
"""Longest time for tidying all ended holds."""


class Service:
    """The service, started again whenever it was killed."""

    def __init__(self, environment: dict[str, str], url: str) -> None:
        self.environment = environment
        self._url = url
        self._process: asyncio.subprocess.Process | None = None
        self.kills = 0

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        self._process = await asyncio.create_subprocess_exec(
            LARDER, "serve", "--migrate", env=self.environment, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        async with httpx.AsyncClient(base_url=self._url, timeout=1.0) as client, asyncio.timeout(60):
            while True:
                try:
                    if (await client.get("/readyz")).status_code == httpx.codes.OK:
                        return
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.05)

    async def stop(self, number: signal.Signals) -> None:
        """End it."""
        if self._process is not None:
            self._process.send_signal(number)
            await self._process.wait()

    async def die(self, times: int, redis: RedisServer, postgres: PostgresServer) -> None:
        """Kill it again and again; on the way, stop Redis for a while and restart PostgreSQL."""
        for number in range(times):
            await asyncio.sleep(LIFE_S)
            if number == times // 3:
                redis.pause()
                await asyncio.sleep(REDIS_PAUSE_S)
                redis.resume()
            if number == 2 * times // 3:
                await postgres.restart()
            await self.stop(signal.SIGKILL)
            self.kills += 1
            await self.start()


async def run(arguments: argparse.Namespace) -> int:
    """Replay the sales under faults, compare, and return the exit status."""
    with tempfile.TemporaryDirectory() as folder, ServerDirectory(Path(folder) / "servers") as servers:
        postgres = await start_postgres(servers.path / "postgres")
        redis = await start_redis(servers.path / "redis")
        try:
            return await _measure(arguments, Path(folder), postgres, redis)
        finally:
            await postgres.stop()
            await redis.stop()


async def _measure(arguments: argparse.Namespace, folder: Path, postgres: PostgresServer, redis: RedisServer) -> int:
    url = f"http://127.0.0.1:{arguments.port}"
    given = {"ACCESS": "open", "DATABASE_URL": postgres.url, "REDIS_URL": redis.url, "PORT": str(arguments.port)}
    if arguments.holds:
        given["RESERVATION_TIDY_MS"] = "0"
    service = Service(os.environ | {f"LARDER_{name}": value for name, value in given.items()}, url)
    catalogue, listed = str(folder / "catalogue.csv"), str(folder / "listed.jsonl")
    how = ("--holds", "--answers", listed) if arguments.holds else ("--refused", listed)
    to_here = ("--url", url, "--repeat", str(arguments.repeat), *how)
    compare = (*SALES, "verify", arguments.sales, catalogue, *to_here, *(() if arguments.holds else ("--ledger",)))
    await service.start()
    try:
        await _tell(*SALES, "catalogue", arguments.sales, catalogue, *_stock(arguments))
        await _tell(LARDER, "import", catalogue, "--url", url)
        killing = asyncio.create_task(service.die(arguments.kills, redis, postgres))
        refused = ("--refused", str(folder / "refused.jsonl")) if arguments.holds else ()
        replayed = await _tell(
            *SALES, "replay", arguments.sales, *to_here, *refused, "--clients", str(arguments.clients),
            "--rate", str(arguments.rate), "--retries", "1000",
        )  # fmt: skip
        in_flight = service.kills
        await killing
        print(f"{in_flight} kills while the replay ran, {service.kills} in all; replay's exit status {replayed}", flush=True)
        agreed = await _tell(*compare)
        if arguments.holds:
            await service.stop(signal.SIGTERM)
            service.environment["LARDER_RESERVATION_TIDY_MS"] = "500"
            await service.start()
            await _until_tidied(postgres)
            agreed = await _tell(*compare, "--tidied") or agreed
        # 1: some were refused, as they must be when there is not enough stock.
        went_well = replayed in ((0,) if arguments.stock_share is None else (0, 1))
        return 0 if went_well and agreed == 0 and in_flight >= arguments.kills else 1
    finally:
        await service.stop(signal.SIGTERM)


def _stock(arguments: argparse.Namespace) -> tuple[str, str]:
    if arguments.stock_share is None:
        return "--stock", str(100_000 * arguments.repeat)
    return "--stock-share", str(arguments.stock_share * arguments.repeat)


async def _until_tidied(postgres: PostgresServer) -> None:
    """Wait until nothing is held."""
    async with (
        await psycopg.AsyncConnection.connect(postgres.url, autocommit=True) as connection,
        asyncio.timeout(TIDY_S),
    ):
        while await (await connection.execute(HELD)).fetchone():  # noqa: ASYNC110 - another process sets no events
            await asyncio.sleep(0.1)


async def _tell(*command: str) -> int:
    """Run a command with its output shown; the exit status."""
    return await (await asyncio.create_subprocess_exec(*command)).wait()


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description="Replay sales while the service, Redis and PostgreSQL are killed.")
    parser.add_argument("sales")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rate", type=float, default=250.0, help="requests per second, so that the replay lasts")
    parser.add_argument("--repeat", type=int, default=16)
    parser.add_argument("--holds", action="store_true", help="hold what is sold, and then commit, release or leave it")
    parser.add_argument("--stock-share", type=Fraction, help="opening stock, as a share of what is sold (default: enough)")
    parser.add_argument("--port", type=int, default=8977)
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
