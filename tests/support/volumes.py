"""A pod's volumes as folders, made as a kubelet makes them.

A ConfigMap, a Secret or a projection is a tree of links through `..data`, so that all its files change at once; an
emptyDir is root's and open to all; what `fsGroup` names owns what the pod's group may read. A claim's folder lasts.
"""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Manifest = Mapping[str, Any]
Store = Mapping[tuple[str, str, str], Manifest]
"""Objects by kind, namespace and name."""


class Volumes:
    """The volumes of one pod, under a folder."""

    def __init__(self, folder: Path, claims: Path, store: Store, pod: Manifest) -> None:
        self._folder, self._claims, self._store = folder, claims, store
        self._namespace = pod["metadata"]["namespace"]
        self._metadata = pod["metadata"]
        self._group: int | None = (pod["spec"].get("securityContext") or {}).get("fsGroup")
        self.paths = {volume["name"]: self._make(volume) for volume in pod["spec"].get("volumes", ())}

    def _make(self, volume: Manifest) -> Path:
        path = self._folder / volume["name"]
        match volume:
            case {"emptyDir": _}:
                path.mkdir(parents=True)
                path.chmod(0o777)
                self._own(path)
            case {"persistentVolumeClaim": {"claimName": claim}}:
                path = self._claims / f"{self._namespace}.{claim}"
                if not path.exists():
                    path.mkdir(parents=True)
                    path.chmod(0o755)
                    self._own(path)
            case {"configMap": source}:
                publish(path, self._items("ConfigMap", source, source.get("name")), self._group, _mode(source))
            case {"secret": source}:
                publish(path, self._items("Secret", source, source.get("secretName")), self._group, _mode(source))
            case {"projected": source}:
                files: dict[str, bytes] = {}
                for part in source["sources"]:
                    files |= self._projected(part)
                publish(path, files, self._group, _mode(source))
            case _:
                raise ValueError(f"volume `{volume['name']}` is of a kind that no test here uses: {volume}")
        return path

    def _projected(self, part: Manifest) -> dict[str, bytes]:
        match part:
            case {"configMap": source}:
                return self._items("ConfigMap", source, source["name"])
            case {"secret": source}:
                return self._items("Secret", source, source["name"])
            case {"downwardAPI": source}:
                return {item["path"]: self._field(item["fieldRef"]["fieldPath"]) for item in source["items"]}
        raise ValueError(f"a projection of {sorted(part)}")

    def _field(self, path: str) -> bytes:
        return str(self._metadata[path.removeprefix("metadata.")]).encode()

    def _items(self, kind: str, source: Manifest, name: str) -> dict[str, bytes]:
        found = self._store.get((kind, self._namespace, name))
        if found is None:
            if source.get("optional"):
                return {}
            raise LookupError(f"{kind} `{self._namespace}/{name}` is not there: the pod would wait for it for ever")
        files = contents(found)
        if "items" in source:
            return {item["path"]: files[item["key"]] for item in source["items"]}
        return files

    def _own(self, path: Path) -> None:
        if self._group is not None:
            os.chown(path, -1, self._group)
            path.chmod(path.stat().st_mode | 0o2770)


def contents(found: Manifest) -> dict[str, bytes]:
    """Give what a ConfigMap or a Secret holds."""
    plain = {**(found.get("data") or {})} if found["kind"] == "ConfigMap" else {**(found.get("stringData") or {})}
    files = {name: text.encode() for name, text in plain.items()}
    coded = found.get("binaryData" if found["kind"] == "ConfigMap" else "data") or {}
    return files | {name: base64.b64decode(text) for name, text in coded.items()}


def publish(folder: Path, files: Mapping[str, bytes], group: int | None = None, mode: int = 0o644) -> None:
    """Put `files` into `folder` at once, through `..data`; what was there before goes."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)
    fresh = Path(tempfile.mkdtemp(prefix="..", dir=folder))
    fresh.chmod(0o755)
    for name, content in files.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode if group is None else mode | 0o440)
        if group is not None:
            os.chown(path, -1, group)
    data = folder / "..data"
    old = folder / data.readlink() if data.is_symlink() else None
    link = folder / "..data_tmp"
    link.symlink_to(fresh.name)
    link.rename(data)
    for name in {Path(name).parts[0] for name in files}:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    if old is not None:
        shutil.rmtree(old)


def _mode(source: Manifest) -> int:
    return int(source.get("defaultMode", 0o644))
