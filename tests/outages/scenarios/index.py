"""All scenarios by name."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.outages.scenarios import (
    copied_keys,
    held_rows,
    ledger_locked,
    missing_trigger,
    namespace_roll,
    one_without_postgres,
    redis_killed,
    reset,
    revoked_keys,
    rolling_deploy,
    split_brain,
    two_databases,
    two_namespaces,
    two_redis,
)
from tests.outages.scenarios.report import Report


@dataclass(frozen=True, slots=True)
class Scenario:
    """``run`` does it in an empty directory, for about ``seconds`` under load, and reports; ``short_s``: in the suite."""

    text: str
    run: Callable[[Path, float, Report], Awaitable[None]]
    seconds: float
    short_s: float


SCENARIOS: Mapping[str, Scenario] = {
    "split-brain": Scenario("a standby is promoted while one instance still reaches the old primary", split_brain.run, 60, 6),
    "two-databases": Scenario("two databases of one server, one Redis", two_databases.run_on_one_server, 60, 3),
    "two-clusters": Scenario("two databases of two servers, one Redis", two_databases.run_on_two_servers, 60, 3),
    "two-namespaces": Scenario("one database, two cache namespaces", two_namespaces.run, 30, 3),
    "namespace-roll": Scenario("a rolling deploy to another cache namespace", namespace_roll.run, 60, 6),
    "copied-keys": Scenario("keys are copied one by one to another Redis, which is used then", copied_keys.run, 60, 4),
    "two-redis": Scenario("one database, two Redis servers", two_redis.run, 60, 4),
    "one-without-postgres": Scenario("PostgreSQL refuses one of three", one_without_postgres.run_refused, 30, 5),
    "one-hanging-postgres": Scenario("PostgreSQL hangs for one of three", one_without_postgres.run_hanging, 30, 5),
    "held-rows": Scenario("a transaction holds 20 of 400 rows", held_rows.run, 30, 5),
    "ledger-locked": Scenario("the ledger's table is locked, with 40 readers of it", ledger_locked.run, 30, 4),
    "redis-killed": Scenario("Redis is killed for 5 s and comes back empty", redis_killed.run, 60, 8),
    "reset": Scenario("RST on all idle connections", reset.run, 30, 3),
    "rolling-deploy": Scenario("the next release adds a member to a product", rolling_deploy.run, 60, 6),
    "reservations-begin": Scenario(
        "this release is deployed over one without reservations", rolling_deploy.run_reservations, 60, 9
    ),
    "revoked-keys": Scenario("keys are revoked 100 at a time under load", revoked_keys.run, 40, 8),
    "missing-trigger": Scenario("a trigger of products is dropped", missing_trigger.run, 10, 3),
}
