"""Promises of the worker's errors: what the contract says of a denial, and hints that never suggest what can't work."""

from __future__ import annotations

import errno
import pickle
import tomllib
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_worker import errors
from sandbox_worker.errors import ImportDenied, InterpreterDenied, PermissionDenied, Unsendable, WireError

KINDS: Final = [PermissionDenied, InterpreterDenied, ImportDenied]


@pytest.mark.parametrize("kind", KINDS)
def test_a_denial_has_the_fields_of_the_contract(kind: type[PermissionDenied | ImportDenied]) -> None:
    error = kind("fs.read", "/etc/passwd")
    assert error.errno == errno.EACCES
    assert (error.permission, error.target, error.reason) == ("fs.read", "/etc/passwd", "no-rule")
    assert error.code == "ERR_ACCESS_DENIED"
    assert error.hint == 'fs.read = ["/etc/passwd"]'


def test_denials_are_what_ordinary_code_expects() -> None:
    assert issubclass(PermissionDenied, PermissionError)
    assert issubclass(InterpreterDenied, ValueError)
    assert issubclass(ImportDenied, ModuleNotFoundError)
    assert not issubclass(ImportDenied, PermissionError)


def test_the_text_says_what_which_layer_which_rule_and_what_to_do() -> None:
    text = str(PermissionDenied("fs.read", "/etc/passwd"))
    assert text == (
        "fs.read of '/etc/passwd' refused by the audit hook: no rule of the manifest allows it"
        ' (fs.read = ["/etc/passwd"])'
    )


def test_against_a_deny_rule_no_line_is_suggested() -> None:
    error = PermissionDenied("fs.read", "/etc/passwd", errors.DENY_RULE)
    assert "deny rule always wins" in error.hint
    assert "=" not in error.hint


@pytest.mark.parametrize("kind", ["run", "interpreter"])
def test_what_no_manifest_can_request_is_not_suggested(kind: str) -> None:
    assert "=" not in PermissionDenied(kind, "x").hint


def test_a_function_that_is_granted_and_not_offered_is_the_applications_affair() -> None:
    error = PermissionDenied("host", "storage.get", errors.NOT_OFFERED)
    assert "refused by the host: the application offers no such function" in str(error)
    assert "=" not in error.hint


@given(st.text(max_size=60))
def test_a_suggested_line_is_toml_that_names_the_target(name: str) -> None:
    hint = PermissionDenied("fs.read", "/srv/" + name.replace("/", "")).hint
    if hint.startswith("fs.read = "):
        [target] = tomllib.loads(hint)["fs"]["read"]
        assert target.startswith("/srv")


def test_an_fs_denial_names_its_file_and_others_name_none() -> None:
    assert PermissionDenied("fs.write", "/x").filename == "/x"
    assert PermissionDenied("run", "/bin/ls").filename is None


@pytest.mark.parametrize("kind", KINDS)
def test_each_denial_is_counted_once(kind: type[PermissionDenied | ImportDenied]) -> None:
    before = errors.raised
    kind("native", "x")
    assert errors.raised == before + 1


def test_a_missing_module_is_named_as_python_names_it() -> None:
    assert ImportDenied("native", "ctypes").name == "ctypes"


def test_what_cannot_cross_says_where_and_what_type() -> None:
    error = Unsendable("rows[3]['when']", "datetime.date")
    assert isinstance(error, TypeError)
    assert str(error) == "rows[3]['when'] is of type datetime.date, which can't cross the wire"


def test_a_wire_error_is_a_value_error() -> None:
    assert issubclass(WireError, ValueError)


def test_the_module_needs_no_import_to_be_read_again() -> None:
    assert pickle.loads(pickle.dumps(WireError("x"))).args == ("x",)
