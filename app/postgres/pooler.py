"""PostgreSQL behind a pooler in transaction mode, such as PgBouncer: what replaces a session's parameters.

Such a pooler gives each transaction the next free session of the server. What one client sets in it reaches other clients, and
its own next transaction may run elsewhere. So nothing is set for a session, and nothing is prepared:

- The role's settings in the database have every parameter. ``set_role`` writes them. They hold for sessions that begin later.
- A new connection checks those on which answers and durability depend (``check_session``). If one differs it is not used.
- A transaction sets them again for itself, with the limits of its share of the connections (``TransactionParameters``).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import psycopg
from psycopg.sql import SQL, Composed, Identifier, Literal

from .connection import Connection
from .parameters import ANSWERS, LIMITS, PIN, PLANS
from .pipeline import Statement, StatementText, round_trip

ROLE_LOCK = 0x6C61726465722D72  # "larder-r"
"""The advisory lock of a transaction that changes the role's settings. Two at once would fail."""

_MEETINGS = 5
_DIFFERENT = """
SELECT wanted.name, s.setting, wanted.value FROM unnest(%(names)s::text[], %(values)s::text[]) AS wanted (name, value)
    JOIN pg_settings s ON s.name = wanted.name AND s.setting <> wanted.value
UNION ALL
SELECT 'synchronous_commit', 'off', 'on' WHERE current_setting('synchronous_commit') = 'off'
"""
"""Returns the parameters that are not as wanted. The view has times as numbers, whatever unit a session would show."""
_SET: StatementText = "SELECT current_database(), quote_ident(session_user), pg_advisory_xact_lock(%(lock)s)"


async def different_parameters(connection: Connection, wanted: Mapping[str, str]) -> Sequence[tuple[str, str, str]]:
    """Return the parameters of the session that serves us now which are not as wanted: name, present value, wanted value."""
    parameters = {"names": [*wanted], "values": [*wanted.values()]}
    await connection.execute("BEGIN")  # by itself: a pooler in statement mode refuses a transaction that is left open
    found, _ = await round_trip(connection, [(_DIFFERENT, parameters), ("COMMIT", None)])
    return [(str(name), str(present), str(value)) for name, present, value in found.rows]


async def check_session(connection: Connection) -> None:
    """Check the parameters on which answers and durability depend.

    Raises:
        psycopg.errors.CantChangeRuntimeParam: one is not as it must be.
    """
    if found := await different_parameters(connection, ANSWERS):
        name, present, wanted = found[0]
        raise psycopg.errors.CantChangeRuntimeParam(
            f"behind the pooler {name} is {present!r}, and has to be {wanted!r}. Run larder migrate, which sets it for this"
            " role, and then RECONNECT in the pooler (PgBouncer's console), because sessions that are open keep the old value"
        )


def role_parameters(limits: Mapping[str, str]) -> Mapping[str, str]:
    """Return every parameter that the role needs. ``limits`` has the deadlines, by name."""
    return {**ANSWERS, **LIMITS, **PLANS, **limits}


async def set_role(connection: Connection, wanted: Mapping[str, str]) -> Sequence[str]:
    """Make ``wanted`` the settings of the connection's own role in its database; return the names of those that differ here.

    Sessions that are open, this one among them, keep their parameters.

    Raises:
        psycopg.Error: nothing was changed.
    """
    async with connection.transaction():
        [(database, role, _)] = await (await connection.execute(_SET, {"lock": ROLE_LOCK})).fetchall()
        parameters = {"names": [*wanted], "values": [*wanted.values()]}
        found = await (await connection.execute(_DIFFERENT, parameters)).fetchall()
        for name, _, value in found:
            await connection.execute(
                SQL("ALTER ROLE {} IN DATABASE {} SET {} = {}").format(
                    SQL(role), Identifier(database), Identifier(name), Literal(value)
                )
            )
    return [name for name, _, _ in found]


async def shares_sessions(first: Connection, connect: Callable[[], Awaitable[Connection]]) -> bool:
    """Return whether a pooler in transaction mode is in front of PostgreSQL. ``connect`` opens a connection like ``first``.

    Two connections of such a pooler meet in one session of the server while both rest. They may miss each other if other
    clients take the session in between, so there are several attempts.

    Raises:
        psycopg.Error: the server gave no answer.
    """
    found = {await _session_of(first)}
    if found == {first.info.backend_pid}:
        return False  # a pooler tells a number of its own at the login
    second = await connect()
    try:
        for _ in range(_MEETINGS):
            if await _session_of(second) in found:
                return True
            found.add(await _session_of(first))
    finally:
        await second.close()
    return len(found) > 1


async def _session_of(connection: Connection) -> int:
    async with connection.transaction():
        [(pid,)] = await (await connection.execute("SELECT pg_backend_pid()")).fetchall()
    return int(pid)


class TransactionParameters:
    """The statements that follow BEGIN in the same round trip."""

    def __init__(self, limits: Mapping[str, str]) -> None:
        parameters = {**ANSWERS, **PLANS, **limits}
        self._all: Sequence[Statement] = ((PIN, {"names": [*parameters], "values": [*parameters.values()], "local": True}),)
        # A query would fix the snapshot, and an audit locks its tables before that.
        self._limits: Sequence[tuple[Composed, None]] = tuple(
            (SQL("SET LOCAL {} = {}").format(Identifier(name), Literal(value)), None) for name, value in limits.items()
        )

    def follow_up(self, statement: StatementText) -> Sequence[Statement]:
        """Return what to send after a statement: nothing unless it is a BEGIN."""
        if not isinstance(statement, str) or not statement.startswith("BEGIN"):
            return ()
        return self._all if statement == "BEGIN" else self._limits
