"""Accepted writes with one guard off."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from typing_extensions import override

from app.postgres.errors import CommitUnknown, ConnectionLost
from app.postgres.session import Session
from app.products.acceptance import Acceptance, Accepted
from app.products.accepted import AcceptedWrite, Found, Queued
from app.products.changes import Changes
from app.products.decision import Decision
from app.products.idempotency import WriteRequest
from app.products.transaction import Committed, Transaction
from app.products.transactions import ProductTransactions
from tests.fakes.product_tables import ProductPostgres
from tests.simulation.accepted import PARTS, play
from tests.simulation.faults import Chance
from tests.simulation.parts import Parts
from tests.simulation.shop import SHIPPED, Shipped


class StatusWithoutR10(Acceptance):
    """The status says done without publishing or settling."""

    @override
    async def find(self, caller: str, key: str) -> Found:
        return replace(await super().find(caller, key), states=())


class AcceptsUnknown(Acceptance):
    """A request whose COMMIT had no answer is answered with 202."""

    @override
    async def accept(self, write: AcceptedWrite) -> Accepted:
        try:
            return await super().accept(write)
        except CommitUnknown:
            return Queued()


class AppliedUpTo(ProductPostgres):
    """The applier removes every row up to the highest number that it decided."""

    @override
    def remove(self, seqs: Sequence[int]) -> None:
        super().remove([seq for seq in self.accepted if seq <= max(seqs)])


class DirectOvertakes(ProductTransactions):
    """A direct write does not look at what waits for its products."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options | {"decode": None})


class _NobodyWaits(Transaction):
    @override
    def _decide(self, request: WriteRequest, locked: set[tuple[str, str]], recorded: Sequence[str] | None = None) -> Decision:
        self._blocked = {}
        return super()._decide(request, locked, recorded)


class PostponedHoldsNobodyUp(ProductTransactions):
    """A write is decided although an earlier accepted one of its products had to wait."""

    @override
    async def _once(self, work: Transaction) -> Committed:
        work.__class__ = _NobodyWaits
        return await super()._once(work)


class _SaysConnectionLost(Transaction):
    @override
    async def _commit_at_once(self, session: Session, changes: Changes, epoch: str) -> Committed:
        try:
            return await super()._commit_at_once(session, changes, epoch)
        except CommitUnknown as error:
            raise ConnectionLost(str(error)) from error


class TriesUnknownCommitAgain(ProductTransactions):
    """A connection that is lost when COMMIT was sent with the changes counts as lost during the changes."""

    @override
    async def _once(self, work: Transaction) -> Committed:
        work.__class__ = _SaysConnectionLost
        return await super()._once(work)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A guard switched off."""

    shipped: Shipped = SHIPPED
    parts: Parts = PARTS
    rates: Mapping[str, float] | None = None
    """How often commands fail, by name or kind; by chance if ``None``."""


MUTANTS = {
    "StatusWithoutR10": Mutant(Shipped(acceptance=StatusWithoutR10)),
    "AcceptsUnknown": Mutant(Shipped(acceptance=AcceptsUnknown)),
    "AppliedUpTo": Mutant(parts=replace(PARTS, postgres=AppliedUpTo)),
    "DirectOvertakes": Mutant(Shipped(transactions=DirectOvertakes)),
    "PostponedHoldsNobodyUp": Mutant(Shipped(transactions=PostponedHoldsNobodyUp)),
    "TriesUnknownCommitAgain": Mutant(Shipped(transactions=TriesUnknownCommitAgain), rates={"commit": 0.1}),
}
SEEDS = range(1, 61)
"""Within which chance catches every mutant."""


def hunt(mutant: Mutant, seeds: range = SEEDS) -> tuple[int, str] | None:
    """The first seed whose history shows a violation with this guard off, and the violation; ``None`` if none does."""
    for seed in seeds:
        plan = None if mutant.rates is None else Chance(random.Random(seed), dict(mutant.rates))
        outcome = play(seed, mutant.shipped, mutant.parts, plan=plan)
        if outcome.bad:
            return seed, outcome.first()
    return None
