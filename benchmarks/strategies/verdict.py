"""The rule by which a policy replaces the default, and the sentence that says so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SAVES = 0.15
LOSES = 0.02
CHECKED = 50_000
DEFAULT = "through"
RESOURCES = {"cpu": "CPU", "memory": "Redis memory", "bytes": "bytes into Redis"}


@dataclass(frozen=True, slots=True)
class Round:
    """What one policy used in one round. ``used`` and ``share`` are by resource: per request, and of its limit."""

    policy: str
    hit_ratio: float
    used: Mapping[str, float]
    share: Mapping[str, float]
    checked: int
    stale: int
    lost: int


def scarcest(rounds: Sequence[Round]) -> str:
    """Return the resource of which the default uses the largest share of its limit."""
    of_default = [one for one in rounds if one.policy == DEFAULT]
    return max(RESOURCES, key=lambda name: sum(one.share[name] for one in of_default))


def sentence(rounds: Sequence[Round], resource: str) -> str:
    """Keep the default, or change to what, and why. ``rounds`` are in the order in which they were run."""
    policies = list(dict.fromkeys(one.policy for one in rounds if one.policy != DEFAULT))
    default = [one for one in rounds if one.policy == DEFAULT]
    if why := _does_not_count(default):
        return f"no verdict: {why}"
    best: tuple[float, str] | None = None
    reasons = []
    for policy in policies:
        own = [one for one in rounds if one.policy == policy]
        saved = [1 - one.used[resource] / other.used[resource] for one, other in zip(own, default, strict=True)]
        lost = _mean([one.hit_ratio for one in default]) - _mean([one.hit_ratio for one in own])
        told = f"`{policy}` saves {100 * min(saved):.0f} to {100 * max(saved):.0f} % of {RESOURCES[resource]}"
        if why := _does_not_count(own):
            reasons.append(why)
        elif min(saved) < SAVES:
            reasons.append(f"{told}, and a change has to save {100 * SAVES:.0f} % in every round")
        elif lost > LOSES:
            reasons.append(f"{told} but loses {100 * lost:.0f} points of hit ratio, and may lose {100 * LOSES:.0f}")
        elif best is None or min(saved) > best[0]:
            best = (
                min(saved),
                f"change to `{policy}`: {told} in every round and changes the hit ratio by {-100 * lost + 0.0:+.1f} points",
            )
    return best[1] if best else f"keep `{DEFAULT}`: {'; '.join(reasons)}"


def _does_not_count(own: Sequence[Round]) -> str:
    policy, checked = own[0].policy, sum(one.checked for one in own)
    if stale := sum(one.stale for one in own):
        return f"`{policy}` showed {stale} stale reads, which is a defect"
    if lost := sum(one.lost for one in own):
        return f"`{policy}` lost {lost} acknowledged writes, which is a defect"
    if checked < CHECKED:
        return f"only {checked:,} reads of `{policy}` were checked, and {CHECKED:,} are needed: take longer --seconds"
    return ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
