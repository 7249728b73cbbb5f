"""One signed bundle serves OPA and us: a real server that verifies it takes it, and answers as our engine does."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from exequatur.trust.archive import read_tar, unpack, write_archive
from exequatur.trust.bundle import BundleClaims, VerifiedBundle, endorse, payload, sign, verify
from exequatur.trust.errors import SignatureError
from exequatur.trust.keys import SigningKey, generate
from exequatur.trust.tokens import SIGNATURES, attached, write_signatures
from opa_servers import team_server
from pdp.engine.wasm import RegoLimits, load_module
from policies import opa
from publisher import built
from signing import NOW, dev_key, key_set, public_pem

RULE = "exequatur/decision"
CLAIMS = BundleClaims(7, NOW + timedelta(days=30))
CURVE = {alg: SigningKey.from_pem("publisher.pem", generate(alg)[0]) for alg in ("ES256", "ES384")}
PUBLISHERS = [*(dataclasses.replace(dev_key("publisher"), alg=alg) for alg in ("RS256", "PS512")), *CURVE.values()]
REVIEWER = SigningKey.from_pem("reviewer.pem", generate("ES256")[0])
INPUTS: list[dict[str, Any]] = [
    {"tool": {"server": server, "name": name}, "input": arguments, "resource": {"attributes": attributes}}
    for server, name in (("mail", "send"), ("notes", "read"), ("crm", "é\u2028"))
    for arguments in (
        {},
        {"to": "a@example.com"},
        {"to": "A@EXAMPLE.ORG"},
        {"to": "a@b@example.com"},
        {"to": "a@x.net"},
    )
    for attributes in ({}, {"path": "/notes/a"}, {"path": "/etc/notes/"})
] + [{}, {"tool": {"server": "mail", "name": "send"}, "input": []}, {"tool": {"server": 1, "name": "x"}, "input": {}}]


def signed(publisher: SigningKey) -> bytes:
    return sign(built().files, publisher, CLAIMS, [endorse(built().files, REVIEWER, CLAIMS)])


def trusted(publisher: SigningKey) -> VerifiedBundle:
    return verify(signed(publisher), key_set(publisher, REVIEWER, threshold=2), now=NOW)


@pytest.fixture(scope="module")
def ours() -> list[Any]:
    """What our engine answers, by the module and the data of a bundle that we verified."""
    files = trusted(CURVE["ES256"]).files
    machine = load_module(files["policy.wasm"], None, files["data.json"], RULE, RegoLimits())
    found = [json.loads(machine.evaluate(json.dumps(document).encode(), now_ns=0)) for document in INPUTS]
    return [plain(item[0]["result"]) if item else None for item in found]


def ask(url: str, document: dict[str, Any]) -> Any:
    body = json.dumps({"input": document}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/data/{RULE}", body), timeout=20) as answer:
        return json.load(answer).get("result")


def plain(value: Any) -> Any:
    """Give an answer with its set in one order."""
    if isinstance(value, dict) and "deny" in value:
        return {**value, "deny": sorted(value["deny"], key=lambda item: item["id"])}
    return value


@pytest.mark.parametrize("publisher", PUBLISHERS, ids=lambda key: key.alg)
def test_a_server_that_verifies_takes_what_we_sign_with_endorsements_and_answers_as_we_do(publisher, ours, tmp_path):
    bundle = trusted(publisher)
    assert (bundle.kids, bundle.owners) == (("publisher", "reviewer"),) * 2
    (tmp_path / "key.pem").write_bytes(public_pem(publisher))
    options = ("--verification-key", str(tmp_path / "key.pem"), "--verification-key-id", publisher.kid)
    files = read_tar(unpack(signed(publisher)))
    with team_server(tmp_path, files, *options, "--signing-alg", publisher.alg) as url:
        theirs = [plain(ask(url, document)) for document in INPUTS]
    assert theirs == ours
    assert len({json.dumps(answer) for answer in theirs}) > 3


def test_opa_eval_answers_from_the_same_file_as_we_do(ours, tmp_path):
    (tmp_path / "bundle.tar.gz").write_bytes(signed(CURVE["ES384"]))
    (tmp_path / "inputs.json").write_text(json.dumps(INPUTS))
    query = "[one | some item in input; one := [d | d := data.exequatur.decision with input as item]]"
    done = subprocess.run(
        [opa(), "eval", "-b", "bundle.tar.gz", "-i", "inputs.json", "-f", "raw", query],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert [plain(*found) if found else None for found in json.loads(done.stdout)] == ours


def start(folder: Path, archive: bytes, publisher: SigningKey, *command: str) -> subprocess.CompletedProcess[str]:
    """Give a bundle to OPA, with verification on."""
    (folder / "key.pem").write_bytes(public_pem(publisher))
    (folder / "bundle.tar.gz").write_bytes(archive)
    options = ("--verification-key", "key.pem", "--verification-key-id", publisher.kid, "--signing-alg", publisher.alg)
    words = [opa(), *command, *options, "-b", "bundle.tar.gz"]
    return subprocess.run(words, cwd=folder, check=False, capture_output=True, text=True, timeout=60)


def test_a_server_does_not_start_on_what_it_cannot_verify(tmp_path):
    stranger = dataclasses.replace(dev_key("mallory"), kid="publisher")
    done = start(tmp_path, signed(PUBLISHERS[0]), stranger, "run", "--server", "--addr", "127.0.0.1:0")
    assert done.returncode != 0
    assert "verif" in done.stdout + done.stderr


def test_opa_takes_an_endorsement_for_a_signature_and_we_do_not(tmp_path):
    """OPA reads no `typ`: give it the publisher's key alone."""
    token = attached(endorse(built().files, REVIEWER, CLAIMS), payload(built().files, CLAIMS))
    stolen = write_archive({**built().files, SIGNATURES: write_signatures(token)})
    assert start(tmp_path, stolen, REVIEWER, "build", "-o", "out.tar.gz").returncode == 0
    with pytest.raises(SignatureError, match="`reviewer` signed `exequatur-endorsement`"):
        verify(stolen, key_set(REVIEWER), now=NOW)
    with pytest.raises(SignatureError, match="`reviewer` signed `exequatur-endorsement`"):
        verify(stolen, key_set(REVIEWER), now=NOW, serve=False)
