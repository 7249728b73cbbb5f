"""Where the PostgreSQL database of several decision points is: a URL in a file, and what of it is taken.

Rules: the server is proved (`verify-full`, by roots that the URL names) unless it is on this machine; a parameter that
is not known here is refused, since some of them read other files, or undo what we set; no error holds any of the URL.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

FORM: Final = "postgresql://USER:PASSWORD@HOST[:PORT]/NAME?sslmode=verify-full&sslrootcert=FILE"
URL_BYTES: Final = 8192

_SSL_MODES: Final = frozenset({"disable", "prefer", "require", "verify-ca", "verify-full"})
_FILES: Final = ("sslrootcert", "sslcert", "sslkey")
_KNOWN: Final = frozenset({"host", "sslmode", *_FILES})


class AddressError(Exception):
    """The file holds no address that can be used safely: one sentence that holds none of it."""


@dataclass(frozen=True, slots=True)
class Address:
    """A database, and how it is reached; `parameters` are libpq's for the way there."""

    host: str
    """A name, an address, or the folder of a Unix socket."""
    port: int
    name: str
    user: str
    password: str = field(repr=False)
    parameters: tuple[tuple[str, str], ...] = ()


def read_address(path: Path) -> Address:
    """Read the address in a file, and see that the files it names can be read. Raises `AddressError`."""
    try:
        with path.open("rb") as file:
            data = file.read(URL_BYTES + 1)
    except OSError as error:
        raise AddressError(f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}") from None
    try:
        address = parse_address(data.decode().strip() if len(data) <= URL_BYTES else "")
    except (AddressError, UnicodeDecodeError) as error:
        why = str(error) if isinstance(error, AddressError) else "it is not UTF-8"
        raise AddressError(f"`{path}` holds no database's address: {why}") from None
    for name, value in address.parameters:
        if name in _FILES:
            _check_file(name, Path(value))
    return address


def parse_address(text: str) -> Address:
    """Read a URL of the form `FORM`. Raises `AddressError`."""
    if not text or not text.isprintable() or " " in text:
        raise AddressError(f"it must be one line, {FORM}")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise AddressError(f"it must be {FORM}") from None
    name, user = unquote(url.path.removeprefix("/")), unquote(url.username or "")
    if url.scheme not in ("postgresql", "postgres") or not name or not user or url.fragment:
        raise AddressError(f"it must be {FORM}")
    password = unquote(url.password or "")
    if not all(part.isprintable() for part in (name, user, password)):
        raise AddressError("a control character is in it")
    parameters = _parameters(url)
    host = _host(url, parameters)
    _check_proved(host, parameters)
    return Address(host, port or 5432, name, user, password, tuple(sorted(parameters.items())))


def _parameters(url: SplitResult) -> dict[str, str]:
    try:
        pairs = parse_qsl(url.query, keep_blank_values=True, strict_parsing=True) if url.query else []
    except ValueError:
        raise AddressError("its parameters must be NAME=VALUE, joined by `&`") from None
    found = dict(pairs)
    if len(found) < len(pairs):
        raise AddressError("a parameter is there twice")
    if not found.keys() <= _KNOWN:
        raise AddressError(f"a parameter is none of `{'`, `'.join(sorted(_KNOWN))}`")
    if not all(value and value.isprintable() for value in found.values()):
        raise AddressError("a parameter has no value")
    if found.get("sslmode", "prefer") not in _SSL_MODES:
        raise AddressError("`sslmode` is none that there is: say `verify-full`")
    for name in _FILES:
        if name in found and not Path(found[name]).is_absolute():
            raise AddressError(f"`{name}` must be a file's whole path")
    if ("sslcert" in found) != ("sslkey" in found):
        raise AddressError("give `sslcert` and `sslkey`, or neither")
    return found


def _host(url: SplitResult, parameters: dict[str, str]) -> str:
    """Give the host, or the folder of a Unix socket, which stands in a parameter: it has slashes."""
    socket = parameters.pop("host", "")
    if socket and (url.hostname or not socket.startswith("/")):
        raise AddressError("the parameter `host` is for the folder of a Unix socket, in the place of a host")
    host = socket or unquote(url.hostname or "")
    if not host or "," in host or (host.startswith("/") and not socket):
        raise AddressError("it must name one host")
    return host


def _check_proved(host: str, parameters: dict[str, str]) -> None:
    near = host.startswith("/") or host == "localhost" or _is_loopback(host)
    if not near and parameters.get("sslmode") != "verify-full":
        raise AddressError("it must say `sslmode=verify-full`: anybody could be a server that is not proved")
    if parameters.get("sslmode") in ("verify-full", "verify-ca") and "sslrootcert" not in parameters:
        raise AddressError("it must say by whose roots the server is proved, `sslrootcert=FILE`")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_file(name: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise AddressError(f"the file of `{name}` cannot be read: {(error.strerror or str(error)).lower()}") from None
