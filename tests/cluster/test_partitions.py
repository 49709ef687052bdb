"""Which partition a key belongs to, how partitions are named, and which node has them: rules without I/O."""

import pytest
from redis.crc import key_slot

from app.cache.partitions import Partitions, checked_number, family_of, hash_slot, rows_of
from app.cache.redis.node_store import names_of
from app.cache.redis.slot_map import SlotMap
from app.settings import Settings, SettingsError


@pytest.mark.parametrize("number", [0, 3, 65, 2_048, -1])
def test_number_that_no_cache_can_have(number: int) -> None:
    """Only powers of two up to 1,024 are numbers of partitions, for the component and for the setting."""
    with pytest.raises(ValueError, match="power of two"):
        checked_number(number)
    with pytest.raises(SettingsError, match=r"LARDER_CACHE_PARTITIONS|power of two"):
        Settings.from_env({"LARDER_CACHE_PARTITIONS": str(number)})


def test_partition_of_a_key() -> None:
    """The partition is a part of the key's CRC-32, which any other program can compute."""
    partitions = Partitions("products.1~2", 64)
    assert {key: partitions.of(key) for key in ("mug", "jug", "größe", "a:b")} == {"mug": 15, "jug": 14, "größe": 22, "a:b": 12}
    shares = [len(places) for places in partitions.cut([f"product-{number}" for number in range(6_400)]).values()]
    assert len(shares) == 64
    assert min(shares) > 60
    assert max(shares) < 140


@pytest.mark.parametrize("number", [2, 64, 1_024])
def test_equal_ranges_of_slots_get_equal_shares(number: int) -> None:
    """The tag of the p-th partition is in the p-th of as many equal ranges of hash slots, by Redis's own function."""
    partitions = Partitions("products.1~2", number)
    assert [slot * number // 16_384 for slot in partitions.slots] == list(range(number))
    for tag, names, slot in zip(partitions.tags, names_of(partitions), partitions.slots, strict=True):
        keys = (names.fence, names.watermark, names.claim, names.prefix + "a{b}c")
        assert {key_slot(key.encode()) for key in keys} == {slot} == {hash_slot(tag)}


def test_names() -> None:
    """The number of partitions belongs to the name; a row's name shows the namespace, and which others are its siblings."""
    partitions = Partitions("products.1~2", 4)
    assert list(partitions.rows) == [f"products.1~2/4#{number}" for number in range(4)] == rows_of("products.1~2/4")
    assert {family_of(row) for row in partitions.rows} == {"products.1~2/4"}
    assert rows_of("products.1~2") == ["products.1~2"]
    assert family_of("products.1~2") == "products.1~2"
    assert names_of(partitions)[0].prefix.startswith("wtc:{products.1~2/4.0.")


def test_map_of_slots() -> None:
    """Each slot belongs to the node that the reply names; a node without a name is where it was asked."""
    reply = [[8_192, 16_000, [b"h2", 7_002, b"id"], [b"h4", 7_004, b"id"]], [0, 8_191, [b"", 7_001, b"id"]]]
    found = SlotMap.parse(reply, ("h1", 6_379))
    assert [found.owner(slot) for slot in (0, 8_191, 8_192, 16_000, 16_001)] == [
        ("h1", 7_001),
        ("h1", 7_001),
        ("h2", 7_002),
        ("h2", 7_002),
        None,
    ]
    assert (list(found.owners), found.uncovered) == ([("h1", 7_001), ("h2", 7_002)], 383)
    assert SlotMap([], []).owner(0) is None
    assert SlotMap.whole().uncovered == 0
