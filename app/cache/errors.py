"""The cache's errors.

CacheError
├── StoreUnavailable    Redis gave no definite answer; reads go to the source, writes settle
├── SourceUnavailable   the database could not be read
├── Overloaded          a bounded queue is full
└── NotSettled          a committed write could not be proven visible before its deadline
"""


class CacheError(Exception):
    """Base of everything the cache raises."""


class StoreUnavailable(CacheError):
    """The store gave no definite answer in time; whatever was asked of it may or may not have happened."""


class SourceUnavailable(CacheError):
    """The source could not be read; nothing is known about the keys asked for."""


class Overloaded(CacheError):
    """More requests are waiting than the queue may hold; nothing was done for this one."""


class NotSettled(CacheError):
    """The write is committed, but some cache entry may still be older; it must not be acknowledged yet."""
