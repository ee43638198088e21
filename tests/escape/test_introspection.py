"""A plugin that takes Python apart finds nothing that opens a door: whatever it rewrites, the grant stays the grant."""

from __future__ import annotations

import contextlib
import textwrap
from typing import TYPE_CHECKING, Any, Final

import pytest

import host

if TYPE_CHECKING:
    from pathlib import Path

TIERS: Final = ["confined", "hooked"]

REFUSED: Final = {
    "objects of the collector": "import gc; gc.get_objects()",
    "referrers": "import gc; gc.get_referrers(open)",
    "referents": "import gc; gc.get_referents(open)",
    "frames of all threads": "import sys; sys._current_frames()",
    "exceptions of all threads": "import sys; sys._current_exceptions()",
    "tracing": "import sys; sys.settrace(print)",
    "profiling": "import sys; sys.setprofile(print)",
    "tracing of threads": "import sys, threading; threading.settrace_all_threads(print); assert sys.gettrace()",
    "monitoring": "import sys; sys.monitoring.register_callback(0, 1, print)",
    "the debugger": "breakpoint()",
    "raising its own limits": "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (9, 9))",
    "a signal to a thread": "import signal, threading; signal.pthread_kill(threading.get_ident(), 9)",
    "a signal handler": "import signal; signal.signal(signal.SIGTERM, print)",
}


def test_looking_into_the_interpreter_is_refused(attacker: Any) -> None:
    worker = attacker()
    for way, code in REFUSED.items():
        assert worker.is_stopped(code), way


def test_a_hook_of_the_plugins_own_is_not_added(attacker: Any) -> None:
    """`sys.addaudithook` fails silently when a hook refuses it (PEP 578): what counts is that it never runs."""
    code = "import sys; seen = []; sys.addaudithook(lambda *event: seen.append(event)); id(seen); result = len(seen)"
    outcome = attacker().attempt(code)
    assert outcome == 0 or isinstance(outcome, list)


PREPARATIONS: Final = {
    "nothing": "",
    "builtins replaced": """
        import builtins
        for name in ("str", "type", "len", "bytes", "int", "tuple", "isinstance", "PermissionError", "OSError"):
            setattr(builtins, name, lambda *a, **k: "/")
    """,
    "builtins emptied": "for name in list(vars(__import__('builtins'))): delattr(__import__('builtins'), name)",
    "posix replaced": """
        import posix, os
        for module in (posix, os):
            for name in ("lstat", "readlink", "getcwd", "write"):
                setattr(module, name, lambda *a, **k: "/")
    """,
    "our own modules replaced": """
        import sys
        for name, module in list(sys.modules.items()):
            if name.startswith("sandbox_worker"):
                for key in list(vars(module)):
                    if not key.startswith("__"):
                        setattr(module, key, lambda *a, **k: 1)
    """,
    "our own modules forgotten": """
        import sys
        for name in list(sys.modules):
            if name.startswith("sandbox_worker"):
                del sys.modules[name]
    """,
    "our functions rewritten": """
        import sys
        for name, module in list(sys.modules.items()):
            if name.startswith("sandbox_worker"):
                for value in list(vars(module).values()):
                    if hasattr(value, "__code__"):
                        try:
                            value.__code__ = (lambda *a, **k: 1).__code__
                        except Exception:
                            pass
    """,
    "the errors rewritten": """
        from sandbox_worker import errors
        for kind in (errors.PermissionDenied, errors.InterpreterDenied, errors.ImportDenied):
            kind.__new__ = lambda *a, **k: None
            kind.__init__ = lambda *a, **k: None
    """,
    "what the frames of a refusal show": """
        import sys
        parts = set()
        def collect(value, depth=0):
            if depth < 6 and hasattr(value, "__defaults__") and value not in parts:
                parts.add(value)
                for inner in value.__defaults__ or ():
                    collect(inner, depth + 1)
        try:
            open(path)
        except PermissionError as e:
            tb = e.__traceback__
            while tb:
                for value in list(tb.tb_frame.f_locals.values()):
                    collect(value)
                frame, tb = tb.tb_frame, tb.tb_next
                if frame.f_code.co_filename.endswith("audit_hook.py"):
                    frame.f_globals.update(__builtins__={}, refuse=print, verdict=lambda *a: 1)
        found = [part for part in parts if part.__module__ is None or "audit" in part.__code__.co_filename]
        for part in found:
            code = (lambda *a, **k: 1).__code__
            for name, value in (("__code__", code), ("__defaults__", ()), ("__kwdefaults__", {})):
                try:
                    setattr(part, name, value)
                except Exception:
                    pass
            part.__globals__["verdict"] = lambda *a: 1
            try:
                del part.__defaults__
            except Exception:
                pass
    """,
    "the settings in the frames below": """
        import sys
        frame = sys._getframe()
        while frame:
            for value in list(frame.f_locals.values()):
                if type(value) is dict and "read" in value:
                    value.update(read=(("/",), ("/",), ()), write=(("/",), ("/",), ()), tier="hooked")
            frame = frame.f_back
    """,
    "deep in the stack": """
        import sys
        sys.setrecursionlimit(200)
        def deep():
            global result
            try:
                result = open(path).read()
            except BaseException:
                pass
            deep()
        try:
            deep()
        except RecursionError:
            pass
        sys.setrecursionlimit(1000)
    """,
    "inside a gc callback": """
        import gc
        def callback(*_):
            global result
            try:
                result = open(path).read()
            except BaseException:
                pass
        gc.callbacks.append(callback)
        gc.set_threshold(1)
        for _ in range(50):
            try:
                open(path)
            except BaseException:
                pass
        gc.callbacks.clear()
        gc.set_threshold(700)
    """,
    "inside a finaliser": """
        class F:
            def __del__(self):
                global result
                result = open(path).read()
        def leave():
            f = F()
        leave()
    """,
    "from a new copy of a built-in module": """
        import _imp, importlib.machinery as m
        for name in ("posix", "_io"):
            module = _imp.create_builtin(m.ModuleSpec(name, None))
            opened = module.open(path, 0) if name == "posix" else module.open(path)
    """,
    "made-up bytecode": """
        import marshal, types
        code = compile("global result\\nresult = open(path).read()", "x", "exec")
        types.FunctionType(marshal.loads(marshal.dumps(code)).replace(co_name="y"), globals())()
    """,
    "a subclass of str that lies": """
        class Lie(str):
            def startswith(self, *a): return True
            def __getitem__(self, k): return "/dev/null"
            def __eq__(self, other): return True
            __hash__ = str.__hash__
        result = open(Lie(path)).read()
    """,
    "a path that answers twice": """
        import io
        class Lie:
            answers = ["/dev/null", "/dev/null"]
            def __fspath__(self): return self.answers.pop() if self.answers else path
        result = io.FileIO(Lie()).read().decode()
    """,
}

