"""The HTTP API on real servers against a model that is simple enough to be believed."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from typing_extensions import override

from tests.api.real import proven, service

IDS = st.sampled_from(["a", "b", "c"])
KEYS = st.none() | st.integers(0, 5)
TAGS = st.sampled_from(["none", "none", "current", "old", "any"])
STOCKS = st.integers(0, 6)
DELTAS = st.integers(-6, 6).filter(bool)
_examples = count()

Call = Callable[..., httpx.Response]


@dataclass
class Shelf:
    """A product as the model sees it. ``version`` goes on through deletion."""

    there: bool = False
    stock: int = 0
    name: str = ""
    version: int = 0


@dataclass(frozen=True)
class Sent:
    """A request with a key, and what was answered."""

    method: str
    url: str
    body: str
    if_match: str | None
    status: int
    content: bytes
    etag: str | None


class Model(RuleBasedStateMachine):
    """Each rule says from the model alone what the service must answer, then asks it."""

    call: Call

    def __init__(self) -> None:
        super().__init__()
        self.space = f"x{next(_examples)}-"
        self.shelves = {name: Shelf() for name in "abc"}
        self.kept: dict[str, Sent] = {}

    def _url(self, name: str, rest: str = "") -> str:
        return f"/products/{self.space}{name}{rest}"

    def _tag(self, name: str, choice: str) -> str | None:
        version = self.shelves[name].version
        return {"none": None, "current": f'"{version}"', "old": f'"{max(0, version - 1)}"', "any": "*"}[choice]

    def _ask(self, method: str, url: str, body: object, key: int | None, if_match: str | None = None) -> tuple[int, Any] | None:
        """Send it. ``None`` if the key was used: then the answer was checked here and nothing may have changed."""
        text = json.dumps(body) if body is not None else ""
        headers = {"Content-Type": "application/json"} | ({"If-Match": if_match} if if_match else {})
        name = f"{self.space}{key}"
        if key is not None:
            headers["Idempotency-Key"] = f'"{name}"' if key % 2 else name
        answer = self.call(method, url, content=text, headers=headers)
        if key is not None and (sent := self.kept.get(name)):
            if (sent.method, sent.url, sent.body, sent.if_match) == (method, url, text, if_match):
                assert (answer.status_code, answer.content, answer.headers.get("ETag")) == (
                    sent.status,
                    sent.content,
                    sent.etag,
                )
                assert answer.headers["Idempotent-Replayed"] == "true"
            else:
                assert (answer.status_code, answer.json()["type"]) == (422, "/problems/idempotency-key-reused")
            return None
        assert "Idempotent-Replayed" not in answer.headers
        if key is not None and (answer.is_success or answer.status_code in {404, 409, 412}):
            etag = answer.headers.get("ETag")
            self.kept[name] = Sent(method, url, text, if_match, answer.status_code, answer.content, etag)
        return answer.status_code, answer.json() if answer.content else None

    def _refusal(self, name: str, tag: str) -> int | None:
        """404 or 412, if one of them it is."""
        shelf = self.shelves[name]
        if not shelf.there:
            return 404
        return 412 if tag == "old" else None

    @rule(name=IDS, stock=STOCKS, key=KEYS)
    def create(self, name: str, stock: int, key: int | None) -> None:
        shelf = self.shelves[name]
        body = {"id": self.space + name, "name": "new", "price_cents": 1, "stock": stock}
        if told := self._ask("POST", "/products", body, key):
            assert told[0] == (409 if shelf.there else 201)
            if not shelf.there:
                self.shelves[name] = Shelf(there=True, stock=stock, name="new", version=shelf.version + 1)

    @rule(name=IDS, title=st.sampled_from(["one", "two"]), stock=st.none() | STOCKS, tag=TAGS, key=KEYS)
    def put(self, name: str, title: str, stock: int | None, tag: str, key: int | None) -> None:
        shelf = self.shelves[name]
        body = {"name": title, "price_cents": 1} | ({} if stock is None else {"stock": stock})
        told = self._ask("PUT", self._url(name), body, key, self._tag(name, tag))
        if not told:
            return
        if not shelf.there:
            assert told[0] == (201 if tag == "none" else 412)
            if tag == "none":
                self.shelves[name] = Shelf(there=True, stock=stock or 0, name=title, version=shelf.version + 1)
        elif stock is not None and tag == "none":
            assert told[0] == 428
        elif tag == "old":
            assert told[0] == 412
        else:
            assert told[0] == 200
            if stock is not None or title != shelf.name:
                shelf.version += 1
            shelf.name, shelf.stock = title, shelf.stock if stock is None else stock

    @rule(name=IDS, title=st.sampled_from(["one", "two"]), tag=TAGS, key=KEYS)
    def patch(self, name: str, title: str, tag: str, key: int | None) -> None:
        shelf = self.shelves[name]
        if told := self._ask("PATCH", self._url(name), {"name": title}, key, self._tag(name, tag)):
            assert told[0] == (self._refusal(name, tag) or 200)
            if told[0] == 200:
                shelf.version += title != shelf.name
                shelf.name = title

    @rule(name=IDS, tag=TAGS, key=KEYS)
    def delete(self, name: str, tag: str, key: int | None) -> None:
        shelf = self.shelves[name]
        if told := self._ask("DELETE", self._url(name), None, key, self._tag(name, tag)):
            assert told[0] == (self._refusal(name, tag) or 204)
            if told[0] == 204:
                self.shelves[name] = Shelf(version=shelf.version + 1)

    @rule(name=IDS, stock=STOCKS, tag=TAGS, key=KEYS)
    def count(self, name: str, stock: int, tag: str, key: int | None) -> None:
        shelf = self.shelves[name]
        if told := self._ask("PUT", self._url(name, "/stock"), {"stock": stock}, key, self._tag(name, tag)):
            assert told[0] == (self._refusal(name, tag) or 200)
            if told[0] == 200:
                shelf.stock, shelf.version = stock, shelf.version + 1

    @rule(name=IDS, delta=DELTAS, tag=TAGS, key=KEYS)
    def adjust(self, name: str, delta: int, tag: str, key: int | None) -> None:
        shelf = self.shelves[name]
        body = {"delta": delta, "reason": "sale"}
        if told := self._ask("POST", self._url(name, "/stock/adjustments"), body, key, self._tag(name, tag)):
            enough = shelf.stock + delta >= 0
            assert told[0] == (self._refusal(name, tag) or (200 if enough else 409))
            if told[0] == 200:
                shelf.stock, shelf.version = shelf.stock + delta, shelf.version + 1
                movement = told[1]["movement"]
                assert (movement["delta"], movement["stock_after"]) == (delta, shelf.stock)
            elif told[0] == 409:
                [shortage] = told[1]["shortages"]
                assert (shortage["available"], shortage["requested"]) == (shelf.stock, -delta)

    @rule(lines=st.lists(st.tuples(IDS, DELTAS), min_size=1, max_size=5), key=KEYS)
    def adjust_many(self, lines: list[tuple[str, int]], key: int | None) -> None:
        body = {"lines": [{"product_id": self.space + name, "delta": delta} for name, delta in lines], "reason": "other"}
        told = self._ask("POST", "/stock/adjustments", body, key)
        if not told:
            return
        net: dict[str, int] = {}
        for name, delta in lines:
            net[name] = net.get(name, 0) + delta
        missing = [self.space + name for name in net if not self.shelves[name].there]
        short = {self.space + name for name, delta in net.items() if self.shelves[name].stock + delta < 0}
        assert told[0] == (404 if missing else 409 if short else 200)
        if missing:
            assert told[1]["missing"] == missing
        elif short:
            assert {shortage["product_id"] for shortage in told[1]["shortages"]} == short
        else:
            for name, delta in net.items():
                self.shelves[name].stock += delta
                self.shelves[name].version += 1
            after = {name: (self.shelves[name].stock, self.shelves[name].version) for name in net}
            assert [(line["product_id"], line["delta"], line["stock"], line["version"]) for line in told[1]["lines"]] == [
                (self.space + name, delta, *after[name]) for name, delta in lines
            ]

    @rule(names=st.lists(IDS, min_size=1, max_size=3, unique=True), stock=st.none() | STOCKS, key=KEYS)
    def batch(self, names: list[str], stock: int | None, key: int | None) -> None:
        common = {"name": "batch", "price_cents": 1} | ({} if stock is None else {"stock": stock})
        told = self._ask("POST", "/products/batch", {"items": [{"id": self.space + n} | common for n in names]}, key)
        if not told:
            return
        for name, result in zip(names, told[1]["results"], strict=True):
            shelf = self.shelves[name]
            changed = not shelf.there or stock is not None or shelf.name != "batch"
            assert result["outcome"] == ("created" if not shelf.there else "updated" if changed else "unchanged")
            kept = shelf.stock if stock is None else stock
            self.shelves[name] = Shelf(there=True, stock=kept, name="batch", version=shelf.version + changed)
            assert result["version"] == self.shelves[name].version

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        """Whatever was answered with a key is answered again."""
        name = data.draw(st.sampled_from(sorted(self.kept)))
        sent = self.kept[name]
        body = json.loads(sent.body) if sent.body else None
        assert self._ask(sent.method, sent.url, body, int(name.removeprefix(self.space)), sent.if_match) is None

    @invariant()
    def reads_are_current(self) -> None:
        """Every product is as the model has it."""
        for name, shelf in self.shelves.items():
            answer = self.call("GET", self._url(name))
            assert answer.status_code == (200 if shelf.there else 404)
            if shelf.there:
                found = answer.json()
                assert (found["stock"], found["version"], found["name"]) == (shelf.stock, shelf.version, shelf.name)

    @override
    def teardown(self) -> None:
        """Every ledger adds up to its product's stock. Nothing is ever removed from one, so it is read once, at the end."""
        for name, shelf in self.shelves.items():
            if shelf.version:
                ledger = self.call("GET", self._url(name, "/stock/movements?limit=250")).json()["items"]
                assert sum(movement["delta"] for movement in ledger) == shelf.stock
                places = [(movement["version"], movement["line"]) for movement in ledger]
                assert places == sorted(set(places), reverse=True)


@pytest.mark.slow
def test_the_api_is_its_model(database_url: str, redis_url: str, namespace: str) -> None:
    """Any sequence of writes, retries and reused keys leaves the stocks, versions and answers that the model says."""
    with asyncio.Runner() as runner:
        opened = service(database_url, redis_url, namespace)
        client = runner.run(opened.__aenter__())
        try:
            runner.run(proven(client))

            class Machine(Model):
                @staticmethod
                def call(method: str, url: str, **more: Any) -> httpx.Response:
                    return runner.run(client.request(method, url, **more))

            run_state_machine_as_test(
                Machine,
                settings=settings(
                    max_examples=30,
                    stateful_step_count=25,
                    deadline=None,
                    derandomize=True,
                    database=None,
                    phases=[Phase.explicit, Phase.generate, Phase.shrink],
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(opened.__aexit__(None, None, None))
