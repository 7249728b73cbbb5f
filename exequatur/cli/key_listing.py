"""A folder of keys, as people look at it: whose they are, until when, what for, and how many owners must sign."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from exequatur.trust.errors import ScopeError
from exequatur.trust.key_policy import FILE, KeyPolicy, Terms
from exequatur.trust.keys import KeySet, PublicKey, parse_key_set, parse_permit_keys
from exequatur.trust.log_keys import parse_log_keys
from exequatur.trust.note import LogKey

PURPOSES: Final = ("bundle", "permit", "checkpoint")

_Found: TypeAlias = Mapping[str, PublicKey | LogKey]


def listing(files: Mapping[str, bytes], purpose: str, now: datetime) -> dict[str, Any]:
    """Read a folder's files as whoever needs them for `purpose` would; raises `TrustError` as they would."""
    said = _purpose(files)
    if purpose and FILE in files and said != purpose:
        raise ScopeError(f"`{FILE}`: these keys are for the purpose `{said}`, not for `{purpose}`")
    purpose = purpose or said
    policy, found = _log_keys(files) if purpose == "checkpoint" else _jws_keys(files, purpose)
    live = found.keys() & policy.terms.keys() - policy.revoked
    return {
        "purpose": purpose,
        "threshold": policy.threshold,
        "owners": sorted({policy.terms[kid].owner for kid in live if not _over(policy, kid, now)}),
        "keys_json": FILE in files,
        "keys": [_row(kid, found.get(kid), policy, now) for kid in sorted({*found, *policy.terms, *policy.revoked})],
    }


def _purpose(files: Mapping[str, bytes]) -> str:
    if FILE in files:
        return KeyPolicy.parse(files[FILE]).purpose
    return "checkpoint" if any(name.endswith(".vkey") for name in files) else "bundle"


def _jws_keys(files: Mapping[str, bytes], purpose: str) -> tuple[KeyPolicy, _Found]:
    trusted: KeySet = parse_permit_keys(files) if purpose == "permit" else parse_key_set(files)
    found = dict(trusted.keys)
    for name in files:
        if name != FILE:
            found |= parse_key_set({name: files[name]}).keys  # those that are revoked too
    return trusted.policy, found


def _log_keys(files: Mapping[str, bytes]) -> tuple[KeyPolicy, _Found]:
    trusted = parse_log_keys(files)
    if FILE in files:
        return KeyPolicy.parse(files[FILE]), trusted.keys
    return KeyPolicy("checkpoint", terms={name: Terms(trusted.origin) for name in trusted.keys}), trusted.keys


def picture(folder: str, value: Mapping[str, Any]) -> RenderableType:
    """The keys in one table, their fingerprints in another."""
    able = len(value["owners"])
    needed = f"{value['threshold']} of {able} owners who can sign now"
    about = f"purpose {value['purpose']}  ·  signatures needed: {needed}"
    if not value["keys_json"]:
        about += f"  ·  no {FILE}: any key is enough, for everything"
    rows = value["keys"]
    more = [name for name in ("tenants", "scope") if any(row[name] for row in rows)]
    keys = _table("key", "algorithm", "owner", "good", *more)
    prints = _table("key", "SHA-256 of the public key")
    for row in rows:
        good = Text(_good(row), style="red" if row["revoked"] or row["expired"] else "green")
        tenants = "" if row["revoked"] else ", ".join(row["tenants"] or ("all",))
        rest = [Text(tenants if name == "tenants" else row["scope"]) for name in more]
        keys.add_row(Text(row["kid"], style="bold"), row["alg"] or "", Text(row["owner"] or ""), good, *rest)
        prints.add_row(Text(row["kid"], style="bold"), Text(row["fingerprint"] or "no file", style="dim"))
    head = Text.assemble((folder, "bold"), "  ", (about, "dim" if able >= value["threshold"] else "red"))
    return Group(head, keys, prints)


def fingerprint(key: PublicKey | LogKey) -> str:
    """Give what `openssl pkey -pubin -in KID.pem -outform DER | sha256sum` gives."""
    return hashlib.sha256(key.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _row(kid: str, key: PublicKey | LogKey | None, policy: KeyPolicy, now: datetime) -> dict[str, Any]:
    terms = policy.terms.get(kid)
    return {
        "kid": kid,
        "alg": key and (key.alg if isinstance(key, PublicKey) else "Ed25519"),
        "owner": terms.owner if terms else None,
        "not_after": f"{terms.not_after:%Y-%m-%dT%H:%M:%SZ}" if terms and terms.not_after else None,
        "expired": _over(policy, kid, now),
        "revoked": kid in policy.revoked,
        "tenants": sorted(terms.tenants) if terms and terms.tenants is not None else None,
        "scope": terms.scope if terms else "",
        "fingerprint": fingerprint(key) if key else None,
    }


def _over(policy: KeyPolicy, kid: str, now: datetime) -> bool:
    terms = policy.terms.get(kid)
    return terms is not None and terms.not_after is not None and now >= terms.not_after


def _good(row: Mapping[str, Any]) -> str:
    if row["revoked"]:
        return "revoked"
    if row["expired"]:
        return f"over since {row['not_after']}"
    return f"until {row['not_after']}" if row["not_after"] else "always"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
