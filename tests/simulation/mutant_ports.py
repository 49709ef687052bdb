"""The component's store and source with one guard off."""

# ruff: noqa: ARG002 - a guard that is off looks at nothing

from collections.abc import Sequence
from dataclasses import replace

from app.cache.errors import StoreUnavailable
from app.cache.ports import AuditProgress, AuditRow, Outcome, Publication, Published, Reading, State, Store
from tests.fakes.source import MemorySource
from tests.fakes.store import MemoryStore
from tests.simulation.parts import WholeSource


class StoreAround:
    """A store that hands everything on."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def read(self, keys: Sequence[str]) -> Reading:
        return await self._store.read(keys)

    async def lease(self, keys: Sequence[str]) -> dict[str, str]:
        return await self._store.lease(keys)

    async def publish(self, publications: Sequence[Publication]) -> Published:
        return await self._store.publish(publications)

    async def release(self, tokens: dict[str, str]) -> None:
        await self._store.release(tokens)

    async def drop(self, key: str) -> None:
        await self._store.drop(key)


class LeasesAfterLoad(StoreAround):
    """The lease is taken when the load is there: the load's snapshot precedes it."""

    async def lease(self, keys: Sequence[str]) -> dict[str, str]:
        return dict.fromkeys(keys, "later")

    async def publish(self, publications: Sequence[Publication]) -> Published:
        wanted = [publication.state.key for publication in publications if publication.token]
        tokens = await self._store.lease(wanted) if wanted else {}
        return await self._store.publish([
            replace(publication, token=tokens.get(publication.state.key, "")) for publication in publications
        ])  # fmt: skip


class SendsTokenTwice(StoreAround):
    """A lease without an answer is asked for again with the same tokens, as a client library's retry does."""

    async def lease(self, keys: Sequence[str]) -> dict[str, str]:
        store = self._store
        assert isinstance(store, MemoryStore)
        tokens = {key: f"{store._chance.getrandbits(64):016x}" for key in keys}
        for attempt in range(3):
            try:
                return await store._run("lease", lambda server, _: store._take(server, tokens))
            except StoreUnavailable:
                if attempt == 2:
                    raise
        return {}


class UsesDoubtfulToken(StoreAround):
    """A lease without an answer is taken for granted."""

    async def lease(self, keys: Sequence[str]) -> dict[str, str]:
        store = self._store
        assert isinstance(store, MemoryStore)
        tokens = {key: f"{store._chance.getrandbits(64):016x}" for key in keys}
        try:
            return await store._run("lease", lambda server, _: store._take(server, tokens))
        except StoreUnavailable:
            return dict(tokens)


class TakesErrorForProof(StoreAround):
    """A publish without a definite answer is taken for done."""

    async def publish(self, publications: Sequence[Publication]) -> Published:
        try:
            return await self._store.publish(publications)
        except StoreUnavailable:
            return Published(tuple(Outcome.KEPT for _ in publications), proven=True)


class FallsBackToSet(StoreAround):
    """After a publish without an answer the state is set plainly, whatever the slot holds."""

    async def publish(self, publications: Sequence[Publication]) -> Published:
        try:
            return await self._store.publish(publications)
        except StoreUnavailable:
            for publication in publications:
                await self._store.drop(publication.state.key)
            return Published(tuple(Outcome.KEPT for _ in publications), proven=True)


class SourceAround:
    """A source that hands everything on."""

    def __init__(self, source: WholeSource) -> None:
        self._source = source

    async def load(self, keys: Sequence[str]) -> dict[str, State]:
        return await self._source.load(keys)

    async def tell_epoch(self) -> str:
        return await self._source.tell_epoch()

    async def standing(self) -> AuditProgress:
        return await self._source.standing()

    async def adopt(self, fence_ttl_max_ms: int) -> AuditProgress:
        return await self._source.adopt(fence_ttl_max_ms)


class AnyAuditSettles(SourceAround):
    """An audit that began before the commit settles it."""

    async def standing(self) -> AuditProgress:
        standing = await self._source.standing()
        rows = {name: replace(row, announced=row.announced - 1) for name, row in standing.rows.items()}
        return replace(standing, rows=rows)


class SettlesOwnRow(SourceAround):
    """A writer that settles looks at its own namespace's audit row alone."""

    async def standing(self) -> AuditProgress:
        return self._own(await self._source.standing())

    async def adopt(self, fence_ttl_max_ms: int) -> AuditProgress:
        standing = self._own(await self._source.adopt(fence_ttl_max_ms))
        return standing if standing.rows else replace(standing, rows={"": AuditRow(0, 0, -1.0)})

    def _own(self, standing: AuditProgress) -> AuditProgress:
        assert isinstance(self._source, MemorySource)
        namespace = self._source._namespace
        return replace(standing, rows={name: row for name, row in standing.rows.items() if name == namespace})


class AdoptsWithoutTime(SourceAround):
    """Adopting an epoch announces no fence."""

    async def adopt(self, fence_ttl_max_ms: int) -> AuditProgress:
        return await self._source.adopt(-10_000)
