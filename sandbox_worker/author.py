"""What a plugin's author may ask and give up: the objects behind `plugin_api.permissions` and `plugin_api.context`.

Answers are for the author's convenience and decide nothing: the audit hook and the kernel have rules of their own. In
a process that is no worker (the author's own tests) everything is allowed and nothing is held.
"""

from __future__ import annotations

import _thread
import sys

from sandbox_worker import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    import os
    from pathlib import Path
    from typing import Any, Final

    from sandbox_worker.permissions import Rule

_FILES: Final = ("fs.read", "fs.write")
_NET: Final = ("net.connect", "net.listen")
_LAYERS: Final = {
    "fs.read": "audit_hook",
    "fs.write": "audit_hook",
    "native": "audit_hook",
    "net.connect": "audit_hook",
    "net.listen": "audit_hook",
    "env": "worker",
    "sys": "worker",
}
_EVENTS: Final = 5
_PATIENCE: Final = 100
"""Tries, 10 ms apart, to put a record on a full event pipe, which the host empties each 0.5 s at the latest."""


def _given() -> tuple[dict[str, Any], Any] | None:
    """What boot left for us, None outside a worker."""
    found: tuple[dict[str, Any], Any] | None = getattr(sys.modules["sandbox_worker"], "given", None)
    return found


