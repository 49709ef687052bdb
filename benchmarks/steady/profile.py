"""``python -m benchmarks.steady.profile [--seconds 8] [--only hit put-stock]``: where a request's processor time goes.

For each kind of request, `larder serve` on private servers gets as much load as 32 clients make (fewer for batches and
lists): once to measure its processor time for each request, and once while py-spy samples its stack. Only samples that hold
the interpreter's lock count. Each is attributed to the Python file that it is in: a system call counts for its caller, and a
collection of garbage for whoever was running. The table is Markdown, for docs/PERFORMANCE.md.

The catalogue has 1,000 products, which are cached before the load; for misses it has 200,000, each of which is read once.
"""

import argparse
import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.contest import load, workloads
from benchmarks.contest.load import Request
from benchmarks.peers.environment import PYTHON, set_up
from benchmarks.steady.testbed import Service, larder, product_id, servers, warm
from tests.harness.loop import run

PRODUCTS, MANY_PRODUCTS = 1_000, 200_000
BATCH = 1_000
_REQUESTS = 20_000
_PER_SECOND = 200
"""Samples of the stack."""
_FRAME = re.compile(r"\((?P<file>[^():]+):\d+\)$")
COMPONENTS: Mapping[str, Sequence[str]] = {
    "server": ("app/server/", "uvicorn/", "httptools/"),
    "event loop": ("asyncio/", "uvloop/", "contextlib.py", "<string>"),
    "frameworks": ("fastapi/", "starlette/"),
    "HTTP interface": ("app/api/", "app/access/"),
    "JSON and models": ("json/", "pydantic/"),
    "products": ("app/products/",),
    "cache": ("app/cache/",),
    "PostgreSQL's driver": ("app/postgres/", "psycopg/", "app/cache/postgres/"),
    "Redis's driver": ("app/cache/redis/", "redis/", "hiredis/"),
}
"""The beginnings of the files of each component. A file belongs to the component with the longest one that fits."""
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request, and the number of products in the catalogue for it."""

    name: str
    requests: Sequence[Request]
    products: int = PRODUCTS
    cached: bool = True
    clients: int = load.CONNECTIONS
    """More of them would be refused where one request is a lot of work."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Processor time of one kind of request: microseconds for each, and each component's share."""

    kind: str
    per_second: float
    microseconds: float
    shares: Mapping[str, float]


def kinds() -> Sequence[Kind]:
    """Return what is profiled."""
    paths = [f"/products/{product_id(number)}" for number in range(PRODUCTS)]
    cold = [Request("GET", f"/products/{product_id(number)}") for number in range(MANY_PRODUCTS)]
    batches = [
        {"items": [{"id": product_id(number), "name": "A name", "price_cents": 100, "stock": stock} for number in range(BATCH)]}
        for stock in (1, 2)
    ]
    return (
        Kind("hit", workloads.reads(paths, _REQUESTS, 1)),
        Kind("miss", cold, MANY_PRODUCTS, cached=False),
        Kind("put-stock", workloads.counts(paths, _REQUESTS, 1)),
        Kind("adjust-one", [Request("POST", f"{paths[0]}/stock/adjustments", '{"delta": 1, "reason": "receipt"}')]),
        Kind("batch-1000", [Request("POST", "/products/batch", json.dumps(batch)) for batch in batches], clients=2),
        Kind("list-50", [Request("GET", "/products?limit=50")], clients=8),
    )


def component_of(file: str) -> str:
    """Return the component of a Python file."""
    fitting = [(len(begin), name) for name, begins in COMPONENTS.items() for begin in begins if file.startswith(begin)]
    return max(fitting)[1] if fitting else OTHER


def shares(stacks: Iterable[str]) -> Mapping[str, float]:
    """Return each component's share of the samples. A line of py-spy has the frames, outermost first, and their number."""
    counted: Counter[str] = Counter()
    for line in stacks:
        frames, _, number = line.rpartition(" ")
        found = _FRAME.search(frames)
        counted[component_of(found["file"]) if found else OTHER] += int(number)
    total = counted.total()
    return {name: count / total for name, count in counted.items()} if total else {}


def table(profiles: Sequence[Profile]) -> Sequence[str]:
    """Return the lines of the table."""
    head = ["component", *[profile.kind for profile in profiles]]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * len(profiles)}"]
    lines.append(_line("requests a second", [f"{profile.per_second:,.0f}" for profile in profiles]))
    lines.append(_line("µs of the processor for each", [f"{profile.microseconds:,.0f}" for profile in profiles]))
    rows = [_line(name, [f"{profile.shares.get(name, 0.0):.0%}" for profile in profiles]) for name in (*COMPONENTS, OTHER)]
    return lines + rows


def _line(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


async def profile(kind: Kind, seconds: int) -> Profile:
    """Measure one kind of request.

    Raises:
        RuntimeError: an answer was not the expected one, or the load generator or py-spy failed.
    """
    async with servers() as started:
        await started.fill(kind.products)
        async with larder(started) as service:
            path = f"/products/{product_id(0)}"
            number = PRODUCTS if kind.cached else 1
            await warm(service.endpoint, [path, *[f"/products/{product_id(other)}" for other in range(1, number)]])
            requests = load.write_requests(started.directory / "requests", kind.requests)
            before = _processor_s(service)
            measured = await _load(service, kind, requests, 0, seconds)
            spent_s = _processor_s(service) - before
            stacks = await _sampled(service, kind, requests, measured.answers, seconds)
    return Profile(kind.name, measured.per_second, spent_s / measured.answers * 1e6, shares(stacks))


async def _load(service: Service, kind: Kind, requests: Path, first: int, seconds: int) -> load.LoadResult:
    measured = await load.run(service.url, requests, first=first, seconds=seconds, connections=kind.clients)
    if measured.wrong or not measured.answers:
        raise RuntimeError(f"{measured.wrong} of {measured.answers} answers were wrong")
    return measured


async def _sampled(service: Service, kind: Kind, requests: Path, first: int, seconds: int) -> Sequence[str]:
    program, file = PYTHON.with_name("py-spy"), requests.with_name("stacks")
    options = ("--pid", service.pid, "--duration", seconds, "--rate", _PER_SECOND, "--format", "raw", "--output", file)
    sampler = await asyncio.create_subprocess_exec(
        program, "record", "--gil", *map(str, options), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    await _load(service, kind, requests, first, seconds)
    _, said = await sampler.communicate()
    if sampler.returncode:
        raise RuntimeError(f"py-spy failed: {said.decode(errors='replace')[-500:]}")
    return file.read_text().splitlines()


def _processor_s(service: Service) -> float:
    used = psutil.Process(service.pid).cpu_times()
    return used.user + used.system


async def main(seconds: int, only: Sequence[str]) -> int:
    """Profile, and print the table."""
    await asyncio.to_thread(set_up)
    profiles = [await profile(kind, seconds) for kind in kinds() if not only or kind.name in only]
    print("\n".join(table(profiles)))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady.profile", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=8, help="of each of the two loads (%(default)s)")
    parser.add_argument("--only", nargs="+", default=(), choices=[kind.name for kind in kinds()], help="these alone")
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    sys.exit(run(main(given.seconds, given.only)))
