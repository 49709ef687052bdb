"""The component's store and source with one guard off."""

# ruff: noqa: ARG002 - a guard that is off looks at nothing

from collections.abc import Sequence
from dataclasses import replace

from app.cache.errors import StoreUnavailable
from app.cache.ports import AuditProgress, AuditRow, Outcome, Publication, Published
from tests.fakes.source import MemorySource
from tests.fakes.store import MemoryStore


class LeasesAfterLoad(MemoryStore):
    """The lease is taken when the load is there: the load's snapshot precedes it."""

    async def lease(self, keys: Sequence[str]) -> dict[str, str]:
        return dict.fromkeys(keys, "later")

    async def publish(self, publications: Sequence[Publication]) -> Published:
        wanted = [publication.state.key for publication in publications if publication.token]
        tokens = await super().lease(wanted) if wanted else {}
        return await super().publish([
            replace(publication, token=tokens.get(publication.state.key, "")) for publication in publications
        ])  # fmt: skip


class SendsTokenTwice(MemoryStore):
    """A lease without an answer is asked for again with the same tokens, as a client library's retry does."""

    async def lease(self, keys: Sequence[str]) -> dict[str, str]:
        tokens = {key: f"{self._chance.getrandbits(64):016x}" for key in keys}
        for attempt in range(3):
            try:
                return await self._run("lease", lambda server, at: server.lease(at, tokens, self._lifetimes.lease_s))
            except StoreUnavailable:
                if attempt == 2:
                    raise
        return {}


class UsesDoubtfulToken(MemoryStore):
    """A lease without an answer is taken for granted, as if the incarnation in it were known."""

    async def lease(self, keys: Sequence[str]) -> dict[str, str]:
        tokens = {key: f"{self._chance.getrandbits(64):016x}" for key in keys}
        try:
            return await self._run("lease", lambda server, at: server.lease(at, tokens, self._lifetimes.lease_s))
        except StoreUnavailable:
            watermark = self._route().data.watermark
            return {key: (watermark.incarnation if watermark else "") + token for key, token in tokens.items()}


class TakesErrorForProof(MemoryStore):
    """A publish without a definite answer is taken for done."""

    async def publish(self, publications: Sequence[Publication]) -> Published:
        try:
            return await super().publish(publications)
        except StoreUnavailable:
            return Published(tuple(Outcome.KEPT for _ in publications), proven=True)


class AnyAuditSettles(MemorySource):
    """An audit that began before the commit settles it."""

    async def standing(self) -> AuditProgress:
        standing = await super().standing()
        rows = {name: replace(row, announced=row.announced - 1) for name, row in standing.rows.items()}
        return replace(standing, rows=rows)


class SettlesOwnRow(MemorySource):
    """A writer that settles looks at its own namespace's audit row alone."""

    async def standing(self) -> AuditProgress:
        return self._own(await super().standing())

    async def adopt(self, fence_ttl_max_ms: int) -> AuditProgress:
        standing = self._own(await super().adopt(fence_ttl_max_ms))
        return standing if standing.rows else replace(standing, rows={"": AuditRow(0, 0, -1.0)})

    def _own(self, standing: AuditProgress) -> AuditProgress:
        return replace(standing, rows={name: row for name, row in standing.rows.items() if name == self._namespace})


class AdoptsWithoutTime(MemorySource):
    """Adopting an epoch announces no fence."""

    async def adopt(self, fence_ttl_max_ms: int) -> AuditProgress:
        return await super().adopt(-10_000)
