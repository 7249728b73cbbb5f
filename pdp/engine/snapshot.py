"""A bundle, compiled in memory: what a decision point judges by until the next one takes its place.

Rules: immutable; a bundle that cannot be served whole is not served at all; policy that no engine would read is an
error, since whoever wrote it believes that it holds; judging raises nothing, and what goes wrong is a denial of kind
`ERROR`; a bundle that was not verified makes every effect at least `WARN`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol

from exequatur.registry import Registry, RegistryError
from exequatur.trust.canonical import Json, JsonError, parse
from exequatur.trust.opened import VerifiedBundle
from pdp.engine import cedar, inventory, manifest, opa, opa_engine
from pdp.engine.combine import combine, refusal
from pdp.engine.document import Facts
from pdp.engine.inventory import Agents, Limits
from pdp.engine.manifest import EngineSpec, Manifest
from pdp.engine.reading import BUNDLE_JSON, PolicyError
from pdp.model import Effect, Reason, ReasonKind, Verdict

TOOLS_FILE: Final = "tools.json"
DATA_FILE: Final = "data.json"

_UNSIGNED: Final = Reason(
    ReasonKind.RESTRICTED, "unsafe: this policy is not signed, and nobody vouches for it", policy="unsafe-unsigned"
)
_READERS: Final = {".cedar": ("cedar",), "links.json": ("cedar",), ".rego": ("rego", "opa"), ".wasm": ("rego",)}
_ENDINGS: Final = (*_READERS, ".yaml", ".yml")
_OURS: Final = frozenset(
    {manifest.FILE, TOOLS_FILE, DATA_FILE, inventory.AGENTS_FILE, inventory.LIMITS_FILE, cedar.SCHEMA_FILE}
)


class Engine(Protocol):
    """What judges."""

    def judge(self, facts: Facts) -> Verdict:
        """Judge one action; raises nothing."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A served bundle. `digest` is SHA-256 of its uncompressed tar; times are aware. For one thread at a time."""

    digest: bytes
    sequence: int
    expires_at: datetime
    not_before: datetime | None
    signed: bool
    tenant: str
    revision: str
    registry: Registry
    agents: Agents
    limits: Limits
    manifest: Manifest
    engines: tuple[tuple[EngineSpec, Engine], ...]
    kids: tuple[str, ...] = ()
    """Whose keys signed it, the publisher's first."""

    @classmethod
    def load(
        cls,
        bundle: VerifiedBundle,
        *,
        wasm_module: bytes | None = None,
        server: opa_engine.Server | None = None,
        proved: bool = False,
        pause: Callable[[], None] = lambda: None,
    ) -> Snapshot:
        """Compile a bundle.

        `wasm_module` is what `rego.compile_module` made of its `policy.wasm` on this machine; `server` holds the
        bundle, where its settings list the engine `opa`; `proved` says that these very files have been loaded and tried
        before, so that Cedar need not check their types again; `pause` is called now and then while many policies are
        read. Raises `PolicyError`, with file and line where there is one.
        """
        files = bundle.files
        settings = Manifest.parse(_file(files, manifest.FILE))
        _check_sources(files, settings)
        try:
            registry = Registry.parse(_file(files, TOOLS_FILE))
        except RegistryError as error:
            raise PolicyError(str(error)) from None
        agents = Agents.parse(_file(files, inventory.AGENTS_FILE))
        return cls(
            digest=bundle.digest,
            sequence=bundle.sequence,
            expires_at=bundle.expires_at,
            not_before=bundle.not_before,
            signed=bundle.signed,
            tenant=bundle.tenant,
            revision=bundle.revision,
            registry=registry,
            agents=agents,
            limits=Limits.parse(files.get(inventory.LIMITS_FILE)),
            manifest=settings,
            engines=tuple(
                (spec, _opa(spec, files, server))
                if spec.engine == opa.ENGINE
                else (spec, _load(spec, files, registry, agents, wasm_module, proved=proved, pause=pause))
                for spec in settings.engines
            ),
            kids=bundle.kids,
        )

    def judge(self, facts: Facts) -> Verdict:
        """Let every engine judge, and combine what they say. Raises nothing but an interrupt."""
        try:
            verdict = combine([(spec.role, _ask(spec, engine, facts)) for spec, engine in self.engines])
        except Exception as error:  # noqa: BLE001 - fail closed, whatever it was
            verdict = refusal(f"the verdicts could not be combined: {type(error).__name__}")
        if self.signed or verdict.effect is Effect.DENY:
            return verdict
        return replace(verdict, effect=max(verdict.effect, Effect.WARN), reasons=(_UNSIGNED, *verdict.reasons))