class Permissions:
    """What this plugin may, as it stands now; made once, as `plugin_api.permissions`. Thread-safe."""

    __slots__ = ("_allow", "_deny", "_drops", "_lock", "_network", "_read", "_write")

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._allow: dict[str, tuple[Rule, ...]] | None = None
        self._deny: dict[str, tuple[Rule, ...]] = {}
        self._read: tuple[str, ...] = ()
        self._write: tuple[str, ...] = ()
        self._network: tuple[Any, ...] | None = None
        self._drops = 0

    def has(self, kind: str, target: str | os.PathLike[str]) -> bool:
        """Whether `target` of `kind` is allowed: a path, `host:port`, or a name; what every worker has, included.

        Always True outside a worker. Raises ValueError for a kind or target that is none.
        """
        from sandbox_worker.permissions import decide, path_verdict

        given = _given()
        text = _text(kind, target)
        if given is None:
            decide(kind, (), (), text)
            return True
        with self._lock:
            allow = self._rules(given[0])
            if kind not in _FILES:
                return decide(kind, allow.get(kind, ()), self._deny.get(kind, ()), text).allowed
            from sandbox_worker.narrower import kept

            reading = kind == "fs.read"
            dropped, implied = (self._read, given[0]["implied"]) if reading else (self._write, ("/dev/null/",))
            table = given[0]["read" if reading else "write"]
            return path_verdict(text, *table) == 1 and kept(text, dropped, implied) == 1

    def list(self) -> tuple[tuple[str, str], ...]:
        """(kind, target) of all that was granted and not dropped, sorted, paths resolved; empty outside a worker."""
        given = _given()
        if given is None:
            return ()
        with self._lock:
            rules = self._rules(given[0])
            return tuple(sorted((rule.kind, rule.text) for found in rules.values() for rule in found))

    def drop(self, kind: str, target: str | os.PathLike[str] | None = None) -> str:
        """Give up `target` of `kind`, or with None all that was granted of it, for good and for every thread.

        Returns the layer that holds it from now on: ``"audit_hook"``; ``"worker"`` for env and sys (removed from
        os.environ, answered neutrally); ``"nothing"`` outside a worker. From the
        worker's next start the host grants it no more, so that files are held by the kernel too. What is open, loaded
        or read already stays so. Dropping what is not granted changes nothing.

        Raises ValueError where it can't be represented (what every worker has, a part of ``native = ["*"]``, a target
        longer than can be reported), OSError where the host did not take the record: then it holds in this worker only.
        """
        from sandbox_worker.permissions import decide, without

        given = _given()
        text = "*" if target is None else _text(kind, target)
        if given is None:
            without((), (), kind, text)
            if text != "*":
                decide(kind, (), (), text)
            return "nothing"
        settings, gate = given
        with self._lock:
            allow = self._rules(settings)
            _refuse_implied(settings, kind, text)
            before = allow.get(kind, ()), self._deny.get(kind, ())
            after = without(*before, kind, text)
            layer = _LAYERS.get(kind, "host")
            if after == before:
                return layer
            record = self._checked(settings, kind, text, widened=after[1] != before[1])
            self._narrow(settings, gate, kind, text, before, after)
            allow[kind], self._deny[kind] = after
            _report(record)
            return layer

    def _rules(self, settings: dict[str, Any]) -> dict[str, tuple[Rule, ...]]:
        """The granted rules by kind, read when they are first asked for."""
        if self._allow is None:
            from sandbox_worker.permissions import parse_rule

            allow: dict[str, tuple[Rule, ...]] = {}
            for rows, found in ((settings["deny"], self._deny), (settings["allow"], allow)):
                for kind, text, private in rows:
                    found[kind] = (*found.get(kind, ()), parse_rule(kind, text, private=private))
            self._allow = allow
        return self._allow

    @staticmethod
    def _checked(settings: dict[str, Any], kind: str, text: str, *, widened: bool) -> bytes:
        """The record for the host; ValueError where the next start could not hold it. `widened`: it takes a deny."""
        from sandbox_worker.messages import DROP, TARGET_LIMIT, event_record

        if kind in _FILES and text != "*":
            implied = settings["implied"] if kind == "fs.read" else ()
            if widened and any(path.startswith(text.rstrip("/") + "/") for path in implied):
                raise ValueError(f"{text} holds what every worker reads: it can't be dropped out of a wider grant")
        if kind == "native" and widened:
            raise ValueError(f'native = ["*"] can only be dropped as a whole, not {text} alone')
        if len(text.encode("utf-8", "backslashreplace")) > TARGET_LIMIT:
            raise ValueError(f"a target of more than {TARGET_LIMIT} bytes can't be reported to the host")
        return event_record(DROP + kind, text, False)

    def _narrow(
        self,
        settings: dict[str, Any],
        gate: Any,
        kind: str,
        text: str,
        before: tuple[tuple[Rule, ...], tuple[Rule, ...]],
        after: tuple[tuple[Rule, ...], tuple[Rule, ...]],
    ) -> None:
        """Hold it in this process."""
        allow = self._rules(settings)
        if kind in _FILES:
            stems = [rule.pattern.stem for rule in before[0]] if text == "*" else [text.rstrip("/") + "/"]
            self._add_hook(settings, gate, kind, tuple(stems))
        elif kind == "native":
            settings["native"] = {rule.text: settings["native"].get(rule.text, ((), ())) for rule in after[0]}
            self._add_hook(settings, gate, kind, ())
        elif kind in _NET:
            left = [after if kind == each else (allow.get(each, ()), self._deny.get(each, ())) for each in _NET]
            self._network = tuple(_rows(rules) for pair in left for rules in pair)
            self._add_hook(settings, gate, kind, ())
        elif kind == "env":
            _forget_variables(after)
        elif kind == "run" and settings["run"]:
            from sandbox_worker import commands

            commands.give_up(text)
        elif kind == "sys":
            self._answer_neutrally(settings, gate, after)

    def _answer_neutrally(
        self, settings: dict[str, Any], gate: Any, after: tuple[tuple[Rule, ...], tuple[Rule, ...]]
    ) -> None:
        from sandbox_worker import facts
        from sandbox_worker.permissions import decide

        names = tuple(name for name in settings["sys"] if decide("sys", *after, name).allowed)
        files = [path for name in set(settings["sys"]) - set(names) for path in settings["facts"][name]]
        granted = self._rules(settings).get("fs.read", ())
        paths = [path for path in files if not decide("fs.read", granted, (), path).allowed]
        settings["sys"] = names
        facts.install(names, settings["pages"], tuple(map(tuple, settings["interfaces"])))
        if paths:
            self._add_hook(settings, gate, "fs.read", tuple(path + "/" for path in paths))

    def _add_hook(self, settings: dict[str, Any], gate: Any, kind: str, prefixes: tuple[str, ...]) -> None:
        """Put a hook behind those that are there, and make sure that it is in: CPython adds silently or not at all."""
        from sandbox_worker import narrower

        if kind == "fs.read":
            self._read += prefixes
        elif kind == "fs.write":
            self._write += prefixes
        if prefixes and kind in _FILES:
            import shutil

            shutil._use_fd_functions = False  # type: ignore[attr-defined]  # the hook can't judge paths behind descriptors
        natives = settings["native"].values()
        hook = narrower.build(
            self._read,
            self._write,
            settings["implied"],
            (*settings["standard"], *(path for paths, _ in natives for path in paths)),
            tuple(module for _, modules in natives for module in modules),
            self._network,
            _EVENTS,
        )
        with gate:
            sys.addaudithook(hook)
        seen: list[int] = []
        sys.audit(narrower.CONFIRM, seen.append)
        self._drops += 1
        if len(seen) < self._drops:
            raise RuntimeError("another audit hook of this process keeps a permission from being dropped")


