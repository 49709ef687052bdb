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
    """Return reads that are drawn evenly from the paths."""
    return [Request("GET", path, header=header) for path in Random(seed).choices(paths, k=count)]


def zipfian(size: int, count: int, chance: Random) -> list[int]:
    """Draw ``count`` numbers below ``size``; number k is drawn with a weight of 1 / (k + 1) ** THETA."""
    weights = list(accumulate(1 / (rank + 1) ** THETA for rank in range(size)))
    return chance.choices(range(size), cum_weights=weights, k=count)


def ycsb(paths: Sequence[str], count: int, seed: int, *, reads_of_100: int) -> list[Request]:
    """Return reads and updates (PUT stock) drawn by YCSB's Zipfian; which paths are popular is random, as in YCSB."""
    chance = Random(seed)
    scrambled = chance.sample(paths, len(paths))
    return [
        Request("GET", scrambled[rank]) if chance.randrange(100) < reads_of_100 else _count(scrambled[rank], chance)
        for rank in zipfian(len(paths), count, chance)
    ]


def counts(paths: Sequence[str], count: int, seed: int) -> list[Request]:
    """Return requests that PUT the stock of random products."""
    chance = Random(seed)
    return [_count(path, chance) for path in chance.choices(paths, k=count)]


def prices(paths: Sequence[str], count: int, seed: int) -> list[Request]:
    """Return requests that PATCH the price of random products."""
    chance = Random(seed)
    return [Request("PATCH", path, f'{{"price_cents": {chance.choice(_PRICES)}}}') for path in chance.choices(paths, k=count)]


def adjustments(paths: Sequence[str], count: int, seed: int) -> list[Request]:
    """Return requests that take one unit of random products; always of the same product if there is one path."""
    return [
        Request("POST", f"{path}/stock/adjustments", '{"delta": -1, "reason": "sale"}')
        for path in Random(seed).choices(paths, k=count)
    ]


def trace_ranks(file: Path) -> tuple[list[int], int]:
    """Return the rank of each key of a trace by first appearance, and how many keys there are.

    A trace of accesses is an xz of big-endian int32 keys. Each key then becomes a product of its own, so that popularity, order
    and distances are those of the trace.

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
    """Return a read of the product of each rank."""
    return (Request("GET", paths[rank]) for rank in ranks)


def _count(path: str, chance: Random) -> Request:
    return Request("PUT", f"{path}/stock", f'{{"stock": {chance.choice(_STOCKS)}}}')
