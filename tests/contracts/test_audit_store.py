"""The contract of ``AuditStore``: claim, repairs, and when watermark and fence may be set."""

import asyncio
from dataclasses import replace

import pytest

from app.cache import slot
from app.cache.ports import Absent, AuditStore, Begun, Outcome, Publication, Repairs, Value, Watermark
from app.cache.redis.audit_store import RedisAuditStore
from tests.contracts.stores import StoreBench, open_redis_bench

EPOCH, OTHER_EPOCH = "7000000000000000001.00000002.00000000000000aa", "00000000000000bb"
SEEN = Watermark(EPOCH, 700)
NUMBER, OTHER_NUMBER = "00000000000000a1", "00000000000000b2"


def progress(watermark: Watermark | None) -> Watermark | None:
    """Return epoch and transaction id of a watermark."""
    return watermark and Watermark(watermark.epoch, watermark.xid)


async def server_of(stored: StoreBench) -> str:
    """Return the server's identity."""
    async with stored.open() as audit:
        return (await audit.begin(1)).server


async def begin(audit: AuditStore, claim_ms: int = 1) -> Begun:
    """Claim the next interval, waiting for the last claim to lapse."""
    async with asyncio.timeout(5):
        while not (begun := await audit.begin(claim_ms)).claimed:
            await asyncio.sleep(0)
    return begun


@pytest.mark.guarantee("R5")
async def test_begin(stored: StoreBench) -> None:
    """One cycle gets the interval's claim; it learns the watermark and the store's clock."""
    async with stored.open() as audit:
        first = await begin(audit)
        assert first.watermark is None
        seen = replace(SEEN, incarnation=NUMBER, server=first.server)
        await stored.put_watermark(seen)
        second = await begin(audit)
        assert (second.watermark, second.server) == (seen, first.server)
        assert first.time_ms <= second.time_ms <= first.time_ms + 10_000
        await begin(audit, 60_000)
        looked = await audit.begin(60_000)
        assert (looked.claimed, looked.watermark, looked.server) == (False, seen, first.server)


@pytest.mark.guarantee("R6")
async def test_which_watermark_counts(stored: StoreBench) -> None:
    """A watermark counts if it names this very server, and a mark never does: keys may have been copied here."""
    server = await server_of(stored)
    for named, xid, counts in (
        (server, 700, True),
        (server[:-1] + "?", 700, False),
        ("?" + server[1:], 700, False),
        ("", None, False),
    ):
        await stored.put_watermark(Watermark(EPOCH, xid, NUMBER if xid else "", named))
        async with stored.open() as audit:
            assert (await begin(audit)).counts == counts


@pytest.mark.guarantee("R6")
async def test_trust_without_a_watermark_that_counts(stored: StoreBench) -> None:
    """A new incarnation begins, in watermark and fence; with one that counts, its incarnation goes on."""
    server = await server_of(stored)
    found = []
    for named in (server[:-1] + "?", server):
        await stored.put_watermark(Watermark(EPOCH, 700, NUMBER, named))
        async with stored.open() as audit:
            assert await audit.trust(await begin(audit), Watermark(EPOCH, 800), 60_000)
        watermark, fence = await stored.watermark(), await stored.fence()
        assert watermark is not None
        assert fence is not None
        assert (watermark.xid, watermark.server) == (800, server)
        assert fence[3] == watermark.incarnation
        assert len(watermark.incarnation) == len(NUMBER)
        found.append(watermark.incarnation)
    assert (found[0] != NUMBER, found[1]) == (True, NUMBER)


async def test_claim_of_a_cycle_that_fails(stored: StoreBench) -> None:
    """The claim of a failed cycle is given back, so that no instance waits for it; after a good cycle it stays."""
    with pytest.raises(LookupError):
        await fail_after_claiming(stored)
    async with stored.open() as audit:
        assert (await audit.begin(60_000)).claimed
    async with stored.open() as audit:
        assert not (await audit.begin(60_000)).claimed


async def test_claim_of_somebody_else(stored: StoreBench) -> None:
    """A cycle that fails without the claim leaves the holder's claim alone."""
    async with stored.open() as audit:
        assert (await audit.begin(60_000)).claimed
        with pytest.raises(LookupError):
            await fail_after_claiming(stored)
        assert not (await audit.begin(60_000)).claimed


