"""``python -m benchmarks.steady.pool_sizes``: what connections and batch size are worth.

One process of the service on private servers with 1,000,000 products, and ``wrk`` beside it. One setting is varied at a time,
the others keep their defaults; rounds are alternated, medians compared. Two loads: ``PUT …/stock`` of random products, and
``GET`` of random products that the cache does not hold. Other answers than 200 and the 404 of the deleted are counted apart.
"""

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg

from app.postgres.migrations import upgrade
from app.private_servers import free_ports, start_postgres, start_redis
from tests.harness.million import fill
from tests.harness.servers import know_history, session_directory

VARIED: Mapping[str, tuple[int, ...]] = {
    "LARDER_DATABASE_CONNECTIONS": (5, 10, 20),
    "LARDER_WRITE_BATCH": (1, 50, 200),
}
DEFAULTS = {"LARDER_DATABASE_CONNECTIONS": 10, "LARDER_WRITE_BATCH": 200}
WARM_UP_S = 1

LOADS = {
    "PUT stock": """
request = function()
  return wrk.format("PUT", string.format("/products/p%07d/stock", math.random(1000000)),
    {["Content-Type"] = "application/json"}, string.format('{"stock": %d}', math.random(100000)))
end""",
    "GET, miss": """
request = function() return wrk.format("GET", string.format("/products/p%07d", math.random(1000000))) end""",
}
# One product in two hundred is deleted: 404 is its right answer.
REPORT = """
others = 0
response = function(status) if status ~= 200 and status ~= 404 then others = others + 1 end end
init = function() math.randomseed(%d) end
local threads = {}
setup = function(thread) table.insert(threads, thread) end
done = function(summary, latency)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  for _, thread in ipairs(threads) do failed = failed + thread:get("others") end
  io.write(string.format("\\nresult %%d %%d %%d %%d\\n", summary.requests, summary.duration, failed, latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One load on one configuration in one round."""

    per_s: float
    p99_ms: float
    failed: int


def configurations() -> list[dict[str, int]]:
    """The defaults, then each setting's other values."""
    return [dict(DEFAULTS)] + [
        {**DEFAULTS, name: value} for name, values in VARIED.items() for value in values if value != DEFAULTS[name]
    ]


def title(configuration: Mapping[str, int]) -> str:
    """What is not as it comes."""
    changed = [f"{name.removeprefix('LARDER_')}={value}" for name, value in configuration.items() if value != DEFAULTS[name]]
    return ", ".join(changed) or "defaults"


@asynccontextmanager
async def service(environment: Mapping[str, str]) -> AsyncIterator[str]:
    """One process of the service; its URL, when it trusts its cache."""
    command = [str(Path(sys.executable).with_name("larder")), "serve"]
    process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE)
    try:
        if process.stdout is None:
            raise RuntimeError("the service has no output")
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        await asyncio.sleep(1)  # an audit or two: only then are writes not settled
        yield line.decode().rpartition(" ")[2].strip()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def load(url: str, script: str, *, seed: int, connections: int, seconds: int) -> Figure:
    """Run wrk once."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(REPORT % seed + script)
        file.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", file.name, url]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
    [words] = [line.split() for line in output.decode().splitlines() if line.startswith("result ")]
    requests, duration_us, failed, p99_us = map(int, words[1:])
    return Figure((requests - failed) / (duration_us / 1e6), p99_us / 1_000, failed)


async def measure(arguments: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """All rounds, and the table."""
    found: dict[tuple[str, str], list[Figure]] = {}
    chosen, starts = configurations(), count(1)
    for number in range(arguments.rounds):
        for configuration in chosen if number % 2 == 0 else chosen[::-1]:
            # A cache of its own each time: what was a miss before would be a hit now.
            namespace = f"pool{next(starts)}.1"
            await know_history(environment["LARDER_DATABASE_URL"], namespace)
            settings = {name: str(value) for name, value in configuration.items()}
            async with service({**environment, **settings, "LARDER_CACHE_NAMESPACE": namespace}) as url:
                for name, script in LOADS.items():
                    seed = arguments.seed + len(found) + 1_000 * number
                    how = {"seed": seed, "connections": arguments.clients}
                    await load(url, script, **how, seconds=WARM_UP_S)
                    figure = await load(url, script, **{**how, "seed": seed + 500}, seconds=arguments.seconds)
                    found.setdefault((title(configuration), name), []).append(figure)
                    print(f"round {number + 1}: {title(configuration)}: {name}: {figure}", file=sys.stderr, flush=True)
    print(f"| configuration | {' | '.join(f'{name}/s (spread) | p99 ms' for name in LOADS)} |")
    print("|---|" + "---:|---:|" * len(LOADS))
    for configuration in chosen:
        cells = []
        for name in LOADS:
            figures = found[title(configuration), name]
            rates = [figure.per_s for figure in figures]
            cells.append(f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})")
            cells.append(f"{statistics.median(figure.p99_ms for figure in figures):.1f}")
        print(f"| {title(configuration)} | {' | '.join(cells)} |")
    failed = sum(figure.failed for figures in found.values() for figure in figures)
    print(f"\n{arguments.rounds} rounds of {arguments.seconds} s, {arguments.clients} clients; other answers: {failed}")


async def main() -> int:
    """Measure every setting and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.steady.pool_sizes", description="What connections and batches are worth."
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each load in each round")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    async with session_directory() as directory:
        postgres = await start_postgres(directory / "postgres")
        try:
            redis = await start_redis(directory / "redis", ports=free_ports())
            try:
                await upgrade(postgres.url)
                await fill(postgres.url)
                async with await psycopg.AsyncConnection.connect(postgres.url, autocommit=True) as connection:
                    await connection.execute("CHECKPOINT")  # or the first configuration would pay for the filling
                servers = {
                    "LARDER_ACCESS": "open",
                    "LARDER_DATABASE_URL": postgres.url,
                    "LARDER_REDIS_URL": redis.url,
                    "LARDER_PORT": "0",
                }
                await measure(arguments, servers)
            finally:
                await redis.stop()
        finally:
            await postgres.stop()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
