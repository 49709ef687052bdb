"""What PostgreSQL did between two looks: transactions by ``pg_stat_database``, calls by ``pg_stat_statements``.

A backend reports its transactions at most once a second while it is busy, and an idle one after ten; a difference taken in the
middle of a steady load is right to about the work of one second. Statements are counted at once, but ``BEGIN``, ``COMMIT``
and other utility statements that a driver has prepared are counted only the first time; so the transactions can be
checked by ``Look.explained``: each has one statement that no other kind of transaction has. Looks come from another database of
the server and do not count.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import takewhile

import psycopg

from app.cache.postgres import table_queries
from app.cache.postgres.table_queries import changes, load
from app.feed import queries as feed_queries
from app.private_servers import PostgresServer
from app.products import queries, reservation_queries
from app.products.source import PRODUCTS

_TRANSACTIONS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s"
_CALLS = """
SELECT query, toplevel, calls FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = %s
"""
_CONSTANT = re.compile(r"%\(\w+\)s|\$\d+|'[^']*'|\b\d+\b")
_BLANK = re.compile(r"\s+")
_CONTROL = ("BEGIN", "COMMIT", "ROLLBACK", "LOCK TABLE", "FETCH", "SELECT set_config")
BACKGROUND = frozenset({"READY", "ENDED", "HELD", "FORGET MARKS"})
"""Statements that a process sends at a fixed rate: its readiness, ended reservations, held units, and old marks of the feed."""
_ENOUGH = 30
"""Characters that a text must share with a statement of Larder's to be one."""


@dataclass(frozen=True, slots=True)
class Look:
    """Counts since the server's start, or between two looks. ``nested``: statements inside of functions and triggers."""

    transactions: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    nested: Counter[str] = field(default_factory=Counter)

    def since(self, before: "Look") -> "Look":
        """What came between."""
        return Look(self.transactions - before.transactions, self.calls - before.calls, self.nested - before.nested)

    @property
    def writes(self) -> int:
        """Transactions of writes: each locks its rows once."""
        return self.calls["LOCK"]

    @property
    def audits(self) -> int:
        """Transactions of audits: three for each cycle."""
        return self.calls["ANNOUNCE"] + self.calls["SNAPSHOT"] + self.calls["COMPLETE"]

    @property
    def loads(self) -> int:
        """Statements that loaded products for reads."""
        return self.calls["LOAD"]

    @property
    def explained(self) -> int:
        """Transactions, as the statements tell."""
        background = sum(self.calls[name] for name in BACKGROUND)
        return self.writes + self.audits + self.loads + self.calls["STANDING"] + self.calls["FORGET"] + background


def name_of(query: str) -> str:
    """The name of one of Larder's statements, or the beginning of any other's text."""
    text = shape(query)
    if text in _KNOWN:
        return _KNOWN[text]
    for word in _CONTROL:
        if text.startswith(word):
            return word
    shared, name = max((_shared(text, known), name) for known, name in _KNOWN.items())
    return name if shared >= min(_ENOUGH, len(text)) else text[:60]


def shape(query: str) -> str:
    """A statement without what is a parameter to the driver, the server, or pg_stat_statements."""
    return _BLANK.sub(" ", _CONSTANT.sub("?", query)).strip()


def _shared(one: str, other: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


NAMED = {
    name: text
    for module in (queries, table_queries)
    for name, text in vars(module).items()
    if name[0].isupper() and name.isupper() and isinstance(text, str)
} | {
    "LOAD": load(PRODUCTS).as_string(),
    "CHANGES": changes(PRODUCTS).as_string(),
    "ENDED": reservation_queries.ENDED,
    "HELD": reservation_queries.HELD,
    "FORGET MARKS": feed_queries.FORGET,
}
_KNOWN = {shape(text): name for name, text in NAMED.items()}


async def look(postgres: PostgresServer, database: str = "larder") -> Look:
    """Look now. Raises ``psycopg.Error``."""
    async with await psycopg.AsyncConnection.connect(postgres.url_of("postgres"), autocommit=True) as connection:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        cursor = await connection.execute(_TRANSACTIONS, [database])
        found = Look(sum(count for (count,) in await cursor.fetchall()))
        cursor = await connection.execute(_CALLS, [database])
        for query, toplevel, calls in await cursor.fetchall():
            (found.calls if toplevel else found.nested)[name_of(query)] += calls
    return found