async def fail_after_claiming(stored: StoreBench) -> None:
    """Begin a cycle that ends with an error."""
    async with stored.open() as audit:
        await audit.begin(60_000)
        raise LookupError("the source is away")


async def test_mark(stored: StoreBench) -> None:
    """A mark replaces watermark and fence: it names an epoch, and nothing is proven."""
    mark = Watermark(EPOCH, None)
    async with stored.open() as audit:
        assert await audit.trust(await begin(audit), SEEN, 60_000)
        await audit.distrust(mark)
        assert (await begin(audit)).watermark == mark
        assert await stored.fence() is None
        await stored.put("mug", slot.encode(Value("mug", EPOCH, 1, b"{}"), NUMBER))
        published = await stored.store.publish([Publication(Value("mug", EPOCH, 2, b"{}"))])
        assert (published.outcomes, published.proven) == ((Outcome.UNTRUSTED,), False)
        await audit.distrust(None)
        assert (await begin(audit)).watermark is None


@pytest.mark.parametrize("foreign", ["slot", "watermark", "claim", "fence"])
async def test_foreign_type(redis_url: str, namespace: str, foreign: str) -> None:
    """A key of another type under the cache's names is replaced, and stops neither publishes nor audits."""
    async with open_redis_bench(redis_url, namespace) as bench, bench.open() as audit:
        names = bench.names
        key = {"slot": names.prefix + "mug", "watermark": names.watermark, "claim": names.claim, "fence": names.fence}[foreign]
        await bench.client.lpush(key, "a stranger's")
        begun = await audit.begin(1)
        assert (begun.claimed, begun.watermark) == (True, None)
        assert await audit.verify(EPOCH, [("mug", 1)]) == Repairs(checked=1, other_epoch=foreign == "slot")
        assert await audit.trust(begun, SEEN, 60_000)
        assert (await bench.store.read(["mug"])).epoch == EPOCH
        for key in ("jug", "mug"):
            await bench.client.delete(names.prefix + key)
            await bench.client.lpush(names.prefix + key, "a stranger's")
        # Such a slot counts as empty: a lease is taken on it, and a publish is proven.
        assert set(await bench.store.lease(["jug"])) == {"jug"}
        published = await bench.store.publish([Publication(Value("mug", EPOCH, 2, b"{}"))])
        assert (published.outcomes, published.proven) == ((Outcome.EMPTY,), True)


async def test_watermark_that_a_stranger_wrote(redis_url: str, namespace: str) -> None:
    """A watermark that cannot be read has no epoch and can be replaced by a mark, so it does not stop audits for ever."""
    async with open_redis_bench(redis_url, namespace) as bench, bench.open() as audit:
        await bench.client.set(bench.names.watermark, "anything")
        begun = await audit.begin(1)
        assert begun.watermark == Watermark("", None)
        await audit.distrust(Watermark(EPOCH, None))
        assert await audit.trust(replace(begun, watermark=Watermark(EPOCH, None)), SEEN, 60_000)


@pytest.mark.guarantee("R5")
async def test_verify(stored: StoreBench) -> None:
    """Slots that are older than their row, of another epoch, or leased are deleted and counted; the rest stays."""
    held = {
        "older": slot.encode(Value("older", EPOCH, 9, b"{}"), NUMBER),
        "buried": slot.encode(Absent("buried", EPOCH, 1), NUMBER),
        "same": slot.encode(Value("same", EPOCH, 10, b"{}"), NUMBER),
        "newer": slot.encode(Absent("newer", EPOCH, 11), NUMBER),
        "other": slot.encode(Value("other", OTHER_EPOCH, 99, b"{}"), NUMBER),
        "leased": b"L" + NUMBER.encode() + b"0123456789abcdef",
        "unasked": slot.encode(Value("unasked", OTHER_EPOCH, 1, b"{}"), NUMBER),
    }
    for key, raw in held.items():
        await stored.put(key, raw)
    rows = [(key, 10) for key in ("older", "buried", "same", "newer", "other", "leased", "empty")]
    async with stored.open() as audit:
        assert await audit.verify(EPOCH, rows) == Repairs(checked=7, older=2, other_epoch=1, leases=1)
        assert await audit.verify(EPOCH, rows) == Repairs(checked=7)
    assert [key for key in held if await stored.raw(key) is not None] == ["same", "newer", "unasked"]


