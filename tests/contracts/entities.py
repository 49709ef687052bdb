"""The tables on which the contracts of sources run. A new one joins by one line of ``SUBJECTS``."""

import json
from dataclasses import dataclass, field
from typing import LiteralString

from app.cache.entity import Entity, Key
from app.cache.postgres.cached_table import cached_table
from app.products.source import PRODUCTS


def payload(**columns: object) -> bytes:
    """Return a row as JSON."""
    return json.dumps(columns, default=str).encode()


SUPPLIERS = Entity("suppliers", 1, "suppliers", "id", ("name", "terms"), payload)
COUNTERS = Entity("counters", 1, "counters", "number", ("total",), payload, key_type="bigint")


@dataclass(frozen=True, slots=True)
class Subject:
    """An entity, the SQL that makes its table, and the SQL by which somebody else changes it, with one parameter: the key.

    The contracts name keys by words; ``key`` returns the key that stands for a word.
    """

    entity: Entity
    create: str
    insert: LiteralString
    change: LiteralString
    delete: LiteralString
    _words: dict[str, Key] = field(default_factory=dict)

    def key(self, word: str) -> Key:
        """The key that stands for a word."""
        if self.entity.key_type == "bigint":
            return self._words.setdefault(word, 2**40 + len(self._words))
        return self._words.setdefault(word, word)

    def word(self, text: str) -> str:
        """The word for a key as text."""
        return next((word for word, key in self._words.items() if str(key) == text), text)


def _subject(entity: Entity, columns: str, key: LiteralString, insert: LiteralString, change: LiteralString) -> Subject:
    create = f"CREATE TABLE {entity.table} ({columns});\n{cached_table(entity.table, entity.key, release=1)}"
    upsert = insert + " ON CONFLICT (" + key + ") DO UPDATE SET " + change
    return Subject(entity, create, insert, upsert, f"DELETE FROM {insert.split()[2]} WHERE {key} = %s")  # noqa: S608 - our own


_PRODUCT: LiteralString = "INSERT INTO products (id, name, price_cents) VALUES (%s, 'Mug', 0)"
_AGAIN: LiteralString = " ON CONFLICT (id) DO UPDATE SET price_cents = products.price_cents + 1, deleted_at = NULL"

SUBJECTS = {
    "products": Subject(PRODUCTS, "", _PRODUCT, _PRODUCT + _AGAIN, "DELETE FROM products WHERE id = %s"),
    "suppliers": _subject(
        SUPPLIERS,
        'id text COLLATE "C" PRIMARY KEY, name text NOT NULL, terms integer NOT NULL',
        "id",
        "INSERT INTO suppliers (id, name, terms) VALUES (%s, 'Acme', 0)",
        "terms = suppliers.terms + 1",
    ),
    "counters": _subject(
        COUNTERS,
        "total numeric, number bigint UNIQUE NOT NULL",
        "number",
        "INSERT INTO counters (number, total) VALUES (%s, 0)",
        "total = counters.total + 1",
    ),
}
