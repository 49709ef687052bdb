"""The slots in Redis: names of keys, scripts, and the store's ports on connections that are never silently replaced.

``wtc:{namespace}:{key}`` is a slot. ``wtc-fence:…``, ``wtc-watermark:…`` and ``wtc-auditor:…`` belong to the namespace and do
not match the slots' pattern. A fence is ``server|epoch:incarnation``. A watermark is
``server|epoch:transaction id:incarnation`` (20 and 16 digits), or ``|epoch:`` as a mark.
"""

import asyncio
import hashlib
import random
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import Any

from typing_extensions import override

from .. import slot
from ..errors import LeasesInDoubt, NotConnected, StoreUnavailable
from ..ports import Absent, Outcome, Publication, Published, Reading, Store, Value
from .connection import RedisLink
from .near_reads import read_slots
from .places import Credentials, RedisPlace, place_of
from .tls import RedisTls
from .troubles import Troubles
from .waiting_calls import RedisCommand


def _text(name: str) -> str:
    return files(__package__).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


SCRIPTS = {name: _text(name) for name in ("publish", "lease", "release", "verify")} | {
    name: _text("identity") + _text(name) for name in ("begin", "trust")
}
# A server that cannot store anything can still be read: with a read, an error of the lease is no error reply.
SCRIPTS["lease_if_possible"] = f"local ok, taken = pcall(function()\n{SCRIPTS['lease']}end)\nreturn ok and taken or {{''}}\n"
_SHA = {name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in SCRIPTS.items()}
_DELETES = "!"
"""Stands for a token that belongs to no lease: ``publish.lua`` then deletes where it would store."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long slots and leases live."""

    slot_ttl_s: int
    absent_ttl_s: int
    ttl_jitter_percent: int
    lease_ttl_ms: int


class Names:
    """The names of one namespace's keys in Redis, or of one partition's by its tag; neither contains ``:``."""

    def __init__(self, namespace: str) -> None:
        self.prefix = f"wtc:{namespace}:"
        """The beginning of every slot's name."""
        self.fence = f"wtc-fence:{namespace}"
        self.watermark = f"wtc-watermark:{namespace}"
        self.claim = f"wtc-auditor:{namespace}"
        """The audit's claim. Earlier releases use another name, so a forgotten instance of theirs cannot take this claim."""


_SYSTEM_TLS = RedisTls()
_OF_THE_URL = Credentials()


@dataclass(frozen=True)
class RedisOptions:
    """Where Redis is and how long to wait for it.

    All links of a process come from one of these, so that they ask the sentinels and read the password together.
    """

    url: str
    timeout_ms: int
    connect_timeout_ms: int
    retry_ms: int
    tls: RedisTls = _SYSTEM_TLS
    credentials: Credentials = _OF_THE_URL
    max_age_s: int = 0
    near_bytes: int = 0
    troubles: Troubles = field(default_factory=Troubles, compare=False, repr=False)
    refusals: bool = False
    """Whether a command that a node of a cluster refuses gets the refusal as its reply. Otherwise it ends the connection."""

    @cached_property
    def place(self) -> RedisPlace:
        """Where the data server is. Raises ``ValueError`` if the URL is none."""
        return place_of(
            self.url,
            self.tls,
            self.credentials,
            timeout_s=self.timeout_ms / 1000,
            connect_timeout_s=self.connect_timeout_ms / 1000,
        )

    def link(self, near_bytes: int = 0) -> RedisLink:
        """Return a new link that is not connected yet. It keeps copies of the slots that it reads, up to ``near_bytes``."""
        return RedisLink(
            self.place,
            timeout_ms=self.timeout_ms,
            connect_timeout_ms=self.connect_timeout_ms,
            retry_ms=self.retry_ms,
            max_age_s=self.max_age_s,
            scripts=tuple(SCRIPTS.values()),
            near_bytes=near_bytes,
            troubles=self.troubles,
            refusals=self.refusals,
        )


