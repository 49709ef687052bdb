"""Load by wrk, which plays a file of requests with ``load.lua``, and its results."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

CONNECTIONS = 32
_SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True, slots=True)
class Request:
    """One request; ``header`` as ``Name: value``."""

    method: str
    path: str
    body: str = ""
    header: str = ""

    def line(self) -> str:
        """Return its line in the file that load.lua reads."""
        return f"{self.method}\t{self.path}\t{self.body}\t{self.header}\n"


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The figures of one run of wrk.

    Attributes:
        answers: the number of answers.
        seconds: how long it ran.
        bytes: the size of all answers together.
        refused: the number of answers of status 400 and above.
        unexpected: the number of answers of another status than expected, if each was checked.
        broken: the number of connections that failed, and of answers that did not come within ten seconds.
        commits: the number of commits of holds that were acknowledged (holds.lua).
        p50_ms, p99_ms, max_ms: latency at saturation, with 32 clients that send the next request at once.
    """

    answers: int
    seconds: float
    bytes: int
    refused: int
    unexpected: int
    broken: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    commits: int = 0

    @property
    def per_second(self) -> float:
        """The number of answers in a second."""
        return self.answers / self.seconds

    @property
    def wrong(self) -> int:
        """The number of answers and connections because of which the run does not count."""
        return max(self.refused, self.unexpected) + self.broken


def write_requests(path: Path, requests: Iterable[Request]) -> Path:
    """Write the file that ``run`` takes, and return its path."""
    with path.open("w") as file:
        file.writelines(request.line() for request in requests)
    return path


async def run(
    url: str,
    requests: Path,
    *,
    first: int,
    seconds: int,
    status: int = 200,
    each: bool = False,
    connections: int = CONNECTIONS,
) -> LoadResult:
    """Play ``requests`` from line ``first`` on, and return the figures.

    Args:
        url: the address of the service.
        requests: the file that ``write_requests`` wrote.
        first: the line to begin with.
        seconds: how long to play.
        status: the status that every answer must have.
        each: whether to check each answer; otherwise only what wrk counts anyway is counted (see load.lua).
        connections: the number of clients, which send the next request at once.

    Raises:
        RuntimeError: wrk failed.
    """
    arguments = (str(requests), str(first), str(status), "each" if each else "errors")
    return await play(url, _SCRIPT, arguments, seconds=seconds, connections=connections)


async def play(url: str, script: Path, arguments: Sequence[str], *, seconds: int, connections: int = CONNECTIONS) -> LoadResult:
    """Run a script of wrk that prints what load.lua prints. Raises ``RuntimeError``: wrk failed."""
    command = ("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), url, "--")
    process = await asyncio.create_subprocess_exec(
        *command, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output = (await process.communicate())[0].decode(errors="replace")
    if process.returncode:
        raise RuntimeError(f"wrk failed: {output[-1_000:]}")
    return parse(output)


def parse(output: str) -> LoadResult:
    """Return the figures in load.lua's line of what wrk printed. Raises ``RuntimeError`` if there is no such line."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            return LoadResult(**json.loads(line))
    raise RuntimeError(f"wrk did not print what load.lua prints: {output[-1_000:]}")
