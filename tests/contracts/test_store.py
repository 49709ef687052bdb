"""The contract of ``Store``: slots, leases, and what a publish does to them."""

import asyncio
from dataclasses import replace

import pytest

from app.cache import slot
from app.cache.ports import Absent, Outcome, Publication, Published, State, Value, Watermark
from tests.contracts.stores import ABSENT_TTL_S, LEASE_TTL_S, SLOT_TTL_S, StoreBench, in_slot, put

EPOCH, OTHER_EPOCH = "7000000000000000001.00000002.00000000000000aa", "00000000000000bb"
KEY = "mug"
PROVEN = Watermark(EPOCH, 700)


def value(version: int, *, key: str = KEY, epoch: str = EPOCH, payload: bytes = b"{}") -> Value:
    return Value(key, epoch, version, payload)


def absent(version: int, *, epoch: str = EPOCH) -> Absent:
    return Absent(KEY, epoch, version)


async def trust(stored: StoreBench, watermark: Watermark = PROVEN) -> str:
    """Let an audit set watermark and fence; return the server that the fence names."""
    async with stored.open() as audit:
        begun = await audit.begin(1)
        assert await audit.trust(begun, watermark, 60_000)
    return begun.server


async def incarnation(stored: StoreBench) -> str:
    """Return the watermark's incarnation."""
    watermark = await stored.watermark()
    assert watermark is not None
    return watermark.incarnation


def another(server: str) -> str:
    """Return another server's identity: the replication id ends differently."""
    return server[:-1] + ("0" if server[-1] != "0" else "1")


async def publish(stored: StoreBench, state: State, token: str = "") -> Outcome:
    """Publish one state; return its outcome."""
    [outcome] = (await stored.store.publish([Publication(state, token)])).outcomes
    return outcome


async def lease(stored: StoreBench, key: str = KEY) -> str:
    """Take a lease; return its token."""
    return (await stored.store.lease([key]))[key]


# ---------------------------------------------------------------- R3's table


@pytest.mark.guarantee("R3")
@pytest.mark.parametrize(
    ("held", "state", "outcome"),
    [
        (value(1), value(2), Outcome.STORED),
        (absent(1), value(2), Outcome.STORED),
        (value(1), absent(2), Outcome.STORED),
        (absent(0), value(1), Outcome.STORED),
        (value(9), value(10), Outcome.STORED),
        (value(10**18), value(10**18 + 1), Outcome.STORED),
        (value(2), value(2), Outcome.KEPT),
        (value(3), value(2), Outcome.KEPT),
        (value(10), value(9), Outcome.KEPT),
        (absent(3), value(2), Outcome.KEPT),
        (value(3), absent(2), Outcome.KEPT),
        (value(57, epoch=OTHER_EPOCH), value(1), Outcome.STORED),
        (absent(57, epoch=OTHER_EPOCH), value(1), Outcome.STORED),
        (value(1, epoch=OTHER_EPOCH), absent(0), Outcome.STORED),
    ],
)
async def test_publish_onto_a_state(stored: StoreBench, held: State, state: State, outcome: Outcome) -> None:
    """An older state, or one of another epoch, is replaced; the same or a newer one stays."""
    await trust(stored)
    await put(stored, held)
    published = await stored.store.publish([Publication(state)])
    assert (published.outcomes, published.proven) == ((outcome,), True)
    assert await stored.raw(KEY) == await in_slot(stored, state if outcome is Outcome.STORED else held)


@pytest.mark.guarantee("R3")
async def test_publish_onto_an_empty_slot(stored: StoreBench) -> None:
    """Nothing is stored in an empty slot, because this publish could be an older one. It is proven all the same."""
    await trust(stored)
    published = await stored.store.publish([Publication(value(1)), Publication(value(2, key="jug"), "a token of no lease")])
    assert (published.outcomes, published.proven) == ((Outcome.EMPTY, Outcome.EMPTY), True)
    assert await stored.raw(KEY) is None


@pytest.mark.guarantee("G5")
async def test_publish_onto_its_own_lease(stored: StoreBench) -> None:
    """The holder of the lease fills the slot once; after that versions decide."""
    await trust(stored)
    token = await lease(stored)
    assert await publish(stored, value(5), token) is Outcome.STORED
    assert await publish(stored, value(4), token) is Outcome.KEPT
    assert await stored.raw(KEY) == await in_slot(stored, value(5))


