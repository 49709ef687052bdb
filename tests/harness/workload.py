"""The clients. They read and write a few keys over HTTP at a given rate, and record what they saw."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from tests.harness.client import Answer, NoAnswerError
from tests.harness.cluster import Cluster, Instance
from tests.harness.faultlog import FaultLog
from tests.harness.history import Failure, History, SeenRead, SeenWrite

_UNCHANGED = ("database-unavailable", "overloaded")
"""Problems of status 503 that say that nothing was done."""
SUSPECT_S = 5.0
_READ = (200, 404)
_STATUS = {
    "larder; hit": "hit",
    "larder; fwd=miss": "miss",
    "larder; fwd=miss; stored": "stored",
    "larder; fwd=request": "refreshed",
    "larder; fwd=request; stored": "refreshed",
}


@dataclass(frozen=True, slots=True)
class Load:
    """The number of clients, the mean pause of each between two requests, and what the writers do.

    ``counts_only``: writers change existing products and neither delete nor create; needed where epochs change, because
    then a product's name, which tells its epoch, must be given by the test alone.
    """

    readers: int = 20
    reader_pause_s: float = 0.008
    writers: int = 8
    writer_pause_s: float = 0.08
    hot: int = 8
    cold: int = 40
    counts_only: bool = False


class Workload:
    """Readers and writers on all instances, or on some. ``epoch`` is the number with which names of products begin."""

    def __init__(
        self,
        cluster: Cluster,
        history: History,
        faults: FaultLog,
        load: Load,
        chance: Random,
        *,
        instances: Sequence[Instance] | None = None,
        epoch: int = 0,
    ) -> None:
        self.hot = [f"hot-{number}" for number in range(load.hot)]
        self.cold = [f"cold-{number}" for number in range(load.cold)]
        self._cluster = cluster
        self._instances = cluster.instances if instances is None else instances
        self._epoch = epoch
        self.history = history
        self._faults = faults
        self._load = load
        self._chance = chance
        self._mark = 1_000
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._suspects: dict[str, tuple[float, float]] = {}
        self._seen: dict[str, int] = {}
        self.latencies: list[tuple[str, int, float, float]] = []
        """Kind, instance, call time and return time of every answered write."""

    async def fill(self) -> None:
        """Create all products."""
        keys = [*self.hot, *self.cold]
        items = [{"id": key, "name": f"e{self._epoch} {key}", "price_cents": 1, "stock": 1} for key in keys]
        batch = Order("batch", tuple(keys), self.next_mark(), "POST", "/products/batch", {"items": items})
        if not await self.write(self._instances[0], batch):
            raise RuntimeError("the products were not created")

    def start(self) -> None:
        """Start the clients."""
        self._stopping = False
        self._tasks = [asyncio.create_task(self._reader()) for _ in range(self._load.readers)]
        self._tasks += [asyncio.create_task(self._writer()) for _ in range(self._load.writers)]

    async def stop(self) -> None:
        """Let every client finish its request, and raise the error of a client that failed."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        self._tasks = []

    def check_alive(self) -> None:
        """Raise the error of a client, if one has failed."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    def seen(self, key: str) -> int | None:
        """Return the version of a row that was seen last."""
        return self._seen.get(key)

    def next_mark(self) -> int:
        """Return a number that no write has used yet."""
        self._mark += 1
        return self._mark

    # ------------------------------------------------------------------ reads

    async def _reader(self) -> None:
        chance = self._chance
        while not self._stopping:
            instance = chance.choice(self._instances)
            dice = chance.random()
            if dice < 0.08:
                keys = chance.sample([*self.hot, *self.cold], chance.randint(3, 8))
                served = await self._read_many(instance, keys)
            elif dice < 0.12:
                served = await self.read(instance, self._key(), "read no-cache", "Cache-Control: no-cache\r\n")
            elif dice < 0.15:
                served = await self.read(instance, self._key(), "read stale-if-error", "Cache-Control: stale-if-error=5\r\n")
            else:
                served = await self.read(instance, self._key())
            # A client whose request failed waits a little, as clients do.
            await asyncio.sleep(chance.expovariate(1 / self._load.reader_pause_s) if served else 0.05)

    def _key(self) -> str:
        dice = self._chance.random()
        if dice < 0.3 and self._suspects:
            return self._chance.choice(list(self._suspects))
        return self._chance.choice(self.hot if dice < 0.8 else self.cold)

    async def read(self, instance: Instance, key: str, kind: str = "read", headers: str = "") -> bool:
        """Read one product and record the answer; return whether it was served."""
        return await self.fetch(instance, [key], kind, f"/products/{key}", headers)

    async def _read_many(self, instance: Instance, keys: Sequence[str]) -> bool:
        return await self.fetch(instance, keys, "read many", "/products?" + "&".join(f"id={key}" for key in keys))

    async def fetch(
        self, instance: Instance, keys: Sequence[str], kind: str, path: str, headers: str = "", *, namespace: str = "products"
    ) -> bool:
        """Send a read of some rows and record the answer; return whether it was served."""
        called = time.monotonic()
        try:
            answer = await instance.endpoint.request("GET", path, headers=headers)
        except NoAnswerError as error:
            self._fail(instance, kind, called, f"no answer: {error}")
            return False
        if answer.status not in _READ:
            self._fail(instance, kind, called, f"{answer.status} {answer.body[:300].decode(errors='replace')}")
            return False
        returned = time.monotonic()
        self.history.counts["HTTP requests that read, answered"] += 1
        found = {state.key: state for state in self.history.states(answer)}
        status, flagged = _status(answer)
        for key in keys:
            state = found.get(key)
            if state is not None:
                self._seen[key] = state.version
            seen = SeenRead(
                key=key,
                called=called,
                returned=returned,
                version=state.version if state else None,
                flagged=flagged,
                status=status,
                epoch_order=state.epoch_order if state else 0,
                namespace=namespace,
                instance=instance.number,
                kind=kind,
            )
            self.history.reads.append(seen)
            self._count_suspect(seen)
        return True

    def _count_suspect(self, seen: SeenRead) -> None:
        suspect = self._suspects.get(seen.key)
        if suspect is not None and not seen.flagged:
            since, until = suspect
            if since <= seen.called < until:
                self.history.counts["reads on keys whose publish failed in the last 5 s"] += 1
                self.history.counts["of those, unflagged hits"] += seen.status == "hit"
            elif seen.called >= until:
                del self._suspects[seen.key]

    def _fail(self, instance: Instance, kind: str, called: float, text: str, keys: tuple[str, ...] = ()) -> None:
        self.history.failures.append(Failure(called, time.monotonic(), instance.number, kind, text, keys))

    # ----------------------------------------------------------------- writes

    async def _writer(self) -> None:
        chance = self._chance
        while not self._stopping:
            instance = chance.choice(self._instances)
            key = chance.choice(self.hot if chance.random() < 0.8 else self.cold)
            acknowledged = await self._write_somehow(instance, key)
            if acknowledged:
                # What was acknowledged must be seen everywhere at once.
                await asyncio.gather(*(self.read(other, key) for other in self._instances))
            await asyncio.sleep(chance.expovariate(1 / self._load.writer_pause_s) if acknowledged else 0.05)

    async def _write_somehow(self, instance: Instance, key: str) -> bool:
        dice = self._chance.random()
        if dice < 0.55:
            return await self.write(instance, count(key, self.next_mark()))
        if dice < 0.75 or self._load.counts_only:
            mark = self.next_mark()
            return await self.write(instance, Order("patch", (key,), mark, "PATCH", f"/products/{key}", {"price_cents": mark}))
        if dice < 0.83:
            return await self.write(instance, self._put("put", key))
        if dice < 0.90:
            return await self.write(instance, self._batch(key))
        version = self.seen(key)
        if version is not None:
            # Of the version seen last: if it happens, the tombstone's version is the next one.
            delete = Order("delete", (key,), self.next_mark(), "DELETE", f"/products/{key}", deletes=version)
            await self.write(instance, delete)
        return await self.write(instance, self._put("re-create", key))

    def _put(self, kind: str, key: str) -> "Order":
        mark = self.next_mark()
        return Order(kind, (key,), mark, "PUT", f"/products/{key}", {"name": f"e{self._epoch} {key}", "price_cents": mark})

    def _batch(self, key: str) -> "Order":
        mark = self.next_mark()
        others = self._chance.sample([*self.hot, *self.cold], self._chance.randint(1, 5))
        keys = tuple(dict.fromkeys([key, *others]))
        items = [{"id": other, "name": f"e{self._epoch} {other}", "price_cents": mark} for other in keys]
        return Order("batch", keys, mark, "POST", "/products/batch", {"items": items})

    async def write(self, instance: Instance, order: "Order") -> bool:
        """Send a write and record its answer; return whether it was acknowledged."""
        body = b"" if order.document is None else json.dumps(order.document).encode()
        headers = "" if order.deletes is None else f'If-Match: "{order.deletes}"\r\n'
        called = time.monotonic()
        instance.writing += 1
        try:
            answer = await instance.endpoint.request(order.method, order.path, headers=headers, body=body)
            text = (
                str(answer.status) if answer.status < 300 else f"{answer.status} {answer.body[:300].decode(errors='replace')}"
            )
        except NoAnswerError as error:
            answer, text = None, f"no answer: {error}"
            if not error.sent:
                self._fail(instance, "write " + order.kind, called, text, order.keys)
                return False
        finally:
            instance.writing -= 1
        plain = SeenWrite(
            key="",
            called=called,
            returned=time.monotonic(),
            version=None if order.deletes is None else order.deletes + 1,
            acknowledged=answer is not None and answer.status < 300,
            deleted=order.deletes is not None,
            instance=instance.number,
            kind=order.kind,
            answer=text,
        )
        if answer is None or answer.status >= 500 or answer.status == 400:
            self._fail(instance, "write " + order.kind, called, text, order.keys)
        if answer is None or answer.status >= 300:
            changed_nothing = answer is not None and (answer.status < 500 or any(slug in text for slug in _UNCHANGED))
            self._refuse(order, plain, unchanged=changed_nothing)
            return False
        self.latencies.append((order.kind, instance.number, called, plain.returned))
        self._acknowledge(order, plain, answer)
        return True

    def _refuse(self, order: "Order", plain: SeenWrite, *, unchanged: bool) -> None:
        self.history.counts["writes refused" if unchanged else "writes of unknown outcome"] += 1
        for key in order.keys:
            if unchanged:
                # A delete that did not happen must not explain an absence.
                self.history.refused(replace(plain, key=key, version=None, deleted=False), order.mark)
            else:
                self.history.writes.append(replace(plain, key=key))

    def _acknowledge(self, order: "Order", plain: SeenWrite, answer: Answer) -> None:
        troubled = self._faults.overlapping(("redis",), plain.instance, plain.called, plain.returned)
        self.history.counts["writes acknowledged"] += 1
        self.history.counts["writes acknowledged with Redis in trouble"] += troubled
        left: dict[str, tuple[int | None, int]] = {
            state.key: (state.version, state.epoch_order) for state in self.history.states(answer)
        }
        if order.kind == "batch":
            left = {entry["id"]: (entry["version"], self._epoch) for entry in json.loads(answer.body)["results"]}
        for key in order.keys:
            version, epoch = (plain.version, self._epoch) if plain.deleted else left[key]
            self.history.writes.append(replace(plain, key=key, version=version, epoch_order=epoch))
            if version is not None:
                self._seen[key] = version
            if troubled and order.of_products:
                self._suspects[key] = (plain.returned, plain.called + SUSPECT_S)


@dataclass(frozen=True, slots=True)
class Order:
    """A write to send. ``deletes`` is the version that a delete names.

    Without ``of_products`` its keys are not among those that the readers of products read more often after a failed publish.
    """

    kind: str
    keys: tuple[str, ...]
    mark: int
    method: str
    path: str
    document: object = None
    deletes: int | None = None
    of_products: bool = True


def count(key: str, mark: int) -> Order:
    """Return a write that sets a product's stock to the mark."""
    return Order("count", (key,), mark, "PUT", f"/products/{key}/stock", {"stock": mark})


def _status(answer: Answer) -> tuple[str, bool]:
    text = answer.header(b"cache-status")
    flagged = "detail=unverified" in text
    known = _STATUS.get(text)
    return ("unverified" if flagged else known or ("bypass" if "fwd=bypass" in text else "mixed")), flagged
