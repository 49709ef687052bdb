"""The checks of Redis. They write keys that begin with ``wtc-doctor:`` and live for seconds, and nothing else."""

import asyncio
import hashlib
import math
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from app.cache.errors import StoreUnavailable, WrongSentinel
from app.cache.redis.connection import RedisConnection
from app.cache.redis.store import RedisOptions
from app.doctor.cluster_check import cluster_findings, node_of
from app.doctor.findings import Check, Finding, no, ok, unknown

COMMANDS = ("get", "mget", "set", "del", "unlink", "evalsha", "script|load", "time", "info", "pttl", "scan")
"""What Larder sends, from its own connections and from its scripts."""
_ASKS = """
redis.call('INFO', 'replication')
redis.call('TIME')
return redis.call('PTTL', KEYS[1])
"""
_SAME_S = 1.0
_TRIES, _ROUND_TRIPS = 20, 50
_FULL = 0.9
_OURS = re.compile(rb"wtc:[A-Za-z0-9._~{}/-]+:.|wtc-(fence|watermark|auditor|doctor):.", re.DOTALL)
_KEY_REFUSED = re.compile("access (a|one of the) key")
_SENTENCE_DIRECT = "Name a server directly, or a proxy that pins a connection to one server."


@dataclass(frozen=True, slots=True)
class _Info:
    fields: dict[str, str]

    @classmethod
    def of(cls, text: bytes) -> "_Info":
        lines = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines())
        return cls({name: value for name, separator, value in lines if separator})

    def number(self, name: str) -> int:
        value = self.fields.get(name, "")
        return int(value) if value.isdigit() else 0


