"""The audit hook (PEP 578): the layer that explains. It refuses early and precisely; the kernel holds beneath it.

Audit hooks alone are not a sandbox: native code and memory corruption go around them, and each walls' promise is kept
by the kernel. What the hook must never be is the weaker lock by its own fault, hence its shape:

* Every value it decides with is an immutable default argument of a function whose globals are empty (`detached`):
  no dict, list, cell, module attribute or builtin that a plugin could find with gc, frames or a patched module.
* It has no re-entrancy guard and raises no events of its own (posix.lstat, readlink, getcwd, str methods raise none),
  so a finaliser, a gc callback or a second thread that runs inside it meets the whole hook again.
* It looks at exact types only; a subclass of str or tuple can lie about itself and is refused.
* It fails closed: any exception inside it refuses the operation. The one `try` is around reporting.
* It is a plain function (a bound method costs four times as much per event, since CPython looks for `__cantrace__`).

`tests/test_audit_hook.py` compares the tables below with the events of the running interpreter: an event in one of
CPython's namespaces that no rule covers is refused; events that a library raises under its own name pass.
"""

from __future__ import annotations

import posix

from sandbox_worker import audit_network, permissions
from sandbox_worker.errors import ABSENT, DENY_RULE, INTERPRETER, ImportDenied, InterpreterDenied, PermissionDenied
from sandbox_worker.messages import TARGET_LIMIT, event_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FunctionType
    from typing import Any, Final
else:
    FunctionType = type(permissions.decide)  # the types module is not worth an import at start

HARMLESS: Final = frozenset(
    """
    compile exec code.__new__ object.__getattr__ builtins.id builtins.input builtins.input/result marshal.dumps
    marshal.loads array.__new__ time.sleep function.__new__ pickle.find_class object.__delattr__ sys.excepthook
    sys.unraisablehook sys._getframe sys._getframemodulename sys.set_asyncgen_hook_firstiter
    sys.set_asyncgen_hook_finalizer asyncio.stalled _thread.start_new_thread _thread.start_joinable_thread
    cpython.PyInterpreterState_Clear cpython._PySys_ClearAuditHooks os.walk os.fwalk os.putenv os.unsetenv os._clearenv
    os.lockf glob.glob glob.glob/2 pathlib.Path.glob pathlib.Path.rglob pathlib.Path.walk shutil.copyfile
    shutil.copymode shutil.copystat shutil.copytree shutil.rmtree shutil.move shutil.make_archive shutil.unpack_archive
    shutil.chown tempfile.mkstemp tempfile.mkdtemp urllib.Request http.client.connect http.client.send ftplib.connect
    ftplib.sendcmd imaplib.open imaplib.send poplib.connect poplib.putline smtplib.connect smtplib.send nntplib.connect
    nntplib.putline telnetlib.Telnet.open telnetlib.Telnet.write socket.gethostname socket.getservbyname
    socket.getservbyport fcntl.fcntl fcntl.ioctl fcntl.flock fcntl.lockf mmap.__new__ sqlite3.connect/handle
    syslog.closelog syslog.setlogmask
    """.split()
)
"""Events that touch nothing outside the worker, or that only announce the primitive event that follows and is judged.

Made-up bytecode is not refused: marshal.loads can't be (every import of bytecode raises it), and refusing code.__new__
alone would only break `types.coroutine`, and asyncio with it. What such code reaches is the kernel's part."""

JUDGED: Final = frozenset(
    """
    open import object.__setattr__ os.listdir os.scandir os.getxattr os.listxattr os.chdir os.remove
    os.rmdir os.mkdir os.chmod os.utime os.chown os.setxattr os.removexattr os.link os.rename os.symlink os.truncate
    sqlite3.connect socket.connect socket.sendto socket.sendmsg socket.bind socket.getaddrinfo socket.gethostbyname
    socket.gethostbyaddr socket.getnameinfo socket.__new__ os.system os.exec os.posix_spawn os.spawn os.startfile
    subprocess.Popen _posixsubprocess.fork_exec pty.spawn webbrowser.open ensurepip.bootstrap os.fork os.forkpty
    os.kill os.killpg syslog.openlog syslog.syslog sqlite3.enable_load_extension sqlite3.load_extension
    """.split()
)
"""Events that a rule decides. Everything else in CPython's own namespaces is refused."""

