"""The host's side of the spawner: the one small process that forks workers and puts up their walls.

It is a child of the host, exec'd once and single-threaded (`sandbox_worker.walls.spawner`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from host.run.helper import Helper, HelperGone
from host.run.launch import command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from host.run.interpreter import Interpreter


class SpawnerGone(HelperGone):
    """The spawner died or stopped answering; its workers died with it. A new one is started at the next start."""


class Spawner(Helper):
    """One spawner process. Thread-safe; `close` is idempotent, and kills what workers are left."""

    name = "spawner"
    gone = SpawnerGone

    def __init__(self, interpreter: Interpreter, *, forks: bool = False) -> None:
        """`forks`: with a fork server; `abilities["no_fork"]` tells why there is none."""
        base = {
            "rules": [list(rule) for rule in interpreter.kernel_rules],
            "view": [list(rule) for rule in interpreter.view],
            "links": [list(link) for link in interpreter.links],
            "interpreter": interpreter.executable,
            "server": command(interpreter, serves=True) if forks else [],
        }
        super().__init__(interpreter, "sandbox_worker.walls.spawner")
        try:
            self.abilities: Final[dict[str, Any]] = dict(self._ask("ready", ["base", base])[1])
        except BaseException:
            self.close()
            raise

    def spawn(self, plan: dict[str, Any], descriptors: Sequence[int]) -> int:
        """Fork one worker behind the walls of `plan`; its pid. `descriptors`: calls, replies, events, log.

        A fifth one leads to the broker, where `plan` says what that answers.
        """
        return int(self._ask("spawned", ["spawn", plan], descriptors)[1])

    def reap(self, pid: int) -> int:
        """The wait status (waitpid(2)) of a worker that is dead, or is killed within a second by this."""
        return int(self._ask("reaped", ["reap", pid])[2])
