"""An AdmissionReview in, an AdmissionReview out: `admission.k8s.io/v1`, about pods, and nothing else.

Rules: pure. What is not understood is never allowed: `Malformed` where there is nobody to answer to, else a refusal. An
answer says what is wrong in one sentence for whoever made the pod.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from exequatur.trust.canonical import JsonError, JsonLimits, parse, quoted
from injector.catalogue import OURS, Catalogue, first_fault
from injector.claim import DOMAIN, Refused
from injector.made import Object
from injector.orders import ordered
from injector.patch import difference, inject

LIMITS: Final = JsonLimits(bytes=3 * 2**20, depth=64, keys=50_000, string_bytes=2**20, items=100_000)
"""A pod is at most 1.5 MiB in etcd, and an update brings two; the largest have some thousands of members."""

_VERSION: Final = "admission.k8s.io/v1"
_LONGEST: Final = 4000  # characters of a refusal
_LONGEST_NAME: Final = 320  # of a namespace and what is in it


class Malformed(Exception):  # noqa: N818
    """What came is no AdmissionReview that can be answered: one sentence."""


class Endpoint(Enum):
    """Which webhook asks."""

    MUTATE = "mutate"
    VALIDATE = "validate"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answered review: the bytes to send, and what became of it."""

    body: bytes
    allowed: bool
    about: str
    """Which pod it was about, for a log."""
    message: str = ""
    """Why it was refused."""


class _Open(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, alias_generator=to_camel)


class Kind(_Open):
    """A group, version and kind."""

    group: str
    version: str
    kind: str


class Resource(_Open):
    """A group, version and resource."""

    group: str
    version: str
    resource: str


class User(_Open):
    """Who asked the API server."""

    username: str | None = None


class Request(_Open):
    """What an API server asks about."""

    uid: str = Field(min_length=1, max_length=128)
    kind: Kind
    resource: Resource
    sub_resource: str | None = None
    name: str | None = None
    namespace: str | None = None
    operation: str
    object: dict[str, Any] | None = None
    old_object: dict[str, Any] | None = None
    user_info: User = User()


class Review(_Open):
    """The envelope."""

    api_version: Literal["admission.k8s.io/v1"]
    kind: Literal["AdmissionReview"]
    request: Request


Judge = Callable[[Request, Catalogue], list[Object]]
"""From a request to the operations of its patch. May raise `Refused`."""


def answer(endpoint: Endpoint, body: bytes, catalogue: Catalogue) -> Answer:
    """Answer one review; raises `Malformed` for what is none."""
    request = _read(body)
    what = "/".join(["pods", request.sub_resource] if request.sub_resource else ["pods"])
    about = f"{request.operation} of {what} {_who(request)}"
    judge = _JUDGES[endpoint].get((request.operation, what))
    try:
        if (request.resource.group, request.resource.version, request.resource.resource) != ("", "v1", "pods"):
            raise Refused("only pods of the version v1 are judged here: look at the webhook's rules")  # noqa: TRY301
        if judge is None:
            raise Refused(  # noqa: TRY301
                f"{quoted(request.operation)} of {quoted(what)} is not judged at /{endpoint.value}: look at the"
                " webhook's rules"
            )
        operations = judge(request, catalogue)
    except Refused as refusal:
        text = str(refusal)[:_LONGEST]
        status = {"code": 403, "reason": "Forbidden", "message": f"exequatur: {text}"}
        return Answer(_response(request, allowed=False, status=status), allowed=False, about=about, message=text)
    more = {}
    if operations:
        more = {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(operations).encode()).decode()}
    return Answer(_response(request, allowed=True, **more), allowed=True, about=about)


def _who(request: Request) -> str:
    """Say which pod it is about; one that a controller makes has no name yet, and there may be many of them."""
    metadata = (request.object or {}).get("metadata")
    if not isinstance(metadata, dict):
        metadata = {}
    name = request.name or metadata.get("name") or f"{metadata.get('generateName') or ''}*"
    owners = metadata.get("ownerReferences")
    owner = owners[0] if isinstance(owners, list) and owners and isinstance(owners[0], dict) else None
    made = "" if owner is None else " of " + quoted(f"{owner.get('kind')}/{owner.get('name')}", _LONGEST_NAME)
    return quoted(f"{request.namespace or ''}/{name}", _LONGEST_NAME) + made


def _read(body: bytes) -> Request:
    try:
        value = parse(body, LIMITS)
    except JsonError as error:
        raise Malformed(str(error)) from None
    version = value.get("apiVersion") if isinstance(value, dict) else None
    if version != _VERSION:
        shown = quoted(version) if isinstance(version, str) else "nothing"
        raise Malformed(f"`apiVersion` must be {_VERSION}, and is {shown}")
    try:
        return Review.model_validate(value).request
    except ValidationError as error:
        raise Malformed(first_fault(error)) from None


