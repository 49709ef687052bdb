"""``python -m benchmarks.strategies.imports``: what an import costs under each policy.

``larder import`` sends new products to a service on private servers, and then all of them again with another price. Counted
are its time, the processor time of Larder, PostgreSQL and Redis for each row, and the memory that Redis needs afterwards.
"""

import argparse
import asyncio
import sys
import time
from collections import defaultdict
from pathlib import Path

from app.cache.policies import WritePolicy
from benchmarks.steady.testbed import Service, larder, servers
from benchmarks.strategies.measure import cpu_s, processes, redis_info
from benchmarks.tables import markdown
from tests.harness import loop

_IMPORT = (sys.executable, "-c", "import sys; from app.cli import main; sys.exit(main(sys.argv[1:]))", "import")
Figures = tuple[float, float, float]
"""Rows per second, processor microseconds for each row, and megabytes that Redis gained."""


async def _measure(policy: str, rows: int) -> tuple[Figures, Figures]:
    async with servers() as started, larder(started, {"LARDER_WRITES": f"products={policy}"}) as service:
        found = []
        for price in (100, 101):
            file = started.directory / f"{price}.csv"
            lines = (f"p-{number:07},Product number {number},{price},1000\n" for number in range(rows))
            file.write_text("id,name,price_cents,stock\n" + "".join(lines))
            used, memory = processes(started, service), (await redis_info(started))["used_memory"]
            before_s, began = cpu_s(used), time.monotonic()
            await _import(file, service)
            took_s = time.monotonic() - began
            gained = (await redis_info(started))["used_memory"] - memory
            found.append((rows / took_s, 1e6 * (cpu_s(used) - before_s) / rows, gained / 1e6))
        return found[0], found[1]


async def _import(file: Path, service: Service) -> None:
    process = await asyncio.create_subprocess_exec(
        *_IMPORT, str(file), "--url", service.url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"larder import failed: {said.decode()}")


async def _rounds(rows: int, rounds: int) -> dict[str, list[tuple[Figures, Figures]]]:
    found: defaultdict[str, list[tuple[Figures, Figures]]] = defaultdict(list)
    policies = [policy.value for policy in WritePolicy]
    for number in range(rounds):
        for policy in (*policies[number % len(policies) :], *policies[: number % len(policies)]):
            found[policy].append(await _measure(policy, rows))
    return {policy: found[policy] for policy in policies}


def main() -> int:
    """Run the imports and print a row for each policy."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strategies.imports", description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="rows of each import (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    given = parser.parse_args()
    rows = []
    for policy, measured in loop.run(_rounds(given.rows, given.rounds)).items():
        row: dict[str, int | float | str | None] = {"policy": policy}
        for index, words in enumerate(("new", "again")):
            speeds, cpu, memory = zip(*(one[index] for one in measured), strict=True)
            row[f"{words}: rows/s"] = f"{min(speeds):,.0f} to {max(speeds):,.0f}"
            row[f"{words}: CPU µs/row"] = f"{min(cpu):,.0f} to {max(cpu):,.0f}"
            row[f"{words}: Redis MB"] = f"{sum(memory) / len(memory):.1f}"
        rows.append(row)
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
