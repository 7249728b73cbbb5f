"""What OPA answers, or dies of, and we refuse on purpose: each is an error, which denies, and is named in a docstring."""

import pytest

from pdp.engine.builtins import BUILTINS, BuiltinError
from pdp.engine.builtins.values import Number, RegoObject, Value

ALL = Number("-1")


def _operation(name: str, path: str, **members: Value) -> RegoObject:
    return RegoObject({"op": name, "path": path, **members})


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("hex.decode", ("ff",), "not UTF-8"),
        ("urlquery.decode", ("%ff",), "not UTF-8"),
        ("urlquery.decode_object", ("%ff=1",), "not UTF-8"),
        ("uri.parse", ("/%ff",), "not UTF-8"),
        ("semver.compare", ("1.0.0-9999999999999999999", "1.0.0-9999999999999999998"), "more than 63 bits"),
        ("semver.compare", ("1.0.0-" + "1." * 5000 + "1", "1.0.0"), "too long"),
        ("time.parse_duration_ns", ("0h" * 600,), "longer than any"),
        ("time.date", ((Number("0"), "a/" * 200 + "a"),), "time zone is too long"),
        ("net.cidr_is_valid", ("10.0.0.0/" + "0" * 50 + "8",), "too many zeros"),
        ("units.parse", ("1e5000",), "too many digits"),
        ("units.parse_bytes", ("1e5000k",), "too many digits"),
        ("net.cidr_expand", ("10.0.0.0/17",), "16384"),
        ("net.cidr_merge", (("1::1:0:0:1/128", "1::1:0:0:2/128"),), "OPA fails"),
        ("json.patch", (RegoObject(), (_operation("remove", ""),)), "taken away"),
        (
            "json.patch",
            (RegoObject(), (_operation("replace", "", value=RegoObject()), _operation("add", "/a", value=True))),
            "OPA fails",
        ),
        ("regex.find_n", (r"\C", "a", ALL), "Go does not know"),
        ("regex.find_n", ("(?P<\u00e9>a)", "a", ALL), "ASCII"),
        ("regex.find_n", (r"\p{Letter}", "a", ALL), "not a regular expression"),
        ("regex.find_n", (r"\pL", "\U0001cc00", ALL), "edition"),
        ("regex.find_n", ("(?i)\u0390", "\u1fd3", ALL), "edition"),
        ("regex.find_n", ("(" * 201 + ")" * 201, "", ALL), "200 groups"),
    ],
)
def test_what_cannot_be_as_in_opa_is_an_error(name: str, arguments: tuple[Value, ...], reason: str):
    with pytest.raises(BuiltinError, match=reason):
        BUILTINS[name].function(*arguments)
