"""What the standard library takes for granted holds in a worker, where no promise stands against it."""

from __future__ import annotations

import sys
from typing import Any, Final

import pytest

from sandbox_worker._library import _forget_unreadable

SOURCE: Final = """
import asyncio, sys, threading

@hookimpl
def kinds():
    import mimetypes
    return [mimetypes.knownfiles, mimetypes.guess_type("page.html")[0]]

@hookimpl
def loops():
    import warnings
    warnings.simplefilter("ignore")
    def elsewhere():
        try:
            asyncio.get_event_loop()
        except RuntimeError:
            found.append("none")
    found = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    loop = asyncio.get_event_loop()
    try:
        return found + [loop is asyncio.get_event_loop(), loop.run_until_complete(asyncio.sleep(0, "ran"))]
    finally:
        loop.close()

@hookimpl
def task():
    async def wait():
        await asyncio.Event().wait()
    async def main():
        started = asyncio.create_task(wait())
        await asyncio.sleep(0)
        return [repr(started), len(started.get_stack())]
    return asyncio.run(main())
"""


def test_kinds_of_files_are_guessed_without_the_machines_own_table(plugin_from: Any) -> None:
    assert plugin_from(SOURCE, tier="confined").call("kinds") == [[], "text/html"]


def test_a_table_of_kinds_that_is_granted_is_read() -> None:
    files = ["/etc/mime.types", "/etc/httpd/mime.types", "/srv/mime.types"]
    _forget_unreadable(files, (("/etc/",), (), ("/etc/httpd/",)))
    assert files == ["/etc/mime.types"]


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="asyncio makes no loop unasked")
def test_the_plugins_own_thread_gets_an_event_loop_unasked_and_no_other_does(plugin_from: Any) -> None:
    assert plugin_from(SOURCE).call("loops") == ["none", True, "ran"]


def test_a_task_can_be_shown_while_it_waits(plugin_from: Any) -> None:
    shown, frames = plugin_from(SOURCE).call("task")
    assert "wait() running at" in shown
    assert frames == 1
