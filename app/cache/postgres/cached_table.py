"""SQL for migrations that prepare tables for the cache.

A migration that has run must not change, so the text of a release is frozen: a change of what new tables need is a new release.
``cache_tables`` comes once, before the first ``cached_table``.
"""

from importlib.resources import files

from ..entity import checked_name


def cache_tables(release: int) -> str:
    """Return the statements that make the tables and functions that all cached tables of a database share."""
    return _text(release, "cache_tables") + "\n" + _text(release, "finish")


def histories(release: int) -> str:
    """Return the statements after which an epoch can have the time when the server was started; from release 2 on.

    They come once, behind ``cache_tables``. Where the role may not read the timeline, the time stands in for it.
    """
    return _text(release, "histories")


def cached_table(table: str, key: str, release: int) -> str:
    """Return the statements that give a table versions, and the triggers that keep them.

    Args:
        table: a table of the migration's schema.
        key: its key: a column that is unique by itself, NOT NULL, and of a text, integer or uuid type.
        release: the number of the text, which the migration keeps for ever.
    """
    text = _text(release, "cached_table")
    return text.replace("{table}", checked_name(table)).replace("{key}", checked_name(key))


def _text(release: int, name: str) -> str:
    return files(__package__).joinpath(f"release_{release}", f"{name}.sql").read_text(encoding="utf-8")
