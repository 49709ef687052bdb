"""The contract of ``AuditStore``: claim, repairs, and when watermark and fence may be set."""

import asyncio
from dataclasses import replace

import pytest

from app.cache import slot
from app.cache.ports import Absent, AuditStore, Begun, Outcome, Publication, Repairs, Value, Watermark
from tests.contracts.stores import StoreBench, open_redis_bench

EPOCH, OTHER_EPOCH = "7000000000000000001.00000002.00000000000000aa", "00000000000000bb"
SEEN = Watermark(EPOCH, 700)


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
        await stored.put_watermark(SEEN)
        second = await begin(audit)
        assert (second.watermark, second.server) == (SEEN, first.server)
        assert first.time_ms <= second.time_ms <= first.time_ms + 10_000
        await begin(audit, 60_000)
        looked = await audit.begin(60_000)
        assert (looked.claimed, looked.watermark, looked.server) == (False, SEEN, first.server)


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
        await stored.put("mug", slot.encode(Value("mug", EPOCH, 1, b"{}")))
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
        "older": slot.encode(Value("older", EPOCH, 9, b"{}")),
        "buried": slot.encode(Absent("buried", EPOCH, 1)),
        "same": slot.encode(Value("same", EPOCH, 10, b"{}")),
        "newer": slot.encode(Absent("newer", EPOCH, 11)),
        "other": slot.encode(Value("other", OTHER_EPOCH, 99, b"{}")),
        "leased": b"L0123456789abcdef",
        "unasked": slot.encode(Value("unasked", OTHER_EPOCH, 1, b"{}")),
    }
    for key, raw in held.items():
        await stored.put(key, raw)
    rows = [(key, 10) for key in ("older", "buried", "same", "newer", "other", "leased", "empty")]
    async with stored.open() as audit:
        assert await audit.verify(EPOCH, rows) == Repairs(checked=7, older=2, other_epoch=1, leases=1)
        assert await audit.verify(EPOCH, rows) == Repairs(checked=7)
    assert [key for key in held if await stored.raw(key) is not None] == ["same", "newer", "unasked"]


@pytest.mark.guarantee("R6")
async def test_purge(stored: StoreBench) -> None:
    """A purge deletes every slot in any number of pages and keeps the claim; watermark and fence stay."""
    async with stored.open() as audit:
        begun = await begin(audit)
        assert await audit.trust(begun, SEEN, 60_000)
        for number in range(2_500):
            await stored.put(f"key-{number}", b"anything")
        assert await audit.purge(60_000) == 2_500
        assert not (await audit.begin(60_000)).claimed
    assert await stored.raw("key-7") is None
    assert await stored.watermark() == SEEN
    assert await stored.fence() is not None


async def test_purge_in_a_namespace_with_pattern_characters(redis_url: str, namespace: str) -> None:
    """A namespace is a name and no pattern: slots of namespaces that it would match stay."""
    async with (
        open_redis_bench(redis_url, f"{namespace}[ab]*?\\") as odd,
        open_redis_bench(redis_url, f"{namespace}aX?\\") as matched,
        open_redis_bench(redis_url, f"{namespace}[ab]*?\\more") as longer,
    ):
        for bench in (odd, matched, longer):
            await bench.put("mug", b"anything")
        async with odd.open() as audit:
            assert await audit.purge(60_000) == 1
        assert await odd.raw("mug") is None
        assert await matched.raw("mug") == await longer.raw("mug") == b"anything"


@pytest.mark.guarantee("R5")
async def test_trust(stored: StoreBench) -> None:
    """Watermark and fence are set; the fence names the server that readers are connected to."""
    async with stored.open() as audit:
        begun = await begin(audit)
        assert await audit.trust(begun, SEEN, 60_000)
    assert await stored.watermark() == SEEN
    fence = await stored.fence()
    assert fence is not None
    assert fence[:2] == (begun.server, EPOCH)
    assert 50 < fence[2] <= 60
    assert (await stored.store.read(["mug"])).epoch == EPOCH


