"""Where the PostgreSQL primary is, and how a connection to it is opened: by one deadline, whatever the number of hosts."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from .connection import Connection
from .errors import DatabaseError
from .parameters import ANSWERS, LIMITS, PIN
from .pooler import check_session
from .session import Deadline

HOST_SHARE_MS = 500
"""The shortest time for one of several hosts. A host that hangs must leave the others this time."""

KEEPALIVES = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""How TCP keeps a resting connection alive: routers and clouds forget one that was silent for some minutes."""

ReadPassword = Callable[[], Awaitable[str]]
"""Returns the present password. It limits its own duration."""

_PRIMARY_ONLY = ("primary", "read-write")


class Primary:
    """The address of the primary, which may be on one of several hosts.

    Each connection resolves the names anew, and tries the host that answered last before the others.

    Args:
        url: URL or connection string of libpq. It is passed on unchanged, because rewriting it could change its meaning.
        read_password: is called for each connection, if the URL has no password.
        pooled: whether a pooler in transaction mode is in front of it.
    """

    def __init__(self, url: str, read_password: ReadPassword | None = None, *, pooled: bool = False) -> None:
        self.url = url
        self.pooled = pooled
        self._read_password = read_password
        self._last = 0

    @cached_property
    def _hosts(self) -> list[Mapping[str, Any]]:
        """What to replace in the URL to name each host; nothing to replace if there is one."""
        parts = conninfo_to_dict(self.url)
        given = {name: str(parts[name]).split(",") for name in ("host", "hostaddr", "port") if parts.get(name)}
        count = max(len(given.get("host", ())), len(given.get("hostaddr", ())))
        if count <= 1:
            return [{}]
        if len(given.get("port", ())) == 1:
            given["port"] *= count
        return [{name: values[number] for name, values in given.items() if number < len(values)} for number in range(count)]

    def check(self, timeout_ms: int) -> None:
        """Check what can be known without a connection.

        Raises:
            psycopg.ProgrammingError: it is no URL of PostgreSQL.
            ValueError: several hosts are named, and a standby could be taken, or the time does not suffice for all.
        """
        hosts = len(self._hosts)
        if hosts == 1:
            return
        wanted = conninfo_to_dict(self.url).get("target_session_attrs") or "any"
        if wanted not in _PRIMARY_ONLY:
            raise ValueError(
                f"names several hosts and target_session_attrs={wanted}, by which a standby could be taken."
                " Add target_session_attrs=primary to the URL."
            )
        if timeout_ms < hosts * HOST_SHARE_MS:
            raise ValueError(
                f"names {hosts} hosts, each of which needs {HOST_SHARE_MS} ms, and the deadline for all is {timeout_ms} ms."
                " Name fewer, or raise LARDER_DATABASE_CONNECT_TIMEOUT_MS."
            )

    async def connect(
        self, *, timeout_ms: int, parameters: Mapping[str, str] | None = None, autocommit: bool = False
    ) -> Connection:
        """Open a connection, and set the session parameters that everything relies on, and ``parameters`` beside them.

        It is the only way in which Larder connects. The deadline begins when the password is known, and holds for all hosts
        together. Behind a pooler nothing is set; the session that answers is checked instead.

        Raises:
            psycopg.Error: no host let us in, in time, or the password could not be read.
        """
        connection = await self.open(timeout_ms)
        failure: Exception
        try:
            with Deadline(connection, timeout_ms / 1000):  # a server may also hang after the login
                if self.pooled:
                    await check_session(connection)
                else:
                    pinned = {**ANSWERS, **LIMITS, **(parameters or {})}
                    values = {"names": [*pinned], "values": [*pinned.values()], "local": False}
                    await connection.execute(PIN, values, prepare=False)
                await connection.set_autocommit(autocommit)
                return connection
        except DatabaseError as error:
            cause = error.__cause__
            failure = cause if isinstance(cause, psycopg.Error) else psycopg.OperationalError(str(error))
            connection.finish()
        except BaseException:
            connection.finish()
            raise
        raise failure  # here, because there its cause would become an error whose cause it is

    async def open(self, timeout_ms: int) -> Connection:
        """Open a connection in autocommit, as it comes. Raises as ``connect``."""
        connection = await self._open(timeout_ms)
        if self.pooled:
            connection.prepare_threshold = None
        return connection

    async def _open(self, timeout_ms: int) -> Connection:
        options: dict[str, Any] = {}
        if self._read_password is not None:
            try:
                options["password"] = await self._read_password()
            except Exception as error:
                raise psycopg.OperationalError(str(error)) from error
        given = conninfo_to_dict(self.url)
        options |= {name: value for name, value in KEEPALIVES.items() if name not in given}
        hosts = self._hosts
        order = [self._last, *(number for number in range(len(hosts)) if number != self._last)]
        clock = asyncio.get_running_loop().time
        end = clock() + timeout_ms / 1000
        failures = []
        for position, number in enumerate(order):
            left_s = end - clock()
            share_s = min(left_s, max(left_s / (len(order) - position), HOST_SHARE_MS / 1000))
            try:
                connection = await _connect(self.url, share_s, {**options, **hosts[number]})
            except psycopg.OperationalError as error:
                if len(hosts) == 1:
                    raise
                failures.append(f"{_name(hosts[number])} ({_reason(error)})")
            else:
                self._last = number
                return connection
        raise psycopg.OperationalError(f"no host is a primary that answers: {'; '.join(failures)}")


async def _connect(url: str, timeout_s: float, options: Mapping[str, Any]) -> Connection:
    try:
        async with asyncio.timeout(timeout_s):
            return await Connection.connect(
                url,
                # The driver's own deadline holds for each address of a name, and is a whole number of at least 2 s.
                connect_timeout=math.ceil(timeout_s) + 1,
                client_encoding="utf8",
                fallback_application_name="larder",
                autocommit=True,
                **options,
            )
    except TimeoutError as error:
        raise psycopg.errors.ConnectionTimeout("connection timeout expired") from error


def _name(host: Mapping[str, Any]) -> str:
    return f"{host.get('host') or host.get('hostaddr')}:{host.get('port') or 5432}"


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no reason given"]
    return lines[0].rpartition("failed: ")[2]
