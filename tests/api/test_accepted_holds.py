"""Reservations beside accepted writes, on real servers."""

import httpx

from app.api.context import Larder
from tests.api.accepting import LATER, Mutate, Serve, adjust, create, ended, larder_behind, nothing_applied, order, unchanged


async def hold(client: httpx.AsyncClient, *ids: str, reference: str = "cart", **headers: str) -> str:
    """Hold two units of each product; return the reservation's id."""
    body = {"lines": [{"product_id": key, "quantity": 2} for key in ids], "expires_in_s": 600, "reference": reference}
    answer = await client.post("/reservations", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def committing(serve: Serve, url: str, mutate: Mutate = unchanged) -> list[str]:
    """Accept a write, then commit a hold of the same product by its id; return the order of the ledger."""
    async with serve() as client:
        mutate(larder_behind(client))
        await create(client, "a", "b")
        held = await hold(client, "b", "a")
        async with nothing_applied(url):
            await adjust(client, "accepted", 1, "a")
            answer = await client.post(f"/reservations/{held}/commit", json={"reference": "sold"})
            assert (answer.status_code, answer.json()["status"]) == (200, "committed")
        await ended(client, "accepted")
        return await order(client, "a")


async def test_commit_by_name_comes_after_what_was_accepted(serve: Serve, database_url: str) -> None:
    """The request names no product; the accepted writes of those that the reservation holds are decided before it."""
    assert await committing(serve, database_url) == ["cart", "accepted", "sold"]


async def test_mutant_commit_overtakes(serve: Serve, database_url: str) -> None:
    """The test above sees commits that do not look for waiting rows."""

    def mutate(larder: Larder) -> None:
        larder.products._transactions._decode = None

    assert await committing(serve, database_url, mutate) == ["cart", "sold", "accepted"]


async def test_accepted_write_takes_no_held_units(serve: Serve, database_url: str) -> None:
    """What was accepted before is decided first, and what it takes cannot be held; what is held, it cannot take."""
    async with serve() as client:
        await create(client, "a", stock=4)
        await hold(client, "a")
        async with nothing_applied(database_url):
            await adjust(client, "too many", -3, "a")
            await adjust(client, "one", -1, "a")
            body = {"lines": [{"product_id": "a", "quantity": 2}], "expires_in_s": 600}
            assert (await client.post("/reservations", json=body)).status_code == 409
        assert (await ended(client, "too many"))["answer"]["status"] == 409
        assert (await ended(client, "one"))["answer"]["status"] == 200
        assert await order(client, "a") == ["cart", "one"]


async def test_reservations_are_never_accepted_for_later(serve: Serve) -> None:
    """The preference is ignored, with a key and without: the units are held, or the answer says that they are not."""
    async with serve() as client:
        await create(client, "a")
        held = await hold(client, "a", **LATER)
        assert await hold(client, "a", **LATER, **{"Idempotency-Key": "k"}) == await hold(
            client, "a", **{"Idempotency-Key": "k"}
        )
        answer = await client.post(f"/reservations/{held}/release", json={}, headers=LATER)
        assert (answer.status_code, answer.json()["status"]) == (200, "released")
