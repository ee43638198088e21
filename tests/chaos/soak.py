"""Very many calls in one host, whose memory, threads and descriptors must stay what they were."""

from __future__ import annotations

import dataclasses
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import psutil

import host
from tests.chaos import plugin as suffering

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_THREADS: Final = 2
_ROUNDS: Final = 10
_LOOKS: Final = 50
_ACTIONS: Final = (*["answer"] * 60, "raise", "reach", "print")


@dataclasses.dataclass(frozen=True)
class Level:
    """What a host holds at one moment: bytes resident, its own and its workers', threads, descriptors, children."""

    calls: int
    memory: int
    workers: int
    threads: int
    descriptors: int
    children: int

    def __str__(self) -> str:
        memory, workers = self.memory / (1 << 20), self.workers / (1 << 20)
        return (
            f"after {self.calls} calls: host {memory:.1f} MiB, workers {workers:.1f} MiB, "
            f"{self.threads} threads, {self.descriptors} descriptors, {self.children} children"
        )


def levels(folder: Path, calls: int, start: str = "exec") -> Iterator[Level]:
    """Call, and look ten times; the first look is after a tenth of the calls, when all caches are full."""
    data = folder / "data"
    told = set[str]()
    options: dict[str, Any] = {"data": data, "audit": folder / "audit.jsonl", "start": start}
    with host.PluginHost("chaos", grants="requested", on_event=lambda e: told.add(e.event), **options) as plugins:
        loaded = [plugins.load(suffering.manifest(folder, f"p{n}", 1 + n % 2, "5 s")) for n in range(4)]
        with ThreadPoolExecutor(_THREADS) as pool:
            share = calls // _ROUNDS // _THREADS
            for turn in range(_ROUNDS):
                first = turn * _THREADS * share
                running = [pool.submit(_call, loaded, first + n * share, share) for n in range(_THREADS)]
                for one in running:
                    one.result()
                yield _look(first + _THREADS * share)


def _call(plugins: list[Any], first: int, count: int) -> None:
    for number in range(first, first + count):
        action = _ACTIONS[number % len(_ACTIONS)]
        try:
            found = plugins[number % len(plugins)].call(
                "work", token=number, action=action, payload="x" * (number % 2000)
            )
        except (ValueError, host.PermissionDenied):
            continue
        if found[0] != number:
            raise AssertionError(f"call {number} was answered {found[0]}")


def _look(calls: int) -> Level:
    gc.collect()
    mine = psutil.Process()
    children = mine.children(recursive=True)
    return Level(
        calls,
        mine.memory_info().rss,
        sum(child.memory_info().rss for child in children),
        threading.active_count(),
        min(mine.num_fds() for _ in range(_LOOKS)),  # a watching thread may just have a file of /proc open
        len(children),
    )