COMMAND_REFUSED: Final = "plughold.run"
"""Raised by `commands` where the keeper refused one: (program, why)."""

NAMESPACES: Final = frozenset(
    """
    _posixsubprocess _remote_debugging _thread _winapi _wmi array asyncio builtins code cpython ctypes ensurepip fcntl
    ftplib function gc glob http imaplib marshal mmap msvcrt nntplib object os pathlib pdb pickle poplib pty resource
    shutil signal smtplib socket sqlite3 subprocess sys syslog telnetlib tempfile time urllib webbrowser winreg
    """.split()
)

FOREIGN_CALLS: Final = frozenset("ctypes _ctypes cffi _cffi_backend".split())
"""Modules that call native code by address; the manifest's name for all of them is "ctypes"."""
UNHOOKED: Final = frozenset(
    """
    _xxsubinterpreters _interpreters _interpchannels _interpqueues _xxinterpchannels _remote_debugging _testcapi
    _testinternalcapi _testlimitedcapi _testclinic _testclinic_limited _testbuffer _testmultiphase _testsinglephase
    _testimportmultiple _testexternalinspection _ctypes_test xxlimited xxlimited_35 xxsubtype _xxtestfuzz _tkinter
    """.split()
)
"""Modules of the standard library whose code runs outside every audit hook: other interpreters, test hatches, Tcl."""
UNSEEN_FILES: Final = frozenset(
    "readline _curses _curses_panel _dbm _gdbm spwd nis _posixshmem _multiprocessing".split()
)
"""Modules that open files without an event: refused only where no kernel layer judges the open."""


def detached(function: Any, *defaults: object) -> Callable[..., Any]:
    """`function` with empty globals and `defaults` for its last parameters: nothing it uses can be replaced."""
    made: Callable[..., Any] = FunctionType(function.__code__, {"__builtins__": {}}, function.__name__, defaults)
    return made


def _locate_lexically(path, _follow, normalise, getcwd):
    """The kernel judges links and races beneath, so the text alone is judged here."""
    return normalise(path if path[:1] == "/" else getcwd() + "/" + path)


def _locate_really(path, follow, lstat, readlink, getcwd, denied, missing_error, size):
    """realpath(3) without a kernel layer beneath: anything but "does not exist" refuses, and `..` is never guessed."""
    if path[:1] != "/":
        path = getcwd() + "/" + path
    rest = path.split("/")[::-1]
    done, links, missing = "", 0, False
    while rest:
        name = rest.pop()
        if name == "" or name == ".":
            continue
        if name == "..":
            if missing:
                raise denied("fs.read", path)
            done = done[: done.rfind("/")] if done else ""
            continue
        step = done + "/" + name
        if size(step) > 4000:
            raise denied("fs.read", path)
        if missing or (not follow and not rest):
            done = step
            continue
        try:
            mode = lstat(step).st_mode
        except missing_error:
            missing, done = True, step
            continue
        if mode & 0o170000 != 0o120000:
            done = step
            continue
        links += 1
        if links > 40:
            raise denied("fs.read", path)
        target = readlink(step)
        rest.extend(target.split("/")[::-1])
        if target[:1] == "/":
            done = ""
    return done or "/"


def _refuse(kind, target, reason, denied, fd, write, record, deny_rule, os_error):
    """Report over the event pipe, then raise. A full pipe loses the report, never the refusal."""
    try:
        write(fd, record(kind, target, reason == deny_rule))
    except os_error:
        pass
    raise denied(kind, target, reason)


def _judge_path(
    path, write, follow, relative_passes,
    locate, verdict, refuse, denied, read_rules, write_rules, absent, deny_rule, fd_links, readlink,
    str, bytes, int, type,
):  # fmt: skip
    """Refuse unless `path` lies in the grant. An int is an open descriptor: whoever opened it was judged then."""
    kind = "fs.write" if write else "fs.read"
    if type(path) is int:
        if not write or not fd_links:
            return
        path = readlink(fd_links + str(path))  # a read-only descriptor is enough to change metadata
    elif type(path) is bytes:
        path = str(path, "utf-8", "surrogateescape")
    elif type(path) is not str:
        refuse(kind, "a path that is neither str nor bytes itself", absent, denied)
    if relative_passes and path[:1] != "/":
        return
    real = locate(path, follow)
    answer = verdict(real, *(write_rules if write else read_rules))
    if answer != 1:
        refuse(kind, real, deny_rule if answer < 0 else absent, denied)


