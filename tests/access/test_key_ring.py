"""One process's copy of the keys, over sources in memory and in virtual time."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

import pytest

from app.access.errors import KeysUnavailable, Unauthenticated
from app.access.key_ring import COPY_LIFE_S, KeyRing
from app.access.keys import make_key
from app.access.rates import Limits
from tests.fakes.keys import READ, Clock, MemoryKeys


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source() -> MemoryKeys:
    return MemoryKeys()


@pytest.fixture
def ring(source: MemoryKeys, clock: Clock) -> KeyRing:
    return KeyRing([source], limits=Limits(), clock=clock)


async def test_key_leads_to_its_client(ring: KeyRing, source: MemoryKeys) -> None:
    """The scheme's case and blanks around the key make no difference; a second look gives the same caller."""
    header = source.add("till")
    assert await ring.renew()
    for spelling in (header, header.replace(b"Bearer", b"bearer"), header.replace(b" ", b"   ") + b" "):
        caller = ring.caller_of([spelling])
        assert (caller.name, caller.key_id, caller.scopes) == ("till", "k0", READ)
        assert ring.caller_of([spelling]) is caller


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [b""],
        [b"Bearer"],
        [b"Bearer "],
        [b"Basic dXNlcjpwYXNz"],
        [b"Bearer lrd_x"],
        [b"Bearer " + make_key()[0].encode()],
        [b"Bearer " + b"a" * 60_000],
        [b"Bearer \xff\xfe"],
    ],
)
async def test_anything_else_is_refused(ring: KeyRing, source: MemoryKeys, headers: Sequence[bytes]) -> None:
    """What is not a stored key is refused, without remembering it."""
    source.add()
    await ring.renew()
    with pytest.raises(Unauthenticated):
        ring.caller_of(headers)
    assert not ring.known_headers


async def test_two_headers_are_refused(ring: KeyRing, source: MemoryKeys) -> None:
    """Nobody can tell which of two keys was meant, so neither counts."""
    header = source.add()
    await ring.renew()
    with pytest.raises(Unauthenticated, match="more than one"):
        ring.caller_of([header, header])


async def test_revoked_key_is_refused_after_the_next_renewal(ring: KeyRing, source: MemoryKeys) -> None:
    """A header that was remembered is forgotten when its key is revoked."""
    header = source.add()
    await ring.renew()
    ring.caller_of([header])
    source.revoke("k0")
    await ring.renew()
    with pytest.raises(Unauthenticated):
        ring.caller_of([header])
    assert ring.recognised(header, 100.0) is None


async def test_copy_counts_from_when_it_was_asked_for(ring: KeyRing, source: MemoryKeys, clock: Clock) -> None:
    """An answer that comes late has lost its life on the way: a revocation may have been committed after it was read."""
    header = source.add()
    source.held = asyncio.Event()
    renewal = asyncio.create_task(ring.renew())
    await asyncio.sleep(0)
    source.revoke("k0")
    clock.now += COPY_LIFE_S
    source.held.set()
    assert await renewal
    with pytest.raises(KeysUnavailable):
        ring.caller_of([header])


