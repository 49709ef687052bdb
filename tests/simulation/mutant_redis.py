"""Redis and its scripts with one guard off."""

# ruff: noqa: ARG002 - a guard that is off looks at nothing

from collections.abc import Sequence
from dataclasses import replace

from app.cache import slot
from app.cache.ports import Begun, Outcome, Publication, Published, Reading, Repairs, State, Watermark
from tests.fakes.redis import Fence, Lifetimes, RedisServer, version_of


class StoresAnyVersion(RedisServer):
    """No version compare."""

    def _replaces(self, raw: bytes, state: State) -> bool:
        return True


class StoresOnEmpty(RedisServer):
    """A publish fills an empty slot."""

    def _on_empty(self) -> Outcome:
        return Outcome.STORED


class KeepsForeignLease(RedisServer):
    """A publish leaves somebody else's lease where it is."""

    def _on_foreign_lease(self, publication: Publication) -> Outcome:
        return Outcome.KEPT


class DeletionSparesLeases(RedisServer):
    """A write that deletes its slot leaves somebody else's lease where it is."""

    def _on_foreign_lease(self, publication: Publication) -> Outcome:
        return Outcome.KEPT if publication.deletes else super()._on_foreign_lease(publication)


class AnyToken(RedisServer):
    """A lease belongs to whoever publishes."""

    def _owns(self, raw: bytes, token: str) -> bool:
        return True


class IgnoresEpochOfSlot(RedisServer):
    """Versions of different epochs are compared."""

    def _replaces(self, raw: bytes, state: State) -> bool:
        return version_of(raw) < state.version


class TrustsWithoutWatermark(RedisServer):
    """A publish counts without a watermark of its epoch."""

    def _trusted(self, state: State, identity: str) -> bool:
        return True


class ReadsAnyServersFence(RedisServer):
    """A reader trusts a fence that names another server."""

    def read(self, identity: str, keys: Sequence[str]) -> Reading:
        reading = super().read(identity, keys)
        fence = self._live_fence()
        return replace(reading, epoch=fence.epoch, incarnation=fence.incarnation) if fence else reading


class FenceForEver(RedisServer):
    """A fence never lapses."""

    def _live_fence(self) -> Fence | None:
        return self.data.fence


class ProvesWithoutFence(RedisServer):
    """A publish is proof although no fence of this server is live."""

    def publish(self, identity: str, publications: Sequence[Publication], lifetimes: Lifetimes) -> Published:
        published = super().publish(identity, publications, lifetimes)
        trusted = Outcome.UNTRUSTED not in published.outcomes
        return Published(published.outcomes, proven=trusted)


class RelativeExpiry(RedisServer):
    """A fence lives its time from when it is set, not from when the audit began."""

    def _expiry(self, begun: Begun, ttl_s: float) -> float:
        return self.now() + ttl_s


class TrustsMovedWatermark(RedisServer):
    """An audit sets watermark and fence although the watermark got another epoch, or was lost, meanwhile."""

    def trust(self, begun: Begun, proven: Watermark, ttl_s: float) -> bool:
        return super().trust(replace(begun, watermark=self.data.watermark), proven, ttl_s)


class KeepsIncarnation(RedisServer):
    """A clean start sets the watermark anew, and slots and leases of before go on counting."""

    def trust(self, begun: Begun, proven: Watermark, ttl_s: float) -> bool:
        return super().trust(begun, replace(proven, incarnation="0" * 16), ttl_s)


class CountsAnyWatermark(RedisServer):
    """A watermark counts wherever it lies."""

    def _counts(self, watermark: Watermark) -> bool:
        return watermark.xid is not None


class LeasesWithoutWatermark(RedisServer):
    """A lease is taken whether there is a watermark or not."""

    def _may_lease(self, watermark: Watermark | None, identity: str) -> bool:
        return True


class ReplacesOtherIncarnation(RedisServer):
    """A publish replaces a state of before a clean start."""

    def _on_void(self) -> Outcome:
        return Outcome.STORED


class FillsOnVoidLease(RedisServer):
    """A lease of before a clean start still fills its slot."""

    def _is_void_lease(self, raw: bytes, incarnation: str) -> bool:
        return False


class TrustsAfterTakeover(RedisServer):
    """An audit sets the watermark although the server took over other data since the cycle began."""

    def _is_still(self, begun: Begun) -> bool:
        return True


class LateLeavesNothing(RedisServer):
    """A cycle that took longer than its fence may live sets no watermark either."""

    def _leave_late(self, proven: Watermark) -> None:
        return


class LateAfterTakeover(RedisServer):
    """A cycle that is late sets the watermark although the server took over other data since it began."""

    def trust(self, begun: Begun, proven: Watermark, ttl_s: float) -> bool:
        late = self._expiry(begun, ttl_s) <= self.now()
        return super().trust(replace(begun, server=self.identity) if late else begun, proven, ttl_s)


class KeepsClaims(RedisServer):
    """The claim of a cycle that failed stays until its time is over."""

    def give_back(self, token: str) -> None:
        return


class AuditKeepsLeases(RedisServer):
    """An audit skips leases."""

    def _fault(self, raw: bytes, epoch: str, version: int) -> Repairs:
        return Repairs() if raw[:1] == slot.LEASE else super()._fault(raw, epoch, version)


class AuditKeepsOlder(RedisServer):
    """An audit deletes nothing."""

    def _fault(self, raw: bytes, epoch: str, version: int) -> Repairs:
        return Repairs()
