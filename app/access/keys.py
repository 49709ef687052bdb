"""Keys: how one is made, read and checked, and what is stored of it.

A key is ``lrd_<id>_<secret>_<checksum>``. The id names it in lists, logs and commands. The secret has 256 bits of chance. The
checksum is the CRC-32 of what stands before it, so that a scanner for leaked secrets recognises a key with certainty, and a
mistyped one is refused without a look at the stored keys. Only the SHA-256 of the whole key is stored.
"""

import base64
import hashlib
import re
import secrets
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

PREFIX = "lrd"
_ID_BYTES, _SECRET_BYTES = 5, 32
KEY_PATTERN = r"lrd_[a-z2-7]{8}_[a-z2-7]{52}_[a-z2-7]{7}"
"""The form of every key, as a regular expression for scanners."""
_KEY = re.compile(KEY_PATTERN)
CLIENT_PATTERN = r"[A-Za-z0-9._-]{1,64}"
"""The form of a client's name."""


class Scope(StrEnum):
    """What a key allows. Every operation needs exactly one scope."""

    PRODUCTS_READ = "products:read"
    PRODUCTS_WRITE = "products:write"
    STOCK_ADJUST = "stock:adjust"
    STOCK_COUNT = "stock:count"
    STOCK_RESERVE = "stock:reserve"
    LEDGER_READ = "ledger:read"
    CHANGES_READ = "changes:read"
    OPERATE = "operate"

    @property
    def allows(self) -> str:
        """What a holder may do, in words."""
        return _ALLOWS[self]


_ALLOWS = {
    Scope.PRODUCTS_READ: "read products, one, several or a list",
    Scope.PRODUCTS_WRITE: "create, replace, change and delete products, with the stock that such a request may set",
    Scope.STOCK_ADJUST: "add to stock and take from it",
    Scope.STOCK_COUNT: "set a stock to what was counted",
    Scope.STOCK_RESERVE: "hold units for somebody, commit and release them, and read reservations",
    Scope.LEDGER_READ: "read the ledger of stock movements",
    Scope.CHANGES_READ: "follow every change of products and stock, with the references of all clients",
    Scope.OPERATE: "read the metrics, the dashboard with stock and movements, and the details of readiness; drop cache entries",
}


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A valid key as it is stored: everything but the secret."""

    id: str
    client: str
    """The client (a shop, a till, an ERP) that the key belongs to. A client may have several keys."""
    scopes: frozenset[Scope]
    digest: bytes
    """The SHA-256 of the whole key."""
    rate_per_s: float | None = None
    """The rate of the client; ``None`` for the rate of the settings."""
    expires_in_s: float = float("inf")
    """Seconds until it expires, from the moment when it was read."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as ``larder keys list`` shows it."""

    id: str
    client: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_on: datetime | None
    expired: bool


def make_key() -> tuple[str, bytes]:
    """Return a new key, which is shown once and cannot be read again, and its digest, which is stored."""
    body = f"{PREFIX}_{_text(secrets.token_bytes(_ID_BYTES))}_{_text(secrets.token_bytes(_SECRET_BYTES))}"
    key = f"{body}_{_checksum(body)}"
    return key, hashlib.sha256(key.encode()).digest()


def digest_of(key: str) -> bytes | None:
    """Return what is stored of a key; ``None`` if the text is no key."""
    if not _KEY.fullmatch(key):
        return None
    body, _, checksum = key.rpartition("_")
    return hashlib.sha256(key.encode()).digest() if checksum == _checksum(body) else None


def id_of(key: str) -> str:
    """Return the id of a well-formed key."""
    return key.split("_")[1]


def parse_scopes(names: Iterable[str]) -> frozenset[Scope]:
    """Return the scopes of these names. A name that this release does not know allows nothing, and is left out."""
    known = {scope.value for scope in Scope}
    return frozenset(Scope(name) for name in names if name in known)


def _text(value: bytes) -> str:
    return base64.b32encode(value).decode().rstrip("=").lower()


def _checksum(body: str) -> str:
    return _text(zlib.crc32(body.encode()).to_bytes(4, "big"))
