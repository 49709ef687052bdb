"""The settings of Larder. They are read once from the environment, checked, and never change.

The setting ``fence_ttl_ms`` is read from ``LARDER_FENCE_TTL_MS``; names end in their unit. A misspelt or contradictory setting
stops the service before it listens, with a sentence for the operator.
"""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from app.buckets import BucketRanges
from app.urls import database_url_fault, redis_url_fault

PREFIX = "LARDER_"

Milliseconds = Annotated[int, Field(ge=1, le=600_000)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
PRODUCTS_CACHE = "products"
CACHES = (PRODUCTS_CACHE,)
"""The cached entities, by the names that settings use."""
WRITE_POLICIES = ("through", "update", "aside", "around")
"""The values of ``app.cache.policies.WritePolicy``."""

_PASSWORD = re.compile(r"^[^/]*//[^/@:]*:[^/@]+@|[?&]password=")
"""What a URL with a password has."""
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]-]{1,255}")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\]")

_ADDRESS, _NUMBER = re.compile(r"[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*"), re.compile(r"[0-9]{1,5}")
_KUBERNETES = (
    (re.compile("LARDER_(.+_)?SERVICE_HOST"), _ADDRESS),
    (re.compile("LARDER_(.+_)?SERVICE_PORT(_.+)?"), _NUMBER),
    (
        re.compile("LARDER_(.+_)?PORT(_[0-9]{1,5}_(TCP|UDP|SCTP))?"),
        re.compile(r"(tcp|udp|sctp)://([0-9.]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}"),
    ),
    (re.compile("LARDER_(.+_)?PORT_[0-9]{1,5}_(TCP|UDP|SCTP)_PROTO"), re.compile("tcp|udp|sctp")),
    (re.compile("LARDER_(.+_)?PORT_[0-9]{1,5}_(TCP|UDP|SCTP)_PORT"), _NUMBER),
    (re.compile("LARDER_(.+_)?PORT_[0-9]{1,5}_(TCP|UDP|SCTP)_ADDR"), _ADDRESS),
)
"""Names and values of the variables that Kubernetes sets in every pod for each Service (``enableServiceLinks``)."""


class SettingsError(Exception):
    """The environment holds a setting that Larder does not know or cannot run with."""


