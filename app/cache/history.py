"""The source's history in one process: the latest epoch of this process's source, and whether the source was deposed.

An epoch names a stretch of history in which versions and transaction ids only rise. Its last 16 characters, which slots hold,
are a hash of all that identifies the stretch. A readable epoch shows the system and its timeline before the hash:
``system identifier.timeline.hash``. A standby that is promoted continues in the same system on a higher timeline. So a process
that finds a higher timeline of its own system in the store knows that another primary has taken over.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

from .errors import SourceDeposed

HASH_WIDTH = 16
log = logging.getLogger(__name__)
CheckEpoch = Callable[[str, float], None]
"""``History.record``: takes an epoch and the time when it was requested, and raises if the server is an old primary."""


class Timeline(NamedTuple):
    """A database system and its timeline number, which rises whenever a standby is promoted."""

    system: str
    number: int


def hash_of(epoch: str) -> str:
    """Return the part of an epoch that slots hold."""
    return epoch[-HASH_WIDTH:]


def timeline_of(epoch: str) -> Timeline | None:
    """Return the timeline that a readable epoch shows; ``None`` if the epoch is only a hash."""
    system, _, rest = epoch.partition(".")
    number, found, _ = rest.partition(".")
    if not found:
        return None
    try:
        return Timeline(system, int(number, 16))
    except ValueError:
        return None


class History:
    """The history of one process's source.

    A reader trusts a fence only in ``epoch``: the store may hold the fence of another primary, or of another database.

    Args:
        on_deposed: called when the source turns out to be an old primary. It drops the connections, because the next ones may
            lead to the new primary.
    """

    def __init__(self, on_deposed: Callable[[], None] = lambda: None) -> None:
        self.epoch = ""
        """The latest epoch of this process's source; empty until the source has returned one."""
        self._asked_at = float("-inf")
        self._highest: Timeline | None = None
        self._on_deposed = on_deposed
        self._foreign = ""
        self.deposed = False
        """Whether a higher timeline of the same system is known than the one that the source returned last."""

    @property
    def current(self) -> str:
        """The epoch in which this process may commit: ``record`` accepts it. Empty if none is known, or after a deposition.

        A transaction may be committed in other epochs, too, but only after it has asked ``record``.
        """
        return "" if self.deposed else self.epoch

    def record(self, epoch: str, asked_at: float) -> None:
        """Record the epoch that this process's source returned for a query sent at ``asked_at`` (on the process's clock).

        A query that was sent before the last recorded one may have been answered by an old primary. Its answer changes nothing,
        but it raises ``SourceDeposed``, too, if its timeline is lower than the highest known one.

        Raises:
            SourceDeposed: the source is an old primary, or was restored to a time before a promotion.
        """
        own = timeline_of(epoch)
        late = asked_at < self._asked_at
        if own is not None and self._is_below(own):
            if not late:
                self._depose()
            raise self.objection()
        if late:
            return
        self._asked_at = asked_at
        self.epoch = epoch
        self._highest = own
        if self.deposed:
            log.warning("the database is the present primary again: the cache is used from the next audit on")
        self.deposed = False

    def trusts(self, epoch: str) -> bool:
        """Return whether a reader may trust a fence of this epoch. An empty epoch means that there is no fence."""
        return epoch == self.epoch != "" and not self.deposed

    def note_stored(self, epoch: str) -> None:
        """Record an epoch that was found in the store."""
        if epoch == self.epoch or not self.epoch:
            return
        found = timeline_of(epoch)
        if found is None or self._highest is None:
            return
        if found.system != self._highest.system:
            if found.system != self._foreign:
                self._foreign = found.system
                log.warning(
                    "another database (system %s) uses this Redis under the same cache namespace; neither is shown the other's"
                    " data, but they invalidate each other's cache: give one of them a namespace of its own",
                    found.system,
                )
        elif found.number > self._highest.number:
            self._highest = found
            self._depose()

    def succeeds(self, epoch: str) -> bool:
        """Return whether an epoch that was found in the store is of an earlier timeline of this process's source."""
        own, found = timeline_of(self.epoch), timeline_of(epoch)
        return own is not None and found is not None and found.system == own.system and found.number < own.number

    def objection(self) -> SourceDeposed:
        """Return the error to raise for an old primary, with the reason."""
        return SourceDeposed(
            "the database is an old primary, or was restored to a time before a promotion: another one has taken over."
            " Point the database's URL at the new primary; after a deliberate restore delete the namespace's slots and restart"
        )

    def _is_below(self, own: Timeline) -> bool:
        return self._highest is not None and own.system == self._highest.system and own.number < self._highest.number

    def _depose(self) -> None:
        if not self.deposed:
            log.error("%s", self.objection())
        self.deposed = True
        self._on_deposed()
