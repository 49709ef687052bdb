"""Every guard of the cache switched off, one at a time: the schedule, or the seeds, in which that shows.

A mutant swaps one of a history's parts: a script of the store, a statement of the source, a method of a shipped class. The
shipped code itself is never touched. ``python -m tests.simulation.mutants`` looks for the first seed that catches each.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from app.cache.audit import Audit
from app.cache.config import CacheConfig
from app.cache.history import History
from app.cache.ports import State
from app.cache.write_through import WriteThrough
from tests.fakes.postgres import MemoryPostgres
from tests.fakes.redis import RedisServer
from tests.fakes.shared_audit import MemorySharedSource
from tests.fakes.source import MemoryAuditSource, MemorySource
from tests.fakes.store import MemoryAuditStore, MemoryStore
from tests.limits import cache_config
from tests.schedules import audits, takeovers, traffic, worlds
from tests.schedules.on_fakes import Schedule
from tests.simulation import mutant_audit as audit
from tests.simulation import mutant_cache as cache
from tests.simulation import mutant_history as history
from tests.simulation import mutant_ports as ports
from tests.simulation import mutant_postgres as postgres
from tests.simulation import mutant_redis as redis
from tests.simulation import mutant_shared as shared
from tests.simulation.parts import SHIPPED, Parts
from tests.simulation.runner import Scenario, simulate


def short_patience(config: CacheConfig) -> CacheConfig:
    """Settling waits for a shorter fence than some instance of the fleet sets."""
    return replace(config, fence_ttl_max_ms=config.fence_ttl_max_ms // 2, fence_ttl_ms=config.fence_ttl_max_ms)


def publish_nothing(states: list[State]) -> list[State]:
    """What a mutant makes of the states that a write speaks of."""
    del states
    return []


REPLAY = "A replayed write is answered without publishing or settling."
UNCHANGED = "A write that changes nothing is answered without publishing or settling."
UNKNOWN_IS_SUCCESS = "A write whose commit had no answer is acknowledged."


@dataclass(frozen=True, slots=True)
class Mutant:
    """A guard switched off.

    ``schedule`` catches it; without one, chance does within ``SEEDS``. Where another guard stands before this one,
    ``behind`` names the mutants that take it away: they alone let nobody through on that schedule, and with this one they do.
    """

    name: str
    rule: str
    drops: str
    parts: Parts
    schedule: Schedule | None = None
    behind: tuple[str, ...] = ()
    scenario: Scenario | None = None
    """The scenario of its random histories; by default each seed draws one."""


def together(*parts: Parts) -> Parts:
    """Several guards off at once; of two broken classes of one kind, one that is broken in both ways."""
    changed: dict[str, Any] = {}
    for one in parts:
        for name in (each.name for each in fields(Parts)):
            value = getattr(one, name)
            if value is not getattr(SHIPPED, name):
                changed[name] = type("Both", (value, changed[name]), {}) if name in changed else value
    return replace(SHIPPED, **changed)


_FIELDS = (
    (RedisServer, "redis"),
    (MemoryPostgres, "postgres"),
    (WriteThrough, "cache"),
    (Audit, "audit"),
    (History, "history"),
    (MemoryStore, "store"),
    (MemorySource, "source"),
    (MemoryAuditStore, "audit_store"),
    (MemoryAuditSource, "audit_source"),
    (MemorySharedSource, "shared_source"),
)


def _part(kind: type) -> Parts:
    """Put a mutant's class where it belongs."""
    [field] = [field for base, field in _FIELDS if issubclass(kind, base)]
    part: Any = kind
    return replace(SHIPPED, **{field: part})


def _mutant(rule: str, kind: type, schedule: Schedule | None = None, *, behind: tuple[type, ...] = ()) -> Mutant:
    drops = (kind.__doc__ or "").strip()
    return Mutant(kind.__name__, rule, drops, _part(kind), schedule, tuple(each.__name__ for each in behind))


def _other(name: str, rule: str, drops: str | Callable[..., object], parts: Parts, schedule: Schedule | None = None) -> Mutant:
    return Mutant(name, rule, drops if isinstance(drops, str) else (drops.__doc__ or "").strip(), parts, schedule)


LOCKED = Scenario(
    keys=("a", "suppliers/a"),
    hosts=("one", "two"),
    clients=4,
    duration_s=4.0,
    think_s=0.02,
    deeds=("lock_suppliers",),
    deed_pause_s=0.1,
    redis_rate=0.0,
    postgres_rate=0.0,
    config=cache_config(
        audit_interval_ms=150, audit_page_rows=1_000, fence_ttl_ms=400, fence_ttl_max_ms=400, settle_poll_ms=20
    ),
    publish_rate=0.6,
)
"""Two namespaces, one of which is locked again and again, while publishes are lost."""
UNAUDITED = replace(LOCKED, deeds=("claim_suppliers",))
"""Two namespaces, one of which nobody audits at times, while publishes are lost."""
CROWDED = replace(LOCKED, keys=("a",), deeds=(), duration_s=2.0, think_s=0.005, publish_rate=0.0)
"""Everybody reads and writes one key, and nothing fails."""

