"""What the load generator sends: each workload a list of requests, the same for every contender."""

import lzma
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from random import Random

from benchmarks.contest.load import Request

THETA = 0.99
"""The skew of YCSB's Zipfian distribution."""
_STOCKS = range(500_000_000, 1_000_000_000)
_PRICES = range(100, 100_000)
_KEY_BYTES = 4


def reads(paths: Sequence[str], count: int, seed: int, *, header: str = "") -> list[Request]:
    """Read, every path as likely as any other."""
    return [Request("GET", path, header=header) for path in Random(seed).choices(paths, k=count)]


def zipfian(size: int, count: int, chance: Random) -> list[int]:
    """Draw ``count`` numbers below ``size``; number k is drawn with a weight of 1 / (k + 1) ** THETA."""
    weights = list(accumulate(1 / (rank + 1) ** THETA for rank in range(size)))
    return chance.choices(range(size), cum_weights=weights, k=count)


def ycsb(paths: Sequence[str], count: int, seed: int, *, reads_of_100: int) -> list[Request]:
    """Read and update (PUT stock) by YCSB's Zipfian, which paths are popular being chance, as its scrambling has it."""
    chance = Random(seed)
    scrambled = chance.sample(paths, len(paths))
    return [
        Request("GET", scrambled[rank]) if chance.randrange(100) < reads_of_100 else _count(scrambled[rank], chance)
        for rank in zipfian(len(paths), count, chance)
    ]


def counts(paths: Sequence[str], count: int, seed: int) -> list[Request]:
    """PUT the stock of products by chance."""
    chance = Random(seed)
    return [_count(path, chance) for path in chance.choices(paths, k=count)]


def prices(paths: Sequence[str], count: int, seed: int) -> list[Request]:
    """PATCH the price of products by chance."""
    chance = Random(seed)
    return [Request("PATCH", path, f'{{"price_cents": {chance.choice(_PRICES)}}}') for path in chance.choices(paths, k=count)]


def adjustments(paths: Sequence[str], count: int, seed: int) -> list[Request]:
    """Take one unit of products by chance; of one and the same, if there is one path."""
    return [
        Request("POST", f"{path}/stock/adjustments", '{"delta": -1, "reason": "sale"}')
        for path in Random(seed).choices(paths, k=count)
    ]


def trace_ranks(file: Path) -> tuple[list[int], int]:
    """Read a trace of accesses (xz of big-endian int32 keys); each key as its rank by first appearance, and how many there are.

    So each key becomes a product of its own: popularity, order and distances are the trace's.

    Raises:
        OSError, lzma.LZMAError: it cannot be read, or is not xz.
        ValueError: it does not consist of whole keys.
    """
    keys = array("i")
    if keys.itemsize != _KEY_BYTES:
        raise ValueError("this machine's int has not 32 bits")
    keys.frombytes(lzma.decompress(file.read_bytes()))
    ranks: dict[int, int] = {}
    return [ranks.setdefault(key, len(ranks)) for key in keys], len(ranks)


def replay(ranks: Sequence[int], paths: Sequence[str]) -> Iterator[Request]:
    """Read the product of each rank."""
    return (Request("GET", paths[rank]) for rank in ranks)


def _count(path: str, chance: Random) -> Request:
    return Request("PUT", f"{path}/stock", f'{{"stock": {chance.choice(_STOCKS)}}}')
