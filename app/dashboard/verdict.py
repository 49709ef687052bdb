"""The state of the service in words: what is wrong, whether answers are still right, and what reads and writes do meanwhile."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum


class Trouble(StrEnum):
    """Something that keeps the service from working as it should, in the order in which it is named."""

    POSTGRESQL_AWAY = "postgresql-away"
    REDIS_AWAY = "redis-away"
    KEYS_UNREADABLE = "keys-unreadable"
    UNPROVEN = "unproven"
    WORKER_AWAY = "worker-away"
    OVERLOADED = "overloaded"


class Level(StrEnum):
    """How much of the service is affected."""

    WELL = "well"
    IMPAIRED = "impaired"
    """Everything is answered, or most of it; some of it slower."""
    DOWN = "down"
    """Reads, writes or both are refused."""


@dataclass(frozen=True, slots=True)
class State:
    """What was found out about the service at one moment."""

    postgresql_up: bool = True
    redis_up: bool = True
    proven: bool = True
    """Whether a live fence was read: the cache is known to have no slot older than its row."""
    cache_off: bool = False
    """Whether the operator has switched the cache off."""
    around: bool = False
    """Whether every write waits, because its policy is ``around``."""
    keys_readable: bool = True
    workers: int = 1
    """Workers that have reported within a second."""
    workers_wanted: int = 1
    overloaded: bool = False
    proof_age_s: float | None = None
    """Seconds since a worker last read under a live fence; ``None`` if none ever did."""
    fence_ttl_s: float = 2.0
    settle_s: float = 2.0
    """Longest life of a fence, for which a write may have to wait."""
    unverified_s: float = 0.0
    """How long after the last proof a cached product may be served with a flag while PostgreSQL is away."""

    @property
    def serves_unverified(self) -> bool:
        """Whether cached products may be served with a flag now."""
        recent = self.proof_age_s is not None and self.proof_age_s <= self.unverified_s and not self.cache_off
        return not self.postgresql_up and self.redis_up and not self.proven and recent


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state in words. ``sentence`` says everything; the other texts are its parts."""

    level: Level
    sentence: str
    answers: str
    """Whether answers are right."""
    reads: str
    writes: str
    refusals: str
    """Which requests are refused beyond that; empty if none are."""
    advice: str
    """What to do about the first trouble; empty if all is well."""


def troubles_of(state: State) -> list[Trouble]:
    """Return what is wrong, the worst first.

    A cache that is not proven is no trouble of its own while Redis or PostgreSQL is away, because that is the cause.
    """
    present = {
        Trouble.POSTGRESQL_AWAY: not state.postgresql_up,
        Trouble.REDIS_AWAY: not state.redis_up,
        Trouble.KEYS_UNREADABLE: not state.keys_readable,
        Trouble.UNPROVEN: state.postgresql_up and state.redis_up and not state.proven,
        Trouble.WORKER_AWAY: state.workers < state.workers_wanted,
        Trouble.OVERLOADED: state.overloaded,
    }
    return [trouble for trouble, here in present.items() if here]


def judge(state: State, since: Mapping[Trouble, float]) -> Verdict:
    """Return the state in words.

    Args:
        state: what was found out.
        since: when each trouble began, as Unix time.
    """
    troubles = troubles_of(state)
    answers, reads, writes = _answers(state), _reads(state), _writes(state)
    if not troubles:
        return Verdict(Level.WELL, f"All is well; {answers}; {_proof(state)}", answers, reads, writes, "", "")
    named = [f"{name_of(trouble, state)}{_since(since.get(trouble))}" for trouble in troubles]
    refusals = "; ".join(_REFUSALS[trouble] for trouble in troubles if trouble in _REFUSALS)
    as_usual = state.postgresql_up and state.redis_up and state.proven
    parts = filter(None, [*named, refusals, "" if as_usual else reads, answers, "" if as_usual else writes])
    refuses = not state.postgresql_up or not state.keys_readable
    level = Level.DOWN if refuses else Level.IMPAIRED
    return Verdict(level, "; ".join(parts), answers, reads, writes, refusals, ADVICE[troubles[0]])


