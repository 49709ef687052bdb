"""The contract of ``Store`` and ``AuditStore`` about incarnations: what a clean start makes void."""

import pytest

from app.cache.ports import Outcome, Publication, Published, State, Watermark
from tests.contracts.stores import StoreBench, put
from tests.contracts.test_store import EPOCH, KEY, absent, another, incarnation, lease, publish, trust, value


async def begin_clean(stored: StoreBench) -> None:
    """Lose the watermark, and let an audit start clean."""
    await stored.put_watermark(None)
    await trust(stored)


@pytest.mark.guarantee("R6")
@pytest.mark.parametrize("deletes", [False, True])
@pytest.mark.parametrize("held", [value(1), value(9), absent(1)])
async def test_publish_onto_a_slot_of_another_incarnation(stored: StoreBench, held: State, *, deletes: bool) -> None:
    """A state of before a clean start is deleted and never replaced, because it may be newer than a late publish."""
    await trust(stored)
    await put(stored, held)
    await begin_clean(stored)
    published = await stored.store.publish([Publication(value(2), deletes=deletes)])
    assert published == Published((Outcome.EMPTY,), proven=True)
    assert await stored.raw(KEY) is None


@pytest.mark.guarantee("R6")
async def test_publish_onto_its_own_lease_of_another_incarnation(stored: StoreBench) -> None:
    """A lease of before a clean start fills nothing: its holder may have loaded before a write that settled meanwhile."""
    await trust(stored)
    token = await lease(stored)
    await begin_clean(stored)
    assert await publish(stored, value(1), token) is Outcome.LEASE_DELETED
    assert await stored.raw(KEY) is None


@pytest.mark.guarantee("R6")
async def test_lease_on_a_slot_of_another_incarnation(stored: StoreBench) -> None:
    """A slot or a lease of before a clean start counts as empty, and so can be leased and filled."""
    await trust(stored)
    await put(stored, value(9))
    await stored.store.lease(["jug"])
    await begin_clean(stored)
    tokens = await stored.store.lease([KEY, "jug"])
    assert set(tokens) == {KEY, "jug"}
    assert await publish(stored, value(2), tokens[KEY]) is Outcome.STORED


@pytest.mark.guarantee("R6")
@pytest.mark.parametrize("watermark", ["none", "of another server", "a mark"])
async def test_lease_without_a_watermark_of_its_server(stored: StoreBench, watermark: str) -> None:
    """Without a watermark that names the server no lease is taken."""
    server = await trust(stored)
    number = await incarnation(stored)
    await stored.put_watermark(
        {
            "none": None,
            "of another server": Watermark(EPOCH, 700, number, another(server)),
            "a mark": Watermark(EPOCH, None),
        }[watermark]
    )
    assert await stored.store.lease([KEY]) == {}
    assert await stored.raw(KEY) is None


@pytest.mark.guarantee("R6")
async def test_publish_and_read_with_a_fence_of_another_incarnation(stored: StoreBench) -> None:
    """A reading says the fence's incarnation; a publish in the watermark's does not prove what such a reader sees."""
    server = await trust(stored)
    await stored.put_fence(server, EPOCH, 60, "00000000000000a1")
    assert not (await stored.store.publish([Publication(value(1))])).proven
    assert (await stored.store.read([KEY])).incarnation == "00000000000000a1"
