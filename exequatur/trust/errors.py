"""What is wrong with data that must be trusted; our own wrong calls are `ValueError` or `RuntimeError`, never these."""

from __future__ import annotations


class TrustError(Exception):
    """Data that cannot be trusted, and why: one sentence for whoever made or shipped it."""


class FormatError(TrustError):
    """The bytes are not what they should be: archive, JSON, PEM, note."""


class UnknownKeyError(TrustError):
    """No key, or none of that name."""


class RevokedError(TrustError):
    """It was trusted once, until somebody took it back."""


class ThresholdError(TrustError):
    """Good signatures, and of too few people."""


class SignatureError(TrustError):
    """A signature is missing or does not hold, or content is not what was signed."""


class ExpiredError(TrustError):
    """It was good once."""


class NotYetValidError(TrustError):
    """It will be good later."""


class RollbackError(TrustError):
    """Something newer was seen already."""


class EquivocationError(TrustError):
    """The same number stands for two contents: somebody signs two truths."""


class ScopeError(TrustError):
    """It is for somebody else: another tenant, another purpose."""
