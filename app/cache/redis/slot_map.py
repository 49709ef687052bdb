"""Which node of a cluster has which hash slot, as one of the nodes says."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Address = tuple[str, int]
"""Host and port. An empty host stands for the server that the URL names."""

URL_ADDRESS: Address = ("", 0)


@dataclass(frozen=True, slots=True)
class SlotMap:
    """The owner of each hash slot: ranges by their first slot, each with its last slot and the address of its master."""

    starts: Sequence[int]
    ranges: Sequence[tuple[int, Address]]

    @classmethod
    def whole(cls, address: Address = URL_ADDRESS) -> "SlotMap":
        """Return the map of a server that has every slot."""
        return cls([0], [(16_383, address)])

    @classmethod
    def parse(cls, reply: Sequence[Any], asked: Address) -> "SlotMap":
        """Return the map in a reply to ``CLUSTER SLOTS``.

        A node without a name that others could use is announced by an empty one: it is at the host that was asked. One whose
        name is not known yet is announced by ``?``: its slots have no owner.
        """
        ranges = sorted(
            (first, last, _address(master, asked)) for first, last, master, *_ in reply if master[0] not in {b"?", "?"}
        )
        return cls([first for first, _, _ in ranges], [(last, address) for _, last, address in ranges])

    def owner(self, slot: int) -> Address | None:
        """Return the address of the master that has a slot; ``None`` if no node has it."""
        place = bisect_right(self.starts, slot) - 1
        if place < 0:
            return None
        last, address = self.ranges[place]
        return address if slot <= last else None

    @property
    def owners(self) -> Sequence[Address]:
        """Every master that has a slot, once."""
        return list(dict.fromkeys(address for _, address in self.ranges))

    @property
    def uncovered(self) -> int:
        """Number of slots that no node has."""
        return 16_384 - sum(last - first + 1 for first, (last, _) in zip(self.starts, self.ranges, strict=True))


def _address(master: Sequence[Any], asked: Address) -> Address:
    host, port = master[0], int(master[1])
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host or "")
    return (name or asked[0], port)
