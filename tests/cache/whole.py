"""What holds of a process after every test, whatever the test was about: no slot is wrong, and the statistics add up."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from typing_extensions import override

from app.cache.audit import Audit
from app.cache.inspection import Finding, Inspection, SlotReader
from app.cache.ports import Outcome, Reading, Source, Value
from app.cache.stats import Histogram, Stats
from app.cache.write_through import Peeked, Read, Status, WriteThrough


class CountedCache(WriteThrough):
    """The shipped cache, and how its reads were answered."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.answers: Counter[Status] = Counter()
        self.failed = 0
        """Reads that raised, or that nobody waits for any more."""

    @override
    async def read_many(
        self,
        keys: Sequence[str],
        *,
        refresh: bool = False,
        stale_s: int = 0,
        reading: Reading | None = None,
        ttl_s: int | None = None,
    ) -> list[Read]:
        self.failed += 1
        reads = await super().read_many(keys, refresh=refresh, stale_s=stale_s, reading=reading, ttl_s=ttl_s)
        self.failed -= 1
        self.answers.update(read.status for read in reads)
        return reads

    @override
    def peek(self, key: str, then: Callable[[Peeked], None]) -> None:
        def counted(found: Peeked) -> None:
            self.answers[Status.HIT] += isinstance(found, Value)
            then(found)

        super().peek(key, counted)


async def wrong_slots(slots: SlotReader, source: Source, audit: Audit) -> Sequence[Finding]:
    """What the shipped inspection finds once an audit had its turn, as after a publish that was lost."""
    inspection = Inspection(slots, source, patience_s=0)
    suspects = [finding async for page in inspection.pages() for finding in page]
    if not suspects:
        return ()
    async with asyncio.timeout(5):
        while await audit.cycle() is None:
            await asyncio.sleep(0.01)
    return await inspection.confirm(suspects)


def broken_sums(stats: Stats, cache: CountedCache, answered: Counter[str], keys: Counter[str]) -> list[str]:
    """The identities of a process's statistics that do not hold.

    Args:
        stats: of a process in which nothing goes on any more.
        cache: its cache.
        answered: calls of the ports that were answered, by verb.
        keys: the keys of these calls, by verb.
    """
    counts, publishes, repairs = cache.answers, stats.publishes, stats.repairs
    by_status = {
        "hits": (stats.hits, counts[Status.HIT]),
        "misses": (stats.misses, counts[Status.MISS] + counts[Status.STORED]),
        "bypasses": (stats.bypasses, counts[Status.BYPASS]),
        "refreshes": (stats.refreshes, counts[Status.REFRESHED] + counts[Status.REFRESHED_STORED]),
        "unverified": (stats.unverified, counts[Status.UNVERIFIED]),
    }
    holds = {
        "store_read": _number(stats.store_read) == answered["read"],
        "store_publish": _number(stats.store_publish) == answered["publish"],
        "publishes": publishes.total() == keys["publish"],
        "source_load": _number(stats.source_load) == answered["load"],
        "loads": stats.loads == keys["load"],
        "fills": stats.fills <= publishes[Outcome.STORED],
        "refills": stats.refills <= publishes[Outcome.EMPTY],
        "settle_wait": _number(stats.settle_wait) == stats.settles >= stats.settle_timeouts,
        "audit_duration": _number(stats.audit_duration) == stats.audits >= stats.audit_deferrals,
        "repairs": repairs.checked >= repairs.older + repairs.other_epoch + repairs.leases,
        "clean_starts": stats.clean_starts <= stats.audits,
        # A read that failed may have been counted before it did.
        **{name: counted == found or (cache.failed > 0 and counted > found) for name, (counted, found) in by_status.items()},
    }
    return [name for name, held in holds.items() if not held]


def _number(durations: Histogram) -> int:
    return sum(durations.counts)
