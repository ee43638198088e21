"""Good messages of every kind, from which the fuzzer starts."""

from __future__ import annotations

from typing import Final

from sandbox_worker import messages, wire

_HOOK: Final = ["render", [["text", None], ["depth", "3"]], [False, True, False, None]]
_VALUES: Final = (
    None, True, -1, 2**64 - 1, 1.5, "text", "\u2028é", b"bytes", [], {}, [1, [2, [3, {"a": [4]}]]],
    {"key": {"inner": [None]}}, "x" * 300, b"y" * 300, list(range(40)), {str(n): n for n in range(20)},
)  # fmt: skip

MESSAGES: Final[tuple[list[object], ...]] = (
    [messages.READY, [wire.VERSION, 4711, "confined", ["os", "sys"], ["landlock", "seccomp"]]],
    [messages.HOOKS, [_HOOK, ["plain", [], [True, False, True, "other"]]]],
    [messages.FAILED, "import", "Traceback: no", None],
    [messages.FAILED, "hooks", "too much", "memory"],
    *([messages.RESULT, 1, value, 0] for value in _VALUES),
    [messages.ERROR, 1, "builtins.ValueError", ["no", 1], "no", "Traceback", None, 2],
    [messages.ERROR, 1, "PermissionError", [13], "denied", "", ["denied", "fs.read", "/etc/passwd", "landlock"], 1],
    [messages.ERROR, 1, "MemoryError", [], "", "", ["limit", "memory"], 0],
    [messages.ASK, 1, 1, "storage.get", {"key": "x", "deep": [1, {"a": None}]}],
    [messages.ITEM, 1, {"row": [1, 2]}, 1],
    [messages.PONG, 7],
)


def frames() -> tuple[bytes, ...]:
    """Each message as one frame, header and body."""
    encode = wire.Encoder().encode
    return tuple(encode(message) for message in MESSAGES)
