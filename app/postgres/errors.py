"""The errors of PostgreSQL that the rest of the application handles. ``translate`` maps the driver's errors to them.

DatabaseError
├── DatabaseUnavailable   not reachable, or shutting down
│   ├── ConnectionLost    the connection broke, or its server is going away; another connection may work
│   ├── ConnectionStale   statements that this connection prepared no longer fit the tables; a new connection works
│   ├── DatabaseRefused   it refuses this user, password or database name
│   └── DatabaseUnsuitable   it is a standby, is being restored, or is newer than this release
│       └── DatabaseReadOnly   it is a standby
├── DatabaseOverloaded    no free connection, or a statement ran into its deadline
├── TransactionConflict   deadlock or lost race: nothing was changed, try again
│   └── LockTimeout       another transaction holds a row or a table for too long
├── CommitUnknown         the answer to COMMIT was lost
├── DatabaseNewer         ``larder migrate`` does not know the database's revision
└── DatabaseFailed        anything else: a defect, or a damaged database
    └── DataRefused       a constraint or a type refuses these values
"""

import re

import psycopg


class DatabaseError(Exception):
    """Base of every database error."""


class DatabaseUnavailable(DatabaseError):
    """PostgreSQL cannot be used now."""


class ConnectionLost(DatabaseUnavailable):
    """The connection broke, or its server is going away; another connection may work."""


class ConnectionStale(DatabaseUnavailable):
    """Statements that this connection prepared no longer fit the tables; a new connection works."""


class DatabaseRefused(DatabaseUnavailable):
    """PostgreSQL refuses this user, password or database name."""


class DatabaseUnsuitable(DatabaseUnavailable):
    """PostgreSQL must not be used now: it is a standby, is being restored, or its schema is newer than this release.

    Or it is behind a pooler that the settings do not name, or whose sessions have other parameters than Larder needs.
    """


class DatabaseReadOnly(DatabaseUnsuitable):
    """PostgreSQL is a standby; a new connection may find the primary."""


class DatabaseOverloaded(DatabaseError):
    """PostgreSQL has more work than it can do in time; nothing was changed."""


class TransactionConflict(DatabaseError):
    """Deadlock or lost race; nothing was changed, and the transaction may be tried again."""


class LockTimeout(TransactionConflict):
    """Another transaction holds a row or a table for longer than this one waits; nothing was changed."""


class CommitUnknown(DatabaseError):
    """COMMIT was sent and its answer was lost: the whole transaction was committed, or nothing."""


class DatabaseNewer(DatabaseError):
    """``larder migrate`` found a revision that it does not know: a newer Larder migrated the database. Nothing was changed."""


class DatabaseFailed(DatabaseError):
    """PostgreSQL refused a statement that it should accept."""


class DataRefused(DatabaseFailed):
    """A constraint or a column's type refuses these values; nothing was changed. ``__cause__`` has the constraint's name."""


# SQLSTATE codes and classes (PostgreSQL manual, appendix A), the more specific first.
_BY_SQLSTATE: tuple[tuple[str, type[DatabaseError]], ...] = (
    ("23", DataRefused),  # a constraint
    ("22", DataRefused),  # a value that its type cannot hold
    ("40", TransactionConflict),  # serialization failure, deadlock, and 40L01: what larder_require refuses
    ("55P02", DatabaseUnsuitable),  # a session behind a pooler whose parameters would change answers
    ("55P03", LockTimeout),  # lock timeout
    ("57014", DatabaseOverloaded),  # statement timeout
    ("53", DatabaseOverloaded),  # too many connections, disk full, out of memory
    ("28", DatabaseRefused),  # wrong user or password
    ("3D000", DatabaseRefused),  # no such database
    ("42501", DatabaseRefused),  # no privilege
    ("25006", DatabaseReadOnly),  # a standby
    ("42P01", DatabaseUnsuitable),  # tables missing: being restored, or never migrated
    ("42883", DatabaseUnsuitable),  # functions missing: the same
    ("42P05", DatabaseUnsuitable),  # a statement that another client prepared in the same session: see _POOLER
    ("26000", DatabaseUnsuitable),  # a statement that was prepared in another session: the same
    ("3F000", DatabaseUnsuitable),  # schema missing: the same
    ("57", ConnectionLost),  # shutting down, crashed, starting
    ("08", ConnectionLost),  # connection broke
    ("58", DatabaseUnavailable),  # the server's system failed
    ("0A000", ConnectionStale),  # a prepared statement from before a migration changed a column
    ("XX", ConnectionStale),  # e.g. a plan whose table a restore has dropped
)


_POOLED = frozenset({"42P05", "26000"})
_POOLER = ": a pooler in transaction mode is in front of PostgreSQL. Set LARDER_DATABASE_POOLER=transaction"

_FULL = re.compile("too many (connections|clients)|remaining connection slots")
"""What a server says to a login for which it has no connection left; the driver does not tell its SQLSTATE."""


def translate(error: Exception) -> DatabaseError:
    """Return the error to raise for an error of the driver. An error of another library means that the answer is lost."""
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    if not isinstance(error, psycopg.Error):
        return ConnectionLost(f"{type(error).__name__}: {text}")
    state = error.sqlstate
    if state is None:
        lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        refused = "authentication failed" in text or "does not exist" in text or "no password supplied" in text
        if _FULL.search(text):
            return DatabaseOverloaded(text)
        return (DatabaseRefused if refused else ConnectionLost if lost else DatabaseFailed)(text)
    if state in _POOLED:
        text += _POOLER
    for code, house in _BY_SQLSTATE:
        if state.startswith(code):
            return house(text)
    return DatabaseFailed(text)


def was_answered(error: DatabaseError) -> bool:
    """Return whether the server answered with this error and kept the session. Then the statement's effects are undone.

    After an error that ended the session (FATAL) or the server (PANIC) that is not known, because a COMMIT may have been under
    way. The same holds for errors of the connection (class 08), which a proxy or pooler sends in the server's place.
    """
    cause = error.__cause__
    if not isinstance(cause, psycopg.Error) or cause.sqlstate is None or cause.sqlstate.startswith("08"):
        return False
    return cause.diag.severity_nonlocalized == "ERROR"
