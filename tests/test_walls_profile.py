"""The worker's profile, decided for both architectures by the reference interpreter: no kernel, no foreign machine."""

from __future__ import annotations

from itertools import product
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_worker.walls import profile
from sandbox_worker.walls.bpf import ALLOW, KILL_PROCESS, MAX_INSTRUCTIONS, NOTIFY
from sandbox_worker.walls.bpf_interpreter import simulate
from sandbox_worker.walls.profile import EACCES, EINVAL, ENOPROTOOPT, ENOSYS, ENOTSUP, ENOTTY, EPERM, PRETEND
from sandbox_worker.walls.syscalls import ARCHITECTURES

PID: Final = 4242
PATH, ARGV, ENVP = 0x12_3456_7898, 0x3F_0000_0010, 0x01_0000_0008
SLOTS: Final = {"pid": PID, "path": PATH, "argv": ARGV, "envp": ENVP}
NEWEST: Final = 7
TABLES: Final = list(ARCHITECTURES)
both = pytest.mark.parametrize("machine", TABLES)

_FILTERS: Final = {
    (machine, abi): profile.worker_filter(ARCHITECTURES[machine], abi).patch(SLOTS)
    for machine, abi in product(TABLES, (None, 1, 2, 3, NEWEST))
}

_UNJUDGED: Final = {
    machine: profile.worker_filter(ARCHITECTURES[machine], NEWEST, unjudged=True).patch(SLOTS) for machine in TABLES
}
_WITH_METADATA: Final = {
    machine: profile.worker_filter(ARCHITECTURES[machine], NEWEST, metadata=True).patch(SLOTS) for machine in TABLES
}


def decide(machine: str, call: str | int, *arguments: int, abi: int | None = NEWEST) -> int:
    """The filter's action for one call of the worker 4242."""
    architecture = ARCHITECTURES[machine]
    number = architecture.numbers[call] if isinstance(call, str) else call
    return simulate(_FILTERS[machine, abi], number, arguments, architecture.audit)


def names_of(action: int) -> list[str]:
    """All calls that the profile answers with this action whatever the arguments."""
    return [name for name, rule in profile.worker_rules(NEWEST).items() if rule == action]


# ---------------------------------------------------------------- the lists


@both
def test_every_call_that_the_profile_does_not_name_is_enosys(machine: str) -> None:
    architecture = ARCHITECTURES[machine]
    named = {architecture.numbers[name] for name in profile.worker_rules(NEWEST) if name in architecture.numbers}
    assert {decide(machine, number) for number in range(700) if number not in named} == {ENOSYS}


@both
@pytest.mark.parametrize("action", [ALLOW, EPERM, EACCES, ENOSYS, ENOTSUP])
def test_every_call_with_one_answer_gets_it(machine: str, action: int) -> None:
    existing = [name for name in names_of(action) if name in ARCHITECTURES[machine].numbers]
    assert existing
    assert {decide(machine, name) for name in existing} == {action}


def test_no_call_is_named_twice() -> None:
    groups = [*profile.ALLOWED.values(), *(names for _, _, names in profile.REFUSED)]
    named = [name for names in groups for name in names.split()]
    assert len(named) == len(set(named))
    checked = set(profile.worker_rules(NEWEST)) - set(named)
    assert len(profile.worker_rules(NEWEST)) == len(named) + len(checked)


def test_every_name_is_a_system_call_of_some_architecture() -> None:
    known = {name for architecture in ARCHITECTURES.values() for name in architecture.numbers}
    assert set(profile.worker_rules(NEWEST)) <= known


def test_every_refusal_has_a_reason() -> None:
    assert all(reason and names.split() for _, reason, names in profile.REFUSED)


@both
def test_the_filter_fits_the_kernel(machine: str) -> None:
    assert len(profile.worker_filter(ARCHITECTURES[machine], 1)) <= MAX_INSTRUCTIONS


@pytest.mark.parametrize("machine", TABLES)
@pytest.mark.parametrize("audit", [0x40000003, 0x40000028, 0xC00000F3, 0xC000003E, 0xC00000B7, 0])
def test_calls_of_another_architecture_kill_the_process(machine: str, audit: int) -> None:
    expected = ALLOW if audit == ARCHITECTURES[machine].audit else KILL_PROCESS
    number = ARCHITECTURES[machine].numbers["read"]
    assert simulate(_FILTERS[machine, NEWEST], number, (), audit) == expected


def test_calls_of_the_x32_abi_kill_the_process() -> None:
    assert decide("x86_64", 0x40000000 | 39) == KILL_PROCESS


