"""The errors of the change feed.

FeedError
├── FeedStarting            there is no mark of the present history yet
└── MustResync              the events after a cursor are no longer known
    ├── CursorTooOld
    └── CursorOfAnotherHistory
"""


class FeedError(Exception):
    """The feed cannot return the requested events."""


class FeedStarting(FeedError):
    """No audit has completed since the database began its present history."""


class MustResync(FeedError):
    """The follower has to take a new cursor and then read everything again."""


class CursorTooOld(MustResync):
    """The cursor's mark was removed, because it was older than the feed is kept."""


class CursorOfAnotherHistory(MustResync):
    """The cursor was made before a restore, a promotion, a TRUNCATE or the end of an upgrade."""
