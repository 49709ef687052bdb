"""``python -m tests.simulation.accepted --seeds N``: histories of accepted writes beside direct ones of the same products.

Senders outlive the processes: each sends its orders one after another, under one idempotency key each, to whichever process
lives, now accepted and now direct, until it has a 202 or the answer. Then every order must be decided exactly once, after every
order of its products that was answered before it was sent; and a status that says "done" binds the reads that follow.

Some orders are direct and have no key. They are sent once: an answer says that they were carried out, an error that they were
not, and only an unknown outcome leaves it open.
"""

# ruff: noqa: T201 - a command's answer is what it prints

import argparse
import asyncio
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar, cast

from typing_extensions import override

from app.products.accepted import Decided
from app.products.errors import OutcomeUnknown
from tests.fakes.product_tables import ProductPostgres, columns_of
from tests.fakes.write_path import OPERATOR
from tests.harness.checker import Write
from tests.simulation.faults import Fate, Plan
from tests.simulation.loop import PROCESS
from tests.simulation.nemesis import PROCESS_DEEDS, REDIS_DEEDS
from tests.simulation.parts import SHIPPED, Parts
from tests.simulation.runner import PATIENCE_S, Outcome, Play, Scenario, simulate
from tests.simulation.shop import SHIPPED as SHIPPED_SHOP
from tests.simulation.shop import Order, Shipped, Shop, Versions, versions_of
from tests.simulation.workload import Client
from tests.simulation.world import Process, World

Reply = TypeVar("Reply")
PARTS = replace(SHIPPED, postgres=ProductPostgres)
STOCK = 10
_DEEDS = frozenset({*REDIS_DEEDS, *PROCESS_DEEDS, "cut_postgres", "restart_postgres"})
"""Those after which nothing that was acknowledged is gone."""
_ANSWER_S = 5.0


def scenario_of(chance: random.Random) -> Scenario:
    """A scenario by chance, of one table."""
    drawn = Scenario.of(chance)
    deeds = tuple(deed for deed in drawn.deeds if deed in _DEEDS)
    return replace(drawn, keys=("a", "b", "c")[: chance.choice((1, 2, 3))], deeds=deeds)


@dataclass(slots=True)
class Sent:
    """An order that was sent, in the ticks of the history."""

    order: Order
    called: int
    answered: int = 0
    """When it had a 202 or its answer; 0 before that."""


class Reader(Client):
    """A client that only reads."""

    @override
    async def act(self) -> None:
        chance = self._world.chance
        key = chance.choice(self._keys)
        if chance.random() < 0.05:
            await self.drop(key)
        else:
            await self.read(key, refresh=chance.random() < 0.1)


