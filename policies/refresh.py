"""Refresh the pins of a pack's tool registry: fetch a stdio MCP server's definitions, and digest every definition.

Rules: a tool is never added or dropped by itself, since how it is classed is a person's judgement; each is named and
the exit code is 1. What changed is printed, for the reviewer of the next bundle.

    python policies/refresh.py policies/coding-agent
    python policies/refresh.py policies/coding-agent --server git -- mcp-server-git
"""

# ruff: noqa: INP001, T201 - a script, run by path

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from exequatur.registry import definition_sha256

LEFT_OUT = ("_meta", "icons")
CLIENT = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "refresh", "version": "1"}}


def definitions(command: list[str]) -> dict[str, dict[str, Any]]:
    """Ask the server that `command` starts for its tools; by name, as it declares them."""
    asks: list[dict[str, Any]] = [
        {"id": 1, "method": "initialize", "params": CLIENT},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/list", "params": {}},
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin
        assert server.stdout
        for ask in asks:
            server.stdin.write(json.dumps({"jsonrpc": "2.0", **ask}).encode() + b"\n")
            server.stdin.flush()
            if "id" in ask:
                answer = json.loads(server.stdout.readline())
        server.stdin.close()
    result = answer["result"]
    if result.get("nextCursor"):
        raise SystemExit("error: the server lists its tools in pages, which this script does not follow")
    return {tool["name"]: {key: tool[key] for key in tool if key not in LEFT_OUT} for tool in result["tools"]}


def split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split at the first `--` into our own words and the server's command."""
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at + 1 :]


def main() -> int:
    """Rewrite the pack's `tools.json`; 1 when the server and the registry name different tools."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path, help="the pack's folder")
    parser.add_argument("--server", help="the server's name in the registry; the command that starts it follows `--`")
    own, command = split(sys.argv[1:])
    given = parser.parse_args(own)
    if bool(given.server) != bool(command):
        parser.error("a server and the command that starts it go together: --server NAME -- COMMAND")
    path = given.pack / "tools.json"
    registry = json.loads(path.read_text())
    tools, strange = registry["tools"], set()
    if given.server:
        declared = {f"{given.server}/{name}": tool for name, tool in definitions(command).items()}
        strange = declared.keys() ^ {name for name in tools if name.startswith(f"{given.server}/")}
        for name in declared.keys() & tools.keys():
            tools[name]["definition"] = declared[name]
    for name, tool in tools.items():
        pin = definition_sha256(tool["definition"]).hex()
        if pin != tool["definition_sha256"]:
            print(f"{name}: pinned to {pin}")
            tool["definition_sha256"] = pin
    path.write_text(json.dumps(registry, indent=2, ensure_ascii=False) + "\n")
    for name in sorted(strange):
        print(f"error: `{name}` is not in both the server and the registry: class it or drop it", file=sys.stderr)
    return bool(strange)


if __name__ == "__main__":
    sys.exit(main())
