"""Everything that a service can set about its caches, with the defaults of a service of its own.

Larder's own settings have the same names and defaults, and a test holds them equal.
"""

from dataclasses import dataclass, fields

from .config import CacheConfig
from .policies import WritePolicy


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one process's caches. docs/SETTINGS.md describes those of the same names."""

    database_connections: int = 10
    database_connect_timeout_ms: int = 3_000
    database_acquire_timeout_ms: int = 2_000
    database_statement_timeout_ms: int = 5_000
    database_lock_timeout_ms: int = 2_000
    redis_timeout_ms: int = 250
    redis_connect_timeout_ms: int = 500
    redis_retry_ms: int = 250
    cache_partitions: int = 1
    ttl_jitter_percent: int = 10
    lease_ttl_ms: int = 3_000
    batch_keys: int = 500
    batch_bytes: int = 8_388_608
    queue_limit: int = 10_000
    warm_keys: int = 100_000
    audit_interval_ms: int = 500
    audit_page_rows: int = 1_000
    fence_ttl_ms: int = 2_000
    fence_ttl_max_ms: int = 2_000
    settle_margin_ms: int = 50
    settle_poll_ms: int = 50
    settle_timeout_ms: int = 15_000
    serve_unverified_s: int = 0
    sample_keys: int = 0
    ttl_max_s: int = 2_592_000
    """The longest life that a call may ask for."""

    def config(self, write_policy: WritePolicy = WritePolicy.THROUGH, *, bypassed: bool = False) -> CacheConfig:
        """Return the limits of one namespace's cache."""
        own = {field.name: getattr(self, field.name) for field in fields(CacheConfig) if hasattr(self, field.name)}
        return CacheConfig(**own, write_policy=write_policy, bypassed=bypassed)
