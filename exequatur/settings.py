"""Settings of a daemon: a flag beats the environment, which beats the file; what is wrong is all said at once.

Rules: unknown names are refused in all three places; settings hold paths to secrets, never secrets; once loaded
they do not change.
"""

from __future__ import annotations

import argparse
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NoReturn, Self, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class SettingsError(Exception):
    """What is wrong with the settings: one line a fault, for whoever starts the daemon (exit code 64)."""

    def __init__(self, faults: Sequence[str]) -> None:
        """Keep `faults`, each one lower-case sentence that names the setting."""
        self.faults = tuple(faults)
        super().__init__("\n".join(faults))


class Settings(BaseModel):
    """Base of each daemon's settings; a subclass names its `env_prefix` and `program` and lists typed fields.

    A field's description is its `--help` text. Durations are named `_s` or `_ms`, sizes `_bytes`.
    """

    env_prefix: ClassVar[str] = "EXEQUATUR_"
    program: ClassVar[str] = "exequatur"

    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="what is logged")

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @classmethod
    def load(cls, argv: Sequence[str], environ: Mapping[str, str], *, verb: str = "") -> Self:
        """Merge flags, environment and `--config FILE` (TOML); raises `SettingsError` with every fault.

        `verb` is what was asked for, where that is not the last word of `program`.
        """
        flags = vars(_parser(cls, verb).parse_args(list(argv)))
        path = flags.pop("config") or environ.get(f"{cls.env_prefix}CONFIG")
        faults: list[str] = []
        from_file = _read_file(path, faults) if path else {}
        from_environ = _read_environ(cls, environ, faults)
        merged = {**from_file, **from_environ, **flags}
        try:
            settings = cls(**merged)
        except ValidationError as error:
            raise SettingsError(faults + [_fault(cls, item) for item in _mendable(error)]) from None
        if faults:
            raise SettingsError(faults)
        return settings


def spelled_out(value: object, how: str) -> object:
    """Take `name=value,...` for each item of a list, from flags and the environment; `how` says how to spell one."""
    if not isinstance(value, list):
        return value
    return [dict(_pair(part, how) for part in item.split(",")) if isinstance(item, str) else item for item in value]


def _pair(part: str, how: str) -> tuple[str, str]:
    name, separator, value = part.partition("=")
    if not separator:
        raise ValueError(how)
    return name.strip(), value.strip()


def describe(settings: Settings) -> str:
    """Print what is in force, as TOML that `--config` would take."""
    lines = []
    for name, value in settings.model_dump(mode="json").items():
        if value is None:
            lines.append(f"# {name} is unset")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines.extend(
                f"[[{name}]]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in item.items() if v is not None)
                for item in value
            )
        else:
            lines.append(f"{name} = {json.dumps(value)}")
    return "\n".join(sorted(lines, key=lambda line: line.startswith("[["))) + "\n"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the flags as everything else is said: in one line, without all flags above it."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        _, found, unknown = message.partition("unrecognized arguments: ")
        text = f"`{unknown.split()[0]}` is not a setting" if found else message
        self.exit(2, f"error: {text}: see `{self.prog} --help`\n")


def _parser(cls: type[Settings], verb: str = "") -> argparse.ArgumentParser:
    """Make one flag a field; a flag that is not given leaves no trace, so that it cannot hide another source."""
    parser = _Parser(
        prog=f"{cls.program.rpartition(' ')[0]} {verb}" if verb else cls.program,
        usage="%(prog)s [SETTING]...",
        description=(cls.__doc__ or "").strip(),
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", metavar="FILE", default=None, help="a TOML file with any of these settings")
    for name, field in cls.model_fields.items():
        flag, text = "--" + name.replace("_", "-"), (field.description or "").replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        elif _is_list(field.annotation):
            parser.add_argument(flag, action="append", metavar=name.upper(), help=text + " (repeat for more)")
        else:
            parser.add_argument(flag, metavar=name.upper(), help=text)
    return parser


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) in (list, tuple, frozenset)


def _read_file(path: str, faults: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        faults.append(f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}")
    except UnicodeDecodeError:
        faults.append(f"`{path}` cannot be read: not UTF-8")
    except tomllib.TOMLDecodeError as error:
        faults.append(f"`{path}` is not TOML: {str(error)[:1].lower()}{str(error)[1:]}")
    return {}


_SERVICE_LINK: Final = re.compile(
    r"_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$|_PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$"
)
"""How the variables end by which Kubernetes tells a pod of each Service in its namespace, whatever that is called: no
setting ends so, and a Service named like a daemon must not keep it from starting."""


def _read_environ(cls: type[Settings], environ: Mapping[str, str], faults: list[str]) -> dict[str, Any]:
    """Take this daemon's variables; lists are JSON or comma-separated; a name that no field has is a fault."""
    mine = {
        name: value
        for name, value in environ.items()
        if name.startswith(cls.env_prefix) and not _SERVICE_LINK.search(name)
    }
    names = {f"{cls.env_prefix}{name.upper()}": name for name in cls.model_fields}
    faults += [
        f"`{name}` is not a setting: see `{cls.program} --help`"
        for name in sorted(mine.keys() - names.keys() - {f"{cls.env_prefix}CONFIG"})
    ]
    values: dict[str, Any] = {}
    for variable, name in names.items():
        if variable not in mine:
            continue
        text = mine[variable]
        if _is_list(cls.model_fields[name].annotation):
            try:
                values[name] = json.loads(text) if text.startswith("[") else [part for part in text.split(",") if part]
            except ValueError:
                faults.append(f"`{variable}` is not a JSON list")
        else:
            values[name] = text
    return values


def _mendable(error: ValidationError) -> list[Any]:
    """Leave out that a list is too short where that is said only since its wrong items were not counted."""
    items = error.errors()
    wrong = {item["loc"][:1] for item in items if len(item["loc"]) > 1}
    return [item for item in items if item["type"] != "too_short" or item["loc"] not in wrong]


def _fault(cls: type[Settings], item: Any) -> str:
    """One sentence for one pydantic error, naming the setting in its three spellings."""
    name = str(item["loc"][0]) if item["loc"] else ""
    text = str(item["msg"]).removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    where = ".".join(str(part) for part in item["loc"]) or "settings"
    if name not in cls.model_fields:
        return f"`{where}`: {text}" if not name else f"`{where}` is not a setting: see `{cls.program} --help`"
    return f"`{where}`: {text} (set --{name.replace('_', '-')}, {cls.env_prefix}{name.upper()} or the file)"
