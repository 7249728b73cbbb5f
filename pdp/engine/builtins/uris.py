"""URIs, read as Go's `net/url` reads them (1.26, with strict colons), and their hosts as `net/netip` does.

OPA can hold bytes that are not UTF-8 in a string; JSON cannot: a part that decodes to such bytes is refused here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pdp.engine.builtins import builtin
from pdp.engine.builtins.nets import parse_address
from pdp.engine.builtins.operands import text, utf8
from pdp.engine.builtins.values import BuiltinError, RegoObject, Value

_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_SCHEME: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*):")
_PORT: Final = re.compile(rb"(?::[0-9]*)?")
_USER: Final = re.compile(rb"[A-Za-z0-9\-._:~!$&'()*+,;=%@]*")
_ESCAPE: Final = re.compile(rb"%(?:[0-9a-fA-F]{2}|)")

_ALPHANUMERIC: Final = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_PLAIN_PATH: Final = _ALPHANUMERIC | frozenset(b"$&+,-./:;=@_~")
_PLAIN_HOST: Final = _ALPHANUMERIC | frozenset(b"!\"$&'()*+,-.:;<=>[]_~")


@dataclass(frozen=True, slots=True)
class _Parts:
    scheme: bytes = b""
    host: bytes = b""
    path: bytes = b""
    raw_path: bytes = b""
    query: bytes = b""
    fragment: bytes = b""


@builtin("uri.parse")
def uri_parse(value: Value) -> Value:
    """Give the parts of a URI that are there. Refused: a part that decodes to bytes that are not UTF-8."""
    parts = _parse(text(value, 1).encode())
    host, port = _host_and_port(parts.host)
    found: dict[Value, bytes] = {
        "scheme": parts.scheme,
        "hostname": host,
        "port": port,
        "path": parts.path,
        "raw_path": parts.raw_path,
        "raw_query": parts.query,
        "fragment": parts.fragment,
    }
    return RegoObject({name: utf8(part) for name, part in found.items() if part})


@builtin("uri.is_valid")
def uri_is_valid(value: Value) -> Value:
    """Say whether this is a URI; what is empty, or not a string, is not."""
    if not isinstance(value, str) or not value:
        return False
    try:
        _parse(value.encode())
    except BuiltinError:
        return False
    return True


def _parse(whole: bytes) -> _Parts:
    rest, _, fragment = whole.partition(b"#")
    if _CONTROL.search(rest):
        raise _invalid()
    fragment = _unescaped(fragment)
    if rest == b"*":
        return _Parts(path=rest, raw_path=rest, fragment=fragment)
    scheme = b""
    if found := _SCHEME.match(rest):
        scheme, rest = found[1].lower(), rest[found.end() :]
    elif rest.startswith(b":"):
        raise _invalid()
    rest, _, query = rest.partition(b"?")
    if not rest.startswith(b"/"):
        if scheme:
            # A rootless path is opaque, and not among what policy sees.
            return _Parts(scheme=scheme, query=query, fragment=fragment)
        if b":" in rest.split(b"/", 1)[0]:
            raise _invalid()
    host = b""
    if rest.startswith(b"//") and (scheme or not rest.startswith(b"///")):
        authority, slash, rest = rest[2:].partition(b"/")
        host, rest = _authority(scheme, authority), slash + rest
    path = _unescaped(rest)
    # Go keeps the escaped path only where it is not the one that it would write itself.
    raw_path = path if rest == _escaped_path(path) else rest
    return _Parts(scheme, host, path, raw_path, query, fragment)


def _escaped_path(path: bytes) -> bytes:
    return b"".join([b"%c" % byte if byte in _PLAIN_PATH else b"%%%02X" % byte for byte in path])


def _authority(scheme: bytes, authority: bytes) -> bytes:
    user, at, host = authority.rpartition(b"@")
    host = _host(scheme, host)
    if at and not _USER.fullmatch(user):
        raise _invalid()
    _unescaped(user)
    return host


def _host(scheme: bytes, host: bytes) -> bytes:
    bracket = host.rfind(b"[")
    if bracket > 0:
        raise _invalid()
    if bracket == 0:
        name, closed, port = host[1:].rpartition(b"]")
        if not closed or not _PORT.fullmatch(port):
            raise _invalid()
        at = name.find(b"%25")
        plain = _unescaped_host(name if at < 0 else name[:at]) + (b"" if at < 0 else _unescaped_zone(name[at:]))
        address = parse_address(plain)
        if address is None or len(address.octets) == 4:  # noqa: PLR2004 - bytes of an IPv4 address
            raise _invalid()
        return b"[" + plain + b"]" + port
    # Lists of hosts with ports are for the schemes of databases only.
    colon = host.find(b":") if scheme in {b"http", b"https"} else host.rfind(b":")
    if colon >= 0 and not _PORT.fullmatch(host[colon:]):
        raise _invalid()
    return _unescaped_host(host)


def _host_and_port(host: bytes) -> tuple[bytes, bytes]:
    colon, port = host.rfind(b":"), b""
    if colon >= 0 and _PORT.fullmatch(host[colon:]):
        host, port = host[:colon], host[colon + 1 :]
    if host.startswith(b"[") and host.endswith(b"]"):
        host = host[1:-1]
    return host, port


def _unescaped(part: bytes) -> bytes:
    """Take escapes out. Raises `BuiltinError` for a `%` without two digits."""

    def plain(escape: re.Match[bytes]) -> bytes:
        if escape[0] == b"%":
            raise _invalid()
        return bytes.fromhex(escape[0][1:].decode())

    return _ESCAPE.sub(plain, part)


def _unescaped_host(part: bytes) -> bytes:
    # Only what is not ASCII may be escaped in a host, and the sign that begins a zone.
    for escape in _ESCAPE.findall(part):
        if escape != b"%25" and escape[1:2] < b"8":
            raise _invalid()
    _check_plain(part)
    return _unescaped(part)


def _unescaped_zone(part: bytes) -> bytes:
    for escape in _ESCAPE.findall(part):
        plain = _unescaped(escape)
        if escape != b"%25" and plain != b" " and plain[0] not in _PLAIN_HOST:
            raise _invalid()
    _check_plain(part)
    return _unescaped(part)


def _check_plain(part: bytes) -> None:
    if any(byte < 0x80 and byte not in _PLAIN_HOST for byte in _ESCAPE.sub(b"", part)):  # noqa: PLR2004 - ASCII
        raise _invalid()


def _invalid() -> BuiltinError:
    return BuiltinError("operand 1 must be a URI")
