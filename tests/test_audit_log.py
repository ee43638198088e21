"""Promises of the audit log: whole lines, appended, private, and a failure to write is never silent."""

from __future__ import annotations

import json
import os
import stat
import threading
from typing import TYPE_CHECKING, Final

import pytest

from host.model.events import PluginName, WorkerPid, WorkerStarted
from host.store.audit_log import AuditLog

if TYPE_CHECKING:
    from pathlib import Path

EVENT: Final = WorkerStarted(1, 1.5, PluginName("näme\n", "1"), WorkerPid(1), "confined", 0.1)


def test_an_event_is_one_line_of_ascii(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.write(EVENT)
    log.close()
    content = (tmp_path / "audit.jsonl").read_bytes()
    assert content.isascii()
    assert content.count(b"\n") == 1
    assert json.loads(content) == EVENT.line()


def test_the_file_is_private_when_it_is_made(tmp_path: Path) -> None:
    AuditLog(tmp_path / "audit.jsonl").close()
    assert stat.S_IMODE((tmp_path / "audit.jsonl").stat().st_mode) == 0o600


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").write_text("before\n")
    log = AuditLog(tmp_path / "audit.jsonl")
    log.write(EVENT)
    log.close()
    assert (tmp_path / "audit.jsonl").read_text().splitlines()[0] == "before"


def test_lines_of_many_threads_and_of_two_logs_on_one_file_never_mix(tmp_path: Path) -> None:
    logs = [AuditLog(tmp_path / "audit.jsonl") for _ in range(2)]
    threads = [threading.Thread(target=lambda log=log: [log.write(EVENT) for _ in range(100)]) for log in logs * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for log in logs:
        log.close()
    lines = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert len(lines) == 400
    assert all(json.loads(line) == EVENT.line() for line in lines)


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        AuditLog(tmp_path / "absent" / "audit.jsonl")


def test_a_full_disk_is_an_error() -> None:
    log = AuditLog("/dev/full")
    try:
        with pytest.raises(OSError, match="No space left"):
            log.write(EVENT)
    finally:
        log.close()


def test_closing_is_idempotent_and_what_comes_later_is_dropped(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.close()
    log.close()
    log.write(EVENT)
    log.abandon()
    assert (tmp_path / "audit.jsonl").read_bytes() == b""


def test_the_descriptor_is_not_inherited_by_other_programs(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    log = AuditLog(tmp_path / "audit.jsonl")
    opened = [int(name) for name in set(os.listdir("/proc/self/fd")) - before]
    assert not any(os.get_inheritable(number) for number in opened if os.path.exists(f"/proc/self/fd/{number}"))
    log.close()
