"""What a worker may ask of the kernel: an allow-list of system calls. Pure.

Allowed is what CPython, its standard library and common extension modules need. Refused by name, each with its reason,
is what is dangerous and known; every other number, also one of a future kernel, is ENOSYS, for which libc and programs
have a fall-back. Landlock says which files; this filter closes what Landlock does not cover: the network beyond TCP,
other processes of the same user, metadata of files, executable anonymous memory.

A worker with a grant for it has a filter that hands what needs a decision on memory or descriptors (an address, a file)
to the broker: `BROKERED`. All else of it is the filter of every worker.

Argument positions are those of the kernel, not of libc (syscall(2), "Architecture calling conventions"; both
architectures agree on every call that is checked here).
"""

from __future__ import annotations

from .bpf import ALLOW, NOTIFY, Slot, any_bit, compile_filter, equals, fail_with, masked, no_bit, null, one_of, pointers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Final

    from .bpf import Condition, Program, Rule
    from .syscalls import Architecture

EPERM: Final = fail_with(1)
EACCES: Final = fail_with(13)
EINVAL: Final = fail_with(22)
ENOTTY: Final = fail_with(25)
ENOSYS: Final = fail_with(38)
ENOPROTOOPT: Final = fail_with(92)
ENOTSUP: Final = fail_with(95)
PRETEND: Final = fail_with(0)
"""Answer success without doing anything."""

PID: Final = Slot("pid")
EXEC_ARGUMENTS: Final = ("path", "argv", "envp")
"""The addresses that `exec_gate` chooses and that execve(2) must be called with."""

ALLOWED: Final = {
    "descriptors": """
        read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range dup dup2 dup3
        poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 pipe pipe2
        eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime timerfd_gettime sendfile splice tee
        copy_file_range fsync fdatasync sync_file_range ftruncate fadvise64 readahead""",
    "files, which Landlock decides": """
        stat lstat fstat newfstatat statx access faccessat faccessat2 readlink readlinkat getdents getdents64 getcwd
        chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat
        statfs fstatfs umask""",
    "memory": """
        brk munmap mremap madvise msync mincore mlock mlock2 munlock mlockall munlockall membarrier mseal pkey_alloc
        pkey_free map_shadow_stack""",
    "threads and the end of a process": """
        futex futex_waitv futex_wake futex_wait futex_requeue set_robust_list rseq set_tid_address sched_yield
        sched_getaffinity sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min gettid getcpu
        exit exit_group wait4 waitid restart_syscall""",
    "clocks and timers": """
        nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times getitimer setitimer alarm
        timer_create timer_settime timer_gettime timer_getoverrun timer_delete""",
    "signals to itself": """
        rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack pause""",
    "who and where am I": """
        getpid getppid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp getpgid getsid getpriority
        ioprio_get uname sysinfo getrusage getrandom getrlimit setrlimit capget""",
    "socket pairs": "recvfrom recvmsg recvmmsg shutdown getsockopt getsockname getpeername",
}
"""Allowed whatever the arguments, by purpose."""

METADATA: Final = "chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes utimensat futimesat"
"""Calls that shutil.copy, zipfile and the like expect to work; the filter can't judge their paths."""

