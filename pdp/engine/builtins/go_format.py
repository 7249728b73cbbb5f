"""`Sprintf` of Go's fmt, for the three kinds of operands that OPA gives it: int or big.Int, float64 and string.

Rules: what Go writes for a wrong verb, a missing or an extra operand is written as well; what would be longer than
`TEXT_BYTES` is refused before it is built; an address in memory, which Go would show, is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from pdp.engine.builtins.go_floats import SHORTEST, format_float
from pdp.engine.builtins.go_quote import can_backquote, is_printable, quote
from pdp.engine.builtins.operands import Meter
from pdp.engine.builtins.values import TEXT_BYTES, BuiltinError

Operand: TypeAlias = int | float | str

_INT64: Final = range(-(2**63), 2**63)
_UINT64: Final = 2**64
_TOO_LARGE: Final = 10**6
"""The largest width, precision or index that Go takes."""
_DIRECTIVE: Final = 5
"""Steps that each `%` takes, also one that writes nothing."""
_LAST_RUNE: Final = 0x10FFFF
_REPLACEMENT: Final = "\ufffd"
_BASES: Final = {"v": 10, "d": 10, "b": 2, "o": 8, "O": 8, "x": 16, "X": 16}
_PREFIXES: Final = {"b": "0b", "x": "0x", "X": "0X"}
_FLAGS: Final = {"#": "sharp", "0": "zero", "+": "plus", "-": "minus", " ": "space"}


def sprintf(layout: str, operands: Sequence[Operand]) -> str:
    """Write the operands by the layout. Raises `BuiltinError`."""
    return _Printer(layout, operands).whole()


@dataclass(slots=True)
class _Flags:
    """What stands between `%` and the verb."""

    sharp: bool = False
    zero: bool = False
    plus: bool = False
    minus: bool = False
    space: bool = False
    sharp_v: bool = False
    plus_v: bool = False
    width: int | None = None
    precision: int | None = None


class _Printer:
    """One call: reads the layout, and writes pieces."""

    def __init__(self, layout: str, operands: Sequence[Operand]) -> None:
        self._layout = layout
        self._at = 0
        self._operands = operands
        self._next = 0
        self._reordered = False
        self._good_index = True
        self._flags = _Flags()
        self._meter = Meter(TEXT_BYTES)
        self._pieces: list[str] = []
        self._size = 0

    def whole(self) -> str:
        while self._at < len(self._layout):
            percent = self._layout.find("%", self._at)
            end = len(self._layout) if percent < 0 else percent
            self._put(self._layout[self._at : end])
            self._at = end + 1
            if percent >= 0 and not self._directive():
                break
        if not self._reordered and self._next < len(self._operands):
            self._extra()
        return "".join(self._pieces)

    # --- reading the layout ---

    def _directive(self) -> bool:
        """Do what one `%` asks for; false where the layout ends too early."""
        self._meter.spend(_DIRECTIVE)
        self._flags = flags = _Flags()
        self._good_index = True
        while flag := _FLAGS.get(self._peek()):
            setattr(flags, flag, True)
            self._at += 1
        after_index = self._width(after_index=self._index())
        # Go wants a sign after the point; without one the point is the verb.
        if self._peek() == "." and self._at + 1 < len(self._layout):
            self._at += 1
            after_index = self._precision(after_index=after_index)
        if not after_index:
            self._index()
        verb = self._peek()
        if not verb:
            self._put("%!(NOVERB)")
            return False
        self._at += 1
        self._verb(verb)
        return True

    def _verb(self, verb: str) -> None:
        if verb == "%":
            self._put("%")
        elif not self._good_index:
            self._put(f"%!{verb}(BADINDEX)")
        elif self._next >= len(self._operands):
            self._put(f"%!{verb}(MISSING)")
        else:
            flags = self._flags
            if verb in "vw":
                flags.sharp_v, flags.sharp = flags.sharp, False
                flags.plus_v, flags.plus = flags.plus, False
            self._print(self._operands[self._next], verb)
            self._next += 1

    def _peek(self) -> str:
        return self._layout[self._at : self._at + 1]

    def _width(self, *, after_index: bool) -> bool:
        flags = self._flags
        if self._peek() == "*":
            self._at += 1
            flags.width = self._star()
            if flags.width is None:
                self._put("%!(BADWIDTH)")
            elif flags.width < 0:
                flags.width, flags.minus, flags.zero = -flags.width, True, False
            return False
        flags.width, self._at = self._number(self._at, len(self._layout))
        if after_index and flags.width is not None:
            self._good_index = False
        return after_index

    def _precision(self, *, after_index: bool) -> bool:
        flags = self._flags
        if after_index:
            self._good_index = False
        after_index = self._index()
        if self._peek() == "*":
            self._at += 1
            given = self._star()
            flags.precision = given if given is None or given >= 0 else None
            if flags.precision is None:
                self._put("%!(BADPREC)")
            return False
        found, self._at = self._number(self._at, len(self._layout))
        flags.precision = found or 0
        return after_index

    def _star(self) -> int | None:
        if self._next >= len(self._operands):
            return None
        operand = self._operands[self._next]
        self._next += 1
        return operand if isinstance(operand, int) and abs(operand) <= _TOO_LARGE else None

    def _number(self, start: int, end: int) -> tuple[int | None, int]:
        """Read digits; gives the number and where it ends. A far too long one takes the rest with it."""
        number, at = None, start
        while at < end and "0" <= self._layout[at] <= "9":
            if number is not None and number > _TOO_LARGE:
                return None, end
            number, at = (number or 0) * 10 + int(self._layout[at]), at + 1
        return number, at

    def _index(self) -> bool:
        """Read `[n]`, if it is there."""
        if self._peek() != "[":
            return False
        self._reordered = True
        close = self._layout.find("]", self._at + 1)
        if close < 0:
            self._at, self._good_index = self._at + 1, False
            return False
        number, end = self._number(self._at + 1, close)
        self._at = close + 1
        if number is None or end != close:
            self._good_index = False
            return False
        if 1 <= number <= len(self._operands):
            self._next = number - 1
        else:
            self._good_index = False
        return True

    # --- writing ---

    def _put(self, text: str) -> None:
        self._room(len(text))
        self._size += len(text)
        self._pieces.append(text)

    def _room(self, size: int) -> None:
        if self._size + size > TEXT_BYTES:
            raise BuiltinError("its text would be too long: ask for less width or precision")

    def _extra(self) -> None:
        self._flags = _Flags()
        self._put("%!(EXTRA ")
        for number, operand in enumerate(self._operands[self._next :]):
            self._put(f"{', ' if number else ''}{_type(operand)}=")
            self._print(operand, "v")
        self._put(")")

    def _print(self, operand: Operand, verb: str) -> None:
        if verb == "T":
            self._text(_type(operand))
        elif isinstance(operand, str):
            self._string(operand, verb)
        elif isinstance(operand, float):
            self._float(operand, verb)
        elif operand in _INT64:
            self._integer(operand, verb)
        else:
            self._large(operand, verb)

    def _wrong(self, operand: Operand, verb: str) -> None:
        self._put(f"%!{verb}({_type(operand)}=")
        self._print(operand, "v")
        self._put(")")

    def _pad(self, text: str, *, zero: bool | None = None) -> None:
        """Write to the width; zeros only to the left, and only where they are wanted."""
        flags = self._flags
        missing = (flags.width or 0) - len(text)
        if missing <= 0:
            self._put(text)
            return
        self._room(missing + len(text))
        if flags.minus:
            self._put(text + " " * missing)
        else:
            self._put(("0" if (flags.zero if zero is None else zero) else " ") * missing + text)

    def _text(self, text: str) -> None:
        self._pad(text if self._flags.precision is None else text[: self._flags.precision])

    def _string(self, text: str, verb: str) -> None:
        flags = self._flags
        if verb == "q" or (verb == "v" and flags.sharp_v):
            cut = text if flags.precision is None else text[: flags.precision]
            if flags.sharp and can_backquote(cut):
                self._pad(f"`{cut}`")
            else:
                self._pad(quote(cut, ascii_only=flags.plus))
        elif verb in "sv":
            self._text(text)
        elif verb in "xX":
            self._bytes(text[: flags.precision].encode("utf-8")[: flags.precision], verb)
        else:
            self._wrong(text, verb)

    def _bytes(self, data: bytes, verb: str) -> None:
        flags = self._flags
        prefix = f"0{verb}" if flags.sharp else ""
        digits = data.hex(" ") if flags.space else data.hex()
        digits = digits.upper() if verb == "X" else digits
        if not data:
            self._pad("")
        elif flags.space:
            self._pad(prefix + digits.replace(" ", " " + prefix))
        else:
            self._pad(prefix + digits)

    def _integer(self, value: int, verb: str) -> None:
        flags = self._flags
        unsigned = value % _UINT64
        if verb in _BASES:
            self._digits(value, verb)
        elif verb == "c":
            self._pad(_rune(unsigned))
        elif verb == "q":
            self._pad(quote(_rune(unsigned), "'", ascii_only=flags.plus))
        elif verb == "U":
            digits = max(4, flags.precision or 0)
            self._room(digits)
            shown = flags.sharp and unsigned <= _LAST_RUNE and is_printable(chr(unsigned))
            self._pad(f"U+{unsigned:0{digits}X}" + (f" '{chr(unsigned)}'" if shown else ""), zero=False)
        else:
            self._wrong(value, verb)

    def _digits(self, value: int, verb: str) -> None:
        """Write an integer of 64 bits."""
        flags = self._flags
        sign = "-" if value < 0 else "+" if flags.plus else " " if flags.space else ""
        if flags.precision == 0 and value == 0:
            self._pad("", zero=False)
            return
        least = flags.precision or 0
        if flags.precision is None and flags.zero and not flags.minus and flags.width is not None:
            least = flags.width - len(sign)
        self._room(least)
        text = _in_base(abs(value), verb).rjust(least, "0")
        if flags.sharp:
            text = _PREFIXES.get(verb, "0" if _BASES[verb] == 8 and text[0] != "0" else "") + text  # noqa: PLR2004
        self._pad(sign + ("0o" if verb == "O" else "") + text, zero=False)

    def _large(self, value: int, verb: str) -> None:
        """Write as `big.Int.Format`, which differs from an integer of 64 bits in small ways."""
        flags = self._flags
        if verb in "pw":
            raise BuiltinError(f"`%{verb}` of an integer beyond 64 bits would show memory")
        if verb not in "sX" and verb not in _BASES:
            self._put(f"%!{verb}(big.Int={value})")
            return
        sign = "-" if value < 0 else "+" if flags.plus or flags.plus_v else " " if flags.space else ""
        prefix = "0o" if verb == "O" else ""
        if flags.sharp or flags.sharp_v:
            prefix = "0" if verb == "o" else _PREFIXES.get(verb, prefix)
        self._room(flags.precision or 0)
        text = _in_base(abs(value), "d" if verb == "s" else verb).rjust(flags.precision or 0, "0")
        missing = (flags.width or 0) - len(sign + prefix + text)
        if missing > 0 and flags.zero and not flags.minus and flags.precision is None:
            self._room(missing + len(text))
            text = "0" * missing + text
        self._pad(sign + prefix + text, zero=False)

    def _float(self, value: float, verb: str) -> None:
        flags = self._flags
        kind = {"v": "g", "F": "f"}.get(verb, verb)
        if kind not in "bgGxXfeE":
            self._wrong(value, verb)
            return
        precision = flags.precision
        if precision is None:
            precision = 6 if kind in "feE" else SHORTEST
        self._room(precision + 400)
        text = format_float(value, kind, precision)
        sign, text = ("-", text[1:]) if text.startswith("-") else ("+", text)
        sign = " " if flags.space and sign == "+" and not flags.plus else sign
        if flags.sharp and kind != "b":
            text = _with_point(text, kind, precision)
        if not flags.plus and sign == "+":
            self._pad(text)
        elif flags.zero and not flags.minus and flags.width is not None and flags.width > len(text) + 1:
            self._room(flags.width)
            self._put(sign + text.rjust(flags.width - 1, "0"))
        else:
            self._pad(sign + text)


def _type(operand: Operand) -> str:
    if isinstance(operand, str):
        return "string"
    if isinstance(operand, float):
        return "float64"
    return "int64" if operand in _INT64 else "*big.Int"


def _rune(value: int) -> str:
    if value > _LAST_RUNE or 0xD800 <= value <= 0xDFFF:  # noqa: PLR2004 - surrogates
        return _REPLACEMENT
    return chr(value)


def _in_base(value: int, verb: str) -> str:
    base = _BASES[verb]
    if base == 10:  # noqa: PLR2004
        return str(value)
    return format(value, {2: "b", 8: "o", 16: "X" if verb == "X" else "x"}[base])


def _with_point(text: str, kind: str, precision: int) -> str:
    """Do what `#` asks of a float: a point, and the zeros that `%g` left away."""
    wanted = 0
    if kind in "gGx":
        wanted = 6 if precision == SHORTEST else precision
    marks = "pP" if kind in "xX" else "eEpP"
    end = next((at for at, char in enumerate(text) if char in marks), len(text))
    number, tail = text[:end], text[end:]
    seen = False
    for char in number:
        seen = seen or char not in "0."
        wanted -= seen and char != "."
    if "." not in number:
        wanted -= number == "0"
        number += "."
    return number + "0" * max(0, wanted) + tail
