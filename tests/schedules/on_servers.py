"""The stage on real servers: schedules are forced by gates in front of the adapters, in real time."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Self

import psycopg
import redis.asyncio
from typing_extensions import override

from app.cache.audit import Cycle
from app.cache.config import CacheConfig
from app.cache.errors import SourceUnavailable, StoreUnavailable
from app.cache.ports import State
from app.cache.redis.store import Names
from app.products.commands import Put, delete
from tests.cache.rig import Process, draft, open_process
from tests.schedules.stage import KEY, Member, Stage


class ServerMember(Member):
    """One process on real servers."""

    def __init__(self, process: Process, epochs: dict[str, int]) -> None:
        self.cache = process.cache
        self.redis = process.store.calls
        self.postgres = process.source.calls
        self._process = process
        self._epochs = epochs

    @override
    async def transact(self, content: str, mark: str) -> tuple[Sequence[State], Sequence[State]]:
        del mark
        product = replace(draft(KEY), name=content)
        committed = await self._process.commit(Put(product) if content else delete(KEY))
        return committed.states, committed.states

    @override
    def place_of(self, state: State) -> tuple[str, int]:
        # A stage has one database, and its epochs begin one after the other.
        return state.key, self._epochs.setdefault(state.epoch, len(self._epochs))

    @override
    async def audit(self) -> Cycle | None:
        try:
            while (cycle := await self._process.audit.cycle()) is None:
                await asyncio.sleep(0.001)
        except (StoreUnavailable, SourceUnavailable):
            return None
        return cycle


class ServerStage(Stage[ServerMember]):
    """A stage on one Redis and one PostgreSQL. Leaving its context ends everything that still runs."""

    def __init__(self, redis_url: str, database_url: str, namespace: str, config: CacheConfig) -> None:
        super().__init__(config.fence_ttl_ms / 1000)
        self._at = redis_url, database_url, namespace
        self._config = config
        self._opened = AsyncExitStack()
        self._epochs: dict[str, int] = {}
        self._beside: list[asyncio.Task[Any]] = []
        self._members: list[ServerMember] = []

    async def __aenter__(self) -> Self:
        self._redis = redis.asyncio.Redis.from_url(self._at[0])
        self._opened.push_async_callback(self._redis.aclose)
        return self

    async def __aexit__(self, *_: object) -> None:
        for member in self._members:
            member.redis.let_go()
            member.postgres.let_go()
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        await self._opened.aclose()

    @override
    async def member(self, *, fence_ttl_ms: int | None = None) -> ServerMember:
        config = replace(self._config, fence_ttl_ms=fence_ttl_ms or self._config.fence_ttl_ms)
        process = await self._opened.enter_async_context(open_process(*self._at, config=config))
        self._members.append(ServerMember(process, self._epochs))
        return self._members[-1]

    @override
    async def evict(self) -> None:
        await self._redis.delete(Names(self._at[2]).prefix + KEY)

    @override
    async def forget_watermark(self) -> None:
        await self._redis.delete(Names(self._at[2]).watermark)

    @override
    async def truncate(self) -> None:
        async with await psycopg.AsyncConnection.connect(self._at[1], autocommit=True) as hand:
            await hand.execute("TRUNCATE products")

    @override
    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        self._beside.append(asyncio.create_task(coroutine))
        return self._beside[-1]
