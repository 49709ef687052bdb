"""What the load generator sends: shares, skew and order; and the same for everyone."""

import lzma
from array import array
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from benchmarks.contest.load import Request
from benchmarks.contest.workloads import adjustments, counts, prices, reads, replay, trace_ranks, ycsb, zipfian

PATHS = [f"/products/{number}" for number in range(100)]


def test_zipfian_has_its_skew() -> None:
    """The most popular ten of a thousand are drawn as often as a theta of 0.99 says, and every number is below the size."""
    drawn = Counter(zipfian(1_000, 200_000, Random(1)))
    weights = [1 / rank**0.99 for rank in range(1, 1_001)]
    assert min(drawn) == 0
    assert max(drawn) < 1_000
    assert sum(drawn[rank] for rank in range(10)) / drawn.total() == pytest.approx(sum(weights[:10]) / sum(weights), rel=0.01)


def test_workloads_repeat() -> None:
    """A seed gives every contender the same requests; another one gives others."""
    for make in (reads, counts, prices, adjustments):
        assert make(PATHS, 50, 7) == make(PATHS, 50, 7)
        assert make(PATHS, 50, 7) != make(PATHS, 50, 8)


def test_reads_are_uniform() -> None:
    """Every path is read, none much more than another."""
    often = Counter(request.path for request in reads(PATHS, 20_000, 3))
    assert set(often) == set(PATHS)
    assert max(often.values()) < 2 * min(often.values())


@pytest.mark.parametrize("share", [50, 95, 100])
def test_ycsb_has_its_share_of_reads(share: int) -> None:
    """Reads are the share of the mix, updates are PUT stock, and popularity does not follow the catalogue's order."""
    requests = ycsb(PATHS, 20_000, 4, reads_of_100=share)
    methods = Counter(request.method for request in requests)
    assert set(methods) == ({"GET", "PUT"} if share < 100 else {"GET"})
    assert methods["GET"] / len(requests) == pytest.approx(share / 100, abs=0.02)
    popular = [path for path, _ in Counter(request.path.removesuffix("/stock") for request in requests).most_common(5)]
    assert popular != PATHS[:5]


def test_hot_adjustments_have_one_product() -> None:
    """Of one path, all adjustments are of it."""
    assert {request.path for request in adjustments(PATHS[3:4], 20, 1)} == {"/products/3/stock/adjustments"}


def test_a_trace_keeps_its_popularity_and_order(tmp_path: Path) -> None:
    """Each key is a product of its own, numbered by first appearance: equal keys are equal, different ones stay different."""
    keys = array("i", [-5, 2**31 - 1, -5, 7, 2**31 - 1, -5])
    keys.byteswap()
    file = tmp_path / "night.xz"
    file.write_bytes(lzma.compress(keys.tobytes()))
    assert trace_ranks(file) == ([0, 1, 0, 2, 1, 0], 3)
    assert list(replay([0, 1, 0], PATHS)) == [Request("GET", PATHS[rank]) for rank in (0, 1, 0)]


def test_a_torn_trace_is_refused(tmp_path: Path) -> None:
    """A file that does not consist of whole keys is no trace."""
    file = tmp_path / "torn.xz"
    file.write_bytes(lzma.compress(b"\0\0\0"))
    with pytest.raises(ValueError, match="bytes length"):
        trace_ranks(file)


def test_requests_are_lines_of_four_fields() -> None:
    """load.lua finds method, path, body and header between tabs, also where there is none."""
    assert Request("GET", "/a").line() == "GET\t/a\t\t\n"
    assert Request("PUT", "/a", '{"stock": 1}', "If-Match: *").line() == 'PUT\t/a\t{"stock": 1}\tIf-Match: *\n'
