"""The checks of PostgreSQL. They change nothing."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, LiteralString

from psycopg import Error, OperationalError

from app.doctor.findings import Check, Finding, no, ok, unknown
from app.postgres.connection import Connection
from app.postgres.pooler import different_parameters, role_parameters, shares_sessions
from app.postgres.primary import Primary

_TRANSACTIONS = 10
_TIMEOUT_MS = 4_321
_OLD_S = 600
_SHOWN = 5
_TIMELINE: LiteralString = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"
_MEMBERS: Sequence[tuple[str, LiteralString]] = (
    ("the system identifier", "SELECT system_identifier FROM pg_control_system()"),
    ("the timeline", _TIMELINE),
    ("the start time", "SELECT pg_postmaster_start_time()"),
)
# True in a database whose schema is older than the column.
_BY_TIMELINE: LiteralString = """
SELECT coalesce(bool_and((to_jsonb(g) ->> 'by_timeline') IS DISTINCT FROM 'false'), true) FROM cache_generations g
WHERE relation = 'products'
"""
_TRIGGERS: LiteralString = """
SELECT tgname FROM unnest('{zz_larder_change,zz_larder_truncate}'::text[]) AS wanted (tgname)
WHERE NOT EXISTS (
    SELECT FROM pg_trigger t WHERE t.tgrelid = to_regclass('products') AND t.tgname = wanted.tgname AND tgenabled = 'A'
)
"""
_GRANTS: LiteralString = """
WITH place AS (SELECT relnamespace AS schema FROM pg_class WHERE oid = to_regclass('products')), wanted (name, privileges) AS (
    VALUES ('products', 'SELECT,INSERT,UPDATE'), ('stock_movements', 'SELECT,INSERT'), ('larder_version', 'SELECT'),
        ('idempotency_records', 'SELECT,INSERT,UPDATE,DELETE'), ('accepted_writes', 'SELECT,INSERT,UPDATE,DELETE'),
        ('cache_audits', 'SELECT,INSERT,UPDATE,DELETE'),
        ('cache_generations', 'SELECT,UPDATE'), ('access_keys', 'SELECT,INSERT,UPDATE'), ('access_generation', 'SELECT,UPDATE'),
        ('feed_marks', 'SELECT,UPDATE,DELETE'), ('reservations', 'SELECT,INSERT,UPDATE,DELETE'),
        ('reservation_lines', 'SELECT,INSERT,UPDATE,DELETE'), ('pair_buckets', 'SELECT')
)
SELECT format('GRANT %s ON %I TO %I', string_agg(privilege, ', ' ORDER BY number), c.relname, current_user)
FROM wanted, place, pg_class c, unnest(string_to_array(wanted.privileges, ',')) WITH ORDINALITY AS listed (privilege, number)
WHERE c.relname = wanted.name AND c.relnamespace = place.schema AND NOT has_table_privilege(c.oid, privilege)
GROUP BY c.relname
UNION ALL
SELECT format('GRANT EXECUTE ON FUNCTION %s TO %I', p.oid::regprocedure, current_user) FROM pg_proc p, place
WHERE p.proname LIKE 'larder%' AND p.pronamespace = place.schema AND NOT has_function_privilege(p.oid, 'EXECUTE')
"""
_BUCKETS: LiteralString = "SELECT held, moving FROM pair_buckets"
_ROOM: LiteralString = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
    (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),
    (SELECT datconnlimit FROM pg_database WHERE datname = current_database())
"""
_OLDEST: LiteralString = """
SELECT pid, extract(epoch FROM clock_timestamp() - xact_start)::float8 FROM pg_stat_activity
WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 1
"""


