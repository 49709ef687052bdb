"""What a process knows of its source's history, with one guard off."""

# ruff: noqa: ARG002 - a guard that is off looks at nothing

import asyncio

from app.cache.audit import Audit, AuditPorts
from app.cache.audit_loop import AuditLoop
from app.cache.errors import CacheError
from app.cache.history import History, Timeline
from app.cache.ports import AuditSource


class CountsAnyEpoch(History):
    """A reader counts a fence of whatever epoch it finds."""

    def trusts(self, epoch: str) -> bool:
        return bool(epoch)


class OldPrimaryGoesOn(History):
    """A higher timeline in the store tells an old primary's processes nothing."""

    def note_stored(self, epoch: str) -> None:
        return

    def _is_below(self, own: Timeline) -> bool:
        return False


class LateAnswerCounts(History):
    """An answer counts as the last one although a later question was answered before it."""

    def record(self, epoch: str, asked_at: float) -> None:
        self._asked_at = asked_at
        super().record(epoch, asked_at)


class TakesAnySnapshot(Audit):
    """A cycle goes on although its snapshot is of another epoch than its announcement."""

    def _check_epoch(self, announced: str, found: str) -> None:
        return


class EndsOnUnlistedErrors(Audit):
    """The audits of a process end with the first error that nobody listed."""

    async def attempt(self, ports: AuditPorts | None = None) -> bool:
        try:
            return await self.cycle(ports) is not None
        except CacheError:
            return True


class ClaimsInStep(Audit):
    """An instance whose last cycle failed claims again without asking its source first."""

    async def _ask_epoch(self, source: AuditSource) -> None:
        self._claim_ms = int(0.9 * self._config.audit_interval_ms)


class KeepsStep(AuditLoop):
    """Every instance claims at the end of each interval, in step with the others."""

    async def run(self) -> None:
        while True:
            began = self._clock()
            await self.attempt()
            await asyncio.sleep(began + self._interval_s - self._clock())
