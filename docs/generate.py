"""Write again what is made from code: settings' JSON Schemas, references of the document, of findings, of metrics.

    python docs/generate.py

The tests hold each file against what this gives.
"""

# ruff: noqa: INP001 - a script, run by path

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from exequatur.metrics import Family, Values
from exequatur.settings import Settings
from injector.metrics import Metrics as InjectorMetrics
from injector.settings import InjectorSettings
from ledger.metrics import Metrics as LedgerMetrics
from ledger.settings import LedgerSettings
from pdp.metrics import BundleMetrics
from pdp.metrics import Metrics as WorkerMetrics
from pdp.policy.check import findings
from pdp.policy.reference import page
from pdp.settings import PdpSettings
from sidecar.metrics import Metrics as SidecarMetrics
from sidecar.settings import SidecarSettings

ROOT: Final = Path(__file__).parent.parent
SETTINGS: Final[Mapping[str, type[Settings]]] = {
    "injector": InjectorSettings,
    "ledger": LedgerSettings,
    "pdp": PdpSettings,
    "sidecar": SidecarSettings,
}


class FileSchema(GenerateJsonSchema):
    """TOML has no null, and a member's name needs no title that repeats it."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """Leave null out."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Leave null out."""
        return {name: value for name, value in super().default_schema(schema).items() if value is not None}

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Say no."""
        del schema
        return False


def settings_schema(name: str) -> dict[str, Any]:
    """Give the JSON Schema of a daemon's settings file."""
    settings = SETTINGS[name]
    found = settings.model_json_schema(schema_generator=FileSchema)
    del found["required"]  # a flag or the environment may say what the file does not
    return {
        "$schema": FileSchema.schema_dialect,
        "$id": f"https://exequatur.dev/schemas/v1/{name}.schema.json",
        **found,
        "title": f"Settings of `{settings.program}`",
    }


def metrics() -> Mapping[str, Sequence[Family]]:
    """Give what each daemon counts, by its name."""
    ends, folder = datetime.max.replace(tzinfo=UTC), Path("unused")
    supervisor, ledger, sidecar, injector = BundleMetrics([]), LedgerMetrics(), SidecarMetrics(), InjectorMetrics()
    supervisor.keeps(folder, lambda: ends)
    ledger.keeps(folder, lambda: ends)
    sidecar.families.keeps(folder, "", lambda: ends)
    injector.families.expires(lambda: ends)
    return {
        "pdp": [*WorkerMetrics().families.listed, *supervisor.families.listed],
        "ledger": ledger.families.listed,
        "sidecar": sidecar.families.listed,
        "injector": injector.families.listed,
    }


UNITS: Final = {
    "_seconds": "s",
    "_bytes": "bytes",
    "_records": "records",
    "_calls": "calls",
}
"""What a gauge or histogram is in, by how its name ends; all else is a plain number."""


def metrics_page() -> str:
    """Give the reference of metrics."""

    def lines() -> Iterator[str]:
        yield METRICS_HEAD
        for daemon, families in metrics().items():
            settings = SETTINGS[daemon]
            address = settings.model_fields["http"].default
            yield f"## `{settings.program}`\n"
            yield f"At `http://{address}/metrics`, unless `http` says otherwise.\n"
            yield "| name | type | unit | labels | meaning |"
            yield "|---|---|---|---|---|"
            for each in sorted(families, key=lambda family: family.name):
                unit = next((unit for end, unit in UNITS.items() if each.name.endswith(end)), "")
                yield f"| `{each.name}` | {each.kind} | {unit} | {labels(each)} | {each.meaning} |"
            yield ""

    return "\n".join(lines())


def labels(family: Family) -> str:
    """Say what a metric's labels may be."""

    def shown(values: Values) -> str:
        return values if isinstance(values, str) else ", ".join(f"`{value}`" if value else "empty" for value in values)

    return "; ".join(f"`{name}`: {shown(values)}" for name, values in family.labels.items())


def files() -> Mapping[str, str]:
    """Give each generated file's text, by its path in the tree."""
    schemas = {
        f"exequatur/schemas/{name}.schema.json": json.dumps(settings_schema(name), indent=2) + "\n" for name in SETTINGS
    }
    return {
        **schemas,
        "docs/document.md": page(),
        "docs/findings.md": findings.page(),
        "docs/metrics.md": metrics_page(),
    }


METRICS_HEAD: Final = """# What the daemons count

<!-- Generated from the metrics' declarations by docs/generate.py: change those. -->

Each daemon serves this for Prometheus. Histograms are scraped as `…_bucket`, `…_sum` and `…_count`. A label's values
come from the closed set here or from the settings, never from a request, so that no agent can make series. What to do
when one of them looks wrong is in [operate it](operate.md); the chart brings rules and a dashboard.

A TLS handshake that fails never becomes a call, and is counted nowhere: who comes without a certificate of ours
reads so in a log of their own alone.
"""


if __name__ == "__main__":
    for path, text in files().items():
        (ROOT / path).write_text(text, encoding="utf-8")
