"""Foreign errors stop at their adapter: every class the drivers can raise is one of ours afterwards."""

import inspect
import re
from collections.abc import Iterator

import psycopg
import psycopg.errors
import pytest
import redis.exceptions

from app.postgres import errors
from app.postgres.errors import DatabaseError, DatabaseFailed, translate

# What the statements of a correct Larder can never provoke, or what only a damaged database answers. Every other class of
# SQLSTATE must be told apart, because callers are told to retry, to wait, or to look.
DEFECTS = {
    "0A",  # feature not supported
    "0B",  # invalid transaction initiation
    "0F",  # locator exception
    "0L",  # invalid grantor
    "0P",  # invalid role specification
    "0Z",  # diagnostics exception
    "02",  # no data
    "03",  # statement not complete
    "09",  # triggered action exception
    "10",  # xquery errors
    "20",  # case not found
    "21",  # cardinality violation
    "24",  # invalid cursor state
    "25",  # invalid transaction state, but 25006
    "26",  # invalid statement name
    "27",  # triggered data change violation
    "2B",  # dependent privileges
    "2D",  # invalid transaction termination
    "2F",  # SQL routine exception
    "34",  # invalid cursor name
    "38",  # external routine exception
    "39",  # external routine invocation exception
    "3B",  # savepoint exception
    "3D",  # invalid catalogue name, but 3D000
    "3F",  # invalid schema name, but 3F000
    "42",  # syntax or access rule, but those named
    "44",  # WITH CHECK OPTION
    "54",  # program limit exceeded
    "55",  # object not in prerequisite state, but those named
    "72",  # snapshot too old
    "F0",  # configuration file
    "HV",  # foreign data wrapper
    "P0",  # PL/pgSQL
}
REQUIRED = {
    "23514": errors.DataRefused,
    "22003": errors.DataRefused,
    "40001": errors.TransactionConflict,
    "40P01": errors.TransactionConflict,
    "55P03": errors.LockTimeout,
    "57014": errors.DatabaseOverloaded,
    "53300": errors.DatabaseOverloaded,
    "53100": errors.DatabaseOverloaded,
    "57P01": errors.ConnectionLost,
    "57P02": errors.ConnectionLost,
    "57P03": errors.ConnectionLost,
    "08006": errors.ConnectionLost,
    "25006": errors.DatabaseReadOnly,
    "42P01": errors.DatabaseUnsuitable,
    "58030": errors.DatabaseUnavailable,
    "28P01": errors.DatabaseRefused,
    "28000": errors.DatabaseRefused,
    "3D000": errors.DatabaseRefused,
    "42501": errors.DatabaseRefused,
}


def driver_errors() -> Iterator[type[psycopg.Error]]:
    """Every class of the driver that carries an SQLSTATE."""
    for _, found in inspect.getmembers(psycopg.errors, inspect.isclass):
        if issubclass(found, psycopg.Error) and found.sqlstate:
            yield found


def test_every_sqlstate_of_the_driver_is_ours() -> None:
    """Each class is mapped; one that is called a defect belongs to a class of SQLSTATE that is known to be one."""
    classes = list(driver_errors())
    assert len(classes) > 200
    unmapped = set()
    for driver_error in classes:
        ours = translate(driver_error("told"))
        assert isinstance(ours, DatabaseError)
        assert str(ours).startswith("told")
        if type(ours) is DatabaseFailed and driver_error.sqlstate is not None and driver_error.sqlstate[:2] not in DEFECTS:
            unmapped.add(driver_error.sqlstate)
    assert unmapped == set()


@pytest.mark.parametrize("sqlstate", REQUIRED)
def test_sqlstate_means(sqlstate: str) -> None:
    """The states whose meaning a caller relies on."""
    assert type(translate(psycopg.errors.lookup(sqlstate)("told"))) is REQUIRED[sqlstate]


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("consuming input failed: server closed the connection unexpectedly", errors.ConnectionLost),
        ("connection timeout expired", errors.ConnectionLost),
        ('connection failed: FATAL:  password authentication failed for user "larder"', errors.DatabaseRefused),
        ("connection failed: fe_sendauth: no password supplied", errors.DatabaseRefused),
        ('connection failed: FATAL:  database "nowhere" does not exist', errors.DatabaseRefused),
    ],
)
def test_connection_error_without_sqlstate(text: str, ours: type[DatabaseError]) -> None:
    """The driver gives only a sentence when no connection came about; the operator's mistakes are told from an outage."""
    assert type(translate(psycopg.OperationalError(text))) is ours


# Raised by parts of redis-py that Larder does not use: clusters, transactions, and pools shared with a forked child.
UNUSED = {
    "ChildDeadlockedError",
    "CrossSlotTransactionError",
    "IncorrectPolicyType",
    "InvalidPipelineStack",
    "RedisClusterException",
    "SlotNotCoveredError",
}


def test_every_error_of_redis_is_caught() -> None:
    """The adapter catches ``RedisError`` and ``OSError``; nothing that the parts in use can raise lies outside of them."""
    foreign = {
        name
        for name, found in inspect.getmembers(redis.exceptions, inspect.isclass)
        if issubclass(found, Exception) and not issubclass(found, redis.exceptions.RedisError | OSError)
    }
    assert foreign <= UNUSED


def test_house_errors_stand_in_the_drawing() -> None:
    """The tree that heads ``app.postgres.errors`` shows every error there is, and no other."""
    drawn = set(re.findall(r"^[│├└─ ]*(\w+)(?:   .*)?$", errors.__doc__ or "", flags=re.MULTILINE))
    defined = {name for name, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, DatabaseError)}
    assert defined <= drawn
