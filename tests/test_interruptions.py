"""Ctrl-C may come at any moment of whatever a host does: the next call is answered, by a new worker where need be.

Python runs a signal's handler between two calls, of which a profile function hears too (sys.setprofile): each of these
moments is tried, one after the other.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest
from until import PATIENCE

import host

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

SOURCE: Final = """
from sandbox_worker.plugin_api import host
@hookimpl
def echo(x): return x
@hookimpl
def ask(): return host.call("double", x=2)
@hookimpl
def count(): yield from range(2)
"""
FOLDER: Final = os.path.dirname(host.__file__) + os.sep
PATIENT: Final = host.RestartPolicy(failures=1000, first_pause=0.001, longest_pause=0.001)


def interrupted(action: Callable[[], object], moment: int) -> bool:
    """Do `action`, with Ctrl-C at its `moment`, from 1 on; whether it had so many."""
    count = 0

    def profile(frame: FrameType, event: str, _arg: object) -> None:
        nonlocal count
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(FOLDER):
            count += 1
            if count == moment:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        action()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return count >= moment


def answered(plugin: Any) -> object:
    """What another thread is answered: it knows nothing of a turn that this one may have kept."""
    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(plugin.call("echo", x=7))
        except Exception as e:
            answers.append(e)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answers[0] if answers else "nothing: it hangs"


@pytest.mark.parametrize(
    ("action", "step"),
    [
        (lambda plugin: plugin.call("echo", x=1), 1),
        (lambda plugin: plugin.call("ask"), 2),
        (lambda plugin: list(plugin.stream("count")), 1),
        (lambda plugin: plugin.ping(), 1),
    ],
    ids=["call", "ask", "stream", "ping"],
)
def test_a_plugin_answers_after_ctrl_c_at_any_moment(
    plugin_from: Any, action: Callable[[Any], object], step: int
) -> None:
    plugin = plugin_from(SOURCE, permissions={"host": ["double"]}, restart_policy=PATIENT)
    plugin._owner.function("double")(lambda x: 2 * x)
    moment = 1
    while interrupted(lambda: action(plugin), moment):
        assert (moment, answered(plugin), plugin.call("echo", x=8)) == (moment, 7, 8)
        moment += step
    assert moment > step
