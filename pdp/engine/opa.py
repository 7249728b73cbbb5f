"""Rego, judged by an OPA server: every built-in that OPA has, for those who need the network or the clock in a rule.

Rules:
- The server is somebody else's process. What reaches it, and for how long anyone waits, is `pdp/opa.py`'s; here is
  what is asked and what counts as an answer.
- Each answer names the revision of the bundle that it was judged by. It must be this snapshot's, and no other bundle
  may lie beside it, unless the server is several tenants': whatever the server was given meanwhile, nobody is answered
  by a policy that is not in force.
- A revision is computed from the whole content of a bundle, so that two of them have the same one only when they are
  the same. One that says otherwise is refused when it is loaded.
- Built-in errors are errors, and an error of any kind is a denial.
- A rule may ask the network, the clock or chance, so no verdict of this engine can be had again from its record.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Final, Protocol

from exequatur.trust.canonical import Json, JsonError, canonical, parse
from exequatur.trust.hashing import MANIFEST
from exequatur.trust.tokens import SIGNATURES
from pdp.engine import manifest
from pdp.engine.answer import AnswerError, verdict
from pdp.engine.combine import refusal
from pdp.engine.document import Facts, rego_document
from pdp.engine.manifest import Manifest, Role
from pdp.engine.reading import BUNDLE_JSON, PolicyError
from pdp.model import Verdict

ENGINE: Final = "opa"

_DIGEST: Final = re.compile(r"(^|@)sha256:[0-9a-f]{64}$")


class Server(Protocol):
    """An OPA server that holds a bundle."""

    @property
    def shared(self) -> bool:
        """Whether it holds other tenants' bundles too. They are about other things: no two have a root in common."""

    def ask(self, rule: str, document: Mapping[str, Json]) -> Json:
        """Ask `rule`, as `exequatur/decision`, about `document`; gives the body of OPA's answer.

        Ends in a bounded time. Raises `AnswerError`, whose text holds no values.
        """


class OpaEngine:
    """A rule of one bundle, asked of a server. For one thread at a time."""

    def __init__(self, server: Server, revision: str, entrypoint: str, *, role: Role = Role.DECIDE) -> None:
        """Ask `entrypoint`; only answers by the bundle of this `revision` count."""
        self._server, self._revision = server, revision
        self._entrypoint, self._role = entrypoint, role

    def judge(self, facts: Facts) -> Verdict:
        """Judge one action. Raises nothing: whatever goes wrong is a denial of kind `ERROR`."""
        try:
            answer = self._answer(self._server.ask(self._entrypoint, rego_document(facts)))
            found = verdict(answer, self._role, self._entrypoint, ENGINE)
        except AnswerError as error:
            found = self._refusal(f"`{self._entrypoint}` gave no usable answer: {error}")
        except Exception as error:  # noqa: BLE001 - fail closed, whatever it was
            found = self._refusal(f"`{self._entrypoint}` could not be asked: {type(error).__name__}")
        return replace(found, replayable=False)

    def _answer(self, body: Json) -> Json:
        if not answered_by(body, self._revision, shared=self._server.shared):
            raise AnswerError("the OPA server judged by another bundle than the one in force")
        if not isinstance(body, dict) or "result" not in body:
            raise AnswerError("it is undefined")
        return body["result"]

    def _refusal(self, text: str) -> Verdict:
        return refusal(text, engine=ENGINE, policy=self._entrypoint)


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