MUTANTS = [
    _mutant("R1", redis.ReadsAnyServersFence, takeovers.server_restarts_from_a_snapshot),
    _mutant("R1", redis.FenceForEver, traffic.publish_is_lost),
    _mutant("R1", cache.TrustsWithoutFence, traffic.publish_is_lost),
    _mutant("R1", cache.TrustsAnyEpoch, traffic.slot_of_an_epoch_that_ended, behind=(redis.KeepsIncarnation,)),
    _mutant("R1", cache.TrustsAnyIncarnation, takeovers.server_takes_over_old_data_without_a_watermark),
    _mutant("R2", redis.AnyToken, traffic.fill_arrives_on_another_readers_lease),
    _mutant("R2", ports.LeasesAfterLoad, traffic.lease_waits_for_a_write),
    _mutant("R2", ports.SendsTokenTwice, traffic.lease_is_repeated),
    _mutant("R2", ports.UsesDoubtfulToken, traffic.lease_arrives_late),
    _mutant("R3", redis.StoresAnyVersion, traffic.publishes_arrive_in_the_other_order),
    _mutant("R3", redis.StoresOnEmpty, traffic.publish_arrives_after_an_eviction),
    _mutant("R3", redis.KeepsForeignLease, traffic.fill_arrives_after_a_write),
    _mutant("R3", redis.DeletionSparesLeases, traffic.fill_arrives_after_a_deletion),
    _mutant("R4", cache.AroundAnswersAtOnce, traffic.write_goes_around_the_slot),
    _mutant(
        "R3",
        redis.IgnoresEpochOfSlot,
        traffic.publish_onto_a_slot_of_an_epoch_that_ended,
        behind=(redis.KeepsIncarnation, cache.TrustsAnyEpoch),
    ),
    _mutant(
        "R3",
        redis.TrustsWithoutWatermark,
        takeovers.writer_meets_the_new_server_first,
        behind=(redis.ProvesWithoutFence,),
    ),
    _mutant("R3", redis.ProvesWithoutFence, takeovers.writer_stays_on_another_server),
    _mutant("R3", ports.TakesErrorForProof, traffic.publish_is_lost),
    _mutant("R4", cache.AcknowledgesAtOnce, traffic.publish_is_lost),
    _mutant("R4", ports.AnyAuditSettles, audits.audit_under_way_during_a_commit),
    _mutant("R4", postgres.IgnoresEpochOfAudit, takeovers.dump_is_restored_under_a_live_fence),
    _mutant("R4", ports.AdoptsWithoutTime, takeovers.dump_is_restored_under_a_live_fence),
    _other(
        "ShortPatience", "R4", short_patience, replace(SHIPPED, config=short_patience), traffic.settling_without_the_database
    ),
    _mutant("R5", audit.ReconnectsEachTime, takeovers.cycle_moves_to_another_server),
    _mutant(
        "R5",
        audit.ReconnectsSource,
        takeovers.session_is_replaced_in_a_promotion,
        behind=(postgres.AssumesNothing, history.TakesAnySnapshot),
    ),
    _mutant(
        "R5.3",
        history.TakesAnySnapshot,
        takeovers.session_is_replaced_in_a_promotion,
        behind=(postgres.AssumesNothing, audit.ReconnectsSource),
    ),
    _mutant("G3", cache.ListsErrorsOfTheStore),
    _mutant("R5", history.EndsOnUnlistedErrors),
    _mutant("R1", history.CountsAnyEpoch, worlds.old_primary_vouches_for_its_history),
    _mutant("P1", history.OldPrimaryGoesOn, worlds.old_primary_is_told),
    _mutant(
        "R1",
        history.LateAnswerCounts,
        worlds.answer_from_the_old_primary_comes_late,
        behind=(history.OldPrimaryGoesOn,),
    ),
    _other(
        "CountsAnyDatabase",
        "R1",
        "A reader counts a fence of another database.",
        replace(SHIPPED, history=history.CountsAnyEpoch),
        worlds.two_databases_share_a_server,
    ),
    _mutant("P1", audit.TakesFenceBeforeMark, worlds.old_auditor_meets_half_a_mark),
    _mutant("T4", postgres.IgnoresRival, worlds.another_namespace_is_used),
    _mutant("T4", postgres.LooksForRivalTooEarly, worlds.two_namespaces_announce_at_once),
    _mutant("R4", ports.SettlesOwnRow, worlds.newcomer_settles),
    _mutant("R5.2", audit.SnapshotsFirst, audits.commit_between_snapshot_and_announcement),
    _mutant("R5.2", audit.AnnouncesNothing, traffic.publish_is_lost),
    _mutant("R5.2", postgres.AnnouncesWithoutGreatest, audits.shorter_fence_is_announced),
    _mutant("R5.2", postgres.TakesOverAtOnce, takeovers.audit_meets_the_new_server_first),
    _mutant("R5.2", postgres.AssumesNothing, takeovers.dump_is_restored_under_a_live_fence),
    _mutant("R5.2", postgres.AssumesSameServer, takeovers.dump_names_the_new_server),
    _mutant("R5.2", postgres.AssumesShortFence, takeovers.short_audit_begins_after_a_restore),
    _mutant("R5.3", postgres.WatermarkAtNextXid, audits.transaction_open_across_an_audit),
    _mutant("R5.3", postgres.ChangedAfterWatermark, audits.transaction_open_across_an_audit),
    _mutant("R5.4", redis.AuditKeepsLeases, audits.lease_outlives_the_audit),
    _mutant("R5.4", redis.AuditKeepsOlder, audits.transaction_open_across_an_audit),
    _mutant("R5.4", audit.VerifiesNothing, audits.transaction_open_across_an_audit),
    _mutant("R5.5", redis.RelativeExpiry, audits.audit_sets_its_fence_late),
    _mutant("R5.5", redis.TrustsAfterTakeover, takeovers.server_takes_over_old_data),
    _mutant(
        "R5.5",
        redis.TrustsMovedWatermark,
        takeovers.server_takes_over_old_data_without_a_watermark,
        behind=(redis.TrustsAfterTakeover,),
    ),
    _mutant("R5.5", redis.LateLeavesNothing, audits.cycle_outlasts_its_fence),
    _mutant("R5.5", redis.LateAfterTakeover, takeovers.server_takes_over_old_data_under_a_late_cycle),
    _mutant("R5.6", audit.CompletesFirst, audits.cycle_is_held_up_before_it_compares),
    _mutant("R5.6", postgres.CompletesInAnyHistory, takeovers.dump_is_restored_before_a_cycle_completes),
    _mutant("R5.1", redis.CountsAnyWatermark, takeovers.keys_are_copied_one_by_one),
    _mutant("R6", redis.KeepsIncarnation, takeovers.server_takes_over_old_data_without_a_watermark),
    _mutant("R6", redis.ReplacesOtherIncarnation, audits.publish_arrives_after_a_clean_start),
    _mutant("R6", redis.FillsOnVoidLease, audits.fill_arrives_after_a_clean_start),
    _mutant(
        "R6",
        redis.LeasesWithoutWatermark,
        audits.reader_misses_without_a_watermark,
        behind=(redis.FillsOnVoidLease,),
    ),
    _mutant("R7", cache.JoinsLoadUnderWay, traffic.load_under_way_during_a_write),
    replace(_mutant("R7", cache.JoinsReadUnderWay, traffic.read_under_way_during_a_write), scenario=CROWDED),
    _mutant("R1", cache.KeepsReadings, traffic.absence_is_handed_on_before_a_write),
    _other(
        "ReplayPublishesNothing",
        "R10",
        REPLAY,
        replace(SHIPPED, replayed=publish_nothing),
        traffic.writer_dies_before_its_publish,
    ),
    _other(
        "UnchangedPublishesNothing",
        "R10",
        UNCHANGED,
        replace(SHIPPED, unchanged=publish_nothing),
        traffic.another_writes_the_same,
    ),
    _mutant("Epoch", postgres.SameEpochForEver),
    replace(_mutant("R5", shared.SharedFence), scenario=UNAUDITED),
    replace(_mutant("R5.6", shared.FailingNamespaceCompletes), scenario=LOCKED),
    _mutant("G5", cache.SendsLoadsApart),
    _other("UnknownIsSuccess", "G2", UNKNOWN_IS_SUCCESS, replace(SHIPPED, unknown_is_success=True)),
]
ALSO_CAUGHT_ON: dict[Schedule, str] = {
    traffic.write_arrives_after_a_deletion: "StoresAnyVersion",
    traffic.deletion_arrives_after_a_creation: "StoresAnyVersion",
    traffic.refresh_arrives_after_a_write: "StoresAnyVersion",
    traffic.publish_arrives_on_its_own_lease: "KeepsForeignLease",
    traffic.absence_arrives_after_a_creation: "KeepsForeignLease",
}
"""Further schedules, and the mutant that each catches."""

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}

SEEDS = range(1, 121)
"""Within which chance catches every mutant that has no schedule."""


def hunt(mutant: Mutant, seeds: range) -> tuple[int, str] | None:
    """The first seed whose history shows a violation with this guard off, and the violation; ``None`` if none does."""
    for seed in seeds:
        outcome = simulate(seed, mutant.parts, scenario=mutant.scenario)
        if outcome.bad:
            return seed, outcome.first()
    return None


def main() -> int:
    """Hunt by chance for mutants (all, or those named) and print a row for each; 1 if one survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="mutants to hunt for; all when left out")
    parser.add_argument("--seeds", type=int, default=2_000, help="seeds to try for each")
    parser.add_argument("--start", type=int, default=1, help="the first seed")
    arguments = parser.parse_args()
    survived = 0
    for mutant in MUTANTS:
        if arguments.names and mutant.name not in arguments.names:
            continue
        found = hunt(mutant, range(arguments.start, arguments.start + arguments.seeds))
        survived += found is None
        row = f"| {mutant.name} | {mutant.rule} | {found[0] if found else 'survived'} | {found[1] if found else ''} |"
        print(row, flush=True)  # noqa: T201 - a command's answer is what it prints
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
