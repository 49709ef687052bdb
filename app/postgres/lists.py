"""Lists of texts or bytes as parameters, such as the ids of a batch."""

from typing import Any

from psycopg.adapt import Dumper
from psycopg.types.array import ListDumper
from psycopg.types.string import BytesBinaryDumper
from typing_extensions import override


class TextListDumper(ListDumper):
    """Writes a list of texts in one piece. The driver would look at each of them, which takes longer."""

    @override
    def dump(self, obj: list[Any]) -> Any:
        try:
            joined = '","'.join(obj)
        except TypeError:  # another kind of list
            return super().dump(obj)
        if not obj or "\\" in joined or "\0" in joined or joined.count('"') != 2 * (len(obj) - 1):
            return super().dump(obj)
        return f'{{"{joined}"}}'.encode()


class HexDumper(Dumper):
    """Writes bytes as text in the form that PostgreSQL reads whatever its parameters are."""

    oid = BytesBinaryDumper.oid

    @override
    def dump(self, obj: bytes) -> bytes:
        return b"\\x" + obj.hex().encode()
