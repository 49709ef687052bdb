"""The ids by which a server is known: its run id, and the replication id of its data."""

import re

from ..errors import StoreUnavailable, WrongSentinel

_IDENTITY = re.compile("[0-9a-f]{40}")
_VARIED = 4
"""Fewest different digits in an identity that is accepted as random."""


def run_id_in(info: bytes) -> str:
    """Return the run id in an INFO reply.

    Raises:
        StoreUnavailable: there is none, or it is masked.
        WrongSentinel: the reply is a sentinel's.
    """
    if b"_mode:sentinel" in info:  # redis_mode of Redis, server_mode of Valkey
        raise WrongSentinel("it is a sentinel, not a data server")
    return checked_identity(_field(info, b"run_id"), "run_id")


def _field(info: bytes, name: bytes) -> str:
    """Return one field of an INFO reply."""
    start = info.find(b"\n" + name + b":")
    if start < 0:
        raise StoreUnavailable(f"Redis did not send its {name.decode()}")
    start += len(name) + 2
    return info[start : info.find(b"\r", start)].decode("ascii", "replace")


def checked_identity(value: str, name: str) -> str:
    """Return a run id or a replication id.

    Raises:
        StoreUnavailable: the server masks it, so a failover could not be noticed.
    """
    if not _IDENTITY.fullmatch(value) or len(set(value)) < _VARIED:
        raise StoreUnavailable(
            f"Redis does not show its {name} ({value[:40]!r}), so a failover could not be noticed; it is not used,"
            " and reads go to the database"
        )
    return value
