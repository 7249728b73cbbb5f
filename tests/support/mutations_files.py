"""Changes of the files in a bundle, and of the file of signatures."""

from __future__ import annotations

import json
import random

from exequatur.trust.archive import read_tar, unpack, write_archive
from exequatur.trust.tokens import SIGNATURES, write_signatures
from mutations import (
    MALLORY,
    Published,
    damaged,
    trick,
)
from mutations_tokens import forged

# The files


@trick
def a_file_more(base: Published, chance: random.Random) -> bytes:
    name = chance.choice(
        [
            "evil.rego",
            "d/evil.rego",
            "evil.cedar",
            "policy.wasm",
            "patch.json",
            "d/patch.json",
            "data.yaml",
            "data.yml",
            "d/data.yaml",
            "signatures.json",
            "d/.signatures.json",
            "x.signatures.json",
            "evil/x.signatures.json",
            ".manifest.pb",
            "d/.manifest",
            "x.manifest",
            "._data.json",
            "d/data.json",
            "agents.json",
            "Data.json",
            "cases/evil.yaml",
            ".hidden",
            "exequatur.json",
            "limits.json",
            "schema.cedarschema",
        ]
    )
    content = chance.choice(
        [b"", b"{}", b"package evil\n", b"permit (principal, action, resource);", base.files[SIGNATURES]]
    )
    return write_archive({**base.files, name: content})


@trick
def a_file_less(base: Published, chance: random.Random) -> bytes:
    files = dict(base.files)
    for name in chance.sample(sorted(files), chance.randint(1, len(files) - 1)):
        del files[name]
    return write_archive(files)


@trick
def a_file_of_another_name(base: Published, chance: random.Random) -> bytes:
    files = dict(base.files)
    name = chance.choice(sorted(files))
    files[chance.choice([name.upper(), name + "x", "d/" + name, "x", name[:-1], name.replace(".", "_") + "1"])] = (
        files.pop(name)
    )
    return write_archive(files)


@trick
def files_that_change_places(base: Published, chance: random.Random) -> bytes:
    files = dict(base.files)
    one, two = chance.sample(sorted(files), 2)
    files[one], files[two] = files[two], files[one]
    return write_archive(files)


@trick
def other_content(base: Published, chance: random.Random) -> bytes:
    name = chance.choice(sorted(base.contents))
    content = base.files[name]
    changed = chance.choice(
        [
            *(
                b"",
                content + b"\n",
                content[:-1],
                b"\xef\xbb\xbf" + content,
                damaged(content, chance),
                content * 2,
                b"\0",
            ),
            *(content.replace(b"\n", b"\r\n") + b"\r",),
        ]
    )
    return write_archive({**base.files, name: changed})


@trick
def json_of_the_same_value(base: Published, chance: random.Random) -> bytes:
    name = chance.choice([".manifest", "data.json", "tools.json"])
    value = json.loads(base.files[name])
    changed = chance.choice(
        [
            lambda: json.dumps(value, indent=chance.randrange(9)).encode(),
            lambda: json.dumps(dict(reversed(value.items())), separators=(",", ": ")).encode() + b" ",
            lambda: base.files[name] + chance.choice([b" ", b"\n", b"\t", b"\r"]) * chance.randint(1, 9),
            lambda: chance.choice([b" ", b"\n", b"\t", b"\r"]) + base.files[name],
            lambda: base.files[name].replace(b"o", b"\\u006f", 1) + b" " * chance.randrange(2),
            lambda: base.files[name].replace(b":", b" :", 1),
            lambda: base.files[name].replace(b'"', b' "', chance.randint(1, 3)),
        ]
    )()
    return write_archive({**base.files, name: changed if changed != base.files[name] else changed + b" "})


