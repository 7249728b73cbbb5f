"""Who may sign a log's checkpoints: one verifier key, or a folder of them while one takes another's place.

Rules: all keys of a folder are of one log; one good signature by a key that is neither revoked nor past its `not_after`
is enough, and signatures by others are passed over; a folder whose `keys.json` has another purpose is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from exequatur.trust.errors import (
    ExpiredError,
    FormatError,
    RevokedError,
    ScopeError,
    SignatureError,
    TrustError,
    UnknownKeyError,
)
from exequatur.trust.key_policy import FILE, KID, KeyPolicy
from exequatur.trust.note import Checkpoint, LogKey, open_checkpoint

PURPOSE: Final = "checkpoint"
_ENDING: Final = ".vkey"


@dataclass(frozen=True, slots=True)
class LogKeys:
    """The keys of the log `origin` by name, revoked ones too. Made by `parse_log_keys`.

    It is empty, and has no origin, where all are revoked and their files gone: then nothing is believed.
    """

    origin: str
    keys: Mapping[str, LogKey]
    revoked: frozenset[str] = frozenset()
    ends: Mapping[str, datetime] = field(default_factory=dict)
    """From when on a key is not good any more, for those that have an end."""

    def good(self, now: datetime) -> tuple[LogKey, ...]:
        """The keys that may sign now."""
        return tuple(key for name, key in self.keys.items() if not self._fault(name, now))

    @property
    def once_good(self) -> tuple[LogKey, ...]:
        """The keys that may sign, or could: all but those that are revoked."""
        return tuple(key for name, key in self.keys.items() if name not in self.revoked)

    def open(self, note: str, now: datetime) -> Checkpoint:
        """Read a checkpoint that somebody shows now; raises `TrustError`, which names the key that is not good."""
        try:
            return open_checkpoint(note, self.good(now), self.origin)
        except SignatureError:
            for name, key in self.keys.items():
                if (fault := self._fault(name, now)) and self._is_by(key, note):
                    raise fault from None
            raise

    def _fault(self, name: str, now: datetime) -> TrustError | None:
        """Give what is wrong with what this key signs, if it is the key."""
        end = self.ends.get(name)
        if name in self.revoked:
            return RevokedError(f"the checkpoint is signed by the key `{name}`, which is revoked")
        if end is not None and now >= end:
            until = f"{end:%Y-%m-%dT%H:%M:%SZ}"
            return ExpiredError(f"the checkpoint is signed by the key `{name}`, which was good until {until}")
        return None

    def _is_by(self, key: LogKey, note: str) -> bool:
        try:
            open_checkpoint(note, [key], self.origin)
        except SignatureError:
            return False
        return True


def parse_log_keys(files: Mapping[str, bytes]) -> LogKeys:
    """Read one verifier key, whatever its file is called, or a folder of NAME.vkey with or without `keys.json`.

    Raises `TrustError`.
    """
    keys: dict[str, LogKey] = {}
    for file, data in sorted(files.items()):
        if file == FILE:
            continue
        name = file.removesuffix(_ENDING)
        if len(files) > 1 and (name == file or not KID.fullmatch(name)):
            raise FormatError(f"`{file}` is not named NAME{_ENDING}: a NAME has letters, digits, `_`, `-` and `.`")
        try:
            keys[name] = LogKey.parse(data.decode("utf-8", "replace"))
        except FormatError as error:
            raise FormatError(f"`{file}`: {error}" if len(files) > 1 else str(error)) from None
    if not keys and FILE not in files:
        raise UnknownKeyError(f"the folder holds no verifier key: put the ledger's NAME{_ENDING} into it")
    origins = sorted({key.name for key in keys.values()})
    if len(origins) > 1:
        raise FormatError(f"the keys are of two logs, `{origins[0]}` and `{origins[1]}`: give each a folder of its own")
    if len({key.raw for key in keys.values()}) < len(keys):
        raise FormatError("the same key is there under two names: keep one")
    origin = origins[0] if origins else ""
    return _with_policy(origin, keys, KeyPolicy.parse(files[FILE])) if FILE in files else LogKeys(origin, keys)


def _with_policy(origin: str, keys: Mapping[str, LogKey], policy: KeyPolicy) -> LogKeys:
    if policy.purpose != PURPOSE:
        raise ScopeError(f"`{FILE}`: these keys are for the purpose `{policy.purpose}`, not for `{PURPOSE}`")
    # A limit that is not kept would look like one that is.
    if policy.threshold != 1:
        raise FormatError(f"`{FILE}`: `/threshold` is for bundles: one good signature makes a checkpoint")
    for name, terms in policy.terms.items():
        if terms.tenants is not None or terms.scope:
            raise FormatError(f"`{FILE}`: `/keys/{name}`: `tenants` and `scope` are for bundles: a log has neither")
    if unlisted := sorted(keys.keys() - policy.terms.keys() - policy.revoked):
        raise FormatError(f"`{FILE}` does not list the key `{unlisted[0]}`, whose file is there: list or remove it")
    if missing := sorted(policy.terms.keys() - keys.keys() - policy.revoked):
        raise FormatError(f"`{FILE}` lists the key `{missing[0]}`, which has no file: add it, or revoke the key")
    ends = {name: terms.not_after for name, terms in policy.terms.items() if terms.not_after is not None}
    return LogKeys(origin, keys, policy.revoked, ends)
