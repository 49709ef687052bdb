"""The keys in a file, for those who deploy secrets as files. It holds hashes, never a key itself."""

import asyncio
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import override

from app.access.key_ring import KeyList, KeySource
from app.access.keys import CLIENT_PATTERN, Scope, StoredKey


class KeyFileError(Exception):
    """The file cannot be used. The message says what is wrong with it."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str = Field(pattern=r"^[a-z2-7]{8}$")
    client: str = Field(pattern=f"^{CLIENT_PATTERN}$")
    scopes: frozenset[Scope] = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    rate_per_s: float | None = Field(None, gt=0)
    expires: datetime | None = None


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: list[_Entry] = []


class KeyFile(KeySource):
    """The key source on a TOML file. It is read at every renewal, so replacing it is enough to add or revoke a key.

    Args:
        path: the file.
        now: the wall clock, with which ``expires`` is compared.
    """

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._now = now

    @override
    async def valid_keys(self, known: str) -> KeyList:
        """Return the keys of the file that have not expired.

        Raises:
            KeyFileError: it cannot be read, or it breaks a rule.
        """
        content = await asyncio.to_thread(self._read)
        generation = content.hex()
        if generation == known:
            return KeyList(generation, None)
        now = self._now()
        return KeyList(generation, [key for entry in _parsed(content) if (key := _stored(entry, now)) is not None])

    @override
    async def record_use(self, ids: Sequence[str]) -> None:
        """Do nothing: the file belongs to whoever deploys it."""

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise KeyFileError(f"{self._path} cannot be read: {error.strerror}") from error


def file_entry(fields: Mapping[str, object]) -> str:
    """Return the lines that add a key to a key file."""
    lines = [f"{name} = {_toml(value)}" for name, value in fields.items() if value is not None]
    return "\n".join(["[[key]]", *lines]) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return str(value)


def _parsed(content: bytes) -> Sequence[_Entry]:
    try:
        document: dict[str, Any] = tomllib.loads(content.decode())
        return _Document.model_validate(document).key
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise KeyFileError(f"the key file is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise KeyFileError(f"the key file is wrong at {place}: {first['msg']}") from error


def _stored(entry: _Entry, now: datetime) -> StoredKey | None:
    left_s = float("inf") if entry.expires is None else (entry.expires.astimezone(UTC) - now).total_seconds()
    if left_s <= 0:
        return None
    return StoredKey(entry.id, entry.client, entry.scopes, bytes.fromhex(entry.sha256), entry.rate_per_s, left_s)
