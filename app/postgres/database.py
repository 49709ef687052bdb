"""Connections to PostgreSQL: how they are opened, and how they are divided among the parts of a process."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from psycopg.types.numeric import Int8Dumper

from .connection import Connection
from .errors import translate
from .lists import TextListDumper
from .parameters import PLANS
from .pipeline import Parameters, Statement, StatementText
from .pool import Pool
from .pooler import TransactionParameters
from .primary import Primary
from .session import Session, no_follow_up

WRITE_LOCK_TIMEOUT_MS = 20
"""How long a shared transaction, with all requests in it, waits for a lock. ``WriteQueue`` handles longer waits."""

AUDIT_LOCK_TIMEOUT_MS = 200
"""How long an audit waits for a lock where several tables share a session: a longer wait would delay the other tables."""

KEYS_TIMEOUT_MS = 900
"""Deadline of a statement about keys. The keys are read every second."""

WAITING_PER_CONNECTION = 50
"""Most callers who wait for each connection of a share."""


def limits_of(statement_timeout_ms: int, lock_timeout_ms: int) -> Mapping[str, str]:
    """Return the session parameters that limit statements and transactions."""
    return {
        "statement_timeout": str(statement_timeout_ms),
        "lock_timeout": str(lock_timeout_ms),
        "idle_in_transaction_session_timeout": str(2 * statement_timeout_ms),
    }


@dataclass(frozen=True, slots=True)
class Shares:
    """How many connections each part of a process has."""

    loads: int
    lists: int
    writes: int
    audit: int = 1

    @classmethod
    def of(cls, connections: int) -> "Shares":
        """Divide the connections: one for the audit, a fifth each for loads and lists, the rest, at least 2, for writes."""
        fifth = max(1, connections // 5)
        return cls(loads=fifth, lists=fifth, writes=max(2, connections - 1 - 2 * fifth))


class Database:
    """The connections of one process, in shares, so that a part that uses up its share takes nothing from the others.

    ``audit`` is the audit's own connection; ``further_audits`` adds connections for tables whose audits go on alone. ``loads``
    serves the cache, ``writes`` serves transactions, and ``lists`` serves pages, the ledger and housekeeping. ``keys`` is a
    further connection, which is opened only where keys are checked.
    """

    def __init__(
        self,
        primary: Primary | str,
        *,
        connections: int,
        connect_timeout_ms: int,
        acquire_timeout_ms: int,
        statement_timeout_ms: int,
        lock_timeout_ms: int,
        further_audits: int = 0,
        connection_max_age_s: int = 0,
    ) -> None:
        self._primary = Primary(primary) if isinstance(primary, str) else primary
        self._connection_max_age_s = connection_max_age_s
        self._connect_timeout_ms = connect_timeout_ms
        self._acquire_timeout_s = acquire_timeout_ms / 1000
        shares = Shares.of(connections)
        audit_lock_ms = min(lock_timeout_ms, AUDIT_LOCK_TIMEOUT_MS) if further_audits else lock_timeout_ms
        self.audit = self._share("audit", shares.audit + further_audits, statement_timeout_ms, audit_lock_ms)
        self.loads = self._share("loads", shares.loads, statement_timeout_ms, lock_timeout_ms)
        self.lists = self._share("lists", shares.lists, statement_timeout_ms, lock_timeout_ms)
        self.writes = self._share("writes", shares.writes, statement_timeout_ms, WRITE_LOCK_TIMEOUT_MS)
        self.keys = self._share("keys", 1, KEYS_TIMEOUT_MS, KEYS_TIMEOUT_MS)

    @property
    def statements(self) -> int:
        """Number of statements sent since the start."""
        return sum(pool.statements for pool in self._pools())

    @property
    def waiting(self) -> int:
        """Number of callers who wait for a connection."""
        return sum(pool.waiting for pool in self._pools())

    def abandon(self) -> None:
        """Drop every connection, because another server is the primary. Connections in use are closed after their use."""
        for pool in self._pools():
            pool.drop()

    async def close(self) -> None:
        """Close all connections."""
        for pool in self._pools():
            await pool.close()

    def _pools(self) -> tuple[Pool, ...]:
        return self.audit, self.loads, self.lists, self.writes, self.keys

    def _share(self, name: str, size: int, statement_timeout_ms: int, lock_timeout_ms: int) -> Pool:
        limits = limits_of(statement_timeout_ms, lock_timeout_ms)
        return Pool(
            name,
            partial(self._connect, {**limits, **PLANS}),
            size=size,
            waiting_limit=WAITING_PER_CONNECTION * size,
            acquire_timeout_s=self._acquire_timeout_s,
            # This is longer than the server's own deadline, whose error is more precise and keeps the connection.
            deadline_s=statement_timeout_ms / 1000 + 1.0,
            max_age_s=self._connection_max_age_s,
            follow_up=TransactionParameters(limits).follow_up if self._primary.pooled else no_follow_up,
        )

    async def _connect(self, parameters: Mapping[str, str]) -> Connection:
        try:
            connection = await self._primary.connect(
                timeout_ms=self._connect_timeout_ms, parameters=parameters, autocommit=True
            )
        except Exception as error:
            raise translate(error) from error
        # Every number gets one type, alone or in a list. The driver would take the smallest that fits, and prepare a statement
        # again for each combination of types.
        connection.write_with((int, Int8Dumper), (list, TextListDumper))
        return connection


__all__ = ["Database", "Parameters", "Pool", "Primary", "Session", "Shares", "Statement", "StatementText"]
