"""Cedar source into the text of its statements: one policy or template each, with its file and line.

Rules:
- Cedar's parser is native and recursive: text that nests or chains beyond `SourceLimits` never reaches it (800
  parentheses end the process: https://github.com/cedar-policy/cedar/pull/2383).
- The statements are the file, to the last character: what is between them is white space and comments.
- Text that shows a reader something else than it says (bidirectional controls, lone carriage returns) is refused.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from pdp.engine.reading import PolicyError

Tokens: TypeAlias = Sequence[re.Match[str]]
"""What a statement is made of, without white space and comments."""


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """What may reach the native parser. A quarter of what was seen to crash it, or less."""

    file_bytes: int = 4 * 2**20
    statements: int = 20_000
    """In a bundle, links too: 10,000 are read, checked and indexed in 3 s."""
    statement_chars: int = 256 * 1024
    nesting: int = 200
    """Brackets of any kind inside each other; 600 are fine, 800 end the process."""
    conditionals: int = 200
    """`if`s in one statement: they nest without brackets; 2,000 are fine, 20,000 end the process."""
    operators: int = 2_000
    """In one statement: `.`, `&&`, `+` and the like; a path of 2,000 members takes 0.3 s to check, quadratically."""


@dataclass(frozen=True, slots=True)
class Source:
    """One statement as it is written: its file, its place, its number there, its text and what that is made of."""

    file: str
    where: str
    number: int
    text: str
    tokens: Tokens

    def rewritten(self, text: str, limits: SourceLimits) -> Source:
        """Give the statement that stands here instead; `text` is one statement. Raises `PolicyError` if too large."""
        (tokens,) = _split(self.file, text)
        _check_size(self.where, tokens, limits)
        return replace(self, text=text, tokens=tokens)

    @property
    def head(self) -> Tokens:
        """The annotations and the scope: up to the bracket that closes `permit(` or `forbid(`."""
        depth, inside, previous = 0, False, ""
        for number, token in enumerate(self.tokens):
            depth += (token.lastgroup == "open") - (token.lastgroup == "close")
            inside = inside or (token.lastgroup == "word" and depth == 0 and previous != "@")
            if inside and depth == 0 and token.lastgroup == "close":
                return self.tokens[: number + 1]
            previous = token[0]
        return self.tokens

    def up_to(self, token: re.Match[str]) -> str:
        """Give the text as far as the end of a token of its own."""
        return self.text[: token.end() - self.tokens[0].start()]


_TOKEN: Final = re.compile(
    r"""(?P<space>\s+) | (?P<comment>//[^\n\r]*) | (?P<text>"(?:[^"\\]|\\.)*") | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<open>[(\[{]) | (?P<close>[)\]}]) | (?P<end>;) | (?P<plain>::|[0-9]+|[,@:?]) | (?P<operator>[^\s"\w])
      | (?P<bad>.)""",
    re.VERBOSE | re.DOTALL,
)
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f]|\r(?!\n)"
)


def sources(files: Mapping[str, bytes], limits: SourceLimits) -> Iterator[Source]:
    """Take all `*.cedar` apart, in the order of their names; raises `PolicyError` with file and line."""
    texts = {name: _decode(name, files[name], limits) for name in sorted(files) if name.endswith(".cedar")}
    _check_count(texts, limits)
    for file, text in texts.items():
        lines = [found.start() for found in re.finditer("\n", text)]
        for number, tokens in enumerate(_split(file, text), start=1):
            start = tokens[0].start()
            where = f"`{file}:{bisect_left(lines, start) + 1}`"
            _check_size(where, tokens, limits)
            yield Source(file, where, number, text[start : tokens[-1].end()], tokens)


def _check_count(texts: Mapping[str, str], limits: SourceLimits) -> None:
    """Refuse too many policies before the first of them is parsed."""
    if sum(text.count(";") for text in texts.values()) <= limits.statements:
        return
    left = limits.statements
    for file, text in texts.items():
        for tokens in _split(file, text):
            left -= 1
            if left < 0:
                where = f"`{file}:{_line(text, tokens[0].start())}`"
                raise PolicyError(f"{where}: more than {limits.statements} policies: say it in fewer")


def _decode(file: str, data: bytes, limits: SourceLimits) -> str:
    if len(data) > limits.file_bytes:
        raise PolicyError(f"`{file}`: it has {len(data)} bytes, the limit is {limits.file_bytes}: split the file")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError(f"`{file}:{line}`: not UTF-8") from None
    if text.startswith("\ufeff"):
        raise PolicyError(f"`{file}:1`: it begins with a byte order mark: save it as UTF-8 without one")
    unseen = _UNSEEN.search(text)
    if unseen:
        line = text.count("\n", 0, unseen.start()) + 1
        raise PolicyError(f"`{file}:{line}`: a control character that readers do not see: write it as an escape")
    return text


def _split(file: str, text: str) -> Iterator[Tokens]:
    """Give the tokens of each statement."""
    tokens: list[re.Match[str]] = []
    depth = 0
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind in ("space", "comment"):
            continue
        if kind == "bad":
            raise PolicyError(f"`{file}:{_line(text, token.start())}`: not Cedar from here on: is a quote left open")
        tokens.append(token)
        depth += (kind == "open") - (kind == "close")
        if kind == "end" and depth == 0:
            yield tokens
            tokens = []
    if tokens:
        raise PolicyError(f"`{file}:{_line(text, tokens[0].start())}`: a bracket or the `;` is missing from here on")


def _check_size(where: str, tokens: Tokens, limits: SourceLimits) -> None:
    depth = deepest = operators = conditionals = 0
    for token in tokens:
        kind = token.lastgroup
        if kind == "open":
            depth += 1
            operators += 1
            deepest = max(deepest, depth)
        elif kind == "close":
            depth -= 1
        elif kind == "operator":
            operators += 1
        elif kind == "word":
            conditionals += token[0] == "if"
    within = (
        deepest <= limits.nesting
        and conditionals <= limits.conditionals
        and operators <= limits.operators
        and tokens[-1].end() - tokens[0].start() <= limits.statement_chars
    )
    if not within:
        raise PolicyError(f"{where}: this policy nests too deep or is too long to be parsed safely: split it")


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
