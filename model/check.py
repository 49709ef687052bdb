"""Run every configuration of larder.pml, worlds.pml, tables.pml, feed.pml and holds.pml through Spin and judge it.

Sound configurations must be searched to the end without an error.  Mutants (a rule dropped), holes (a rule as it was first
written) and goals (something that must be reachable) must each end in an assertion violation.  No bitstate hashing, no depth
bound: a search that Spin did not finish counts as a failure.

    python3 model/check.py                 everything, two at a time
    python3 model/check.py NAME...         only these
    python3 model/check.py --trail NAME    the shortest schedule to the violation, in words
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

MODEL = Path(__file__).with_name("larder.pml")
WORLDS = Path(__file__).with_name("worlds.pml")
TABLES = Path(__file__).with_name("tables.pml")
FEED = Path(__file__).with_name("feed.pml")
HOLDS = Path(__file__).with_name("holds.pml")
PARALLEL = 2
MEMORY_LIMIT_MB = 3500  # of each search
SEARCH_LIMIT_S = 200
SEARCH_DEPTH = 100_000  # of the stack; reaching it is reported as a failure

CONFIGURATIONS = {
    "race": "WRITERS=2 LOADERS=2 EVICT UNCHANGED",
    "handed-on": "WRITERS=2 LOADERS=1 EVICT UNCHANGED HANDED_ON",
    "handed-on-restart": "WRITERS=1 LOADERS=1 AUDITORS=1 CYCLES=2 RESTART=1 HANDED_ON",
    "settle": "WRITERS=2 LOADERS=1 AUDITORS=1 CYCLES=2 UNCHANGED",
    "overlap": "WRITERS=1 LOADERS=0 AUDITORS=2 CYCLES=3 TTL=2",
    "ttl-change": "WRITERS=1 LOADERS=0 AUDITORS=2 CYCLES=2 TTL=1 TTL_MAX=2",
    "open-xids": "WRITERS=2 LOADERS=0 AUDITORS=1 CYCLES=2 OPEN_XIDS",
    "cold": "WRITERS=1 LOADERS=1 AUDITORS=2 CYCLES=3 COLD STILL",
    "lost-trust": "WRITERS=1 LOADERS=1 AUDITORS=1 CYCLES=2 EVICT_FENCE EVICT_WATERMARK",
    "lost-trust-writers": "WRITERS=2 LOADERS=0 AUDITORS=1 CYCLES=1 EVICT_WATERMARK",
    "copies": "WRITERS=1 LOADERS=1 AUDITORS=1 CYCLES=2 NODES=2 COPIES=2",
    "copies-writers": "WRITERS=2 LOADERS=0 AUDITORS=1 CYCLES=1 NODES=2 COPIES=2",
    "moves": "WRITERS=1 LOADERS=0 AUDITORS=1 CYCLES=2 NODES=2 MOVES=2 LEFT=1",
    "moves-fill": "WRITERS=1 LOADERS=1 AUDITORS=1 CYCLES=1 NODES=2 MOVES=1 LEFT=1",
    "moves-writers": "WRITERS=2 LOADERS=0 AUDITORS=1 CYCLES=1 NODES=2 MOVES=1 LEFT=1",
    "moves-eviction": "WRITERS=1 LOADERS=0 AUDITORS=1 CYCLES=1 NODES=2 MOVES=2 LEFT=1 EVICT",
    "moves-unaware": "WRITERS=1 LOADERS=0 AUDITORS=1 CYCLES=1 NODES=2 MOVES=2 LEFT=1 UNAWARE",
    "late": "WRITERS=1 LOADERS=1 AUDITORS=1 CYCLES=3 COLD EVICT_WATERMARK",
    "late-overlap": "WRITERS=1 LOADERS=0 AUDITORS=2 CYCLES=3 COLD EVICT_WATERMARK",
    "late-fill-overlap": "WRITERS=1 LOADERS=1 AUDITORS=2 CYCLES=2 COLD EVICT_WATERMARK",
    "late-restart": "WRITERS=1 LOADERS=1 AUDITORS=1 CYCLES=2 RESTART=1 EVICT_WATERMARK",
    "late-failover": "WRITERS=1 LOADERS=1 AUDITORS=1 CYCLES=2 NODES=2 FAILOVER EVICT_WATERMARK",
    "late-failover-overlap": "WRITERS=1 LOADERS=0 AUDITORS=2 CYCLES=2 NODES=2 FAILOVER COLD",
    "late-reset": "WRITERS=1 LOADERS=0 AUDITORS=2 CYCLES=2 TRUNCATE EVICT_WATERMARK ADOPT",
    "restart": "WRITERS=1 LOADERS=1 AUDITORS=1 CYCLES=2 RESTART=1",
    "failover": "WRITERS=1 LOADERS=1 AUDITORS=1 CYCLES=2 NODES=2 FAILOVER",
    "failover-overlap": "WRITERS=1 LOADERS=0 AUDITORS=2 CYCLES=2 NODES=2 FAILOVER",
    "reset": "WRITERS=1 LOADERS=1 AUDITORS=1 CYCLES=2 TRUNCATE RESTORE PROMOTION ADOPT",
    "reset-wait": "WRITERS=1 LOADERS=0 AUDITORS=2 CYCLES=2 TRUNCATE RESTORE",
    "reset-writers": "WRITERS=2 LOADERS=0 AUDITORS=1 CYCLES=1 TRUNCATE ADOPT",
    "restore-overlap": "WRITERS=1 LOADERS=0 AUDITORS=2 CYCLES=2 RESTORE ADOPT",
    "promotion-overlap": "WRITERS=1 LOADERS=0 AUDITORS=2 CYCLES=2 PROMOTION ADOPT",
    "reset-failover": "WRITERS=1 LOADERS=0 AUDITORS=1 CYCLES=2 NODES=2 FAILOVER RESTORE PROMOTION ADOPT",
    "restore-ttl-change": "WRITERS=1 LOADERS=0 AUDITORS=1 CYCLES=2 TTL=1 TTL_MAX=2 RESTORE",
    "aside-race": "WRITERS=2 LOADERS=2 EVICT UNCHANGED ASIDE",
    "aside-alone": "WRITERS=2 LOADERS=2 EVICT UNCHANGED ASIDE_ALONE",
    "aside-settle": "WRITERS=2 LOADERS=1 AUDITORS=1 CYCLES=2 UNCHANGED ASIDE",
    "aside-lost-trust": "WRITERS=1 LOADERS=1 AUDITORS=1 CYCLES=2 EVICT_FENCE EVICT_WATERMARK ASIDE_ALONE",
    "aside-restart": "WRITERS=1 LOADERS=1 AUDITORS=1 CYCLES=2 RESTART=1 ASIDE_ALONE",
    "aside-failover": "WRITERS=1 LOADERS=1 AUDITORS=1 CYCLES=2 NODES=2 FAILOVER ASIDE_ALONE",
    "aside-failover-overlap": "WRITERS=1 LOADERS=0 AUDITORS=2 CYCLES=2 NODES=2 FAILOVER ASIDE_ALONE",
    "aside-reset": "WRITERS=1 LOADERS=1 AUDITORS=1 CYCLES=2 TRUNCATE RESTORE PROMOTION ADOPT ASIDE_ALONE",
    "aside-reset-writers": "WRITERS=2 LOADERS=0 AUDITORS=1 CYCLES=1 TRUNCATE ADOPT ASIDE",
    # A clause whose loss the other rules make good; docs/PROOF.md says which.
    "spare-entry-epoch": "WRITERS=2 LOADERS=0 AUDITORS=1 CYCLES=1 TRUNCATE ADOPT M_NO_EPOCH_IN_ENTRIES",
    "spare-audit-identity": "WRITERS=1 LOADERS=1 AUDITORS=1 CYCLES=2 NODES=2 FAILOVER H_AUDIT_OUTLIVES_DEMOTION",
}

# Of worlds.pml.
WORLD_CONFIGURATIONS = {
    "two-primaries": "PRIMARIES OLD_LOADER",
    "two-primaries-pooler": "PRIMARIES POOLER OLD_LOADER",
    "two-primaries-late-answer": "PRIMARIES HASHED ANSWERS",
    "two-primaries-old-writer": "PRIMARIES OLD_WRITER CYCLES=1",
    "two-primaries-eviction": "PRIMARIES EVICT_WATERMARK CYCLES=1",
    "two-databases": "DATABASES OLD_WRITER CYCLES=1",
    "finish": "FINISH OLD_WRITER",
    "finish-loaders": "FINISH OLD_LOADER NEW_LOADER CYCLES=1",
    "two-namespaces": "NAMESPACES=2",
}

# Of tables.pml.
TABLE_CONFIGURATIONS = {
    "two-tables": "CYCLES=2",
    "two-tables-apart": "CYCLES=2 AUDITORS=2 APART",
    "two-tables-writers": "CYCLES=1 SECOND_WRITER",
    "two-tables-fill": "CYCLES=1 EVICT LOADER",
    "two-tables-late": "CYCLES=1 EVICT_WATERMARK LOADER",
    "two-tables-lost-trust": "CYCLES=1 EVICT_FENCE",
}

# Of feed.pml.
FEED_CONFIGURATIONS = {
    "feed": "CYCLES=2",
    "feed-overlap": "CYCLES=2 AUDITORS=2 ONE_WRITER",
    "feed-ttl": "CYCLES=2 TTL=2 ONE_WRITER",
}

# Of holds.pml.
HOLD_CONFIGURATIONS = {
    "holds": "NAMED=2 NEEDERS=1 BACK",
    "holds-needed": "NAMED=1 NEEDERS=2 BACK",
    "holds-swept": "NEEDERS=3 BACK",
    "holds-finish": "FINISH NEEDERS=2",
}

# name: (configuration, what is dropped or asked for)
MUTANTS = {
    "version-compare": ("race", "M_NO_VERSION_COMPARE"),
    "nothing-on-empty": ("race", "M_STORE_ON_EMPTY"),
    "delete-foreign-lease": ("race", "M_KEEP_FOREIGN_LEASE"),
    "lease-on-fill": ("race", "M_FILL_WITHOUT_LEASE"),
    "token-sent-once": ("race", "M_TOKEN_SENT_TWICE"),
    "token-ok-before-use": ("race", "M_LEASE_AFTER_LOAD"),
    "reading-of-its-request": ("handed-on", "M_READING_OF_AN_EARLIER_REQUEST"),
    "share-not-started": ("race", "M_SHARE_RUNNING_LOAD"),
    "every-answer": ("race", "M_ANSWER_WITHOUT_PUBLISH"),
    "settle-at-all": ("settle", "M_NO_SETTLE"),
    "settle-next-audit": ("settle", "M_SETTLE_ON_RUNNING_AUDIT"),
    "absolute-expiry": ("overlap", "M_RELATIVE_EXPIRY"),
    "announce-greatest": ("ttl-change", "M_ANNOUNCE_WITHOUT_GREATEST"),
    "announce-before-snapshot": ("overlap", "M_SNAPSHOT_BEFORE_ANNOUNCE"),
    "new-incarnation": ("lost-trust", "M_SAME_INCARNATION"),
    "slot-of-the-fence": ("lost-trust", "M_ANY_INCARNATION"),
    "replace-other-incarnation": ("lost-trust-writers", "M_REPLACE_OTHER_INCARNATION"),
    "lease-without-incarnation": ("lost-trust", "M_LEASE_WITHOUT_INCARNATION"),
    "watermark-anywhere": ("copies", "M_WATERMARK_ANYWHERE"),
    "watermark-anywhere-in-a-cluster": ("moves", "M_WATERMARK_ANYWHERE"),
    "identity-without-epoch": ("moves", "M_IDENTITY_WITHOUT_EPOCH"),
    "fence-per-node": ("moves", "M_FENCE_PER_NODE"),
    "watermark-is-xmin": ("open-xids", "M_WATERMARK_IS_LAST_XID"),
    "server-in-fence": ("restart", "M_NO_SERVER"),
    "server-is-not-run-id": ("failover", "M_RUN_ID_ONLY"),
    "live-fence-at-publish": ("failover", "M_ACK_WITHOUT_FENCE"),
    "other-until": ("reset-failover", "M_NO_OTHER_UNTIL"),
    "incumbent": ("failover", "M_TAKE_OVER"),
    "one-redis-connection": ("restart", "M_REDIS_RECONNECTS"),
    "one-postgres-session": ("promotion-overlap", "M_POSTGRES_RECONNECTS H_COMPLETE_ANY_ROW"),
    "epoch": ("reset-writers", "M_NO_EPOCH"),
    "watermark-at-publish": ("reset-writers", "M_PUBLISH_WITHOUT_WATERMARK"),
    "watermark-as-read": ("reset-wait", "M_WATERMARK_UNCONDITIONAL"),
    "lease-deleted-by-audit": ("restart", "M_AUDIT_KEEPS_LEASES"),
    "settle-row-epoch": ("reset-wait", "M_SETTLE_ON_ANY_EPOCH"),
    "late-identity": ("failover", "M_LATE_ON_ANY_SERVER"),
    "deletion-deletes-lease": ("aside-race", "M_DELETION_SPARES_LEASE"),
    "deletion-deletes-lease-alone": ("aside-alone", "M_DELETION_SPARES_LEASE"),
    "aside-lease-on-fill": ("aside-alone", "M_FILL_WITHOUT_LEASE"),
    "aside-token-ok-before-use": ("aside-alone", "M_LEASE_AFTER_LOAD"),
    "deletion-after-commit": ("aside-alone", "M_DELETE_BEFORE_COMMIT"),
    "aside-live-fence-at-publish": ("aside-failover", "M_ACK_WITHOUT_FENCE"),
    "aside-settle-at-all": ("aside-settle", "M_NO_SETTLE"),
    "hole-complete-any-row": ("restore-overlap", "H_COMPLETE_ANY_ROW"),
    "hole-announce-trusts-row": ("reset-failover", "H_ANNOUNCE_TRUSTS_ROW"),
    "hole-announce-short-ttl": ("restore-ttl-change", "H_ANNOUNCE_TRUSTS_ROW"),
    "hole-adopt-trusts-row": ("reset-failover", "H_ADOPT_TRUSTS_ROW"),
    "hole-reader-outlives-demotion": ("failover", "H_CONNECTIONS_OUTLIVE_DEMOTION"),
    "hole-truncate-after-snapshot": ("reset", "H_TRUNCATE_AFTER_SNAPSHOT"),
    "hole-old-fence-in-new-epoch": ("reset", "H_OLD_FENCE_STAYS"),
    "goal-acknowledged-by-audit": ("settle", "GOAL=1"),
    "goal-adopted-then-audited": ("reset", "GOAL=2"),
    "goal-acknowledged-by-time": ("settle", "GOAL=3"),
    "goal-late-publish-stores": ("race", "GOAL=4"),
    "goal-trusted-fill": ("race", "GOAL=5"),
    "goal-trust-after-clean-start": ("cold", "GOAL=6"),
    "goal-warm-after-failover": ("failover", "GOAL=9"),
    "goal-trust-beside-copies": ("copies", "GOAL=7"),
    "goal-fence-on-new-master": ("failover", "GOAL=7"),
    "goal-fence-after-late-watermark": ("late", "GOAL=8"),
}


WORLD_MUTANTS = {
    "own-epoch": ("two-primaries", "M_ANY_EPOCH"),
    "own-epoch-two-databases": ("two-databases", "M_ANY_EPOCH"),
    "old-primary-goes-on": ("two-primaries", "M_OLD_PRIMARY_GOES_ON"),
    "mark": ("two-primaries", "M_DISTRUST_DELETES"),
    "late-answer-counts": ("two-primaries-late-answer", "M_LATE_ANSWER_COUNTS"),
    "snapshot-epoch-unchecked": ("two-primaries-pooler", "M_SNAPSHOT_EPOCH_UNCHECKED"),
    "schema-in-epoch": ("finish", "M_SCHEMA_NOT_IN_EPOCH"),
    "old-release-loads": ("finish-loaders", "M_OLD_RELEASE_LOADS"),
    "other-namespace-unseen": ("two-namespaces", "M_OTHER_NAMESPACE_UNSEEN"),
    "other-namespace-seen-too-early": ("two-namespaces", "M_OTHER_NAMESPACE_SEEN_TOO_EARLY"),
    "settle-own-row": ("two-namespaces", "M_SETTLE_OWN_ROW"),
    "hole-fence-then-mark": ("two-primaries", "H_FENCE_THEN_MARK"),
    "goal-new-primary-trusted": ("two-primaries", "GOAL=1"),
    "goal-old-primary-deposed": ("two-primaries", "GOAL=2"),
    "goal-trust-handed-over": ("two-namespaces", "GOAL=3"),
    "goal-late-publish-after-finish": ("finish", "GOAL=4"),
}

TABLE_MUTANTS = {
    "shared-fence": ("two-tables", "M_SHARED_FENCE"),
    "shared-watermark": ("two-tables", "M_SHARED_WATERMARK"),
    "shared-audit-row": ("two-tables", "M_SHARED_ROW"),
    "one-of-two-proven": ("two-tables", "M_ONE_OF_TWO"),
    "failing-table-completes": ("two-tables", "M_FAILING_COMPLETES"),
    "goal-one-table-settles": ("two-tables", "GOAL=1"),
    "goal-both-tables-settled-by-audit": ("two-tables", "GOAL=2"),
    "goal-one-table-goes-on": ("two-tables", "GOAL=3"),
    "goal-table-goes-on-alone": ("two-tables", "GOAL=4"),
}

FEED_MUTANTS = {
    "mark-from-poll": ("feed", "M_MARK_FROM_POLL"),
    "mark-from-snapshot": ("feed", "M_MARK_FROM_SNAPSHOT"),
    "mark-not-beyond": ("feed", "M_MARK_NOT_BEYOND"),
    "window-by-xmin": ("feed", "M_WINDOW_BY_XMIN"),
    "goal-told-after-audit": ("feed", "GOAL=1"),
    "goal-told-without-redis": ("feed", "GOAL=2"),
    "goal-two-windows-at-once": ("feed", "GOAL=3"),
}

HOLD_MUTANTS = {
    "moment-after-locks": ("holds", "M_MOMENT_BEFORE_LOCKS"),
    "lines-after-locks": ("holds", "M_LINES_BEFORE_LOCKS"),
    "locks-of-all-lines": ("holds", "M_LOCKS_LINES_OF_REQUEST"),
    "closed-line-ends-its-hold": ("holds", "M_LEAVES_RESERVATION_HELD"),
    "closed-before-refused": ("holds", "M_REFUSES_WITHOUT_CLOSING"),
    "committed-before-refused": ("holds", "M_REFUSES_BEFORE_COMMIT"),
    "named-is-closed-first": ("holds", "M_NEVER_CLOSES_NAMED"),
    "moment-not-before-sweep": ("holds-swept", "M_BELIEVES_THE_CLOCK"),
    "swept-to-first-open-line": ("holds-needed", "M_SWEEPS_PAST_OPEN_LINES"),
    "looks-at-ended": ("holds-needed", "M_NEVER_LOOKS_AT_ENDED"),
    "looks-after-others": ("holds-needed", "M_LOOKS_BEFORE_OTHERS"),
    "old-release-sells": ("holds-finish", "M_OLD_RELEASE_SELLS"),
    "asks-after-changes": ("holds-finish", "M_ASKS_BEFORE_LOCKS"),
    "finish-waits-for-locks": ("holds-finish", "M_FINISH_WITHOUT_LOCK"),
    "goal-rest-of-a-hold-ends": ("holds", "GOAL=1"),
    "goal-units-end-twice": ("holds-needed", "GOAL=2"),
    "goal-hold-after-old-sale": ("holds-finish", "GOAL=3"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One search: its flags for the model, and whether it must end in a violation."""

    name: str
    flags: tuple[str, ...]
    must_fail: bool
    model: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What Spin found, in how many states and seconds (compiling included)."""

    case: Case
    states: int
    seconds: float
    verdict: str
    passed: bool


def all_cases() -> list[Case]:
    """Every search, the sound ones (longest) first."""
    models = (
        (MODEL, CONFIGURATIONS, MUTANTS),
        (WORLDS, WORLD_CONFIGURATIONS, WORLD_MUTANTS),
        (TABLES, TABLE_CONFIGURATIONS, TABLE_MUTANTS),
        (FEED, FEED_CONFIGURATIONS, FEED_MUTANTS),
        (HOLDS, HOLD_CONFIGURATIONS, HOLD_MUTANTS),
    )
    sound = [
        Case(name, tuple(flags.split()), must_fail=False, model=model)
        for model, configurations, _ in models
        for name, flags in configurations.items()
    ]
    broken = [
        Case(name, (*configurations[base].split(), *flags.split()), must_fail=True, model=model)
        for model, configurations, mutants in models
        for name, (base, flags) in mutants.items()
    ]
    return sound + broken


def compile_search(case: Case, folder: Path, *options: str) -> None:
    """Make the executable `pan` for a case in its own folder."""
    shutil.copy(case.model, folder)
    defines = [f"-D{flag}" for flag in case.flags]
    optimize = "-O0" if case.must_fail else "-O2"  # most mutants fall within a second: compiling is their cost
    for command in (
        ["spin", "-a", *defines, case.model.name],
        ["gcc", "-w", optimize, "-DSAFETY", f"-DMEMLIM={MEMORY_LIMIT_MB}", *options, "-o", "pan", "pan.c"],
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{case.name}: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def judge(case: Case, output: str) -> tuple[int, str, bool]:
    """States, verdict in words, and whether it is the wanted one."""
    found = re.search(r"errors: (\d+)\s+(\d+) states, stored", output)
    if found is None:
        return 0, "no result: out of time or memory", False
    errors, states = int(found[1]), int(found[2])
    if errors:
        kind = "caught" if case.must_fail else "VIOLATION"
        return states, kind, case.must_fail and "assertion violated" in output
    if re.search(r"max search depth too small|Search not completed|hash-compact|Bit statespace", output):
        return states, "NOT EXHAUSTED", False
    return states, "NOT CAUGHT" if case.must_fail else "exhausted, no error", not case.must_fail


def search(case: Case) -> Outcome:
    """Compile and run one search to its end or to its first violation."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="larder-model-") as name:
        folder = Path(name)
        compile_search(case, folder)
        try:
            done = subprocess.run(
                ["./pan", "-E", "-n", f"-m{SEARCH_DEPTH}", "-w23"],
                cwd=folder, capture_output=True, text=True, check=False, timeout=SEARCH_LIMIT_S,
            )  # fmt: skip
            states, verdict, passed = judge(case, done.stdout)
        except subprocess.TimeoutExpired:
            states, verdict, passed = 0, f"not finished in {SEARCH_LIMIT_S} s", False
    return Outcome(case, states, time.monotonic() - started, verdict, passed)


