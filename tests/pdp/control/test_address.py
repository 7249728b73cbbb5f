"""The address of a shared database: what is not proved, or undoes what we set, is refused; nothing of it is ever said."""

from __future__ import annotations

import pytest

from pdp.control.address import AddressError, parse_address, read_address

PROVED = "sslmode=verify-full&sslrootcert=/etc/roots.pem"


def test_a_server_that_is_proved_is_taken():
    found = parse_address(f"postgresql://ann:p%40ss@db.example.org/main?{PROVED}&sslcert=/c.pem&sslkey=/k.pem")
    assert (found.host, found.port, found.name, found.user, found.password) == (
        "db.example.org",
        5432,
        "main",
        "ann",
        "p@ss",
    )
    assert dict(found.parameters) == {
        "sslmode": "verify-full",
        "sslrootcert": "/etc/roots.pem",
        "sslcert": "/c.pem",
        "sslkey": "/k.pem",
    }
    assert "p@ss" not in repr(found)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("postgresql://ann@127.0.0.1:5/main", "127.0.0.1"),
        ("postgres://ann@[::1]/main", "::1"),
        ("postgresql://ann@localhost/main?sslmode=disable", "localhost"),
        ("postgresql://ann@/main?host=/run/postgresql", "/run/postgresql"),
    ],
)
def test_on_this_machine_plain_text_will_do(url, host):
    assert parse_address(url).host == host


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "one line"),
        ("postgresql://c4n4ry@h/m\npostgresql://c4n4ry@h/m", "one line"),
        ("mysql://c4n4ry@h/m", "postgresql://USER"),
        ("postgresql://c4n4ry@h:99999/m", "postgresql://USER"),
        ("postgresql://h/c4n4ry", "postgresql://USER"),
        ("postgresql://c4n4ry@h", "postgresql://USER"),
        ("host=h user=c4n4ry", "one line"),
        ("postgresql://c4n4ry@h/m", "sslmode=verify-full"),
        ("postgresql://c4n4ry@h/m?sslmode=require", "sslmode=verify-full"),
        ("postgresql://c4n4ry@h/m?sslmode=verify-ca&sslrootcert=/r", "sslmode=verify-full"),
        ("postgresql://c4n4ry@localhost.example.org/m", "sslmode=verify-full"),
        ("postgresql://c4n4ry@h/m?sslmode=verify-full", "sslrootcert"),
        ("postgresql://c4n4ry@h/m?sslmode=verify-full&sslrootcert=system", "whole path"),
        ("postgresql://c4n4ry@h/m?sslmode=c4n4ry", "is none that there is"),
        (f"postgresql://c4n4ry@h/m?{PROVED}&sslmode=disable", "there twice"),
        (f"postgresql://c4n4ry@h/m?{PROVED}&options=-csynchronous_commit%3Doff", "is none of"),
        (f"postgresql://c4n4ry@h/m?{PROVED}&service=c4n4ry", "is none of"),
        (f"postgresql://c4n4ry@h/m?{PROVED}&hostaddr=192.0.2.1", "is none of"),
        (f"postgresql://c4n4ry@h/m?{PROVED}&passfile=/c4n4ry", "is none of"),
        (f"postgresql://c4n4ry@h/m?{PROVED}&gssencmode=require", "is none of"),
        (f"postgresql://c4n4ry@h/m?{PROVED}&target_session_attrs=any", "is none of"),
        (f"postgresql://c4n4ry@h/m?{PROVED}&sslkey=/k", "or neither"),
        (f"postgresql://c4n4ry@h/m?{PROVED}&host=/run/postgresql", "Unix socket"),
        ("postgresql://c4n4ry@/m?host=db.example.org", "Unix socket"),
        ("postgresql://c4n4ry@h,i/m?" + PROVED, "one host"),
        ("postgresql://c4n4ry@%2Frun/m?" + PROVED, "one host"),
        ("postgresql://c4n4ry:a%00b@h/m?" + PROVED, "control character"),
        ("postgresql://c4n4ry@h/m?sslmode", "NAME=VALUE"),
        ("postgresql://c4n4ry@h/m?sslmode=", "no value"),
    ],
)
def test_what_is_not_proved_or_not_known_is_refused_without_saying_it(url, text):
    with pytest.raises(AddressError, match=text) as refused:
        parse_address(url)
    assert "c4n4ry" not in str(refused.value)


def test_what_is_no_file_of_one_address_is_one_sentence(tmp_path):
    file = tmp_path / "url"
    for data in (b"", b"\xff", b"x" * 9000):
        file.write_bytes(data)
        with pytest.raises(AddressError, match=f"`{file}` holds no database's address: "):
            read_address(file)
    file.write_text(f"postgresql://c4n4ry@h/m?sslmode=verify-full&sslrootcert={tmp_path}/none\n")
    with pytest.raises(AddressError, match="`sslrootcert` cannot be read: no such file"):
        read_address(file)
    with pytest.raises(AddressError, match="cannot be read: is a directory"):
        read_address(tmp_path)
