"""One spelling or a refusal: what a path, a host, a URL and a command line are made of, and the tricks with each."""

import ipaddress
import posixpath
import shutil
import subprocess
import unicodedata
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exequatur.canonicalise import AmbiguousError, argv, command, host, path, text, url

ANY_TEXT = st.text() | st.text("ab./~\\%2eE:- ", max_size=12)


@given(ANY_TEXT, st.sampled_from([None, "/", "/srv", "rel/base", "."]))
@example("a/..", None)
@example("./", "/srv")
def test_a_canonical_path_never_climbs_and_is_its_own_spelling(value, base):
    try:
        found = path(value, base)
    except AmbiguousError:
        return
    assert ".." not in found.split("/")
    assert found == posixpath.normpath(found).replace("//", "/")
    assert found == path(found) == path(found, base if found[0] == "/" else None)
    assert found == posixpath.normpath(posixpath.join(base or "", value)).replace("//", "/")
    assert unicodedata.is_normalized("NFC", found)


@pytest.mark.parametrize(
    ("value", "base", "found"),
    [
        ("/srv//a/./b/", None, "/srv/a/b"),
        ("//srv/a", None, "/srv/a"),
        ("/", None, "/"),
        ("./", None, "."),
        ("src/x.py", None, "src/x.py"),
        ("src/x.py", "/repo", "/repo/src/x.py"),
        ("a", "/", "/a"),
        (".", "/repo", "/repo"),
        ("a", ".", "a"),
        ("/etc/passwd", "/repo", "/etc/passwd"),  # not under the base: policy must see that
        ("a...b/.env/x~", None, "a...b/.env/x~"),
        ("100%/caf\u00e9", None, "100%/caf\u00e9"),
    ],
)
def test_a_path_has_one_spelling(value, base, found):
    assert path(value, base) == found


@pytest.mark.parametrize(
    "value",
    [
        "",
        "..",
        "a/../b",
        "/srv/..",
        "~",
        "~root/.ssh",
        "a/~/b",
        "a\\..\\b",
        "C:/Windows",
        "file:///etc/passwd",
        "a\0b",
        "a\nb",
        "a\x7f",
        "a\x85b",
        "%2e%2e/a",
        "a%2Fb",
        "a\u202eb",  # bidirectional override
        "a\u200bb",  # zero width space
        "\ufeffa",
        "a\u2028b",
        "cafe\u0301",  # NFD
        "\u212b",  # changes under NFC
        "\uff0e\uff0e/a",  # full-width dots
        "\u2025/a",  # two dot leader
        "a\uff0fb",
        "a\ud800",
        "a" * 5000,
    ],
)
def test_an_ambiguous_path_is_refused(value):
    for base in (None, "/srv"):
        with pytest.raises(AmbiguousError) as caught:
            path(value, base)
        assert len(value) < 3 or value not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("Example.COM.", "example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("my_service", "my_service"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
    ],
)
def test_a_host_has_one_spelling(value, found):
    assert host(value) == found == host(found)


@pytest.mark.parametrize(
    "value",
    [
        "", ".", "a..b", "-a.com", "a-.com", "a b", "a\n", "a" * 64, ".".join(["a" * 50] * 6), "a.com:80", "u@a.com",
        "b\u00fccher.example", "\u24d6oogle.com", "g\u043e\u043egle.com", "evil.com\u3002", "a\u200d.com",
        "0x7f.0.0.1", "0x7f000001", "2130706433", "127.1", "127.0.1", "0177.0.0.1", "127.0.0.01", "1.2.3.4.5", "256.1.1.1",
        "a.0x10", "1.2.3.4..",
        "::ffff:127.0.0.1", "::ffff:7f00:1", "::127.0.0.1", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::",
        "2001:0:1::1", "fe80::1%eth0", "[::1", "::1]", "[[::1]]", "[127.0.0.1]",
    ],
)  # fmt: skip
def test_an_odd_host_is_refused(value):
    with pytest.raises(AmbiguousError):
        host(value)


