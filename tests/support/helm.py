"""The chart as helm renders it: objects out, or the one line with which it is refused."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "charts" / "exequatur"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
VALUES = sorted((ROOT / "tests" / "charts" / "values").glob("*.yaml"))
"""Value files of realistic deployments; the chart's own examples are beside it."""
RELEASE, NAMESPACE = "exequatur", "exequatur"
KUBERNETES = "--kube-version=1.33.0"
"""Rendered for the oldest supported version, whatever helm takes for the one that is there."""

Object = dict[str, Any]


class RefusedError(Exception):
    """Helm would not render; the text is what it said."""


class _Loader(yaml.CSafeLoader):
    """YAML as helm prints it: a lone `=` is a string there, and PyYAML knows no constructor for it."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: loader.construct_scalar(node))


def helm(*args: str, program: str = "EXEQUATUR_HELM") -> subprocess.CompletedProcess[str]:
    """Run helm with nothing of its user's around it."""
    with tempfile.TemporaryDirectory(prefix="ex-") as home:
        env = {"PATH": os.environ["PATH"], "HOME": home}
        return subprocess.run([os.environ[program], *args], env=env, capture_output=True, text=True, check=False)


def render(
    *files: Path, values: Mapping[str, Any] | None = None, program: str = "EXEQUATUR_HELM", extra: Sequence[str] = ()
) -> str:
    """Give what `helm template` prints; raises `RefusedError`. `values` beat the files, the last file the others."""
    with tempfile.TemporaryDirectory(prefix="ex-") as name:
        chosen = [f"--values={file}" for file in files]
        if values is not None:
            own = Path(name) / "values.json"
            own.write_text(json.dumps(values))
            chosen.append(f"--values={own}")
        done = helm(
            "template", RELEASE, str(CHART), f"--namespace={NAMESPACE}", KUBERNETES, *chosen, *extra, program=program
        )
    if done.returncode != 0:
        raise RefusedError(done.stderr)
    return done.stdout


def objects(text: str) -> list[Object]:
    """Parse what was printed."""
    return [item for item in yaml.load_all(text, Loader=_Loader) if item]


@cache
def notes(file: Path) -> str:
    """Give what `helm install` says at its end."""
    done = helm(
        "install", RELEASE, str(CHART), f"--namespace={NAMESPACE}", "--dry-run=client", f"--values={file}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("\nNOTES:\n")[2]


@cache
def text(*files: Path) -> str:
    """Render `files` once for all tests that look at them."""
    return render(*files)


@cache
def rendered(*files: Path) -> Objects:
    """Parse what `files` render to, once; nobody may change what they get."""
    return Objects(tuple(objects(text(*files))))


@dataclass(frozen=True)
class Objects:
    """Rendered objects, and how to find one."""

    all: tuple[Object, ...]

    def of(self, *kinds: str) -> list[Object]:
        """Give all of some kinds."""
        return [item for item in self.all if item["kind"] in kinds]

    def one(self, kind: str, name: str) -> Object:
        """Give the one of that kind and name."""
        (found,) = [item for item in self.of(kind) if item["metadata"]["name"] == name]
        return found

    def pods(self) -> Iterator[tuple[str, Object]]:
        """Give each pod template: what makes it, and the template."""
        for item in self.all:
            name = f"{item['kind']}/{item['metadata']['name']}"
            if item["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
                yield name, item["spec"]["template"]
            elif item["kind"] == "CronJob":
                yield name, item["spec"]["jobTemplate"]["spec"]["template"]
            elif item["kind"] == "Pod":
                yield name, item


def containers(pod: Object) -> list[Object]:
    """Give all containers of a pod template, the initial ones too."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
