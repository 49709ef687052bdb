"""The record of one address: the state of the service, its samples and its incidents."""

from dataclasses import dataclass, field

from app.dashboard.incidents import Incidents
from app.dashboard.samples import Counters, Samples
from app.dashboard.verdict import State, Trouble, Verdict, judge, name_of, troubles_of

NOTICED_S = 1.2
"""How long something that was over before it was found out is shown. Pages look twice a second."""


@dataclass(slots=True)
class Record:
    """What the dashboard shows. One worker keeps it for all."""

    began: float = 0.0
    """When the record began, as Unix time. Readers notice by it that the numbers of samples began anew."""
    observed: float = 0.0
    """When the state was found out, as Unix time."""
    state: State = field(default_factory=State)
    complete: bool = False
    """Whether all workers served at once before. Until then none of them is missed."""
    restarts: int = 0
    """Workers that had been replaced when the state was found out."""
    replaced: float | None = None
    """When a replacement was noticed of a worker whose absence had not been, as Unix time."""
    changed: float = 0.0
    """When a trouble began or ended last, as Unix time."""
    samples: Samples = field(default_factory=Samples)
    incidents: Incidents = field(default_factory=Incidents)

    def observe(self, now: float, state: State) -> None:
        """Take note of the state at ``now``, as Unix time."""
        self.began = self.began or now
        self.observed = now
        self.state = state
        before = self.incidents.since().keys()
        self.incidents.observe(now, {trouble: name_of(trouble, state) for trouble in troubles_of(state)})
        if self.incidents.since().keys() != before:
            self.changed = now

    def count_missing(self, now: float, restarts: int, missing: int) -> int:
        """Return how many workers count as away.

        A worker that died and was replaced between two observations counts as away for ``NOTICED_S``: without that, nobody
        would see what became of its connections.

        Args:
            now: Unix time.
            restarts: workers that have been replaced so far.
            missing: workers that do not report.
        """
        if restarts > self.restarts and not missing and Trouble.WORKER_AWAY not in self.incidents.since():
            self.replaced = now
        self.restarts = max(self.restarts, restarts)
        recent = self.replaced is not None and now - self.replaced < NOTICED_S
        return max(missing, int(recent))

    def sample(self, counters: Counters) -> None:
        """Add a sample."""
        self.samples.add(counters)

    def verdict(self) -> Verdict:
        """Return the state in words."""
        return judge(self.state, self.incidents.since())