# ---------------------------------------------------------------- processes


@both
@pytest.mark.parametrize("flags", [0x3D0F00, 0x7D0F00, 0x13D0F00], ids=["glibc", "musl", "glibc with child tid"])
def test_threads_can_be_made(machine: str, flags: int) -> None:
    assert decide(machine, "clone", flags) == ALLOW


@both
@pytest.mark.parametrize(
    "flags",
    [
        17,
        0x4111,
        0x01200011,
        *(0x3D0F00 | flag for flag in (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000)),
        *(0x3D0F00 | flag for flag in (0x40000000, 0x80000000, 0x1000, 0x2000, 0x4000, 0x8000, 0x800000)),
    ],
    ids=hex,
)
def test_processes_and_namespaces_can_not_be_made(machine: str, flags: int) -> None:
    assert decide(machine, "clone", flags) == EPERM


@both
def test_clone3_sends_libc_back_to_clone(machine: str) -> None:
    assert decide(machine, "clone3") == ENOSYS


@both
@given(st.tuples(*[st.integers(0, 2**64 - 1)] * 3) | st.permutations((PATH, ARGV, ENVP)).map(tuple))
def test_execve_passes_with_the_three_secret_addresses_alone(machine: str, addresses: tuple[int, ...]) -> None:
    assert decide(machine, "execve", PATH, ARGV, ENVP) == ALLOW
    assert decide(machine, "execve", *addresses) == (ALLOW if addresses == (PATH, ARGV, ENVP) else EPERM)


@both
@pytest.mark.parametrize("right", [(PATH, ARGV, 0), (PATH, 0, ENVP), (0, ARGV, ENVP), (PATH, ARGV, ENVP + (1 << 32))])
def test_two_right_addresses_and_a_half_are_not_enough(machine: str, right: tuple[int, int, int]) -> None:
    assert decide(machine, "execve", *right) == EPERM


@both
@pytest.mark.parametrize("call", ["kill", "tgkill"])
@pytest.mark.parametrize("target", [0, 1, -1, PID + 1, -PID])
def test_signals_go_to_the_worker_alone(machine: str, call: str, target: int) -> None:
    assert decide(machine, call, PID, 9) == ALLOW
    assert decide(machine, call, target, 9) == EPERM


@both
@pytest.mark.parametrize("call", ["prlimit64", "sched_setaffinity", "get_robust_list"])
def test_calls_that_take_a_pid_reach_the_worker_alone(machine: str, call: str) -> None:
    assert [decide(machine, call, target) for target in (0, PID, 1, -1, PID + 1)] == [ALLOW, ALLOW, EPERM, EPERM, EPERM]


@both
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("who", [0, PID, 1])
def test_setpriority_reaches_the_worker_alone(machine: str, which: int, who: int) -> None:
    assert decide(machine, "setpriority", which, who, 5) == (ALLOW if which == 0 and who in {0, PID} else EPERM)


# ---------------------------------------------------------------- memory


@both
@given(prot=st.integers(0, 7), flags=st.sampled_from((0x1, 0x2, 0x21, 0x22, 0x812, 0x100022)))
def test_executable_mappings_have_a_file_and_are_never_writable(machine: str, prot: int, flags: int) -> None:
    legal = not prot & 4 or (not prot & 2 and not flags & 0x20)
    assert decide(machine, "mmap", 0, 4096, prot, flags, 3, 0) == (ALLOW if legal else EPERM)


@both
@pytest.mark.parametrize("call", ["mprotect", "pkey_mprotect"])
@pytest.mark.parametrize("prot", range(8))
def test_no_mapping_becomes_executable(machine: str, call: str, prot: int) -> None:
    assert decide(machine, call, 0x10000, 4096, prot) == (EPERM if prot & 4 else ALLOW)


@both
@pytest.mark.parametrize("call", ["memfd_create", "memfd_secret", "userfaultfd"])
def test_memory_that_no_limit_counts_is_refused(machine: str, call: str) -> None:
    assert decide(machine, call) == EPERM


# ---------------------------------------------------------------- files


def opening(machine: str, flags: int, mode: int = 0, *, abi: int | None = NEWEST) -> set[int]:
    """The answers to all calls that open a file this way."""
    answers = {decide(machine, "openat", -100, 0, flags, mode, abi=abi)}
    if "open" in ARCHITECTURES[machine].numbers:
        answers.add(decide(machine, "open", 0, flags, mode, abi=abi))
    return answers


