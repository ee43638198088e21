"""What the audit hook makes of each event: files, imports, addresses, processes, and what it has never heard of."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

import pytest
from built_hook import OWN_PID, Built

from sandbox_worker import audit_hook
from sandbox_worker.errors import InterpreterDenied, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def build() -> Iterator[Callable[..., Built]]:
    """Builds hooks and closes their pipes."""
    with contextlib.ExitStack() as stack:

        def make(*args: Any, **options: Any) -> Built:
            built = Built(*args, **options)
            stack.callback(built.close)
            return built

        yield make


READING: Final = [("r", os.O_RDONLY), (None, os.O_RDONLY), (None, os.O_PATH), ("rb", 0)]
WRITING: Final = [
    ("w", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    (None, os.O_WRONLY),
    (None, os.O_RDWR),
    (None, os.O_RDONLY | os.O_CREAT),
    (None, os.O_RDONLY | os.O_TRUNC),
    (None, os.O_TMPFILE | os.O_RDWR),
    (None, 3),  # access mode 3 of Linux: neither, but checked for both
    ("ab", 0),
    ("r+", 0),
    ("x", 0),
    ("wb", 0),
    (None, "flags of no known type"),
]


@pytest.mark.parametrize(("mode", "flags"), READING)
def test_reading_needs_the_right_to_read_alone(build: Callable[..., Built], mode: str | None, flags: int) -> None:
    assert not build(["/srv"], []).refuses("open", "/srv/x", mode, flags)
    assert build([], ["/srv"]).refuses("open", "/srv/x", mode, flags)


@pytest.mark.parametrize(("mode", "flags"), WRITING)
def test_whatever_can_change_a_file_needs_the_right_to_write(
    build: Callable[..., Built], mode: str | None, flags: Any
) -> None:
    built = build(["/srv"], [])
    with contextlib.suppress(TypeError):  # CPython passes an int; anything else fails closed
        assert built.refuses("open", "/srv/x", mode, flags)
        assert built.reported() == [("fs.write", "/srv/x", False)]


P: Final = "/srv/x"
WRITES: Final = {
    "os.remove": (P, -1),
    "os.rmdir": (P, -1),
    "os.mkdir": (P, 0o777, -1),
    "os.chmod": (P, 0o777, -1),
    "os.utime": (P, None, None, -1),
    "os.chown": (P, 0, 0, -1),
    "os.setxattr": (P, "user.x", b"", 0),
    "os.removexattr": (P, "user.x"),
    "os.truncate": (P, 0),
    "os.symlink": ("anywhere", P, -1),
    "os.rename": (P, P, -1, -1),
    "os.link": (P, P, -1, -1),
}
READS: Final = {
    "os.listdir": (P,),
    "os.scandir": (P,),
    "os.getxattr": (P, "user.x"),
    "os.listxattr": (P,),
    "os.chdir": (P,),
}


@pytest.mark.parametrize("event", WRITES)
def test_each_event_that_changes_files_is_judged_for_writing(build: Callable[..., Built], event: str) -> None:
    assert build([], []).refuses(event, *WRITES[event])
    assert build(["/srv"], []).refuses(event, *WRITES[event])
    assert not build(["/srv"], ["/srv"]).refuses(event, *WRITES[event])


@pytest.mark.parametrize("event", READS)
def test_each_event_that_reads_names_or_attributes_is_judged_for_reading(
    build: Callable[..., Built], event: str
) -> None:
    assert build([], ["/srv"]).refuses(event, *READS[event])
    assert not build(["/srv"], []).refuses(event, *READS[event])


@pytest.mark.parametrize(("source", "target"), [("/srv/x", "/else/x"), ("/else/x", "/srv/x")])
@pytest.mark.parametrize("event", ["os.rename", "os.link"])
def test_both_ends_of_a_move_or_link_are_judged(
    build: Callable[..., Built], event: str, source: str, target: str
) -> None:
    assert build(["/"], ["/srv"]).refuses(event, source, target, -1, -1)


def test_a_deny_rule_is_reported_as_the_reason(build: Callable[..., Built]) -> None:
    built = build(["/srv"], deny=["/srv/private"])
    with pytest.raises(PermissionDenied) as caught:
        built.hook("open", ("/srv/private/x", "r", 0))
    assert caught.value.reason == "deny-rule"
    assert "deny rule" in caught.value.hint
    assert built.reported() == [("fs.read", "/srv/private/x", True)]


def test_a_refusal_carries_everything_that_the_contract_names(build: Callable[..., Built]) -> None:
    with pytest.raises(PermissionDenied) as caught:
        build().hook("open", ("/etc/passwd", "r", 0))
    error = caught.value
    assert (error.errno, error.permission, error.target, error.code, error.filename) == (
        13, "fs.read", "/etc/passwd", "ERR_ACCESS_DENIED", "/etc/passwd",
    )  # fmt: skip
    assert error.hint == 'fs.read = ["/etc/passwd"]'


# --- exact types


class Text(str):
    """Could lie about where it starts."""

    __slots__ = ()

    def startswith(self, *_: object) -> bool:
        return True

    def __getitem__(self, _: object) -> str:
        return "/srv/x"


class Raw(bytes):
    """Likewise."""

    __slots__ = ()


class Where(os.PathLike):  # type: ignore[type-arg]  # its answer is a text
    """Answers differently each time it is asked."""

    def __fspath__(self) -> str:
        return "/srv/x"


class Pair(tuple):  # type: ignore[type-arg]  # of anything
    """An address that shows another one."""

    __slots__ = ()


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize(
    "path", [Text("/srv/x"), Raw(b"/srv/x"), Where(), None, object(), 1.5], ids=lambda v: type(v).__name__
)
@pytest.mark.parametrize("event", ["open", "os.remove", "os.mkdir", "os.setxattr"])
def test_a_path_of_no_exact_type_is_refused(
    build: Callable[..., Built], event: str, path: object, kernel: bool
) -> None:
    rest = {"open": ("r", 0), "os.remove": (-1,), "os.mkdir": (0o777, -1), "os.setxattr": ("user.x", b"", 0)}[event]
    assert build(["*"], ["*"], kernel=kernel).refuses(event, path, *rest)


@pytest.mark.parametrize("name", [Text("json"), b"json", None, object()], ids=lambda v: type(v).__name__)
def test_a_module_name_of_no_exact_type_is_refused(build: Callable[..., Built], name: object) -> None:
    assert build().refuses("import", name, None, [], [], [])


@pytest.mark.parametrize("event", ["socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"])
@pytest.mark.parametrize(
    "address", [("127.0.0.1", 80), Pair(("127.0.0.1", 80)), "/run/x", b"\0x", (Text("h"), 1), (), 7]
)
def test_every_address_is_refused(build: Callable[..., Built], event: str, address: object) -> None:
    built = build()
    assert built.refuses(event, object(), address)
    [(kind, _, _)] = built.reported()
    assert kind == ("net.listen" if event == "socket.bind" else "net.connect")


def test_the_refusal_of_a_connection_names_host_and_port(build: Callable[..., Built]) -> None:
    built = build()
    for address in (("example.com", 443), ("::1", 80, 0, 0), ("h", "https"), "/run/x"):
        built.refuses("socket.connect", object(), address)
    assert [target for _, target, _ in built.reported()] == ["example.com:443", "[::1]:80", "h:https", "unix:/run/x"]


def test_a_unix_socket_is_judged_by_its_path_alone(build: Callable[..., Built]) -> None:
    rows = (("unix:/run/x", True, None), ("name:example.", False, None))
    built = build(network=(rows, (("unix:/run/y", True, None),), (("unix:/run/l", True, None),), ()))
    for path in ("/run/x", b"/run/x", "/run/./x", "/run/z/../x"):
        assert not built.refuses("socket.connect", object(), path)
    assert not built.refuses("socket.bind", object(), "/run/l")
    for path in ("/run/y", "/run/l", "/run/x/z", "/run", "run/x", "\0run/x", b"\0x", "", b"\xff"):
        assert built.refuses("socket.connect", object(), path)
    for event in ("socket.bind", "socket.sendto", "socket.sendmsg"):
        assert built.refuses(event, object(), "/run/x")
    assert [by_deny for _, target, by_deny in built.reported() if target == "unix:/run/y"] == [True]


def test_a_rule_for_a_unix_socket_leaves_no_address_to_the_broker(build: Callable[..., Built]) -> None:
    rows = (("unix:/run/x", True, None),)
    built = build(network=(rows, (), rows, ()))
    for event in ("socket.connect", "socket.bind"):
        assert built.refuses(event, object(), ("127.0.0.1", 80))
    assert build(network=((("", False, None),), (), (), ())).refuses("socket.connect", object(), "/run/x")


# --- what is foreign, new or unknown


@pytest.mark.parametrize("namespace", sorted(audit_hook.NAMESPACES))
def test_an_unknown_event_in_a_namespace_of_cpython_is_refused(build: Callable[..., Built], namespace: str) -> None:
    with pytest.raises(InterpreterDenied):
        build(["/"], ["/"]).hook(f"{namespace}.event_of_a_later_version", ())


def test_an_unknown_event_without_a_namespace_is_refused(build: Callable[..., Built]) -> None:
    assert build().refuses("event_of_a_later_version")


@pytest.mark.parametrize("event", ["numpy.load", "mylib.open", "socketserver.x", "oslo.start", "a.os.remove"])
def test_an_event_of_a_library_passes(build: Callable[..., Built], event: str) -> None:
    assert not build().refuses(event, "anything", object())


@pytest.mark.parametrize("event", sorted(audit_hook.HARMLESS))
def test_a_harmless_event_passes_whatever_it_carries(build: Callable[..., Built], event: str) -> None:
    assert not build().refuses(event)


@pytest.mark.parametrize("name", ["gi_frame", "cr_frame", "ag_frame", "tb_frame"])
def test_frames_are_not_hidden(build: Callable[..., Built], name: str) -> None:
    """`sys._getframe` gives them too; asyncio needs those of coroutines to show a task."""
    assert not build().refuses("object.__getattr__", object(), name)


@pytest.mark.parametrize("name", sorted(audit_hook.UNHOOKED | audit_hook.FOREIGN_CALLS))
def test_code_that_no_hook_sees_is_not_imported_under_any_package(build: Callable[..., Built], name: str) -> None:
    built = build()
    assert built.refuses("import", name, None, [], [], [])
    assert built.refuses(
        "import", f"package.{name}", f"/opt/lib/{name}.cpython-312-x86_64-linux-gnu.so", None, None, None
    )


@pytest.mark.parametrize(
    "file", ["/srv/x.so", "/opt/lib/../../srv/x.so", "x.so", "/opt/libx/x.so", Text("/opt/lib/x.so")]
)
def test_compiled_modules_load_from_the_interpreters_own_folders_alone(build: Callable[..., Built], file: str) -> None:
    assert build(["*"]).refuses("import", "x", file, None, None, None)
    assert not build().refuses("import", "x", "/opt/lib/x.so", None, None, None)


def test_files_that_are_opened_without_an_event_need_a_kernel_layer(build: Callable[..., Built]) -> None:
    assert build(kernel=False).refuses("import", "readline", None, [], [], [])
    assert not build(kernel=True).refuses("import", "readline", None, [], [], [])


def test_a_worker_may_signal_itself_and_nobody_else(build: Callable[..., Built]) -> None:
    built = build()
    assert not built.refuses("os.kill", OWN_PID, 15)
    for pid in (1, 0, -1, -OWN_PID, OWN_PID + 1):
        assert built.refuses("os.kill", pid, 15)


@pytest.mark.parametrize(
    ("event", "arguments", "program"),
    [
        ("subprocess.Popen", (None, ["/bin/ls", "-l"], None, None), "/bin/ls"),
        ("subprocess.Popen", ("/bin/sh", ["x"], None, None), "/bin/sh"),
        ("os.system", (b"ls \xff",), "ls \\xff"),
        ("os.exec", ("/bin/ls", [], None), "/bin/ls"),
        ("os.posix_spawn", (b"/bin/ls", [], None), "/bin/ls"),
        ("pty.spawn", (["/bin/sh"],), "/bin/sh"),
        ("os.fork", (), "os.fork"),
        ("os.killpg", (1, 9), "os.killpg"),
    ],
)
def test_a_refused_process_names_its_program(
    build: Callable[..., Built], event: str, arguments: tuple[object, ...], program: str
) -> None:
    built = build()
    assert built.refuses(event, *arguments)
    assert built.reported() == [("run", program, False)]