@pytest.mark.parametrize(
    "watermarks",
    [
        (None, None, SEEN, SEEN),
        (SEEN, SEEN, Watermark(EPOCH, 800), Watermark(EPOCH, 800)),
        (SEEN, SEEN, Watermark(OTHER_EPOCH, 3), Watermark(OTHER_EPOCH, 3)),
        (SEEN, Watermark(EPOCH, 750), Watermark(EPOCH, 800), Watermark(EPOCH, 800)),
        (SEEN, Watermark(EPOCH, 900), Watermark(EPOCH, 800), Watermark(EPOCH, 900)),
        (None, Watermark(EPOCH, 900), Watermark(EPOCH, 800), Watermark(EPOCH, 900)),
        (Watermark(EPOCH, None), Watermark(EPOCH, None), Watermark(EPOCH, 800), Watermark(EPOCH, 800)),
        (SEEN, Watermark(EPOCH, None), Watermark(EPOCH, 800), Watermark(EPOCH, 800)),
        (SEEN, Watermark(EPOCH, 99), Watermark(EPOCH, 1_000), Watermark(EPOCH, 1_000)),
        (Watermark(OTHER_EPOCH, 5), SEEN, Watermark(EPOCH, 800), Watermark(EPOCH, 800)),
    ],
)
@pytest.mark.parametrize("late_ms", [0, 60_000])
async def test_trust_onto_the_watermark_seen_or_one_of_its_epoch(
    stored: StoreBench, watermarks: tuple[Watermark | None, Watermark | None, Watermark, Watermark], late_ms: int
) -> None:
    """The watermark may be as the cycle saw it, or a later one of the same epoch; the larger one wins.

    A late cycle moves it just so, and sets no fence.
    """
    seen, found, proven, left = watermarks
    await stored.put_watermark(found)
    async with stored.open() as audit:
        begun = await begin(audit)
        assert await audit.trust(replace(begun, watermark=seen, time_ms=begun.time_ms - late_ms), proven, 60_000) == (
            not late_ms
        )
    assert await stored.watermark() == left
    assert (await stored.fence() is not None) == (not late_ms)


@pytest.mark.guarantee("R5")
@pytest.mark.parametrize(
    ("seen", "found", "proven"),
    [
        (SEEN, None, Watermark(EPOCH, 800)),
        (SEEN, Watermark(OTHER_EPOCH, 800), Watermark(EPOCH, 800)),
        (None, Watermark(OTHER_EPOCH, 800), SEEN),
        (SEEN, Watermark(OTHER_EPOCH, None), Watermark(EPOCH, 800)),
        (None, Watermark(OTHER_EPOCH, None), SEEN),
        (SEEN, Watermark(EPOCH, 701), Watermark(OTHER_EPOCH, 1)),
    ],
)
@pytest.mark.parametrize("late_ms", [0, 60_000])
async def test_trust_onto_a_watermark_that_was_lost_or_changed(
    stored: StoreBench, seen: Watermark | None, found: Watermark | None, proven: Watermark, late_ms: int
) -> None:
    """With a watermark of another epoch nothing is set, in time or late: this cycle may not have compared older slots."""
    await stored.put_watermark(found)
    async with stored.open() as audit:
        begun = await begin(audit)
        assert not await audit.trust(replace(begun, watermark=seen, time_ms=begun.time_ms - late_ms), proven, 60_000)
    assert await stored.watermark() == found
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
        assert (await stored.watermark(), await stored.fence()) == (SEEN, None)
        assert (await stored.store.read(["mug"])).epoch == ""
        assert await audit.trust(begun, SEEN, 60_000)
        before = await stored.fence()
        assert not await audit.trust(late, Watermark(EPOCH, 800), 60_000)
    after = await stored.fence()
    assert await stored.watermark() == Watermark(EPOCH, 800)
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
    """Only a fence of the same server and epoch keeps its longer life; another one is replaced."""
    for server, epoch in (("", OTHER_EPOCH), ("elsewhere:00", EPOCH)):
        await stored.put_watermark(SEEN)
        async with stored.open() as audit:
            begun = await begin(audit)
            await stored.put_fence(server or begun.server, epoch, 90)
            assert await audit.trust(begun, SEEN, 60_000)
        fence = await stored.fence()
        assert fence is not None
        assert fence[:2] == (begun.server, EPOCH)
        assert fence[2] <= 60
