"""From a bundle that was found to an order to serve it: proved in a child, given an OPA server, kept for the workers.

Rules: one object for all tenants, so that many of them prove no more at once than this machine has processors; what is
kept stays as long as anybody may be told to serve it, or was served it last.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from exequatur.trust.bundle import Floor
from exequatur.trust.canonical import JsonError, parse
from exequatur.trust.hashing import MANIFEST
from exequatur.trust.key_policy import FILE as KEY_POLICY
from exequatur.trust.keys import BundleKeys, parse_key_set
from exequatur.trust.opened import VerifiedBundle
from pdp.activation import FILE_CODE, Order
from pdp.bundle.proving import Proven, keep, prove
from pdp.bundle.source import Found
from pdp.engine.opa import entrypoint_of
from pdp.engine.reading import BUNDLE_JSON
from pdp.opa_server import NotReadyError, OpaServers, check
from pdp.settings import PdpSettings

_ENDINGS: Final = (".tar.gz", ".module")


@dataclass(frozen=True, slots=True)
class Trusted:
    """Keys that may sign bundles, and the files that they were read from."""

    keys: BundleKeys
    files: tuple[tuple[str, str], ...]

    @property
    def has_policy(self) -> bool:
        """Whether a `keys.json` says on what terms they are trusted."""
        return any(name == KEY_POLICY for name, _ in self.files)

    @classmethod
    def parse(cls, files: Mapping[str, bytes]) -> Trusted:
        """Read a folder of keys; raises `TrustError`."""
        return cls(parse_key_set(files), tuple((name, data.decode(FILE_CODE)) for name, data in sorted(files.items())))


class Placing:
    """Proves bundles, and puts them where workers find them."""

    def __init__(self, settings: PdpSettings, servers: OpaServers) -> None:
        """Have `servers` hold what an OPA server must."""
        self._settings, self._servers = settings, servers
        self._turns = asyncio.Semaphore(max(2, os.cpu_count() or 1))
        self._roots: dict[str, tuple[str, ...]] = {}
        self.folder = settings.state / "serving"

    async def prove(self, found: Found, trusted: Trusted | None, now: datetime, floor: Floor | None) -> Proven:
        """Prove what was found. Raises `BundleRejected`, `PolicyError` and `NotReadyError`."""
        needed = entrypoint_of(found.bundle.files)
        program = await asyncio.to_thread(self._program) if needed else None
        keys = None if trusted is None else trusted.keys
        tenant = found.bundle.tenant
        async with self._turns:
            return await asyncio.to_thread(
                partial(prove, now=now, tenant=tenant, floor=floor, opa_binary=program), found.data, keys
            )

    async def order(self, proven: Proven, role: str, trusted: Trusted | None, now: datetime) -> Order:
        """Make the order to serve what was proved. Raises `NotReadyError` and `OSError`."""
        place = await self._opa(proven)
        kept = await asyncio.to_thread(keep, proven, self.folder)
        return Order(
            tenant=proven.bundle.tenant,
            role=role,
            bundle=str(kept.bundle),
            module=str(kept.module or ""),
            digest=proven.digest.hex(),
            sequence=proven.sequence,
            proved_at=now.isoformat(),
            opa=place,
            keys=None if trusted is None else trusted.files,
        )

    def kept(self, digest: bytes) -> Path:
        """Say where the copy of a bundle is, if there is one."""
        return self.folder / f"{digest.hex()}.tar.gz"

    async def clear(self, used: Collection[str]) -> None:
        """Let go of what is not among the digests `used`, in hex."""
        for path in self.folder.glob("*.*"):
            digest, dot, ending = path.name.partition(".")
            if dot + ending in _ENDINGS and digest not in used:
                path.unlink(missing_ok=True)
        await self._servers.retire(used)

    async def _opa(self, proven: Proven) -> str:
        """See that an OPA server has the bundle, where it needs one, and say where. Raises `NotReadyError`."""
        rule = entrypoint_of(proven.bundle.files)
        if not rule:
            return ""
        team = self._settings.opa_team
        if team is not None:
            self._share(proven.bundle)
            await check(team, rule, proven.bundle.revision, shared=self._settings.opa_shared)
            return team.url
        program = await asyncio.to_thread(self._program)
        digest, files = proven.digest.hex(), proven.bundle.files
        return str(await self._servers.hold(digest, files, program, rule, proven.bundle.revision))

    def _share(self, bundle: VerifiedBundle) -> None:
        """See that no two tenants' bundles would speak of the same in the one server that your team runs."""
        mine = roots_of(bundle.files)
        for tenant, theirs in self._roots.items():
            if tenant != bundle.tenant and (both := overlap(mine, theirs)) is not None:
                raise NotReadyError(
                    f"the OPA server that `opa_url` names cannot hold it beside the bundle of tenant `{tenant}`: both "
                    f"have the root `{both}`: give each bundle `roots` of its own in `{MANIFEST}`"
                )
        self._roots[bundle.tenant] = mine

    def _program(self) -> Path:
        """Find `opa`. Raises `NotReadyError`."""
        from pdp.bundle.build import OpaError, find_opa  # noqa: PLC0415 - it takes long, for bundles that need `opa`

        given = self._settings.opa
        try:
            found = find_opa(os.environ if given is None else {"EXEQUATUR_OPA": str(given)})
        except OpaError as error:
            raise NotReadyError(str(error)) from None
        if found is None:
            raise NotReadyError("the engine `opa` needs the program `opa`: put it on the PATH, or name it with `opa`")
        return found


def roots_of(files: Mapping[str, bytes]) -> tuple[str, ...]:
    """Give the parts of OPA's document that a bundle is about; one empty root is all of it."""
    try:
        manifest = parse(files.get(MANIFEST, b"{}"), BUNDLE_JSON)
    except JsonError:
        return ("",)
    roots = manifest.get("roots") if isinstance(manifest, dict) else None
    if not isinstance(roots, list) or not roots:
        return ("",)
    return tuple(root.strip("/") if isinstance(root, str) else "" for root in roots)


def overlap(some: Collection[str], others: Collection[str]) -> str | None:
    """Give a root that two bundles share, whole or in part; None where they are about different things."""
    for one in some:
        for other in others:
            longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
            if not shorter or longer == shorter or longer.startswith(shorter + "/"):
                return longer
    return None