def _judge_open(path, mode, flags, judge_path, refuse, denied, absent, kernel, str, bytes, int, type, bool):
    """open, os.open and the C library's fopen users: either the flags or the mode tells of writing, never both."""
    if type(path) is int:
        return
    write = type(flags) is not int or flags & 3 or flags & 0o1100 or flags & 0o20200000 == 0o20200000
    if type(mode) is str and ("w" in mode or "a" in mode or "x" in mode or "+" in mode):
        write = True
    # os.open does not tell its dir_fd: a relative path may lie anywhere, which the kernel knows and this hook does not.
    if not kernel and mode is None and type(path) in (str, bytes) and path[:1] not in ("/", b"/"):
        refuse("fs.write" if write else "fs.read", "a path relative to an unseen descriptor", absent, denied)
    judge_path(path, bool(write), not flags & 0o400000, kernel and mode is None)


def _judge_import(name, filename, refuse, denied, native, unhooked, libraries, absent, str, type):
    """Refuse foreign native code, and the modules whose code no hook sees, by name and by the file that is loaded."""
    if type(name) is not str:
        refuse("native", "a module name that is no str", absent, denied)
    stem = name
    if filename is not None:
        if type(filename) is not str or "/../" in filename or not (filename + "/").startswith(libraries):
            refuse("native", name.partition(".")[0], absent, denied)  # the package, as a manifest names it
        stem = filename[filename.rfind("/") + 1 :].partition(".")[0]
    for text in (name, stem):
        if text in native:
            refuse("native", "ctypes", absent, denied)
        if text in unhooked:
            refuse("native", text, absent, denied)


def _judge_run(event, args, refuse, denied, absent, pid, run, str, bytes, list, int, type):
    """Say which program was wanted. With a `run` grant the keeper decides, and its refusal comes here as an event."""
    if event == "os.kill" and type(args[0]) is int and args[0] == pid:
        return
    if run and (event == "subprocess.Popen" or event == "_posixsubprocess.fork_exec"):
        return
    if event == "plughold.run" and type(args[0]) is str and type(args[1]) is str:
        refuse("run", args[0], args[1], denied)
    program = args[0] if args else None
    if event == "subprocess.Popen" and program is None and type(args[1]) is list and args[1]:
        program = args[1][0]
    if type(program) is list and program:
        program = program[0]
    if type(program) is bytes:
        program = str(program, "utf-8", "backslashreplace")
    if type(program) is not str or event in ("os.kill", "os.killpg"):
        program = event
    refuse("run", program, absent, denied)


def _hook(
    event, args,
    harmless, judged, namespaces, judge_open, judge_path, judge_import, judge_network, judge_run, refuse,
    denied, interpreter_denied, interpreter, absent, kernel, own, adding, str, int, type,
):  # fmt: skip
    """The hook itself, ordered by how often events come."""
    if event in harmless:
        return
    if event == "open":
        judge_open(args[0], args[1], args[2])
    elif event == "import":
        judge_import(args[0], args[1])
    elif event == "object.__setattr__":
        if args[1] in ("__code__", "__defaults__", "__kwdefaults__") and args[0] in own:
            refuse(interpreter, event + " " + args[1], absent, interpreter_denied)
    elif event in ("os.listdir", "os.scandir", "os.getxattr", "os.listxattr", "os.chdir"):
        judge_path("." if args[0] is None else args[0], False, True, False)
    elif event in ("os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.utime", "os.chown"):
        # The last argument is dir_fd, -1 where none was given (CPython, Modules/posixmodule.c).
        follow = event in ("os.chmod", "os.utime", "os.chown")
        if args[-1] == -1:
            judge_path(args[0], True, follow, False)
        elif not kernel:
            refuse("fs.write", event + " relative to a descriptor", absent, denied)
    elif event in ("os.setxattr", "os.removexattr", "os.truncate"):
        if event != "os.truncate" or type(args[0]) is not int:
            judge_path(args[0], True, True, False)
    elif event in ("os.link", "os.rename", "os.symlink"):
        if not kernel and (args[-1] != -1 or (event != "os.symlink" and args[-2] != -1)):
            refuse("fs.write", event + " relative to a descriptor", absent, denied)
        if event == "os.link":
            judge_path(args[0], False, True, args[2] != -1)
        if event != "os.symlink":
            judge_path(args[0], True, False, args[2] != -1)
        judge_path(args[1], True, False, args[-1] != -1)
    elif event == "sqlite3.connect":
        if type(args[0]) is not str:
            if not kernel:
                refuse("fs.write", "a database name that is no str", absent, denied)
        elif not kernel and args[0][:5] == "file:":
            refuse("fs.write", "a database named by a URI", absent, denied)
        elif args[0] not in (":memory:", "") and args[0][:5] != "file:":
            judge_path(args[0], not kernel, True, False)
    elif event[:7] == "socket." and event in judged:
        judge_network(event, args)
    elif event[:7] == "syslog." and event in judged:
        refuse("net.connect", "unix:/dev/log", absent, denied)
    elif event[:8] == "sqlite3." and event in judged:
        refuse("native", "SQLite extensions", absent, denied)
    elif event in judged:
        judge_run(event, args)
    elif event == "sys.addaudithook" and adding():
        return  # a hook more can only refuse more
    elif event[: event.find(".")] in namespaces or "." not in event:
        refuse(interpreter, event, absent, interpreter_denied)