@pytest.mark.guarantee("R3")
@pytest.mark.parametrize("token", ["", "ffffffffffffffff", "0"])
async def test_publish_onto_somebody_elses_lease(stored: StoreBench, token: str) -> None:
    """A publish deletes another holder's lease, so that the holder, who may have loaded the past, fills nothing."""
    await trust(stored)
    theirs = await lease(stored)
    assert await publish(stored, value(2), token) is Outcome.LEASE_DELETED
    assert await stored.raw(KEY) is None
    assert await publish(stored, value(1), theirs) is Outcome.EMPTY


@pytest.mark.guarantee("R3")
@pytest.mark.parametrize("watermark", ["none", "of another epoch", "of another server", "a mark"])
@pytest.mark.parametrize("held", [value(9), value(1), value(9, epoch=OTHER_EPOCH), None])
async def test_publish_without_a_watermark_of_its_server_and_epoch(
    stored: StoreBench, watermark: str, held: State | None
) -> None:
    """Without a watermark the slot is deleted and nothing is proven, even if a fence of the epoch is live."""
    server = await trust(stored)
    if held is not None:
        await put(stored, held)
    number = await incarnation(stored)
    await stored.put_watermark(
        {
            "none": None,
            "of another epoch": Watermark(OTHER_EPOCH, 900, number, server),
            "of another server": Watermark(EPOCH, 900, number, another(server)),
            "a mark": Watermark(EPOCH, None),
        }[watermark]
    )
    published = await stored.store.publish([Publication(value(2))])
    assert (published.outcomes, published.proven) == ((Outcome.UNTRUSTED,), False)
    assert await stored.raw(KEY) is None


async def test_publish_onto_its_own_lease_without_a_watermark(stored: StoreBench) -> None:
    """Without a watermark not even a lease fills the slot."""
    await trust(stored)
    token = await lease(stored)
    await stored.put_watermark(None)
    assert await publish(stored, value(1), token) is Outcome.UNTRUSTED
    assert await stored.raw(KEY) is None


async def test_publish_of_several_states(stored: StoreBench) -> None:
    """Outcomes come in the order of the states; two states of one key are applied one after the other."""
    await trust(stored)
    await put(stored, value(3, key="jug"))
    token = await lease(stored)
    states = [value(2), value(9, key="cup"), value(1), value(4, key="jug")]
    published = await stored.store.publish([Publication(state, token if state.key == KEY else "") for state in states])
    assert published.outcomes == (Outcome.STORED, Outcome.EMPTY, Outcome.KEPT, Outcome.STORED)
    assert await stored.raw(KEY) == await in_slot(stored, value(2))


async def test_publish_of_states_of_two_epochs(stored: StoreBench) -> None:
    """One state of another epoch leaves its whole batch unproven, but only its own slot is deleted."""
    await trust(stored)
    await put(stored, value(1))
    published = await stored.store.publish([Publication(value(2)), Publication(value(2, key="jug", epoch=OTHER_EPOCH))])
    assert (published.outcomes, published.proven) == ((Outcome.STORED, Outcome.UNTRUSTED), False)


# ------------------------------------------------------------------- deletions


async def delete(stored: StoreBench, state: State) -> Published:
    """Delete a state's slot where a publish of it would store."""
    return await stored.store.publish([Publication(state, deletes=True)])


@pytest.mark.guarantee("R3")
@pytest.mark.parametrize(
    ("held", "state", "outcome"),
    [
        (value(1), value(2), Outcome.DELETED),
        (value(1), absent(2), Outcome.DELETED),
        (absent(0), value(1), Outcome.DELETED),
        (value(9), value(10), Outcome.DELETED),
        (value(57, epoch=OTHER_EPOCH), value(1), Outcome.DELETED),
        (value(2), value(2), Outcome.KEPT),
        (value(10), value(9), Outcome.KEPT),
        (absent(3), value(2), Outcome.KEPT),
    ],
)
async def test_deletion_of_a_state(stored: StoreBench, held: State, state: State, outcome: Outcome) -> None:
    """A deletion empties the slot where a publish would store, keeps a state that is not older, and proves as a publish."""
    await trust(stored)
    await put(stored, held)
    published = await delete(stored, state)
    assert (published.outcomes, published.proven) == ((outcome,), True)
    assert await stored.raw(KEY) == (None if outcome is Outcome.DELETED else await in_slot(stored, held))


