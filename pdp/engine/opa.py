"""What an OPA server is given of a bundle, and by which bundle it says that it has answered.

Rules:
- Each answer names the revision of the bundle that it was judged by.
- A revision is computed from the whole content of a bundle, so that two of them have the same one only when they are
  the same. One that says otherwise is refused when it is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from exequatur.trust.canonical import Json, JsonError, canonical, parse
from exequatur.trust.hashing import MANIFEST, SIGNATURES
from pdp.engine import manifest
from pdp.engine.manifest import Manifest
from pdp.engine.reading import BUNDLE_JSON, PolicyError

ENGINE: Final = "opa"

_DIGEST: Final = re.compile(r"(^|@)sha256:[0-9a-f]{64}$")


def entrypoint_of(files: Mapping[str, bytes]) -> str:
    """Give the rule that this engine is asked by a bundle of `files`; empty for one that does not list it.

    Raises `PolicyError` for settings that cannot be read.
    """
    if manifest.FILE not in files:
        return ""
    engines = Manifest.parse(files[manifest.FILE]).engines
    return next((spec.entrypoint for spec in engines if spec.engine == ENGINE), "")


def revision_of(files: Mapping[str, bytes]) -> str:
    """Compute the revision of a bundle: its author's own, and a digest of all that is in it but its signature.

    As `1.4@sha256:…`, or `sha256:…` where the author gave none. A digest that stands there already is left out.
    """
    about = _manifest(files)
    given = about.get("revision", "")
    author = _DIGEST.sub("", given) if isinstance(given, str) else ""
    whole = {**files, MANIFEST: canonical({**about, "revision": author})}
    whole.pop(SIGNATURES, None)
    hashes: dict[str, Json] = {name: sha256(data).hexdigest() for name, data in whole.items()}
    digest = f"sha256:{sha256(canonical(hashes)).hexdigest()}"
    return f"{author}@{digest}" if author else digest


def check_revision(files: Mapping[str, bytes]) -> str:
    """Give the revision that `.manifest` says. Raises `PolicyError` if it is not the one of the content."""
    revision = revision_of(files)
    if _manifest(files).get("revision") != revision:
        raise PolicyError(
            f"`{MANIFEST}`: its `revision` is not the one of what is in the bundle, by which the OPA server's answers "
            "are known: build the bundle again"
        )
    return revision


def answered_by(body: Json, revision: str, *, shared: bool = False) -> bool:
    """Say whether OPA answered by the bundle of `revision`, alone unless the server is `shared`."""
    found = revisions_in(body)
    return revision in found if shared else found == [revision]


def revisions_in(body: Json) -> list[str]:
    """Give the revisions of the bundles that OPA had when it answered; an empty one for what is none."""
    provenance = body.get("provenance") if isinstance(body, dict) else None
    bundles = provenance.get("bundles") if isinstance(provenance, dict) else None
    if not isinstance(bundles, dict):
        return []
    revisions = [bundle.get("revision") if isinstance(bundle, dict) else None for bundle in bundles.values()]
    return [revision if isinstance(revision, str) else "" for revision in revisions]


def _manifest(files: Mapping[str, bytes]) -> dict[str, Json]:
    try:
        about = parse(files.get(MANIFEST, b"{}"), BUNDLE_JSON)
    except JsonError as error:
        raise PolicyError(f"`{MANIFEST}`: {error}") from None
    if not isinstance(about, dict):
        raise PolicyError(f"`{MANIFEST}`: an object is needed here")
    return about
