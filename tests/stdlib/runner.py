"""A plugin that runs test modules of the interpreter's own inside its worker, and says how each test ended."""

from __future__ import annotations

import fnmatch
import os
import sys
import traceback
import types
import unittest
from collections.abc import Iterator  # noqa: TC003 - a plugin's source has no future statement after its first line
from typing import Any

from sandbox_worker.plugin_api import HookimplMarker

hookimpl = HookimplMarker("tests")

NUMBERS = {"INT_MAX": 2**31 - 1, "UINT_MAX": 2**32 - 1, "LLONG_MAX": 2**63 - 1, "ULLONG_MAX": 2**64 - 1}
"""All that some test modules import `_testcapi` for, which no worker loads."""
_TEXT_MAX = 4000


class Result(unittest.TestResult):
    """Keeps how each test ended: [id, "error", "failure" or "skip", text]; those that succeeded are not in `rows`."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.ran: list[str] = []

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.ran.append(name_of(test))

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._keep(test, "skip", reason)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._keep(test, "error", "".join(traceback.format_exception(*err)))

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._keep(test, "failure", "".join(traceback.format_exception(*err)))

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._keep(test, "failure", "".join(traceback.format_exception(*err)))

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self._keep(test, "failure", "succeeded, which was not expected")

    def _keep(self, test: unittest.TestCase, kind: str, text: str) -> None:
        self.rows.append([name_of(test), kind, text[-_TEXT_MAX:].encode("ascii", "backslashreplace").decode()])


def name_of(test: unittest.TestCase) -> str:
    """`test_x.Class.method`; of a doctest the name of the documented object."""
    return test.id().removeprefix("test.")


@hookimpl
def run(module: str, avoid: list[str], only: list[str]) -> dict[str, Any]:
    """Run `test.MODULE` but for the tests whose ids match a pattern of `avoid` (fnmatch); only those of `only` if any.

    {"ran": [id], "avoided": [id], "ended": [[id, "error", "failure" or "skip", text]] of those that did not succeed}.
    """
    prepare(module)
    loaded = load(module)
    chosen, avoided = unittest.TestSuite(), []
    for test in flat(loaded):
        if any(fnmatch.fnmatchcase(name_of(test), pattern) for pattern in avoid):
            avoided.append(name_of(test))
        elif not only or name_of(test) in only:
            chosen.addTest(test)
    result = Result()
    chosen.run(result)
    return {"ran": result.ran, "avoided": avoided, "ended": result.rows}


def prepare(module: str) -> None:
    """As the interpreter's own runner: no resource that costs much, everything in a folder of its own."""
    from test import support

    support.use_resources = []
    os.chdir(os.environ["TMPDIR"])
    if module == "test_asyncio.test_events" and sys.version_info < (3, 14):
        import asyncio  # each of these tests sets up a handler of SIGCHLD, and hardly any starts a process

        asyncio.SafeChildWatcher = asyncio.ThreadedChildWatcher


def load(module: str) -> unittest.TestSuite:
    """The tests of `test.MODULE`."""
    numbers = types.ModuleType("_testcapi")
    vars(numbers).update(NUMBERS)
    sys.modules["_testcapi"] = numbers
    try:
        return unittest.defaultTestLoader.loadTestsFromName("test." + module)
    finally:
        del sys.modules["_testcapi"]


def flat(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """The tests of a suite of suites."""
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flat(item)
        else:
            yield item