class RedisLinks:
    """A process's connections for reads, for leases and for publishes, so that none of them waits for another.

    The stores of all namespaces share them.
    """

    def __init__(self, options: RedisOptions) -> None:
        self.reads = options.link(options.near_bytes)
        self.leases = options.link()
        self.publishes = options.link()
        self._keeping: list[asyncio.Task[None]] = []
        self._closed = False

    @property
    def all(self) -> Sequence[RedisLink]:
        """Every link."""
        return self.reads, self.leases, self.publishes

    @property
    def up(self) -> bool:
        """Whether there is a connection for reads."""
        return self.reads.up

    @property
    def for_releases(self) -> RedisLink:
        """The link for leases while it is up, and otherwise the one for reads.

        After an outage the links come back one after another, and a lease that nobody fills or releases keeps its slot empty.
        """
        return self.reads if self.reads.up and not self.leases.up else self.leases

    @property
    def failures(self) -> int:
        """Number of connections that failed since the start."""
        return sum(link.failures for link in self.all)

    @property
    def near_slots(self) -> int:
        """Number of slots that reads took from copies in the process since the start."""
        return self.reads.near_slots

    async def start(self) -> None:
        """Connect; if that fails, keep trying in the background."""
        for link in self.all:
            await link.start()
            if self._closed:  # a node may leave the cluster while it is being connected to
                return
            self._keeping.append(asyncio.create_task(link.keep_alive()))

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        for link in self.all:
            await link.close()


class SlotCommands:
    """The commands for the slots of one namespace or partition, and the meaning of their replies."""

    def __init__(self, names: Names, lifetimes: Lifetimes, chance: random.Random | None = None) -> None:
        self._names = names
        self._head = ("MGET", names.fence)
        self._lifetimes = lifetimes
        self._chance = chance or random.Random()
        self._fence: tuple[bytes | None, str, str, str] = (None, "", "", "")
        """The last fence that was read, and its server, epoch and incarnation."""

    def read(self, keys: Sequence[str]) -> RedisCommand:
        """Return the command that reads fence and slots."""
        prefix = self._names.prefix
        return (*self._head, *[prefix + key for key in keys])

    def reading(self, answered: str, found: Sequence[bytes | None], leases: dict[str, str] | None) -> Reading:
        """Return what the server that answered has read."""
        if found[0] != self._fence[0]:
            self._fence = (found[0], *_parts_of_fence(found[0]))
        _, server, epoch, incarnation = self._fence
        if server != answered:
            epoch = incarnation = ""
        return Reading(epoch, found[1:], incarnation, leases)

    def lease(self, name: str, tokens: dict[str, str], server: str) -> RedisCommand:
        """Return the command that takes leases by one of the two scripts for that."""
        names = [self._names.watermark, *[self._names.prefix + key for key in tokens]]
        return script(name, names, [server, self._lifetimes.lease_ttl_ms, *tokens.values()])

    def publish(self, publications: Sequence[Publication], server: str) -> RedisCommand:
        """Return the command that publishes states."""
        slots = [self._names.prefix + publication.state.key for publication in publications]
        names = [self._names.watermark, self._names.fence, *slots]
        arguments: list[str | bytes | int] = [server]
        for publication in publications:
            state = publication.state
            if publication.deletes:
                arguments += (*slot.halves(Absent(state.key, state.epoch, state.version)), _DELETES, 0)
            else:
                arguments += (*slot.halves(state), publication.token, self._life_ms(publication))
        return script("publish", names, arguments)

    def release(self, tokens: dict[str, str]) -> RedisCommand:
        """Return the command that gives leases back."""
        slots = [self._names.prefix + key for key in tokens]
        return script("release", slots, [slot.LEASE + token.encode() for token in tokens.values()])

    def drop(self, key: str) -> RedisCommand:
        """Return the command that empties one slot."""
        return ("DEL", self._names.prefix + key)

    def _life_ms(self, publication: Publication) -> int:
        state = publication.state
        life_s = publication.ttl_s or self._lifetimes.slot_ttl_s
        if not isinstance(state, Value) and state.version == 0:
            life_s = min(life_s, self._lifetimes.absent_ttl_s)
        whole_ms = life_s * 1000
        # The lifetime is shortened at random, so that slots filled together do not expire together.
        return int(whole_ms * (1 - self._chance.random() * self._lifetimes.ttl_jitter_percent / 100))