@trick
def json_that_two_readers_take_differently(base: Published, chance: random.Random) -> bytes:
    name = chance.choice([".manifest", "data.json", "tools.json"])
    content = base.files[name]
    changed = chance.choice(
        [
            *(
                content[:-1] + b',"hosts":[]}',
                content + b"{}",
                content + b" # c",
                content[:-1] + b",}",
                content + b"\0",
            ),
            *(
                b'{"hosts":["evil.com"],' + content[1:],
                content.replace(b'"', b"'"),
                content[:-1] + b',"x":01}',
            ),
            *(
                content[:-1] + b',"x":NaN}',
                content[:-1] + b',"x":"\\ud800"}',
                content.decode().encode("utf-16"),
            ),
            *(
                content[:-1] + b',"x":"\xff"}',
                content[:-1] + b',"x":1e999}',
                content[:-1] + b',"x":"\x01"}',
                b"a: 1",
            ),
        ]
    )
    return write_archive({**base.files, name: changed})


@trick
def numbers_of_the_same_value(base: Published, chance: random.Random) -> bytes:
    number = chance.choice(
        [b"1.5", b"1.500", b"15e-1", b"0.15e1", b"1.50e0", b"1.50E+0", b"150e-2", b"1.5000000000000001"]
    )
    return write_archive({**base.files, "data.json": base.files["data.json"].replace(b"1.50", number)})


# The signatures file


@trick
def another_signatures_file(base: Published, chance: random.Random) -> bytes:
    tokens = [base.token]
    evil = chance.choice([forged(base, MALLORY), base.token, ""])
    changed = chance.choice(
        [
            lambda: json.dumps({"signatures": tokens}).encode(),
            lambda: json.dumps({"signatures": tokens}, indent=chance.choice([0, 2, 3])).encode(),
            lambda: write_signatures(base.token) + chance.choice([b"\n", b" ", b"\0", b"{}"]),
            lambda: json.dumps({"signatures": [evil, base.token]}, indent=1).encode(),
            lambda: json.dumps({"signatures": [base.token, evil]}, indent=1).encode(),
            lambda: json.dumps({"signatures": []}, indent=1).encode(),
            lambda: json.dumps({"signatures": base.token}, indent=1).encode(),
            lambda: json.dumps({"signatures": [tokens]}, indent=1).encode(),
            lambda: json.dumps(
                {"signatures": tokens, "plugin": chance.choice(["_default", "evil", ""])}, indent=1
            ).encode(),
            lambda: json.dumps({"signatures": tokens, "x": 1}, indent=1).encode(),
            lambda: json.dumps({"Signatures": tokens, "signatures": tokens}, indent=1).encode(),
            lambda: b'{"signatures": ["x"], "signatures": ["' + base.token.encode() + b'"]}',
            lambda: b"\xef\xbb\xbf" + write_signatures(base.token),
            lambda: write_signatures(base.token).replace(b"e", b"\\u0065", 1),
            base.token.encode,
            lambda: b"null",
        ]
    )()
    return write_archive({**base.files, SIGNATURES: changed})


@trick
def no_signatures_file(base: Published, chance: random.Random) -> bytes:
    place = chance.choice(["", "d/.signatures.json", "signatures.json", ".Signatures.json", ".signatures.json.bak"])
    return write_archive({**base.contents, **({place: base.files[SIGNATURES]} if place else {})})


@trick
def the_signature_of_another_bundle(base: Published, chance: random.Random) -> bytes:
    other = chance.choice([base.newer, base.older, base.south, base.expired, base.early])
    theirs = read_tar(unpack(other))
    return chance.choice(
        [
            lambda: write_archive({**base.files, SIGNATURES: theirs[SIGNATURES]}),
            lambda: write_archive({**theirs, SIGNATURES: base.files[SIGNATURES]}),
            lambda: write_archive({**base.files, "p.cedar": theirs["p.cedar"]}),
            lambda: write_archive({**theirs, "p.cedar": base.files["p.cedar"]}),
        ]
    )()


@trick
def another_bundle_that_was_published(base: Published, chance: random.Random) -> bytes:
    return chance.choice([base.older, base.south, base.expired, base.early])
