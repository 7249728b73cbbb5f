"""What Prometheus may know of the injector: what it answered the API server."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from prometheus_client import CollectorRegistry

from exequatur.identity import expires_at
from exequatur.metrics import Families

WEBHOOKS: Final = ("mutate", "validate")
RESULTS: Final = ("allowed", "refused", "failed")
"""What an admission may come to; `failed`: the request could not be read, or we have a bug: it is refused too."""


class Metrics:
    """Counts of one process."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.families = Families()
        self.registry: CollectorRegistry = self.families.registry
        self._admissions = self.families.counter(
            "exequatur_admissions",
            "Requests of the API server, by what was answered.",
            webhook=WEBHOOKS,
            result=RESULTS,
        )
        for webhook in WEBHOOKS:
            for result in RESULTS:
                self._admissions.labels(webhook, result)

    def answered(self, webhook: Literal["mutate", "validate"], result: Literal["allowed", "refused", "failed"]) -> None:
        """Count an answer."""
        self._admissions.labels(webhook, result).inc()

    def shows(self, certificate: Path) -> None:
        """Tell when our certificate ends: the file's, since it is read again when it changes."""
        self.families.expires(lambda: expires_at(certificate))
