"""Counts of admitted and refused requests."""

from collections import Counter
from dataclasses import dataclass, field

from app.api.admission import Admission

MOST_CLIENTS = 100
"""Most clients that have a label of their own; the others are counted together."""


@dataclass(slots=True)
class AccessStats:
    """Counts of admitted and refused requests. In open mode only refusals are counted."""

    admitted: Counter[str] = field(default_factory=Counter)
    """By client."""
    limited: Counter[str] = field(default_factory=Counter)
    """Those refused because of the client's rate, by client."""
    refused: Counter[str] = field(default_factory=Counter)
    """By the slug of the problem."""

    @classmethod
    def of(cls, admission: Admission) -> "AccessStats":
        """Return the counts of one process."""
        stats = cls(refused=Counter(admission.refused))
        for number, client in enumerate(admission.clients):
            label = client.name if number < MOST_CLIENTS else "other"
            stats.admitted[label] += client.admitted
            stats.limited[label] += client.limited
        return stats

    def __add__(self, other: "AccessStats") -> "AccessStats":
        return AccessStats(self.admitted + other.admitted, self.limited + other.limited, self.refused + other.refused)
