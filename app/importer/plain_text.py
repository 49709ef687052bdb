"""Text of a file or a server, made harmless for a terminal and for a spreadsheet."""

import unicodedata

# Control characters, invisible and direction-changing ones, lone surrogates, and separators of lines and paragraphs.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_FORMULAS = ("=", "+", "-", "@")
_MARK = "'"


def visible(text: str) -> str:
    """Return the text in one line, its control and invisible characters as escapes (hexadecimal)."""
    if text.isascii() and text.isprintable():
        return text
    return "".join([_escape(char) if unicodedata.category(char) in _HIDDEN else char for char in text])


def inert(cell: str) -> str:
    """Return a cell that no spreadsheet computes: one that would begin a formula gets an apostrophe in front.

    So does one that begins with an apostrophe: without its first apostrophe, if there is one, the cell is what it was.
    """
    text = visible(cell)
    return _MARK + text if text.startswith((*_FORMULAS, _MARK)) else text


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
