"""Codes of a file to ids of products."""

import re
from collections.abc import Callable, Mapping

ID_MAX_CHARS = 64
SHOWN_COLLISIONS = 10
"""Collisions that a message lists; the others are counted."""

IdMap = Callable[[str], str]

_NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9._:-]")


def keep(code: str) -> str:
    """The code as it is; whether it is a legal id, the service says."""
    return code


def sanitize(code: str) -> str:
    """The code with `_` for each character that an id may not have, cut to the length that it may have; case is kept."""
    if code in {".", ".."}:
        return "_" * len(code)
    return _NOT_IN_AN_ID.sub("_", code)[:ID_MAX_CHARS]


ID_MAPS: Mapping[str, IdMap] = {"keep": keep, "sanitize": sanitize}
"""What `--id-map` may name."""


class MappedIds:
    """Every code of a file with its id, and the ids that several codes share."""

    def __init__(self, id_map: IdMap) -> None:
        self._id_map = id_map
        self._ids: dict[str, str] = {}

    def id_of(self, code: str) -> str:
        """The id of a code, which is remembered."""
        product_id = self._ids.get(code)
        if product_id is None:
            product_id = self._ids[code] = self._id_map(code)
        return product_id

    def renamed(self) -> int:
        """How many codes became another id than themselves."""
        return sum(code != product_id for code, product_id in self._ids.items())

    def collisions(self) -> dict[str, list[str]]:
        """The ids that more than one code became, with those codes, in the order of the file."""
        codes: dict[str, list[str]] = {}
        for code, product_id in self._ids.items():
            codes.setdefault(product_id, []).append(code)
        return {product_id: several for product_id, several in codes.items() if len(several) > 1}

    def collisions_text(self) -> str:
        """The collisions in a sentence; empty when there are none."""
        found = self.collisions()
        if not found:
            return ""
        listed = [f"{product_id} from {', '.join(map(repr, codes))}" for product_id, codes in found.items()]
        more = f"; and {len(listed) - SHOWN_COLLISIONS} more" if len(listed) > SHOWN_COLLISIONS else ""
        return f"Codes that became the same id count as one product: {'; '.join(listed[:SHOWN_COLLISIONS])}{more}."
