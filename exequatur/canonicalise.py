"""Typed canonicalisers: what an argument names, in one spelling, or a refusal.

Policy compares text, tools resolve it; the two must not differ. Rules that hold here:
- A value that two careful readers could take for two different things is *ambiguous* and refused, never repaired:
  control and format characters, text that Unicode normalisation changes, `..`, `~`, backslashes, encodings of
  encodings, odd notations of an IP address, user names in a URL, unbalanced quotes.
- Pure functions of their arguments: no file system (a symbolic link is the sandbox's business), no resolver.
- Errors say what is wrong and never show the value; the caller names the argument.
"""

import ipaddress
import re
import shlex
import unicodedata
from collections.abc import Sequence
from typing import Final

from exequatur.trust.canonical import Json


class AmbiguousError(ValueError):
    """The value can be read in more than one way, or in none."""


_MAX_PATH: Final = 4096  # PATH_MAX of Linux
_MAX_HOST: Final = 253  # RFC 1035 section 2.3.4
_MAX_COMMAND: Final = 16 * 1024  # characters; splitting takes 0.4 µs each, and more is a script
_BAD_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_SPECIAL: Final = "/\\.~%:@"  # what changes the meaning of a path
_ENCODED: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z]+)://(?P<authority>[A-Za-z0-9._:\[\]-]+)(?P<path>/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?"
    r"(?:\?[A-Za-z0-9._~!$&'()*+,;=:@%/?\[\]-]*)?(?:#[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?"
)
_AUTHORITY: Final = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]+)(?::(?P<port>[1-9][0-9]{0,4}))?")
_NAT64: Final = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))  # RFC 6052, RFC 8215
_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_MAX_PORT: Final = 65535
# A word that sh, bash and zsh read as itself: plain characters, or one pair of quotes around the whole of it.
_WORD: Final = r"""(?!=)[A-Za-z0-9_@%+=:,./-]++|'[^'\n\t]*+'|"[^"$`\\!\n\t]*+\""""
_WORDS: Final = re.compile(_WORD)
_SIMPLE: Final = re.compile(rf" *+[A-Za-z0-9_.+-]++(?: ++(?:{_WORD}))*+ *+")


def text(value: str) -> str:
    """Give the text back if all of it can be seen and normalisation keeps it (NFC, UAX #15).

    Raises `AmbiguousError`.
    """
    if value.isascii() and value.isprintable():
        return value
    for character in value:
        if unicodedata.category(character) in _BAD_CATEGORIES:
            raise AmbiguousError("holds a control, format or unassigned character")
    if not unicodedata.is_normalized("NFC", value):
        raise AmbiguousError("is not in Unicode's NFC form")
    return value


def path(value: str, base: str | None = None) -> str:
    """Give the one spelling of a POSIX path; a relative one is joined on `base`, itself canonical, if there is one.

    Raises `AmbiguousError`.
    """
    _check_path(value)
    segments = [segment for segment in value.split("/") if segment not in ("", ".")]
    for segment in segments:
        if segment == ".." or segment[0] == "~":
            raise AmbiguousError("holds `..`" if segment == ".." else "has a part that begins with `~`")
    relative = "/".join(segments)
    if value[0] == "/":
        return "/" + relative
    if base is None or base == ".":
        return relative or "."
    return f"{base.rstrip('/')}/{relative}" if relative else base


def host(value: str) -> str:
    """Give the one spelling of a host: a lower-case DNS name in ASCII, or an IP address in its usual notation.

    IPv6 is given without brackets. Names with other letters must come in their `xn--` form: which one that is depends
    on the version of IDNA. IPv6 addresses that carry an IPv4 address are refused. Raises `AmbiguousError`.
    """
    name = value.lower().removesuffix(".")
    if not value.isascii():
        raise AmbiguousError("holds letters beyond ASCII: write the host in its `xn--` form")
    if name[:1] == "[" and name[-1:] == "]":
        return _ipv6(name[1:-1])
    if ":" in name:
        return _ipv6(name)
    labels = name.split(".")
    if len(name) > _MAX_HOST or not all(map(_LABEL.fullmatch, labels)):
        raise AmbiguousError("is not a host name")
    # WHATWG URL, "ends in a number": resolvers take such a name for an IPv4 address in some notation.
    if labels[-1].isdigit() or re.fullmatch(r"0x[0-9a-f]*", labels[-1]):
        try:
            ipaddress.IPv4Address(name)
        except ValueError:
            raise AmbiguousError("is an IP address in an unusual notation") from None
    return name


