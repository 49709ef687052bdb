"""The environment as platforms and people fill it: what is no setting, and what is said of a wrong one."""

import re

import pytest

from app.settings import Settings, SettingsError

_SERVICE = {
    "LARDER_SERVICE_HOST": "10.96.0.12",
    "LARDER_SERVICE_PORT": "8000",
    "LARDER_SERVICE_PORT_HTTP": "8000",
    "LARDER_PORT": "tcp://10.96.0.12:8000",
    "LARDER_PORT_8000_TCP": "tcp://10.96.0.12:8000",
    "LARDER_PORT_8000_TCP_PROTO": "tcp",
    "LARDER_PORT_8000_TCP_PORT": "8000",
    "LARDER_PORT_8000_TCP_ADDR": "10.96.0.12",
}


@pytest.mark.parametrize(
    "injected",
    [
        _SERVICE,
        {name.replace("LARDER_", "LARDER_REDIS_"): value for name, value in _SERVICE.items()},
        {"LARDER_SERVICE_HOST": "fd00::c", "LARDER_PORT": "tcp://[fd00::c]:8000", "LARDER_PORT_53_UDP": "udp://[fd00::c]:53"},
        {"LARDER_TRACES_PORT_4317_SCTP_PROTO": "sctp", "LARDER_TRACES_SERVICE_PORT_OTLP_GRPC": "4317"},
    ],
)
def test_variables_of_kubernetes_are_no_settings(injected: dict[str, str]) -> None:
    """A Service called ``larder`` or ``larder-…`` beside the pod changes nothing."""
    assert Settings.from_env(injected) == Settings.from_env({})


@pytest.mark.parametrize(
    "variable",
    [
        ("LARDER_SERVICE_HOST", "db.example"),
        ("LARDER_SERVICE_PRT", "8000"),
        ("LARDER_DATABASE_PORT", "5432"),
        ("LARDER_PORTS", "tcp://10.96.0.12:8000"),
        ("LARDER_PORT_8000_TCP_HOST", "10.96.0.12"),
        ("LARDER_PORT", "http://10.96.0.12:8000"),
    ],
)
def test_misspelt_settings_are_still_caught(variable: tuple[str, str]) -> None:
    """Only the exact names and values that Kubernetes makes are let through."""
    with pytest.raises(SettingsError, match=variable[0]):
        Settings.from_env(dict([variable]))


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://cache.example:6379", "is not a Redis URL"),
        ("cache.example:6379", "is not a Redis URL"),
        ("redis://cache.example:sixthousand/0", "is not a Redis URL"),
        ("redis://[::1/0", "is not a Redis URL"),
        ("redis:///0", "names no host"),
        ("unix://:pw@", "names no socket"),
        ("redis://cache.example/zero", "number of a database"),
        ("redis://cache.example?db=x", "number of a database"),
        ("rediss://cache.example/0?ssl_cert_reqs=none", "certificates are always verified"),
        ("redis://cache.example/0?socket_timeout=abc", "socket_timeout"),
        ("redis://cache.example/0?max_connections=ten", "max_connections"),
        ("redis://cache.example/0?foo=bar", "foo"),
        ("redis://:s3cret/x@cache.example:6379/0", "%2F"),
        ("redis://me:s3cret#x@cache.example:6379/0", "%23"),
        ("redis://me:s3cret?x@cache.example:6379/0", "%3F"),
    ],
)
def test_wrong_redis_url_is_a_sentence(url: str, sentence: str) -> None:
    """It names the variable, what is wrong and the right form, and shows no part of a password."""
    with pytest.raises(SettingsError) as said:
        Settings.from_env({"LARDER_REDIS_URL": url})
    assert re.match("LARDER_REDIS_URL .*", str(said.value))
    assert sentence in str(said.value)
    assert "s3cret" not in str(said.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache.example",
        "redis://:p%2Fw%40%23@cache.example:6379/15",
        "rediss://me:p@ss@cache.example/0?client_name=till",
        "redis://[::1]:6379/0",
        "unix://:pw@/run/redis/redis.sock?db=3",
        "unix:///run/@here/redis.sock",
    ],
)
def test_right_redis_url_is_taken(url: str) -> None:
    """Every form that the client library understands without surprise."""
    assert Settings.from_env({"LARDER_REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("shop at home", "is not a PostgreSQL URL"),
        ("mysql://me@db.example/shop", "is not a PostgreSQL URL"),
        ("postgresql+psycopg://me@db.example/shop", "is not a PostgreSQL URL"),
        ("postgresql://me:s3cret/x@db.example/shop", "%2F"),
        ("postgresql://me:7/s3cret@db.example/shop", "%2F"),
        ("postgresql://me:s3@cret@db.example/shop", "%40"),
        ("postgresql://db.example:s3cret/shop", "port that is no number"),
    ],
)
def test_wrong_database_url_is_a_sentence(url: str, sentence: str) -> None:
    """As for Redis."""
    with pytest.raises(SettingsError) as said:
        Settings.from_env({"LARDER_DATABASE_URL": url})
    assert sentence in str(said.value)
    assert not re.search("s3@?cret|cret@", str(said.value))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:p%2Fw@h1:5432,h2:5433,h3/shop?target_session_attrs=primary",
        "postgres://me:p#w@db.example/shop",
        "postgresql:///shop?host=/run/postgresql&user=me@example",
        "postgresql://me@[fd00::1]:5432/shop",
        "host=db.example dbname=shop user=me password=p@/#",
        "postgresql://me:p?w@db.example/shop",
    ],
)
def test_right_database_url_is_taken(url: str) -> None:
    """Every form that libpq understands."""
    assert Settings.from_env({"LARDER_DATABASE_URL": url}).database_url == url
