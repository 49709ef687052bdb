"""The answer of ``/dashboard/data``. Times are Unix times in seconds; durations have their unit in the name."""

from typing import Literal

from pydantic import BaseModel, Field

from app.api.models import Movement, Product
from app.dashboard.verdict import Trouble


class Verdict(BaseModel):
    """The state of the service in words."""

    level: Literal["well", "impaired", "down"]
    sentence: str = Field(description="everything that is wrong, and what it means")
    answers: str = Field(description="whether answers are right")
    reads: str
    writes: str
    refusals: str = Field(description="which requests are refused beyond that")
    advice: str = Field(description="what to do about the first trouble")


class Incident(BaseModel):
    """A trouble, from when it was noticed until it was over."""

    trouble: Trouble
    text: str
    began: float
    ended: float | None = Field(description="null while it lasts")


class Servers(BaseModel):
    """What was found out about the servers and the workers."""

    postgresql_up: bool
    redis_up: bool
    proven: bool = Field(description="whether the cache is proven current")
    keys_readable: bool
    workers: int
    workers_wanted: int
    worker_restarts: int
    proof_age_s: float | None = Field(description="since a worker last read under a live fence")
    audit_age_s: float | None = Field(description="since one of these workers last completed an audit")


class Cache(BaseModel):
    """How a cache is used, by the settings of this instance."""

    namespace: str = Field(description="its name in Redis and in the metrics")
    writes: Literal["through", "update", "aside", "around"] = Field(description="the policy; `through` is the default")
    off: bool = Field(description="whether it is switched off: reads go to PostgreSQL, writes empty its slots")


class Sample(BaseModel):
    """Rates per second, and what was open at the end."""

    at: float
    reads: float
    hit_ratio: float | None = Field(description="share of the reads that the cache answered; null without any")
    writes: float
    saved: float = Field(description="reads that PostgreSQL was spared")
    statements: float = Field(description="statements sent to PostgreSQL")
    refused: float
    settles: float
    failed: float = Field(description="requests answered with 5xx")
    p50_ms: float | None = Field(description="upper bound; null without requests")
    p99_ms: float | None = Field(description="upper bound; null without requests")
    connections: int


class Samples(BaseModel):
    """The samples that come after those that were seen."""

    next: int = Field(description="what `after` takes in the next request")
    items: list[Sample]


class Totals(BaseModel):
    """Counts since the start of the service."""

    reads: int
    saved: int
    writes: int
    statements: int
    audits: int
    audit_failures: int
    audit_deferrals: int
    audited_rows: int
    repairs: int = Field(description="slots that audits deleted")
    clean_starts: int
    settles: int
    settle_timeouts: int
    unverified: int = Field(description="flagged answers")
    unexpected_errors: int


class Queues(BaseModel):
    """What is open and what waits at this moment."""

    connections: int
    large_body_bytes: int
    waiting_for_postgresql: int
    longest_wait_s: float = Field(description="of a write that no transaction has taken")
    pressure: float = Field(description="above 0.5 requests are shed")


class Feed(BaseModel):
    """Who follows the change feed."""

    followers: int
    mark_age_s: float | None = Field(description="since the newest mark that tells of changes; null without followers")
    lag_s: float = Field(description="for how long the slowest follower has not fetched what it could have")


class Client(BaseModel):
    """What a client sent."""

    name: str
    admitted: int
    limited: int


class Stock(BaseModel):
    """Low stock and the last movements, as PostgreSQL told them."""

    at: float | None = Field(description="when they were read; null if they never were")
    low: list[Product] = Field(description="products below their reorder point; the first ones by id")
    movements: list[Movement] = Field(description="of the 200 products that were changed last")


class DashboardData(BaseModel):
    """What the dashboard shows."""

    now: float
    record: float = Field(description="when the record began; when it is another one, `after` begins at 0 again")
    observed: float = Field(description="when the state was found out")
    verdict: Verdict
    incidents: list[Incident] = Field(description="of the last hours, newest first")
    servers: Servers
    caches: list[Cache]
    present: Sample | None = Field(description="the last seconds together")
    present_s: int | None = Field(description="how many seconds that are: ten, or fewer if a trouble began or ended since")
    samples: Samples
    totals: Totals
    queues: Queues
    feed: Feed
    refused: dict[str, int] = Field(description="requests refused, by the type of the problem")
    clients: list[Client] = Field(description="those who sent most, first; then those who were limited most")
    stock: Stock
