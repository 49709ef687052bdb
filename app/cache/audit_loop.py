"""The audits of all namespaces of one process, in one loop.

Every interval the namespaces go through their cycles together, on one connection to the store and one session of the source,
and each step is one round trip for all of them (``shared_audit``). Fence, watermark, claim and audit row are each namespace's
own: a namespace is trusted only by its own cycle, with its own six steps in order.

A namespace that fails while others succeed, or has more to do than fits into a shared step, goes on alone, with connections of
its own, until a cycle of its own has succeeded. The others do not wait for it.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from .audit import Auditor
from .config import CacheConfig
from .errors import NeedsOwnCycle
from .ports import Clock
from .shared_audit import SharedCycle

log = logging.getLogger(__name__)

EARLIEST_SHARE = 0.8
"""Shortest pause between two attempts as a share of the audit interval. Pauses vary, so that no instance always wins."""
EARLIEST_SHARE_WITHOUT_CLAIM = 0.2
"""Shortest pause for an instance without the claim; the range is wide, so that instances take turns."""

OpenTogether = Callable[[Sequence[str]], AbstractAsyncContextManager[SharedCycle]]
"""Opens the connections for one cycle of several namespaces."""


class AuditLoop:
    """One process's audits.

    Args:
        audits: by namespace.
        open_together: opens the shared connections; it is not used for a single namespace. ``None`` if each has its own, as
            those do that are divided into partitions.
    """

    def __init__(
        self,
        audits: Mapping[str, Auditor],
        open_together: OpenTogether | None,
        config: CacheConfig,
        *,
        clock: Clock = time.monotonic,
        chance: random.Random | None = None,
    ) -> None:
        self._audits = audits
        self._open_together = open_together
        self._interval_s = config.audit_interval_ms / 1000
        self._clock = clock
        self._chance = chance or random.Random()
        self._apart: dict[str, asyncio.Task[None] | None] = {}
        if open_together is None and len(audits) > 1:
            self._apart = dict.fromkeys(audits)
        """The namespaces that go on alone, each with its present attempt."""

    async def run(self) -> None:
        """Audit every interval until cancelled."""
        try:
            while True:
                began = self._clock()
                earliest = EARLIEST_SHARE if await self.attempt() else EARLIEST_SHARE_WITHOUT_CLAIM
                pause_s = self._interval_s * self._chance.uniform(earliest, 1.0)
                await asyncio.sleep(max(0.0, began + pause_s - self._clock()))
        finally:
            attempts = [attempt for attempt in self._apart.values() if attempt is not None]
            for attempt in attempts:
                attempt.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)

    async def attempt(self) -> bool:
        """Run a cycle of every namespace; return whether this instance had a claim, or True if a cycle failed.

        It does not wait for the namespaces that go on alone.
        """
        for name in self._apart:
            self._begin_alone(name)
        together = [name for name in self._audits if name not in self._apart]
        if len(together) <= 1:
            return any([await self._audits[name].attempt() for name in together])
        assert self._open_together is not None  # noqa: S101 - otherwise all go on alone
        return await self._attempt_together(together, self._open_together)

    async def attempt_all(self) -> None:
        """Run a cycle of every namespace, and wait for those that go on alone, too."""
        await self.attempt()
        await asyncio.gather(*(attempt for attempt in self._apart.values() if attempt is not None))

    async def _attempt_together(self, names: Sequence[str], open_together: OpenTogether) -> bool:
        attempted = False
        claims: Sequence[bool] = ()
        try:
            async with open_together(names) as shared:
                attempted = True
                claims = await asyncio.gather(*(self._share(name, shared) for name in names))
        except Exception as error:  # noqa: BLE001 - recorded by each audit; the next cycle starts afresh
            if not attempted:
                for name in names:
                    self._audits[name].record_failure(error)
                return True
        # One that already goes on alone has its attempt under way.
        failed = [name for name in names if self._audits[name].failed and name not in self._apart]
        if len(failed) < len(names):
            self._apart.update(dict.fromkeys(failed))
        return any(claims)

    async def _share(self, name: str, shared: SharedCycle) -> bool:
        try:
            return await self._audits[name].attempt(shared.ports(name))
        except NeedsOwnCycle:
            self._apart[name] = None
            self._begin_alone(name)
            return True

    def _begin_alone(self, name: str) -> None:
        if self._apart[name] is None:
            self._apart[name] = asyncio.create_task(self._attempt_alone(name), name=f"audit of {name}")

    async def _attempt_alone(self, name: str) -> None:
        audit = self._audits[name]
        await audit.attempt()
        if audit.failed or self._open_together is None:
            self._apart[name] = None
        else:
            del self._apart[name]