async def test_unlink_in_a_namespace_with_pattern_characters(redis_url: str, namespace: str) -> None:
    """Every slot is deleted, in any number of pages. A namespace is a name and no pattern: slots that it would match stay."""
    async with (
        open_redis_bench(redis_url, f"{namespace}[ab]*?\\") as odd,
        open_redis_bench(redis_url, f"{namespace}aX?\\") as matched,
        open_redis_bench(redis_url, f"{namespace}[ab]*?\\more") as longer,
    ):
        for bench in (odd, matched, longer):
            await bench.put("mug", b"anything")
        await odd.client.mset({f"{odd.names.prefix}{number}": b"anything" for number in range(2_500)})
        async with odd.open() as audit:
            assert isinstance(audit, RedisAuditStore)
            assert await audit.unlink_all() == 2_501
        assert await odd.raw("mug") is None
        assert await matched.raw("mug") == await longer.raw("mug") == b"anything"
        # Their names look like another program's.
        await odd.client.delete(f"{matched.names.prefix}mug", f"{longer.names.prefix}mug")


@pytest.mark.guarantee("R5")
async def test_trust(stored: StoreBench) -> None:
    """Watermark and fence are set; the fence names the server that readers are connected to."""
    async with stored.open() as audit:
        begun = await begin(audit)
        assert await audit.trust(begun, SEEN, 60_000)
    assert progress(await stored.watermark()) == SEEN
    fence = await stored.fence()
    assert fence is not None
    assert fence[:2] == (begun.server, EPOCH)
    assert 50 < fence[2] <= 60
    assert (await stored.store.read(["mug"])).epoch == EPOCH


def own(server: str, xid: int, number: str = NUMBER, epoch: str = EPOCH) -> Watermark:
    """Return a watermark that names the server."""
    return Watermark(epoch, xid, number, server)


@pytest.mark.parametrize(("found_xid", "left_xid"), [(700, 800), (750, 800), (900, 900), (99, 800)])
@pytest.mark.parametrize("late_ms", [0, 60_000])
async def test_trust_onto_the_watermark_seen_or_one_of_its_incarnation(
    stored: StoreBench, found_xid: int, left_xid: int, late_ms: int
) -> None:
    """The watermark may be as the cycle saw it, or another one of the same incarnation; the larger one wins.

    A late cycle moves it just so, and sets no fence.
    """
    server = await server_of(stored)
    await stored.put_watermark(own(server, 700))
    async with stored.open() as audit:
        begun = await begin(audit)
        await stored.put_watermark(own(server, found_xid))
        begun = replace(begun, time_ms=begun.time_ms - late_ms)
        assert await audit.trust(begun, Watermark(EPOCH, 800), 60_000) == (not late_ms)
    assert await stored.watermark() == own(server, left_xid)
    assert (await stored.fence() is not None) == (not late_ms)


@pytest.mark.parametrize("seen", ["none", "a mark", "of another epoch", "of another server"])
@pytest.mark.parametrize("late_ms", [0, 60_000])
async def test_trust_onto_the_watermark_seen_that_does_not_count(stored: StoreBench, seen: str, late_ms: int) -> None:
    """A watermark that does not count is replaced, if it is still as the cycle saw it. A late cycle sets no fence."""
    server = await server_of(stored)
    await stored.put_watermark(
        {
            "none": None,
            "a mark": Watermark(EPOCH, None),
            "of another epoch": own(server, 5, epoch=OTHER_EPOCH),
            "of another server": own("elsewhere:00", 900),
        }[seen]
    )
    async with stored.open() as audit:
        begun = await begin(audit)
        begun = replace(begun, time_ms=begun.time_ms - late_ms, counts=False)
        assert await audit.trust(begun, Watermark(EPOCH, 800), 60_000) == (not late_ms)
    left = await stored.watermark()
    assert left is not None
    assert left == own(server, 800, left.incarnation)
    assert left.incarnation != NUMBER


