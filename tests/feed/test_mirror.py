"""The mirror of docs/FEED.md, against a service that crashes, repeats itself and returns to older versions."""

import json
import random
import re
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "FEED.md"
IDS = [f"p{number}" for number in range(8)]


def mirror_code() -> str:
    """The program in the page."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return str(code)


class Crash(Exception):
    """The mirror's process dies."""


class Idle(Exception):
    """The history is over, and the mirror has been told everything."""


class StandIn:
    """A service over rows in memory. Between two requests rows change; a request may kill the mirror before or after it."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.rows: dict[str, tuple[int, int, bool]] = {}
        """Version, number of the change, and whether the product is there, by id."""
        self.epoch = self.change = self.mark = 0
        self.saved = dict(self.rows)
        self.left = self.chance.randint(10, 60)
        """Steps of the history that are still to come."""

    def get(self, url: str, params: dict[str, Any] | None = None, timeout: float = 5) -> httpx.Response:
        del timeout
        request = httpx.Request("GET", f"http://larder{url}", params=params)
        self._live()
        if self._dies():
            raise Crash
        response = self._list(request) if request.url.path == "/products" else self._changes(request)
        self._live()
        if self._dies():
            raise Crash
        return response

    def _live(self) -> None:
        for _ in range(self.chance.randint(0, 3)):
            if self.left:
                self.left -= 1
                self._step()
        if not self.left:
            self.mark = self.change

    def _step(self) -> None:
        kind = self.chance.random()
        if kind < 0.7:
            product_id = self.chance.choice(IDS)
            version, _, there = self.rows.get(product_id, (0, 0, False))
            self.change += 1
            self.rows[product_id] = (version + 1, self.change, not there or self.chance.random() < 0.7)
        elif kind < 0.9:
            self.mark = self.change
        elif kind < 0.95:
            self.saved = dict(self.rows)
        else:  # a restore
            self.rows = dict(self.saved)
            self.epoch += 1
            self.mark = self.change

    def _dies(self) -> bool:
        return self.left > 0 and self.chance.random() < 0.1

    def _list(self, request: httpx.Request) -> httpx.Response:
        after = request.url.params.get("after", "")
        found = sorted(name for name, (_, _, there) in self.rows.items() if there and name > after)[:2]
        items = [{"id": name, "version": self.rows[name][0]} for name in found]
        link = {"Link": f'</products?limit=250&after={found[-1]}>; rel="next"'} if found else {}
        return httpx.Response(200, json={"items": items}, headers=link, request=request)

    def _changes(self, request: httpx.Request) -> httpx.Response:
        after = request.url.params.get("after")
        present = json.dumps([self.epoch, self.mark])
        if after is None:
            return httpx.Response(200, json={"items": [], "next": present}, request=request)
        epoch, since = json.loads(after)
        if epoch != self.epoch:
            return httpx.Response(410, request=request)
        if since == self.mark == self.change and not self.left:
            raise Idle
        since -= self.chance.choice((0, 0, 3))  # at least once
        told = [
            {"id": name, "version": version, "product": {"id": name, "version": version} if there else None}
            for name, (version, change, there) in sorted(self.rows.items())
            if since < change <= self.mark
        ]
        return httpx.Response(200, json={"items": told, "next": present}, request=request)


def mirrored(code: str, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a history; what the mirror shows at the end, and what it should."""
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)  # noqa: S102 - the text of our own page
    service, db = StandIn(seed), sqlite3.connect(":memory:")
    while True:
        try:
            names["keep_mirror"](db, service)
        except Crash:
            db.rollback()
        except Idle:
            break
    shown = {name: json.loads(body) for name, body in db.execute("SELECT id, body FROM mirror WHERE body IS NOT NULL")}
    return shown, {name: {"id": name, "version": row[0]} for name, row in service.rows.items() if row[2]}


def test_the_mirror_ends_equal() -> None:
    """Whatever happens on the way."""
    code = mirror_code()
    for seed in range(300):
        shown, there = mirrored(code, seed)
        assert shown == there, seed


MUTANTS = {
    "the list before the cursor": (
        'cursor, url = http.get("/changes").raise_for_status().json()["next"], "/products?limit=250"',
        'cursor, url = None, "/products?limit=250"',
        '    with db:\n        db.execute("DELETE',
        '    cursor = http.get("/changes").json()["next"]\n    with db:\n        db.execute("DELETE',
    ),
    "no removal": ('db.execute("DELETE FROM mirror WHERE run < ?", (run,))', "pass"),
    "no runs": (
        "WHERE excluded.run > mirror.run OR excluded.version > mirror.version",
        "WHERE excluded.version > mirror.version",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_every_part_of_the_mirror_is_needed(name: str) -> None:
    """Without it, some history ends with another copy."""
    code = mirror_code()
    changes = MUTANTS[name]
    for part, without in zip(changes[::2], changes[1::2], strict=True):
        assert code.count(part) == 1
        code = code.replace(part, without)
    assert any(shown != there for shown, there in (mirrored(code, seed) for seed in range(300)))
