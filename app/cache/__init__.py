"""A write-through cache for tables in PostgreSQL that is trusted only while it is proven current.

``open_caches`` opens the caches of several entities. ``write_through`` has the protocol.
"""

from ..postgres.errors import CommitUnknown, DatabaseError, DataRefused, TransactionConflict
from ..postgres.session import Session
from .caches import Cache, Caches, OwnTransaction
from .entity import Entity
from .errors import (
    CacheError,
    InvalidKey,
    NotSettled,
    Overloaded,
    SourceDeposed,
    SourceRefused,
    SourceUnavailable,
    StoreUnavailable,
)
from .limits import Limits
from .opening import open_caches
from .policies import WritePolicy
from .ports import Absent, State, Value
from .postgres.cached_table import cache_tables, cached_table
from .write_through import Read, Status

__all__ = [
    "Absent",
    "Cache",
    "CacheError",
    "Caches",
    "CommitUnknown",
    "DataRefused",
    "DatabaseError",
    "Entity",
    "InvalidKey",
    "Limits",
    "NotSettled",
    "Overloaded",
    "OwnTransaction",
    "Read",
    "Session",
    "SourceDeposed",
    "SourceRefused",
    "SourceUnavailable",
    "State",
    "Status",
    "StoreUnavailable",
    "TransactionConflict",
    "Value",
    "WritePolicy",
    "cache_tables",
    "cached_table",
    "open_caches",
]