@both
@pytest.mark.parametrize("flags", [0o100, 0o101, 0o1102, 0o20000002, 0o20200002], ids=oct)
@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6000, 0o7777], ids=oct)
def test_no_file_is_made_setuid_or_setgid(machine: str, flags: int, mode: int) -> None:
    assert opening(machine, flags, mode) == {EPERM}
    assert opening(machine, flags, mode & 0o1777) == {ALLOW}


@both
def test_the_mode_means_nothing_where_no_file_is_made(machine: str) -> None:
    assert opening(machine, 0o2, 0o7777) == {ALLOW}


def test_creat_makes_no_setuid_file_either() -> None:
    assert [decide("x86_64", "creat", 0, mode) for mode in (0o644, 0o4755, 0o2755)] == [ALLOW, EPERM, EPERM]


@both
@pytest.mark.parametrize("abi", [1, 2])
def test_before_landlock_guards_truncation_the_filter_does(machine: str, abi: int) -> None:
    assert decide(machine, "truncate", abi=abi) == EACCES
    assert opening(machine, 0o1000, abi=abi) == {EACCES}
    assert opening(machine, 0o1003, abi=abi) == {EACCES}
    assert (
        opening(machine, 0o1001, abi=abi)
        == opening(machine, 0o1002, abi=abi)
        == opening(machine, 0, abi=abi)
        == {ALLOW}
    )


@both
@pytest.mark.parametrize("abi", [3, NEWEST, None])
def test_truncation_is_free_where_landlock_guards_it_or_guards_nothing(machine: str, abi: int | None) -> None:
    assert decide(machine, "truncate", abi=abi) == ALLOW
    assert opening(machine, 0o1000, abi=abi) == opening(machine, 0o1003, abi=abi) == {ALLOW}


@both
def test_openat2_sends_callers_back_to_openat(machine: str) -> None:
    assert decide(machine, "openat2") == ENOSYS


@both
@pytest.mark.parametrize("call", ["fchmod", "fchmodat", "fchmodat2", "fchown", "fchownat", "utimensat"])
def test_changes_of_metadata_are_refused_and_without_a_judge_succeed_without_effect(machine: str, call: str) -> None:
    assert decide(machine, call) == EACCES
    architecture = ARCHITECTURES[machine]
    assert simulate(_UNJUDGED[machine], architecture.numbers[call], [], architecture.audit) == PRETEND


@both
@pytest.mark.parametrize("operation", [1, 2, 5, 6, 8, 12, 1 << 32 | 8])
def test_a_lock_is_refused_and_without_a_judge_taken_and_always_given_up(machine: str, operation: int) -> None:
    architecture = ARCHITECTURES[machine]
    number, unlocks = architecture.numbers["flock"], operation & 8
    assert decide(machine, "flock", 3, operation) == (ALLOW if unlocks else ENOSYS)
    assert simulate(_UNJUDGED[machine], number, [3, operation], architecture.audit) == ALLOW
    asked = profile.worker_filter(architecture, NEWEST, ("locks",)).patch(SLOTS)
    assert simulate(asked, number, [3, operation], architecture.audit) == (ALLOW if unlocks else NOTIFY)


@both
def test_a_broker_is_asked_about_metadata_but_not_about_set_uid(machine: str) -> None:
    architecture = ARCHITECTURES[machine]
    asked = profile.worker_filter(architecture, NEWEST, ("metadata",)).patch(SLOTS)
    for call in profile.METADATA.split():
        if call in architecture.numbers:
            assert simulate(asked, architecture.numbers[call], [0] * 6, architecture.audit) == NOTIFY
    assert simulate(asked, architecture.numbers["fchmod"], [3, 0o4755], architecture.audit) == EPERM
    assert simulate(asked, architecture.numbers["socket"], [2, 1, 0], architecture.audit) == EACCES


@both
@pytest.mark.parametrize("verb", ["get", "set", "list", "remove"])
@pytest.mark.parametrize("pattern", ["{}xattr", "l{}xattr", "f{}xattr", "{}xattrat"])
def test_extended_attributes_are_not_supported(machine: str, verb: str, pattern: str) -> None:
    assert decide(machine, pattern.format(verb)) == ENOTSUP


# ---------------------------------------------------------------- network


@both
@given(family=st.integers(-1, 60), kind=st.integers(0, 2**32 - 1), protocol=st.integers(0, 300))
def test_there_are_no_sockets(machine: str, family: int, kind: int, protocol: int) -> None:
    assert decide(machine, "socket", family, kind, protocol) == EACCES


@both
@pytest.mark.parametrize("call", ["connect", "bind", "listen", "accept", "accept4"])
def test_a_socket_goes_nowhere(machine: str, call: str) -> None:
    assert decide(machine, call, 3, 0x1000, 16) == EPERM