REFUSED: Final = (
    (
        EPERM,
        "steers, reads or signals other processes",
        """ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_open pidfd_getfd
        pidfd_send_signal tkill rt_sigqueueinfo rt_tgsigqueueinfo sched_setattr sched_setparam sched_setscheduler
        ioprio_set migrate_pages move_pages""",
    ),
    (EPERM, "makes processes or runs programs", "fork vfork execveat setsid setpgid"),
    (ENOSYS, "keeps its flags in memory, where a filter can't read them; libc falls back", "clone3 openat2"),
    (EPERM, "does other calls' work past the filter", "io_uring_setup io_uring_enter io_uring_register"),
    (EACCES, "reaches the network; EACCES because it is a permission that a plugin can lack", "socket"),
    (EPERM, "re-aims, names or opens up a socket", "connect bind listen accept accept4"),
    (
        EPERM,
        "gives memory that no limit counts, executable past the rule for mappings",
        "memfd_create memfd_secret userfaultfd vmsplice remap_file_pages",
    ),
    (
        EPERM,
        "changes who the process is",
        "setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset",
    ),
    (
        EPERM,
        "changes what the process sees of the system",
        """mount umount2 pivot_root chroot unshare setns fsopen fsconfig fsmount fspick open_tree open_tree_attr
        move_mount mount_setattr""",
    ),
    (
        EPERM,
        "reaches files past Landlock, or watches them",
        """open_by_handle_at name_to_handle_at fanotify_init fanotify_mark inotify_init inotify_init1
        inotify_add_watch quotactl quotactl_fd""",
    ),
    (EPERM, "makes devices, FIFOs and sockets", "mknod mknodat"),
    (EPERM, "changes attributes of files that Landlock does not guard", "file_setattr"),
    (
        EPERM,
        "shares objects between all processes of a user",
        """shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl mq_open mq_unlink
        mq_timedsend mq_timedreceive mq_notify mq_getsetattr keyctl add_key request_key""",
    ),
    (EPERM, "loads programs into the kernel or replaces walls", "bpf perf_event_open seccomp"),
    (
        EPERM,
        "stacks walls, of which the kernel has few",
        "landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    ),
    (
        EPERM,
        "administers the machine",
        """init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff acct settimeofday
        clock_settime clock_adjtime adjtimex sethostname setdomainname iopl ioperm modify_ldt syslog vhangup
        mbind set_mempolicy set_mempolicy_home_node get_mempolicy lookup_dcookie nfsservctl""",
    ),
    (EACCES, "changes metadata, which Landlock does not cover; a permission that a plugin can lack", METADATA),
    (
        ENOTSUP,
        "extended attributes, answered as by a file system without them, which callers know how to take",
        """setxattr lsetxattr fsetxattr setxattrat getxattr lgetxattr fgetxattr getxattrat listxattr llistxattr
        flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat""",
    ),
)
"""Refused whatever the arguments: (action, what the calls do, names)."""

# What a pthread_create of glibc or musl sets (include/uapi/linux/sched.h), and nothing that leaves the process.
_CLONE_THREAD: Final = 0x00010000
_CLONE_OF_PTHREADS: Final = 0x017D0F00

# What fork, vfork and posix_spawn of glibc or musl set besides: the signal at the end, CLONE_VFORK.
_CLONE_OF_FORKS: Final = _CLONE_OF_PTHREADS | 0x40FF

_PROT_WRITE: Final = 0x2
_PROT_EXEC: Final = 0x4
_MAP_ANONYMOUS: Final = 0x20

_O_ACCMODE: Final = 0o3
_O_CREAT_OR_TMPFILE: Final = 0o20000100
_O_TRUNC: Final = 0o1000
_SETUID_SETGID: Final = 0o6000

_MSG_FASTOPEN: Final = 0x20000000
_AF_UNIX: Final = 1
_SOCK_TYPE: Final = 0xF  # the rest of the argument is SOCK_NONBLOCK and SOCK_CLOEXEC
_SOCK_STREAM: Final = 1
_SOCK_SEQPACKET: Final = 5
_SOL_SOCKET: Final = 1
# SO_REUSEADDR SO_SNDBUF SO_RCVBUF SO_KEEPALIVE SO_LINGER SO_RCVTIMEO SO_SNDTIMEO: none attaches a program to a socket
_SOCKET_OPTIONS: Final = (2, 7, 8, 9, 13, 20, 21)

# F_DUPFD F_GETFD F_SETFD F_GETFL F_SETFL F_GETLK F_SETLK F_SETLKW F_GETOWN, the F_OFD_* locks, F_DUPFD_CLOEXEC,
# F_GETPIPE_SZ. Not F_SETOWN and F_SETSIG (signals to others), F_NOTIFY and F_SETLEASE (watch others' files),
# F_SETPIPE_SZ (uses up the user's share of pipe memory, pipe(7)), F_ADD_SEALS (memfd only).
_FCNTL: Final = (0, 1, 2, 3, 4, 5, 6, 7, 9, 36, 37, 38, 1030, 1032)
# FIONREAD FIONBIO FIONCLEX FIOCLEX TCGETS TIOCGWINSZ FICLONE FICLONERANGE
_IOCTL: Final = (0x541B, 0x5421, 0x5450, 0x5451, 0x5401, 0x5413, 0x40049409, 0x4020940D)
# PR_GET_PDEATHSIG PR_GET_DUMPABLE PR_SET_NAME PR_GET_NAME PR_GET_SECCOMP PR_CAPBSET_READ PR_GET_NO_NEW_PRIVS
# PR_SET_THP_DISABLE PR_GET_THP_DISABLE PR_SET_VMA (names of mappings)
_PRCTL: Final = (2, 3, 15, 16, 21, 23, 39, 41, 42, 0x53564D41)
# ARCH_SET_GS ARCH_SET_FS ARCH_GET_FS ARCH_GET_GS ARCH_GET_CPUID, ARCH_GET_XCOMP_SUPP/PERM and ARCH_REQ_XCOMP_PERM
# for AMX, ARCH_SHSTK_ENABLE/DISABLE/LOCK/STATUS
_ARCH_PRCTL: Final = (0x1001, 0x1002, 0x1003, 0x1004, 0x1011, 0x1021, 0x1022, 0x1023, 0x5001, 0x5002, 0x5003, 0x5005)
_PERSONALITY_QUERY: Final = 0xFFFFFFFF

_TRUNCATE_ABI: Final = 3  # the first Landlock that guards truncation

_LOCK_NB: Final = 0x4
_LOCK_UN: Final = 0x8

_NETWORK: Final = ("connect", "listen", "names", "unix")
HANDED: Final = "handed"
BROKERED: Final = (*_NETWORK, "metadata", "locks", HANDED)
"""What the broker may be asked: connections, listeners, the addresses of names; "unix", that both may be by path;
modes, owners and times of files; locks of files (flock(2)); "handed", that the worker's Python code asks what is of the
network, for the kernel can't."""

_AF_INET: Final = (2, 10)  # AF_INET, AF_INET6
_TCP: Final = (0, 6)  # the default and IPPROTO_TCP; not MPTCP, whose subflows no one decides
_IPPROTO_TCP: Final = 6
# TCP_NODELAY TCP_CORK TCP_KEEPIDLE TCP_KEEPINTVL TCP_KEEPCNT TCP_DEFER_ACCEPT TCP_QUICKACK TCP_USER_TIMEOUT. Not
# TCP_FASTOPEN_CONNECT (connects when it sends), TCP_REPAIR (forges connections), TCP_ULP (loads modules).
_TCP_OPTIONS: Final = (1, 3, 4, 5, 6, 9, 12, 18)
_IPPROTO_IPV6: Final = 41
_IPV6_V6ONLY: Final = 26


def worker_filter(
    architecture: Architecture,
    landlock_abi: int | None,
    brokered: Collection[str] = (),
    *,
    metadata: bool = False,
    unjudged: bool = False,
    execs: bool = True,
) -> Program:
    """The filter of a worker: slots "pid" (its own), "path", "argv", "envp" (addresses of its one execve).

    Without `execs` the first slot alone: no execve passes.

    `landlock_abi` is the version that guards the worker's files, None where Landlock does not; `brokered` what of
    `BROKERED` the broker answers for it. `metadata` lets the calls that change it through: for a worker that has only
    read-only mounts beside what it may write. `unjudged` is for one that may write where there is no broker: its locks
    pass, and what else would change metadata reports success without effect.
    """
    rules = worker_rules(landlock_abi, brokered, metadata=metadata, unjudged=unjudged)
    if not execs:
        rules["execve"] = EPERM
    return compile_filter(rules, ENOSYS, architecture)


def worker_rules(
    landlock_abi: int | None, brokered: Collection[str] = (), *, metadata: bool = False, unjudged: bool = False
) -> dict[str, Rule]:
    """The rule of every call that the profile names, on any architecture; arguments as in `worker_filter`."""
    rules: dict[str, Rule] = {name: ALLOW for names in ALLOWED.values() for name in names.split()}
    rules.update((name, action) for action, _, names in REFUSED for name in names.split())
    rules.update(_process_rules())
    rules.update(_memory_rules())
    asks = HANDED not in brokered
    old_landlock = landlock_abi is not None and landlock_abi < _TRUNCATE_ABI
    rules.update(_file_rules(old_landlock=old_landlock, otherwise=NOTIFY if asks and "names" in brokered else ALLOW))
    rules.update(_lock_rules(NOTIFY if "locks" in brokered else ALLOW if unjudged else ENOSYS))
    if metadata or "metadata" in brokered:
        rules.update(_metadata_rules(ALLOW if metadata else NOTIFY))
    elif unjudged:
        rules.update(dict.fromkeys(METADATA.split(), PRETEND))
    rules.update(_socket_rules())
    if not set(brokered).isdisjoint(_NETWORK):
        rules.update(_network_rules(brokered))
    rules.update(_multiplexer_rules())
    return rules


def command_filter(architecture: Architecture, landlock_abi: int | None, *, metadata: bool, forks: bool) -> Program:
    """The filter of a command that a worker was granted; slots and arguments as in `worker_filter`.

    It has no network, and one execve like a worker: what it is told to start is refused, whatever that is. With `forks`
    it may have children and signal them: only where the kernel keeps signals within its own processes.
    """
    rules = worker_rules(landlock_abi, metadata=metadata)
    if not metadata:  # no broker to judge them, and programs that write expect them to work
        rules.update(dict.fromkeys(METADATA.split(), PRETEND))
    if forks:
        rules.update(dict.fromkeys(("fork", "vfork", "setsid", "setpgid", "kill", "tgkill"), ALLOW))
        rules["clone"] = _only(no_bit(0, 0xFFFFFFFF ^ _CLONE_OF_FORKS))
        # What it leaves behind outlives its pid, which then is another process's: so by 0, "itself", alone.
        rules.update(dict.fromkeys(("prlimit64", "sched_setaffinity", "get_robust_list"), _only(equals(0, 0))))
        rules["setpriority"] = _only(equals(0, 0), equals(1, 0))
    return compile_filter(rules, ENOSYS, architecture)


def _only(*conditions: Condition, otherwise: int = EPERM) -> Rule:
    return ((conditions, ALLOW), otherwise)


def _process_rules() -> dict[str, Rule]:
    """Threads and nothing else; and the calls that take a pid reach this process alone.

    Landlock lets prlimit64 and setpriority through to every process of the same user, the host included.
    """
    itself = one_of(0, (0, PID))
    return {
        "clone": _only(any_bit(0, _CLONE_THREAD), no_bit(0, 0xFFFFFFFF ^ _CLONE_OF_PTHREADS)),
        "execve": _only(pointers(*EXEC_ARGUMENTS)),
        "kill": _only(equals(0, PID)),
        "tgkill": _only(equals(0, PID)),
        "prlimit64": _only(itself),
        "sched_setaffinity": _only(itself),
        "get_robust_list": _only(itself),
        "setpriority": _only(equals(0, 0), one_of(1, (0, PID))),  # PRIO_PROCESS
    }


def _memory_rules() -> dict[str, Rule]:
    """Code comes from files: executable mappings have a file behind them and are never writable.

    What dlopen(3) does passes; anonymous memory never becomes code. Code that a plugin writes into a granted file it
    may map from there: it stays inside the same walls.
    """
    no_code = no_bit(2, _PROT_EXEC)
    code_of_a_file = (masked(2, _PROT_EXEC | _PROT_WRITE, _PROT_EXEC), no_bit(3, _MAP_ANONYMOUS))
    return {
        "mmap": (((no_code,), ALLOW), (code_of_a_file, ALLOW), EPERM),
        "mprotect": _only(no_code),
        "pkey_mprotect": _only(no_code),
    }


def _file_rules(*, old_landlock: bool, otherwise: int) -> dict[str, Rule]:
    """No file is made set-uid or set-gid (chmod does nothing anyway).

    Where names are granted, `otherwise` asks the broker, which gives the worker its /etc/hosts and lets every other
    name pass to Landlock.

    Landlock before ABI 3 does not guard truncation: there truncate(2) is refused, and O_TRUNC needs an access mode
    that Landlock takes for writing. Mode 3 is not one: the kernel gives such a file neither FMODE_READ nor
    FMODE_WRITE (open(2), "Linux reserves the special, nonstandard access mode 3").
    """

    def opening(flags: int, mode: int) -> Rule:
        set_id = ((any_bit(flags, _O_CREAT_OR_TMPFILE), any_bit(mode, _SETUID_SETGID)), EPERM)
        if not old_landlock:
            return (set_id, otherwise)
        unguarded = [((any_bit(flags, _O_TRUNC), masked(flags, _O_ACCMODE, how)), EACCES) for how in (0, 3)]
        return (set_id, *unguarded, otherwise)

    return {
        "open": opening(1, 2),
        "openat": opening(2, 3),
        "creat": (((any_bit(1, _SETUID_SETGID),), EPERM), ALLOW),
        "truncate": EACCES if old_landlock else ALLOW,
        "fallocate": _only(equals(1, 0)),  # no mode: keeping the size would hide the blocks from RLIMIT_FSIZE
    }


def _lock_rules(wanted: int) -> dict[str, Rule]:
    """A lock keeps others waiting, and flock(2) takes one on a file that may only be read; giving it up harms no one.

    Where nothing may be written, ENOSYS: what programs know of file systems without locks (`broker.files`).
    """
    return {"flock": (((masked(1, 0xFFFFFFFF ^ _LOCK_NB, _LOCK_UN),), ALLOW), wanted)}


def _metadata_rules(otherwise: int) -> dict[str, Rule]:
    """All but set-uid and set-gid. A new owner is the kernel's to refuse: without CAP_CHOWN a file can't be given away,
    and in a user namespace no other user or group even has a number (chown(2), user_namespaces(7)).
    """
    rules: dict[str, Rule] = dict.fromkeys(METADATA.split(), otherwise)
    modes = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2}
    rules.update((name, (((no_bit(mode, _SETUID_SETGID),), otherwise), EPERM)) for name, mode in modes.items())
    return rules


