"""Write again what is made from code: settings' JSON Schemas, the document's reference, what `policy check` finds.

    python docs/generate.py

The tests hold each file against what this gives.
"""

# ruff: noqa: INP001 - a script, run by path

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from exequatur.settings import Settings
from ledger.settings import LedgerSettings
from pdp.policy.check import findings
from pdp.policy.reference import page
from pdp.settings import PdpSettings
from sidecar.settings import SidecarSettings

ROOT: Final = Path(__file__).parent.parent
SETTINGS: Final[Mapping[str, type[Settings]]] = {
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


def files() -> Mapping[str, str]:
    """Give each generated file's text, by its path in the tree."""
    schemas = {
        f"exequatur/schemas/{name}.schema.json": json.dumps(settings_schema(name), indent=2) + "\n" for name in SETTINGS
    }
    return {**schemas, "docs/document.md": page(), "docs/findings.md": findings.page()}


if __name__ == "__main__":
    for path, text in files().items():
        (ROOT / path).write_text(text, encoding="utf-8")
