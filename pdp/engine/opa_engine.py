"""Rego, judged by an OPA server: every built-in that OPA has, for those who need the network or the clock in a rule.

Rules:
- The server is somebody else's process. What reaches it, and for how long anyone waits, is `pdp/opa.py`'s; here is
  what is asked and what counts as an answer.
- Each answer names the revision of the bundle that it was judged by. It must be this snapshot's, and no other bundle
  may lie beside it, unless the server is several tenants': whatever the server was given meanwhile, nobody is answered
  by a policy that is not in force.
- Built-in errors are errors, and an error of any kind is a denial.
- A rule may ask the network, the clock or chance, so no verdict of this engine can be had again from its record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from exequatur.trust.canonical import Json
from pdp.engine.answer import AnswerError, verdict
from pdp.engine.combine import refusal
from pdp.engine.document import Facts, rego_document
from pdp.engine.manifest import Role
from pdp.engine.opa import ENGINE, answered_by
from pdp.model import Verdict


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
