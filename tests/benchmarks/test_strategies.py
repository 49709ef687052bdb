"""The rule by which a write policy is chosen, and what it is fed with."""

from pathlib import Path

import pytest

from benchmarks.strategies.mixes import drawn, endless, logged, read_between_writes
from benchmarks.strategies.scrapes import Scrape, Traffic
from benchmarks.strategies.verdict import Round, scarcest, sentence

NEAR_CPU = {"cpu": 0.8, "memory": 0.1, "bytes": 0.0}


def rounds(policy: str, cpu: tuple[float, ...], *, hit: float = 0.9, checked: int = 20_000, stale: int = 0) -> list[Round]:
    """Rounds of a policy, each with this much CPU."""
    return [
        Round(policy, hit, {"cpu": each, "memory": 5.0, "bytes": 300.0}, NEAR_CPU, checked=checked, stale=stale, lost=0)
        for each in cpu
    ]


THROUGH = rounds("through", (100.0, 110.0, 90.0))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            rounds("update", (80.0, 90.0, 76.0)),
            "change to `update`: `update` saves 16 to 20 % of CPU in every round and changes the hit ratio by +0.0 points",
        ),
        (
            rounds("update", (80.0, 90.0, 80.0)),
            "keep `through`: `update` saves 11 to 20 % of CPU, and a change has to save 15 % in every round",
        ),
        (
            rounds("aside", (70.0, 70.0, 60.0), hit=0.87),
            "keep `through`: `aside` saves 30 to 36 % of CPU but loses 3 points of hit ratio, and may lose 2",
        ),
        (
            rounds("aside", (70.0, 70.0, 60.0), checked=16_000),
            "keep `through`: only 48,000 reads of `aside` were checked, and 50,000 are needed: take longer --seconds",
        ),
        (rounds("aside", (70.0, 70.0, 60.0), stale=1), "keep `through`: `aside` showed 3 stale reads, which is a defect"),
    ],
    ids=["saves", "not in every round", "loses hits", "too few reads", "stale"],
)
def test_rule(other: list[Round], said: str) -> None:
    """A change needs 15 % of the scarcest resource in every round, at most 2 points of hit ratio, and 50,000 checked reads."""
    assert sentence([*THROUGH, *other], "cpu") == said


def test_the_policy_that_saves_most_in_its_worst_round() -> None:
    """When two policies qualify, the one with the better worst round is named."""
    both = [*rounds("update", (80.0, 90.0, 70.0)), *rounds("aside", (70.0, 77.0, 60.0))]
    assert sentence([*THROUGH, *both], "cpu").startswith("change to `aside`")


def test_default_that_was_not_checked() -> None:
    """Without enough checked reads of the default there is no verdict."""
    assert sentence(rounds("through", (1.0,)), "cpu").startswith("no verdict: only 20,000 reads of `through`")


def test_scarcest_resource() -> None:
    """The scarcest resource is the one that is nearest to its limit under the default."""
    full = [Round("through", 0.9, {}, {"cpu": 0.7, "memory": 0.99, "bytes": 0.1}, 0, 0, 0)]
    assert (scarcest(THROUGH), scarcest(full)) == ("cpu", "memory")


def test_access_log(tmp_path: Path) -> None:
    """Successful reads and writes of single products count, in their order; ids become numbers."""
    log = tmp_path / "access.log"
    log.write_text(
        '1.2.3.4 - - [28/Nov/2026:10:00:00 +0000] "PUT /products/mug/stock HTTP/1.1" 200 311\n'
        '1.2.3.4 - - [28/Nov/2026:10:00:00 +0000] "GET /products?limit=20 HTTP/1.1" 200 311\n'
        '1.2.3.4 - - [28/Nov/2026:10:00:01 +0000] "GET /products/mug HTTP/1.1" 304 0\n'
        '1.2.3.4 - - [28/Nov/2026:10:00:02 +0000] "GET /products/jug HTTP/1.1" 404 90\n'
        "2026-11-28T10:00:03Z PATCH /products/jug 200\n"
        "2026-11-28T10:00:04Z POST /products/mug/stock/adjustments 200\n"
        "2026-11-28T10:00:05Z PUT /products/mug/stock 200\n"
        "2026-11-28T10:00:05Z GET /products/mug/stock/movements 200\n"
    )
    mix = logged(log)
    assert mix.steps == [(False, 0), (True, 0), (False, 1), (False, 0), (False, 0)]
    assert mix.products == 2
    assert read_between_writes(mix.steps) == 0.5


def test_access_log_without_products(tmp_path: Path) -> None:
    """A log of something else is refused with an example of a line."""
    log = tmp_path / "access.log"
    log.write_text('"GET / HTTP/1.1" 200\n')
    with pytest.raises(ValueError, match="no successful request for a single product"):
        logged(log)


def test_a_mix_has_its_share_of_reads() -> None:
    """A mix has its share of reads, and with cold writes no product is both read and written."""
    mix = drawn(80, 100, 0.99, cold=50)
    reads = {number for is_read, number in mix.steps if is_read}
    writes = {number for is_read, number in mix.steps if not is_read}
    assert (max(reads) < 100 <= min(writes), mix.products) == (True, 150)
    assert 0.78 < sum(is_read for is_read, _ in mix.steps) / len(mix.steps) < 0.82
    step = endless(mix.steps, first=len(mix.steps) - 1)
    assert [step(), step()] == [mix.steps[-1], mix.steps[0]]


def test_scrapes() -> None:
    """Two scrapes give the share of reads, the hit ratio and the payload, whatever further labels the series have."""
    before = Scrape.of('larder_cache_reads_total{namespace="products",result="hit"} 10.0\n')
    after = Scrape.of(
        "# HELP larder_cache_reads_total Keys.\n"
        'larder_cache_reads_total{namespace="products",result="hit"} 70.0\n'
        'larder_cache_reads_total{namespace="products",result="miss"} 20.0\n'
        'larder_http_requests_total{method="PUT",route="/products/{product_id}/stock",status="200"} 20.0\n'
        'larder_http_requests_total{method="PUT",route="/products/{product_id}/stock",status="404"} 7.0\n'
        'larder_cache_publishes_total{outcome="stored"} 20.0\n'
        'larder_cache_publishes_total{outcome="empty"} 20.0\n'
        "larder_cache_payload_bytes_total 8000.0\n"
    )
    traffic = Traffic(before, after)
    assert (traffic.hit_ratio, traffic.reads_of_100, traffic.payload) == (0.75, 80.0, 200.0)
    assert "50 % of the publishes found an empty slot" in traffic.sentences()
    with pytest.raises(ValueError, match="nothing was read or written"):
        _ = Traffic(after, after).reads_of_100
