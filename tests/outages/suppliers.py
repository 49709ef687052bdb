"""Clients of a second cached table. Their reads and writes are recorded and judged with those of the products.

Suppliers live in the second namespace of every instance, in a table without tombstones. Some writes change a supplier and a
product in one commit; those products are written by nobody else, so that no other transaction holds them for long.
"""

import asyncio
from dataclasses import dataclass
from random import Random

from tests.harness.client import NoAnswerError
from tests.harness.cluster import Cluster, Instance
from tests.harness.workload import Order, Workload

KIND = "of suppliers"
"""What the kinds of their requests end in."""
NAMESPACE = "suppliers"
_SUPPLIERS = [f"s-{number}" for number in range(12)]
_PRODUCTS = [f"pair-{number}" for number in range(6)]


@dataclass(frozen=True, slots=True)
class SupplierLoad:
    """The number of clients, and the mean pause of each between two requests."""

    readers: int = 6
    reader_pause_s: float = 0.012
    writers: int = 3
    writer_pause_s: float = 0.08


class SupplierClients:
    """Readers and writers of suppliers on all instances."""

    def __init__(self, cluster: Cluster, workload: Workload, chance: Random, load: SupplierLoad | None = None) -> None:
        self.products = _PRODUCTS
        self._cluster = cluster
        self._workload = workload
        self._chance = chance
        self._load = load or SupplierLoad()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def fill(self) -> None:
        """Create the suppliers, and the products that are written together with them."""
        first = self._cluster.instances[0]
        items = [{"id": key, "name": f"e0 {key}", "price_cents": 1, "stock": 1} for key in _PRODUCTS]
        order = Order("batch", tuple(_PRODUCTS), self._workload.next_mark(), "POST", "/products/batch", {"items": items})
        created = [await self._workload.write(first, order)]
        created += [await self._workload.write(first, self._put(key)) for key in _SUPPLIERS]
        if not all(created):
            raise RuntimeError("the suppliers were not created")

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

    async def read_all(self) -> None:
        """Read everything from every instance, and then from PostgreSQL."""
        for instance in self._cluster.instances:
            await self._read(instance, _SUPPLIERS)
        await self._read(self._cluster.instances[0], _SUPPLIERS, "Cache-Control: no-cache\r\n")

    async def _reader(self) -> None:
        chance = self._chance
        while not self._stopping:
            instance = chance.choice(self._cluster.instances)
            keys = chance.sample(_SUPPLIERS, chance.choice((1, 4, 8, 12)))
            fresh = "Cache-Control: no-cache\r\n" if chance.random() < 0.04 else ""
            served = await self._read(instance, keys, fresh)
            if chance.random() < 0.02:
                await self._drop(instance, keys[0])
            await asyncio.sleep(chance.expovariate(1 / self._load.reader_pause_s) if served else 0.05)

    async def _read(self, instance: Instance, keys: list[str], headers: str = "") -> bool:
        path = "/suppliers?" + "&".join(f"id={key}" for key in keys)
        return await self._workload.fetch(instance, keys, f"read {KIND}", path, headers, namespace=NAMESPACE)

    async def _drop(self, instance: Instance, key: str) -> None:
        try:
            await instance.endpoint.request("DELETE", f"/cache/suppliers/{key}")
        except NoAnswerError:
            self._workload.history.counts["invalidations without an answer"] += 1

    async def _writer(self) -> None:
        chance, workload = self._chance, self._workload
        while not self._stopping:
            instance = chance.choice(self._cluster.instances)
            key, product = chance.choice(_SUPPLIERS), ""
            dice = chance.random()
            if dice < 0.35:
                product = chance.choice(_PRODUCTS)
                acknowledged = await workload.write(instance, self._put_both(key, product))
            else:
                if dice < 0.5 and (version := workload.seen(key)) is not None:
                    await workload.write(instance, self._order("delete", "DELETE", (key,), f"/suppliers/{key}", version))
                acknowledged = await workload.write(instance, self._put(key))
            if acknowledged:
                # What was acknowledged must be seen everywhere at once.
                await asyncio.gather(*(self._read(other, [key]) for other in self._cluster.instances))
                if product:
                    await asyncio.gather(*(workload.read(other, product) for other in self._cluster.instances))
            await asyncio.sleep(chance.expovariate(1 / self._load.writer_pause_s) if acknowledged else 0.05)

    def _put(self, key: str) -> Order:
        return self._order("put", "PUT", (key,), f"/suppliers/{key}")

    def _put_both(self, key: str, product: str) -> Order:
        return self._order("put both", "PUT", (key, product), f"/suppliers/{key}/products/{product}")

    def _order(self, kind: str, method: str, keys: tuple[str, ...], path: str, deletes: int | None = None) -> Order:
        mark = self._workload.next_mark()
        document = {"terms": mark} if deletes is None else None
        return Order(f"{kind} {KIND}", keys, mark, method, path, document, deletes, of_products=False)
