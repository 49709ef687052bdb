import hashlib
import httpx, pytest
from tests.api.accepting import LATER, Serve, adjust, create, ended, nothing_applied

@pytest.mark.parametrize("name", ["Farmer's Mug", "Mug \\u0041 é", 'Mug "x"'])
async def test_an_accepted_body_is_kept_as_it_was_sent(serve: Serve, name: str) -> None:
    async with serve() as client:
        body = {"id": "b:1", "name": name, "price_cents": 5}
        answer = await client.post("/products", json=body, headers=LATER | {"Idempotency-Key": "k"})
        assert answer.status_code == 202
        status = await ended(client, "k")
        assert status["answer"]["status"] == 201, status
        assert (await client.get("/products/b:1")).json()["name"] == name

async def test_a_repetition_of_an_accepted_write_is_the_same(serve: Serve, database_url: str) -> None:
    async with serve() as client:
        await create(client, "a")
        async with nothing_applied(database_url):
            bad = []
            for n in range(30):
                one = await adjust(client, f"k{n}", -1, "a")
                two = await adjust(client, f"k{n}", -1, "a")
                if two.status_code != 202: bad.append((n, one.status_code, two.status_code, two.json()["type"]))
            for n in range(30):
                body = {"name": f"Mug {n}", "price_cents": 5}
                h = LATER | {"Idempotency-Key": f"p{n}", "If-Match": "*"}
                one = await client.put("/products/a", json=body, headers=h); two = await client.put("/products/a", json=body, headers=h)
                if two.status_code != one.status_code: bad.append((n, one.status_code, two.status_code, two.json()["type"]))
        assert not bad
