"""The fates of single commands, decided by chance or by a sweep that fails the Nth."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeVar

from typing_extensions import override

from tests.fakes.wire import Disconnected
from tests.simulation.loop import SeededLoop

Reply = TypeVar("Reply")


class Fate(StrEnum):
    """What becomes of one command."""

    CARRIED = "carried out"
    REFUSED = "no effect, error at once"
    SWALLOWED = "no effect, no reply"
    REPLY_CUT = "effect, error at once"
    REPLY_LOST = "effect, no reply"
    LATE = "effect after the deadline"
    UNLISTED = "an error that nobody lists"


FAULTS = tuple(fate for fate in Fate if fate is not Fate.CARRIED)


class Plan(Protocol):
    """Decides the fate of each command."""

    def fate(self, kind: str, name: str) -> Fate:
        """The fate of the command about to be sent to a server of this kind."""


class Chance(Plan):
    """Fates by chance, at a rate for each kind of server, or for a command that has a rate of its own."""

    def __init__(self, chance: random.Random, rates: dict[str, float]) -> None:
        self._chance = chance
        self.rates = rates

    @override
    def fate(self, kind: str, name: str) -> Fate:
        rate = self.rates.get(name) or self.rates.get(kind, 0.0)
        if rate and self._chance.random() < rate:
            return FAULTS[int(self._chance.random() * len(FAULTS))]
        return Fate.CARRIED


class Nth(Plan):
    """One fate for the Nth command to one kind of server in a history, none for all others."""

    def __init__(self, number: int, fate: Fate, kind: str) -> None:
        self._number = number
        self._fate = fate
        self._kind = kind
        self.sent = 0
        self.name = ""

    @override
    def fate(self, kind: str, name: str) -> Fate:
        self.sent += kind == self._kind
        if kind != self._kind or self.sent != self._number:
            return Fate.CARRIED
        self.name = f"{kind}.{name}"
        return self._fate


@dataclass(slots=True)
class Network:
    """What all wires of a history share."""

    loop: SeededLoop
    chance: random.Random
    plan: Plan
    note: Callable[[str, str], None]
    counts: Counter[str] = field(default_factory=Counter)
    latest_s: float = 3.0
    """Longest time by which a late command comes after its deadline."""


class FaultyWire:
    """A way from one process to one kind of server, with delays and faults."""

    def __init__(self, network: Network, client: str, kind: str, deadline_s: float) -> None:
        self.client = client
        self.kind = kind
        self.cut = False
        self.dead = False
        self._network = network
        self._deadline_s = deadline_s

    async def call(self, name: str, apply: "Callable[[], Reply | asyncio.Future[Reply]]") -> Reply:
        """Send one command and return its reply, unless its fate is another (``Wire.call``)."""
        if self.dead:
            raise asyncio.CancelledError
        network = self._network
        loop = network.loop
        fate = Fate.SWALLOWED if self.cut else network.plan.fate(self.kind, name)
        if fate is not Fate.CARRIED:
            network.counts["cut off" if self.cut else fate] += 1
            network.note(self.client, f"{self.kind}.{name}: {'cut off' if self.cut else fate}")
        reply: asyncio.Future[Reply] = loop.create_future()
        if fate is not Fate.SWALLOWED:
            delivery = _Delivery(network, reply, fate)
            late_s = self._deadline_s + network.chance.random() * network.latest_s
            out_s = late_s if fate is Fate.LATE else network_delay(network.chance)
            # The command goes on its way even if the process that sent it stops.
            loop.call_later(out_s, delivery.land, apply, context=Context())
        deadline = loop.call_later(self._deadline_s, _expire, reply)
        try:
            return await reply
        finally:
            deadline.cancel()


class UnlistedError(Exception):
    """An error that no adapter lists, as an event loop, a parser or a new driver may raise."""


class _Delivery:
    """One command on its way there, and its reply on the way back."""

    __slots__ = ("_fate", "_network", "_reply")

    def __init__(self, network: Network, reply: "asyncio.Future[Reply]", fate: Fate) -> None:
        self._network = network
        self._reply: asyncio.Future[object] = reply  # type: ignore[assignment]  # only ever completed, with what `apply` gave
        self._fate = fate

    def land(self, apply: Callable[[], object]) -> None:
        """Arrive at the server."""
        if self._fate in (Fate.REFUSED, Fate.UNLISTED):
            unlisted = self._fate is Fate.UNLISTED
            self._send_back(None, UnlistedError("the handler is closed") if unlisted else Disconnected("connection reset"))
            return
        try:
            result = apply()
        except Exception as error:  # noqa: BLE001 - whatever the server answers, its client gets
            self._send_back(None, error)
            return
        if isinstance(result, asyncio.Future):
            result.add_done_callback(self._after_waiting, context=Context())
        else:
            self._send_back(result, None)

    def _after_waiting(self, result: "asyncio.Future[object]") -> None:
        if not result.cancelled():
            error = result.exception()
            self._send_back(None if error else result.result(), error)

    def _send_back(self, result: object, error: BaseException | None) -> None:
        if self._fate in (Fate.REPLY_LOST, Fate.LATE):
            return
        if self._fate is Fate.REPLY_CUT:
            result, error = None, Disconnected("connection reset")
        delay_s = network_delay(self._network.chance)
        self._network.loop.call_later(delay_s, self._deliver, result, error, context=Context())

    def _deliver(self, result: object, error: BaseException | None) -> None:
        if self._reply.done():
            return
        if error is None:
            self._reply.set_result(result)
        else:
            self._reply.set_exception(error)


def network_delay(chance: random.Random) -> float:
    """Seconds for one way: mostly a fraction of a millisecond, sometimes many."""
    share = chance.random()
    return share * 0.0005 if share < 0.9 else share * share * chance.random() * 0.03


def _expire(reply: "asyncio.Future[Reply]") -> None:
    if not reply.done():
        reply.set_exception(Disconnected("no reply in time"))
