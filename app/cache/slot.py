"""The bytes of a slot.

A state is ``kind hash version incarnation key newline payload``. Its kind is ``V`` (value) or ``T`` (tombstone, no payload).
The epoch's hash and the incarnation have 16 characters and the version has 19, so that scripts compare versions as text and a
reader checks a slot by slicing. The script that stores a state puts the watermark's incarnation in. A lease is ``L``, its
incarnation and its token. A state contains its key, so that a reply to another read is noticed.
"""

from .history import HASH_WIDTH, hash_of
from .ports import Absent, Reading, State, Value

FORMAT = 2
"""Number of this form of slots, watermark and fence."""
VERSION_WIDTH = 19
HEAD_WIDTH = 1 + HASH_WIDTH + VERSION_WIDTH
INCARNATION_WIDTH = 16
VALUE = b"V"
TOMBSTONE = b"T"
LEASE = b"L"


def cache_name(namespace: str) -> str:
    """Return the name of a namespace's cache in Redis and in the audit rows.

    Releases with other forms of slots have other names, so that they can run side by side: to the audits they are two
    namespaces of one table, of which one is trusted at a time.
    """
    return f"{namespace}~{FORMAT}"


def halves(state: State) -> tuple[bytes, bytes]:
    """Return the bytes of a state before and behind its incarnation."""
    head = f"{hash_of(state.epoch)}{state.version:0{VERSION_WIDTH}d}".encode()
    name = state.key.encode() + b"\n"
    return (VALUE + head, name + state.payload) if isinstance(state, Value) else (TOMBSTONE + head, name)


def encode(state: State, incarnation: str) -> bytes:
    """Return a state as a slot's bytes."""
    head, rest = halves(state)
    return head + incarnation.encode() + rest


def decode(raw: bytes, key: str, epoch: str, incarnation: str) -> State | None:
    """Return a slot's bytes as the state of ``key`` in ``epoch`` and ``incarnation``.

    For a lease, another key, another epoch and another incarnation it returns ``None``.
    """
    kind, name = raw[:1], f"{incarnation}{key}\n".encode()
    if kind not in (VALUE, TOMBSTONE) or not raw.startswith(name, HEAD_WIDTH):
        return None
    if raw[1 : 1 + HASH_WIDTH] != hash_of(epoch).encode():
        return None
    version, end = int(raw[1 + HASH_WIDTH : HEAD_WIDTH]), HEAD_WIDTH + len(name)
    return Value(key, epoch, version, raw[end:]) if kind == VALUE else Absent(key, epoch, version)


def hash_in(raw: bytes) -> str:
    """Return the hash of a slot's epoch, for an inspection to compare with the row's; ``""`` without a state."""
    return raw[1 : 1 + HASH_WIDTH].decode("ascii", "replace") if raw[:1] in (VALUE, TOMBSTONE) else ""


def incarnation_in(raw: bytes) -> str:
    """Return the incarnation of a state or a lease."""
    start = len(LEASE) if raw[:1] == LEASE else HEAD_WIDTH
    return raw[start : start + INCARNATION_WIDTH].decode("ascii", "replace")


def is_void(raw: bytes, reading: Reading) -> bool:
    """Return whether a slot is of another incarnation than the one that a reading trusts, so that it can be leased."""
    return reading.epoch != "" and incarnation_in(raw) != reading.incarnation
