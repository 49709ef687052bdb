"""The nodes of a cluster that have partitions, and the map by which they are found.

No redirection is followed. A node that is lost, or is not the owner of a partition, is a reason to ask for the map again;
requests use the map there is meanwhile. One task asks, at most once per ``redis_retry_ms``. A node is connected to while it has
a partition. An owner that gives a partition away, and refuses some of its keys, is no reason: the map says the same until the
move ends, and then that node is not the owner any more.
"""

import asyncio
import random
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from redis.exceptions import ResponseError

from ..errors import StoreUnavailable
from .connection import RedisLink
from .sentinel import show
from .slot_map import URL_ADDRESS, Address, SlotMap
from .store import RedisLinks, RedisOptions

_NO_CLUSTER = "cluster support disabled"
_NAMED = 32
"""Number of nodes that are remembered, to be asked for the map."""


class RedisNode:
    """A node that has partitions: connections for reads, leases and publishes, and one for audits."""

    def __init__(self, options: RedisOptions) -> None:
        self.links = RedisLinks(options)
        self.audits = options.link()
        self._options = options

    @property
    def all(self) -> Sequence[RedisLink]:
        """Every link."""
        return *self.links.all, self.audits

    async def start(self) -> None:
        """Connect; if that fails, keep trying in the background."""
        await asyncio.gather(self.links.start(), self.audits.start_once())

    async def close(self) -> None:
        """Close all connections."""
        await self.links.close()
        await self.audits.close()
        await self._options.place.aclose()


class RedisNodes:
    """The nodes that have the hash slots of a process's partitions.

    Args:
        options: how to connect to the server of the URL. The user, the password and the certificates are those of every node.
        slots: the hash slots of all partitions.
        clock: seconds on the process's own clock.
    """

    def __init__(self, options: RedisOptions, slots: Collection[int], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = replace(options, refusals=True, near_bytes=0)
        self._slots = frozenset(slots)
        self._clock = clock
        self._nodes: dict[Address, RedisNode] = {}
        self._owners: dict[int, RedisNode] = {}
        """The owner of each slot, according to the present map."""
        self._named: Sequence[Address] = []
        """Nodes that some map has named, the latest first."""
        self._asked_at = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._lost = 0

    @property
    def up(self) -> bool:
        """Whether there is a connection for reads to a node for every partition."""
        owners = [self.owner(slot) for slot in self._slots]
        return all(node is not None and node.links.up for node in owners)

    @property
    def near_slots(self) -> int:
        """Number of slots that reads took from copies in the process: none, because connections to nodes keep no copies."""
        return 0

    @property
    def failures(self) -> int:
        """Number of connections that failed since the start."""
        return self._lost + sum(node.links.failures for node in self._nodes.values())

    @property
    def present(self) -> Sequence[RedisNode]:
        """The nodes that have a partition."""
        return list(self._nodes.values())

    @property
    def all(self) -> Sequence[RedisLink]:
        """Every link."""
        return [link for node in self._nodes.values() for link in node.all]

    def owner(self, slot: int) -> RedisNode | None:
        """Return the node that has a hash slot of these partitions, as far as is known."""
        return self._owners.get(slot)

    def look_again(self) -> None:
        """Ask for the map in the background, unless that is under way."""
        if self._looking is None and not self._closed:  # closing refuses calls, whose callers then ask
            self._looking = asyncio.create_task(self._look())

    async def start(self) -> None:
        """Ask for the map once and connect to the nodes; if that fails, keep trying in the background."""
        with suppress(StoreUnavailable):
            await self._ask_and_take()
        await asyncio.gather(*(node.start() for node in self._nodes.values()))
        if not self._nodes:
            self.look_again()

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await asyncio.gather(*self._closing, *(node.close() for node in self._nodes.values()), return_exceptions=True)
        await self._options.place.aclose()  # which may have been asked where the master is while there was no node

    async def _look(self) -> None:
        try:
            await asyncio.sleep(max(0.0, self._asked_at + self._options.retry_ms / 1000 - self._clock()))
            before = set(self._nodes)
            with suppress(StoreUnavailable):
                await self._ask_and_take()
            for address in self._nodes.keys() - before:
                self._in_background(self._nodes[address].start())
        finally:
            self._looking = None

    async def _ask_and_take(self) -> None:
        self._take(await self._ask())

    async def _ask(self) -> SlotMap:
        """Return the first map in which every partition has a node, or the fullest one.

        Nodes that are connected are asked first, then those that were named once, and the URL's server last.
        """
        self._asked_at = self._clock()
        addresses = random.sample(list(self._nodes), len(self._nodes))
        addresses.sort(key=lambda address: not self._nodes[address].links.up)
        error = StoreUnavailable("no node of Redis was asked")
        fullest, most = None, 0
        for address in dict.fromkeys([*addresses, *self._named, URL_ADDRESS]):
            try:
                found = await map_of(self._at(address), address)
            except StoreUnavailable as failure:
                error = failure
                continue
            owned = sum(found.owner(slot) is not None for slot in self._slots)
            if owned > most:
                fullest, most = found, owned
            if owned == len(self._slots):
                break
        if fullest is None:
            self._options.troubles.tell(error)
            raise error
        self._named = list(dict.fromkeys([*fullest.owners, *self._named]))[:_NAMED]
        return fullest

    def _take(self, found: SlotMap) -> None:
        """Use a map from now on."""
        addresses = {slot: address for slot in self._slots if (address := found.owner(slot)) is not None}
        wanted = set(addresses.values())
        for address in self._nodes.keys() - wanted:
            node = self._nodes.pop(address)
            self._lost += node.links.failures
            self._in_background(node.close())
        for address in wanted - self._nodes.keys():
            self._nodes[address] = RedisNode(self._at(address))
        self._owners = {slot: self._nodes[address] for slot, address in addresses.items()}

    def _at(self, address: Address) -> RedisOptions:
        return at(self._options, address)

    def _in_background(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def at(options: RedisOptions, address: Address) -> RedisOptions:
    """Return how to connect to a node: as to the URL's server, at another address."""
    if address == URL_ADDRESS:
        return options
    parts = urlsplit(options.url)
    user, separator, _ = parts.netloc.rpartition("@")
    return replace(options, url=parts._replace(netloc=f"{user}{separator}{show(address)}").geturl())


async def map_of(options: RedisOptions, asked: Address) -> SlotMap:
    """Ask a server for the map. One that is no node of a cluster has every slot.

    Raises:
        StoreUnavailable: there was no answer in time, or the user may not ask.
    """
    raw = None
    try:
        passwords = await options.place.passwords()
        async with asyncio.timeout(options.connect_timeout_ms / 1000):
            raw = await options.place.connection(passwords)
            await raw.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            await raw.send_command("CLUSTER", "SLOTS")
            host = asked[0] or str(getattr(raw, "host", ""))
            return SlotMap.parse(await raw.read_response(disable_decoding=True), (host, asked[1]))
    except ResponseError as error:
        if _NO_CLUSTER in str(error):
            return SlotMap.whole(asked)
        raise StoreUnavailable(f"Redis does not say which node has which keys: {error}") from error
    except Exception as error:
        raise StoreUnavailable(f"Redis does not say which node has which keys: {str(error) or type(error).__name__}") from error
    finally:
        if raw is not None:
            with suppress(Exception):
                await raw.disconnect(nowait=True)
