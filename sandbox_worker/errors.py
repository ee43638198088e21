"""What goes wrong on the worker's side of the boundary, and on the wire itself.

PermissionError
 └ PermissionDenied            a refusal by the audit hook or the host: `.permission .target .reason .hint .code`
    └ InterpreterDenied        also a ValueError, so that fallbacks around introspection keep working
ModuleNotFoundError
 └ ImportDenied                the same refusal for an import, so that `try: import x` keeps its fallback
ValueError
 └ WireError                   bytes that are no frame, or a frame that is no message
TypeError
 └ Unsendable                  a value that can't cross: `.where .type_name`
RuntimeError
 └ HostFunctionError           a function of the application failed in a way that has no name here
BaseException
 └ Cancelled                   the host wants this call no more
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

EACCES: Final = 13  # errno(3); the errno module is not worth an import at start
ACCESS_DENIED: Final = "ERR_ACCESS_DENIED"

ABSENT: Final = "no-rule"
DENY_RULE: Final = "deny-rule"
DROPPED: Final = "dropped"
"""The plugin had it and gave it up (`plugin_api.permissions.drop`)."""
NOT_OFFERED: Final = "not-offered"
"""The plugin may call functions of this name, and the application has none."""
UNHANDED: Final = "unhanded"
"""The call goes past the methods that hand it over to the broker, which alone reaches a network (`_handed`)."""
OF_COMMANDS: Final = {
    "arguments": "the manifest allows it with other arguments",
    "name": "a command is called by the name that the manifest has for it, or by a path to it",
    "writable": "the plugin may write to that file",
}
"""Why a command that the manifest names is refused all the same (`walls.command_policy`), in words."""
INTERPRETER: Final = "interpreter"
"""The pseudo permission of introspection events: nothing in a manifest requests it."""

raised = 0
"""Refusals so far: lets a call's reply say that records wait on the event pipe. A courtesy, never a decision."""


def _count() -> None:
    global raised  # noqa: PLW0603 - a counter of the process, as cheap as it can be
    raised += 1


def refusal(permission: str, target: str, reason: str) -> str:
    """The sentence that a refusal says: what, by which layer, by which rule."""
    why = "a deny rule covers it" if reason == DENY_RULE else "no rule of the manifest allows it"
    if reason == DROPPED:
        why = "the plugin gave it up"
    if permission == "run":
        why = OF_COMMANDS.get(reason, f"the {reason} is for the loader, not for the program" if " " in reason else why)
    if permission == INTERPRETER:
        why = "plugins may not reach into the interpreter"
    if reason == UNHANDED:
        why = "the methods of socket.socket hand a call over to the broker here, and this one goes past them"
    if reason == NOT_OFFERED:
        why = "the application offers no such function"
    layer = "the host" if permission == "host" else "the audit hook"
    return f"{permission} of {target!r} refused by {layer}: {why}"


def hint_for(permission: str, target: str, reason: str) -> str:
    """The manifest line that would request `target`, or why no line can."""
    if reason == DENY_RULE:
        return "a deny rule always wins: only removing it could allow this"
    if reason == DROPPED:
        return "what a plugin drops does not come back"
    if reason == UNHANDED:
        return "use the methods of socket.socket, which reach what the manifest grants"
    if reason == NOT_OFFERED:
        return "it is granted already; the application has to offer it"
    if permission == "run" and reason not in (ABSENT, DENY_RULE):
        return "the manifest's entry says which arguments; its name and its loader are not the plugin's to choose"
    from sandbox_worker.permissions import ENFORCED_KINDS, hint

    return hint(permission, target, ENFORCED_KINDS)


class PermissionDenied(PermissionError):
    """A refusal by the audit hook, or by the host for what only the host decides.

    `permission` is a kind such as ``fs.read``, `target` what was asked for, `reason` such as ``no-rule``;
    `errno` is EACCES, `code` ``ERR_ACCESS_DENIED`` and `hint` the manifest line that would request it.
    """

    code = ACCESS_DENIED

    def __init__(self, permission: str, target: str, reason: str = ABSENT) -> None:
        super().__init__(EACCES, refusal(permission, target, reason))
        _count()
        self.permission = permission
        self.target = target
        self.reason = reason
        if permission.startswith("fs."):
            self.filename = target

    def __str__(self) -> str:
        return f"{self.strerror} ({self.hint})"

    @property
    def hint(self) -> str:
        """The manifest line that would request it, or why none can."""
        return hint_for(self.permission, self.target, self.reason)


class InterpreterDenied(PermissionDenied, ValueError):
    """Introspection refused. The standard library catches ValueError around such calls and goes on without."""


class ImportDenied(ModuleNotFoundError):
    """An import refused: a ModuleNotFoundError with the fields of `PermissionDenied`."""

    code = ACCESS_DENIED

    def __init__(self, permission: str, target: str, reason: str = ABSENT) -> None:
        super().__init__(refusal(permission, target, reason), name=target)
        _count()
        self.errno = EACCES
        self.permission = permission
        self.target = target
        self.reason = reason

    @property
    def hint(self) -> str:
        """The manifest line that would request it, or why none can."""
        return hint_for(self.permission, self.target, self.reason)


class HostFunctionError(RuntimeError):
    """A function of the application failed; the text says what the application lets a plugin know of it."""


class Cancelled(BaseException):
    """The host wants this call no more; raised where the plugin speaks with it. What cleans up may let it pass."""


class WireError(ValueError):
    """The other side broke the protocol; the text says how and never quotes what it sent."""


class Unsendable(TypeError):
    """A value that can't cross the wire: `where` is a path such as ``rows[3]['when']``, `type_name` its type."""

    def __init__(self, where: str, type_name: str) -> None:
        super().__init__(f"{where or 'value'} is of type {type_name}, which can't cross the wire")
        self.where = where
        self.type_name = type_name
