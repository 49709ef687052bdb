"""The sentence that sums the service up, for every combination of what can be wrong."""

from itertools import product

import pytest

from app.dashboard.verdict import ADVICE, Level, State, Trouble, clock_time, judge, name_of, troubles_of

AT = 1_769_868_131.0  # 14:02:11 UTC


def state_with(*present: Trouble, proven: bool = True, unverified_s: float = 0.0, proof_age_s: float | None = 0.3) -> State:
    """A state with these troubles."""
    return State(
        postgresql_up=Trouble.POSTGRESQL_AWAY not in present,
        redis_up=Trouble.REDIS_AWAY not in present,
        proven=proven and Trouble.UNPROVEN not in present,
        keys_readable=Trouble.KEYS_UNREADABLE not in present,
        workers=1 if Trouble.WORKER_AWAY in present else 2,
        workers_wanted=2,
        overloaded=Trouble.OVERLOADED in present,
        proof_age_s=proof_age_s,
        unverified_s=unverified_s,
    )


EVERY = [
    tuple(trouble for trouble, here in zip(Trouble, chosen, strict=True) if here)
    for chosen in product((False, True), repeat=len(Trouble))
]


@pytest.mark.parametrize("unverified_s", [0.0, 60.0])
@pytest.mark.parametrize("proven", [True, False])
@pytest.mark.parametrize("present", EVERY, ids=lambda present: "+".join(present) or "well")
def test_every_combination_says_what_is_wrong_and_what_it_means(
    present: tuple[Trouble, ...],
    proven: bool,  # noqa: FBT001 - a parameter of the test
    unverified_s: float,
) -> None:
    """Each trouble is named with its beginning; the clauses about reads, answers and writes agree with what the cache does."""
    state = state_with(*present, proven=proven, unverified_s=unverified_s)
    troubles = troubles_of(state)
    verdict = judge(state, dict.fromkeys(troubles, AT))
    parts = verdict.sentence.split("; ")
    assert parts[: len(troubles)] == [f"{name_of(trouble, state)} since 14:02:11" for trouble in troubles] or not troubles
    assert (verdict.level is Level.WELL) == (not troubles) == parts[0].startswith("All is well")
    assert verdict.advice == (ADVICE[troubles[0]] if troubles else "")
    assert verdict.answers in parts
    assert ("503" in verdict.sentence) == bool(
        {Trouble.POSTGRESQL_AWAY, Trouble.KEYS_UNREADABLE, Trouble.OVERLOADED} & set(troubles)
    )
    refuses = {Trouble.POSTGRESQL_AWAY, Trouble.KEYS_UNREADABLE} & set(troubles)
    assert (verdict.level is Level.DOWN) == bool(refuses)
    if not state.postgresql_up:
        assert verdict.writes == "writes fail with 503"
        assert verdict.writes in parts
    elif not (state.redis_up and state.proven):
        assert (verdict.reads, verdict.writes) == ("reads come from PostgreSQL", "writes wait up to 2 s")
        assert {verdict.reads, verdict.writes} <= set(parts)
    else:
        assert not {verdict.reads, verdict.writes} & set(parts)
    flagged = not state.postgresql_up and state.redis_up and not state.proven and unverified_s > 0
    assert (verdict.answers != "nothing is stale") == flagged


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (state_with(), "All is well; nothing is stale; the cache was proven current within the last second"),
        (
            state_with(Trouble.REDIS_AWAY, proven=False),
            "Redis away since 14:02:11; reads come from PostgreSQL; nothing is stale; writes wait up to 2 s",
        ),
        (
            state_with(Trouble.POSTGRESQL_AWAY),
            (
                "PostgreSQL away since 14:02:11; cached products are served until their proof ends, at most 2 s, and other"
                " reads fail with 503; nothing is stale; writes fail with 503"
            ),
        ),
        (
            state_with(Trouble.POSTGRESQL_AWAY, proven=False),
            "PostgreSQL away since 14:02:11; reads fail with 503; nothing is stale; writes fail with 503",
        ),
        (
            state_with(Trouble.POSTGRESQL_AWAY, proven=False, unverified_s=60, proof_age_s=12.5),
            (
                "PostgreSQL away since 14:02:11; cached products are served with a flag for 47.5 s more, and other reads fail"
                " with 503; answers with the flag unverified may be old, and no other answer is stale;"
                " writes fail with 503"
            ),
        ),
        (
            state_with(Trouble.POSTGRESQL_AWAY, Trouble.REDIS_AWAY),
            (
                "PostgreSQL away since 14:02:11; Redis away since 14:02:11; reads fail with 503; nothing is stale;"
                " writes fail with 503"
            ),
        ),
        (
            state_with(Trouble.UNPROVEN),
            ("Cache not proven current since 14:02:11; reads come from PostgreSQL; nothing is stale; writes wait up to 2 s"),
        ),
        (
            state_with(Trouble.WORKER_AWAY),
            (
                "1 of 2 workers away since 14:02:11; requests on its connections failed or hang, and the others serve;"
                " nothing is stale"
            ),
        ),
        (
            state_with(Trouble.OVERLOADED),
            "Overloaded since 14:02:11; a part of the requests is refused with 503, lists and batches first; nothing is stale",
        ),
        (
            state_with(Trouble.KEYS_UNREADABLE),
            "Keys cannot be read since 14:02:11; requests whose key cannot be checked fail with 503; nothing is stale",
        ),
    ],
)
def test_an_operator_reads_what_is_wrong_and_what_it_means(state: State, sentence: str) -> None:
    """The sentence says since when something is wrong, what fails, and whether anything may be stale."""
    assert judge(state, dict.fromkeys(Trouble, AT)).sentence == sentence


def test_writes_around_the_cache_wait() -> None:
    """The policy makes every write wait, whether anything is wrong or not."""
    assert judge(State(around=True), {}).writes == "writes wait up to 2 s"
    assert judge(State(), {}).writes == "writes do not wait"


def test_flagged_answers_end_with_their_time() -> None:
    """Once the last proof is older than the setting allows, no cached product is served, flagged or not."""
    state = state_with(Trouble.POSTGRESQL_AWAY, proven=False, unverified_s=60, proof_age_s=60.1)
    assert judge(state, {}).reads == "reads fail with 503"


@pytest.mark.parametrize(
    ("state", "reads"),
    [
        (State(cache_off=True), "reads come from PostgreSQL"),
        (State(postgresql_up=False, cache_off=True), "reads fail with 503"),
    ],
)
def test_a_cache_that_is_switched_off_serves_nothing(state: State, reads: str) -> None:
    """Nobody is told that the cache answers, nor that it was proven."""
    assert judge(state, {}).reads == reads
    assert "proven" not in judge(state, {}).sentence


def test_a_proof_that_never_was_has_no_age() -> None:
    """Right after the start there may be no proof yet, and the sentence does not claim one."""
    assert judge(state_with(proof_age_s=None), {}).sentence.endswith("the cache is being proven current")


def test_times_are_utc() -> None:
    """As in the log."""
    assert clock_time(AT) == "14:02:11"