def print_trail(case: Case) -> int:
    """Print the shortest schedule that Spin's breadth-first search finds."""
    with tempfile.TemporaryDirectory(prefix="larder-model-") as name:
        folder = Path(name)
        compile_search(case, folder, "-DBFS")
        subprocess.run(["./pan", "-E", "-w23"], cwd=folder, capture_output=True, check=False, timeout=SEARCH_LIMIT_S)
        if not (folder / f"{case.model.name}.trail").exists():
            print(f"{case.name}: no violation")
            return 1
        defines = [f"-D{flag}" for flag in case.flags]
        told = subprocess.run(
            ["spin", "-t", *defines, case.model.name], cwd=folder, capture_output=True, text=True, check=False
        )
    steps = [line.strip() for line in told.stdout.splitlines() if re.match(r"\s+\S", line)]
    for line in steps:
        if line.startswith("#processes") or " = " in line:
            break
        print(line)
    return 0


def main() -> int:
    """Run the chosen searches; 0 only if each ended as it must."""
    parser = argparse.ArgumentParser(description="Check the model of the cache protocol with Spin.")
    parser.add_argument("names", nargs="*", help="searches to run (default: all)")
    parser.add_argument("--trail", action="store_true", help="print the shortest violating schedule of each")
    chosen = parser.parse_args()
    missing = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    if missing:
        print(
            f"The model was not checked: {' and '.join(missing)} not found. "
            "On Debian or Ubuntu: apt-get install spin gcc libc6-dev",
            file=sys.stderr,
        )
        return 2
    cases = {case.name: case for case in all_cases()}
    unknown = [name for name in chosen.names if name not in cases]
    if unknown:
        print(f"No such search: {', '.join(unknown)}. There are: {', '.join(cases)}", file=sys.stderr)
        return 2
    wanted = [cases[name] for name in chosen.names] or list(cases.values())
    if chosen.trail:
        return max(print_trail(case) for case in wanted)

    started = time.monotonic()
    print(f"{'search':32} {'states':>10} {'seconds':>8}  verdict")
    failed: list[str] = []
    with ThreadPoolExecutor(max_workers=min(PARALLEL, os.cpu_count() or 1)) as pool:
        for outcome in pool.map(search, wanted):
            print(f"{outcome.case.name:32} {outcome.states:>10,} {outcome.seconds:>8.1f}  {outcome.verdict}", flush=True)
            if not outcome.passed:
                failed.append(outcome.case.name)
    print(f"{len(wanted)} searches in {time.monotonic() - started:.0f} s; not as they must be: {failed or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