def _response(request: Request, *, allowed: bool, **more: object) -> bytes:
    response = {"uid": request.uid, "allowed": allowed, **more}
    return json.dumps({"apiVersion": _VERSION, "kind": "AdmissionReview", "response": response}).encode()


def _pod(request: Request, value: Object | None) -> Object:
    if (request.kind.group, request.kind.version, request.kind.kind) != ("", "v1", "Pod") or value is None:
        raise Refused("the request must hold a pod of the version v1")
    if (value.get("apiVersion"), value.get("kind")) != ("v1", "Pod"):
        raise Refused("`apiVersion` and `kind` must be those of a pod of the version v1")
    return value


def _injected(request: Request, catalogue: Catalogue) -> list[Object]:
    if not request.namespace:
        raise Refused("the request names no namespace")
    pod = _pod(request, request.object)
    return list(difference(pod, inject(pod, request.namespace, catalogue)))


def _nothing_left(request: Request, catalogue: Catalogue) -> list[Object]:
    """Refuse what injection would still change: it was not called, or somebody has changed what it made."""
    left = _injected(request, catalogue)
    if left:
        fields = ", ".join(quoted(operation["path"], 200) for operation in left[:3])
        raise Refused(
            f"injection would still change {fields}: another webhook has changed what it made (tell it to leave"
            f" `{OURS}*` alone), or the injector was just replaced (try again)"
        )
    return []


def _unchanged(request: Request, _: Catalogue) -> list[Object]:
    before, after = _pod(request, request.old_object), _pod(request, request.object)
    try:
        same = {field: _ours(before)[field] == ours for field, ours in _ours(after).items()}
        orders = [] if _of_the_cluster(request) else list(_orders(before, after))
    except (AttributeError, KeyError, TypeError):
        raise Refused("the request holds no two pods") from None
    changed = [f"`{field}`" for field, is_same in same.items() if not is_same]
    faults = [f"what is the injector's never changes: {', '.join(changed)}: make the pod again"] if changed else []
    if faults or orders:
        raise Refused(*faults, *orders)
    return []


def _of_the_cluster(request: Request) -> bool:
    """Whether a node or a service account of elsewhere asks: network plugins write on pods what they did."""
    who = (request.user_info.username or "").split(":")
    return who[:2] == ["system", "node"] or (
        who[:2] == ["system", "serviceaccount"] and who[2:3] not in ([], [request.namespace])
    )


def _orders(before: Object, after: Object) -> Iterator[str]:
    """Say of each annotation that is new, or other than before, why it may not be: nodes read some late."""
    old = before["metadata"].get("annotations") or {}
    for name, value in (after["metadata"].get("annotations") or {}).items():
        reason = ordered(name) if old.get(name) != value else ""
        if reason:
            yield f"`metadata.annotations[{name}]` {reason}"


def _ours(pod: Object) -> Mapping[str, object]:
    """Give what is ours in a pod, by field."""
    metadata, spec = pod["metadata"], pod["spec"]
    notes = {
        f"metadata.{field}": {
            name: value for name, value in (metadata.get(field) or {}).items() if name.startswith(DOMAIN)
        }
        for field in ("annotations", "labels")
    }
    containers = {
        f"spec.{field}": [item for item in spec.get(field) or () if item["name"].startswith(OURS)]
        for field in ("initContainers", "containers", "ephemeralContainers")
    }
    return {**notes, **containers}


def _never_ephemeral(request: Request, _: Catalogue) -> list[Object]:
    del request
    raise Refused("an agent's pod takes no ephemeral containers: they may join the sidecar's processes")


def _not_into_ours(request: Request, _: Catalogue) -> list[Object]:
    container = (request.object or {}).get("container")
    if request.object is None or not isinstance(container, str | None):
        raise Refused("the request does not say which container it is about")
    if (container or "").startswith(OURS):
        raise Refused(f"nobody may enter {quoted(container or '')}: it is the injector's")
    return []


_JUDGES: Final[Mapping[Endpoint, Mapping[tuple[str, str], Judge]]] = {
    Endpoint.MUTATE: {("CREATE", "pods"): _injected},
    Endpoint.VALIDATE: {
        ("CREATE", "pods"): _nothing_left,
        ("UPDATE", "pods"): _unchanged,
        ("UPDATE", "pods/ephemeralcontainers"): _never_ephemeral,
        ("CONNECT", "pods/exec"): _not_into_ours,
        ("CONNECT", "pods/attach"): _not_into_ours,
    },
}
"""Which judge is for what; what is not here is refused."""
