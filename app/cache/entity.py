"""A table whose rows are cached: its names, its keys, and the payload of a row."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from .errors import InvalidKey
from .policies import WritePolicy
from .slot import cache_name

Key = str | int | UUID
Payload = Callable[..., bytes]
"""Makes a row's payload. It gets ``version``, the key and the columns as keyword arguments, under the names of the columns."""

KEY_BYTES = 512
"""Length of the longest key, in UTF-8."""

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,39}")
"""Names that need no quotes, and leave room for the names made from them."""
_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}")


def checked_name(name: str) -> str:
    """Return a name of a table or column that may stand in a statement. Raises ``ValueError`` for any other."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for a cached table or its columns: it must match {_NAME.pattern}")
    return name


@dataclass(frozen=True, slots=True, eq=False)
class Entity:
    """A cached table.

    ``payload`` must be a function of the row alone: the same row gives the same bytes on every instance. A change of it raises
    ``schema``. While a release shares the cache with the one before, ``payloads`` has the functions of both schemas, and the
    number in the database says which one counts.

    Args:
        namespace: the name of the cache in Redis. All instances must use the same one.
        schema: the newest schema of the payload that this release knows.
        table: the table, which a migration prepared with ``cached_table``.
        key: the column that is its key.
        columns: the columns that the payload needs, besides key and version.
        payload: makes the payload of schema ``schema``.
        payloads: further payloads by schema.
        ttl_s: life of a row in the cache, unless a call asks for another one.
        absent_ttl_s: life of the knowledge that a key never existed.
        key_type: the key's type; ``bigint`` stands for every integer type.
        writes: what a write does to the row's slot, unless the write says otherwise: a ``WritePolicy`` or its name.
        bypassed: whether reads go to the database, because an operator has switched this cache off.
        tombstone: a column that is set in deleted rows, for a table that keeps them. Without it a row is deleted by DELETE.
    """

    namespace: str
    schema: int
    table: str
    key: str
    columns: Sequence[str]
    payload: Payload
    payloads: Mapping[int, Payload] | None = None
    ttl_s: int = 3_600
    absent_ttl_s: int = 30
    key_type: Literal["text", "bigint", "uuid"] = "text"
    tombstone: str | None = None
    writes: WritePolicy | str = WritePolicy.THROUGH
    bypassed: bool = False

    def __post_init__(self) -> None:
        if not _NAMESPACE.fullmatch(self.namespace):
            raise ValueError(f"{self.namespace!r} is no name for a namespace: it must match {_NAMESPACE.pattern}")
        for name in (self.table, self.key, *self.columns, *([self.tombstone] if self.tombstone else [])):
            checked_name(name)
        if min(self.schema, self.ttl_s, self.absent_ttl_s) < 1:
            raise ValueError("schema, ttl_s and absent_ttl_s must be at least 1")
        WritePolicy(self.writes)  # raises for a name that is none

    @property
    def cache_name(self) -> str:
        """The name of this cache in Redis and in the audit rows."""
        return cache_name(self.namespace)

    def payload_of(self, schema: int) -> Payload | None:
        """Return the function that makes payloads of a schema, or ``None`` if this release has none."""
        return self.payload if schema == self.schema else (self.payloads or {}).get(schema)

    def key_text(self, key: Key) -> str:
        """Return the one spelling of a key under which the cache knows it.

        Raises:
            InvalidKey: no row can have this key. If two spellings meant one row, a write of one would leave the other stale.
        """
        text = str(key)
        if self.key_type == "bigint":
            valid = _NUMBER.fullmatch(text) is not None and -(2**63) <= int(text) < 2**63
        elif self.key_type == "uuid":
            valid = _is_uuid(text)
        else:
            valid = _is_text(text)
        if not valid:
            raise InvalidKey(f"{text[:80]!r} is no key of {self.table}, whose keys are of type {self.key_type}")
        return text


def _is_text(text: str) -> bool:
    try:
        return 0 < len(text.encode()) <= KEY_BYTES and _CONTROL.search(text) is None
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