@given(st.ip_addresses().map(str))
def test_an_address_is_its_own_spelling_or_refused(value):
    try:
        assert host(value) == str(ipaddress.ip_address(value))
    except AmbiguousError:
        assert ":" in value


@pytest.mark.parametrize(
    ("value", "scheme", "name", "port", "where"),
    [
        ("https://Example.com", "https", "example.com", 443, "/"),
        ("HTTP://a.com:8080/x/y?q=../..#z", "http", "a.com", 8080, "/x/y"),
        ("https://a.com:443/a%20b/%C3%BC", "https", "a.com", 443, "/a b/\u00fc"),
        ("ws://[::1]:9/", "ws", "::1", 9, "/"),
    ],
)
def test_a_url_is_its_parts(value, scheme, name, port, where):
    assert url(value) == {"scheme": scheme, "host": name, "port": port, "path": where}


@pytest.mark.parametrize(
    "value",
    [
        "", "a.com", "//a.com/", "https:a.com", "https:/a.com", "https:///a", "https://", "javascript://a/", "file:///etc/passwd",
        "ftp://a/", "gopher://a/", "https://good.com@evil.com/", "https://good.com%40evil.com/", "https://good.com\\@evil.com/",
        "https://evil.com\\.good.com/", " https://a.com", "https://a.com ", "https://a.com/\n", "https://a\t.com/", "https://a.com/\u00fc",
        "https://a.com:/", "https://a.com:0/", "https://a.com:080/", "https://a.com:65536/", "https://a.com:99999/", "https://a.com:8x/",
        "https://a.com/..", "https://a.com/a/../b", "https://a.com/%2e%2e/b", "https://a.com/.%2e/b", "https://a.com/./b",
        "https://a.com/..;x/b", "https://a.com/a//b", "https://a.com/a%2fb", "https://a.com/a%5cb", "https://a.com/%252e", "https://a.com/%",
        "https://a.com/%zz", "https://a.com/%ff", "https://a.com/%00", "https://a.com/%e2%80%ae", "https://a.com/?%",
        "https://0x7f.1/", "https://127.1/", "https://[::ffff:127.0.0.1]/", "https://[fe80::1%25eth0]/", "https://[a.com]/", "https://::1/",
    ],
)  # fmt: skip
def test_an_ambiguous_url_is_refused(value):
    with pytest.raises(AmbiguousError):
        url(value)


@given(st.text("htps:/@.aA%2e0?#[]\\ -", max_size=30).map(lambda rest: "https://" + rest))
def test_the_host_of_an_accepted_url_is_the_one_that_others_read(value):
    try:
        found = url(value)
    except AmbiguousError:
        return
    assert found["host"] == (urlsplit(value).hostname or "").removesuffix(".")
    assert ".." not in str(found["path"]).split("/")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("git status", ["git", "status"]),
        ("  git  log --format=%H  ", ["git", "log", "--format=%H"]),
        ("git commit -m 'fix: a; b | c $x'", ["git", "commit", "-m", "fix: a; b | c $x"]),
        ('git commit -m "it\'s done"', ["git", "commit", "-m", "it's done"]),
        ("printf ''", ["printf", ""]),
    ],
)
def test_a_simple_command_is_its_words(line, words):
    assert command(line) == {"argv": words, "program": words[0], "simple": True}


@pytest.mark.parametrize(
    "line",
    [
        "a; rm x", "a&b", "a | b", "a > b", "a < b", "a\nb", "rm\t-rf x", "echo $HOME", 'echo "$HOME"', 'echo "`id`"', "echo `id`",
        "echo $(id)", "echo {a,b}", "echo *", "echo a?", "echo [ab]", "echo ~", "echo \\a", "r'm' x", 'r"m" x', "rm 'a''b'", "echo $'a'",
        "A=1 rm x", "./git status", "/bin/rm x", "# x", "! rm x", "(rm x)", 'echo "a\\nb"', 'echo "!x"', "echo 'a\tb'", "echo =rm",
        "echo caf\u00e9", "'git' status", "a 2>&1", "echo a#b", "fc -s ^a^b",
    ],
)  # fmt: skip
def test_what_a_shell_might_read_otherwise_is_not_simple(line):
    assert command(line)["simple"] is False


