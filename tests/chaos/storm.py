"""Calls from several threads to many plugins, whose workers are killed at random moments; each answer is checked.

What may come of a call is decided beforehand. Its own answer, or, as a worker may be killed at any moment, an error
that says so; never another call's answer, never an error of another kind, and no call is begun twice.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import random
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import host
from host.run.pidfd import ended
from tests.chaos import plugin as suffering

if TYPE_CHECKING:
    from pathlib import Path

_THREADS: Final = 4
_PAUSE: Final = (0.0, 0.05)
"""Seconds between two kills, at random."""
_POLICY: Final = host.RestartPolicy(failures=1000, first_pause=0.001, longest_pause=0.001)
_EXPECTED: Final[dict[str, tuple[type[Exception], ...]]] = {
    "answer": (),
    "print": (),
    "raise": (ValueError,),
    "exit": (host.PluginCrashed,),
    "abort": (host.PluginCrashed,),
    "half": (host.PluginCrashed,),
    "garbage": (host.ProtocolViolation,),
    "hang": (host.PluginTimeout,),
    "devour": (host.ResourceLimitExceeded,),
    "reach": (host.PermissionDenied,),
}
_COMMON: Final = ("answer", "answer", "answer", "answer", "print", "raise", "reach")
_RARE: Final = ("exit", "abort", "half", "garbage", "devour")
_KILLED: Final = (host.PluginCrashed, host.PluginStartError)
"""What a killed worker's call, or start, ends with."""


@dataclasses.dataclass
class Outcome:
    """What came of it all."""

    calls: int = 0
    kills: int = 0
    seconds: float = 0.0
    restarts: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)
    ends: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {name}" for name, count in self.ends.most_common())
        return (
            f"{self.calls} calls, {self.kills} kills, {self.restarts} restarts in {self.seconds:.0f} s: {ends}; "
            f"{len(self.wrong)} wrong"
        )


class Storm:
    """One run, of workers that `start` as PluginHost has it. `hang` of a thousand calls hang until their time is over,
    which takes 0.3 s each."""

    def __init__(
        self, folder: Path, *, calls: int, plugins: int, seed: int, hang: int = 2, start: str = "exec"
    ) -> None:
        self._folder = folder
        self._start = start
        self._calls = calls
        self._plugins = plugins
        self._seed = seed
        self._hang = hang
        self._outcome = Outcome()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._answered: set[int] = set()

    def run(self) -> Outcome:
        """Do it, and settle the accounts."""
        begun = time.monotonic()
        data = self._folder / "data"
        options: dict[str, Any] = {"data": data, "restart_policy": _POLICY, "start": self._start}
        with host.PluginHost("chaos", grants="requested", **options) as plugins:
            loaded = [
                plugins.load(suffering.manifest(self._folder, f"p{n}", 2 if n % 5 == 4 else 1, "300 ms"))
                for n in range(self._plugins)
            ]
            threads = [threading.Thread(target=self._call, args=(loaded, n)) for n in range(_THREADS)]
            killer = threading.Thread(target=self._kill, args=(plugins,))
            for thread in (killer, *threads):
                thread.start()
            for thread in threads:
                thread.join()
            self._over.set()
            killer.join()
            self._outcome.restarts = sum(one.restarts for one in loaded)
            for one in loaded:
                self._check_alive(one)
        self._settle([token for one in loaded for token in suffering.ledger(data, one.name)])
        self._outcome.seconds = time.monotonic() - begun
        return self._outcome

    def _call(self, plugins: list[Any], thread: int) -> None:
        chance = random.Random(self._seed * 1000 + thread)
        for number in range(thread, self._calls, _THREADS):
            action = chance.choice(_COMMON if chance.random() > 0.02 else _RARE)
            if chance.randrange(1000) < self._hang:
                action = "hang"
            payload = chance.choice("abc") * int(10 ** chance.uniform(0, 5.3))
            end = self._one(chance.choice(plugins), number + 1, action, payload)
            with self._lock:
                self._outcome.calls += 1
                self._outcome.ends[end] += 1

    def _one(self, plugin: Any, token: int, action: str, payload: str) -> str:
        """One call: how it ended. What may not be is noted."""
        try:
            result = plugin.call("work", token=token, action=action, payload=payload)
        except (*_EXPECTED[action], *_KILLED) as error:
            if isinstance(error, ValueError) and error.args != (token,):
                self._wrong(f"call {token} raised {error!r}, another call's error")
            return type(error).__name__
        except BaseException as error:  # whatever it is, it is what is looked for
            self._wrong(f"call {token} ({action}) raised {error!r}")
            return type(error).__name__
        with self._lock:
            self._answered.add(token)
        if result != [token, payload[::-1]] or _EXPECTED[action]:
            self._wrong(f"call {token} ({action}) was answered {str(result)[:100]}")
        return "answered"

    def _kill(self, plugins: host.PluginHost) -> None:
        """Kill any worker at any moment, one that starts too; on a slow machine no more often for each call."""
        chance = random.Random(-self._seed)
        due = 0
        while not self._over.wait(chance.uniform(*_PAUSE)):
            if self._outcome.calls < due:
                continue
            due = self._outcome.calls + chance.randrange(5)
            watched = list(plugins._workers._watcher._watched.values())
            if not watched:
                continue
            worker = chance.choice(watched).worker
            with worker._lock:  # it is not reaped meanwhile, so that its number is no other process's
                if worker.status is None and worker.pidfd >= 0 and not ended(worker.pidfd, 0):
                    os.kill(worker.pid, chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV)))
                    self._outcome.kills += 1

    def _check_alive(self, plugin: Any) -> None:
        """After the storm it works."""
        if plugin.call("work", token=0, action="answer", payload="ab") != [0, "ba"]:
            self._wrong(f"{plugin.name} does not work any more")

    def _settle(self, begun: list[int]) -> None:
        """No call was begun twice, and none answered that was not begun."""
        counts = collections.Counter(token for token in begun if token)
        for token, count in counts.items():
            if count > 1:
                self._wrong(f"call {token} was begun {count} times")
        for token in sorted(self._answered - set(counts)):
            self._wrong(f"call {token} was answered and never begun")
        if self._outcome.calls != self._calls:
            self._wrong(f"{self._outcome.calls} of {self._calls} calls ended")

    def _wrong(self, what: str) -> None:
        with self._lock:
            self._outcome.wrong.append(what)
