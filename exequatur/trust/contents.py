"""The files in a bundle: which may be there, and whether they are what was signed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from exequatur.trust.canonical import Json, JsonError, JsonLimits, parse, quoted
from exequatur.trust.errors import FormatError, SignatureError
from exequatur.trust.hashing import HASHES, MANIFEST, SIGNATURES, file_hash, is_structured, raw_hashes

JSON_LIMITS: Final = JsonLimits(bytes=32 * 2**20, depth=64, keys=500_000, string_bytes=2**20)


def check_names(files: Mapping[str, bytes]) -> None:
    """Refuse what OPA would load unverified, or two readers would read in two ways."""
    for name in files:
        base = name.rpartition("/")[2]
        if base in ("data.yaml", "data.yml"):
            raise FormatError(f"`{name}`: data must be JSON, YAML can be read in two ways")
        if base == "patch.json":
            raise FormatError(f"`{name}`: delta bundles are refused, OPA verifies none")
        if name.endswith("signatures.json"):
            raise FormatError(f"`{name}`: signatures are in `{SIGNATURES}` alone, others have slipped past OPA")
        if name.endswith((MANIFEST, ".manifest.pb")) and name != MANIFEST:
            raise FormatError(f"`{name}`: OPA would take it for the manifest, which is `{MANIFEST}` alone")


def check_json(files: Mapping[str, bytes]) -> None:
    """Refuse JSON that is not strict."""
    for name, content in files.items():
        if name.endswith(".json") or name == MANIFEST:
            _strict(name, content)


def _strict(name: str, content: bytes) -> Json:
    try:
        return parse(content, JSON_LIMITS)
    except JsonError as error:
        raise FormatError(f"`{name}`: {error}") from None


def check_listed(files: Mapping[str, bytes], listed: list[Any]) -> dict[str, tuple[str, str]]:
    """Hold the names against the list, both ways; gives algorithm and hash by name."""
    seen: dict[str, tuple[str, str]] = {}
    for item in listed:
        if not isinstance(item, dict) or not all(isinstance(item.get(k), str) for k in ("name", "hash", "algorithm")):
            raise FormatError("the signed list has an entry without `name`, `hash` and `algorithm`")
        name = item["name"]
        if name in seen:
            raise FormatError(f"the signed list has {quoted(name)} twice")
        if name not in files:
            raise SignatureError(f"{quoted(name)} is signed, and missing from the bundle")
        seen[name] = (item["algorithm"], item["hash"])
    if unlisted := sorted(files.keys() - seen.keys()):
        raise SignatureError(f"`{unlisted[0]}` is in the bundle, and was not signed")
    if not seen:
        raise FormatError("the signed list is empty")
    return seen


def check_hashes(files: Mapping[str, bytes], listed: Mapping[str, tuple[str, str]]) -> None:
    """Hold each file against its hash, and say which one differs."""
    for name, (algorithm, wanted) in listed.items():
        if algorithm not in HASHES:
            raise SignatureError(f"`{name}` is listed with {quoted(algorithm)}: only SHA-2 is taken")
        by_value = is_structured(name)
        if by_value:
            _strict(name, files[name])
        if file_hash(name, files[name], algorithm) != wanted:
            raise SignatureError(f"`{name}` is not what was signed: its {algorithm} differs")
        if name.endswith(".json") and not by_value:
            _strict(name, files[name])


def check_raw(files: Mapping[str, bytes], raw: Mapping[str, Any], *, serve: bool) -> None:
    """Hold what OPA hashes by value against its bytes, or anybody could make another archive of the same bundle."""
    for name, wanted in raw_hashes(files).items():
        if name in raw and raw[name] != wanted:
            raise SignatureError(f"`{name}` says what was signed, and is not spelt as it was signed")
        if serve and name not in raw:
            raise FormatError(f"the signature has no `raw` hash of `{name}`: sign it with `exequatur bundle sign`")
