"""Build and sign the development bundles, to the same bytes each time: `make bundles`.

Never for production: the key that signs them is public. A policy that changes gets a higher sequence here.
"""

# ruff: noqa: INP001, T201 - a script, run by path

from __future__ import annotations

import datetime as dt
import os
import sys
from pathlib import Path

from exequatur.trust.bundle import BundleClaims, sign
from exequatur.trust.keys import SigningKey
from pdp.bundle.build import OpaError, build, find_opa, read_folder
from pdp.engine.reading import PolicyError

HERE = Path(__file__).resolve().parent
KID = "dev-never-in-production"
EXPIRES = dt.datetime(2036, 1, 1, tzinfo=dt.UTC)
SEQUENCES = {"coding-agent": 3, "finance": 2, "support-triage": 2}
"""Each bundle, made of the folder of its name in `policies/`, and its sequence."""


def rebuild(name: str, opa: Path | None) -> bytes:
    """Give the signed archive of one bundle; raises `PolicyError` and `OpaError`, and for cases that fail, too."""
    built = build(read_folder(HERE.parent / "policies" / name), opa)
    if built.results.failures:
        raise PolicyError("\n".join(map(str, built.results.failures)))
    key = SigningKey.from_pem(f"{KID}.pem", (HERE / f"{KID}.key").read_bytes())
    print(f"{name}: {built.results.total} cases hold")
    return sign(built.files, key, BundleClaims(SEQUENCES[name], EXPIRES))


def main() -> int:
    """Write all bundles."""
    try:
        opa = find_opa(os.environ)
        for name in SEQUENCES:
            (HERE / f"{name}.tar.gz").write_bytes(rebuild(name, opa))
    except (PolicyError, OpaError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