def url(value: str) -> dict[str, Json]:
    """Give a URL's parts (RFC 3986): {"scheme", "host", "port", "path"}, the path with its percent-encoding undone.

    Query and fragment are checked and left out. Raises `AmbiguousError`.
    """
    match = _URL.fullmatch(value)
    if match is None:
        if "@" in value.partition("://")[2].partition("/")[0]:
            raise AmbiguousError("holds a user name")
        raise AmbiguousError("is not a URL of scheme, host and path in ASCII")
    scheme = match["scheme"].lower()
    authority = _AUTHORITY.fullmatch(match["authority"])
    if scheme not in _PORTS:
        raise AmbiguousError(f"has a scheme that is none of {', '.join(sorted(_PORTS))}")
    if authority is None or int(authority["port"] or 1) > _MAX_PORT:
        raise AmbiguousError("has a host and port that cannot be read")
    if re.search(r"%(?![0-9A-Fa-f]{2})", value):
        raise AmbiguousError("holds a percent sign that encodes nothing")
    return {
        "scheme": scheme,
        "host": host(authority["host"]),
        "port": int(authority["port"]) if authority["port"] else _PORTS[scheme],
        "path": _url_path(match["path"] or "/"),
    }


def command(value: str) -> dict[str, Json]:
    """Give a shell command line's words: {"argv": [...], "program": base name, "simple": bool}.

    `simple` says that sh, bash and zsh run exactly `argv`, found by name: no operator, expansion, redirection,
    assignment, escape, newline, quote inside a word or path to the program. Where it is false, `argv` is only what
    the text looks like. Raises `AmbiguousError`.
    """
    if len(value) > _MAX_COMMAND:
        raise AmbiguousError(f"is longer than {_MAX_COMMAND} characters")
    text(value.replace("\n", " ").replace("\t", " "))
    if _SIMPLE.fullmatch(value):
        words = [word[1:-1] if word[0] in "'\"" else word for word in _WORDS.findall(value)]
        return _command_record(words, simple=True)
    try:
        return _command_record(shlex.split(value), simple=False)
    except ValueError:
        raise AmbiguousError("has quotes that do not close") from None


def argv(words: Sequence[str]) -> dict[str, Json]:
    """Give the same record as `command` for a program that is started with a list of words, without a shell.

    Raises `AmbiguousError`.
    """
    for word in words:
        text(word.replace("\n", " ").replace("\t", " "))
    return _command_record(words, simple="/" not in (words[0] if words else ""))


def _command_record(words: Sequence[str], *, simple: bool) -> dict[str, Json]:
    program = words[0].rpartition("/")[2] if words else ""
    if not program:
        raise AmbiguousError("names no program")
    return {"argv": list(words), "program": program, "simple": simple}


def _ipv6(value: str) -> str:
    try:
        address = ipaddress.IPv6Address(value)
    except ValueError:
        raise AmbiguousError("is not a host name") from None
    if address.scope_id or "." in value or _carries_ipv4(address):
        raise AmbiguousError("is an IP address in an unusual notation")
    return address.compressed


def _carries_ipv4(address: ipaddress.IPv6Address) -> bool:
    """Whether an IPv4 host is reached by this address: mapped, compatible, 6to4, Teredo, NAT64."""
    compatible = 1 < int(address) < 2**32
    translated = any(address in network for network in _NAT64)
    return bool(compatible or translated or address.ipv4_mapped or address.sixtofour or address.teredo)


def _url_path(value: str) -> str:
    try:
        decoded = _ENCODED.sub(lambda found: chr(int(found[0][1:], 16)), value).encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        raise AmbiguousError("has a path that is not UTF-8") from None
    _check_look(decoded)
    if _ENCODED.search(decoded) or "\\" in decoded or decoded.count("/") != value.count("/"):
        raise AmbiguousError("has a path that is encoded twice, or an encoded slash or backslash")
    for segment in decoded.split("/"):
        # `..;x` is `..` to servers that take path parameters off first.
        if segment.partition(";")[0] in (".", ".."):
            raise AmbiguousError("has a path with `.` or `..`")
    if "//" in decoded:
        raise AmbiguousError("has a path with an empty segment")
    return decoded


def _check_path(value: str) -> None:
    if not value:
        raise AmbiguousError("is empty")
    if len(value) > _MAX_PATH:
        raise AmbiguousError(f"is longer than {_MAX_PATH} characters")
    _check_look(value)
    if "\\" in value:
        raise AmbiguousError("holds a backslash")
    if "%" in value and _ENCODED.search(value):
        raise AmbiguousError("holds a percent-encoded character")
    if _DRIVE.match(value) or "://" in value:
        raise AmbiguousError("is a URL or begins with a drive letter: write it as a POSIX path")


def _check_look(value: str) -> None:
    """Refuse, beside what `text` refuses, what folds into a separator, such as a full-width slash."""
    if not text(value).isascii():
        folded = unicodedata.normalize("NFKC", value)
        if any(folded.count(mark) != value.count(mark) for mark in _SPECIAL):
            raise AmbiguousError("holds a character that looks like a separator")