class AcceptedPlay(Play):
    """Plays a scenario whose writes are orders."""

    def __init__(self, world: World, scenario: Scenario, *, shipped: Shipped) -> None:
        super().__init__(world, scenario)
        self._shipped = shipped
        self._shops: dict[str, Shop] = {}
        self._sent: list[Sent] = []
        self._refused: set[int] = set()
        """The numbers of the orders without a key of which the sender was told that nothing was changed."""
        self._most_rows = world.chance.choice((3, 100_000))
        self._postgres = cast("ProductPostgres", world.postgres)

    @override
    async def play(self) -> None:
        world = self._world
        for key in self._scenario.keys:
            self._postgres.create(key, STOCK)
        self._senders = [world.spawn(self._send_all()) for _ in range(1 + self._scenario.clients)]
        operator = world.spawn(self._hold_rows()) if self._scenario.postgres_rate else None
        await super().play()
        if operator is not None:
            operator.cancel()

    @override
    def _start_clients(self, process: Process) -> None:
        scenario = self._scenario
        self._shops[process.name] = Shop(process, self._shipped, self._most_rows)
        reader = Reader(self._world, process, scenario.keys, scenario.duration_s, scenario.think_s / 2)
        self._clients.append((process, process.run(reader.run())))

    @override
    async def _finish_clients(self) -> None:
        """In peace, every sender gets its answers, and nothing that was accepted keeps waiting."""
        await super()._finish_clients()
        await asyncio.wait(self._senders, timeout=PATIENCE_S)
        for sender in self._senders:
            if not sender.done():
                self._world.broken("a sender gets no answer in peace")
            elif (error := sender.exception()) is not None:
                self._world.broken(f"a sender broke: {error!r}")
        for _ in range(100):
            if not self._postgres.waiting():
                break
            await asyncio.sleep(0.1)
        if self._postgres.accepted:
            self._world.broken(f"accepted writes are never decided: {list(self._postgres.accepted.values())}")
        self._judge()

    async def _send_all(self) -> None:
        world, scenario, chance = self._world, self._scenario, self._world.chance
        await asyncio.sleep(0.3 * chance.random())
        while world.loop.time() < scenario.duration_s:
            await asyncio.sleep(2 * chance.random() * scenario.think_s)
            keys = scenario.keys
            ids = tuple(chance.sample(keys, 2 if len(keys) > 1 and chance.random() < 0.3 else 1))
            sent = Sent(Order(len(self._sent) + 1, ids), world.history.tick())
            self._sent.append(sent)
            if chance.random() < 0.3:
                versions = await self._send_once(sent)
            elif (versions := await self._send(sent)) is None and chance.random() < 0.5:
                versions = await self._poll(sent.order)
            if versions is not None:
                self._acknowledge(sent, versions)

    async def _send(self, sent: Sent) -> Versions | None:
        """Send an order until it has an answer; ``None`` for a 202."""
        world, order = self._world, sent.order
        while True:
            later = world.chance.random() < 0.7
            shop, process = self._any_shop()
            world.note("SENDER", f"{process.name} {'accept' if later else 'write'} {order.number} of {order.product_ids}")
            answer = await self._call(process, partial(shop.accept if later else shop.write, order))
            if not isinstance(answer, Exception):
                sent.answered = world.history.tick()
                world.note("SENDER", f"{order.number} answered: {answer}")
                world.history.counts["orders accepted" if answer is None else "orders answered"] += 1
                return answer
            world.history.counts[f"order {type(answer).__name__}"] += 1
            await asyncio.sleep(world.chance.random() * 0.3)

    async def _send_once(self, sent: Sent) -> Versions | None:
        """Send an order without a key; ``None`` if it has no answer."""
        world, order = self._world, sent.order
        shop, process = self._any_shop()
        world.note("SENDER", f"{process.name} write once {order.number} of {order.product_ids}")
        answer = await self._call(process, partial(shop.write_once, order))
        if not isinstance(answer, Exception):
            sent.answered = world.history.tick()
            world.history.counts["orders answered once"] += 1
            return answer
        world.history.counts[f"order once {type(answer).__name__}"] += 1
        if not isinstance(answer, OutcomeUnknown | TimeoutError):
            self._refused.add(order.number)
        return None

    async def _poll(self, order: Order) -> Versions | None:
        """Ask for the status until it is done, or for a second."""
        world = self._world
        until = world.loop.time() + 1
        while world.loop.time() < until:
            shop, process = self._any_shop()
            state = await self._call(process, partial(shop.state, order))
            if isinstance(state, Decided):
                world.note("SENDER", f"{order.number} done at {process.name}")
                world.history.counts["orders done"] += 1
                return versions_of(state.answer)
            if state is None:
                world.broken(f"order {order.number} was accepted, and {process.name} does not know it")
            await asyncio.sleep(world.chance.random() * 0.1)
        return None

    async def _call(self, process: Process, call: Callable[[], Awaitable[Reply]]) -> Reply | Exception:
        """Have a process do something; an error if it fails, or gives no answer in time because it is dead or stopped."""
        outcome: list[Reply | Exception] = []

        async def run() -> None:
            try:
                outcome.append(await call())
            except Exception as error:  # noqa: BLE001 - the client is told something, and tries again
                outcome.append(error)

        await asyncio.wait([process.run(run())], timeout=_ANSWER_S)
        return outcome[0] if outcome else TimeoutError("no answer")

    def _any_shop(self) -> tuple[Shop, Process]:
        process = self._world.chance.choice(list(self._world.processes.values()))
        return self._shops[process.name], process

    def _acknowledge(self, sent: Sent, versions: Versions) -> None:
        """The client was told: whoever reads from now on sees it."""
        world = self._world
        for key, version in versions.items():
            order = world.order(self._postgres.epoch)
            write = Write(key, sent.called, world.history.tick(), version, acknowledged=True, epoch_order=order)
            world.history.writes.append(write)

    async def _hold_rows(self) -> None:
        """Somebody locks a product's row, now and then."""
        chance = self._world.chance
        while True:
            await asyncio.sleep(chance.random())
            if self._postgres.down:
                continue
            transaction = self._postgres.begin(OPERATOR)
            self._postgres.try_lock(transaction, ("row", chance.choice(self._scenario.keys)))
            await asyncio.sleep(0.5 * chance.random())
            self._postgres.roll_back(transaction)

    def _judge(self) -> None:
        """The ledger has every order once, in an order that keeps who was answered first, and it adds up."""
        world, postgres = self._world, self._postgres
        found: dict[tuple[str, int], int] = {}
        for movement in postgres.movements:
            if movement["reference"] is not None:
                place = movement["id"], int(movement["reference"])
                if place in found:
                    world.broken(f"order {place[1]} was carried out twice for {place[0]}")
                found[place] = movement["version"]
                if place[1] in self._refused:
                    world.broken(f"order {place[1]} was carried out, and its sender was told that nothing was changed")
        for key in self._scenario.keys:
            of_key = [sent for sent in self._sent if key in sent.order.product_ids and sent.answered]
            for sent in of_key:
                if (key, sent.order.number) not in found:
                    world.broken(f"order {sent.order.number} of {key} was answered and never carried out")
            self._judge_order(key, [sent for sent in of_key if (key, sent.order.number) in found], found)
            deltas = sum(movement["delta"] for movement in postgres.movements if movement["id"] == key)
            stock = STOCK + sum(name == key for name, _ in found)
            if not deltas == stock == _stock_of(postgres, key):
                world.broken(f"{key} has {_stock_of(postgres, key)}, its ledger {deltas}, its orders {stock}")

    def _judge_order(self, key: str, of_key: Sequence[Sent], found: dict[tuple[str, int], int]) -> None:
        for second in of_key:
            for first in of_key:
                if first.answered < second.called and found[key, first.order.number] > found[key, second.order.number]:
                    self._world.broken(
                        f"order {second.order.number} of {key} overtook {first.order.number}, which was answered before"
                    )


