"""Run a command under what Docker's default profile refuses: ``python -m tests.under_docker COMMAND [ARGUMENT …]``.

No container is made. The command gets a seccomp filter that answers as that profile does to a container without added
capabilities (moby's profiles/seccomp/default.json, an allow-list: what is named here is the rest of the table), and of
root's capabilities those that Docker leaves a container. What Docker does beside that, namespaces, AppArmor and masked
paths, is not there. Needs nothing but `sandbox_worker` and the standard library.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from sandbox_worker.walls import linux
from sandbox_worker.walls.bpf import ALLOW, compile_filter, fail_with, no_bit, one_of

if TYPE_CHECKING:
    from sandbox_worker.walls.bpf import Rule
    from sandbox_worker.walls.syscalls import Architecture

EPERM: Final = fail_with(1)
ENOSYS: Final = fail_with(38)

REFUSED: Final = {
    "views of the system": """mount umount2 pivot_root unshare setns fsopen fsconfig fsmount fspick move_mount
        mount_setattr open_tree open_tree_attr sethostname setdomainname""",
    "other processes": """pidfd_getfd kcmp process_madvise migrate_pages move_pages mbind get_mempolicy set_mempolicy
        set_mempolicy_home_node""",
    "ways into the kernel": """bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register keyctl
        add_key request_key fanotify_init open_by_handle_at lookup_dcookie lsm_get_self_attr lsm_set_self_attr
        lsm_list_modules file_getattr file_setattr""",
    "the machine": """reboot kexec_load kexec_file_load init_module finit_module delete_module create_module
        query_module get_kernel_syms acct swapon swapoff syslog vhangup quotactl quotactl_fd clock_settime settimeofday
        iopl ioperm nfsservctl""",
    "what is long gone": "_sysctl uselib ustat sysfs vserver afs_syscall tuxcall security getpmsg putpmsg",
}
"""Refused whatever the arguments; all else of the table passes but what `rules` says by argument."""

_NEW_NAMESPACES: Final = 0x7E020000  # CLONE_NEWNS to CLONE_NEWNET
_PERSONALITIES: Final = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
# AF_* up to AF_MCTP but those that the profile leaves out, AF_ALG (38) and AF_VSOCK (40) among them
_FAMILIES: Final = tuple(family for family in range(46) if family not in (12, 19, 20, 23, 25, 34, 37, 38, 40))

# capabilities(7): CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD
# AUDIT_WRITE SETFCAP
CAPABILITIES: Final = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31)

_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38


def rules() -> dict[str, Rule]:
    """The rule of every call that is refused, whole or by argument."""
    found: dict[str, Rule] = {name: EPERM for names in REFUSED.values() for name in names.split()}
    found["clone3"] = ENOSYS  # its flags lie in memory, and libc falls back to clone
    found["clone"] = (((no_bit(0, _NEW_NAMESPACES),), ALLOW), EPERM)
    found["socket"] = (((one_of(0, _FAMILIES),), ALLOW), EPERM)
    found["personality"] = (((one_of(0, _PERSONALITIES),), ALLOW), EPERM)
    return found


def program(architecture: Architecture) -> bytes:
    """The filter's code; a call that the table does not know, thus newer, is ENOSYS, as container engines have it."""
    known: dict[str, Rule] = dict.fromkeys(architecture.numbers, ALLOW)
    return compile_filter(known | rules(), ENOSYS, architecture).patch({})


def install() -> None:
    """Put this process, and all that it becomes, under the filter."""
    if linux.ARCHITECTURE is None:
        raise SystemExit("under_docker: no table of system calls for this machine")
    linux.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    linux.install_filter(program(linux.ARCHITECTURE))


def _leave_capabilities() -> None:
    """Take from the bounding set what Docker takes: an exec by root then gives no more. Others have none to lose."""
    for capability in range(41):
        if capability not in CAPABILITIES and os.geteuid() == 0:
            linux.prctl(_PR_CAPBSET_DROP, capability)


def main(command: list[str]) -> None:
    """Become the command. Returns only by raising."""
    if not command:
        raise SystemExit("usage: python -m tests.under_docker COMMAND [ARGUMENT …]")
    _leave_capabilities()
    install()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
