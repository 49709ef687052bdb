"""Incidents: each has a beginning and an end, and the old ones are forgotten."""

from app.dashboard.incidents import KEPT_S, MOST, Incidents
from app.dashboard.verdict import Trouble

REDIS, WORKER = Trouble.REDIS_AWAY, Trouble.WORKER_AWAY


def test_an_incident_begins_and_ends() -> None:
    """It begins when it is first seen and ends when it is first missed; one that comes again is another one."""
    incidents = Incidents()
    for now, troubles in ((1.0, {}), (2.0, {REDIS: "Redis away"}), (3.0, {REDIS: "Redis away"}), (4.0, {})):
        incidents.observe(now, troubles)
    assert incidents.since() == {}
    incidents.observe(5.0, {REDIS: "Redis away"})
    assert [(incident.began, incident.ended) for incident in incidents.all] == [(2.0, 4.0), (5.0, None)]
    assert incidents.since() == {REDIS: 5.0}


def test_incidents_overlap() -> None:
    """One ends while the other lasts, whose text follows what is known."""
    incidents = Incidents()
    incidents.observe(1.0, {REDIS: "Redis away", WORKER: "1 of 4 workers away"})
    incidents.observe(2.0, {WORKER: "2 of 4 workers away"})
    assert [(incident.text, incident.ended) for incident in incidents.all] == [
        ("Redis away", 2.0),
        ("2 of 4 workers away", None),
    ]


def test_old_incidents_are_forgotten() -> None:
    """Some hours after its end; one that lasts is kept, however long."""
    incidents = Incidents()
    incidents.observe(0.0, {REDIS: "", WORKER: ""})
    incidents.observe(1.0, {WORKER: ""})
    incidents.observe(1.0 + KEPT_S, {WORKER: ""})
    assert len(incidents.all) == 2
    incidents.observe(1.1 + KEPT_S, {WORKER: ""})
    assert [incident.trouble for incident in incidents.all] == [WORKER]


def test_the_number_of_incidents_is_limited() -> None:
    """A server that flaps for hours does not fill the memory; the newest incidents stay, and the one that lasts."""
    incidents = Incidents()
    for second in range(4 * MOST):
        incidents.observe(float(second), {WORKER: ""} | ({REDIS: ""} if second % 2 else {}))
    assert len(incidents.all) == MOST
    assert incidents.all[0].trouble is WORKER
    assert incidents.all[-1].began == 4 * MOST - 1
