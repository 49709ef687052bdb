"""PostgreSQL and its statements with one guard off."""

# ruff: noqa: ARG002 - a guard that is off looks at nothing

from dataclasses import replace

from app.cache.ports import FenceLimits
from tests.fakes.postgres import MemoryPostgres
from tests.fakes.rows import AuditRow, Moment


class AnnouncesWithoutGreatest(MemoryPostgres):
    """An announcement may shorten what an earlier one said."""

    def _fenced_until(self, row: AuditRow, ttl_s: float) -> float:
        return self.now() + ttl_s


class TakesOverAtOnce(MemoryPostgres):
    """An announcement for another server than the row's takes over while that server's fence may live."""

    def _may_announce(self, row: AuditRow, server: str, limits: FenceLimits) -> bool:
        return True


class IgnoresEpochOfAudit(MemoryPostgres):
    """An audit row of another epoch is believed by writers that settle."""

    def _speaks(self, row: AuditRow) -> bool:
        return True


class IgnoresRival(MemoryPostgres):
    """An audit announces, and sets its fence, while another namespace of the table may be trusted."""

    def rival(self, namespace: str, limits: FenceLimits) -> str:
        return ""


class LooksForRivalTooEarly(MemoryPostgres):
    """An audit looks for another trusted namespace when it announces, and not again in its snapshot."""

    def _rival_at_announcement(self, namespace: str, limits: FenceLimits) -> str:
        return "" if namespace in self.overlapping else super().rival(namespace, limits)

    def rival(self, namespace: str, limits: FenceLimits) -> str:
        return ""


class CompletesInAnyHistory(MemoryPostgres):
    """A cycle completes in whatever audit row it finds, even one that a restore brought back."""

    def _knows(self, row: AuditRow, cycle: int, epoch: str) -> bool:
        return True


class WatermarkAtNextXid(MemoryPostgres):
    """The watermark passes over transactions in progress."""

    def take_snapshot(self, client: str) -> Moment:
        return replace(super().take_snapshot(client), xmin=self.next_xid)


class ChangedAfterWatermark(MemoryPostgres):
    """An audit looks at rows changed after the watermark, not by it."""

    def changed_since(self, moment: Moment, xid: int) -> list[tuple[str, int]]:
        return super().changed_since(moment, xid + 1)


class SameEpochForEver(MemoryPostgres):
    """A truncation, a restore, a promotion go unnoticed."""

    def _begin_epoch(self) -> None:
        if not self.epoch:
            super()._begin_epoch()


class AssumesNothing(MemoryPostgres):
    """An audit row of another history is taken at its word: no fence lives beyond what it says."""

    def _assume_worst(self, row: AuditRow, max_ttl_s: float) -> None:
        return


class AssumesSameServer(MemoryPostgres):
    """In another history a fence may live, but only on the server that this row names."""

    def _assume_worst(self, row: AuditRow, max_ttl_s: float) -> None:
        row.fenced_until = max(row.fenced_until, self.now() + max_ttl_s)


class AssumesShortFence(MemoryPostgres):
    """In another history a fence may live on another server, but writers do not wait for it."""

    def _assume_worst(self, row: AuditRow, max_ttl_s: float) -> None:
        row.other_until = max(row.other_until, self.now() + max_ttl_s)