@pytest.mark.guarantee("R3")
async def test_deletion_of_a_lease(stored: StoreBench) -> None:
    """A deletion removes every lease, so that a loader that read before the commit fills nothing."""
    await trust(stored)
    theirs = await lease(stored)
    assert await delete(stored, value(2)) == Published((Outcome.LEASE_DELETED,), proven=True)
    assert await publish(stored, value(1), theirs) is Outcome.EMPTY
    assert await stored.raw(KEY) is None


@pytest.mark.guarantee("R3")
async def test_deletion_of_nothing_and_without_trust(stored: StoreBench) -> None:
    """An empty slot stays empty and is proven; without a watermark, or without a fence, nothing is proven."""
    server = await trust(stored)
    assert await delete(stored, value(2)) == Published((Outcome.EMPTY,), proven=True)
    await stored.put_fence(server, OTHER_EPOCH, 60, await incarnation(stored))
    await put(stored, value(1))
    assert await delete(stored, value(2)) == Published((Outcome.DELETED,), proven=False)
    await put(stored, value(9))
    await stored.put_watermark(None)
    assert await delete(stored, value(2)) == Published((Outcome.UNTRUSTED,), proven=False)
    assert await stored.raw(KEY) is None


async def test_deletions_among_publishes(stored: StoreBench) -> None:
    """Each publication of a batch is applied in its own way, in order."""
    await trust(stored)
    for key in (KEY, "jug"):
        await put(stored, value(1, key=key))
    published = await stored.store.publish(
        [Publication(value(2, key="jug"), deletes=True), Publication(value(2)), Publication(value(3), deletes=True)]
    )
    assert published == Published((Outcome.DELETED, Outcome.STORED, Outcome.DELETED), proven=True)
    assert (await stored.raw(KEY), await stored.raw("jug")) == (None, None)


# ------------------------------------------------------------- proof and trust


async def test_publish_and_read_with_no_fence(stored: StoreBench) -> None:
    """With a watermark and no fence states are stored, nothing is proven, and no slot may be trusted."""
    server = await trust(stored)
    await stored.put_fence(server, EPOCH, 0.001, await incarnation(stored))
    await put(stored, value(1))
    await asyncio.sleep(0.002)
    published = await stored.store.publish([Publication(value(2))])
    assert (published.outcomes, published.proven) == ((Outcome.STORED,), False)
    reading = await stored.store.read([KEY])
    assert (reading.epoch, list(reading.slots)) == ("", [await in_slot(stored, value(2))])


@pytest.mark.guarantee("R1")
async def test_publish_and_read_with_a_fence_of_another_server(stored: StoreBench) -> None:
    """A fence of another server proves nothing, and no slot may be trusted with it."""
    server = await trust(stored)
    await put(stored, value(1))
    await stored.put_fence(another(server), EPOCH, 60, await incarnation(stored))
    published = await stored.store.publish([Publication(value(2))])
    assert (published.outcomes, published.proven) == ((Outcome.STORED,), False)
    assert (await stored.store.read([KEY])).epoch == ""


@pytest.mark.guarantee("R3")
async def test_publish_with_a_fence_of_another_epoch(stored: StoreBench) -> None:
    """With a fence of another epoch nothing is proven, because its readers would not see the stored state."""
    server = await trust(stored)
    await stored.put_fence(server, OTHER_EPOCH, 60, await incarnation(stored))
    published = await stored.store.publish([Publication(value(2))])
    assert (published.outcomes, published.proven) == ((Outcome.EMPTY,), False)
    assert (await stored.store.read([KEY])).epoch == OTHER_EPOCH


@pytest.mark.guarantee("R1")
async def test_fence_lapses(stored: StoreBench) -> None:
    """A fence counts until its time is over, and no longer."""
    async with stored.open() as audit:
        begun = await audit.begin(1)
        assert await audit.trust(replace(begun, time_ms=begun.time_ms - 59_850), PROVEN, 60_000)
    async with asyncio.timeout(5):
        while await stored.fence() is not None:
            await asyncio.sleep(0.01)
    assert (await stored.store.read([KEY])).epoch == ""
    assert not (await stored.store.publish([Publication(value(1))])).proven


async def test_read(stored: StoreBench) -> None:
    """Slots come as raw bytes, in the order asked, with the fence's epoch; a key may be asked for twice."""
    await trust(stored)
    await stored.put(KEY, b"anything")
    reading = await stored.store.read(["jug", KEY, KEY])
    assert (reading.epoch, list(reading.slots)) == (EPOCH, [None, b"anything", b"anything"])