@pytest.mark.guarantee("R5", "R6")
@pytest.mark.parametrize("seen", ["counts", "none"])
@pytest.mark.parametrize("found", ["none", "a mark", "of another epoch", "of another server", "of another incarnation"])
@pytest.mark.parametrize("late_ms", [0, 60_000])
async def test_trust_onto_a_watermark_that_was_lost_or_changed(stored: StoreBench, seen: str, found: str, late_ms: int) -> None:
    """With another watermark nothing is set, in time or late: this cycle has not compared the slots that now count."""
    server = await server_of(stored)
    watermarks = {
        "none": None,
        "counts": own(server, 700),
        "a mark": Watermark(EPOCH, None),
        "of another epoch": own(server, 700, epoch=OTHER_EPOCH),
        "of another server": own("elsewhere:00", 700),
        "of another incarnation": own(server, 700, OTHER_NUMBER),
    }
    if seen == found:
        found = "of another epoch"
    await stored.put_watermark(watermarks[seen])
    async with stored.open() as audit:
        begun = await begin(audit)
        assert begun.counts == (seen == "counts")
        await stored.put_watermark(watermarks[found])
        assert not await audit.trust(replace(begun, time_ms=begun.time_ms - late_ms), Watermark(EPOCH, 800), 60_000)
    assert await stored.watermark() == watermarks[found]
    assert await stored.fence() is None


@pytest.mark.guarantee("R5")
@pytest.mark.parametrize("late_ms", [0, 60_000])
async def test_trust_on_a_server_with_other_data(stored: StoreBench, late_ms: int) -> None:
    """A cycle that began on other data sets nothing, in time or late, even if the watermark is the same."""
    async with stored.open() as audit:
        begun = await begin(audit)
        begun = replace(begun, time_ms=begun.time_ms - late_ms)
        other = begun.server[:-1] + ("0" if begun.server[-1] != "0" else "1")
        assert not await audit.trust(replace(begun, server=other), SEEN, 60_000)
    assert (await stored.watermark(), await stored.fence()) == (None, None)


@pytest.mark.guarantee("R5")
async def test_trust_too_late(stored: StoreBench) -> None:
    """A cycle that took longer than its fence may live sets the watermark, and neither sets nor deletes a fence."""
    async with stored.open() as audit:
        begun = await begin(audit)
        late = replace(begun, time_ms=begun.time_ms - 60_000)
        assert not await audit.trust(late, SEEN, 60_000)
        assert (progress(await stored.watermark()), await stored.fence()) == (SEEN, None)
        assert (await stored.store.read(["mug"])).epoch == ""
        begun = await begin(audit)
        late = replace(begun, time_ms=begun.time_ms - 60_000)
        assert await audit.trust(begun, SEEN, 60_000)
        before = await stored.fence()
        assert not await audit.trust(late, Watermark(EPOCH, 800), 60_000)
    after = await stored.fence()
    assert progress(await stored.watermark()) == Watermark(EPOCH, 800)
    assert before is not None
    assert after is not None
    assert after[:2] == before[:2]


async def test_trust_counts_from_the_beginning_of_the_cycle(stored: StoreBench) -> None:
    """A fence's life is counted from the beginning of the cycle, before the announcement."""
    async with stored.open() as audit:
        begun = await begin(audit)
        assert await audit.trust(replace(begun, time_ms=begun.time_ms - 40_000), SEEN, 60_000)
    fence = await stored.fence()
    assert fence is not None
    assert 10 < fence[2] <= 20


@pytest.mark.guarantee("R5")
async def test_trust_never_shortens(stored: StoreBench) -> None:
    """A cycle that began earlier, or with a shorter life, may end later: the fence keeps its longer life."""
    async with stored.open() as audit:
        await audit.trust(await begin(audit), SEEN, 60_000)
        begun = await begin(audit)
        assert await audit.trust(begun, SEEN, 60_000)
        assert await audit.trust(begun, Watermark(EPOCH, 800), 20_000)
        fence = await stored.fence()
        assert fence is not None
        assert 50 < fence[2] <= 60
        assert await audit.trust(begun, SEEN, 90_000)
    fence = await stored.fence()
    assert fence is not None
    assert 80 < fence[2] <= 90


async def test_trust_replaces_a_fence_of_another_epoch_or_server(stored: StoreBench) -> None:
    """Only a fence of the same server, epoch and incarnation keeps its longer life; another one is replaced."""
    for server, epoch, number in (("", OTHER_EPOCH, NUMBER), ("elsewhere:00", EPOCH, NUMBER), ("", EPOCH, OTHER_NUMBER)):
        await stored.put_watermark(own(await server_of(stored), 700))
        async with stored.open() as audit:
            begun = await begin(audit)
            await stored.put_fence(server or begun.server, epoch, 90, number)
            assert await audit.trust(begun, SEEN, 60_000)
        fence = await stored.fence()
        assert fence is not None
        assert fence[:2] == (begun.server, EPOCH)
        assert fence[2] <= 60
