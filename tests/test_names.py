"""Names of variables, functions, system facts and packages: what is legal, and what a wildcard covers."""

import pytest

from sandbox_worker import _names
from sandbox_worker._names import SYS_NAMES


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("env", ""),
        ("env", "A=B"),
        ("env", "A B"),
        ("env", " LANG"),
        ("env", "A**"),
        ("env", "*_A"),
        ("env", "A*B"),
        ("env", "T_*_*"),
        ("host", ""),
        ("host", "storage."),
        ("host", ".get"),
        ("host", "storage..get"),
        ("host", "storage*"),
        ("host", "*.get"),
        ("host", "a.*.b"),
        ("host", ".*"),
        ("host", "storage.2"),
        ("host", "stor age.get"),
        ("sys", ""),
        ("sys", "Hostname"),
        ("sys", "host*"),
        ("sys", "homedir"),
        ("native", ""),
        ("native", "num*"),
        ("native", "-numpy"),
        ("native", "numpy."),
        ("native", "a/b"),
        ("native", "nümpy"),
        ("native", "_"),
    ],
)
def test_an_illegal_rule_is_refused(kind, text):
    with pytest.raises(ValueError, match=r"\w"):
        _names.parse_rule(kind, text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("env", ""), ("env", "A=B"), ("env", "A\0"), ("host", "a..b"), ("host", "a.*"), ("sys", "sys"), ("native", "*")],
)
def test_an_illegal_request_is_refused(kind, text):
    with pytest.raises(ValueError, match=r"\w"):
        _names.parse_request(kind, text)


@pytest.mark.parametrize(
    ("kind", "rule", "covered", "others"),
    [
        ("env", "LANG", ["LANG"], ["LANGUAGE", "lang", "LAN"]),
        ("env", "MYAPP_*", ["MYAPP_", "MYAPP_A", "MYAPP_*"], ["MYAPP", "myapp_a", "XMYAPP_A"]),
        ("env", "*", ["A", "*", "a b"], []),
        ("host", "storage.get", ["storage.get"], ["storage.get.all", "storage", "Storage.get"]),
        ("host", "storage.*", ["storage.get", "storage.get.all"], ["storage", "storages.get"]),
        ("host", "*", ["ping", "storage.get"], []),
        ("sys", "cpus", ["cpus"], ["uid"]),
        ("sys", "*", list(SYS_NAMES), []),
        ("native", "numpy", ["numpy"], ["numpy.core", "Numpy", "num"]),
        ("native", "_cffi_backend", ["_cffi_backend"], ["cffi"]),
        ("native", "*", ["numpy", "ruamel.yaml", "scikit-learn"], []),
    ],
)
def test_a_rule_covers_its_names_and_no_others(kind, rule, covered, others):
    pattern = _names.parse_rule(kind, rule)
    assert [name for name in covered + others if pattern.matches(_names.parse_request(kind, name))] == covered


@pytest.mark.parametrize("kind", ["env", "host", "sys", "native"])
def test_a_refusal_says_what_is_legal(kind):
    with pytest.raises(ValueError, match=r"name|one of"):
        _names.parse_rule(kind, "")
