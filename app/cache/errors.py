"""The cache's errors.

CacheError
├── StoreUnavailable    Redis gave no definite answer; reads go to the source, writes settle
│   ├── LeasesInDoubt   the command that got no answer may have taken leases
│   ├── NotConnected    nothing was sent
│   └── WrongSentinel   what a sentinel, or a server in its place, says does not change by waiting
├── SourceUnavailable   the database could not be read
│   └── SourceRefused   the database answers, but must not be used now
│       └── SourceDeposed   it is an old primary: another one has taken over
├── Overloaded          a bounded queue is full
├── InvalidKey          no row can have this key
├── NeedsOwnCycle       an audit cannot share its connections with others this time
└── NotSettled          a committed write could not be proven visible before its deadline
"""

from collections.abc import Mapping


class CacheError(Exception):
    """Base of everything the cache raises."""


class StoreUnavailable(CacheError):
    """The store gave no definite answer in time. Its commands may or may not have been applied."""


class LeasesInDoubt(StoreUnavailable):
    """Leases may have been taken. ``tokens`` has the token of each by its key, without the incarnation if that is not known."""

    def __init__(self, text: str, tokens: Mapping[str, str]) -> None:
        super().__init__(text)
        self.tokens = tokens


class NotConnected(StoreUnavailable):
    """There is no connection to the store, so nothing was sent."""


class WrongSentinel(StoreUnavailable):
    """A sentinel refuses the password or knows no such service, or there is a data server in its place, or the reverse."""


class SourceUnavailable(CacheError):
    """The source could not be read; nothing is known about the requested keys."""


class SourceRefused(SourceUnavailable):
    """The source answers that it must not be used now: it is a standby, is being restored, or is newer than this release."""


class SourceDeposed(SourceRefused):
    """The source is an old primary, or was restored to a time before a promotion. None of its data is current."""


class Overloaded(CacheError):
    """More requests are waiting than the queue may hold; nothing was done for this one."""


class InvalidKey(CacheError, ValueError):
    """No row of the table can have this key, so nothing was read or changed."""


class NeedsOwnCycle(CacheError):
    """The audit of a namespace has more to do than can be shared with others; it needs a cycle on connections of its own."""


class NotSettled(CacheError):
    """The write is committed, but a slot may still be older, so it must not be acknowledged yet."""
