"""The keys in PostgreSQL: what the service reads every second, and what ``larder keys`` changes."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, LiteralString

from typing_extensions import override

from app.access.key_ring import KeyList, KeySource
from app.access.keys import KeyRecord, Scope, StoredKey, parse_scopes
from app.postgres.database import Database

VALID_KEYS: LiteralString = """
WITH history AS MATERIALIZED (SELECT larder_epoch('products', %(knows)s::integer) AS epoch)
SELECT history.epoch, g.generation::text, k.id, k.client, k.scopes, k.digest, k.rate_per_s,
    extract(epoch FROM k.expires_at - clock_timestamp())::float8
FROM history CROSS JOIN access_generation g LEFT JOIN access_keys k
    ON g.generation::text <> %(known)s AND k.revoked_at IS NULL AND coalesce(k.expires_at > clock_timestamp(), true)
"""
"""Returns the epoch, the generation of the keys and, unless that is known, the valid keys. All are read in one snapshot."""

RECORD_USE: LiteralString = """
UPDATE access_keys SET last_used_on = current_date
WHERE id = ANY(%(ids)s::text[]) AND last_used_on IS DISTINCT FROM current_date
"""

INSERT: LiteralString = """
INSERT INTO access_keys (id, client, scopes, digest, rate_per_s, expires_at)
VALUES (%(id)s, %(client)s, %(scopes)s::text[], %(digest)s, %(rate_per_s)s::float8,
    clock_timestamp() + make_interval(secs => %(expires_in_s)s::float8))
"""

ROTATE: LiteralString = """
WITH old AS (
    SELECT id, client, scopes, rate_per_s, expires_at - created_at AS life FROM access_keys
    WHERE id = %(old_id)s AND revoked_at IS NULL AND coalesce(expires_at > clock_timestamp(), true) FOR UPDATE
), shortened AS (
    UPDATE access_keys k SET expires_at = least(k.expires_at, clock_timestamp() + make_interval(secs => %(overlap_s)s::float8))
    FROM old WHERE k.id = old.id
)
INSERT INTO access_keys (id, client, scopes, digest, rate_per_s, expires_at)
SELECT %(id)s, client, scopes, %(digest)s, rate_per_s,
    clock_timestamp() + coalesce(make_interval(secs => %(expires_in_s)s::float8), life)
FROM old
RETURNING client, expires_at
"""
"""Makes a key with the client, the scopes and the rate of a valid one, which expires after the overlap.

Unless it is told otherwise, the new key lives as long as the old one did. Returns the client and when the new key expires.
"""

LIST: LiteralString = """
SELECT id, client, scopes, created_at, expires_at, revoked_at, last_used_on, coalesce(expires_at <= clock_timestamp(), false)
FROM access_keys ORDER BY client, created_at, id
"""

REVOKE: LiteralString = """
UPDATE access_keys SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE id = ANY(%(ids)s::text[]) RETURNING id
"""
"""Revokes keys and returns the ids that exist. A key that was revoked before stays so."""

CheckEpoch = Callable[[str, float], None]
"""Takes an epoch and the time when it was requested; raises if the server is an old primary."""


class KeyTable(KeySource):
    """The key source on a connection of its own, so that no load of the service delays a renewal.

    Args:
        database: the connections.
        knows: the payload schema that this release knows; an instance that is too old for the database reads no keys.
        check_epoch: refuses what an old primary returned, where a revocation may be missing.
        clock: the process's clock.
    """

    def __init__(self, database: Database, knows: int, check_epoch: CheckEpoch, clock: Callable[[], float]) -> None:
        self._pool = database.keys
        self._knows = knows
        self._check_epoch = check_epoch
        self._clock = clock

    @override
    async def valid_keys(self, known: str) -> KeyList:
        asked_at = self._clock()
        rows = await self._pool.rows(VALID_KEYS, {"known": known, "knows": self._knows})
        self._check_epoch(rows[0][0], asked_at)
        generation = str(rows[0][1])
        if generation == known:
            return KeyList(generation, None)
        return KeyList(generation, [_stored(columns) for _, _, *columns in rows if columns[0] is not None])

    @override
    async def record_use(self, ids: Sequence[str]) -> None:
        await self._pool.rows(RECORD_USE, {"ids": list(ids)})


def _stored(row: Sequence[Any]) -> StoredKey:
    key_id, client, scopes, digest, rate_per_s, expires_in_s = row
    expires = float("inf") if expires_in_s is None else expires_in_s
    return StoredKey(key_id, client, parse_scopes(scopes), bytes(digest), rate_per_s, expires)


async def create_key(
    database: Database,
    key_id: str,
    digest: bytes,
    client: str,
    scopes: Iterable[Scope],
    *,
    rate_per_s: float | None = None,
    expires_in_s: float | None = None,
) -> None:
    """Store a new key. Raises a ``DatabaseError``."""
    await database.keys.rows(
        INSERT,
        {
            "id": key_id,
            "client": client,
            "scopes": sorted(scopes),
            "digest": digest,
            "rate_per_s": rate_per_s,
            "expires_in_s": expires_in_s,
        },
    )


async def rotate_key(
    database: Database, old_id: str, key_id: str, digest: bytes, *, overlap_s: float, expires_in_s: float | None = None
) -> tuple[str, datetime | None] | None:
    """Store a key in place of another one, which expires after the overlap.

    Return its client and when it expires; ``None`` if there was no valid key. Raises a ``DatabaseError``.
    """
    rows = await database.keys.rows(
        ROTATE,
        {"old_id": old_id, "id": key_id, "digest": digest, "overlap_s": overlap_s, "expires_in_s": expires_in_s},
    )
    return (str(rows[0][0]), rows[0][1]) if rows else None


async def list_keys(database: Database) -> list[KeyRecord]:
    """Return all keys, also revoked and expired ones. Raises a ``DatabaseError``."""
    return [KeyRecord(row[0], row[1], tuple(row[2]), *row[3:]) for row in await database.keys.rows(LIST)]


async def revoke_keys(database: Database, ids: Sequence[str]) -> frozenset[str]:
    """Revoke keys, and return the ids of those that exist. Raises a ``DatabaseError``."""
    return frozenset(str(key_id) for [key_id] in await database.keys.rows(REVOKE, {"ids": list(ids)}))
