"""A workload: which product is read or written next, by a mix of chances or in the order of an access log."""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from random import Random

Step = tuple[bool, int]
"""Whether it is a read, and the number of its product."""

_LINE = re.compile(r'\b(GET|HEAD|PUT|PATCH|POST|DELETE) (/[^ "?]*)\S*(?: HTTP/[\d.]+)?"? +(\d{3})\b')
_PRODUCT = re.compile(r"/products/([^/]+)(/stock(?:/adjustments)?)?$")
_DRAWN = 200_000
"""Steps that are drawn before a run; a longer run begins with the first one again."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Steps to take in order, over and over, and what they are in words."""

    steps: Sequence[Step]
    products: int
    words: str


def drawn(reads_of_100: float, keys: int, theta: float, *, cold: int) -> Mix:
    """Draw a mix. Reads are Zipfian over ``keys`` products, and so are writes unless they go to ``cold`` other ones, evenly."""
    chance = Random(7)
    numbers = list(range(keys))
    chance.shuffle(numbers)
    weights = list(accumulate(1 / (rank + 1) ** theta for rank in range(keys)))
    popular = chance.choices(numbers, cum_weights=weights, k=_DRAWN)
    steps = []
    for number in popular:
        is_read = chance.random() * 100 < reads_of_100
        steps.append((is_read, number if is_read or not cold else keys + chance.randrange(cold)))
    where = f"{cold:,} others, evenly" if cold else "the same"
    words = f"{reads_of_100:g} % reads of {keys:,} products, Zipfian with theta {theta:g}; writes of {where}"
    return Mix(steps, keys + cold, words)


def logged(path: Path) -> Mix:
    """Take the successful reads and writes of single products from an access log, in its order.

    A line has the method, the path and the status in this order, as in the common log format. Ids are hashed at once and
    are not kept.

    Raises:
        ValueError: the log has no such line.
        OSError: it cannot be read.
    """
    numbers: dict[bytes, int] = {}
    steps: list[Step] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for method, product in _requests(lines):
            hashed = hashlib.blake2b(product.encode(), digest_size=12).digest()
            steps.append((method in ("GET", "HEAD"), numbers.setdefault(hashed, len(numbers))))
    if not steps:
        raise ValueError(
            f'{path.name} has no successful request for a single product, such as "GET /products/mug HTTP/1.1" 200'
        )
    reads = sum(is_read for is_read, _ in steps)
    words = f"{len(steps):,} accesses of {path.name} in their order, {100 * reads / len(steps):.0f} % of them reads"
    return Mix(steps, len(numbers), f"{words}, to {len(numbers):,} products")


def _requests(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    for line in lines:
        found = _LINE.search(line)
        if found is None or not 200 <= int(found[3]) < 400:
            continue
        product = _PRODUCT.search(found[2])
        if product is not None and (product[2] is None or found[1] not in ("GET", "HEAD")):
            yield found[1], product[1]


def read_between_writes(steps: Sequence[Step]) -> float | None:
    """Return the share of writes whose product was read before its next write; ``None`` if no product was written twice."""
    waiting: set[int] = set()
    written: set[int] = set()
    decided = read = 0
    for is_read, number in steps:
        if is_read:
            if number in waiting:
                waiting.discard(number)
                read += 1
                decided += 1
        else:
            decided += number in waiting
            waiting.add(number)
            written.add(number)
    return read / decided if decided else None


def endless(steps: Sequence[Step], first: int = 0) -> Callable[[], Step]:
    """Return a function that gives the next step, from ``first`` on, and begins again after the last one."""

    def all_steps() -> Iterable[Step]:
        yield from islice(steps, first % len(steps), None)
        while True:
            yield from steps

    return iter(all_steps()).__next__
