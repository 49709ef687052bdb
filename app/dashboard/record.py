"""The record of one address: the state of the service, its samples and its incidents."""

from dataclasses import dataclass, field

from app.dashboard.incidents import Incidents
from app.dashboard.samples import Counters, Samples
from app.dashboard.verdict import State, Verdict, judge, name_of, troubles_of


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
    samples: Samples = field(default_factory=Samples)
    incidents: Incidents = field(default_factory=Incidents)

    def observe(self, now: float, state: State) -> None:
        """Take note of the state at ``now``, as Unix time."""
        self.began = self.began or now
        self.observed = now
        self.state = state
        self.incidents.observe(now, {trouble: name_of(trouble, state) for trouble in troubles_of(state)})

    def sample(self, counters: Counters) -> None:
        """Add a sample."""
        self.samples.add(counters)

    def verdict(self) -> Verdict:
        """Return the state in words."""
        return judge(self.state, self.incidents.since())