def _stock_of(postgres: ProductPostgres, key: str) -> int:
    _name, _price, stock, *_ = columns_of(postgres.rows[key])
    return int(stock)


class KillsAt(Plan):
    """Kills the process that sends the Nth command of the write path, before or after the command has left it."""

    def __init__(self, number: int, *, sent: bool) -> None:
        self._number = number
        self._fate = Fate.CARRIED if sent else Fate.SWALLOWED
        self.world: World | None = None
        self.commands = 0

    @override
    def fate(self, kind: str, name: str) -> Fate:
        if name not in ("statements", "commit", "publish", "lease"):
            return Fate.CARRIED
        self.commands += 1
        if self.commands != self._number:
            return Fate.CARRIED
        assert self.world is not None
        self.world.spawn(_replace(self.world, PROCESS.get()))
        return self._fate


async def _replace(world: World, name: str) -> None:
    [process] = [process for process in world.processes.values() if process.name == name]
    process.kill()
    await asyncio.sleep(0.2)
    world.start_process(process.host)


def play(
    seed: int,
    shipped: Shipped = SHIPPED_SHOP,
    parts: Parts = PARTS,
    *,
    scenario: Scenario | None = None,
    plan: Plan | None = None,
    trace: bool = False,
) -> Outcome:
    """Run and judge the history of a seed."""

    def begin(world: World, scenario: Scenario) -> AcceptedPlay:
        if isinstance(plan, KillsAt):
            plan.world = world
        return AcceptedPlay(world, scenario, shipped=shipped)

    drawn = scenario or scenario_of(random.Random(seed))
    return simulate(seed, parts, scenario=drawn, plan=plan, trace=trace, play=begin)


def main() -> int:
    """Play histories, print the counts and the first bad one; 1 if there was one."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.accepted", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000, help="how many histories")
    parser.add_argument("--start", type=int, default=1, help="the first seed")
    parser.add_argument("--trace", action="store_true", help="print the trace of each history")
    arguments = parser.parse_args()
    totals: Counter[str] = Counter()
    bad: list[int] = []
    for seed in range(arguments.start, arguments.start + arguments.seeds):
        outcome = play(seed, trace=arguments.trace)
        totals.update(outcome.counts)
        verdict = outcome.verdict
        totals.update({"reads checked": verdict.checked, "hits": verdict.hits, "bound": verdict.bound})
        if arguments.trace:
            print(*outcome.trace, sep="\n")
        if outcome.bad:
            bad.append(seed)
            print(f"seed {seed}: {outcome.first()}", *outcome.broken[:3], sep="\n  ")
    for name, number in sorted(totals.items()):
        print(f"{name:32} {number:12,}")
    print(f"{arguments.seeds} histories from {arguments.start}: {len(bad)} bad {bad[:20]}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