def build(
    rules: dict[str, Any], *, kernel: bool, event_fd: int, pid: int, adding: Callable[[], bool] = bool
) -> Callable[[str, tuple[object, ...]], None]:
    """The hook for one worker.

    `rules` holds tuples of path prefixes that end in "/": ``read`` and ``write``, each (allow, special, deny) as
    `permissions.path_verdict` takes them, and ``libraries``, the folders and files whose compiled modules may load;
    ``calls``, those of FOREIGN_CALLS that are granted; ``run``, whether commands are; ``network`` is empty or the
    tables of `audit_network`, ``handed`` says that its calls are handed over (`_handed`). `kernel` says that Landlock
    judges every open beneath; `event_fd` is where denials are reported; `pid` is the worker's own. While `adding` says
    True, a further hook may be installed (`narrower`).
    """
    own: list[Callable[..., Any]] = []
    calls, run = rules.get("calls", ()), bool(rules.get("run"))

    def bind(function: Any, *defaults: object) -> Callable[..., Any]:
        own.append(detached(function, *defaults))
        return own[-1]

    refuse = bind(_refuse, event_fd, posix.write, bind(event_record, TARGET_LIMIT, len), DENY_RULE, OSError)
    if kernel:
        locate = bind(_locate_lexically, bind(permissions.normalise), posix.getcwd)
    else:
        locate = bind(
            _locate_really, posix.lstat, posix.readlink, posix.getcwd, PermissionDenied, FileNotFoundError, len
        )
    judge_path = bind(
        _judge_path, locate, bind(permissions.path_verdict), refuse, PermissionDenied, rules["read"], rules["write"],
        ABSENT, DENY_RULE, "" if kernel else "/proc/self/fd/", posix.readlink, str, bytes, int, type,
    )  # fmt: skip
    judge_open = bind(_judge_open, judge_path, refuse, PermissionDenied, ABSENT, kernel, str, bytes, int, type, bool)
    unhooked = UNHOOKED if kernel else UNHOOKED | UNSEEN_FILES
    judge_import = bind(
        _judge_import, refuse, ImportDenied, FOREIGN_CALLS.difference(calls), unhooked, rules["libraries"], ABSENT,
        str, type,
    )  # fmt: skip
    network = rules.get("network", ())
    handed = bool(rules.get("handed"))
    judge_network = bind(*audit_network.arguments(bind, network, refuse, ABSENT, DENY_RULE, handed=handed))
    judge_run = bind(_judge_run, refuse, PermissionDenied, ABSENT, pid, run, str, bytes, list, int, type)
    judged = JUDGED | {COMMAND_REFUSED} if run else JUDGED
    namespaces = NAMESPACES - {"ctypes"} if "ctypes" in calls else NAMESPACES
    return detached(
        _hook, HARMLESS, judged, namespaces, judge_open, judge_path, judge_import, judge_network, judge_run, refuse,
        PermissionDenied, InterpreterDenied, INTERPRETER, ABSENT, kernel, tuple(own), adding, str, int, type,
    )  # fmt: skip
