"""Bundles that attack whoever opens them: the container and the signature around what is inside.

Each says what its refusal must say. All of them are refused before anything inside is looked at, and cost nothing.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import hmac
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from typing import Any, Final

import bank
from exequatur.trust.archive import write_archive, write_tar
from exequatur.trust.bundle import SIGNATURES
from exequatur.trust.keys import SigningKey, generate
from sealing import Pack, claims, entry, files, listing, payload, seal, signatures, tar, token

Make = Callable[[int], bytes]
"""Gives the archive that claims this sequence."""

A_DAY: Final = 86_400


@functools.cache
def _stranger(kid: str) -> SigningKey:
    return SigningKey.from_pem(f"{kid}.pem", generate("RS256")[0])


def packed(pack: Pack) -> Make:
    """Give the good files, signed well, in another container."""
    return lambda n: seal(files(), n, pack)


def holding(*more: bytes, before: bool = False) -> Make:
    """Give the good bundle with other entries in its tar, that nobody signed."""
    return packed(lambda content: tar(content, before=more) if before else tar(content, *more))


def claiming(**changed: Any) -> Make:
    """Give the good files with other claims, signed well."""
    return lambda n: seal(files(), n, **changed)


def signed_as(make: Callable[[bytes], bytes]) -> Make:
    """Give the good files with another file of signatures, made of the right payload."""
    return lambda n: write_archive({**files(), SIGNATURES: make(payload(files(), n))})


def listed(**changed: Any) -> Make:
    """Give the good files with other words in the signed list of them."""

    def make(sequence: int) -> bytes:
        whole = {"files": listing(files(), **changed), **claims(sequence)}
        text = json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()
        return write_archive({**files(), SIGNATURES: signatures(token(text))})

    return make


def with_file(name: str, content: bytes = b"{}") -> Make:
    """Give the good bundle with one more file, signed too."""
    return lambda n: seal({**files(), name: content}, n)


def after_signing(**changed: bytes | None) -> Make:
    """Give the good bundle, changed after it was signed."""

    def pack(content: Mapping[str, bytes]) -> bytes:
        return write_archive({**files(**changed), SIGNATURES: content[SIGNATURES]})

    return packed(pack)


def _pax(name: str, kind: bytes = b"x", **fields: str) -> bytes:
    """Give an extended header that says something else of the entry after it."""
    lines = [f"{key}={value}\n" for key, value in fields.items()]
    text = "".join(f"{len(line) + 4} {line}" for line in lines).encode()
    return entry(name, text, kind=kind)


def _huge(content: Mapping[str, bytes]) -> bytes:
    """Say of the first file that it has eight gigabytes."""
    block = bytearray(entry("bank.cedar"))
    block[124:136] = b"77777777777\0"
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block) + tar(content)


def _base_256(content: Mapping[str, bytes]) -> bytes:
    """Say it in GNU's binary form, which can say more, and below zero."""
    block = bytearray(entry("bank.cedar"))
    block[124:136] = b"\xff" * 12
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block) + tar(content)


def _compressed_again(content: Mapping[str, bytes]) -> bytes:
    return gzip.compress(write_archive(content))


