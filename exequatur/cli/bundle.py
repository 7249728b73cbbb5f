"""`exequatur bundle`: start, build, endorse, sign, verify, inspect and compare policy bundles.

Rules: the verbs' words stand here, their work in `bundling.py` and `bundle_*.py`, which need the engines and are
imported when a verb runs.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from exequatur.cli import reach
from exequatur.cli.console import Exit, fail
from exequatur.importing import imported

app = typer.Typer(no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="for machines")]
Out = Annotated[Path, typer.Option("-o", "--out", help="the file to write")]
Bundle = Annotated[Path, typer.Argument(help="a bundle, such as `mine.tar.gz`")]
Keys = Annotated[Path, typer.Option(help="the folder of public keys that may sign, `KID.pem` each")]
Tenant = Annotated[str, typer.Option(help="whose bundle it is")]

Built = Annotated[Path, typer.Argument(help="what `build` wrote")]
Key = Annotated[Path | None, typer.Option(help="your private key, `KID.key` or `KID.ALG.key`")]
Command = Annotated[str, typer.Option(help="or a command that signs, such as `aws kms sign`; `sign --help` says how")]
Public = Annotated[Path | None, typer.Option(help="for a command: its public key, `KID.pem` or `KID.ALG.pem`")]
Digest = Annotated[bool, typer.Option("--digest", help="for a command: give it the digest (SHA-2, binary) alone")]
Kid = Annotated[str, typer.Option(help="the key's name, if its file has another")]
Sequence = Annotated[
    int | None, typer.Option(help="one more than the last: nothing older is ever served again", min=1, metavar="NUMBER")
]
Expires = Annotated[str, typer.Option(help="`30d`, `12h`, or a time such as `2027-01-01T00:00:00Z`")]
NotBefore = Annotated[str, typer.Option(help="not valid before this time, or this long from now")]
SignedTenant = Annotated[str, typer.Option(help="whose bundle it is; `default` if nothing says another")]
Scope = Annotated[str, typer.Option(help="who may use it, for keys and OPA servers that have a scope")]


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="the folder to write to; it must be empty or not there")]) -> None:
    """Write a small working start: Cedar, Rego, tools, agents and cases."""
    work().init(folder)


@app.command()
def build(
    folder: Annotated[Path, typer.Argument(help="the folder of sources")], out: Out, as_json: AsJson = False
) -> None:
    """Check everything, compile, run the cases, and pack it; the same sources give the same bytes."""
    work().build(folder, out, as_json=as_json)


@app.command()
def sign(
    bundle: Built,
    *,
    key: Key = None,
    command: Command = "",
    public: Public = None,
    digest: Digest = False,
    kid: Kid = "",
    sequence: Sequence = None,
    expires: Expires = "",
    not_before: NotBefore = "",
    tenant: SignedTenant = "",
    scope: Scope = "",
    endorsement: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="what `endorse` wrote; once for each; the first says what no option does"),
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(help="the public keys: write nothing that they would not trust, by the threshold")
    ] = None,
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Build it again to see that it is what its sources say, and sign it.

    A command gets what is signed (the JWS signing input) on its standard input,
    and gives the signature on its standard output, in binary or base64; for ES
    in DER or as r||s. Its words are split as a shell would, but there is no
    shell. It has 120 seconds. What it gives is verified by the public key;
    nothing is written otherwise.
    """
    options = work("bundle_signers")
    work("bundle_signing").sign(
        bundle,
        options.Who(key, kid, command, public, digest),
        options.Terms(sequence, expires, not_before, tenant, scope),
        endorsed=endorsement or [],
        keys=keys,
        out=out,
        as_json=as_json,
    )


