"""A command that signs: a real `openssl` for each kind of key, and each way in which a command can fail to sign."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exequatur.signer import OUTPUT_BYTES, CommandSigner, SignerError
from exequatur.trust.keys import SigningKey, generate
from processes import children
from signing import rsa_pem

DATA = b"eyJhbGciOiJFUzI1NiJ9." + b"e30" * 10_000
PSS = "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest"
R_AND_S = """
import sys
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
r, s = decode_dss_signature(sys.stdin.buffer.read())
sys.stdout.buffer.write(r.to_bytes(48) + s.to_bytes(48))
"""


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """A private key file for each algorithm, made once."""
    folder = tmp_path_factory.mktemp("keys")
    for alg in ("RS256", "PS512", "ES256", "ES384"):
        (folder / f"{alg}.key").write_bytes(generate(alg)[0] if alg.startswith("ES") else rsa_pem("ops"))
    return folder


def signer(keys, alg: str, command: str, **options) -> CommandSigner:
    """The command, its `{key}` filled in; tests bear no long waits."""
    public = SigningKey.from_pem(f"ops.{alg}.pem", (keys / f"{alg}.key").read_bytes()).public
    return CommandSigner(public, shlex.split(command.replace("{key}", str(keys / f"{alg}.key"))), **options)


def refusal(keys, command: str, alg: str = "ES256", **options) -> str:
    with pytest.raises(SignerError) as caught:
        signer(keys, alg, command, **options).sign_input(DATA)
    text = str(caught.value)
    assert text[0].islower() or text[0] == "`"
    assert not text.endswith(".")
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("alg", "command"),
    [
        ("RS256", "openssl dgst -sha256 -sign {key}"),
        ("PS512", f"openssl dgst -sha512 {PSS} -sign {{key}}"),
        ("ES256", "openssl dgst -sha256 -sign {key}"),
        ("ES384", "openssl dgst -sha384 -sign {key}"),
    ],
)
def test_openssl_signs_and_the_signature_is_that_of_jws(keys, alg, command):
    by_command = signer(keys, alg, command)
    signature = by_command.sign_input(DATA)
    assert (by_command.kid, by_command.alg) == ("ops", alg)
    assert len(signature) == {"ES256": 64, "ES384": 96}.get(alg, 256)


@pytest.mark.parametrize("alphabet", ["base64", "base64 -w0", "basenc --base64url", "base64 -w0 | tr -d ="])
def test_base64_of_either_alphabet_is_read(keys, alphabet):
    command = f"sh -c 'openssl dgst -sha256 -sign {{key}} | {alphabet}'"
    assert len(signer(keys, "RS256", command).sign_input(DATA)) == 256


def test_two_numbers_side_by_side_are_read_as_der_is(keys, tmp_path):
    (tmp_path / "convert.py").write_text(R_AND_S)
    convert = f"{sys.executable} {tmp_path / 'convert.py'}"
    for ending in ("", "| base64"):
        command = f"sh -c 'openssl dgst -sha384 -sign {{key}} | {convert} {ending}'"
        assert len(signer(keys, "ES384", command).sign_input(DATA)) == 96


@pytest.mark.parametrize(
    ("alg", "command"),
    [
        ("ES256", "openssl pkeyutl -sign -inkey {key}"),
        ("RS256", "openssl pkeyutl -sign -inkey {key} -pkeyopt digest:sha256"),
    ],
)
def test_a_command_that_wants_the_digest_gets_the_digest(keys, alg, command):
    assert signer(keys, alg, command, digest=True).sign_input(DATA)
    assert "no signature of all of its standard input" in refusal(keys, "openssl dgst -sha384 -sign {key}", "ES256"), (
        "the wrong hash is not taken"
    )


@pytest.mark.parametrize(
    ("alg", "command", "why"),
    [
        ("ES256", "cat", "ES256 is ECDSA with SHA-256, as DER or r||s, in binary or base64"),
        ("RS256", "echo AAAA", "RS256 is RSASSA-PKCS1-v1_5 with SHA-256"),
        (
            "PS512",
            "openssl dgst -sha512 -sign {key}",
            "PS512 is RSASSA-PSS with SHA-512, MGF1 with SHA-512 and 64 bytes",
        ),
        ("PS512", "openssl dgst -sha512 -sigopt rsa_padding_mode:pss -sign {key}", "64 bytes of salt"),
        ("ES256", "true", "`true` printed nothing"),
        ("ES256", "no-such-program", "`no-such-program` cannot be run: no such file or directory"),
        ("ES256", "/", "`/` cannot be run: permission denied"),
        ("ES256", "false", "`false` ended with exit code 1"),
        ("ES256", "sh -c 'kill -9 $$'", "`sh` was ended by signal 9"),
        ("ES256", "yes", f"`yes` printed more than {OUTPUT_BYTES} bytes"),
    ],
)
def test_a_command_that_does_not_sign_is_told_apart(keys, alg, command, why):
    assert why in refusal(keys, command, alg)


def test_a_good_signature_and_a_bad_exit_code_is_no_signature(keys):
    assert "exit code 3" in refusal(keys, "sh -c 'openssl dgst -sha256 -sign {key}; exit 3'")


def test_a_signature_of_other_content_is_none(keys, tmp_path):
    (tmp_path / "other").write_text("pay mallory")
    assert "no signature" in refusal(keys, f"openssl dgst -sha256 -sign {{key}} {tmp_path / 'other'}")


@pytest.mark.parametrize("command", ["sleep 60", "sh -c 'exec >&-; sleep 60'", "sh -c 'sleep 3 & echo'"])
def test_a_command_that_hangs_is_ended(keys, command):
    began = time.monotonic()
    assert "did not end within 0.2 s" in refusal(keys, command, seconds=0.2)
    assert time.monotonic() - began < 30


def test_what_the_command_says_is_heard_and_it_sees_nothing_of_ours(keys, capfd, monkeypatch):
    monkeypatch.setenv("EXEQUATUR_PDP_TOKEN", "ours")
    monkeypatch.setenv("AWS_PROFILE", "theirs")
    refusal(keys, "sh -c 'env >&2; exit 1'")
    said = capfd.readouterr().err
    assert "AWS_PROFILE=theirs" in said
    assert "EXEQUATUR_" not in said


def test_no_shell_reads_the_command(keys, tmp_path):
    public = SigningKey.from_pem("ops.pem", (keys / "ES256.key").read_bytes()).public
    signing = CommandSigner.parse(f"echo '$HOME' ; touch {tmp_path / 'mark'}", public)
    assert signing.arguments == ("echo", "$HOME", ";", "touch", str(tmp_path / "mark"))
    with pytest.raises(SignerError):
        signing.sign_input(DATA)
    assert not (tmp_path / "mark").exists()
    for command, why in (("", "is empty"), ("  ", "is empty"), ("sign 'it", "no closing quotation")):
        with pytest.raises(SignerError, match=why):
            CommandSigner.parse(command, public)


def test_what_is_signed_can_be_opened_by_name(keys):
    """As `--message fileb:///dev/stdin` does, and tools that ask for its size first."""
    assert signer(keys, "ES256", "openssl dgst -sha256 -sign {key} /dev/stdin").sign_input(DATA)


def test_no_process_and_no_pipe_is_left(keys):
    before, others = set(Path("/proc/self/fd").iterdir()), children(os.getpid())
    refusal(keys, "sleep 60", seconds=0.1)
    signer(keys, "ES256", "openssl dgst -sha256 -sign {key}").sign_input(DATA)
    assert set(Path("/proc/self/fd").iterdir()) == before
    assert children(os.getpid()) == others, "also none that has ended and was not collected"
    assert subprocess.run(["true"], check=True).returncode == 0
