"""System calls made in another process, by ptrace(2): how a forked worker gets walls without having ctypes in it.

The other process is a child of ours that is about to read from a descriptor. It is stopped there; each call borrows the
very instruction that enters the kernel for that read, so that nothing is ever put into its code; in the end it is let
go to make the read that it wanted. What it sees of all this is nothing.

Registers are those of x86_64 (struct user_regs_struct in asm/user.h); on another machine `SUPPORTED` is False.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from struct import Struct, pack

from . import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

SUPPORTED: Final = linux.MACHINE == "x86_64"

# include/uapi/linux/ptrace.h
_CONT_TO_CALL: Final = 24  # PTRACE_SYSCALL
_STEP: Final = 9
_DETACH: Final = 17
_GETREGSET: Final = 0x4204
_SETREGSET: Final = 0x4205
_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_GET_CALL: Final = 0x420E  # PTRACE_GET_SYSCALL_INFO
_GET_EVENT: Final = 0x4201  # PTRACE_GETEVENTMSG
_OPTIONS: Final = 0x0010000B  # PTRACE_O_EXITKILL, _TRACESYSGOOD, _TRACEFORK, _TRACECLONE
_AT_CALL: Final = signal.SIGTRAP | 0x80
_ENTRY: Final = 1  # PTRACE_SYSCALL_INFO_ENTRY
_GENERAL: Final = 1  # NT_PRSTATUS

_REGISTERS: Final = Struct("=27Q")
# Positions of rax, orig_rax, rip, and of a call's arguments: rdi, rsi, rdx, r10, r8, r9
_RESULT, _CALL, _NEXT = 10, 15, 16
_ARGUMENTS: Final = (14, 13, 12, 7, 9, 8)
_INSTRUCTION: Final = 2  # bytes of `syscall`
_NO_CALL: Final = 2**64 - 1
_LAST_ERROR: Final = 4095

_CLONE_PARENT: Final = 0x8000
_CALL_INFO: Final = Struct("=BxxxIQQQ6Q")  # struct ptrace_syscall_info at the entry of a call
_PROT_READ_WRITE: Final = 0x3
_MAP_PRIVATE_ANONYMOUS: Final = 0x22
_SCRATCH_SIZE: Final = 1 << 16


def has_ended(pid: int) -> bool:
    """Whether a child of ours is dead; then it has been waited for, and its pid may soon be another's."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return found != 0 and not os.WIFSTOPPED(status)


def end(pid: int) -> None:
    """Kill a child of ours and wait for it, unless its end has been seen already."""
    if not has_ended(pid):
        os.kill(pid, signal.SIGKILL)
        while os.WIFSTOPPED(os.waitpid(pid, 0)[1]):
            pass


