"""The ports of a namespace that is divided into partitions, each of which is on one node of the store.

A partition is named by its number. A call has requests for several of them. A node that gives no answer fails the whole call;
a partition that the node refuses, because it belongs to another one, gets ``StoreUnavailable`` as its result, and nothing was
done for it. No refusal is followed to another node.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from .errors import StoreUnavailable
from .partitions import Partitions
from .ports import (
    Announced,
    Begun,
    Deferred,
    FenceLimits,
    Publication,
    Published,
    Reading,
    Repairs,
    Snapshot,
    Watermark,
)

ReadRequest = tuple[int, Sequence[str], Sequence[str]]
"""Partition, keys, and those of them to lease, of a ``Store.read``."""
LeaseRequest = tuple[int, Sequence[str]]
PublishRequest = tuple[int, Sequence[Publication]]


class NodeStore(ABC):
    """The partitions of a namespace on one node, with the verbs of ``Store`` and their errors. Each call is one round trip."""

    @abstractmethod
    async def read(self, requests: Sequence[ReadRequest]) -> Sequence[Reading | StoreUnavailable]:
        """``read`` for each request, several of which may be of one partition. What is atomic is one request.

        A request of a refused partition that got leases nevertheless has ``LeasesInDoubt`` as its result.
        """

    @abstractmethod
    async def lease(self, requests: Sequence[LeaseRequest]) -> Sequence[dict[str, str] | StoreUnavailable]:
        """``lease`` in each partition."""

    @abstractmethod
    async def publish(self, requests: Sequence[PublishRequest]) -> Sequence[Published | StoreUnavailable]:
        """``publish`` in each partition."""

    @abstractmethod
    async def release(self, requests: Sequence[tuple[int, dict[str, str]]]) -> None:
        """``release`` in each partition. What is refused expires."""

    @abstractmethod
    async def drop(self, partition: int, key: str) -> None:
        """Empty one slot. Raises ``StoreUnavailable``, also if the partition is refused."""


class PartitionedStore(ABC):
    """The slots of a namespace that is divided into partitions."""

    partitions: Partitions

    @abstractmethod
    def node(self, partition: int) -> NodeStore | None:
        """Return the node that has a partition, as far as is known; ``None`` if none is known to have it."""

    @property
    @abstractmethod
    def nodes(self) -> Sequence[NodeStore]:
        """The present nodes."""


class PartitionsAuditStore(Protocol):
    """The store during one audit cycle of several partitions: one connection for each node, none of which reconnects.

    A partition whose node is lost or refuses it gets ``StoreUnavailable`` as its result in every step; the others go on.
    """

    async def begin(self, claim_ms: int) -> Mapping[int, Begun | StoreUnavailable]:
        """``AuditStore.begin`` in every partition."""

    async def verify(
        self, epoch: str, rows: Mapping[int, Sequence[tuple[str, int]]]
    ) -> Mapping[int, Repairs | StoreUnavailable]:
        """``AuditStore.verify`` in each partition that is named."""

    async def distrust(self, marks: Mapping[int, Watermark | None]) -> Mapping[int, StoreUnavailable | None]:
        """``AuditStore.distrust`` in each partition that is named."""

    async def trust(
        self, begun: Mapping[int, Begun], proven: Watermark, fence_ttl_ms: int
    ) -> Mapping[int, bool | StoreUnavailable]:
        """``AuditStore.trust`` in each partition that is named."""

    async def give_claims_back(self) -> None:
        """Release the cycle's claims, so that another instance can audit this interval. Idempotent."""


class PartitionsAuditSource(Protocol):
    """The source during one audit cycle of several partitions: the statements of one, on one session."""

    async def tell_epoch(self) -> str:
        """Read the present epoch. Idempotent."""

    async def announce(self, servers: Mapping[int, str], limits: FenceLimits) -> Mapping[int, Announced | Deferred]:
        """``AuditSource.announce`` for each partition, on its server, in one statement."""

    async def count_changes(self, since: Watermark, upto: Watermark, most: int) -> int:
        """Return how many rows changed between two watermarks of one epoch, but at most ``most``."""

    def snapshot(self, since: Watermark | None, limits: FenceLimits, page_rows: int) -> AbstractAsyncContextManager[Snapshot]:
        """Open one snapshot for all partitions; see ``AuditSource.snapshot``. A sibling partition is no rival."""

    async def complete(self, cycles: Mapping[int, int]) -> None:
        """``AuditSource.complete`` for each partition that is named."""
