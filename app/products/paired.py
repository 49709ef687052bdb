"""The products of a pair, for the hot read: what belongs to another pair is not looked for in the cache."""

from collections.abc import Callable
from typing import Any

from typing_extensions import override

from app.cache.write_through import Peeked
from app.products.pair import Pair
from app.products.service import Products


class PairedProducts(Products):
    """``Products`` that hold only some buckets. The endpoints refuse the others before they call it."""

    def __init__(self, pair: Pair, *parts: Any) -> None:
        super().__init__(*parts)
        self._pair = pair

    @override
    def peek(self, product_id: str, then: Callable[[Peeked], None]) -> None:
        if self._pair.holds(product_id):
            super().peek(product_id, then)
        else:
            then(None)
