"""An inspection compares every slot with the source once, on demand.

The audit compares only the versions of rows that changed since its watermark. An inspection compares every slot, with its
payload. So it also finds slots that were written by hand, and rollbacks that left no trace in the source.

A slot that is older than its row may belong to a write whose publish is under way. Suspects are therefore compared again after
an audit had time to repair them. A slot that is still wrong is a finding.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from . import slot
from .history import hash_of
from .ports import Source, State, Value


class SlotFault(StrEnum):
    """What is wrong with a slot."""

    OLDER = "older than its row"
    NEWER = "newer than its row: the database was rolled back"
    OTHER_EPOCH = "of another epoch"
    OTHER_KEY = "holds another key"
    DIFFERENT = "differs from its row at the same version"


@dataclass(frozen=True, slots=True)
class Finding:
    """A wrong slot, from which no read must be answered, and its fault."""

    key: str
    fault: SlotFault
    slot_version: int
    row_version: int


class SlotReader(Protocol):
    """The slots, as an inspection reads them. Every method may raise ``StoreUnavailable``."""

    def keys(self) -> AsyncIterator[Sequence[str]]:
        """Yield the keys of all slots, in pages. A slot that exists throughout is named at least once."""

    async def raw(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Read slots; a slot of another incarnation than the watermark's counts as empty, as no read is answered from it."""


class Inspection:
    """One comparison of all slots with their rows."""

    def __init__(self, slots: SlotReader, source: Source, *, patience_s: float) -> None:
        self._slots = slots
        self._source = source
        self._patience_s = patience_s
        self.checked = 0

    async def pages(self) -> AsyncIterator[Sequence[Finding]]:
        """Compare page after page of slots; yield the suspects of each.

        Raises:
            StoreUnavailable, SourceUnavailable: the comparison could not be finished.
        """
        async for keys in self._slots.keys():
            if keys:
                # Read the rows first. A slot read later is newer or the same, unless it is wrong.
                states = await self._source.load(keys)
                yield _compare(keys, states, await self._slots.raw(keys))
                self.checked += len(keys)

    async def confirm(self, suspects: Sequence[Finding]) -> Sequence[Finding]:
        """Compare suspects again after the audit had time to repair them; return those that are still wrong."""
        if not suspects:
            return ()
        await asyncio.sleep(self._patience_s)
        keys = sorted({suspect.key for suspect in suspects})
        states = await self._source.load(keys)
        return _compare(keys, states, await self._slots.raw(keys))


def _compare(keys: Sequence[str], states: dict[str, State], raws: Sequence[bytes | None]) -> list[Finding]:
    findings = []
    for key, raw in zip(keys, raws, strict=True):
        if raw is not None and (finding := _fault(key, states[key], raw)):
            findings.append(finding)
    return findings


def _fault(key: str, row: State, raw: bytes) -> Finding | None:
    found = slot.hash_in(raw)
    if not found:
        return None  # a lease holds no state, so no read is answered from it
    if found != hash_of(row.epoch):
        return Finding(key, SlotFault.OTHER_EPOCH, 0, row.version)
    held = slot.decode(raw, key, row.epoch, slot.incarnation_in(raw))
    if held is None:
        return Finding(key, SlotFault.OTHER_KEY, 0, row.version)
    if held.version != row.version:
        return Finding(key, SlotFault.OLDER if held.version < row.version else SlotFault.NEWER, held.version, row.version)
    same = held.payload == row.payload if isinstance(held, Value) and isinstance(row, Value) else type(held) is type(row)
    return None if same else Finding(key, SlotFault.DIFFERENT, held.version, row.version)
