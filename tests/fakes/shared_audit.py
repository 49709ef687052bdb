"""The ports of audits that share a connection and a session, over in-memory servers, and transactions over several tables."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from app.cache.entity import Entity
from app.cache.errors import SourceUnavailable, StoreUnavailable
from app.cache.ports import (
    Announced,
    AnnounceRequest,
    Begun,
    Deferred,
    FirstPage,
    Repairs,
    SharedAuditSource,
    SharedAuditStore,
    SnapshotRequest,
    State,
    TrustRequest,
    VerifyRequest,
    Watermark,
)
from app.cache.postgres.table_write import ReadBack
from tests.fakes.postgres import MemoryPostgres
from tests.fakes.redis import RedisError, RedisServer
from tests.fakes.rows import NAMESPACE, Change, Moment, Refused, table_of
from tests.fakes.source import changes_of, transact
from tests.fakes.store import TOKENS, Connection, Route, connect, in_its_incarnation
from tests.fakes.wire import Disconnected, Wire

Reply = TypeVar("Reply")
Answer = TypeVar("Answer")


def space_of(namespace: str) -> str:
    """Return the name under which a server keeps a namespace: the first one has none."""
    return "" if namespace == NAMESPACE else namespace


class MemorySharedStore(SharedAuditStore):
    """The ``SharedAuditStore`` port: one connection, which the first failure ends."""

    def __init__(self, route: Route, wire: Wire) -> None:
        self._route = route
        self._wire = wire
        self._connection: Connection | None = None
        self._lost = False
        self._token = f"{wire.client} {next(TOKENS)}"
        self._claimed: set[str] = set()

    async def begin(self, requests: Sequence[tuple[str, int]]) -> Sequence[Begun]:
        begun = await self._each(
            "begin", requests, lambda one, server, identity: server.begin(identity, self._token, one[1] / 1_000)
        )
        self._claimed.update(name for (name, _), one in zip(requests, begun, strict=True) if one.claimed)
        return begun

    async def verify(self, requests: Sequence[VerifyRequest]) -> Sequence[Repairs]:
        return await self._each("verify", requests, lambda one, server, _: server.verify(one[1], one[2]))

    async def distrust(self, namespace: str, mark: Watermark | None) -> None:
        await self._each("distrust", [(namespace,)], lambda _, server, __: server.mark(mark))
        await self._each("distrust, second command", [(namespace,)], lambda _, server, __: server.take_fence())

    async def trust(self, requests: Sequence[TrustRequest]) -> Sequence[bool]:
        proven = [(name, begun, in_its_incarnation(begun, mark), ttl_ms) for name, begun, mark, ttl_ms in requests]
        return await self._each("trust", proven, lambda one, server, _: server.trust(one[1], one[2], one[3] / 1_000))

    async def give_claim_back(self, namespace: str) -> None:
        if namespace in self._claimed and not self._lost:
            self._claimed.discard(namespace)
            with suppress(StoreUnavailable):
                await self._each("give back", [(namespace,)], lambda _, server, __: server.give_back(self._token))

    async def _each(
        self, name: str, requests: Sequence[Answer], command: Callable[[Answer, RedisServer, str], Reply]
    ) -> list[Reply]:
        """Run a command for each request, whose first part is its namespace, in one packet."""
        if self._lost:
            raise StoreUnavailable(f"{name}: this audit's connection is lost")
        try:
            connection = self._connection = self._connection or await connect(self._route, self._wire)
            return await self._wire.call(name, lambda: [_run(connection, request, command) for request in requests])
        except (Disconnected, RedisError) as error:
            self._lost = True
            raise StoreUnavailable(f"{name}: {error}") from error
        except BaseException:
            self._lost = True
            raise


def _run(connection: Connection, request: Answer, command: Callable[[Answer, RedisServer, str], Reply]) -> Reply:
    namespace = str(request[0])  # type: ignore[index]  # every request is a tuple that begins with its namespace
    return connection.run(lambda server, identity: command(request, server, identity), space_of(namespace))


class MemorySharedSource(SharedAuditSource):
    """The ``SharedAuditSource`` port: one session, which ends when its server restarts or gives no answer."""

    def __init__(self, postgres: MemoryPostgres, wire: Wire) -> None:
        self._postgres = postgres
        self._wire = wire
        self._incarnation = postgres.incarnation
        self._lost = False

    async def tell_epoch(self, namespace: str) -> str:
        [epoch] = await self._each("epoch", [namespace], self._postgres.tell_epoch)
        if isinstance(epoch, Exception):
            raise epoch
        return epoch

    async def announce(self, requests: Sequence[AnnounceRequest]) -> Sequence[Announced | Deferred | Exception]:
        return await self._each("announce", requests, lambda one: self._postgres.announce(*one))

    async def snapshot(self, requests: Sequence[SnapshotRequest]) -> Sequence[FirstPage | Exception]:
        moments: list[Moment] = []

        def page(request: SnapshotRequest) -> FirstPage:
            if not moments:  # one snapshot for all, which is over when the statement is
                moments.append(self._postgres.take_snapshot(self._wire.client))
                self._postgres.let_go(self._wire.client)
            return self._page(request, moments[0])

        return await self._each("snapshot", requests, page)

    async def complete(self, requests: Sequence[tuple[str, int, str]]) -> Sequence[Exception | None]:
        return await self._each("complete", requests, lambda one: self._postgres.complete(*one))

    def _page(self, request: SnapshotRequest, moment: Moment) -> FirstPage:
        namespace, since, limits, page_rows = request
        self._postgres.admit(namespace)
        known = since is not None and since.xid is not None
        rows = changes_of(self._postgres, namespace, moment, since.xid or 0) if known and since is not None else []
        rival = self._postgres.rival(namespace, limits)
        return FirstPage(moment.epoch, moment.xmin, rows if len(rows) <= page_rows else None, rival)

    async def _each(
        self, name: str, requests: Sequence[Answer], question: Callable[[Answer], Reply]
    ) -> list[Reply | Exception]:
        """Run a statement for each request in one round trip; a table that refuses fails its request alone."""

        def in_session() -> list[Reply | Exception]:
            if self._incarnation != self._postgres.incarnation:
                raise Disconnected("the session is gone")
            self._postgres.answer()
            return [_answer(question, request) for request in requests]

        if self._lost:
            raise SourceUnavailable(f"{name}: this audit's session is lost")
        try:
            return await self._wire.call(name, in_session)
        except Disconnected as error:
            self._lost = True
            raise SourceUnavailable(f"{name}: {error}") from error
        except BaseException:
            self._lost = True
            raise


def _answer(question: Callable[[Answer], Reply], request: Answer) -> Reply | Exception:
    try:
        return question(request)
    except Refused as error:
        return SourceUnavailable(str(error))


class MemorySession:
    """What a change is given: it notes what to do with each key."""

    def __init__(self) -> None:
        self.changes: dict[str, Change] = {}
        self.mark = ""


class MemoryTransactions:
    """Transactions over both tables, as ``TableTransactions`` runs them."""

    def __init__(self, postgres: MemoryPostgres, wire: Wire) -> None:
        self._postgres = postgres
        self._wire = wire

    async def commit(
        self,
        wanted: Sequence[tuple[Entity, Sequence[str]]],
        change: Callable[[MemorySession], Awaitable[None]],
        check: Callable[[Sequence[ReadBack]], None],
    ) -> Sequence[ReadBack]:
        """Run ``change`` and commit it; return the last state of every row. Raises as ``transact``."""
        session = MemorySession()
        await change(session)

        def by_table(states: Sequence[State]) -> list[ReadBack]:
            return [
                ReadBack([state for state in states if table_of(state.key) == entity.table], complete=True)
                for entity, _ in wanted
            ]

        states = await transact(
            self._postgres, self._wire, session.changes, session.mark, lambda states: check(by_table(states))
        )
        return by_table(states)
