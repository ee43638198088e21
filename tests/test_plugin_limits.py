"""Promises of the limits: each one holds, arrives under its own name, and leaves the plugin usable."""

from __future__ import annotations

import os
import shutil
import time
from typing import Any, Final

import pytest
from until import PATIENCE, stop

import host
from host.run.pidfd import ended

DATA: Final = {"fs.write": ["${data}"], "fs.read": ["${data}"]}
ANSWER: Final = "\n@hookimpl\ndef answer(): return 42\n"

FOREVER: Final = "\n    while True: time.sleep(0.01)\n"
KILLING: Final = {
    "memory": (
        # shared pages count as memory in use, but not against RLIMIT_DATA: the watcher's own case
        "import mmap, time\n@hookimpl\ndef use(data):\n"
        "    m = mmap.mmap(-1, 100 << 20)\n    m.write(b'x' * 1024 * 1024 * 100)" + FOREVER,
        {"memory": "80 MiB"},
    ),
    "cpu_time": ("@hookimpl\ndef use(data):\n    while True: pass", {"cpu_time": "300 ms"}),
    "threads": (
        "import threading, time\n@hookimpl\ndef use(data):\n"
        "    for _ in range(20): threading.Thread(target=time.sleep, args=(100,), daemon=True).start()" + FOREVER,
        {"threads": 3},
    ),
    "write_size": (
        "import time\n@hookimpl\ndef use(data):\n"
        "    for i in range(6): open(f'{data}/{i}', 'wb').write(b'x' * 1000000)" + FOREVER,
        {"write_size": "4 MiB"},
    ),
    "write_files": (
        "import os, time\n@hookimpl\ndef use(data):\n    for i in range(60): os.mkdir(f'{data}/{i}')" + FOREVER,
        {"write_files": 50},
    ),
}
RAISING: Final = {
    "memory": ("@hookimpl\ndef use(data): return len(bytearray(1 << 30))", {"memory": "64 MiB"}),
    "open_files": ("@hookimpl\ndef use(data): return len([open('/dev/null') for _ in range(50)])", {"open_files": 8}),
    "file_size": (
        "@hookimpl\ndef use(data):\n    with open(f'{data}/f', 'wb', buffering=0) as f:\n"
        "        for _ in range(5): f.write(b'x' * 1000000)",
        {"file_size": "2 MiB"},
    ),
    "result_size": ("@hookimpl\ndef use(data): return b'x' * 2000000", {"result_size": "1 MiB"}),
    "threads": (
        "import threading\n@hookimpl\ndef use(data):\n    done = threading.Event()\n    try:\n"
        "        while True: threading.Thread(target=done.wait, daemon=True).start()\n    finally: done.set()",
        {"threads": 500, "memory": "64 MiB"},
    ),
}


@pytest.mark.parametrize("limit", KILLING)
def test_a_worker_above_a_limit_is_killed_and_replaced(plugin_from: Any, limit: str) -> None:
    source, limits = KILLING[limit]
    plugin = plugin_from(source + ANSWER, limits={"call_timeout": "50 s"} | limits, permissions=DATA)
    data, pid = str(plugin_from.folder / "data" / plugin.name), plugin.pid
    with pytest.raises(host.ResourceLimitExceeded, match=limit) as caught:
        plugin.call("use", data=data)
    assert caught.value.limit == limit
    assert (caught.value.plugin, caught.value.hook, caught.value.pid, caught.value.signal) == (
        plugin.name,
        "use",
        pid,
        9,
    )
    if limit.startswith("write"):  # what was written counts as long as it is there
        shutil.rmtree(data)
        os.mkdir(data)
    assert plugin.call("answer") == 42
    assert plugin.restarts == 1


@pytest.mark.parametrize("limit", RAISING)
def test_a_refusal_by_a_limit_that_leaves_the_plugin_uncaught_is_told_as_that_limit(
    plugin_from: Any, limit: str
) -> None:
    source, limits = RAISING[limit]
    plugin = plugin_from(source + ANSWER, limits=limits, permissions=DATA)
    with pytest.raises(host.ResourceLimitExceeded, match=limit) as caught:
        plugin.call("use", data=str(plugin_from.folder / "data" / plugin.name))
    assert caught.value.limit == limit
    assert (caught.value.plugin, caught.value.hook) == (plugin.name, "use")
    assert plugin.call("answer") == 42
    assert plugin.restarts == 0


def test_what_the_plugin_catches_is_its_own_affair(plugin_from: Any) -> None:
    plugin = plugin_from(
        "@hookimpl\ndef use():\n    try: bytearray(1 << 30)\n    except MemoryError: return 'less'",
        limits={"memory": "64 MiB"},
    )
    assert plugin.call("use") == "less"


def test_a_result_of_exactly_the_limit_passes(plugin_from: Any) -> None:
    plugin = plugin_from("@hookimpl\ndef make(size): return b'x' * size", limits={"result_size": "1 MiB"})
    assert len(plugin.call("make", size=1 << 20)) == 1 << 20


