"""The bytes of a slot.

A state is ``kind hash version key newline payload``. Its kind is ``V`` (value) or ``T`` (tombstone, no payload). The epoch's
hash has 16 and the version 19 characters, so that scripts compare versions as text and a reader checks a slot by slicing. A
lease is ``L`` and its token. A state contains its key, so that a reply to another read is noticed.
"""

from .history import HASH_WIDTH, hash_of
from .ports import Absent, State, Value

VERSION_WIDTH = 19
HEAD_WIDTH = 1 + HASH_WIDTH + VERSION_WIDTH
VALUE = b"V"
TOMBSTONE = b"T"
LEASE = b"L"


def encode(state: State) -> bytes:
    """Return a state as a slot's bytes."""
    head = f"{hash_of(state.epoch)}{state.version:0{VERSION_WIDTH}d}{state.key}\n".encode()
    return VALUE + head + state.payload if isinstance(state, Value) else TOMBSTONE + head


def decode(raw: bytes, key: str, epoch: str) -> State | None:
    """Return a slot's bytes as the state of ``key`` in ``epoch``; ``None`` for a lease and for any other key or epoch."""
    kind, name = raw[:1], key.encode() + b"\n"
    if kind not in (VALUE, TOMBSTONE) or not raw.startswith(name, HEAD_WIDTH):
        return None
    if raw[1 : 1 + HASH_WIDTH] != hash_of(epoch).encode():
        return None
    version, end = int(raw[1 + HASH_WIDTH : HEAD_WIDTH]), HEAD_WIDTH + len(name)
    return Value(key, epoch, version, raw[end:]) if kind == VALUE else Absent(key, epoch, version)


def hash_in(raw: bytes) -> str:
    """Return the hash of a slot's epoch, for an inspection to compare with the row's; ``""`` without a state."""
    return raw[1 : 1 + HASH_WIDTH].decode("ascii", "replace") if raw[:1] in (VALUE, TOMBSTONE) else ""
