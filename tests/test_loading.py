"""What is to be done to a module once it is loaded is done once, and leaves no trace of how."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import pytest

from sandbox_worker._loading import after_loading

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that nobody has imported."""
    (tmp_path / "not_loaded_yet.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "not_loaded_yet", raising=False)
    return "not_loaded_yet"


def test_actions_follow_the_modules_own_code_each_once_and_in_order(name: str) -> None:
    before, seen = list(sys.meta_path), []
    after_loading(name, lambda module: seen.append(("first", module.value)))
    after_loading(name, lambda module: seen.append(("second", module.value)))
    module = importlib.import_module(name)
    importlib.import_module(name)
    assert seen == [("first", 1), ("second", 1)]
    assert sys.meta_path == before
    assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__ == "SourceFileLoader"


def test_a_module_that_is_loaded_already_is_acted_on_at_once(name: str) -> None:
    module, seen = importlib.import_module(name), []
    after_loading(name, seen.append)
    assert seen == [module]


def test_a_module_of_a_package_is_acted_on_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "json.tool", raising=False)
    seen: list[str] = []
    after_loading("json.tool", lambda module: seen.append(module.__name__))
    importlib.import_module("json.tool")
    assert seen == ["json.tool"]


def test_a_module_that_is_not_there_is_not_found_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    after_loading("no_such_module_anywhere", lambda module: pytest.fail("loaded"))
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_module_anywhere")
