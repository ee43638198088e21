"""Promises of a start: what can't serve as a plugin is a PluginStartError that says why, and nothing is left of it."""

from __future__ import annotations

from typing import Any, Final

import pytest

import host

HOOK: Final = "\n@hookimpl\ndef fine(): return 1\n"


def start_error(plugin_from: Any, source: str, **options: Any) -> host.PluginStartError:
    with pytest.raises(host.PluginStartError) as caught:
        plugin_from(source, **options)
    error: host.PluginStartError = caught.value
    assert error.plugin == "plugin-1"
    assert "plugin-1" in str(error)
    return error


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("def helper(): raise LookupError('the reason')\nhelper()", "in helper\n"),
        ("import nothing_like_this", "No module named 'nothing_like_this'"),
        ("x = (", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("open('/etc/hostname')", "fs.read of '/etc/hostname' refused"),
        ("raise ValueError('\\udc80')", "ValueError"),
    ],
)
def test_a_module_that_cannot_be_imported_comes_with_its_own_traceback(
    plugin_from: Any, source: str, text: str
) -> None:
    error = start_error(plugin_from, source)
    assert text in str(error)
    assert "could not be imported" in str(error)


def test_a_traceback_is_bounded(plugin_from: Any) -> None:
    error = start_error(plugin_from, "raise ValueError('x' * 1000000)")
    assert len(str(error)) < 20_000


def test_a_module_without_hooks_cannot_serve(plugin_from: Any) -> None:
    error = start_error(plugin_from, "x = 1")
    assert "HookimplMarker('tests')" in str(error)


@pytest.mark.parametrize("entry", ["plugin:absent", "absent", "plugin:object_.absent"])
def test_an_entry_that_is_not_there_cannot_serve(plugin_from: Any, entry: str) -> None:
    start_error(plugin_from, "object_ = object()" + HOOK, plugin={"entry": entry})


def test_a_function_that_is_not_there_or_none_cannot_serve(plugin_from: Any) -> None:
    start_error(plugin_from, "number = 3", functions={"fine": "plugin:number"})


@pytest.mark.parametrize("name", ["class", "None", "two words", "a-b", "", "ünicode", "_private", "__init__"])
def test_a_hook_whose_name_is_no_plain_public_identifier_cannot_serve(plugin_from: Any, name: str) -> None:
    source = f"import sys\nsetattr(sys.modules[__name__], {name!r}, hookimpl(lambda: 1))" + HOOK
    error = start_error(plugin_from, source)
    assert "Traceback" not in str(error)


@pytest.mark.parametrize("name", sorted(n for n in dir(host.SandboxedPlugin) if not n.startswith("_")))
def test_a_hook_with_a_public_name_of_a_plugin_cannot_serve(plugin_from: Any, name: str) -> None:
    assert name in str(start_error(plugin_from, f"@hookimpl\ndef {name}(): pass"))


@pytest.mark.parametrize("options", ["wrapper=True", "hookwrapper=True"])
def test_a_hook_wrapper_cannot_serve_yet(plugin_from: Any, options: str) -> None:
    error = start_error(plugin_from, f"@hookimpl({options})\ndef fine(): yield")
    assert "wrapper" in str(error)


def test_a_parameter_whose_name_is_none_is_refused(plugin_from: Any) -> None:
    source = "def f(a): pass\nf.__code__ = f.__code__.replace(co_varnames=('a b',))\nfine = hookimpl(f)"
    start_error(plugin_from, source)


def test_a_specname_that_is_none_is_refused(plugin_from: Any) -> None:
    start_error(plugin_from, "@hookimpl(specname='x; import os')\ndef fine(): pass")


def test_after_a_failed_start_others_can_start(plugin_from: Any) -> None:
    owner = plugin_from.host()
    for _ in range(3):
        with pytest.raises(host.PluginStartError):
            plugin_from("raise ValueError", into=owner)
    assert plugin_from(HOOK, into=owner).call("fine") == 1


def test_what_it_printed_before_it_failed_is_in_the_error(plugin_from: Any) -> None:
    error = start_error(plugin_from, "import os\nprint('last \\x1b words', flush=True)\nos._exit(9)")
    assert (error.exit_code, error.stderr_tail) == (9, "last \\x1b words")
    assert "last \\x1b words" in str(error)