def _ask(spec: EngineSpec, engine: Engine, facts: Facts) -> Verdict:
    try:
        return engine.judge(facts)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic in native code is no `Exception` (pyo3)
        return refusal(f"the engine failed: {type(error).__name__}", engine=spec.engine)


def _load(
    spec: EngineSpec,
    files: Mapping[str, bytes],
    registry: Registry,
    agents: Agents,
    wasm_module: bytes | None,
    *,
    proved: bool,
    pause: Callable[[], None],
) -> Engine:
    if spec.engine == cedar.ENGINE:
        return cedar.CedarEngine.load(files, registry, agents, validated=proved, pause=pause)
    from pdp.engine import rego  # noqa: PLC0415 - it takes a tenth of a second, for bundles that list it

    sources = {name: text for name, text in files.items() if name.endswith(".rego")}
    return rego.RegoEngine.load(
        _file(files, manifest.WASM), _data(files), spec.entrypoint, wasm_module, role=spec.role, sources=sources
    )


def _opa(spec: EngineSpec, files: Mapping[str, bytes], server: opa_engine.Server | None) -> Engine:
    revision = opa.check_revision(files)
    if server is None:
        raise PolicyError(f"`{manifest.FILE}`: the engine `opa` judges by an OPA server, and there is none here")
    return opa_engine.OpaEngine(server, revision, spec.entrypoint, role=spec.role)


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise PolicyError(f"`{name}` is not in the bundle: add it, or build the bundle again")
    return files[name]


def _data(files: Mapping[str, bytes]) -> Json:
    nested = sorted(name for name in files if name.endswith("/" + DATA_FILE))
    if nested:
        raise PolicyError(f"`{nested[0]}`: data belongs in one `{DATA_FILE}` at the top: build the bundle again")
    try:
        return parse(files.get(DATA_FILE, b"{}"), BUNDLE_JSON)
    except JsonError as error:
        raise PolicyError(f"`{DATA_FILE}`: {error}") from None


def _check_sources(files: Mapping[str, bytes], settings: Manifest) -> None:
    """Raise `PolicyError` for policy that no engine of the manifest reads, by its language or by its name."""
    _check_letters(files)
    listed = {spec.engine for spec in settings.engines}
    for ending, readers in _READERS.items():
        unread = sorted(name for name in files if name.endswith(ending))
        if unread and listed.isdisjoint(readers):
            raise PolicyError(
                f"`{unread[0]}`: no engine in `{manifest.FILE}` reads it: list `{readers[0]}`, or take it out"
            )


def _check_letters(files: Mapping[str, bytes]) -> None:
    """Raise `PolicyError` for a name that a reader takes for a file of ours, or for another one, and no engine does."""
    folded: dict[str, str] = {}
    for name in sorted(files):
        small = name.lower()
        other = folded.setdefault(small, name)
        if other != name:
            raise PolicyError(f"`{name}`: it differs from `{other}` by large and small letters alone: rename one")
        if (small.endswith(_ENDINGS) and not name.endswith(_ENDINGS)) or (small in _OURS and name not in _OURS):
            raise PolicyError(f"`{name}`: nothing reads it by this name: write it in small letters")
