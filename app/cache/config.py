"""The cache's limits, each with its unit. ``app.main`` fills them from the settings."""

from dataclasses import dataclass

from app.cache.ports import FenceLimits

READ_YIELDS = 2
"""Of the event loop, between joined reads and the next: an eighth less processor time for a hit under load."""


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Limits of one namespace's cache; the defaults are those of the settings of the same names."""

    batch_keys: int = 500
    batch_bytes: int = 8_388_608
    queue_limit: int = 10_000
    warm_keys: int = 10_000
    audit_interval_ms: int = 500
    audit_page_rows: int = 1_000
    fence_ttl_ms: int = 2_000
    fence_ttl_max_ms: int = 2_000
    settle_margin_ms: int = 50
    settle_poll_ms: int = 50
    settle_timeout_ms: int = 10_000
    """Longest wait of one acknowledgement; beyond it ``NotSettled``."""
    serve_unverified_s: int = 0

    @property
    def fences(self) -> FenceLimits:
        """How long fences live."""
        return FenceLimits(self.fence_ttl_ms, self.fence_ttl_max_ms, self.settle_margin_ms)