@pytest.mark.parametrize("payload", [b"", bytes(range(256)), b"L\n\r\n\0V" * 7, "Größe ½ 🫖".encode(), b"x" * 1_000_000])
async def test_payload(stored: StoreBench, payload: bytes) -> None:
    """A payload's bytes come back unchanged."""
    await trust(stored)
    state = value(1, payload=payload)
    assert await publish(stored, state, await lease(stored)) is Outcome.STORED
    [raw] = (await stored.store.read([KEY])).slots
    assert raw is not None
    assert slot.decode(raw, KEY, EPOCH, await incarnation(stored)) == state


# ---------------------------------------------------------------- leases, lives


@pytest.mark.guarantee("R2")
async def test_lease(stored: StoreBench) -> None:
    """Only empty slots are leased, each once and with its own token."""
    await trust(stored)
    await put(stored, value(1, key="full"))
    first = await stored.store.lease([KEY, "full", "jug"])
    assert set(first) == {KEY, "jug"}
    assert first[KEY] != first["jug"]
    assert await stored.store.lease([KEY, "full", "jug"]) == {}
    assert await stored.raw(KEY) == slot.LEASE + first[KEY].encode()
    assert LEASE_TTL_S - 3 < await stored.life_s(KEY) <= LEASE_TTL_S


@pytest.mark.guarantee("R2")
async def test_lease_with_a_read(stored: StoreBench) -> None:
    """The reading has the slots as they were before; then the empty ones of those that are named are leased."""
    await trust(stored)
    full = await put(stored, value(1, key="full"))
    reading = await stored.store.read([KEY, "full", "jug", KEY], [KEY, "full", KEY])
    assert (reading.epoch, list(reading.slots)) == (EPOCH, [None, full, None, None])
    assert reading.leases is not None
    assert set(reading.leases) == {KEY}
    assert await stored.raw(KEY) == slot.LEASE + reading.leases[KEY].encode()
    assert await stored.raw("jug") is None
    assert (await stored.store.read([KEY], [KEY])).leases == {}
    assert await publish(stored, value(2), reading.leases[KEY]) is Outcome.STORED


@pytest.mark.guarantee("R6")
async def test_lease_with_a_read_without_a_watermark(stored: StoreBench) -> None:
    """Without a watermark of the server nothing is leased, and the slots are read all the same."""
    await trust(stored)
    await stored.put_watermark(None)
    reading = await stored.store.read([KEY], [KEY])
    assert (list(reading.slots), reading.leases, await stored.raw(KEY)) == ([None], {}, None)


async def test_release(stored: StoreBench) -> None:
    """A holder's own lease is given back, also without its incarnation. Other leases, and states stored meanwhile, stay."""
    await trust(stored)
    tokens = await stored.store.lease([KEY, "jug", "cup", "bowl"])
    await publish(stored, value(1, key="jug"), tokens["jug"])
    await stored.store.release(
        {
            KEY: tokens[KEY],
            "jug": tokens["jug"],
            "cup": "ffffffffffffffff",
            "never": tokens[KEY],
            "bowl": tokens["bowl"][slot.INCARNATION_WIDTH :],
        }
    )
    assert await stored.raw(KEY) is await stored.raw("bowl") is None
    assert await stored.raw("jug") == await in_slot(stored, value(1, key="jug"))
    assert await stored.raw("cup") == slot.LEASE + tokens["cup"].encode()


async def test_drop(stored: StoreBench) -> None:
    """Dropping empties one slot, whatever it holds."""
    await stored.put(KEY, b"anything")
    await stored.put("jug", b"anything")
    await stored.store.drop(KEY)
    await stored.store.drop(KEY)
    assert await stored.raw(KEY) is None
    assert await stored.raw("jug") == b"anything"


@pytest.mark.parametrize(("state", "most_s"), [(value(1), SLOT_TTL_S), (absent(7), SLOT_TTL_S), (absent(0), ABSENT_TTL_S)])
async def test_lives(stored: StoreBench, state: State, most_s: int) -> None:
    """A state lives for its time, or at most a tenth less; an id that never existed lives for a short time."""
    await trust(stored)
    assert await publish(stored, state, await lease(stored)) is Outcome.STORED
    assert 0.9 * most_s - 3 < await stored.life_s(KEY) <= most_s
