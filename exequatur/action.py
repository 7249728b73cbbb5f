"""The action: what an agent proposes, bounded and in canonical form, and the digest that names it.

Rules that hold here:
- An `Action` exists only if its arguments are one JSON object in RFC 8785 form: the bytes that are judged are the
  bytes that are forwarded.
- Identity comes from the channel; the names here are what a request says, and are held against it elsewhere.
- Claims are the agent's own words: carried, bounded, never believed.
- Errors name members, never values.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final

from exequatur.trust.canonical import DEFAULT_LIMITS, Json, JsonError, JsonLimits, canonical, parse, quoted

DIGEST_VERSION: Final = 1
DEFAULT_TENANT: Final = "default"

_NAME_CHARACTERS: Final = 256
_KEY_CHARACTERS: Final = 128
_REASON_BYTES: Final = 4096
_PROVENANCE: Final = 64  # entries
_SHA256_BYTES: Final = 32
_MAX_COUNT: Final = 2**53 - 1  # what JSON carries exactly
_ENVELOPE_EXTRA: Final = 64 * 1024  # an envelope's other members, beside its arguments


class ActionError(ValueError):
    """The action cannot be judged. The text names the member and what to do."""


def _check_name(member: str, value: object, limit: int = _NAME_CHARACTERS) -> None:
    if not isinstance(value, str) or len(value) > limit or not value.isprintable():
        raise ActionError(f"`{member}` must be text of at most {limit} characters without control characters")


def _utf8_bytes(text: str) -> int:
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise ActionError("`claims.reason` holds a lone surrogate") from None


@dataclass(frozen=True, slots=True)
class Claims:
    """What the agent says about its action. Costs are micro-USD, tokens a count."""

    reason: str = ""
    cost_estimate_microusd: int = 0
    tokens: int = 0
    model: str = ""
    provenance: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise `ActionError` for what is out of bounds."""
        if not isinstance(self.reason, str) or _utf8_bytes(self.reason) > _REASON_BYTES:
            raise ActionError(f"`claims.reason` must be text of at most {_REASON_BYTES} bytes")
        for name in ("cost_estimate_microusd", "tokens"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value <= _MAX_COUNT:
                raise ActionError(f"`claims.{name}` must be a whole number from 0 to {_MAX_COUNT}")
        _check_name("claims.model", self.model)
        if not isinstance(self.provenance, tuple) or len(self.provenance) > _PROVENANCE:
            raise ActionError(f"`claims.provenance` must be a list of at most {_PROVENANCE} names")
        for entry in self.provenance:
            _check_name("claims.provenance", entry)


@dataclass(frozen=True, slots=True)
class Action:
    """One proposed action; made by `parse` alone."""

    tenant: str
    agent: str
    instance: str
    """Empty where an agent has only one."""
    session: str
    """Empty for the one open session of the instance."""
    tool: str
    """`server/name`, as the registry has it."""
    arguments: Mapping[str, Json] = field(repr=False)
    arguments_json: bytes = field(repr=False)
    """The same, as RFC 8785 bytes."""
    claims: Claims = field(repr=False)
    definition_sha256: bytes
    """SHA-256 of the tool's definition as its server declared it; empty where nobody saw it."""
    idempotency_key: str
    door: str

    @classmethod
    def parse(
        cls,
        *,
        agent: str,
        tool: str,
        arguments_json: bytes,
        tenant: str = "",
        instance: str = "",
        session: str = "",
        claims: Claims = Claims(),
        definition_sha256: bytes = b"",
        idempotency_key: str = "",
        door: str = "",
        limits: JsonLimits = DEFAULT_LIMITS,
    ) -> "Action":
        """Check every member. Raises `ActionError`."""
        for name, value in (("agent", agent), ("tool", tool)):
            if not value:
                raise ActionError(f"`{name}` is missing")
        names = {"tenant": tenant, "agent": agent, "instance": instance, "session": session, "tool": tool, "door": door}
        for name, value in names.items():
            _check_name(name, value)
        _check_name("idempotency_key", idempotency_key, _KEY_CHARACTERS)
        if len(definition_sha256) not in (0, _SHA256_BYTES):
            raise ActionError(f"`definition_sha256` must be {_SHA256_BYTES} bytes, or empty")
        return cls(
            tenant=tenant or DEFAULT_TENANT,
            agent=agent,
            instance=instance,
            session=session,
            tool=tool,
            arguments=_arguments(arguments_json, limits),
            arguments_json=arguments_json,
            claims=claims,
            definition_sha256=definition_sha256,
            idempotency_key=idempotency_key,
            door=door,
        )


def action_digest(
    *, tenant: str, agent: str, session: str, tool: str, definition_sha256: bytes, arguments_json: bytes
) -> bytes:
    """SHA-256 (32 bytes) of what names an action; approvals and permits bind to it, records carry it.

    It is taken over the canonical JSON of {"agent", "definition", "digest_version", "forwarded": {"arguments"},
    "session", "tenant", "tool"}, `definition` in hex. `arguments_json` must be canonical already, and is spliced in.
    """
    before = canonical({"agent": agent, "definition": definition_sha256.hex(), "digest_version": DIGEST_VERSION})
    after = canonical({"session": session, "tenant": tenant, "tool": tool})
    hashed = hashlib.sha256(before[:-1])
    hashed.update(b',"forwarded":{"arguments":')
    hashed.update(arguments_json)
    hashed.update(b"},")
    hashed.update(after[1:])
    return hashed.digest()


def parse_envelope(data: bytes) -> Action:
    """Read an action from a JSON file: {"agent", "tool", "arguments"} and the optional members of `Action.parse`.

    `definition_sha256` is in hex, `claims` an object; the arguments are put into canonical form here. Raises
    `ActionError`, also for members that are not known.
    """
    limits = JsonLimits(bytes=DEFAULT_LIMITS.bytes + _ENVELOPE_EXTRA)
    try:
        envelope = parse(data, limits)
        members = _members("", envelope, _ENVELOPE)
        arguments_json = canonical(members.pop("arguments", None))
    except JsonError as error:
        raise ActionError(f"the envelope cannot be read: {error}") from None
    pinned = members.pop("definition_sha256", "")
    try:
        definition_sha256 = bytes.fromhex(pinned) if isinstance(pinned, str) else None
    except ValueError:
        definition_sha256 = None
    if definition_sha256 is None:
        raise ActionError("`definition_sha256` must be in hex")
    claims = _members("claims.", members.pop("claims", {}), _CLAIMS)
    if isinstance(claims.get("provenance"), list):
        claims["provenance"] = tuple(claims["provenance"])  # type: ignore[assignment, arg-type]
    texts = {name: value for name, value in members.items() if isinstance(value, str)}
    if len(texts) != len(members):
        raise ActionError(f"`{min(members.keys() - texts.keys())}` must be text")
    return Action.parse(
        tenant=texts.get("tenant", ""),
        agent=texts.get("agent", ""),
        instance=texts.get("instance", ""),
        session=texts.get("session", ""),
        tool=texts.get("tool", ""),
        arguments_json=arguments_json,
        claims=Claims(**claims),  # type: ignore[arg-type]
        definition_sha256=definition_sha256,
        idempotency_key=texts.get("idempotency_key", ""),
    )


_CLAIMS: Final = frozenset(item.name for item in fields(Claims))
_ENVELOPE: Final = frozenset(
    {"tenant", "agent", "instance", "session", "tool", "arguments", "claims", "definition_sha256", "idempotency_key"}
)


def _arguments(arguments_json: bytes, limits: JsonLimits) -> Mapping[str, Json]:
    try:
        arguments = parse(arguments_json, limits)
        if not isinstance(arguments, dict):
            raise ActionError("`arguments` must be a JSON object")
        if canonical(arguments) != arguments_json:
            raise ActionError("`arguments` are not in canonical form: write them as RFC 8785 has it")
    except JsonError as error:
        raise ActionError(f"`arguments` cannot be read: {error}") from None
    return arguments


def _members(where: str, value: Json, known: frozenset[str]) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise ActionError(f"{'`claims`' if where else 'the envelope'} must be a JSON object")
    for name in value:
        if name not in known:
            raise ActionError(f"the member {quoted(where + name)} is not known: remove it, or correct its name")
    return dict(value)