def _text(kind: str, target: str | os.PathLike[str]) -> str:
    """`target` as the rules take it: a path absolute and resolved. Raises ValueError for what is no target."""
    import os

    text = os.fspath(target)
    if type(text) is not str:
        raise ValueError("a target is a text or a path of texts")
    if kind in _FILES and text != "*":
        return os.path.realpath(text)
    return text


def _rows(rules: tuple[Rule, ...]) -> tuple[tuple[str, bool, tuple[tuple[int, int], ...] | None], ...]:
    """Rules of the network as `audit_network` takes them."""
    return tuple((rule.pattern.stem, rule.pattern.exact, rule.pattern.ports) for rule in rules)


def _refuse_implied(settings: dict[str, Any], kind: str, text: str) -> None:
    """Raise ValueError for what every worker has, whatever was granted."""
    from sandbox_worker.permissions import IMPLIED_ENV

    path = kind == "fs.read" and text != "*" and (text.rstrip("/") + "/").startswith(settings["implied"])
    if path or (kind == "env" and text in IMPLIED_ENV):
        raise ValueError(f"every worker has {kind} of {text}: it can't be dropped")


def _forget_variables(rules: tuple[tuple[Rule, ...], tuple[Rule, ...]]) -> None:
    import os

    from sandbox_worker.permissions import IMPLIED_ENV, decide

    for name in list(os.environ):
        if name not in (*IMPLIED_ENV, "TMPDIR") and not decide("env", *rules, name).allowed:
            del os.environ[name]


def _report(record: bytes) -> None:
    """Tell the host, which reads at the end of the call. Raises OSError where the pipe stays full."""
    import posix
    import time

    errors.raised += 1
    for _ in range(_PATIENCE):
        try:
            posix.write(_EVENTS, record)
        except BlockingIOError:
            time.sleep(0.01)
        else:
            return
    raise OSError("the host did not take the record: what was dropped holds until this worker ends")


class Context:
    """What this plugin is; made once, as `plugin_api.context`. Outside a worker it has stand-ins."""

    __slots__ = ("_logger",)

    def __init__(self) -> None:
        self._logger: logging.Logger | None = None

    @property
    def name(self) -> str:
        """The manifest's name; ``"plugin"`` outside a worker."""
        return str(self._setting("name", "plugin"))

    @property
    def version(self) -> str:
        """The manifest's version; ``"0"`` outside a worker."""
        return str(self._setting("version", "0"))

    @property
    def data(self) -> Path | None:
        """The plugin's private folder that the host keeps, where ``fs.write = ["${data}"]`` is granted; else None."""
        folder = self._setting("data", None)
        if folder is None:
            return None
        from pathlib import Path

        return Path(folder)

    @property
    def logger(self) -> logging.Logger:
        """A logger of the plugin's name. In a worker every logger's records, from INFO on, go to the application's."""
        if self._logger is None:
            import logging

            self._logger = logging.getLogger(self.name)
        return self._logger

    def cancelled(self) -> bool:
        """Whether the application wants the call that runs no more: time to give up, before the worker is ended.

        It looks when it is asked, so ask in loops. False outside a worker.
        """
        server = getattr(sys.modules["sandbox_worker"], "server", None)
        return server is not None and server.cancelled()

    @staticmethod
    def _setting(name: str, outside: str | None) -> Any:
        given = _given()
        return outside if given is None else given[0][name]
