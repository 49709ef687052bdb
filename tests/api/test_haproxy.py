"""The recipe for HAProxy, as it is shipped but for its ports and paths, in front of two pairs."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from app.buckets import bucket_of, moved_to, parse_ranges
from app.products.pair import Pair
from tests.api.conftest import Service, new_service
from tests.api.problem import problem
from tests.api.wire import listen
from tests.harness.haproxy import HOST, free_port, haproxy_program, start_haproxy

_RECIPE = Path(__file__).parents[2] / "deploy" / "haproxy" / "pairs.cfg"
_PARTS = {"a": "0-511", "b": "512-1023"}
MUG = {"name": "Mug", "price_cents": 1299, "stock": 5}
IN_A, IN_B = moved_to(0, "first-0000"), moved_to(1023, "last-0000")

pytestmark = pytest.mark.skipif(haproxy_program() is None and "CI" not in os.environ, reason="HAProxy is not installed")


@dataclass
class Front:
    """Two pairs behind one address."""

    pairs: dict[str, Service]
    client: httpx.AsyncClient
    stops: dict[str, AsyncExitStack]

    def places_of(self, product_id: str) -> list[str]:
        """The pairs whose tables have the product."""
        return [name for name, pair in self.pairs.items() if product_id in pair.tables.rows]


def _map(*, swapped: bool) -> str:
    parts = zip("ba" if swapped else "ab", _PARTS.values(), strict=True)
    return "".join(f"{bucket} {name}\n" for name, part in parts for bucket in sorted(parse_ranges(part)))


@asynccontextmanager
async def _front(directory: Path, *, swapped: bool = False) -> AsyncIterator[Front]:
    """Start both pairs, and HAProxy in front of them."""
    (directory / "buckets.map").write_text(_map(swapped=swapped))
    recipe, port = _RECIPE.read_text(), free_port()
    changes = [
        ("127.0.0.1:8080", f"{HOST}:{port}"),
        ("/etc/haproxy/buckets.map", str(directory / "buckets.map")),
        ("/run/haproxy/larder.sock", str(directory / "larder.sock")),
    ]
    async with AsyncExitStack() as opened:
        pairs = {name: new_service(Pair(part)) for name, part in _PARTS.items()}
        stops = {}
        for (name, pair), shipped in zip(pairs.items(), ("192.0.2.1", "192.0.2.2"), strict=True):
            stops[name] = await opened.enter_async_context(AsyncExitStack())
            number = (await stops[name].enter_async_context(listen(pair))).number
            changes += [(f"{shipped}{last}:8000 check", f"{HOST}:{number} check inter 50ms fall 1 rise 1") for last in "12"]
        for shipped, here in changes:
            assert shipped in recipe
            recipe = recipe.replace(shipped, here)
        await opened.enter_async_context(start_haproxy(directory, recipe, port))
        headers = {"Host": "larder"}
        client = httpx.AsyncClient(base_url=f"http://{HOST}:{port}", headers=headers, timeout=20)
        yield Front(pairs, await opened.enter_async_context(client), stops)


async def test_two_pairs_answer_through_it(tmp_path: Path) -> None:
    """Each product has one place, however its id is written; a collection goes by the bucket that the request names."""
    async with _front(tmp_path) as front:
        client = front.client
        for product_id in (IN_A, IN_B, "mug-blue", "batch", "x.y_z-1"):
            assert (await client.put(f"/products/{product_id}", json=MUG)).status_code == 201
            assert (await client.get(f"/products/{product_id}")).json()["id"] == product_id
            assert front.places_of(product_id) == ["a" if bucket_of(product_id) < 512 else "b"]
        assert (await client.put("/products/a%3Ab", json=MUG)).status_code == 201
        assert (await client.get("/products/a:b")).json()["id"] == "a:b"
        assert len(front.places_of("a:b")) == 1
        assert (await client.put("/products/a:b/stock", json={"stock": 7})).json()["stock"] == 7
        assert (await client.delete("/cache/products/a%3ab")).status_code == 204
        for bucket, place in ((7, "a"), (1000, "b")):
            made = await client.post("/products", json=MUG, headers={"Larder-Bucket": str(bucket)})
            assert front.places_of(made.json()["id"]) == [place]
            again = await client.get(made.headers["Location"])
            assert again.json() == made.json()
        for path in ("/products", "/products/batch"):
            answer = await client.post(path, json=MUG)
            assert (answer.status_code, answer.json()["title"]) == (400, "No pair is named")


async def test_a_reservation_is_found_by_its_id(tmp_path: Path) -> None:
    """A reservation is made where its products are, and each later request about it goes there, too."""
    async with _front(tmp_path) as front:
        for product_id in (IN_A, IN_B):
            await front.client.put(f"/products/{product_id}", json=MUG)
            body = {"lines": [{"product_id": product_id, "quantity": 2}], "expires_in_s": 600}
            named = {"Larder-Bucket": str(bucket_of(product_id))}
            held = await front.client.post("/reservations", json=body, headers=named)
            assert held.status_code == 201
            assert (await front.client.get(held.headers["Location"])).json() == held.json()
            assert (await front.client.post(f"{held.headers['Location']}/commit", json={})).is_success


async def test_a_wrong_map_is_an_error_and_not_a_fork(tmp_path: Path) -> None:
    """Every request that a wrong map sends to the other pair is 421, and creates nothing in either database."""
    async with _front(tmp_path, swapped=True) as front:
        for product_id in (IN_A, IN_B, "mug-blue"):
            problem(await front.client.put(f"/products/{product_id}", json=MUG), "not-here")
            problem(await front.client.get(f"/products/{product_id}"), "not-here")
            body, named = MUG | {"id": product_id}, {"Larder-Bucket": str(bucket_of(product_id))}
            problem(await front.client.post("/products", json=body, headers=named), "not-here")
            assert front.places_of(product_id) == []


async def test_a_bucket_that_has_moved_gets_its_pair_without_a_reload(tmp_path: Path) -> None:
    """Between the end of the move and the new map the old pair answers 421; then the new one serves."""
    async with _front(tmp_path) as front:
        pairs = {name: service.app.state.larder.pair for name, service in front.pairs.items()}
        pairs["a"].set_buckets("1-511", "")
        pairs["b"].set_buckets("0,512-1023", "")
        problem(await front.client.put(f"/products/{IN_A}", json=MUG), "not-here")
        reader, writer = await asyncio.open_unix_connection(tmp_path / "larder.sock")
        writer.write(f"set map {tmp_path / 'buckets.map'} {bucket_of(IN_A)} b\n".encode())
        assert (await reader.read()).strip() == b""
        writer.close()
        assert (await front.client.put(f"/products/{IN_A}", json=MUG)).status_code == 201
        assert front.places_of(IN_A) == ["b"]


async def test_a_dead_pair_is_503_and_never_another_one(tmp_path: Path) -> None:
    """Nothing is created for its products at the other pair, whose own products are served as before."""
    async with _front(tmp_path) as front:
        await front.stops["b"].aclose()
        for _ in range(5):
            assert (await front.client.put(f"/products/{IN_B}", json=MUG)).status_code == 503
            await asyncio.sleep(0.05)  # the checks of HAProxy find it meanwhile
        assert front.places_of(IN_B) == []
        assert (await front.client.put(f"/products/{IN_A}", json=MUG)).status_code == 201