class RedisStore(Store):
    """The ``Store`` port of one namespace. Each method is one command, ``MGET``, ``DEL`` or a script, in one round trip.

    While there is no connection for publishes, no lease is taken: nobody could fill its slot.
    """

    def __init__(self, links: RedisLinks, namespace: str, lifetimes: Lifetimes, chance: random.Random | None = None) -> None:
        self.names = Names(namespace)
        self._commands = SlotCommands(self.names, lifetimes, chance)
        self._links = links
        self._reads = links.reads
        self._leases = links.leases
        self._publishes = links.publishes

    @override
    async def read(self, keys: Sequence[str], lease: Sequence[str] = ()) -> Reading:
        slots = self._commands.read(keys)
        if not lease or not self._publishes.up:
            answered, found = await read_slots(self._reads, slots)
            return self._commands.reading(answered, found, None)
        tokens = new_tokens(lease)
        with leases_in_doubt(tokens):
            answered, [found, taken] = await self._reads.call_naming_server(
                lambda server: (slots, self._commands.lease("lease_if_possible", tokens, server))
            )
        return self._commands.reading(answered, found, taken_leases(tokens, taken))

    @override
    async def lease(self, keys: Sequence[str]) -> dict[str, str]:
        if not self._publishes.up:
            return {}
        tokens = new_tokens(keys)
        with leases_in_doubt(tokens):
            _, [taken] = await self._leases.call_naming_server(lambda server: [self._commands.lease("lease", tokens, server)])
        return taken_leases(tokens, taken)

    @override
    async def publish(self, publications: Sequence[Publication]) -> Published:
        _, [reply] = await self._publishes.call_naming_server(lambda server: [self._commands.publish(publications, server)])
        return published(reply)

    @override
    async def release(self, tokens: dict[str, str]) -> None:
        await self._links.for_releases.call(self._commands.release(tokens))

    @override
    async def drop(self, key: str) -> None:
        await self._leases.call(self._commands.drop(key))


def published(reply: Sequence[int]) -> Published:
    """Return what the script of a publish did."""
    return Published(tuple(Outcome(number) for number in reply[1:]), proven=reply[0] == 1)


@contextmanager
def leases_in_doubt(tokens: Mapping[str, str]) -> Iterator[None]:
    """Raise ``LeasesInDoubt`` if the call within, which takes these leases, may have been sent and got no answer."""
    try:
        yield
    except NotConnected:
        raise
    except StoreUnavailable as error:
        raise LeasesInDoubt(str(error), tokens) from error


def new_tokens(keys: Sequence[str]) -> dict[str, str]:
    """Return a new token for each key."""
    return {key: secrets.token_hex(8) for key in keys}


def taken_leases(tokens: dict[str, str], reply: list[Any]) -> dict[str, str]:
    """Return the tokens of the leases that the script took, by key. Whoever shows one shows the incarnation, too."""
    incarnation, *taken = reply
    return {key: incarnation.decode() + token for (key, token), done in zip(tokens.items(), taken, strict=False) if done}


def _parts_of_fence(fence: bytes | None) -> tuple[str, str, str]:
    """Return server, epoch and incarnation."""
    if fence is None:
        return "", "", ""
    server, _, rest = fence.decode("ascii", "replace").rpartition("|")
    epoch, _, incarnation = rest.rpartition(":")
    return server, epoch, incarnation


def script(name: str, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> RedisCommand:
    """Return the command that runs one of the scripts."""
    return ("EVALSHA", _SHA[name], len(keys), *keys, *arguments)