def test_cpu_time_is_per_call(plugin_from: Any) -> None:
    """Three calls that each stay below it, together far above."""
    source = """
    import time
    @hookimpl
    def burn(s):
        end = time.thread_time() + s
        while time.thread_time() < end: pass
    """
    plugin = plugin_from(source, limits={"cpu_time": "600 ms"})
    for _ in range(3):
        plugin.call("burn", s=0.35)
    assert plugin.restarts == 0


def test_memory_that_was_written_before_the_start_of_a_call_counts_for_it(plugin_from: Any) -> None:
    plugin = plugin_from(
        "import mmap, time\nm = mmap.mmap(-1, 100 << 20)\n@hookimpl\ndef use():\n    m.write(b'x' * (100 << 20))"
        + FOREVER,
        limits={"memory": "80 MiB"},
    )
    with pytest.raises(host.ResourceLimitExceeded):
        plugin.call("use")


def test_a_limit_holds_while_the_plugin_is_imported_too(plugin_from: Any) -> None:
    with pytest.raises(host.ResourceLimitExceeded, match="as it started") as caught:
        plugin_from(
            "import mmap\nm = mmap.mmap(-1, 100 << 20)\nm.write(b'x' * (100 << 20))\nwhile True: pass",
            limits={"memory": "80 MiB"},
        )
    assert caught.value.limit == "memory"


# --- time


def test_a_call_that_takes_longer_than_call_timeout_is_ended_soon_after_and_the_worker_replaced(
    plugin_from: Any,
) -> None:
    plugin = plugin_from("@hookimpl\ndef use():\n    while True: pass" + ANSWER, limits={"call_timeout": "1 s"})
    handle, begun = os.pidfd_open(plugin.pid), time.monotonic()
    with pytest.raises(host.PluginTimeout, match=r"1 s \(call_timeout\)") as caught:
        plugin.call("use")
    assert 1 <= time.monotonic() - begun < PATIENCE
    assert isinstance(caught.value, TimeoutError)
    assert ended(handle)
    os.close(handle)
    assert plugin.state == "STOPPED"
    assert plugin.call("answer") == 42
    assert (plugin.restarts, plugin.state) == (1, "READY")


def test_a_worker_that_waited_long_still_has_the_whole_time_for_its_call(plugin_from: Any) -> None:
    source = """
    import time
    @hookimpl
    def use(s):
        end = time.monotonic() + s
        while time.monotonic() < end: pass
        return 1
    """
    plugin = plugin_from(source, limits={"call_timeout": "3 s"})
    assert [plugin.call("use", s=1.2) for _ in range(3)] == [1, 1, 1]
    assert plugin.restarts == 0


def test_a_call_that_the_worker_never_reads_is_a_timeout_too(plugin_from: Any) -> None:
    """More than a pipe holds: the host itself waits in its write."""
    plugin = plugin_from("@hookimpl\ndef size(data): return len(data)", limits={"call_timeout": "2 s"})
    stop(plugin.pid)
    with pytest.raises(host.PluginTimeout):
        plugin.call("size", data=b"x" * 5_000_000)
    assert plugin.call("size", data=b"x" * 5_000_000) == 5_000_000


def test_a_start_that_takes_longer_than_start_timeout_is_a_start_error(plugin_from: Any) -> None:
    with pytest.raises(host.PluginStartError, match=r"0\.5 s \(start_timeout\)"):
        plugin_from("while True: pass", limits={"start_timeout": "500 ms"})


def test_the_operators_caps_hold_over_what_the_manifest_asks_for(plugin_from: Any) -> None:
    plugin = plugin_from(
        "@hookimpl\ndef make(size): return b'x' * size",
        limits={"result_size": "8 MiB"},
        grants=host.Grant({}, {"result_size": "2 MiB"}),
        ceiling=host.Grant({}, {"result_size": "1 MiB"}),
    )
    with pytest.raises(host.ResourceLimitExceeded):
        plugin.call("make", size=3 << 19)
    assert len(plugin.call("make", size=1 << 19)) == 1 << 19


def test_an_error_may_be_longer_than_a_result(plugin_from: Any) -> None:
    plugin = plugin_from("@hookimpl\ndef f(): raise ValueError('x' * 100_000)", limits={"result_size": "1 KiB"})
    with pytest.raises(ValueError, match="xxx"):
        plugin.call("f")


def test_a_result_above_the_limit_is_refused_even_if_the_worker_sends_it(plugin_from: Any) -> None:
    source = """
    import os
    from sandbox_worker import messages, wire
    @hookimpl
    def f():
        frame = wire.Encoder().encode([messages.RESULT, 1, "x" * 100_000, 0])
        os.write(4, frame)
    """
    plugin = plugin_from(source, limits={"result_size": "1 KiB"})
    with pytest.raises(host.ProtocolViolation):
        plugin.call("f")