def name_of(trouble: Trouble, state: State) -> str:
    """Return the name of a trouble, with the numbers that belong to it."""
    if trouble is Trouble.WORKER_AWAY:
        missing = state.workers_wanted - state.workers
        return f"{missing} of {state.workers_wanted} workers away"
    return _NAMES[trouble]


def clock_time(moment: float) -> str:
    """Return the time of day in UTC."""
    return datetime.fromtimestamp(moment, UTC).strftime("%H:%M:%S")


def _proof(state: State) -> str:
    if state.cache_off:
        return "the cache is switched off, and reads come from PostgreSQL"
    if state.proof_age_s is None:
        return "the cache is being proven current"
    age = "within the last second" if state.proof_age_s < 1 else f"{state.proof_age_s:.1f} s ago"
    return f"the cache was proven current {age}"


def _since(moment: float | None) -> str:
    return "" if moment is None else f" since {clock_time(moment)}"


def _answers(state: State) -> str:
    if state.serves_unverified:
        return "answers with the flag unverified may be old, and no other answer is stale"
    return "nothing is stale"


def _reads(state: State) -> str:
    if not state.postgresql_up:
        return _reads_without_postgresql(state)
    if not state.redis_up or not state.proven or state.cache_off:
        return "reads come from PostgreSQL"
    return "reads come from the cache"


def _reads_without_postgresql(state: State) -> str:
    if not state.redis_up or state.cache_off:
        return "reads fail with 503"
    if state.proven:
        return (
            f"cached products are served until their proof ends, at most {_seconds(state.fence_ttl_s)},"
            " and other reads fail with 503"
        )
    if state.serves_unverified:
        left_s = state.unverified_s - (state.proof_age_s or 0.0)
        return f"cached products are served with a flag for {_seconds(left_s)} more, and other reads fail with 503"
    return "reads fail with 503"


def _writes(state: State) -> str:
    if not state.postgresql_up:
        return "writes fail with 503"
    if not state.redis_up or not state.proven or state.around:
        return f"writes wait up to {_seconds(state.settle_s)}"
    return "writes do not wait"


def _seconds(duration: float) -> str:
    return f"{round(duration, 1):g} s"


_NAMES = {
    Trouble.POSTGRESQL_AWAY: "PostgreSQL away",
    Trouble.REDIS_AWAY: "Redis away",
    Trouble.KEYS_UNREADABLE: "Keys cannot be read",
    Trouble.UNPROVEN: "Cache not proven current",
    Trouble.OVERLOADED: "Overloaded",
}
_REFUSALS = {
    Trouble.KEYS_UNREADABLE: "requests whose key cannot be checked fail with 503",
    Trouble.WORKER_AWAY: "requests on its connections failed or hang, and the others serve",
    Trouble.OVERLOADED: "a part of the requests is refused with 503, lists and batches first",
}
ADVICE = {
    Trouble.POSTGRESQL_AWAY: (
        "Bring PostgreSQL back: its log, its disk, the network, and whether LARDER_DATABASE_URL leads to the primary."
        " Larder connects again by itself. Every write that was answered with success is in the database."
    ),
    Trouble.REDIS_AWAY: (
        "Look at the Redis server and the network to it. No data can be lost with it. Watch the load of PostgreSQL, which"
        " answers every read meanwhile. Larder connects again by itself."
    ),
    Trouble.KEYS_UNREADABLE: (
        "Keys are read from PostgreSQL every second, and from LARDER_KEYS_FILE if there is one. The log says which of them"
        " cannot be read, and why."
    ),
    Trouble.UNPROVEN: (
        "Audits do not finish, or another server or namespace is trusted. The log says why, and larder namespace list shows"
        " who is trusted."
    ),
    Trouble.WORKER_AWAY: (
        "A worker that died is replaced within seconds: nothing needs to be done. One that hangs keeps its connections: send it"
        " SIGKILL. The log has the exit status; -9 often means that memory was short."
    ),
    Trouble.OVERLOADED: "If it lasts for minutes, add a worker or an instance. The metrics count requests by client.",
}
"""What to do about each trouble."""
