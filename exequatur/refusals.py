"""A call that is not served, and which status says so."""

from __future__ import annotations

from enum import Enum


class Code(Enum):
    """The gRPC statuses that we send, by their names."""

    INVALID_ARGUMENT = "invalid_argument"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    PERMISSION_DENIED = "permission_denied"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    FAILED_PRECONDITION = "failed_precondition"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"
    UNAUTHENTICATED = "unauthenticated"


class Refusal(Exception):  # noqa: N818
    """A call that is not served: a status for the caller's program, one sentence for its person."""

    def __init__(self, code: Code, text: str) -> None:
        """Keep the status and the sentence; the sentence is sent, so it holds no secret."""
        super().__init__(text)
        self.code = code