THEN: Final = """
try:
    result
except BaseException:
    pass
if "result" not in globals():
    result = open(path).read()
"""


@pytest.mark.parametrize("tier", TIERS)
def test_a_refused_file_stays_refused(attacker: Any, places: Path, secret: str, tier: str) -> None:
    """Whatever was done to the interpreter first; some of it only breaks the worker, and then that is what happens."""
    worker = attacker(tier=tier, minimum_tier="hooked", limits={"call_timeout": "2 s"})
    for way, code in PREPARATIONS.items():
        guarded = f"try:\n{textwrap.indent(textwrap.dedent(code) or 'pass', '    ')}\nexcept Exception: pass\n"
        outcome: object = None
        with contextlib.suppress(host.WorkerError, host.PluginError):
            outcome = worker.attempt(guarded + THEN, path=places / "outside" / "secret.txt")
        assert secret not in str(outcome), way
        assert secret not in str(worker.plugin.logs()), way
        worker.plugin.restart()


def test_control_the_same_code_reads_a_granted_file(attacker: Any, places: Path, secret: str) -> None:
    worker = attacker(permissions={"fs.read": [places / "outside"]})
    path = places / "outside" / "secret.txt"
    assert worker.run(THEN, path=path) == secret
    assert worker.run(PREPARATIONS["made-up bytecode"], path=path) == secret


ENDINGS: Final = {
    "at exit": "import atexit; atexit.register(steal)",
    "in a thread that is left": "import threading; threading.Thread(target=steal, daemon=True).start()",
    "in a codec": "import codecs; codecs.register(type('S', (), {'__call__': print, '__del__': lambda s: steal()})())",
    "in a module's end": "import sys; sys.leave = type('S', (), {'__del__': lambda s: steal()})()",
}


@pytest.mark.parametrize("tier", TIERS)
def test_nothing_runs_without_the_hook_when_the_interpreter_ends(
    attacker: Any, places: Path, secret: str, tier: str
) -> None:
    """Finalisers would run after the hooks are gone; a worker ends without them."""
    code = "def steal():\n    data = open(path).read()\n    open(target, 'w').write(data)\n"
    grant = [places / "granted"]
    for number, (way, ending) in enumerate(ENDINGS.items()):
        worker = attacker(permissions={"fs.read": grant, "fs.write": grant}, tier=tier, minimum_tier="hooked")
        target = places / "granted" / f"stolen-{number}"
        worker.attempt(code + ending, path=places / "outside" / "secret.txt", target=target)
        worker.plugin.close()
        assert not target.exists() or secret not in target.read_text(), way
