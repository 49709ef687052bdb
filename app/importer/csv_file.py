"""The lines of a CSV file, plain or gzip, and the position in the file.

Lines are split only at LF, as bytes, so that a line number is the one that an editor shows. A byte that is not UTF-8 becomes a
lone surrogate, so that ``rows`` rejects only that row: one bad cell must not end an import of a million rows.
"""

import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Self, cast

from app.importer.errors import ImportStopped

LINE_MAX_BYTES = 1_048_576
"""Longest line. A longer one is not a row of products, and reading more of it would only fill the memory."""

_GZIP = b"\x1f\x8b"
_ZIP = b"PK\x03\x04"
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class CsvFile:
    """An open CSV file. ``lines()`` can be iterated once; ``position`` can be read at any time.

    Raises:
        ImportStopped: the file cannot be opened or read, is damaged, or is plainly not text in UTF-8.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Opening a pipe would wait until somebody writes into it.
            if not stat.S_ISREG(path.stat().st_mode):
                raise ImportStopped(
                    f"{path} is not a regular file. An import may have to be run again, so it reads from a file: "
                    "save the rows to one first."
                )
            self._file = path.open("rb")
        except OSError as error:
            raise ImportStopped(f"Cannot open {path}: {error.strerror or error}") from error
        self.size_bytes = os.fstat(self._file.fileno()).st_size

    @property
    def position(self) -> int:
        """Bytes of the file on disk read so far (compressed bytes of a gzip file), 0 to ``size_bytes``."""
        return min(self._file.tell(), self.size_bytes)

    def lines(self) -> Iterator[str]:
        """Yield each line with its line end, in the order of the file, without the UTF-8 byte order mark."""
        number = 1
        try:
            text = self._text()
            while line := text.readline(LINE_MAX_BYTES + 1):
                if number == 1:
                    line = self._without_mark(line)
                if len(line) > LINE_MAX_BYTES:
                    raise ImportStopped(
                        f"Line {number} of {self.path} is longer than {LINE_MAX_BYTES:,} bytes, so this is no CSV of products. "
                        "(Are its line ends CR alone? Then: tr '\\r' '\\n' < FILE > converted.csv)"
                    )
                yield line.decode("utf-8", "surrogateescape")
                number += 1
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ImportStopped(
                f"{self.path} is a damaged or incomplete gzip file, unreadable from about line {number} on: {error}. "
                "Get the file again and run the same command."
            ) from error
        except OSError as error:
            raise ImportStopped(f"Cannot read {self.path} at line {number}: {error.strerror or error}") from error

    def _text(self) -> IO[bytes]:
        """Return the unpacked bytes. The content, not the name, decides whether the file is packed."""
        magic = self._file.peek(len(_ZIP))
        if magic.startswith(_ZIP):
            raise ImportStopped(f"{self.path} is a zip file or a workbook. Save the sheet as CSV in UTF-8 and import that.")
        return cast("IO[bytes]", gzip.GzipFile(fileobj=self._file)) if magic.startswith(_GZIP) else self._file

    def _without_mark(self, line: bytes) -> bytes:
        if line.startswith(_UTF16_MARKS):
            raise ImportStopped(
                f"{self.path} is UTF-16, not UTF-8. Convert it: "
                f"iconv -f UTF-16 -t UTF-8 '{self.path}' > converted.csv (unpack a gzip file first)"
            )
        return line.removeprefix(_UTF8_MARK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
