"""An attacker in a real worker: runs a test's code inside the walls, and what it did is judged outside.

Native code is stood in for by what goes around the audit hook: calls that raise no event, and C libraries that open
files themselves. The same walls without any hook are tested in tests/test_walls_lockdown.py.
"""

from __future__ import annotations

import secrets
import textwrap
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Plugins

    import host

SOURCE: Final = """
@hookimpl
def attempt(code, names):
    scope = dict(names)
    try:
        exec(compile(code, "<attempt>", "exec"), scope)
    except BaseException as e:
        return [type(e).__name__, str(getattr(e, "permission", "")), getattr(e, "errno", 0) or 0, repr(e)]
    return scope.get("result")
"""


class Attacker:
    """A plugin that runs any code."""

    def __init__(self, plugin: host.SandboxedPlugin) -> None:
        self.plugin: Final = plugin

    def run(self, code: str, **names: Any) -> Any:
        """What the code leaves in `result`; the code sees `names`. Fails the test when the code raises."""
        outcome = self.attempt(code, **names)
        assert not is_failure(outcome), outcome[3]
        return outcome

    def attempt(self, code: str, **names: Any) -> Any:
        """What the code leaves in `result`, or [class, permission, errno, text] of what it raised."""
        plain = {name: value if isinstance(value, int | list) else str(value) for name, value in names.items()}
        return self.plugin.call("attempt", code=textwrap.dedent(code), names=plain)

    def is_stopped(self, code: str, **names: Any) -> bool:
        """Whether the code raises."""
        return is_failure(self.attempt(code, **names))

    def is_denied(self, code: str, **names: Any) -> bool:
        """Whether the code raises PermissionDenied, which names the permission."""
        outcome = self.attempt(code, **names)
        return is_failure(outcome) and bool(outcome[1])

    def reason(self, code: str, **names: Any) -> tuple[str, str, int]:
        """(class, permission, errno) of what the code raises; fails the test when it raises nothing."""
        outcome = self.attempt(code, **names)
        assert is_failure(outcome), outcome
        return outcome[0], outcome[1], outcome[2]


def is_failure(outcome: object) -> bool:
    """Whether an outcome is what a failed attempt gives: no attempt of ours leaves such a list as its result."""
    return isinstance(outcome, list) and [type(item) for item in outcome] == [str, str, int, str]


@pytest.fixture
def attacker(plugin_from: Plugins, must_work: Any) -> Any:
    """``attacker(**options of plugin_from)``: an attacker in a worker of its own, `confined` unless told otherwise.

    Its calls have time enough for a machine with much to do: that they end is what other tests promise.
    """

    def start(**options: Any) -> Attacker:
        limits = {"call_timeout": "50 s"} | dict(options.pop("limits", {}))
        plugin = plugin_from(SOURCE, limits=limits, **options)
        if "tier" not in options:
            must_work(plugin.tier in ("confined", "walled"), "Landlock and seccomp")
        return Attacker(plugin)

    return start


@pytest.fixture
def secret() -> str:
    """A text that is nowhere else."""
    return f"secret {secrets.token_hex(16)}"


@pytest.fixture
def places(tmp_path: Path, secret: str) -> Path:
    """``granted`` holds a harmless file, ``outside`` the secret; tests grant what they say."""
    for folder in ("granted", "outside"):
        (tmp_path / folder).mkdir()
    (tmp_path / "granted" / "open.txt").write_text("harmless")
    (tmp_path / "outside" / "secret.txt").write_text(secret)
    return tmp_path
