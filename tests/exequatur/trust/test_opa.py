"""What we sign OPA takes, what OPA signs we can check, and our hashes are its hashes: tried on a real `opa`."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from exequatur.trust.archive import read_tar, unpack, write_archive
from exequatur.trust.bundle import verify
from exequatur.trust.errors import FormatError, ScopeError, TrustError
from exequatur.trust.hashing import file_hash
from exequatur.trust.keys import SigningKey, generate
from policies import opa
from signing import FILES, NOW, bundle_keys, dev_key, key_set, public_pem, signed

ROOTS = ["exequatur", "hosts", "limit"]
BUNDLE = {**FILES, ".manifest": json.dumps({"revision": "r1", "roots": ROOTS}).encode(), "tools.json": b'{"tools": {}}'}


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([opa(), *arguments], cwd=cwd, check=False, capture_output=True, text=True, timeout=60)


def opa_takes(archive: bytes, key: SigningKey, folder: Path) -> str:
    """Have `opa` verify and load an archive; gives what it complains of."""
    (folder / "bundle.tar.gz").write_bytes(archive)
    (folder / "key.pem").write_bytes(public_pem(key))
    trust = ("--verification-key", "key.pem", "--verification-key-id", key.kid, "--signing-alg", key.alg)
    done = run("build", *trust, "-o", "out.tar.gz", "-b", "bundle.tar.gz", cwd=folder)
    return "" if done.returncode == 0 else done.stdout + done.stderr


RSA = [dataclasses.replace(dev_key(), alg=alg) for alg in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")]
CURVES = [SigningKey.from_pem("curve.pem", generate(alg)[0]) for alg in ("ES256", "ES384", "ES512")]


@pytest.mark.parametrize("key", RSA + CURVES, ids=lambda key: key.alg)
def test_opa_takes_what_we_sign_with_cedar_and_all_in_it(key, tmp_path):
    assert opa_takes(signed(BUNDLE, key=key), key, tmp_path) == ""


def test_opa_refuses_what_was_changed_since(tmp_path):
    files = read_tar(unpack(signed(BUNDLE)))
    for name, content in (("permits.cedar", b""), ("data.json", b"{}"), ("more.cedar", b"")):
        words = opa_takes(write_archive({**files, name: content}), dev_key(), tmp_path)
        assert name in words, words
    assert "verif" in opa_takes(signed(BUNDLE, key=dev_key("mallory")), dataclasses.replace(dev_key()), tmp_path)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def private_pem(key: SigningKey) -> bytes:
    return key.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def opa_signs(files: dict[str, bytes], work: Path, claims: dict[str, object], key: SigningKey | None = None) -> bytes:
    """Have `opa sign` write the signatures of `files`."""
    source = write(work / "source", files)
    key = key or dev_key()
    (work / "private.pem").write_bytes(private_pem(key))
    (work / "claims.json").write_text(json.dumps(claims))
    done = run(
        *("sign", "--signing-key", "../private.pem", "--signing-alg", key.alg, "--claims-file", "../claims.json"),
        *("-o", "..", "-b", "."),
        cwd=source,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return (work / ".signatures.json").read_bytes()


def test_what_opa_signed_verifies_and_is_not_served(tmp_path):
    signatures = opa_signs(BUNDLE, tmp_path, {"keyid": "dev"})
    archive = write_archive({**BUNDLE, ".signatures.json": signatures})
    bundle = verify(archive, bundle_keys(), now=NOW, serve=False)
    assert (bundle.files, bundle.kid, bundle.revision) == (BUNDLE, "dev", "r1")
    with pytest.raises(FormatError, match="no `sequence` and `exp`"):
        verify(archive, bundle_keys(), now=NOW)
    with pytest.raises(TrustError, match=r"`permits.cedar`"):
        verify(
            write_archive({**BUNDLE, "permits.cedar": b"", ".signatures.json": signatures}),
            bundle_keys(),
            now=NOW,
            serve=False,
        )


TRIED = [RSA[0], RSA[5], *CURVES[:2]]


@pytest.mark.parametrize("key", TRIED, ids=lambda key: key.alg)
def test_what_opa_signed_with_any_algorithm_verifies(key, tmp_path):
    signatures = opa_signs(BUNDLE, tmp_path, {"keyid": key.kid, "sequence": 3, "exp": 4102444800}, key)
    archive = write_archive({**BUNDLE, ".signatures.json": signatures})
    bundle = verify(archive, bundle_keys(key), now=NOW, serve=False)
    assert (bundle.files, bundle.kids, bundle.sequence) == (BUNDLE, (key.kid,), 3)
    with pytest.raises(FormatError, match="payload is not as `exequatur bundle sign` writes it"):
        verify(archive, bundle_keys(key), now=NOW)


def test_the_scope_that_opa_signed_is_the_keys_to_the_byte(tmp_path):
    archive = write_archive({**BUNDLE, ".signatures.json": opa_signs(BUNDLE, tmp_path, {"keyid": "dev", "scope": "é"})})
    assert verify(archive, key_set(dev_key(), dev={"scope": "é"}), now=NOW, serve=False).files == BUNDLE
    for scope in ("e\u0301", "É", "é ", "write", ""):
        with pytest.raises(ScopeError, match="`dev` signs for scope"):
            verify(archive, key_set(dev_key(), dev={"scope": scope}), now=NOW, serve=False)


@pytest.mark.parametrize("key", TRIED, ids=lambda key: key.alg)
def test_what_opa_packed_and_signed_verifies(key, tmp_path):
    write(tmp_path / "source", BUNDLE)
    (tmp_path / "private.pem").write_bytes(private_pem(key))
    keys = ("--signing-key", "../private.pem", "--signing-alg", key.alg, "--verification-key-id", key.kid)
    done = run("build", *keys, "-o", "../out.tar.gz", "-b", ".", cwd=tmp_path / "source")
    assert done.returncode == 0, done.stdout + done.stderr
    bundle = verify((tmp_path / "out.tar.gz").read_bytes(), bundle_keys(key), now=NOW, serve=False)
    assert {"data.json", "policies/decision.rego"} <= bundle.files.keys()


ODD_TEXTS = [
    *("", "a", "é", "e\u0301", "<>&'/", '"', "\\", "\b\f\n\r\t", "\x00\x01\x1f\x7f", "\u2028\u2029", "\ufffd\ufeff"),
    *("\U0001f600", "\ue000", "\U00010000", "\uffff", "a" * 300, "__proto__", "\x80\x9f"),
]
NUMBERS = ["0", "-0", "1.0", "1.00", "1e5", "1E+05", "1.5e-7", "9007199254740991", "-1", "0.5", "100", "1e15", "-0.0"]


def document(chance: random.Random, depth: int = 4) -> str:
    """Write some strict JSON, spaced and escaped in many ways."""
    kind = chance.randrange(3 if depth == 0 else 6)
    space = chance.choice(["", " ", "\n\t"])
    if kind == 0:
        return chance.choice(["null", "true", "false"])
    if kind == 1:
        return chance.choice(NUMBERS)
    if kind == 2:
        return json.dumps(chance.choice(ODD_TEXTS), ensure_ascii=chance.random() < 0.5)
    count = chance.randrange(5)
    if kind == 3:
        return f"[{space}" + f"{space},{space}".join(document(chance, depth - 1) for _ in range(count)) + "]"
    names = chance.sample(ODD_TEXTS, count)
    members = (f"{json.dumps(name)}{space}:{space}{document(chance, depth - 1)}" for name in names)
    return f"{{{space}" + f",{space}".join(members) + f"{space}}}"


def test_a_thousand_documents_hash_as_opa_hashes_them(tmp_path):
    chance = random.Random(6962)
    files = {f"d{number}/data.json": document(chance).encode() for number in range(1000)}
    files |= {"roots/.manifest": b'{"roots": ["\\u00e9", "<&>"], "revision": "1.0"}', "raw/x.json": b'{ "a": 1.0 }'}
    token = json.loads(opa_signs(files, tmp_path, {}))["signatures"][0]
    listed = {item["name"]: item["hash"] for item in json.loads(bundle_keys().keys["dev"].verify(token))["files"]}
    assert listed == {name: file_hash(name, content) for name, content in files.items()}
    assert len(set(listed.values())) > 300
