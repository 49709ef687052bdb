"""Who is measured: each a service in a process of its own, on a database and a Redis database of its own."""

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from app.access.keys import id_of, make_key
from benchmarks.peers.environment import command as peer_command
from tests.harness.cluster import ROOT

HOST = "127.0.0.1"
PEER_TTL_S = 3_600
"""As long as Larder keeps its entries, so that nobody pays for expiry."""
# Larder's own by default.
_DEADLINES = "-c statement_timeout=5000 -c lock_timeout=2000"
_READY_S = 60.0
_POLL_S = 0.02
_HITS_IN_A_ROW = 8
"""On connections of their own: each worker has to trust its cache."""
_LARDER = str(Path(sys.executable).with_name("larder"))


@dataclass(frozen=True, slots=True)
class Contender:
    """A service.

    Attributes:
        name: short, for files and databases.
        label: for tables.
        peer: module of ``benchmarks.peers``; empty: Larder.
        workers: Larder's processes.
        settings: the service's settings beyond the defaults.
        caches: whether it has a cache at all.
        keyed: whether its requests need an API key.
    """

    name: str
    label: str
    peer: str = ""
    workers: int = 1
    settings: Mapping[str, str] = field(default_factory=dict, hash=False)
    caches: bool = True
    keyed: bool = False


CEILING = Contender("ceiling", "bare ASGI function", "ceiling", caches=False)
LARDER = Contender("larder", "Larder, 1 worker")
LARDER_KEYED = Contender("larder_keyed", "Larder, 1 worker, with API keys", keyed=True)
LARDER_2 = Contender("larder_2", "Larder, 2 workers", workers=2)
LARDER_ALONE = Contender("larder_alone", "Larder, writes one by one", settings={"LARDER_WRITE_BATCH": "1"})
CASHEWS = Contender("cashews", "FastAPI + cashews", "with_cashews")
FASTAPI_CACHE = Contender("fastapi_cache", "FastAPI + fastapi-cache", "with_fastapi_cache")
TEXTBOOK = Contender("textbook", "textbook: threads, SQLAlchemy ORM, redis-py", "textbook_threads")
NO_CACHE = Contender("no_cache", "FastAPI + async SQLAlchemy, no cache", "no_cache", caches=False)


def workers_are_built() -> bool:
    """Return whether this Larder can serve with several processes."""
    told = subprocess.run([_LARDER, "serve", "--help"], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    return "--workers" in told.stdout


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a service, with header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class ContenderProcess:
    """The process of a contender, made by ``start_environment``. It is stopped (SIGSTOP) while others have their turns.

    ``header`` is the header that each request needs, as in ``Request``; empty if requests need none.
    """

    def __init__(self, contender: Contender, *, database_url: str, redis_url: str, answers: Path, log: Path) -> None:
        self.contender = contender
        self.database_url = database_url
        self.redis_url = redis_url
        self._answers = answers
        self._log = log
        self._port = _free_port()
        self._keys_file, self.header = _key_file(log.with_suffix(".toml")) if contender.keyed else ("", "")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address at which it serves."""
        return f"http://{HOST}:{self._port}"

    def start(self) -> None:
        """Start the process, without waiting until it is ready."""
        command, settings = self._program()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LARDER_")}
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment | settings,
                cwd=ROOT,
                start_new_session=True,
            )

    async def until_ready(self, probe: str) -> None:
        """Wait until it serves, and, if it is Larder, until ``probe`` is a hit.

        Raises:
            RuntimeError: it ended or does not come up; the message has the end of its log.
        """
        end = time.monotonic() + _READY_S
        in_a_row, wanted = 0, 1 if self.contender.peer else _HITS_IN_A_ROW
        path = "/readyz" if self.contender.peer else probe
        while in_a_row < wanted:
            in_a_row = in_a_row + 1 if await asyncio.to_thread(self._is_ready, path) else 0
            if time.monotonic() > end or (self._process is not None and self._process.poll() is not None):
                raise RuntimeError(f"{self.contender.label} does not come up: {self._log.read_text(errors='replace')[-2_000:]}")
            await asyncio.sleep(0 if in_a_row else _POLL_S)

    def get(self, paths: Sequence[str], header: str = "") -> list[Answer]:
        """GET each path on one connection, and return the answers. Raises ``OSError``, ``http.client.HTTPException``."""
        headers = [given.split(": ", 1) for given in (header, self.header) if given]
        connection = http.client.HTTPConnection(HOST, self._port, timeout=10)
        try:
            return [_get(connection, path, dict(headers)) for path in paths]
        finally:
            connection.close()

    def rows(self, statement: bytes, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Return the rows of a statement, read from its database directly. Raises ``psycopg.Error``."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            return connection.execute(statement, parameters).fetchall()

    def pause(self) -> None:
        """Stop all its processes until its next turn."""
        self._signal(signal.SIGSTOP)

    @asynccontextmanager
    async def turn(self, probe: str) -> AsyncIterator[None]:
        """Let the contender run within this context; it is ready at the start."""
        self._signal(signal.SIGCONT)
        await self.until_ready(probe)
        try:
            yield
        finally:
            self.pause()

    async def stop(self) -> None:
        """End it with SIGTERM, and with SIGKILL if that takes too long."""
        if self._process is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self._process.wait, 20)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            await asyncio.to_thread(self._process.wait)

    def _signal(self, number: signal.Signals) -> None:
        # Its workers, too: it leads a group of its own. Not once it has ended, for the number may be another's then.
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _is_ready(self, path: str) -> bool:
        with suppress(OSError, http.client.HTTPException):
            answer = self.get([path])[0]
            return answer.status == 200 and (path == "/readyz" or answer.headers.get("cache-status") == "larder; hit")
        return False

    def _program(self) -> tuple[list[str], dict[str, str]]:
        if self.contender.peer:
            return peer_command(self.contender.peer, self._port), {
                "PEER_DATABASE_URL": self.database_url,
                "PEER_REDIS_URL": self.redis_url,
                "PEER_TTL_S": str(PEER_TTL_S),
                "PEER_DEADLINES": _DEADLINES,
                "PEER_ANSWERS": str(self._answers),
                **self.contender.settings,
            }
        workers = ["--workers", str(self.contender.workers)] if self.contender.workers > 1 else []
        return [_LARDER, "serve", *workers], {
            "LARDER_ACCESS": "keys" if self.contender.keyed else "open",
            "LARDER_KEYS_FILE": self._keys_file,
            "LARDER_CLIENT_RATE_PER_S": "0",
            "LARDER_HOST": HOST,
            "LARDER_PORT": str(self._port),
            "LARDER_DATABASE_URL": self.database_url,
            "LARDER_REDIS_URL": self.redis_url,
            **self.contender.settings,
        }


def _key_file(path: Path) -> tuple[str, str]:
    """Write a file of keys with a new one; return the file, and the header that shows the key."""
    key, digest = make_key()
    path.write_text(f'[[key]]\nid = "{id_of(key)}"\nclient = "wrk"\nscopes = ["products:read"]\nsha256 = "{digest.hex()}"\n')
    return str(path), f"Authorization: Bearer {key}"


def _get(connection: http.client.HTTPConnection, path: str, headers: Mapping[str, str]) -> Answer:
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
