"""``python -m benchmarks.steady.instructions``: the machine instructions that a hit takes, counted by valgrind.

The processor times of two processes of one program differ by several percent, which hides a cost of one percent. The number of
instructions depends on neither clocks nor caches, so a few rounds decide. Each round starts every configuration under valgrind,
counts while one connection reads, counts for as long without a request, and divides the difference by the hits.
``--against PATH`` adds another checkout, with servers of its own, which it migrates itself. Valgrind makes the service much
slower, so use an idle machine. Needs ``valgrind`` and ``wrk``.
"""

import argparse
import asyncio
import random
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

from benchmarks.steady.telemetry import OFF, PRODUCTS, SCRIPT, configurations, interval, load, serve_from, sink
from benchmarks.steady.testbed import SERVE, Servers, larder, product_id, servers, warm
from tests.harness import loop

AGAINST = "the other checkout"
_TOTALS = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)
_WARM_UP_S = 2


async def counted(pid: int, directory: Path) -> int:
    """Return the instructions since the counter was last read, and begin again at 0."""
    known = set(directory.iterdir())
    await _control("--dump", str(pid))
    (dump,) = set(directory.iterdir()) - known
    found = _TOTALS.findall(dump.read_text())
    return int(found[-1])


async def _control(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "callgrind_control", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said = (await process.communicate())[0].decode()
    if process.returncode:
        raise RuntimeError(f"callgrind_control: {said}")


async def instructions(started: Servers, settings: Mapping[str, str], command: Sequence[str], seconds: int) -> float:
    """Start the service under valgrind, warm it, and return the instructions of one hit."""
    with NamedTemporaryFile("w", suffix=".lua") as script, TemporaryDirectory() as name:
        script.write(SCRIPT % PRODUCTS)
        script.flush()
        directory = Path(name)
        count = [
            "valgrind",
            "--tool=callgrind",
            "--instr-atstart=no",
            f"--callgrind-out-file={name}/%p",
            f"--log-file={name}/log",
        ]
        paths = [f"/products/{product_id(number)}" for number in range(PRODUCTS)]
        async with larder(started, {"PYTHONHASHSEED": "0", **settings}, command=[*count, *command]) as service:
            await warm(service.endpoint, paths)
            await _control("--instr=on", str(service.pid))
            await warm(service.endpoint, paths)  # valgrind translates the code anew, which takes seconds
            await load(service.url, script.name, _WARM_UP_S, connections=1)
            await counted(service.pid, directory)
            hits, took_s = await load(service.url, script.name, seconds, connections=1)
            busy = await counted(service.pid, directory)
            await asyncio.sleep(took_s)
            idle = await counted(service.pid, directory)
    return (busy - idle) / hits


async def main() -> int:
    """Measure all rounds and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady.instructions")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of reading in each round")
    parser.add_argument("--against", type=Path, help="a checkout to compare with")
    parser.add_argument("--only", action="append", choices=configurations(""), help="a configuration; repeat it for more")
    arguments = parser.parse_args()
    chance = random.Random(1)
    async with AsyncExitStack() as opened:
        collector = await opened.enter_async_context(sink())
        started = await opened.enter_async_context(servers())
        await started.fill(PRODUCTS)
        chosen: dict[str, tuple[Servers, Mapping[str, str], Sequence[str]]] = {
            name: (started, settings, SERVE)
            for name, settings in configurations(collector).items()
            if name in (arguments.only or [OFF])
        }
        if arguments.against:
            checkout = arguments.against.resolve()
            others = await opened.enter_async_context(servers(checkout=checkout))
            await others.fill(PRODUCTS)
            chosen[AGAINST] = others, {}, serve_from(checkout)
        found: dict[str, list[float]] = {name: [] for name in chosen}
        for number in range(arguments.rounds):
            for name in chance.sample(list(chosen), len(chosen)):
                found[name].append(await instructions(*chosen[name], arguments.seconds))
                print(f"round {number + 1}: {name}: {found[name][-1]:,.0f}", file=sys.stderr, flush=True)
    report(found, chance)
    return 0


def report(found: Mapping[str, Sequence[float]], chance: random.Random) -> None:
    """Print the table, and each configuration beside the one that has least."""
    print("| | instructions of a hit, thousands |\n|---|---:|")
    for name, figures in found.items():
        print(f"| {name} | {statistics.median(figures) / 1e3:.1f} ({min(figures) / 1e3:.1f} to {max(figures) / 1e3:.1f}) |")
    print()
    base = AGAINST if AGAINST in found else OFF
    for name in (name for name in found if base in found and name != base):
        ratios = [ours / bare for ours, bare in zip(found[name], found[base], strict=True)]
        least, most = interval(ratios, chance)
        print(
            f"{name}, against {base}: {statistics.median(ratios):.4f} (95 % interval of the median {least:.4f} to {most:.4f})"
        )


if __name__ == "__main__":
    sys.exit(loop.run(main()))
