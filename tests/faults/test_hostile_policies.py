"""Policies that would crash, hang or eat whoever reads them: refused or bounded, each in seconds, and service goes on.

One decision point runs for the whole file. Its workers judge by a bundle whose rules explode on what they are given;
bundles that explode when they are read are put into its folder. Its processes must be the same at the end.
"""

from __future__ import annotations

import functools
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import bank
from exequatur.client import Client
from exequatur.transport import UNSAFE_PLAINTEXT
from exequatur.trust.bundle import BundleClaims, sign
from exequatur.trust.errors import FormatError
from exequatur.values import Effect, ReasonKind
from folders import quick
from pdp.bundle.build import build, find_opa
from pdp.engine.reading import PolicyError
from stack import Process, free_port, until

SECONDS = 30
"""In which each of them is over: a second on a machine without other work, and without its bound never."""
LAST = 100
"""The sequence of the good bundle that comes after the bad ones."""

BOMBS = {
    "comprehension": "count([x | some x in numbers.range(1, 10000000)]) > 0",
    "product": "count([1 | some a in many; some b in many; some c in many]) > 0",
    "doubling": 'count(replace(replace(long, "a", long), "a", long)) > 0',
    "native regex": 'regex.match("^(a+)+$", concat("", [long, "!"]))',
    "host regex": 'regex.replace(concat("", [long, "!"]), "(a*)*$", "b") == "c"',
    "program": 'regex.replace(long, "((a{1000}){1000}){1000}", "b") == "c"',
    "depth": 'json.unmarshal(concat("", [concat("", ["[" | some _ in numbers.range(1, 50000)]), ""])) == 1',
    "width": 'count(sprintf("%999999d%999999d", [1, 1])) > 0',
    "precision": 'count(sprintf("%.999999f%.999999f", [1.5, 1.5])) > 0',
    "loop of calls": 'count([1 | some n in many; some m in many; indexof_n(long, "b") == [n, m]]) > 0',
}
REGO = """
many := numbers.range(1, 1000)

long := concat("", ["a" | some _ in numbers.range(1, 20000)])
""" + "".join(
    f"""
deny contains {{"id": "bomb", "reason": "bang"}} if {{
	input.input.account == "{name}"
	{expression}
}}
"""
    for name, expression in BOMBS.items()
)
HARMLESS = {"native regex", "host regex"}
"""What takes linear time wherever it is run: it has an answer, which is that the rule does not hold."""


@functools.cache
def good() -> dict[str, bytes]:
    sources = bank.sources()
    sources["decision.rego"] = b"package exequatur\n" + sources["decision.rego"].split(b"\n", 1)[1] + REGO.encode()
    return dict(build(sources, find_opa(os.environ)).files)


def signed(sequence: int, **changed: bytes) -> bytes:
    """Sign what `build` would never have made: the good bundle with files that come on top of it."""
    claims = BundleClaims(sequence, datetime.now(UTC) + timedelta(days=1))
    return sign({**good(), **changed}, bank.signing_key(), claims)


@dataclass
class Daemon:
    """The decision point, a client of it, and the folder that it watches."""

    process: Process
    client: Client
    bundles: Path

    @property
    def pids(self) -> list[int]:
        assert self.process.popen
        assert self.process.popen.poll() is None
        return [self.process.popen.pid, *self.process.children()]

    def ask(self, account: str):
        return self.client.authorize("bank/look", {"account": account}, agent="teller")

    def offer(self, name: str, data: bytes) -> str:
        """Put a bundle into the folder, and give the line that refuses it; calls are answered meanwhile."""
        (self.bundles / f".{name}").write_bytes(data)
        (self.bundles / f".{name}").rename(self.bundles / name)
        refused: list[str] = []

        def is_refused() -> bool:
            assert self.ask("7").effect is Effect.ALLOW
            lines = self.process.log.read_text().splitlines()
            refused[:] = [line for line in lines if "a bundle is refused" in line and f"`{name}`" in line]
            return bool(refused)

        # A second until the folder is looked at, and one or two to refuse; the rest is for a machine that is busy.
        until(is_refused, 60, f"the refusal of {name}")
        (self.bundles / name).unlink()
        return refused[0]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with quick() as folder:
        http = free_port()
        bundles, keys = folder / "bundles", folder / "keys"
        bundles.mkdir()
        keys.mkdir()
        (keys / "bank.pem").write_bytes(bank.public_pem())
        (bundles / "good.tar.gz").write_bytes(signed(1))
        address = f"127.0.0.1:{free_port()}"
        argv = ["pdp", "serve", "--unsafe-plaintext", f"--listen={address}", f"--http=127.0.0.1:{http}", "--workers=1"]
        argv += [
            f"--state={folder / 'state'}",
            f"--bundle={bundles}",
            f"--keys={keys}",
            f"--openers={UNSAFE_PLAINTEXT}",
        ]
        process = Process("pdp", argv, folder / "pdp.log", http)
        process.start()
        try:
            with Client(address, unsafe_plaintext=True, timeout_s=60) as client:
                client.open_session(
                    "teller", UNSAFE_PLAINTEXT, lifetime=timedelta(hours=1), scope=["*"], max_steps=10**6
                )
                yield Daemon(process, client, bundles)
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def _same_processes(daemon):
    before = daemon.pids
    yield
    assert daemon.ask("7").effect is Effect.ALLOW
    assert daemon.pids == before