@app.command()
def endorse(
    bundle: Built,
    *,
    key: Key = None,
    command: Command = "",
    public: Public = None,
    digest: Digest = False,
    kid: Kid = "",
    sequence: Sequence = None,
    expires: Expires = "",
    not_before: NotBefore = "",
    tenant: SignedTenant = "",
    scope: Scope = "",
    endorsement: Annotated[
        Path | None, typer.Option(help="another's, to endorse the same: it says what no option does")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="an older bundle: show which files differ; its signature is not looked at")
    ] = None,
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Build it again, show what you stand for, and write your endorsement, for `sign --endorsement`.

    What `sign` says of a command holds here too.
    """
    options = work("bundle_signers")
    work("bundle_signing").endorse(
        bundle,
        options.Who(key, kid, command, public, digest),
        options.Terms(sequence, expires, not_before, tenant, scope),
        endorsed=endorsement,
        against=against,
        out=out,
        as_json=as_json,
    )


@app.command()
def verify(
    bundle: Bundle,
    keys: Keys,
    tenant: Tenant = "default",
    rebuild: Annotated[bool, typer.Option("--rebuild", help="build it again and compare; needs `opa`")] = False,
    as_json: AsJson = False,
) -> None:
    """Say whether a decision point would trust it now; if not, exactly what is wrong. Exit code 1 is no."""
    work().verify(bundle, keys, tenant=tenant, rebuild=rebuild, as_json=as_json)


@app.command()
def inspect(
    bundle: Bundle,
    keys: Annotated[Path | None, typer.Option(help="verify it too, by this folder of public keys")] = None,
    tenant: Tenant = "default",
    as_json: AsJson = False,
) -> None:
    """Show what is inside: files with hashes, engines, tools, agents, policies, sequence, expiry."""
    work().inspect(bundle, keys, tenant=tenant, as_json=as_json)


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="a folder of sources, or a bundle")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="a folder of sources, or a bundle")],
    *,
    accept: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="a change that somebody has read; `*` is any text")
    ] = None,
    recorded: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='actions to judge too, one a line: as `policy eval` takes one, or {"action": such a one, '
            '"session": {}, "time": "", "door_enforced": true} with what its options take',
        ),
    ] = None,
    probe: Annotated[float, typer.Option(metavar="SECONDS", help="how long to probe; 0 is not at all", min=0)] = 5,
    as_json: AsJson = False,
) -> None:
    """Show what NEW means that OLD did not. Exit code 1 if something is wider, or may be, and is not accepted."""
    verb = work("bundle_diff")
    verb.diff(verb.Asked(old, new, tuple(accept or ()), recorded, probe, as_json))


@app.command()
def push(
    bundle: Annotated[Path, typer.Argument(help="what `sign` wrote")],
    destination: Annotated[
        str, typer.Argument(help="a folder, `https://HOST/PATH` that takes PUT, or `oci://HOST/REPOSITORY:TAG`")
    ],
    *,
    keys: Annotated[Path | None, typer.Option(help="verify it first, by this folder of public keys")] = None,
    token: Annotated[
        Path | None, typer.Option(help="a file with our token for the server, or `NAME:PASSWORD` for a registry")
    ] = None,
    roots: Annotated[Path | None, typer.Option(help="the roots that sign the server, PEM; else the system's")] = None,
    certificate: Annotated[Path | None, typer.Option(help="our certificate chain for the server, PEM")] = None,
    key: Annotated[Path | None, typer.Option(help="its private key, PEM")] = None,
    unsafe_plaintext: Annotated[bool, typer.Option("--unsafe-plaintext", help="plain text, on loopback alone")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a signed bundle where decision points look for it; never over a newer one. Exit code 1 is a refusal."""
    verb = work("bundle_push")
    access = verb.Access(token, roots, certificate, key, unsafe_plaintext)
    verb.push(verb.Order(bundle, destination, keys, access, as_json))


@app.command()
def status(
    *,
    tenant: Annotated[str, typer.Option(help="whose bundle; all of them if not said")] = "",
    refresh: Annotated[bool, typer.Option("--refresh", help="look for newer bundles first; for operators")] = False,
    target: reach.Target = "",
    certificate: reach.Certificate = None,
    key: reach.Key = None,
    roots: reach.Roots = None,
    unsafe_plaintext: reach.Plaintext = False,
    as_json: AsJson = False,
) -> None:
    """Show what a running decision point serves, and what it refused and why. Exit code 1: a tenant has no policy."""
    work("bundle_status").status(
        target,
        tenant=tenant,
        refresh=refresh,
        certificate=certificate,
        key=key,
        roots=roots,
        unsafe_plaintext=unsafe_plaintext,
        as_json=as_json,
    )


def work(name: str = "bundling") -> ModuleType:
    """Import the verbs' work, which needs the engines."""
    try:
        return imported(f"exequatur.cli.{name}")
    except ModuleNotFoundError as error:
        fail(f"this verb needs `{error.name}`: pip install 'exequatur[pdp]'", Exit.CONFIG)