def _zeros(_: int) -> bytes:
    """65 MiB of nothing, in 65 kB."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as file:
        for _chunk in range(65):
            file.write(bytes(2**20))
    return out.getvalue()


def _many_files(sequence: int) -> bytes:
    return seal(files(), sequence, lambda content: tar(content, *(entry(f"x{n}") for n in range(10_001))))


def _none(_: bytes) -> bytes:
    header = base64.urlsafe_b64encode(b'{"alg":"none","kid":"bank"}').rstrip(b"=").decode()
    return signatures(f"{header}.{base64.urlsafe_b64encode(_).rstrip(b'=').decode()}.")


def _hs256(text: bytes) -> bytes:
    """Sign with the public key as if it were a shared secret (CVE-2016-5431 and its like)."""
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (b'{"alg":"HS256","kid":"bank"}', text)]
    mac = hmac.new(bank.public_pem(), b".".join(parts), hashlib.sha256).digest()
    return signatures(b".".join((*parts, base64.urlsafe_b64encode(mac).rstrip(b"="))).decode())


def _twice_said(sequence: int) -> bytes:
    """Say the expiry twice: readers differ in which one they take."""
    text = payload(files(), sequence).replace(b'"tenant":', b'"sequence":1,"tenant":')
    return write_archive({**files(), SIGNATURES: signatures(token(text))})


def _mixed(sequence: int) -> bytes:
    """Put the signature of one bundle on the files of another."""
    other = {**files(), "bank.cedar": b"permit (principal, action, resource);\n"}
    return write_archive({**other, SIGNATURES: signatures(token(payload(files(), sequence)))})


_NO_NAME: Final = "is not a name that is taken"
_NOT_OURS: Final = r"byte \d+ of the (tar|gzip stream) is not as `exequatur bundle sign` writes it"
_LINK: Final = "is not a plain file: links and devices are refused"
_EXTENDED: Final = "the archive has extended headers"
_DOES_NOT_HOLD: Final = "the signature does not hold by key `bank`"

CONTAINERS: Final[dict[str, tuple[str, Make]]] = {
    "zeros-gzipped": (r"unpacks to more than \d+ bytes", _zeros),
    "gzip-in-gzip": ("the tar is damaged at its beginning", packed(_compressed_again)),
    "compressed": (_NOT_OURS, packed(lambda content: gzip.compress(write_tar(content), mtime=0))),
    "two-gzip-members": ("bytes after its gzip stream", packed(lambda c: write_archive(c) + gzip.compress(b"x"))),
    "cut-short": ("the gzip stream is cut short|damaged", packed(lambda content: write_archive(content)[:-4000])),
    "seventeen-megabytes": ("at most 16777216 are taken", lambda _: bytes(17 * 2**20)),
    "a-web-page": ("the tar is damaged at its beginning", lambda _: b"<!DOCTYPE html><html>" + bytes(1024)),
    "nothing-but-zeros": ("the archive is empty", lambda _: bytes(10_240)),
    "eight-gigabytes": ("the tar is cut short|bytes .* that belong to no file", packed(_huge)),
    "size-below-zero": ("begins no header", packed(_base_256)),
    "sparse": (_EXTENDED, holding(entry("x", kind=tarfile.GNUTYPE_SPARSE))),
    "gnu-long-name": (_EXTENDED, holding(entry("././@LongLink", b"../../x\0", kind=tarfile.GNUTYPE_LONGNAME))),
    "pax-path": (_EXTENDED, holding(_pax("x", path="../../etc/cron.d/x"), entry("y"))),
    "pax-global": (_EXTENDED, holding(_pax("x", b"g", path="policy.wasm"), before=True)),
    "symlink": (_LINK, holding(entry("x.cedar", kind=tarfile.SYMTYPE, linkname="/etc/shadow"))),
    "hard-link": (_LINK, holding(entry("x.cedar", kind=tarfile.LNKTYPE, linkname="bank.cedar"))),
    "device": (_LINK, holding(entry("x", kind=tarfile.CHRTYPE, devmajor=1, devminor=3))),
    "pipe": (_LINK, holding(entry("x", kind=tarfile.FIFOTYPE))),
    "folder-with-content": ("is a folder that has content", holding(entry("x/", b"x" * 512, kind=tarfile.DIRTYPE))),
    "climbing-name": (_NO_NAME, holding(entry("../../etc/cron.d/x"))),
    "absolute-name": (f"{_NOT_OURS}|was not signed", holding(entry("/etc/cron.d/x"))),
    "name-twice": ("`bank.cedar` is there twice", holding(entry("bank.cedar", b"permit(principal,action,resource);"))),
    "name-with-dot": (_NO_NAME, holding(entry("./bank.cedar"))),
    "nul-in-name": (f"{_NOT_OURS}|was not signed|twice", holding(entry("bank.cedar\0.txt"))),
    "escape-in-name": (_NO_NAME, holding(entry("\x1b[2Jx.cedar"))),
    "decomposed-name": (_NO_NAME, holding(entry("cafe\u0301.cedar"))),
    "full-width-name": (_NO_NAME, holding(entry("\uff0e\uff0e/x.cedar"))),
    "turned-name": (_NO_NAME, holding(entry("x\u202eradec.txt"))),
    "ten-thousand-files": ("more than 10000 files", _many_files),
    "bytes-between-files": ("belong to no file", packed(lambda c: tar(c, entry("x", b"y")[:-1] + b"z"))),
}  # fmt: skip

AROUND: Final[dict[str, tuple[str, Make]]] = {
    "unsigned": ("the bundle is not signed", lambda _: write_archive(files())),
    "strangers-key": (_DOES_NOT_HOLD, signed_as(lambda p: signatures(token(p, _stranger("bank"))))),
    "unknown-key": ("no key `mallory`", signed_as(lambda p: signatures(token(p, _stranger("mallory"), kid="mallory")))),
    "key-by-path": ("no key `../../state", signed_as(lambda p: signatures(token(p, kid="../../state/serving/x")))),
    "alg-none": (_DOES_NOT_HOLD, signed_as(_none)),
    "alg-hs256": (_DOES_NOT_HOLD, signed_as(_hs256)),
    "alg-ps256": (_DOES_NOT_HOLD, signed_as(lambda p: signatures(token(p, alg="PS256")))),
    "key-brought-along": (_DOES_NOT_HOLD, signed_as(lambda p: signatures(token(p, jwk={"kty": "oct", "k": "AA"})))),
    "critical-header": (_DOES_NOT_HOLD, signed_as(lambda p: signatures(token(p, crit=["b64"], b64=False)))),
    "two-signatures": ("must hold exactly one signature", signed_as(lambda p: signatures(token(p), token(p)))),
    "other-verifier": ("another verifier", signed_as(lambda p: json.dumps({"signatures": [token(p)], "plugin": "x"}).encode())),
    "mix-and-match": ("`bank.cedar` is not what was signed", _mixed),
    "file-slipped-in": ("`x.cedar` is in the bundle, and was not signed", after_signing(x_cedar=b"permit(principal,action,resource);")),
    "file-taken-out": ("`bank.cedar` is signed, and missing", after_signing(bank_cedar=None)),
    "md5": ("only SHA-2 is taken", listed(algorithm="MD5")),
    "claim-said-twice": ("`sequence` is there twice", _twice_said),
    "sequence-below-zero": ("`sequence` must be 1 or more", lambda _: seal(files(), -5)),
    "sequence-is-true": ("`sequence` is not of type int", claiming(sequence=True)),
    "sequence-is-text": ("`sequence` is not of type int", claiming(sequence="9")),
    "end-of-time": ("beyond the calendar", claiming(exp=2**53 - 1)),
    "expired": ("the bundle expired at", claiming(exp=1_700_000_000)),
    "not-yet": ("is not valid before", claiming(nbf=4_000_000_000, exp=4_000_000_000 + A_DAY)),
    "other-tenant": ("is for tenant `acme`", claiming(tenant="acme")),
    "no-sequence": ("no `sequence` and `exp`", claiming(sequence=None)),
    "delta": ("delta bundles are refused", with_file("patch.json", b'{"data": []}')),
    "second-signatures": ("signatures are in", with_file("sub/.signatures.json")),
    "second-manifest": ("OPA would take it for the manifest", with_file("sub/.manifest")),
    "data-in-yaml": ("data must be JSON", with_file("data.yaml", b"a: b")),
    "json-member-twice": ("`tools.json`: the member `tools` is there twice", with_file("tools.json", b'{"tools":{},"tools":{}}')),
    "json-nan": ("`limits.json`: `NaN` is not JSON", with_file("limits.json", b'{"max_steps": NaN}')),
    "json-byte-order-mark": ("`agents.json`: .*byte order mark", with_file("agents.json", b'\xef\xbb\xbf{"agents":{}}')),
    "json-trailing": ("`tools.json`: not JSON at line 1", with_file("tools.json", b'{"tools":{}} {}')),
    "json-deep": ("`tools.json`: more than 64 objects", with_file("tools.json", b'{"a":' * 100_000 + b"1" + b"}" * 100_000)),
    "json-half-a-character": ("`agents.json`: a string holds a lone surrogate", with_file("agents.json", b'{"agents":{"\\ud800":{}}}')),
    "json-huge-number": ("`limits.json`: a number would change", with_file("limits.json", b'{"max_steps": 1e400}')),
    "json-wide": ("`tools.json`: the document has more than 500000 members", with_file(
        "tools.json", b"{" + b",".join(b'"%d":0' % number for number in range(500_001)) + b"}"
    )),
}  # fmt: skip