class RedisChecks:
    """The checks of one Redis, on connections of their own."""

    def __init__(self, options: RedisOptions, partitions: int = 1) -> None:
        self._options = options
        self._partitions = partitions
        self._key = f"wtc-doctor:{secrets.token_hex(8)}"
        self._node: RedisOptions | None = None
        self._raw: AbstractConnection | None = None
        self.clock_ms: tuple[float, float] | None = None
        """The clock of Redis and the event loop's time in seconds at which it was read."""

    def at_start(self) -> Sequence[tuple[str, Check]]:
        """Return the checks that a service makes when it starts."""
        return [
            ("D1", self.address),
            ("D2", self.identity),
            ("D3", self.one_server),
            ("D4", self.scripts),
            ("D5", self.rights),
            ("D6", self.cluster),
        ]

    def all(self) -> Sequence[tuple[str, Check]]:
        """Return every check."""
        return [*self.at_start(), ("D7", self.time), ("D8", self.memory)]

    async def close(self) -> None:
        """Close the connections."""
        if self._raw is not None:
            await self._raw.disconnect(nowait=True)
        await self._options.place.aclose()

    async def address(self) -> Sequence[Finding]:
        """Whether the sentinels agree, if there are some, and a data server answers and lets this user in."""
        try:
            info = await self._info("server")
        except (RedisConnectionError, StoreUnavailable, OSError) as error:
            reason = str(error).rstrip(".") or "no answer in time"
            if _is_refusal(error):
                cure = "Correct the URL or the password of LARDER_REDIS_URL; LARDER_SENTINEL_* is for sentinels."
                return [no("D1", f"{reason}. {cure}")]
            return [unknown("D1", f"Redis cannot be reached ({reason}). Start it, or correct LARDER_REDIS_URL.")]
        mode = info.fields.get("redis_mode") or info.fields.get("server_mode") or "unknown"
        if mode == "sentinel":
            return [no("D1", "this is a sentinel, not a data server. Name the port of the data server, often 6379.")]
        version = info.fields.get("valkey_version") or info.fields.get("redis_version", "of an unknown version")
        name = "Valkey" if "valkey_version" in info.fields else "Redis"
        where = (
            f", which most sentinels name ({await self._options.place.named()})" if self._options.place.has_sentinels else ""
        )
        return [ok("D1", f"{name} {version}{where} answers and lets this user in")]

    async def identity(self) -> Sequence[Finding]:
        """Whether the server tells who it is, by the very adapter that the service uses."""
        try:
            connection = await self._open()
        except StoreUnavailable as error:
            return [
                no(
                    "D2",
                    f"{error}. Larder cannot tell a failover here, and serves from PostgreSQL alone. Name the master; if it"
                    " masks its ids, use a Redis that shows them.",
                )
            ]
        server = connection.server
        await connection.close()
        run_id, _, data = server.partition(":")
        return [ok("D2", f"one server, master, run {run_id[:8]}…, data {data[:8]}…")]

    async def one_server(self) -> Sequence[Finding]:
        """Whether one connection leads to one server."""
        runs, clients, refused = set(), set(), False
        for _ in range(_TRIES):
            runs.add((await self._info("server")).fields.get("run_id", ""))
            try:
                clients.add(await self._ask("CLIENT", "ID"))
            except ResponseError:  # no right that Larder needs
                refused = True
        if len(runs) > 1 or len(clients) > 1:
            return [no("D3", f"{max(len(runs), len(clients))} servers answered on one connection. {_SENTENCE_DIRECT}")]
        how = "by its run id alone, since CLIENT ID is refused" if refused else "by run id and client id"
        return [ok("D3", f"one server answered {_TRIES} times on one connection ({how})")]

    async def scripts(self) -> Sequence[Finding]:
        """Whether scripts may ask for what the audit needs."""
        try:
            await self._ask("SCRIPT", "LOAD", _ASKS)
            digest = hashlib.sha1(_ASKS.encode(), usedforsecurity=False).hexdigest()
            await self._ask("EVALSHA", digest, 1, self._key)
        except ResponseError as error:
            return [
                no(
                    "D4",
                    f"a script that asks INFO, TIME and PTTL is refused ({error}), so audits cannot set trust and nothing is"
                    " ever a hit. Give the user +evalsha +script|load +info +time +pttl; if it has them (Redis Enterprise"
                    " refuses INFO in scripts), use another Redis.",
                )
            ]
        return [ok("D4", "scripts may ask INFO, TIME and PTTL")]

    async def rights(self) -> Sequence[Finding]:
        """Whether the user may send every command, on Larder's keys."""
        key = self._key
        digest = hashlib.sha1(_ASKS.encode(), usedforsecurity=False).hexdigest()
        sent: dict[str, Sequence[str | int]] = {
            "get": ("GET", key), "mget": ("MGET", key), "set": ("SET", key, "1", "PX", 5_000), "pttl": ("PTTL", key),
            "del": ("DEL", key), "unlink": ("UNLINK", key), "script|load": ("SCRIPT", "LOAD", _ASKS),
            "evalsha": ("EVALSHA", digest, 1, key), "time": ("TIME",), "info": ("INFO", "replication"),
            "scan": ("SCAN", 0, "COUNT", 1),
        }  # fmt: skip
        lacking = [f"+{name}" for name in COMMANDS if await self._is_refused(*sent[name])]
        patterns = [
            f"~{pattern}"
            for pattern in ("wtc:*", "wtc-*")
            if await self._is_refused("GET", f"{pattern[:-1]}doctor", by_key=True)
        ]
        if lacking or patterns:
            return [
                no(
                    "D5",
                    f"the user lacks {' '.join([*lacking, *patterns])}. Add this to it with ACL SETUSER;"
                    " docs/OPERATIONS.md has the whole line.",
                )
            ]
        foreign = not await self._is_refused("GET", f"doctor-{self._key}", by_key=True)
        more = "; it may also read keys that are not Larder's" if foreign else ", and no other keys"
        return [ok("D5", f"the user may send every command on Larder's keys{more}")]

    async def cluster(self) -> Sequence[Finding]:
        """Whether the keys can be where Larder looks for them."""
        in_cluster = (await self._info("cluster")).fields.get("cluster_enabled") == "1"
        return await cluster_findings(self._options, self._partitions, in_cluster=in_cluster)

    async def time(self) -> Sequence[Finding]:
        """Whether keys expire, and how long a round trip takes."""
        findings = []
        await self._ask("SET", self._key, "1", "PX", 200)
        left_ms = await self._ask("PTTL", self._key)
        loop = asyncio.get_running_loop()
        took_s = []
        for _ in range(_ROUND_TRIPS):
            began = loop.time()
            seconds, microseconds = await self._ask("TIME")
            took_s.append(loop.time() - began)
            self.clock_ms = (int(seconds) * 1000 + int(microseconds) / 1000, (began + loop.time()) / 2)
        await asyncio.sleep(0.25)
        if not 0 < left_ms <= 200 or await self._ask("GET", self._key) is not None:  # noqa: PLR2004 - as set above
            findings.append(no("D7", "a key with a life of 200 ms did not expire: fences would not lapse. Use another Redis."))
        p99_ms = sorted(took_s)[math.ceil(_ROUND_TRIPS * 0.99) - 1] * 1000
        if p99_ms > self._options.timeout_ms / 2:
            findings.append(
                no(
                    "D7",
                    f"a round trip takes up to {p99_ms:.0f} ms, and the deadline is {self._options.timeout_ms} ms"
                    " (LARDER_REDIS_TIMEOUT_MS). Raise it, or move Redis nearer.",
                    needed=p99_ms > self._options.timeout_ms,
                )
            )
        return findings or [ok("D7", f"keys expire in time, and 99 of 100 round trips take at most {p99_ms:.1f} ms")]

    async def memory(self) -> Sequence[Finding]:
        """Whether there is room, and whether somebody else writes keys of Larder's names."""
        info = await self._info("memory")
        most, used = info.number("maxmemory"), info.number("used_memory")
        policy = info.fields.get("maxmemory_policy", "")
        findings = []
        if policy == "noeviction" and most and used > _FULL * most:
            findings.append(
                no(
                    "D8",
                    f"the policy is noeviction and {used / most:.0%} of maxmemory is used: when it is full, writes take up"
                    " to a fence's life longer. Set maxmemory-policy volatile-lfu, or give it more memory.",
                    needed=False,
                )
            )
        _, keys = await self._ask("SCAN", 0, "MATCH", "wtc*", "COUNT", 1_000)
        if foreign := [key for key in keys if not _OURS.match(key)]:
            shown = foreign[0][:60].decode("utf-8", "replace")
            findings.append(
                no(
                    "D8",
                    f"{len(foreign)} of {len(keys)} keys looked at begin with wtc but are not Larder's, such as {shown!r}:"
                    " no other program may write such names. Give it another prefix.",
                )
            )
        limit = f"{used / most:.0%} of maxmemory is used" if most else "maxmemory is not set"
        return findings or [ok("D8", f"{limit}, the policy is {policy or 'not told'}, and no foreign key begins with wtc")]

    async def clocks(self, database_ms: float, at_s: float) -> Sequence[Finding]:
        """Compare the clocks of Redis and PostgreSQL, which was read at ``at_s`` of the event loop."""
        if self.clock_ms is None:
            return [unknown("D7", "the clock of Redis was not read")]
        mine_ms, mine_s = self.clock_ms
        apart_s = abs((database_ms - mine_ms) / 1000 - (at_s - mine_s))
        if apart_s > _SAME_S:
            return [
                no(
                    "D7",
                    f"the clocks of Redis and PostgreSQL differ by {apart_s:.1f} s. Nothing that Larder promises depends"
                    " on that; logs of the two are hard to compare. Set both by NTP.",
                    needed=False,
                )
            ]
        return [ok("D7", f"the clocks of Redis and PostgreSQL differ by {apart_s * 1000:.0f} ms")]

    async def _open(self) -> RedisConnection:
        timeout_s = self._options.timeout_ms / 1000
        connect_s = self._options.connect_timeout_ms / 1000
        place = (await self._asked()).place
        return await RedisConnection.open(place, connect_timeout_s=connect_s, timeout_s=timeout_s, scripts=())

    async def _asked(self) -> RedisOptions:
        """Return which server is asked: that of the URL, or in a cluster the node that has the key of the checks."""
        if self._node is None:
            self._node = await node_of(self._options, self._key) if self._partitions > 1 else self._options
        return self._node

    async def _info(self, section: str) -> _Info:
        return _Info.of(await self._ask("INFO", section))

    async def _is_refused(self, *command: str | int, by_key: bool = False) -> bool:
        """Return whether the user may not send the command, or, if ``by_key``, may not use it on this key."""
        try:
            await self._ask(*command)
        except NoPermissionError as error:
            return bool(_KEY_REFUSED.search(str(error))) is by_key
        except ResponseError:
            return False  # for another reason, such as a script that may not ask
        return False

    async def _ask(self, *command: str | int) -> Any:
        if self._raw is None:
            place = (await self._asked()).place
            raw = await place.connection(await place.passwords())
            async with asyncio.timeout(self._options.connect_timeout_ms / 1000):
                await raw.connect()  # type: ignore[no-untyped-call]  # the same
            self._raw = raw
        try:
            async with asyncio.timeout(1.0):
                await self._raw.send_command(*command)
                return await self._raw.read_response(disable_decoding=True)
        except ResponseError:
            raise
        except BaseException:
            # A reply may still come: it must not be taken for that of the next command.
            raw, self._raw = self._raw, None
            await raw.disconnect(nowait=True)
            raise


def _is_refusal(error: BaseException | None) -> bool:
    """Return whether a user was refused, or the sentinels are none. On a Unix socket redis-py wraps that in another error."""
    while error is not None and not isinstance(error, WrongSentinel | AuthenticationError):
        error = error.__cause__ or error.__context__
    return error is not None
