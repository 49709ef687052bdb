"""``python -m benchmarks.steady.telemetry``: what lines about requests and traces cost a hit.

One process of the service, and ``wrk`` beside it, reads 100 cached products. Each round starts every configuration anew, in an
order of its own, because two processes of one program differ by several percent. Logs go to a file, traces to a server that
throws them away. ``--without PATH`` adds another checkout, such as one from before the code was there, and compares every
configuration with it, round by round. Ten rounds take about five minutes. Needs ``wrk``.
"""

import argparse
import asyncio
import os
import random
import re
import statistics
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import psutil

from benchmarks.steady.testbed import SERVE, Servers, larder, product_id, servers, warm

PRODUCTS = 100
WITHOUT = "without the code"
OFF = "off"
USUAL = (OFF, "lines and traces of 1 %", "lines and traces of all")
_CONNECTIONS = 16
_REQUESTS = re.compile(r"(\d+) requests in ([\d.]+)(m?s)")
_WARM_UP_S = 1
SCRIPT = """
local number = 0
request = function()
  number = (number + 1) %% %d
  return wrk.format("GET", string.format("/products/p-%%07d", number))
end
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One configuration in one round."""

    per_s: float
    cpu_us: float
    """Processor time of the service for each request."""


def configurations(collector: str) -> dict[str, dict[str, str]]:
    """The settings by what is on."""
    traces = {"LARDER_TRACES_URL": collector}
    return {
        OFF: {},
        "lines and traces of 1 %": traces | {"LARDER_LOG_REQUESTS_PERCENT": "1", "LARDER_TRACE_PERCENT": "1"},
        "lines of all": {"LARDER_LOG_REQUESTS_PERCENT": "100"},
        "traces of all": traces | {"LARDER_TRACE_PERCENT": "100"},
        "lines and traces of all": traces | {"LARDER_LOG_REQUESTS_PERCENT": "100", "LARDER_TRACE_PERCENT": "100"},
    }


def serve_from(checkout: Path) -> Sequence[str]:
    """The command that serves with the code of another checkout, and with the packages of this one."""
    path = f"import sys; sys.path.insert(0, {str(checkout)!r}); "
    return (SERVE[0], SERVE[1], path + SERVE[2])


@asynccontextmanager
async def sink() -> AsyncIterator[str]:
    """A server that takes whatever is posted and answers 200; its URL."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = re.search(rb"(?i)content-length: (\d+)", head)
                await reader.readexactly(int(size[1]) if size else 0)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0, limit=1 << 24)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/traces"


async def load(url: str, script: str, seconds: int, connections: int = _CONNECTIONS) -> tuple[int, float]:
    """Run wrk; requests and seconds. Raises ``RuntimeError`` when an answer was none or no success."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script, url]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said = (await process.communicate())[0].decode()
    found = _REQUESTS.search(said)
    if found is None or "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"wrk: {said}")
    return int(found[1]), float(found[2]) / (1_000 if found[3] == "ms" else 1)


async def measure(started: Servers, settings: Mapping[str, str], command: Sequence[str], seconds: int) -> Figure:
    """Start the service, warm it, and measure it once."""
    environment = {"PYTHONHASHSEED": "0", **settings}
    with NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT % PRODUCTS)
        script.flush()
        async with larder(started, environment, command=command) as service:
            await warm(service.endpoint, [f"/products/{product_id(number)}" for number in range(PRODUCTS)])
            await load(service.url, script.name, _WARM_UP_S)
            process = psutil.Process(service.pid)
            before = process.cpu_times()
            requests, took_s = await load(service.url, script.name, seconds)
            after = process.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    return Figure(requests / took_s, 1e6 * cpu_s / requests)


def spread(values: Sequence[float], form: str) -> str:
    """The median and the range."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} ({least:{form}} to {most:{form}})"


def interval(values: Sequence[float], chance: random.Random, draws: int = 10_000) -> tuple[float, float]:
    """The 95 % interval of the median, by the bootstrap."""
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(draws))
    return medians[round(0.025 * draws)], medians[round(0.975 * draws) - 1]


async def main() -> int:
    """Measure all rounds and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady.telemetry")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=2, help="of load in each round")
    parser.add_argument("--without", type=Path, help="a checkout to compare with")
    parser.add_argument("--only", action="append", choices=configurations(""), help="a configuration; repeat it for more")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    async with sink() as collector, servers() as started:
        await started.fill(PRODUCTS)
        chosen: dict[str, tuple[Mapping[str, str], Sequence[str]]] = {
            name: (settings, SERVE) for name, settings in configurations(collector).items() if name in (arguments.only or USUAL)
        }
        if arguments.without:
            chosen[WITHOUT] = {}, serve_from(arguments.without.resolve())
        found: dict[str, list[Figure]] = {name: [] for name in chosen}
        for number in range(arguments.rounds):
            for name in chance.sample(list(chosen), len(chosen)):
                settings, command = chosen[name]
                found[name].append(await measure(started, settings, command, arguments.seconds))
                print(f"round {number + 1}: {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    report(found, chance)
    busy = os.getloadavg()[0]
    print(
        f"\n{arguments.rounds} rounds of {arguments.seconds} s, {_CONNECTIONS} connections; load average at the end {busy:.1f}"
    )
    return 0


def report(found: Mapping[str, Sequence[Figure]], chance: random.Random) -> None:
    """Print the table, and what each configuration costs beside the one that has least."""
    print("| | hits/s | processor time, µs/hit |\n|---|---:|---:|")
    for name, figures in found.items():
        rates, costs = [figure.per_s for figure in figures], [figure.cpu_us for figure in figures]
        print(f"| {name} | {spread(rates, ',.0f')} | {spread(costs, '.1f')} |")
    base = WITHOUT if WITHOUT in found else OFF
    print()
    for name in (name for name in found if base in found and name != base):
        ratios = [ours.cpu_us / bare.cpu_us for ours, bare in zip(found[name], found[base], strict=True)]
        least, most = interval(ratios, chance)
        print(
            f"{name}, against {base}: {statistics.median(ratios):.4f} times the processor time"
            f" (95 % interval of the median of {len(ratios)} pairs {least:.4f} to {most:.4f})"
        )


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
