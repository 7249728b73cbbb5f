"""Quoting as Go's `strconv` does it, which is how OPA writes a string inside of another value."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

_SHORT: Final = {
    "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\",
}  # fmt: skip
_LAST_ASCII: Final = 0x7F
_LAST_OF_FOUR_DIGITS: Final = 0xFFFF

# Go 1.26 knows Unicode 15.0; Python 3.11 knows 14.0 and 3.13 knows 15.1. Printable since 15.0, as first and last:
_SINCE_15_0: Final = (
    0xCF3, 0xCF3, 0xECE, 0xECE, 0x10EFD, 0x10EFF, 0x1123F, 0x11241, 0x11B00, 0x11B09, 0x11F00, 0x11F10, 0x11F12,
    0x11F3A, 0x11F3E, 0x11F59, 0x1342F, 0x1342F, 0x13440, 0x13455, 0x1B132, 0x1B132, 0x1B155, 0x1B155, 0x1D2C0,
    0x1D2D3, 0x1DF25, 0x1DF2A, 0x1E030, 0x1E06D, 0x1E08F, 0x1E08F, 0x1E4D0, 0x1E4F9, 0x1F6DC, 0x1F6DC, 0x1F774,
    0x1F776, 0x1F77B, 0x1F77F, 0x1F7D9, 0x1F7D9, 0x1FA75, 0x1FA77, 0x1FA87, 0x1FA88, 0x1FAAD, 0x1FAAF, 0x1FABB,
    0x1FABD, 0x1FABF, 0x1FABF, 0x1FACE, 0x1FACF, 0x1FADA, 0x1FADB, 0x1FAE8, 0x1FAE8, 0x1FAF7, 0x1FAF8, 0x2B739,
    0x2B739, 0x31350, 0x323AF,
)  # fmt: skip
_SINCE_15_1: Final = (0x2FFC, 0x2FFF, 0x31EF, 0x31EF, 0x2EBF0, 0x2EE5D)


def quote(text: str, mark: str = '"', *, ascii_only: bool = False) -> str:
    """Quote as `strconv.Quote`, `QuoteRune` (by the mark `'`) and their `ToASCII` forms."""
    if text.isascii() and text.isprintable() and mark not in text and "\\" not in text:
        return f"{mark}{text}{mark}"
    return mark + "".join([_escape(char, mark, ascii_only=ascii_only) for char in text]) + mark


def can_backquote(text: str) -> bool:
    """Tell what `strconv.CanBackquote` does: no control character but the tab, no backquote, no byte-order mark."""
    return all((char >= " " or char == "\t") and char not in "`\x7f\ufeff" for char in text)


def is_printable(char: str) -> bool:
    """Tell what `strconv.IsPrint` does."""
    at = ord(char)
    return (char.isprintable() or _within(at, _SINCE_15_0)) and not _within(at, _SINCE_15_1)


def _escape(char: str, mark: str, *, ascii_only: bool) -> str:
    if char == mark:
        return "\\" + mark
    if short := _SHORT.get(char):
        return short
    at = ord(char)
    if is_printable(char) and (at < _LAST_ASCII or not ascii_only):
        return char
    if at <= _LAST_ASCII:
        return f"\\x{at:02x}"
    return f"\\u{at:04x}" if at <= _LAST_OF_FOUR_DIGITS else f"\\U{at:08x}"


def _within(at: int, ranges: tuple[int, ...]) -> bool:
    # An odd place in the sorted bounds is inside of a range; its last member is found by what stands left of it.
    found = bisect_right(ranges, at)
    return found % 2 == 1 or (found > 0 and ranges[found - 1] == at)
