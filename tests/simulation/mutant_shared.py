"""The fences and cycles of several namespaces with one guard off."""

from collections.abc import Sequence

from app.cache.ports import Announced, AnnounceRequest, Deferred
from tests.fakes.redis import Data, RedisServer
from tests.fakes.shared_audit import MemorySharedSource


class SharedFence(RedisServer):
    """All namespaces have one fence."""

    def _place_of_fence(self) -> Data:
        return self.data


class FailingNamespaceCompletes(MemorySharedSource):
    """A shared cycle completes every namespace that it announced, even one that failed in between."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]  # whatever the shipped fake takes
        self._announced: list[tuple[str, int, str]] = []

    async def announce(self, requests: Sequence[AnnounceRequest]) -> Sequence[Announced | Deferred | Exception]:
        announced = await super().announce(requests)
        self._announced += [
            (namespace, one.cycle, one.epoch)
            for (namespace, *_), one in zip(requests, announced, strict=True)
            if isinstance(one, Announced)
        ]
        return announced

    async def complete(self, requests: Sequence[tuple[str, int, str]]) -> Sequence[Exception | None]:
        completed = await super().complete(self._announced)
        return completed[: len(requests)]