def test_the_program_is_named_whatever_its_path():
    assert command("/usr/bin/rm -rf x")["program"] == "rm"
    assert argv(["./rm", "x"]) == {"argv": ["./rm", "x"], "program": "rm", "simple": False}
    assert argv(["rm", "$x;\n"]) == {"argv": ["rm", "$x;\n"], "program": "rm", "simple": True}


@pytest.mark.parametrize(
    "line",
    [
        "",
        " ",
        "''",
        "a/",
        "echo 'a",
        'echo "a',
        "echo a\\",
        "a\0b",
        "rm\r-rf",
        "rm\u00a0\u202e",
        "rm\u200b x",
        "\x1b[31m",
        "cafe\u0301",
        "a" * 20_000,
    ],
)
def test_a_command_that_cannot_be_read_is_refused(line):
    with pytest.raises(AmbiguousError):
        command(line)


@pytest.mark.parametrize("words", [[], [""], ["a/"], ["a\0"], ["a", "\u202e"]])
def test_a_word_list_that_cannot_be_run_is_refused(words):
    with pytest.raises(AmbiguousError):
        argv(words)


SHELLS = [found for name in ("sh", "bash", "dash", "zsh") if (found := shutil.which(name))]
PIECES = [
    "a",
    "b",
    "'",
    '"',
    "''",
    '""',
    "$0",
    "${0}",
    "~",
    "=",
    "*",
    "?",
    "[a-z]robe",
    "\\",
    "{a,b}",
    "..",
    ":",
    "/",
    ",",
    "@",
    "%",
    "+",
    "-",
    ";",
    "&",
    "|",
    "<",
    ">",
    "(",
    ")",
    "#",
    "!",
    "^",
    "`:`",
    "-m=",
    "é",
    "1",
]
WORDS = st.lists(st.sampled_from([*PIECES, " "]), max_size=4).map("".join)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(WORDS, max_size=4).map(lambda words: " ".join(["probe", *words])), min_size=40, max_size=60))
def test_every_shell_runs_the_words_of_a_simple_command(tmp_path_factory, lines):
    """The oracle is the shells themselves: a program that prints its arguments, called by each simple line."""
    folder = tmp_path_factory.getbasetemp() / "probe"
    probe = folder / "probe"
    if not probe.exists():
        folder.mkdir()
        probe.write_text("#!/bin/sh\nprintf '<%s>' probe \"$@\"; echo\n")
        probe.chmod(0o755)
    simple, wanted = [], []
    for line in lines:
        try:
            found = command(line)
        except AmbiguousError:
            continue
        if found["simple"] and found["program"] == "probe":
            simple.append(line)
            wanted.append("".join(f"<{word}>" for word in found["argv"]))
    assert SHELLS
    for shell in SHELLS:
        done = subprocess.run(
            [shell, "-c", "\n".join(simple)], env={"PATH": str(folder)}, capture_output=True, check=False, cwd=folder
        )
        assert done.stdout.decode().splitlines() == wanted
        assert done.stderr == b""


@given(ANY_TEXT)
def test_any_text_is_read_or_refused_with_one_error(value):
    for one in (text, path, host, url, command, lambda found: argv([found])):
        try:
            one(value)
        except AmbiguousError:
            continue


def test_hostile_lengths_take_linear_time():
    for value in (
        "a" * 60_000,
        "'" * 16_001,
        "a " * 8000 + ";",
        "-" * 16_000,
        "a" + " " * 16_000 + ";",
        "https://a/" + "%2" * 30_000,
        "https://" + "a." * 30_000,
    ):
        for one in (path, host, url, command):
            try:
                one(value)
            except AmbiguousError:
                continue
