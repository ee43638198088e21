"""The interpreter's own tests in a worker: what fails there is listed, with the promise that makes it fail."""

from __future__ import annotations

import functools
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from stdlib import record

import host

if TYPE_CHECKING:
    from collections.abc import Callable

RECORD: Final = record.read()
ALL: Final = os.environ.get("PLUGHOLD_STDLIB") == "all"
"""Everything, which takes minutes; else the quick modules in one tier."""
NOT_HERE: Final = ("windows", "proactor")
GRANTS: Final = {
    "fs.read": ["${tmp}", "/etc/passwd", "/etc/group", "/etc/services"],
    "fs.write": ["${tmp}"],
    "env": ["TMPDIR", "PATH", "HOME"],
    "sys": [  # all but uid and gid: as root without its capabilities, who may not what root may
        "hostname", "osRelease", "osUptime", "loadavg", "networkInterfaces", "systemMemoryInfo", "cpus",
    ],
    "net.connect": ["127.0.0.1", "localhost", "[::1]"],
    "net.listen": ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::]", "unix:${tmp}/granted"],
}  # fmt: skip
LIMITS: Final = {
    "memory": "2 GiB", "threads": 256, "open_files": 512, "call_timeout": "120 s", "cpu_time": "120 s",
    "file_size": "256 MiB", "write_size": "1 GiB",
}  # fmt: skip


def modules() -> list[str]:
    """The test modules of this interpreter, one by one where they are many."""
    spec = importlib.util.find_spec("test")
    if spec is None or spec.origin is None or importlib.util.find_spec("test.test_csv") is None:  # as in Debian's
        return []
    folder = Path(spec.origin).parent
    names = []
    for name in sorted((*RECORD.quick, *(RECORD.slow if ALL else ()))):
        parts = sorted(path.stem for path in (folder / name).glob("test_*.py")) if name == "test_asyncio" else []
        names += [f"{name}.{part}" for part in parts if not any(text in part for text in NOT_HERE)] or [name]
    return names


def runs() -> list[Any]:
    """(tier, module): in `walled` again what is listed for it, when everything is to be run."""
    names = modules()
    pairs = [("confined", name) for name in names]
    pairs += [("walled", name) for name in names if ALL and name in RECORD.walled]
    return pairs or [pytest.param("", "", marks=pytest.mark.skip("this Python comes without its tests"))]


@pytest.fixture
def tested(plugin_from: Any, must_work: Any, tier: str) -> Callable[..., dict[str, Any]]:
    """``tested(module=..., only=...)``: what `runner.run` gives in a worker of the tier."""
    source = Path(__file__).with_name("runner.py").read_text(encoding="utf-8")
    source = source.replace("from __future__ import annotations", "", 1)
    try:
        plugin = plugin_from(source, permissions=GRANTS, limits=LIMITS, tier=tier)
    except host.LockdownUnavailable as missing:
        must_work(False, str(missing))
    return functools.partial(plugin.call, "run", avoid=RECORD.avoided(tier))


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("tier", "module"), runs())
def test_what_fails_in_a_worker_is_listed_with_the_promise_that_makes_it_fail(
    tested: Callable[..., dict[str, Any]], tier: str, module: str
) -> None:
    promises = RECORD.of_tier(tier)
    result = tested(module=module, only=[])
    strange = record.unexplained(promises, result["ended"])
    if strange:  # a second time and by themselves: they count on time, and the machine may be busy
        again = tested(module=module, only=sorted({row[0] for row in strange}))
        strange = record.unexplained(promises, again["ended"])
    assert strange == []
    assert len(result["ran"]) > 0
    failed = {row[0]: row[1] for row in result["ended"]}
    assert record.stale(promises, result["ran"], failed) == []
