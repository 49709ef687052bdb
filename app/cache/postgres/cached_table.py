"""SQL for migrations that prepare tables for the cache.

A migration that has run must not change, so the text of a release is frozen: a change of what new tables need is a new release.
``cache_tables`` comes once, before the first ``cached_table``.
"""

import re
from importlib.resources import files

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,39}")
"""Names that need no quotes, and leave room for the names made from them."""


def cache_tables(release: int) -> str:
    """Return the statements that make the tables and functions that all cached tables of a database share."""
    return _text(release, "cache_tables") + "\n" + _text(release, "finish")


def cached_table(table: str, key: str, release: int) -> str:
    """Return the statements that give a table versions, and the triggers that keep them.

    Args:
        table: a table of the migration's schema.
        key: its key: a column that is unique by itself, NOT NULL, and of a text, integer or uuid type.
        release: the number of the text, which the migration keeps for ever.
    """
    checked_name(key)
    return _text(release, "cached_table").replace("{table}", checked_name(table)).replace("{key}", key)


def checked_name(name: str) -> str:
    """Return a name of a table or column that may stand in a statement. Raises ``ValueError`` for any other."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for a cached table or its columns: it must match {_NAME.pattern}")
    return name


def _text(release: int, name: str) -> str:
    return files(__package__).joinpath(f"release_{release}", f"{name}.sql").read_text(encoding="utf-8")
