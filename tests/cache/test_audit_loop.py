"""Namespaces that leave the shared cycle of a loop of audits."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

from app.cache.audit import Audit, AuditPorts
from app.cache.audit_loop import AuditLoop
from app.cache.errors import NeedsOwnCycle
from app.cache.shared_audit import SharedCycle
from tests.limits import cache_config


class _Audit:
    """An audit that succeeds; or one that failed before, and now needs a cycle of its own, which ends when ``done`` is set."""

    def __init__(self, *, needs_own: bool) -> None:
        self.failed = needs_own
        self.done = asyncio.Event()
        self.alone = 0
        self._needs_own = needs_own

    async def attempt(self, ports: AuditPorts | None = None) -> bool:
        if not self._needs_own:
            return True
        if ports is not None:
            raise NeedsOwnCycle("more than a page")
        self.alone += 1
        await self.done.wait()
        self.failed = False
        return True


class _Shared:
    def ports(self, namespace: str) -> AuditPorts:
        return cast("AuditPorts", namespace)


@asynccontextmanager
async def _open_together(_namespaces: Sequence[str]) -> AsyncIterator[SharedCycle]:
    yield cast("SharedCycle", _Shared())


async def test_a_namespace_that_goes_on_alone_has_one_attempt_at_a_time() -> None:
    """An earlier failure does not begin a second attempt beside the one under way."""
    large, small = _Audit(needs_own=True), _Audit(needs_own=False)
    audits = {"large": cast("Audit", large), "small": cast("Audit", small)}
    loop = AuditLoop(audits, _open_together, cache_config())
    await loop.attempt()
    await asyncio.sleep(0)
    await loop.attempt()
    await asyncio.sleep(0)
    assert large.alone == 1
    large.done.set()
    await loop.attempt_all()
    assert large.alone == 1