async def test_copy_lapses_when_the_source_is_away(
    ring: KeyRing, source: MemoryKeys, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Without its source a copy counts for two seconds and no longer; the reason and the end are logged once each."""
    header = source.add()
    await ring.renew()
    source.fault = OSError("no route")
    with caplog.at_level(logging.WARNING, "larder.access"):
        for _ in range(3):
            clock.now += COPY_LIFE_S / 3 - 0.01
            assert not await ring.renew()
        ring.caller_of([header])
        clock.now = 100.0 + COPY_LIFE_S
        for key in (header, b"Bearer " + make_key()[0].encode()):
            with pytest.raises(KeysUnavailable):
                ring.caller_of([key])
        assert ring.recognised(header, clock.now) is None
        source.fault = None
        assert await ring.renew()
    ring.caller_of([header])
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        "the keys cannot be read",
        "the keys can be read again",
    ]


async def test_unchanged_keys_are_not_read_again(ring: KeyRing, source: MemoryKeys, clock: Clock) -> None:
    """A renewal without a change keeps the callers, and gives the copy a new life."""
    header = source.add()
    await ring.renew()
    caller = ring.caller_of([header])
    clock.now += 1.9
    await ring.renew()
    clock.now += 1.9
    assert ring.caller_of([header]) is caller
    assert source.reads == 1


async def test_expired_key_is_refused_by_the_process_itself(ring: KeyRing, source: MemoryKeys, clock: Clock) -> None:
    """A key that expires between two changes of the keys is refused at its end."""
    header = source.add(expires_in_s=30.0)
    await ring.renew()
    for _ in range(29):
        clock.now += 1
        await ring.renew()
        ring.caller_of([header])
    clock.now += 1
    await ring.renew()
    with pytest.raises(Unauthenticated, match="expired"):
        ring.caller_of([header])
    assert ring.recognised(header, clock.now) is None


async def test_one_source_away_leaves_the_keys_of_the_other(source: MemoryKeys, clock: Clock) -> None:
    """Keys of a file work while PostgreSQL is away. A key that is in neither may be in the one that is away."""
    file = MemoryKeys()
    ring = KeyRing([source, file], limits=Limits(), clock=clock)
    stored, filed = source.add("till"), replace_id(file, "f0", file.add("erp"))
    assert await ring.renew()
    source.fault = OSError()
    clock.now += COPY_LIFE_S
    assert not await ring.renew()
    assert ring.caller_of([filed]).name == "erp"
    for header in (stored, b"Bearer " + make_key()[0].encode()):
        with pytest.raises(KeysUnavailable):
            ring.caller_of([header])


async def test_source_that_hangs_delays_its_own_copy_only(source: MemoryKeys, clock: Clock) -> None:
    """While PostgreSQL hangs, the keys of a file are renewed."""
    file = MemoryKeys()
    ring = KeyRing([source, file], limits=Limits(), clock=clock)
    source.held = asyncio.Event()
    running = asyncio.create_task(ring.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    filed = file.add("erp")
    async with asyncio.timeout(5):
        while file.reads < 2:
            clock.now += 1.0  # the pause of the loop is real, its measure is not
            await asyncio.sleep(0.01)
    assert ring.caller_of([filed]).name == "erp"
    running.cancel()


async def test_rate_of_a_client_is_its_highest(ring: KeyRing, source: MemoryKeys) -> None:
    """Two keys of one client share a bucket, which survives a change of the keys."""
    low, high = source.add("till", rate_per_s=10.0), source.add("till", rate_per_s=20.0)
    await ring.renew()
    client = ring.caller_of([low]).client
    assert client is ring.caller_of([high]).client
    assert client.rate_per_s == 20.0
    source.revoke("k1")
    await ring.renew()
    assert ring.caller_of([low]).client is client
    assert client.rate_per_s == 10.0


async def test_first_key_is_asked_for_once(ring: KeyRing, source: MemoryKeys, caplog: pytest.LogCaptureFixture) -> None:
    """A service without keys says how to make one, once."""
    with caplog.at_level(logging.WARNING, "larder.access"):
        await ring.renew()
        source.changes += 1
        await ring.renew()
    assert ["larder keys create" in record.getMessage() for record in caplog.records] == [True]


def replace_id(source: MemoryKeys, key_id: str, header: bytes) -> bytes:
    """Give the only key of a source another id."""
    [stored] = source.keys.values()
    source.keys = {key_id: replace(stored, id=key_id)}
    return header


async def test_use_of_a_key_that_ended_is_recorded(ring: KeyRing, source: MemoryKeys) -> None:
    """A key that was used and then revoked is shown as used, also if the process ends right away."""
    header = source.add()
    running = asyncio.create_task(ring.run())
    while not source.reads:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    ring.caller_of([header])
    source.revoke("k0")
    assert await ring.renew()
    running.cancel()
    await asyncio.wait([running])
    assert source.used == ["k0"]