@pytest.mark.parametrize("name", BOMBS)
def test_a_rule_that_explodes_is_a_denial_in_time_and_the_next_call_is_answered(daemon, name):
    begun = time.monotonic()
    answer = daemon.ask(name)
    assert time.monotonic() - begun < SECONDS
    if name in HARMLESS:
        assert answer.effect is Effect.ALLOW, answer
    else:
        assert (answer.effect, answer.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR), answer


def deep_schema() -> bytes:
    """A tool whose references fan out: ten thousand million members, in two kilobytes."""
    tools = json.loads(good()["tools.json"])["tools"]
    levels = {
        f"l{n}": {"type": "object", "properties": {f"m{m}": {"$ref": f"#/$defs/l{n + 1}"} for m in range(100)}}
        for n in range(6)
    }
    schema = {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/l0"}},
        "$defs": {**levels, "l6": {"type": "string"}},
    }
    definition = {"name": "bomb", "description": "a bomb", "inputSchema": schema}
    pin = bank.definition_sha256(definition).hex()
    tools["bank/bomb"] = {"definition": definition, "definition_sha256": pin, "access": "read"}
    return json.dumps({"tools": tools}).encode()


RULE = b'permit (principal in Team::"tellers", action == Action::"bank/look", resource);\n'
BUNDLES = {
    "parentheses": (
        lambda: {"x.cedar": b"permit (principal, action, resource) when { " + b"(" * 800 + b"true" + b")" * 800 + b" };"},
        r"`x\.cedar:1`: this policy nests too deep",
    ),
    "ten-megabytes": (lambda: {"x.cedar": RULE * 130_000}, r"`x\.cedar`: it has \d{8} bytes, the limit is"),
    "many-rules": (
        lambda: {f"x{n}.cedar": RULE * 12_000 for n in range(2)},
        r"`x1\.cedar:\d+`: more than 20000 policies",
    ),
    "one-long-rule": (
        lambda: {"x.cedar": b"permit (principal, action, resource) when { true" + b" || true" * 30_000 + b" };"},
        r"`x\.cedar:1`: this policy nests too deep or is too long",
    ),
    "deep-schema": (lambda: {"tools.json": deep_schema()}, r"`bank/bomb`: its arguments have more than 10000 parts"),
}  # fmt: skip


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_that_explodes_is_refused_by_name_while_others_are_judged(daemon, name):
    change, why = BUNDLES[name]
    line = daemon.offer(f"{name}.tar.gz", signed(2 + [*BUNDLES].index(name), **change()))
    assert re.search(why, line), line


@pytest.mark.parametrize("name", ["data.json", "tools.json"])
def test_what_nests_without_end_is_not_even_signed(name):
    with pytest.raises(FormatError, match="inside each other"):
        signed(2, **{name: b'{"a":' * 100_000 + b"1" + b"}" * 100_000})


def test_recursion_is_refused_where_it_is_written():
    sources = bank.sources()
    sources["decision.rego"] += b"\na := b\n\nb := a\n"
    with pytest.raises(PolicyError, match=r"`decision\.rego:\d+`: .*recursive"):
        build(sources, find_opa(os.environ))


def test_after_all_of_them_a_good_bundle_is_served(daemon):
    (daemon.bundles / "later.tar.gz").write_bytes(signed(LAST))
    until(lambda: daemon.ask("7").bundle_sequence == LAST, 60, "service under the next bundle")
