"""The errors of the change feed.

FeedError
├── FeedStarting            there is no mark of the present history yet
└── MustResync              the events behind a cursor cannot be told any more
    ├── CursorTooOld
    └── CursorOfAnotherHistory
"""


class FeedError(Exception):
    """The feed cannot tell what was asked for."""


class FeedStarting(FeedError):
    """No audit has completed since the database began its present history."""


class MustResync(FeedError):
    """The follower has to take a new cursor and then read everything again."""


class CursorTooOld(MustResync):
    """The cursor's mark was removed, because it was older than the feed is kept."""


class CursorOfAnotherHistory(MustResync):
    """The cursor was made before a restore, a promotion, a TRUNCATE or the end of an upgrade."""
