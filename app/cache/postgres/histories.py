"""What tells one history of a cached table's database from another."""

from typing import NamedTuple

from ...postgres.database import Database
from ...postgres.errors import DatabaseFailed, DatabaseUnsuitable
from ..entity import Entity

_MEMBERS = "SELECT by_timeline, by_start FROM cache_generations WHERE relation = %(relation)s"
_CHOOSE = """
UPDATE cache_generations SET by_start = %(by_start)s
WHERE relation = %(relation)s AND (by_timeline OR %(by_start)s) RETURNING 1
"""


class Members(NamedTuple):
    """What an epoch is made of, besides what the database, the table and its triggers are."""

    by_timeline: bool
    by_start: bool
    """Whether the time when the server was started is a part of it."""


async def members(database: Database, entity: Entity) -> Members:
    """Return what the epochs of a table are made of. Raises a ``DatabaseError``."""
    rows = await database.lists.rows(_MEMBERS, {"relation": entity.table})
    if not rows:
        raise DatabaseUnsuitable(f"the table {entity.table} was not prepared for the cache")
    return Members(*rows[0])


async def choose(database: Database, entity: Entity, *, by_start: bool) -> None:
    """Choose whether each start of the server begins a new epoch. A change of it begins one.

    Raises:
        DatabaseFailed: without the start, nothing would show that a history ended, because the timeline cannot be read.
        DatabaseError: nothing was changed.
    """
    if not await database.lists.rows(_CHOOSE, {"relation": entity.table, "by_start": by_start}):
        raise DatabaseFailed(
            "the timeline cannot be read here, so the start of the server is all that shows that a history ended"
        )