def _socket_rules() -> dict[str, Rule]:
    """Connected pairs within the process (asyncio wakes itself with one), and no way from them to anywhere.

    A datagram pair could send to any socket in the file system; MSG_FASTOPEN connects without connect(2).
    """
    return {
        "socketpair": (
            *(((equals(0, _AF_UNIX), masked(1, _SOCK_TYPE, kind)), ALLOW) for kind in (_SOCK_STREAM, _SOCK_SEQPACKET)),
            EPERM,
        ),
        "sendto": _only(null(4), no_bit(3, _MSG_FASTOPEN)),
        "sendmsg": _only(no_bit(2, _MSG_FASTOPEN)),
        "sendmmsg": _only(no_bit(3, _MSG_FASTOPEN)),
        "setsockopt": _only(equals(1, _SOL_SOCKET), one_of(2, _SOCKET_OPTIONS), otherwise=ENOPROTOOPT),
    }


def _network_rules(brokered: Collection[str]) -> dict[str, Rule]:
    """Stream sockets, whose way to anywhere the broker opens: connect(2), bind(2), listen(2).

    No datagrams, whose every message may have an address of its own (unix(7): in the file system too).
    """
    stream = masked(1, _SOCK_TYPE, _SOCK_STREAM)
    by_path = (((equals(0, _AF_UNIX), stream, equals(2, 0)), ALLOW),) if "unix" in brokered else ()
    rules: dict[str, Rule] = {
        "socket": (((one_of(0, _AF_INET), stream, one_of(2, _TCP)), ALLOW), *by_path, EACCES),
        "setsockopt": (
            ((equals(1, _SOL_SOCKET), one_of(2, _SOCKET_OPTIONS)), ALLOW),
            ((equals(1, _IPPROTO_TCP), one_of(2, _TCP_OPTIONS)), ALLOW),
            ((equals(1, _IPPROTO_IPV6), equals(2, _IPV6_V6ONLY)), ALLOW),
            ENOPROTOOPT,
        ),
    }
    asks = HANDED not in brokered
    if "connect" in brokered and asks:
        rules["connect"] = NOTIFY
    if "listen" in brokered:
        rules |= {"accept": ALLOW, "accept4": ALLOW} | ({"bind": NOTIFY, "listen": NOTIFY} if asks else {})
    return rules


def _multiplexer_rules() -> dict[str, Rule]:
    """Calls that are many calls in one, by the value that selects."""
    return {
        "fcntl": _only(one_of(1, _FCNTL)),
        "ioctl": _only(one_of(1, _IOCTL), otherwise=ENOTTY),
        "prctl": _only(one_of(0, _PRCTL)),
        "arch_prctl": _only(one_of(0, _ARCH_PRCTL), otherwise=EINVAL),
        "personality": _only(equals(0, _PERSONALITY_QUERY)),
    }
