"""A seccomp filter (Linux): the few system calls that a Python program of one process needs, and no others.

Whatever is not named fails with EPERM: a program starts no process, opens no socket, sends no signal, traces and mounts
nothing. Threads are allowed. Numbers: the kernel's own tables, ``asm/unistd_64.h`` and ``asm-generic/unistd.h``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Sequence

NO_NEW_PRIVILEGES, DUMPABLE, SET_SECCOMP, FILTER = 38, 4, 22, 2
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT, SECOND_ARGUMENT = 0, 4, 16, 24
"""Where they stand in what a filter is shown: ``struct seccomp_data``."""
CLONE_THREAD = 0x00010000
NEW_NAMESPACE = 0x7E020080
"""All flags of clone that make a namespace."""
AF_UNIX = 1
OWNERS = (8, 10, 15)
"""Commands of fcntl that say who gets a signal, and which: a way to send them."""
PROCESS_GROUPS = (0x8901, 0x8902)
"""The same of ioctl."""

PLAIN = {
    "x86_64": (0xC000003E, [
        (0, 15), (17, 28), (32, 40), (44, 48), (60, 61), (63, 63), (73, 91), (95, 100), (102, 102), (104, 104),
        (107, 108), (110, 111), (115, 115), (118, 118), (120, 121), (124, 124), (127, 128), (130, 131), (137, 138),
        (143, 143), (145, 145), (158, 158), (186, 186), (201, 202), (204, 204), (213, 213), (217, 219), (221, 221),
        (228, 233), (247, 247), (257, 258), (262, 271), (273, 277), (280, 281), (283, 283), (285, 287), (290, 293),
        (295, 296), (309, 309), (316, 316), (318, 318), (324, 324), (326, 328), (332, 332), (334, 334), (436, 436),
        (439, 439),
    ]),
    "aarch64": (0xC00000B7, [
        (17, 17), (19, 24), (32, 32), (34, 38), (43, 50), (52, 53), (56, 57), (59, 59), (61, 73), (76, 80),
        (82, 88), (93, 96), (98, 103), (113, 115), (120, 121), (123, 124), (128, 128), (132, 137),
        (139, 139), (148, 148), (150, 150), (153, 153), (155, 156), (158, 158), (160, 160), (163, 163), (165, 166),
        (168, 169), (172, 179), (206, 207), (210, 212), (214, 216), (222, 223), (226, 227), (232, 233), (260, 260),
        (276, 276), (278, 278), (283, 283), (285, 287), (291, 291), (293, 293), (436, 436), (439, 439),
    ]),
}  # fmt: skip
"""By machine: (its number for the kernel, first and last number of each run of calls that are allowed as they are)."""
GUARDED = {
    "x86_64": {"clone": 56, "clone3": 435, "socketpair": 53, "prlimit64": 302, "fcntl": 72, "ioctl": 16},
    "aarch64": {"clone": 220, "clone3": 435, "socketpair": 199, "prlimit64": 261, "fcntl": 25, "ioctl": 29},
}
"""Those allowed for some arguments: threads, pipes between threads, limits of the process itself, descriptors without
signals."""


def allowed(machine: str) -> frozenset[int]:
    """The numbers of the calls that are allowed whatever their arguments."""
    _, runs = PLAIN[machine]
    return frozenset(number for first, last in runs for number in range(first, last + 1))


def program(machine: str) -> bytes:
    """The filter as the kernel's ``struct sock_filter`` array. Its jumps skip at most one instruction, so that each
    test stands beside what follows from it."""
    audit, _ = PLAIN[machine]
    guarded = GUARDED[machine]
    code = [
        (LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, audit), (RETURN, 0, 0, REFUSE | errno.EPERM),
        (LOAD, 0, 0, NUMBER),
        # What glibc asks for first has its arguments in memory, where a filter cannot look: it then asks for clone.
        *when(guarded["clone3"], [(RETURN, 0, 0, REFUSE | errno.ENOSYS)]),
        *when(guarded["clone"], [
            (LOAD, 0, 0, FIRST_ARGUMENT),
            (ANY_BIT, 0, 1, NEW_NAMESPACE), (RETURN, 0, 0, REFUSE | errno.EPERM),
            (ANY_BIT, 0, 1, CLONE_THREAD), (RETURN, 0, 0, ALLOW),
            (RETURN, 0, 0, REFUSE | errno.EPERM),
        ]),
        *when(guarded["socketpair"], only(AF_UNIX)),
        *when(guarded["prlimit64"], only(0)),
        *when(guarded["fcntl"], but(OWNERS)),
        *when(guarded["ioctl"], but(PROCESS_GROUPS)),
    ]  # fmt: skip
    for number in sorted(allowed(machine)):
        code += when(number, [(RETURN, 0, 0, ALLOW)])
    code.append((RETURN, 0, 0, REFUSE | errno.EPERM))
    return b"".join(struct.pack("HBBI", *one) for one in code)


def when(number: int, then: list[tuple[int, int, int, int]]) -> Iterable[tuple[int, int, int, int]]:
    """``then``, which returns, where the call has this number."""
    return [(EQUAL, 0, len(then), number), *then]


def only(value: int) -> list[tuple[int, int, int, int]]:
    """Allowed where the first argument is ``value``."""
    return [
        (LOAD, 0, 0, FIRST_ARGUMENT), (EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, REFUSE | errno.EPERM),
    ]  # fmt: skip


def but(values: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Allowed where the second argument is none of these."""
    refused = [
        one for value in values for one in ((EQUAL, 0, 1, value), (RETURN, 0, 0, REFUSE | errno.EPERM))
    ]
    return [(LOAD, 0, 0, SECOND_ARGUMENT), *refused, (RETURN, 0, 0, ALLOW)]


class SockFprog(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def give_up_privileges() -> None:
    """Never gain any again: what a filter, and Landlock, ask for. No other process may look into this one."""
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((NO_NEW_PRIVILEGES, 1), (DUMPABLE, 0)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl: " + os.strerror(ctypes.get_errno()))


def confine() -> None:
    """Bind this process to the filter, for good. OSError where the kernel or the machine has none."""
    machine = os.uname().machine
    if machine not in PLAIN:
        raise OSError(errno.ENOSYS, f"no filter of system calls for {machine}")
    code = program(machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter = SockFprog(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(SET_SECCOMP, FILTER, ctypes.byref(filter), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp: " + os.strerror(ctypes.get_errno()))