class Settings(BaseModel):
    """The service's settings. The table of docs/SETTINGS.md is made from the descriptions below."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    database_url: str = Field("", description="PostgreSQL URL; `larder dev` starts a private server when empty")
    redis_url: str = Field(
        "",
        description="Redis URL (redis, rediss or unix; sentinel or rediss+sentinel);"
        " `larder dev` starts a private server when empty",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 picks a free one")
    tls_certificate: str = Field(
        "", description="PEM file of the certificate and its chain; the service then speaks TLS itself"
    )
    tls_key: str = Field("", description="PEM file of the certificate's key, without a passphrase")
    workers: int = Field(1, ge=1, le=64, description="processes that share the address, each with its own connections")

    access: Literal["keys", "open"] = Field(
        "keys",
        description="`keys`: a request needs a key of `larder keys`; `open`: whoever reaches the address may do everything",
    )
    keys_file: str = Field("", description="TOML file with the hashes of further keys, read again every second")
    client_rate_per_s: int = Field(
        2_000,
        ge=0,
        le=1_000_000,
        description="units per second that a client may use in each worker unless its key says otherwise; 0 is no limit",
    )
    client_keys_per_day: int = Field(
        1_000_000,
        ge=0,
        description="how many new idempotency keys a client may use per day in each worker, renewed evenly over the day;"
        " 0 is no limit",
    )
    client_products_per_day: int = Field(
        1_000_000,
        ge=0,
        description="how many new products a client may create per day in each worker, renewed evenly over the day;"
        " 0 is no limit",
    )
    allowed_hosts: str = Field(
        "",
        description="host names, separated by commas, by which clients may reach the service; loopback ones are always allowed",
    )
    cors_origins: str = Field("", description="origins, separated by commas, whose web pages may use the service")
    docs: bool = Field(default=True, description="serve `/docs`")
    connection_limit: int = Field(
        10_000,
        ge=1,
        le=10_000,
        description="connections of clients per worker; fewer where the limit of open files (`ulimit -n`) does not permit them",
    )
    bodies_limit_bytes: int = Field(
        67_108_864,
        ge=65_536,
        le=1_099_511_627_776,
        description="bytes of unanswered request bodies in memory per worker, the first 16 KiB of each not counted",
    )
    lag_target_ms: Milliseconds = Field(
        50, description="lag of the event loop above which requests are shed: lists and batches first, then writes, then hits"
    )
    head_timeout_ms: Milliseconds = Field(
        10_000, description="time for a request's head from its first byte; on a new connection, from its start"
    )
    body_timeout_ms: Milliseconds = Field(60_000, description="time for a request's body; after 5 s it must keep 1 KiB/s, too")
    unread_timeout_ms: Milliseconds = Field(30_000, description="time in which a client must read 1 KiB of a waiting answer")
    idle_timeout_ms: Milliseconds = Field(75_000, description="life of a connection without a request")

    database_pooler: Literal["none", "transaction"] = Field(
        "none",
        description="`transaction` if a pooler in transaction mode, such as PgBouncer, is in front of PostgreSQL;"
        " one in session mode is `none`",
    )
    migration_database_url: str = Field(
        "", description="PostgreSQL URL for `larder migrate`, past a pooler in transaction mode; `LARDER_DATABASE_URL` if empty"
    )
    buckets: BucketRanges = Field("", description="buckets of products that are here, as `0-511`; all if empty")
    database_connections: int = Field(
        10,
        ge=5,
        le=500,
        description="connections to PostgreSQL per worker: one for audits, a fifth each for loads and lists, others for writes",
    )
    database_password_file: str = Field(
        "", description="file with PostgreSQL's password, instead of one in the URL; read for each connection"
    )
    database_password_command: str = Field(
        "", description="program and arguments that print it, run without a shell for each connection"
    )
    database_connection_max_age_s: int = Field(
        0, ge=0, le=604_800, description="age at which a connection to PostgreSQL is replaced; 0 is never"
    )
    database_connect_timeout_ms: Milliseconds = Field(
        3_000, description="deadline for opening a connection to PostgreSQL, for all of its hosts together"
    )
    database_acquire_timeout_ms: Milliseconds = Field(2_000, description="wait for a free connection before 503 `overloaded`")
    database_statement_timeout_ms: Milliseconds = Field(5_000, description="deadline of one statement")
    database_lock_timeout_ms: Milliseconds = Field(2_000, description="how long a read waits for a table that is locked")
    transaction_attempts: int = Field(
        4, ge=1, le=20, description="how often a transaction that loses races is tried, first try included"
    )

    redis_timeout_ms: Milliseconds = Field(250, description="deadline of one Redis round trip")
    redis_connect_timeout_ms: Milliseconds = Field(500, description="deadline for opening a connection to Redis")
    redis_password_file: str = Field(
        "", description="file with Redis's password, instead of one in the URL; read for each connection"
    )
    redis_password_command: str = Field(
        "", description="program and arguments that print it, run without a shell for each connection"
    )
    redis_connection_max_age_s: int = Field(
        0, ge=0, le=604_800, description="age at which a connection to Redis is replaced; 0 is never"
    )
    sentinel_username: str = Field("", description="user at the sentinels; the user of the URL is Redis's")
    sentinel_password: str = Field("", description="password of the sentinels; none is shown to them if empty")
    sentinel_password_file: str = Field("", description="file with it, read for each connection")
    sentinel_password_command: str = Field(
        "", description="program and arguments that print it, run without a shell for each connection"
    )
    redis_ca_file: str = Field("", description="PEM file of the authorities of Redis's certificate; the system's if empty")
    redis_cert_file: str = Field("", description="PEM file of Larder's own certificate, for a Redis that asks for one")
    redis_key_file: str = Field("", description="PEM file of that certificate's key, without a passphrase")
    redis_tls_name: str = Field(
        "", description="name that Redis's certificate must show; the address that is connected to if empty"
    )
    redis_retry_ms: Milliseconds = Field(250, description="pause between probes of a Redis that failed")

    cache_namespace: str = Field(
        "products.1",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="name of the cache of products in Redis, with which the names of all other caches begin;"
        " only one namespace of a table is trusted at a time",
    )
    cache_partitions: int = Field(
        1, ge=1, le=1_024, description="partitions of the cache, a power of two; 64 for a cluster, whose nodes share them"
    )
    writes: str = Field(
        "",
        description="what a write does to the cache, as `products=POLICY`: `through` (default), `update`, `aside` or `around`;"
        " docs/STRATEGIES.md says when another one pays",
    )
    cache_off: str = Field(
        "", description="caches that are switched off, as `products`: reads go to PostgreSQL, writes empty their slots"
    )
    sample_keys: int = Field(
        0,
        ge=0,
        le=65_536,
        description="count for one key in so many whether its writes are read before the next one; 0 counts none",
    )
    slot_ttl_s: int = Field(3_600, ge=1, le=2_592_000, description="life of a cached product")
    absent_ttl_s: int = Field(30, ge=1, le=86_400, description="life of a cached 404")
    ttl_jitter_percent: int = Field(10, ge=0, le=50, description="largest share by which lives in the cache are cut at random")
    lease_ttl_ms: Milliseconds = Field(3_000, description="life of the right to fill an empty slot")
    batch_keys: int = Field(500, ge=250, le=10_000, description="most keys that share one round trip or one load")
    batch_bytes: int = Field(8_388_608, ge=65_536, le=268_435_456, description="most payload bytes in one publish")
    queue_limit: Count = Field(10_000, description="most requests that wait in one queue before 503 `overloaded`")
    warm_keys: Count = Field(
        100_000, description="filled slots that a process remembers, 130 bytes each; a write to one of them needs no lease"
    )
    near_bytes: int = Field(0, ge=0, description="most bytes of copies of slots in a process; 0: none; none in a cluster")

    audit_interval_ms: int = Field(500, ge=10, le=60_000, description="pause between two audits, for the whole fleet")
    audit_page_rows: int = Field(1_000, ge=1, le=100_000, description="rows an audit compares in one round trip")
    fence_ttl_ms: Milliseconds = Field(2_000, description="how long the cache is trusted after one audit")
    fence_ttl_max_ms: Milliseconds = Field(
        2_000,
        description="largest `fence_ttl_ms` of any instance; raise it on every instance before you raise `fence_ttl_ms` on one",
    )
    settle_margin_ms: Milliseconds = Field(50, description="added to every wait for a fence to lapse")
    settle_poll_ms: Milliseconds = Field(50, description="pause between two looks for a finished audit")
    serve_unverified_s: int = Field(
        0,
        ge=0,
        le=86_400,
        description="while PostgreSQL is away, serve cached products with a flag for this long after the last proof",
    )

    accept_writes: bool = Field(
        default=False,
        description="answer writes with `Prefer: respond-async` by 202, undecided; set it on all instances or on none",
    )
    write_batch: int = Field(200, ge=1, le=2_000, description="most requests that share one transaction")
    request_timeout_ms: Milliseconds = Field(
        15_000, description="deadline of a write, including its wait until no reader can get an old copy"
    )
    idempotency_wait_ms: Milliseconds = Field(5_000, description="wait for another request with the same key before 409")
    idempotency_keep_s: int = Field(86_400, ge=60, le=31_536_000, description="life of the answer kept for an idempotency key")
    idempotency_sweep_ms: Milliseconds = Field(
        60_000, description="pause between removals of answers past their life, and of old marks of the change feed"
    )
    feed_keep_s: int = Field(
        604_800, ge=60, le=31_536_000, description="how long a follower of the feed may pause before it has to begin anew"
    )
    reservation_tidy_ms: int = Field(500, ge=0, le=60_000, description="pause between looks for ended reservations; 0: none")
    reservation_keep_s: int = Field(
        2_592_000, ge=86_400, le=315_360_000, description="how long a reservation is kept after its last unit ended"
    )
    body_limit_bytes: int = Field(4_194_304, ge=1_024, le=1_073_741_824, description="largest request body")

    log_format: Literal["auto", "json", "text"] = Field(
        "auto",
        description="`json`: an object per line; `text`: for people; `auto`: text if stderr is a terminal, otherwise JSON",
    )
    log_requests_percent: float = Field(
        0, ge=0, le=100, description="share of the requests that have a line in the log although nothing is wrong with them"
    )
    traces_url: str = Field(
        "",
        pattern=r"^(https?://.+)?$",
        description="where an OpenTelemetry collector takes traces by OTLP over HTTP, as `http://127.0.0.1:4318/v1/traces`;"
        " needs the extra `larder[traces]`",
    )
    trace_percent: float = Field(
        1, ge=0, le=100, description="share of the requests that is traced, unless a `traceparent` says whether one is"
    )

    @field_validator("database_url", "migration_database_url", "redis_url")
    @classmethod
    def _url_is_sound(cls, url: str, info: ValidationInfo) -> str:
        fault = redis_url_fault if info.field_name == "redis_url" else database_url_fault
        if url and (found := fault(url)):
            raise ValueError(found)
        return url

    @model_validator(mode="after")
    def _tls_agrees(self) -> Self:
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key belong together: set both, or neither")
        if bool(self.redis_cert_file) != bool(self.redis_key_file):
            raise ValueError("redis_cert_file and redis_key_file belong together: set both, or neither")
        by_tls = self.redis_url.startswith(("rediss://", "rediss+sentinel://"))
        if not by_tls and (self.redis_ca_file or self.redis_cert_file or self.redis_tls_name):
            raise ValueError("redis_ca_file, redis_cert_file and redis_tls_name need a redis_url of rediss or rediss+sentinel")
        by_sentinels = self.redis_url.startswith(("sentinel://", "rediss+sentinel://"))
        for name in ("sentinel_username", "sentinel_password", "sentinel_password_file", "sentinel_password_command"):
            if getattr(self, name) and not by_sentinels:
                raise ValueError(f"{name} needs a redis_url that begins with sentinel:// or rediss+sentinel://")
        return self

    @model_validator(mode="after")
    def _passwords_agree(self) -> Self:
        for server, url in (("database", self.database_url), ("redis", self.redis_url), ("sentinel", "")):
            kinds = ("password", "password_file", "password_command")
            given = [name for kind in kinds if getattr(self, name := f"{server}_{kind}", "")]
            if len(given) > 1:
                raise ValueError(f"{given[0]} and {given[1]} exclude each other: set one of them")
            if given and _PASSWORD.search(url):
                raise ValueError(f"{given[0]} needs a {server}_url without a password: remove it there")
        return self

    @model_validator(mode="after")
    def _caches_are_known(self) -> Self:
        known = ", ".join(CACHES)
        for name, policy in self.write_policies.items():
            if name not in CACHES:
                raise ValueError(
                    f"writes names no cache {name!r}: the caches are {known}; write for example {CACHES[0]}=update"
                )
            if policy not in WRITE_POLICIES:
                raise ValueError(
                    f"writes has no policy {policy!r} for {name}: write {name}= and one of {', '.join(WRITE_POLICIES)}"
                )
        given = [part.partition("=")[0].strip() for part in names_in(self.writes)]
        if twice := [name for name in given if given.count(name) > 1]:
            raise ValueError(f"writes has two policies for {twice[0]}: keep one of them")
        if wrong := [name for name in names_in(self.cache_off) if name not in CACHES]:
            raise ValueError(f"cache_off names no cache {wrong[0]!r}: write {known}, or leave it empty to use the cache")
        return self

    @property
    def write_policies(self) -> dict[str, str]:
        """The policies of ``writes`` by the cache's name."""
        pairs = [part.partition("=") for part in names_in(self.writes)]
        return {name.strip(): policy.strip() for name, _, policy in pairs}

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.cache_partitions & (self.cache_partitions - 1):
            raise ValueError("cache_partitions must be a power of two, such as 64")
        if self.fence_ttl_ms < 2 * self.audit_interval_ms:
            raise ValueError("fence_ttl_ms must be at least twice audit_interval_ms, or the fence lapses between two audits")
        if self.fence_ttl_ms > self.fence_ttl_max_ms:
            raise ValueError("fence_ttl_ms must not exceed fence_ttl_max_ms, which writers on other instances rely on")
        if self.request_timeout_ms <= self.fence_ttl_max_ms + self.settle_margin_ms:
            raise ValueError("request_timeout_ms must exceed fence_ttl_max_ms + settle_margin_ms, or no write could settle")
        if wrong := [origin for origin in names_in(self.cors_origins) if not _ORIGIN.fullmatch(origin)]:
            raise ValueError(
                f"cors_origins must be origins such as https://shop.example, separated by commas; it has {wrong[0]!r}"
            )
        if wrong := [host for host in names_in(self.allowed_hosts) if not _HOST.fullmatch(host)]:
            raise ValueError(f"allowed_hosts must be names without a port, separated by commas; it has {wrong[0]!r}")
        if self.bodies_limit_bytes < self.body_limit_bytes:
            raise ValueError("bodies_limit_bytes must be at least body_limit_bytes, or no body of that size could be received")
        return self

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the ``LARDER_*`` variables; an empty one counts as not given.

        What Kubernetes sets for a Service whose name begins with ``larder`` is no setting.

        Raises:
            SettingsError: a variable is unknown, malformed, or contradicts another one.
        """
        given = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in (os.environ if environ is None else environ).items()
            if name.startswith(PREFIX) and value and not _is_of_kubernetes(name, value)
        }
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise SettingsError("\n".join(_sentence(detail["loc"], detail["msg"]) for detail in error.errors())) from error

    def as_env(self) -> dict[str, str]:
        """Return the variables from which ``from_env`` reads the same settings."""
        return {PREFIX + name.upper(): str(value) for name, value in self.model_dump().items()}


def namespace_of(cache_namespace: str, cache: str) -> str:
    """Return the name in Redis of one of the service's caches.

    The setting ``cache_namespace`` names that of products. The others' names begin with it, so that one setting keeps two
    installations on one Redis apart.
    """
    return cache_namespace if cache == PRODUCTS_CACHE else f"{cache_namespace}-{cache}"


def names_in(value: str) -> list[str]:
    """Return the names of a setting that holds several, separated by commas."""
    return [name for part in value.split(",") if (name := part.strip())]


def _is_of_kubernetes(name: str, value: str) -> bool:
    """Return whether Kubernetes sets a variable of this name and value for a Service called ``larder`` or ``larder-…``."""
    return any(names.fullmatch(name) and values.fullmatch(value) for names, values in _KUBERNETES)


def _sentence(location: tuple[int | str, ...], message: str) -> str:
    if not location:
        return message.removeprefix("Value error, ")
    name = PREFIX + str(location[0]).upper()
    if message.startswith("Value error, "):
        return f"{name} {message.removeprefix('Value error, ')}"
    return f"{name}: unknown setting" if message.startswith("Extra inputs") else f"{name}: {message}"
