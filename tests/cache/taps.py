"""Proxies in front of real servers that list the commands that pass, and cut a connection, or hang, at a statement."""

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

from psycopg.conninfo import conninfo_to_dict

from app.cache.redis.connection import WHO_SHA
from tests.harness.proxy import HOST, Proxy, Target, Watch

Cut = Literal["before it is sent", "when its answer comes"]

WHO = "WHO"
"""Stands for the EVALSHA of the script that says which server answers."""


@dataclass(slots=True)
class Tap:
    """What passed, in the order in which the proxy saw it; several proxies may share one list."""

    seen: list[str] = field(default_factory=list)
    round_trips: int = 0
    script_bytes: list[int] = field(default_factory=list)
    """The size of each script's arguments, from its first key on."""
    cut: Cut | None = None
    """What happens to the next COMMIT."""
    hang_at: str = ""
    """The server hangs at the first statement with this text, until the proxy is healed."""
    proxy: Proxy = field(init=False)

    def clear(self) -> None:
        """Forget what passed."""
        self.seen.clear()
        self.round_trips = 0
        self.script_bytes.clear()


class _RedisWatch(Watch):
    """Takes commands out of a client's bytes."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._bytes = b""
        self._ended = False

    def sent(self, data: bytes) -> bool:
        self._bytes += data
        while (parsed := self._one()) is not None:
            command, self._bytes = parsed
            name = command[0].decode().upper()
            if name == "EVALSHA" and command[1].decode() == WHO_SHA:
                name = WHO
            if self._is_keep_alive(name):
                continue
            self._tap.seen.append(name)
            if name == "EVALSHA":
                self._tap.script_bytes.append(sum(map(len, command[3:])))
            self._tap.round_trips += name == WHO  # each of Larder's calls ends with one
        return True

    def answered(self, data: bytes) -> bool:
        del data
        return True

    def _is_keep_alive(self, name: str) -> bool:
        """Whether this is the call of a resting link, which consists of what ends every call: it comes by the clock."""
        resting = self._ended and name == WHO
        self._ended = name == WHO
        return resting

    def _one(self) -> tuple[list[bytes], bytes] | None:
        head, found, rest = self._bytes.partition(b"\r\n")
        if not found:
            return None
        words = []
        for _ in range(int(head[1:])):
            size, found, rest = rest.partition(b"\r\n")
            length = int(size[1:] or b"0") if found else 0
            if not found or len(rest) < length + 2:
                return None
            words.append(rest[:length])
            rest = rest[length + 2 :]
        return words, rest


class _PostgresWatch(Watch):
    """Takes executed statements out of a client's bytes."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._bytes = b""
        self._started = False
        self._prepared: dict[bytes, str] = {}
        self._portal = ""

    def sent(self, data: bytes) -> bool:
        tap, committing = self._tap, False
        for kind, text in self._messages(data):
            if kind in (b"Q", b"E"):
                tap.seen.append(text)
                if tap.hang_at and tap.hang_at in text:
                    tap.proxy.hold()
                committing = committing or text == "COMMIT"
            tap.round_trips += kind in (b"Q", b"S")
        return not (committing and self._cuts("before it is sent"))

    def answered(self, data: bytes) -> bool:
        return not (b"COMMIT\0" in data and self._cuts("when its answer comes"))

    def _cuts(self, where: Cut) -> bool:
        if self._tap.cut != where:
            return False
        self._tap.cut = None
        return True

    def _messages(self, data: bytes) -> list[tuple[bytes, str]]:
        """Each message's type, and the text of the statement if it executes one."""
        self._bytes += data
        messages: list[tuple[bytes, str]] = []
        while True:
            skip = 1 if self._started else 0
            if len(self._bytes) < skip + 4:
                return messages
            [size] = struct.unpack_from("!I", self._bytes, skip)
            if len(self._bytes) < skip + size:
                return messages
            kind, body = self._bytes[:skip], self._bytes[skip + 4 : skip + size]
            self._bytes = self._bytes[skip + size :]
            self._started = True
            messages.append((kind, self._text(kind, body)))

    def _text(self, kind: bytes, body: bytes) -> str:
        if kind == b"Q":
            return body.rstrip(b"\0").decode()
        if kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self._prepared[name] = text.decode()
        if kind == b"B":
            self._portal = self._prepared[body.split(b"\0", 2)[1]]
        return self._portal if kind == b"E" else ""


@asynccontextmanager
async def redis_proxy(url: str, tap: Tap) -> AsyncIterator[str]:
    """The URL of a proxy to the Redis at ``url``."""
    parts = urlsplit(url)
    unix = parts.scheme == "unix"
    target = Target(path=Path(parts.path)) if unix else Target(host=parts.hostname or HOST, port=parts.port or 6379)
    async with _open(tap, target, _RedisWatch):
        login = f":{parts.password}@" if parts.password else ""
        yield f"redis://{login}{HOST}:{tap.proxy.port}{'/0' if unix else parts.path}"


@asynccontextmanager
async def postgres_proxy(url: str, tap: Tap) -> AsyncIterator[str]:
    """The URL of a proxy to the PostgreSQL at ``url``, without TLS."""
    given = conninfo_to_dict(url)
    host, port = str(given.get("host", HOST)), int(given.get("port") or 5432)
    target = Target(path=Path(host) / f".s.PGSQL.{port}") if host.startswith("/") else Target(host=host, port=port)
    async with _open(tap, target, _PostgresWatch):
        login = quote(str(given.get("user", "")), safe="")
        if password := given.get("password"):
            login += ":" + quote(str(password), safe="")
        yield f"postgresql://{login}@{HOST}:{tap.proxy.port}/{given['dbname']}?sslmode=disable&gssencmode=disable"


@asynccontextmanager
async def _open(tap: Tap, target: Target, watch: Callable[[Tap], Watch]) -> AsyncIterator[None]:
    tap.proxy = Proxy(target, lambda: watch(tap))
    await tap.proxy.open()
    try:
        yield
    finally:
        await tap.proxy.aclose()
