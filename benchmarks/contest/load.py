"""Load by wrk: a file of requests, played by ``load.lua``, and what came of it."""

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
        """Give its line in the file that load.lua reads."""
        return f"{self.method}\t{self.path}\t{self.body}\t{self.header}\n"


@dataclass(frozen=True, slots=True)
class Measured:
    """What wrk saw in one run.

    Attributes:
        answers: all answers.
        seconds: how long it ran.
        bytes: of all answers.
        refused: answers of status 400 and above.
        unexpected: answers of another status than expected, where each was looked at.
        broken: connections that failed, and answers that did not come in ten seconds.
        commits: commits of holds that were acknowledged (holds.lua).
        p50_ms, p99_ms, max_ms: latency at saturation: 32 clients that ask again at once.
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
        """Answers in a second."""
        return self.answers / self.seconds

    @property
    def wrong(self) -> int:
        """Everything that makes the run worthless."""
        return max(self.refused, self.unexpected) + self.broken


def write_requests(path: Path, requests: Iterable[Request]) -> Path:
    """Write the file that ``run`` takes."""
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
) -> Measured:
    """Play ``requests`` from line ``first`` on, for whole ``seconds``.

    Args:
        url: the service.
        requests: what ``write_requests`` wrote.
        first: the line to begin with.
        seconds: how long.
        status: what every answer must have.
        each: look at each answer; otherwise only what wrk counts anyway is counted (see load.lua).
        connections: clients that ask again at once.

    Raises:
        RuntimeError: wrk failed.
    """
    arguments = (str(requests), str(first), str(status), "each" if each else "errors")
    return await play(url, _SCRIPT, arguments, seconds=seconds, connections=connections)


async def play(url: str, script: Path, arguments: Sequence[str], *, seconds: int, connections: int = CONNECTIONS) -> Measured:
    """Run a script of wrk that prints what load.lua prints. Raises ``RuntimeError``: wrk failed."""
    command = ("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), url, "--")
    process = await asyncio.create_subprocess_exec(
        *command, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output = (await process.communicate())[0].decode(errors="replace")
    if process.returncode:
        raise RuntimeError(f"wrk failed: {output[-1_000:]}")
    return parse(output)


def parse(output: str) -> Measured:
    """Find load.lua's line in what wrk printed. Raises ``RuntimeError``: it is not there."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            return Measured(**json.loads(line))
    raise RuntimeError(f"wrk did not print what load.lua prints: {output[-1_000:]}")
