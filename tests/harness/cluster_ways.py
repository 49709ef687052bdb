"""The ways to the nodes of a cluster: from services, and from the other nodes. Each of them can be cut."""

import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Literal

from tests.harness.proxy import Proxy, Target

SERVICES = 3
"""Services that have a user of their own at every node, by which their connections are known."""
_USER = re.compile(rb"service[0-9]|node[0-9]")
_SENDER = slice(40, 80)
"""Where a packet of the cluster's bus has the name of the node that sent it."""


def service_user(number: int) -> str:
    """Return the user of a service."""
    return f"service{number}"


def node_user(number: int) -> str:
    """Return the user by which a node replicates another one."""
    return f"node{number}"


class Ways:
    """A proxy in front of the port of each node, and one in front of its bus. ``open_ways`` makes it.

    A connection breaks as soon as anything passes on a way that is cut. Connections of users who are not known are never cut.

    Attributes:
        cut: who does not reach which node: a user, and the number of the node.
        names: the user of each node, by the node's name within the cluster.
    """

    def __init__(self, nodes: int) -> None:
        self.cut: set[tuple[str, int]] = set()
        self.names: dict[str, str] = {}
        self.ports = [Proxy(Target(), partial(_Way, self, number, "port")) for number in range(nodes)]
        self.buses = [Proxy(Target(), partial(_Way, self, number, "bus")) for number in range(nodes)]

    @property
    def users(self) -> Sequence[str]:
        """Every user who is known."""
        return [*map(service_user, range(SERVICES)), *map(node_user, range(len(self.ports)))]

    def separate(self, node: int) -> None:
        """Cut a node off from all other nodes, and them from it."""
        for other in range(len(self.ports)):
            if other != node:
                self.cut |= {(node_user(other), node), (node_user(node), other)}

    def confine(self, service: int, node: int) -> None:
        """Let a service reach one node only."""
        self.cut |= {(service_user(service), other) for other in range(len(self.ports)) if other != node}

    def keep_out(self, services: Iterable[int], node: int) -> None:
        """Let these services not reach a node."""
        self.cut |= {(service_user(service), node) for service in services}


class _Way:
    """A connection to a node."""

    def __init__(self, ways: Ways, node: int, place: Literal["port", "bus"]) -> None:
        self._ways = ways
        self._node = node
        self._place = place
        self._who = ""

    def sent(self, data: bytes) -> bool:
        if not self._who:
            self._who = self._sender_of(data)
        return self._open()

    def answered(self, data: bytes) -> bool:
        del data
        return self._open()

    def _open(self) -> bool:
        return (self._who, self._node) not in self._ways.cut

    def _sender_of(self, data: bytes) -> str:
        if self._place == "bus":
            return self._ways.names.get(data[_SENDER].decode("ascii", "replace"), "")
        found = _USER.search(data)
        return found[0].decode() if found else ""


@asynccontextmanager
async def open_ways(nodes: int) -> AsyncIterator[Ways]:
    """Open the proxies; close them at the end. Their targets are set when the nodes run."""
    ways = Ways(nodes)
    async with AsyncExitStack() as opened:
        for proxy in (*ways.ports, *ways.buses):
            await proxy.open()
            opened.push_async_callback(proxy.aclose)
        yield ways
