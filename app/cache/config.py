"""The cache's limits, each with its unit. ``app.main`` takes them from the settings, where their defaults are."""

from dataclasses import dataclass

from .policies import WritePolicy
from .ports import FenceLimits

READ_YIELDS = 2
"""Event-loop iterations between two batches of reads, so that the next requests of the same clients share a batch.

docs/decisions/0004 has the reasons.
"""


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Limits of one namespace's cache; the settings of the same names describe them."""

    batch_keys: int
    batch_bytes: int
    queue_limit: int
    warm_keys: int
    audit_interval_ms: int
    audit_page_rows: int
    fence_ttl_ms: int
    fence_ttl_max_ms: int
    settle_margin_ms: int
    settle_poll_ms: int
    settle_timeout_ms: int
    """Longest wait of one acknowledgement. Beyond it ``NotSettled`` is raised."""
    serve_unverified_s: int
    write_policy: WritePolicy
    """What a write does unless it names another policy."""
    sample_keys: int
    """One key in so many is sampled (``sampled_keys``); 0 samples none."""
    bypassed: bool
    """Whether the operator has switched this cache off: reads go to the source, and writes are ``aside``."""

    @property
    def fences(self) -> FenceLimits:
        """How long fences live."""
        return FenceLimits(self.fence_ttl_ms, self.fence_ttl_max_ms, self.settle_margin_ms)
