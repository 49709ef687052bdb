"""The bytes of a slot.

A state is ``kind epoch version key newline payload``: kind ``V`` (value) or ``T`` (tombstone, no payload), epoch 16 and
version 19 characters wide, so that scripts compare versions as text and a reader checks a slot by slicing. A lease is
``L`` and its token. The key stands inside so that a reply meant for another question can never be believed.
"""

from app.cache.ports import Absent, State, Value

EPOCH_WIDTH = 16
VERSION_WIDTH = 19
HEAD_WIDTH = 1 + EPOCH_WIDTH + VERSION_WIDTH
VALUE = b"V"
TOMBSTONE = b"T"
LEASE = b"L"


def encode(state: State) -> bytes:
    """Write a state as a slot's bytes."""
    head = f"{state.epoch}{state.version:0{VERSION_WIDTH}d}{state.key}\n".encode()
    return VALUE + head + state.payload if isinstance(state, Value) else TOMBSTONE + head


def decode(raw: bytes, key: str, epoch: str) -> State | None:
    """Read a slot's bytes as the state of ``key`` in ``epoch``; ``None`` for a lease and for any other key or epoch."""
    kind, name = raw[:1], key.encode() + b"\n"
    if kind not in (VALUE, TOMBSTONE) or raw[1 : 1 + EPOCH_WIDTH] != epoch.encode() or not raw.startswith(name, HEAD_WIDTH):
        return None
    version, end = int(raw[1 + EPOCH_WIDTH : HEAD_WIDTH]), HEAD_WIDTH + len(name)
    return Value(key, epoch, version, raw[end:]) if kind == VALUE else Absent(key, epoch, version)


def epoch_of(raw: bytes) -> str:
    """The epoch a slot claims, believed only where a caller accepts unverified states; ``""`` for a lease."""
    return raw[1 : 1 + EPOCH_WIDTH].decode("ascii", "replace") if raw[:1] in (VALUE, TOMBSTONE) else ""