class PostgresChecks:
    """The checks of one PostgreSQL.

    Args:
        primary: where PostgreSQL is.
        timeout_ms: deadline for opening a connection.
        schema: the payload's schema that this release knows.
        namespace: the cache namespace of the service.
        connections: how many connections the service may open in all its workers.
        role_limits: the deadlines that the role's settings have to have behind a pooler.
        head: the newest revision that this release knows, if it was found out.
        buckets: the buckets of products in the settings; empty if the service holds all.
    """

    def __init__(
        self,
        primary: Primary,
        *,
        timeout_ms: int,
        schema: int,
        namespace: str,
        connections: int,
        role_limits: Mapping[str, str] | None = None,
        head: str | None = None,
        buckets: str = "",
    ) -> None:
        self._buckets = buckets
        self._role_limits = role_limits or {}
        self._primary = primary
        self._timeout_ms = timeout_ms
        self._schema = schema
        self._namespace = namespace
        self._connections = connections
        self._head = head
        self._connection: Connection | None = None

    def at_start(self) -> Sequence[tuple[str, Check]]:
        """Return the checks that a service makes when it starts."""
        return [("Q1", self.primary), ("Q2", self.epoch), ("Q3", self.session), ("Q4", self.settings)]

    def all(self) -> Sequence[tuple[str, Check]]:
        """Return every check."""
        return [*self.at_start(), ("Q5", self.others), ("Q6", self.buckets)]

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()

    async def clock_ms(self) -> tuple[float, float]:
        """Return the server's clock, and the event loop's time in seconds at which it was read."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        now = await self._value("SELECT extract(epoch FROM clock_timestamp())::float8 * 1000")
        return float(now), (began + loop.time()) / 2

    async def primary(self) -> Sequence[Finding]:
        """Whether this is the primary and may be written to."""
        try:
            version = await self._value("SHOW server_version")
        except OperationalError as error:
            reason = _reason(error).rstrip(".")
            return [unknown("Q1", f"PostgreSQL cannot be used ({reason}). Start it, or correct LARDER_DATABASE_URL.")]
        if await self._value("SELECT pg_is_in_recovery()"):
            host = (await self._open()).info.host or "the local socket"
            return [
                no("Q1", f"{host} is a standby. Name the primary, or all hosts and target_session_attrs=primary in the URL.")
            ]
        if await self._value("SHOW transaction_read_only") == "on":
            return [
                no(
                    "Q1",
                    "the database is read-only for this role, so the service is not ready. End that with: ALTER DATABASE …"
                    " RESET default_transaction_read_only (or ALTER ROLE …).",
                )
            ]
        return [ok("Q1", f"PostgreSQL {version}, the primary, writable")]

    async def epoch(self) -> Sequence[Finding]:
        """Whether everything that tells one history of the database from another can be read."""
        if not await self._value("SELECT to_regclass('products') IS NOT NULL"):
            return [no("Q2", "there are no tables of Larder here. Run: larder migrate")]
        findings = []
        by_timeline = await self._value(_BY_TIMELINE)
        for name, statement in _MEMBERS:
            if statement == _TIMELINE and not by_timeline:
                continue
            try:
                await self._value(statement)
            except Error as error:
                findings.append(
                    no(
                        "Q2",
                        f"{name} is refused ({_reason(error)}), so this database cannot be cached. Grant EXECUTE on the"
                        " function to Larder's role.",
                    )
                )
        if missing := [row[0] for row in await self._rows(_TRIGGERS)]:
            findings.append(
                no(
                    "Q2",
                    f"trigger {missing[0]} is missing or not ENABLE ALWAYS, so the service answers 503. Wait for the end"
                    f" of a restore, or run: ALTER TABLE products ENABLE ALWAYS TRIGGER {missing[0]}",
                )
            )
        if findings:
            return findings
        try:
            await self._rows("SELECT larder_epoch('products', %s)", [self._schema])
        except Error as error:
            return [no("Q2", f"the epoch cannot be read: {_reason(error)}. Run: larder migrate, with this release.")]
        if not by_timeline:
            return [
                ok(
                    "Q2",
                    "the timeline could not be read when the database was migrated (Aurora refuses it), so the time of the"
                    " server's start is used: each restart starts the cache clean; the triggers are on",
                )
            ]
        return [ok("Q2", "every member of the epoch can be read, and the triggers are on")]

    async def session(self) -> Sequence[Finding]:
        """Whether what is set in a session stays in it, or, behind a pooler, holds for every session."""
        connection = await self._open()
        if self._primary.pooled:
            return await self._pooled(connection)
        if await shares_sessions(connection, partial(self._primary.open, timeout_ms=self._timeout_ms)):
            return [
                no(
                    "Q3",
                    "a pooler in transaction mode is in front of PostgreSQL, which loses prepared statements and deadlines."
                    " Set LARDER_DATABASE_POOLER=transaction, and run: larder migrate",
                )
            ]
        kept = set()
        for _ in range(_TRANSACTIONS):
            async with connection.transaction():
                kept.add((await self._rows("SELECT current_setting('statement_timeout')"))[0][0])
        if kept != {f"{_TIMEOUT_MS}ms"}:
            return [
                no(
                    "Q3",
                    "statement_timeout was dropped on the way: something between Larder and PostgreSQL ignores what a"
                    " session sets. Connect to PostgreSQL directly.",
                )
            ]
        try:
            for _ in range(2):
                await connection.execute("SELECT 1", prepare=True)
        except Error as error:
            return [no("Q3", f"a prepared statement is refused ({_reason(error)}). Connect to PostgreSQL directly.")]
        return [ok("Q3", "one backend per connection; its parameters and prepared statements stay")]

    async def _pooled(self, connection: Connection) -> Sequence[Finding]:
        wanted = role_parameters(self._role_limits)
        found = {one for _ in range(_TRANSACTIONS) for one in await different_parameters(connection, wanted)}
        if found:
            listed = ", ".join(f"{name} is {present!r}" for name, present, _ in sorted(found)[:_SHOWN])
            more = " and more" if len(found) > _SHOWN else ""
            return [
                no(
                    "Q3",
                    f"behind the pooler {listed}{more}, not as the role's settings have to be."
                    " Run: larder migrate; then RECONNECT in the pooler (PgBouncer's console).",
                )
            ]
        if not await shares_sessions(connection, partial(self._primary.open, timeout_ms=self._timeout_ms)):
            return [
                no(
                    "Q3",
                    "no pooler in transaction mode was found. Without one LARDER_DATABASE_POOLER=none is faster.",
                    needed=False,
                )
            ]
        return [ok("Q3", "a pooler in transaction mode; the role's settings are as needed in every session that was seen")]

    async def settings(self) -> Sequence[Finding]:
        """Whether the server, the schema and the rights are as the service needs them."""
        findings = []
        if (encoding := await self._value("SHOW server_encoding")) != "UTF8":
            findings.append(no("Q4", f"the encoding is {encoding}, which cannot hold every name. Create a database in UTF8."))
        if lacking := [row[0] for row in await self._rows(_GRANTS)]:
            findings.append(no("Q4", f"the role lacks rights. Run, as the owner of the tables: {'; '.join(lacking)}"))
        elif await self._value("SELECT to_regclass('larder_version') IS NOT NULL"):
            found = await self._value("SELECT version_num FROM larder_version")
            if self._head is not None and found != self._head:
                findings.append(no("Q4", f"the schema is at {found}, this release needs {self._head}. Run: larder migrate"))
        else:
            findings.append(no("Q4", "there is no schema of Larder, or one of an earlier release. Run: larder migrate"))
        findings += await self._durability()
        findings += await self._room()
        if await self._value("SELECT lower('Ä') <> 'ä'"):
            findings.append(
                no(
                    "Q4",
                    "the database's LC_CTYPE knows only ASCII, so the search by name ignores case in a-z alone. Create it"
                    " with LC_CTYPE 'C.UTF-8' TEMPLATE template0 to change that.",
                    needed=False,
                )
            )
        return findings or [ok("Q4", "encoding, schema, rights, durability and room for connections are as needed")]

    async def others(self) -> Sequence[Finding]:
        """Who else is there: long transactions, standbys, other namespaces that are trusted."""
        findings = []
        for pid, age_s in await self._rows(_OLDEST):
            if age_s is not None and age_s > _OLD_S:
                findings.append(
                    no(
                        "Q5",
                        f"a transaction of process {pid} is {age_s / 60:.0f} min old: each audit reads the changes of that"
                        f" time again. End it: SELECT pg_terminate_backend({pid})",
                        needed=False,
                    )
                )
        ahead = await self._rows(
            "SELECT split_part(namespace, '#', 1) FROM cache_audits"
            " WHERE relation = 'products' AND split_part(namespace, '#', 1) <> %s AND fenced_until > clock_timestamp()",
            [self._namespace],
        )
        if ahead:
            findings.append(
                no(
                    "Q5",
                    f"namespace {ahead[0][0]} has the trust, so {self._namespace} reads PostgreSQL until its fence has"
                    f" lapsed. To hand over early: larder namespace bar {ahead[0][0]}",
                    needed=False,
                )
            )
        standbys = await self._rows("SELECT application_name, sync_state FROM pg_stat_replication")
        shown = ", ".join(f"{name} ({state or 'state not shown to this role'})" for name, state in standbys) or "no standby"
        return findings or [ok("Q5", f"{shown}; no old transaction; no other namespace is trusted")]

    async def buckets(self) -> Sequence[Finding]:
        """Whether the database holds the buckets that the settings name. Running instances go by the database."""
        is_there = await self._value("SELECT to_regclass('pair_buckets') IS NOT NULL")
        rows = await self._rows(_BUCKETS) if is_there else []
        held, moving = rows[0] if rows else ("", "")
        if moving:
            return [
                no(
                    "Q6",
                    f"the buckets {moving} move to or from another database. If the command has ended, give it again.",
                    needed=False,
                )
            ]
        shown = f"the buckets {held or 'none'}" if rows else "all products"
        if held != self._buckets:
            return [
                no(
                    "Q6",
                    f"LARDER_BUCKETS is {self._buckets or 'not set'}, and the database holds {shown}. Running instances go by"
                    " the database; set the variable, or the next start is refused.",
                )
            ]
        return [ok("Q6", f"the database holds {shown}")]

    async def _durability(self) -> Sequence[Finding]:
        return [
            no("Q4", f"{name} is off: a crash of the server loses or damages what was acknowledged. Turn it on.")
            for name in ("fsync", "full_page_writes")
            if await self._value("SELECT current_setting(%s)", [name]) == "off"
        ]

    async def _room(self) -> Sequence[Finding]:
        if self._primary.pooled:
            return []  # the pooler limits the connections
        limits = [limit for limit in (await self._rows(_ROOM))[0] if limit is not None and limit >= 0]
        if min(limits) >= self._connections:
            return []
        return [
            no(
                "Q4",
                f"this service may open {self._connections} connections, and the server, the role or the database permits"
                f" {min(limits)}. Raise the limit, or lower LARDER_DATABASE_CONNECTIONS or LARDER_WORKERS.",
                needed=False,
            )
        ]

    async def _value(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> Any:
        return (await self._rows(statement, parameters))[0][0]

    async def _rows(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> Sequence[Any]:
        connection = await self._open()
        cursor = await connection.execute(statement, parameters or None)
        return await cursor.fetchall()

    async def _open(self) -> Connection:
        if self._connection is None or self._connection.closed:
            limits = {"statement_timeout": str(_TIMEOUT_MS)}
            if self._primary.pooled:
                self._connection = await self._primary.open(self._timeout_ms)  # unchecked: Q3 says what differs
            else:
                self._connection = await self._primary.connect(timeout_ms=self._timeout_ms, parameters=limits, autocommit=True)
        return self._connection


def _reason(error: Error) -> str:
    return str(error).strip().partition("\n")[0]
