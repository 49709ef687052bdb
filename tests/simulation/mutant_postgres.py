"""PostgreSQL and its statements with one guard off."""

# ruff: noqa: ARG002 - a guard that is off looks at nothing

from dataclasses import replace

from tests.fakes.postgres import AuditRow, MemoryPostgres, Moment


class AnnouncesWithoutGreatest(MemoryPostgres):
    """An announcement may shorten what an earlier one said."""

    def _fenced_until(self, row: AuditRow, ttl_s: float) -> float:
        return self.now() + ttl_s


class ForgetsOtherServer(MemoryPostgres):
    """No cycle waits for another server's fence to lapse."""

    def _other_until(self, row: AuditRow) -> float:
        return row.other_until


class CompletesInAnyHistory(MemoryPostgres):
    """A cycle completes in whatever audit row it finds, even one that a restore brought back."""

    def _knows(self, cycle: int, epoch: str) -> bool:
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
