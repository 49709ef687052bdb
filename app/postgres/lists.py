"""Lists as parameters, such as the ids of a batch."""

from typing import Any

from psycopg.adapt import Dumper
from psycopg.types.array import ListDumper
from psycopg.types.string import BytesBinaryDumper, BytesDumper
from typing_extensions import override


class TextListDumper(ListDumper):
    """Writes a list of texts in one piece. The driver looks at each of them, which takes much longer."""

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
    """Writes bytes as text in hexadecimal digits, within a list.

    The driver's own dumper needs the connection for that: without one it doubles quotes.
    """

    oid = BytesDumper.oid

    @override
    def dump(self, obj: bytes | bytearray | memoryview) -> bytes:
        return b"\\x" + obj.hex().encode()


BYTES = tuple((kind, dumper) for kind in (bytes, bytearray, memoryview) for dumper in (HexDumper, BytesBinaryDumper))
"""The dumpers of bytes. The last one writes those that are not in a list."""
