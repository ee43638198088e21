"""What the demo's plugins try, and what must come of it. Pure: `demo` runs it."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
from typing import TYPE_CHECKING, Any, Final

from host.cli import native
from host.errors import PermissionDenied, PluginCrashed, PluginError, PluginTimeout, ResourceLimitExceeded

if TYPE_CHECKING:
    from collections.abc import Callable

    Outcome = Callable[[Any], str]
    """From a result or an exception to what it shows, in words; "" where it is not what must come."""

ROWS: Final = 3322
"""Rows of the example data set, `plugins_example/csv_stats/data`."""

_MARKDOWN: Final = "# Report\n\nAll *well*. <script>alert(1)</script>"
_ANYONES: Final = "/etc/passwd"  # a file that anyone may read: only the sandbox refuses


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """Where the demo plays: `examples` holds `plugins_example`, `folder` is writable and private, `data` in it is the
    plugins' data folder, `port` is a listener of the host's that nobody may reach, `pid` the host."""

    examples: str
    folder: str
    data: str
    port: int
    pid: int

    @property
    def marker(self) -> str:
        """A file that exists once a plugin could write where it may not, or run a program."""
        return os.path.join(self.folder, "escaped")


@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
    """One call of `hook`: what `plugin` tries in words, what came of it (`judge`), what is to stop it (`layer`)."""

    plugin: str
    hook: str
    arguments: dict[str, Any]
    tries: str
    judge: Outcome
    layer: str = ""


def scenarios(stage: Stage) -> tuple[Scenario, ...]:
    """The whole play: first the plugins that work, then those that don't."""
    return (*_good(stage), *_hostile(stage), *_broken())


def _good(stage: Stage) -> tuple[Scenario, ...]:
    plugins = os.path.join(stage.examples, "plugins_example")
    log = os.path.join(plugins, "log_redactor", "logs", "shop.log")
    clean = os.path.join(stage.data, "log-redactor", "shop.log")
    planes = os.path.join(plugins, "csv_stats", "data", "planes.csv")
    texts = os.path.join(plugins, "text_search", "documents")
    return (
        Scenario("csv-stats", "column_stats", {"path": planes}, "describe a CSV file", _statistics),
        Scenario("markdown-html", "render", {"text": _MARKDOWN}, "turn Markdown into HTML", _html),
        Scenario("log-redactor", "redact_file", {"source": log, "target": clean}, "clean a log", _cleaned),
        Scenario("text-search", "search", {"folder": texts, "pattern": "better than"}, "search documents", _found),
        Scenario("slugify", "slugify", {"text": "Größe & Maß"}, "make a title for a URL", _equal("grosse-mass")),
    )


def _hostile(stage: Stage) -> tuple[Scenario, ...]:
    keys = [os.path.expanduser("~/.ssh/id_rsa"), "/etc/shadow", f"/proc/{stage.pid}/environ"]
    send = {"host": "127.0.0.1", "port": stage.port, "data": "secret"}
    plant = {"path": stage.marker, "text": "x"}
    touch = f"touch {stage.marker}"
    denied, hook = _denied, "audit_hook"
    return (
        Scenario("snooper", "snoop", {"paths": keys}, "find keys, by five ways", _nothing, hook),
        Scenario("snooper", "grab", {"path": _ANYONES}, f"read {_ANYONES}", denied("fs.read", _ANYONES), hook),
        Scenario("snooper", "plant", plant, "write outside its grant", denied("fs.write", stage.marker), hook),
        Scenario(native.NAME, native.HOOK, {"path": _ANYONES}, "read it natively", _by_kernel, "landlock"),
        Scenario("exfiltrator", "exfiltrate", send, "send data to a listener", denied("net.connect"), hook),
        Scenario("exfiltrator", "whisper", {"domain": "example.com", "data": "x"}, "hide data in a DNS name",
                 denied("net.connect"), hook),
        Scenario("shell-runner", "run_command", {"command": touch}, "run a shell", denied("run"), hook),
        Scenario("shell-runner", "run_command", {"command": touch, "way": "library"}, "run it through ctypes",
                 denied("native"), hook),
        Scenario("liar", "complain", {"text": "x"}, "send escapes to the terminal", _escaped, "sanitiser"),
        Scenario("liar", "leave", {"status": 0}, "exit the application", _stayed, "own process"),
    )  # fmt: skip


def _broken() -> tuple[Scenario, ...]:
    return (
        Scenario("crasher", "crash", {"how": "segfault"}, "crash", _crashed, "own process"),
        Scenario("sleeper", "sleep_for", {"seconds": 60.0}, "hang for a minute", _late, "call_timeout"),
        Scenario("hog", "eat", {"mebibytes": 512}, "eat 512 MiB of memory", _capped, "limit memory"),
    )


def _statistics(result: Any) -> str:
    match result:
        case {"seats": {"count": count, "missing": missing}} if count + missing == ROWS:
            return f"{ROWS:,} rows, {len(result)} columns"
    return ""


def _html(result: Any) -> str:
    return "HTML, its script escaped" if isinstance(result, str) and "&lt;script&gt;" in result else ""


def _cleaned(result: Any) -> str:
    match result:
        case {"lines": lines, "changed": changed} if changed:
            return f"{changed} of {lines} lines cleaned"
    return ""


def _found(result: Any) -> str:
    return f"{len(result)} lines found" if isinstance(result, list) and result else ""


def _equal(wanted: object) -> Outcome:
    return lambda result: str(wanted) if result == wanted else ""


def _nothing(result: Any) -> str:
    return "found nothing" if result == {} else ""


def _denied(permission: str, target: str | None = None) -> Outcome:
    def judge(error: Any) -> str:
        right = isinstance(error, PermissionDenied) and (error.permission, error.layer) == (permission, "audit_hook")
        return f"refused {permission}" if right and target in (None, error.target) else ""

    return judge


def _by_kernel(error: Any) -> str:
    """Without the right to it, or, in tier walled, without the file."""
    right = isinstance(error, OSError) and error.errno in (errno.EACCES, errno.ENOENT)
    return f"refused by the kernel: {errno.errorcode[error.errno]}" if right else ""


def _escaped(error: Any) -> str:
    return "a ValueError, escapes visible" if isinstance(error, ValueError) and str(error).isprintable() else ""


def _stayed(error: Any) -> str:
    return "an error, nobody exits" if isinstance(error, PluginError) and error.remote_type == "SystemExit" else ""


def _crashed(error: Any) -> str:
    return "its worker died of SIGSEGV" if isinstance(error, PluginCrashed) and error.signal == signal.SIGSEGV else ""


def _late(error: Any) -> str:
    return "killed at its deadline" if isinstance(error, PluginTimeout) else ""


def _capped(error: Any) -> str:
    return "ended at its limit" if isinstance(error, ResourceLimitExceeded) and error.limit == "memory" else ""
