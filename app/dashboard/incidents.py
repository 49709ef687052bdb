"""Incidents: the troubles of the last hours, each with its beginning and its end."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from app.dashboard.verdict import Trouble

KEPT_S = 6 * 3600.0
"""How long an incident is kept after its end."""
MOST = 200
"""Most incidents that are kept; the oldest ones that have ended go first."""


@dataclass(slots=True)
class Incident:
    """A trouble, from when it was noticed until it was over. Times are Unix times."""

    trouble: Trouble
    text: str
    began: float
    ended: float | None = None


@dataclass(slots=True)
class Incidents:
    """What went wrong, in the order in which it began."""

    all: list[Incident] = field(default_factory=list)

    def observe(self, now: float, troubles: Mapping[Trouble, str]) -> None:
        """Take note of what is wrong at ``now``; the texts are the names of the troubles."""
        going_on = {incident.trouble: incident for incident in self.going_on()}
        for trouble, incident in going_on.items():
            if trouble not in troubles:
                incident.ended = now
            else:
                incident.text = troubles[trouble]
        self.all += [Incident(trouble, text, now) for trouble, text in troubles.items() if trouble not in going_on]
        self._forget(now)

    def since(self) -> dict[Trouble, float]:
        """Return when each present trouble began."""
        return {incident.trouble: incident.began for incident in self.going_on()}

    def going_on(self) -> Iterable[Incident]:
        """Return the incidents that are not over."""
        return [incident for incident in self.all if incident.ended is None]

    def _forget(self, now: float) -> None:
        excess = len(self.all) - MOST
        kept = []
        for incident in self.all:
            over = incident.ended is not None
            if over and (excess > 0 or now - (incident.ended or 0.0) > KEPT_S):
                excess -= 1
            else:
                kept.append(incident)
        self.all = kept