@both
@given(family=st.integers(0, 45), kind=st.integers(0, 15), flags=st.sampled_from((0, 0o4000, 0o2000000, 0o2004000)))
def test_socket_pairs_are_connected_unix_streams(machine: str, family: int, kind: int, flags: int) -> None:
    legal = family == 1 and kind in {1, 5}
    assert decide(machine, "socketpair", family, kind | flags, 0) == (ALLOW if legal else EPERM)


@both
@given(address=st.integers(1, 2**64 - 1))
def test_sendto_takes_no_address(machine: str, address: int) -> None:
    assert decide(machine, "sendto", 3, 0, 1, 0x4000, 0, 0) == ALLOW
    assert decide(machine, "sendto", 3, 0, 1, 0x4000, address, 16) == EPERM


@both
@pytest.mark.parametrize(("call", "position"), [("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)])
def test_no_message_connects_on_its_way(machine: str, call: str, position: int) -> None:
    """MSG_FASTOPEN is a connect(2) that no rule for connect(2) sees."""
    arguments = [3, 0x1000, 1, 0, 0, 0]
    arguments[position] = 0x4000
    assert decide(machine, call, *arguments) == ALLOW
    arguments[position] |= 0x20000000
    assert decide(machine, call, *arguments) == EPERM


@both
@pytest.mark.parametrize("option", [26, 50, 51, 52, 36, 12])
def test_no_program_is_attached_to_a_socket(machine: str, option: int) -> None:
    assert decide(machine, "setsockopt", 3, 1, option) == ENOPROTOOPT
    assert decide(machine, "setsockopt", 3, 6, 2) == ENOPROTOOPT
    assert decide(machine, "setsockopt", 3, 1, 7) == ALLOW


# ---------------------------------------------------------------- multiplexers


@both
@pytest.mark.parametrize("command", [0x5412, 0x540E, 0x8901, 0x8902, 0x5423, 0x541C, 0xC0189436])
def test_ioctls_that_are_not_listed_are_refused_whatever_the_high_half(machine: str, command: int) -> None:
    assert decide(machine, "ioctl", 0, command) == ENOTTY
    assert decide(machine, "ioctl", 0, 1 << 32 | command) == ENOTTY


@both
def test_terminal_queries_are_allowed(machine: str) -> None:
    assert decide(machine, "ioctl", 0, 0x5401) == decide(machine, "ioctl", 0, 0x5413) == ALLOW


@both
@pytest.mark.parametrize("command", [8, 10, 15, 1024, 1026, 1031, 1033], ids=str)
def test_fcntl_signals_watches_and_hoards_nothing(machine: str, command: int) -> None:
    """F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY, F_SETPIPE_SZ, F_ADD_SEALS."""
    assert decide(machine, "fcntl", 3, command, 1) == EPERM


@both
@pytest.mark.parametrize("option", [1, 4, 8, 22, 24, 28, 36, 38, 47, 55])
def test_prctl_undoes_no_wall(machine: str, option: int) -> None:
    assert decide(machine, "prctl", option) == EPERM


@both
def test_personality_can_be_read_only(machine: str) -> None:
    assert decide(machine, "personality", 0xFFFFFFFF) == ALLOW
    assert decide(machine, "personality", 0x0400000) == EPERM  # READ_IMPLIES_EXEC


def test_arch_prctl_sets_thread_pointers_and_no_cpu_faults() -> None:
    assert decide("x86_64", "arch_prctl", 0x1002) == ALLOW
    assert decide("x86_64", "arch_prctl", 0x1012) == EINVAL  # ARCH_SET_CPUID


# ---------------------------------------------------------------- metadata, where mounts guard it


@both
@pytest.mark.parametrize(("call", "position"), [("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("fchmodat2", 2)])
@given(mode=st.integers(0, 0o177777))
def test_with_metadata_every_mode_passes_but_set_uid_and_set_gid(
    machine: str, call: str, position: int, mode: int
) -> None:
    architecture = ARCHITECTURES[machine]
    if call not in architecture.numbers:
        return
    arguments = [3] * position + [mode]
    found = simulate(_WITH_METADATA[machine], architecture.numbers[call], arguments, architecture.audit)
    assert found == (EPERM if mode & 0o6000 else ALLOW)


def test_with_metadata_nothing_else_changes() -> None:
    some, more = (profile.worker_rules(NEWEST, metadata=metadata) for metadata in (False, True))
    changed = {name for name in more if more[name] != some.get(name)} - {"execve"}  # its condition has no equality
    assert changed == set(profile.METADATA.split())
