"""Three processes of `examples/rates.py` behind proxies, and clients that read and write rates and record what they saw."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random

import psycopg

from tests.harness.client import Answer, NoAnswerError
from tests.harness.cluster import Cluster, Instance, an_instance, start_cluster
from tests.harness.history import Failure, History, SeenRead, SeenWrite
from tests.harness.proxy import HOST
from tests.harness.servers import create_database
from tests.wheel.conftest import ROOT

RATES = 8
_FIRST_RATES = "INSERT INTO rates (room, price, valid_from) SELECT 'blue', 1, '2027-01-01' FROM generate_series(1, %s)"
_READERS, _WRITERS = 12, 4
_TRUSTED_S = 20.0


@asynccontextmanager
async def start_hotel(directory: Path, site: Path, migration: Sequence[str]) -> AsyncIterator[Cluster]:
    """Start servers and three services, whose `larder_cache` is in ``site``, on a database that Larder has never seen."""

    def rates(instance: Instance, database: str) -> tuple[Sequence[str], Mapping[str, str]]:
        uvicorn = [sys.executable, "-m", "uvicorn", "--app-dir", str(ROOT / "examples"), "rates:app", "--host", HOST]
        # Longer than any pause of a client: a connection that ends when a request is sent says nothing of the cache.
        command = [*uvicorn, "--port", str(instance.endpoint.port), "--timeout-keep-alive", "60", "--log-level", "warning"]
        urls = {"DATABASE_URL": instance.database_url(database), "REDIS_URL": instance.redis_url}
        return command, {**urls, "PYTHONPATH": str(site)}

    async with AsyncExitStack() as opened:
        cluster = await opened.enter_async_context(start_cluster(directory, instances=0))
        cluster.database = "hotel"
        await create_database(cluster.postgres.url, cluster.database)
        async with await psycopg.AsyncConnection.connect(cluster.url) as connection:
            for statement in migration:
                await connection.execute(statement.encode())
            await connection.execute(
                "INSERT INTO rates (room, price, valid_from) SELECT 'blue', 1, '2027-01-01' FROM generate_series(1, %s)",
                [RATES],
            )
        for number in range(3):
            cluster.instances.append(await opened.enter_async_context(an_instance(cluster, number, program=rates)))
        await asyncio.gather(*(instance.restart(cluster.database) for instance in cluster.instances))
        yield cluster


class Clients:
    """Readers and writers on all instances. Each write has a price that no other has."""

    def __init__(self, cluster: Cluster, history: History, chance: Random) -> None:
        self._instances = cluster.instances
        self._history = history
        self._chance = chance
        self._price = 1
        self._bodies: dict[tuple[int, int], bytes] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    def start(self) -> None:
        """Start the clients."""
        self._tasks = [asyncio.create_task(self._reader()) for _ in range(_READERS)]
        self._tasks += [asyncio.create_task(self._writer()) for _ in range(_WRITERS)]

    async def stop(self) -> None:
        """Let every client finish its request, and raise the error of a client that failed."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def until_trusted(self) -> None:
        """Wait until every instance answers with hits. Raises ``TimeoutError``."""
        async with asyncio.timeout(_TRUSTED_S):
            for instance in self._instances:
                while await self.read(instance, 1) != "hit":
                    await asyncio.sleep(0.02)

    async def read(self, instance: Instance, number: int) -> str:
        """Read a rate and record the answer; return what the cache did, or nothing if the request was not served."""
        called = time.monotonic()
        answer = await self._request(instance, "read", "GET", f"/rates/{number}")
        if answer is None:
            return ""
        status = answer.header(b"cache-status").removeprefix("rates; ")
        version = self._version(number, answer)
        self._history.reads.append(
            SeenRead(
                key=str(number),
                called=called,
                returned=time.monotonic(),
                version=version,
                status=status,
                instance=instance.number,
                kind="read",
            )
        )
        return status

    async def write(self, instance: Instance, number: int) -> bool:
        """Change a price and record the answer; return whether the write was acknowledged."""
        self._price += 1
        price, called = self._price, time.monotonic()
        instance.writing += 1
        answer = await self._request(instance, "write", "PUT", f"/rates/{number}/price?price={price}")
        instance.writing -= 1
        version = None if answer is None else self._version(number, answer)
        self._history.writes.append(
            SeenWrite(
                key=str(number),
                called=called,
                returned=time.monotonic(),
                version=version,
                acknowledged=answer is not None,
                instance=instance.number,
                kind="write",
            )
        )
        assert answer is None or json.loads(answer.body)["price"] == f"{price}.00"
        return answer is not None

    async def _request(self, instance: Instance, kind: str, method: str, path: str) -> Answer | None:
        called = time.monotonic()
        try:
            answer = await instance.endpoint.request(method, path)
            if answer.status == 200:
                return answer
            text = f"{answer.status} {answer.body.decode(errors='replace')}"
        except NoAnswerError as error:
            text = f"no answer: {error}"
        self._history.failures.append(Failure(called, time.monotonic(), instance.number, kind, text))
        return None

    def _version(self, number: int, answer: Answer) -> int:
        """Return the version in an answer, which has one body, whoever gives it."""
        version = int(json.loads(answer.body)["version"])
        assert answer.header(b"etag") == f'"{version}"'
        assert self._bodies.setdefault((number, version), answer.body) == answer.body
        return version

    async def _reader(self) -> None:
        while not self._stopping:
            served = await self.read(self._chance.choice(self._instances), self._chance.randint(1, RATES))
            await asyncio.sleep(self._chance.expovariate(1 / 0.008) if served else 0.05)

    async def _writer(self) -> None:
        while not self._stopping:
            number = self._chance.randint(1, RATES)
            if await self.write(self._chance.choice(self._instances), number):
                # What was acknowledged must be seen everywhere at once.
                await asyncio.gather(*(self.read(other, number) for other in self._instances))
            await asyncio.sleep(self._chance.expovariate(1 / 0.08))