class Tracee:
    """A child of ours with one thread, stopped where it is about to read. If this process dies, the kernel kills it."""

    __slots__ = ("_buffer", "_numbers", "_reads", "_registers", "_scratch", "_vector", "pid")

    def __init__(self, pid: int, reads: int, *, traced: bool = False) -> None:
        """Stop the child `pid` where it reads from descriptor `reads`; `traced` if it is traced already.

        OSError where tracing is refused (EPERM: a security module, an outer filter), ChildProcessError when it dies.
        """
        assert linux.ARCHITECTURE is not None
        self.pid = pid
        self._reads = reads
        self._numbers = linux.ARCHITECTURE.numbers
        self._registers: tuple[int, ...] = ()
        self._scratch = 0
        self._buffer = ctypes.create_string_buffer(_REGISTERS.size)
        vector = pack("=QQ", ctypes.addressof(self._buffer), _REGISTERS.size)
        self._vector = ctypes.create_string_buffer(vector, len(vector))
        if not traced:
            linux.syscall("ptrace", _SEIZE, pid, 0, _OPTIONS)
            linux.syscall("ptrace", _INTERRUPT, pid, 0, 0)
        self._wait()
        self._run_to("read")

    def fork(self) -> Tracee:
        """Let it read, which makes it fork, until it is about to read again; gives its copy, in the same place.

        The copy becomes a child of ours: CLONE_PARENT is added to what fork(3) asks the kernel for.
        """
        name = self._run_to("clone", "fork")
        registers = list(self._get())
        if name == "fork":  # musl: it has no flags
            registers[_CALL] = self._numbers["clone"]
            for position in _ARGUMENTS:
                registers[position] = 0
            registers[_ARGUMENTS[0]] = signal.SIGCHLD
        registers[_ARGUMENTS[0]] |= _CLONE_PARENT
        self._set(registers)
        self._go(_CONT_TO_CALL)
        child = ctypes.create_string_buffer(8)
        linux.syscall("ptrace", _GET_EVENT, self.pid, 0, ctypes.addressof(child))
        pid = int.from_bytes(child.raw, "little")
        try:
            copy = Tracee(pid, self._reads, traced=True)
            self._run_to("read")
        except BaseException:
            end(pid)
            raise
        return copy

    def borrow(self) -> None:
        """Put its read off until `release`: it becomes a call that does nothing, and its instruction is free."""
        self._registers = self._get()
        registers = list(self._registers)
        registers[_CALL] = self._numbers["getpid"]  # not -1, which an outer filter may take for another ABI's
        self._set(registers)
        self._go(_CONT_TO_CALL)

    def call(self, name: str, *arguments: int) -> int:
        """Have it make a system call; its result. After `borrow`.

        OSError with the kernel's errno, ChildProcessError when it dies.
        """
        registers = list(self._registers)
        registers[_NEXT] -= _INSTRUCTION
        registers[_RESULT] = self._numbers[name]
        registers[_CALL] = _NO_CALL
        for position, argument in zip(_ARGUMENTS, arguments, strict=False):
            registers[position] = argument % 2**64
        self._set(registers)
        self._go(_STEP)
        after = self._get()
        if after[_NEXT] != self._registers[_NEXT]:
            raise OSError(errno.EIO, "it did not come back from the call", name)
        result = after[_RESULT]
        if result >= 2**64 - _LAST_ERROR:
            raise OSError(2**64 - result, os.strerror(2**64 - result), name)
        return result

    def hold(self, data: bytes | Callable[[int], bytes]) -> int:
        """Put data into memory of its own, until `release`; gives the address, from which the data may be made.

        Replaces what was held before.
        """
        if not self._scratch:
            self._scratch = self.call("mmap", 0, _SCRATCH_SIZE, _PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS, -1, 0)
        content = data if isinstance(data, bytes) else data(self._scratch)
        self._copy("process_vm_writev", ctypes.create_string_buffer(content, len(content)))
        return self._scratch

    def held(self, size: int) -> bytes:
        """The first bytes of what it holds, as they are now."""
        buffer = ctypes.create_string_buffer(size)
        self._copy("process_vm_readv", buffer)
        return buffer.raw

    def _copy(self, call: str, local: ctypes.Array[ctypes.c_char]) -> None:
        size = len(local)
        if size > _SCRATCH_SIZE:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG), call)
        here = ctypes.create_string_buffer(pack("=QQ", ctypes.addressof(local), size), 16)
        there = ctypes.create_string_buffer(pack("=QQ", self._scratch, size), 16)
        vectors = ctypes.addressof(here), 1, ctypes.addressof(there), 1
        if linux.syscall(call, self.pid, *vectors, 0) != size:
            raise OSError(errno.EIO, os.strerror(errno.EIO), call)

    def release(self) -> None:
        """Give back its memory and let it go on with the read at which it was stopped."""
        if self._scratch:
            self.call("munmap", self._scratch, _SCRATCH_SIZE)
        registers = list(self._registers)
        registers[_NEXT] -= _INSTRUCTION
        registers[_RESULT] = registers[_CALL]
        registers[_CALL] = _NO_CALL
        self._set(registers)
        linux.syscall("ptrace", _DETACH, self.pid, 0, 0)

    def _run_to(self, *names: str) -> str:
        """Run it until it enters one of these calls, a read that of its descriptor; gives which."""
        wanted = {self._numbers[name]: name for name in names if name in self._numbers}
        info = ctypes.create_string_buffer(_CALL_INFO.size)
        while True:
            self._go(_CONT_TO_CALL)
            linux.syscall("ptrace", _GET_CALL, self.pid, _CALL_INFO.size, ctypes.addressof(info))
            kind, _, _, _, number, first, *_ = _CALL_INFO.unpack(info.raw)
            name = wanted.get(number) if kind == _ENTRY else None
            if name is not None and (name != "read" or first == self._reads):
                return name

    def _go(self, how: int) -> None:
        linux.syscall("ptrace", how, self.pid, 0, 0)
        self._wait()

    def _wait(self) -> None:
        """Until it stops: for us, at a call or after a step. Any other signal means that it is not what we forked."""
        _, status = os.waitpid(self.pid, 0)
        if not os.WIFSTOPPED(status):
            raise ChildProcessError(errno.ECHILD, f"it ended while it was traced, with wait status {status}")
        if os.WSTOPSIG(status) not in (signal.SIGTRAP, _AT_CALL):
            raise ChildProcessError(errno.ECHILD, f"it was stopped by signal {os.WSTOPSIG(status)}")

    def _get(self) -> tuple[int, ...]:
        self._regset(_GETREGSET)
        return _REGISTERS.unpack(self._buffer)

    def _set(self, registers: list[int]) -> None:
        _REGISTERS.pack_into(self._buffer, 0, *registers)
        self._regset(_SETREGSET)

    def _regset(self, how: int) -> None:
        linux.syscall("ptrace", how, self.pid, _GENERAL, ctypes.addressof(self._vector))
