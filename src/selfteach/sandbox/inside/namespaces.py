"""A world of its own for one process (Linux): no network, no other process, and of the files only Python's library.

User, mount, process, network, IPC and host-name namespaces, as containers have them; no privilege is needed where the
kernel allows user namespaces. The files are those of a new root: the library and the system's shared libraries, read
only, four devices, and an empty folder in memory. There is no /proc.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import re
import signal
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress

NEW_USER, NEW_MOUNT, NEW_PROCESSES, NEW_NETWORK = 0x10000000, 0x00020000, 0x20000000, 0x40000000
NEW_IPC, NEW_HOST_NAME = 0x08000000, 0x04000000
READ_ONLY, NO_SETUID, NO_DEVICES, NO_EXECUTION = 1, 2, 4, 8
REMOUNT, BIND, RECURSIVE, PRIVATE = 32, 4096, 16384, 1 << 18
DETACH = 2
KEPT = {1: 1, 2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}
"""Flags of a mount as statvfs tells them, and as mount takes them: a bound mount must keep its own."""
DIE_WITH_PARENT, DROP_BOUND = 1, 24
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
CAPABILITIES = 64
DEVICES = ("null", "zero", "urandom", "random")
HOST_NAME = b"sandbox"
NUMBERS = 400
"""Of processes and threads in a process namespace; the kernel keeps 300 for itself."""
FOLDER = "/tmp"
"""The program's own, empty, where it may write."""
_libc = ctypes.CDLL(None, use_errno=True)


def enter() -> None:
    """Put this process into namespaces of its own; the processes that it forks are the first of theirs."""
    user, group = os.geteuid(), os.getegid()
    call("unshare", NEW_USER | NEW_MOUNT | NEW_PROCESSES | NEW_NETWORK | NEW_IPC | NEW_HOST_NAME)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    call("mount", None, b"/", None, RECURSIVE | PRIVATE, None)


def die_with_parent(parent: int | None = None) -> None:
    """Be killed when the parent ends; at once, if it is not this one any more."""
    call("prctl", DIE_WITH_PARENT, int(signal.SIGKILL), 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def new_root(folder: str, room: int) -> None:
    """Make ``folder``, an empty one, the root of all that this process sees; it may write ``room`` bytes. OSError where
    any part of it would not be as it should."""
    folder = os.path.realpath(folder)  # as the kernel names what is mounted there
    mount("tmpfs", folder, NO_SETUID | NO_DEVICES, f"size={1 << 20},nr_inodes=4096,mode=755")
    few_threads(f"{folder}/dev", NUMBERS)
    for path in libraries():
        show(path, folder)
    for device in DEVICES:
        place = f"{folder}/dev/{device}"
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "w"):
            pass
        call("mount", f"/dev/{device}".encode(), place.encode(), None, BIND, None)
    for place in mounted_below(folder):
        flags = sum(KEPT[flag] for flag in KEPT if os.statvfs(place).f_flag & flag) | NO_SETUID | READ_ONLY
        if not place.startswith(f"{folder}/dev/"):
            flags |= NO_DEVICES
        call("mount", None, os.fsencode(place), None, BIND | REMOUNT | flags, None)
    bare(folder)
    os.makedirs(folder + FOLDER)
    mount(
        "tmpfs",
        folder + FOLDER,
        NO_SETUID | NO_DEVICES | NO_EXECUTION,
        f"size={room},nr_inodes=1024,mode=700",
    )
    os.mkdir(f"{folder}/old")
    if _libc.syscall(PIVOT_ROOT[os.uname().machine], folder.encode(), f"{folder}/old".encode()) != 0:
        raise failed("pivot_root")
    os.chdir("/")
    call("umount2", b"/old", DETACH)
    os.rmdir("/old")
    call("mount", None, b"/", None, BIND | REMOUNT | READ_ONLY | NO_SETUID | NO_DEVICES, None)
    for place in [one for one in ("/", *libraries()) if not os.path.islink(one)]:
        if not os.statvfs(place).f_flag & READ_ONLY:
            raise OSError(errno.EROFS, f"{place} would not be read only")
    call("sethostname", HOST_NAME, len(HOST_NAME))
    os.chdir(FOLDER)


def few_threads(place: str, numbers: int) -> None:
    """Bound the numbers of threads in this process namespace, where the kernel can (from Linux 6.14 on); elsewhere the
    limit on processes does, for all users but root."""
    os.makedirs(place, exist_ok=True)
    with suppress(OSError):
        mount("proc", place, NO_SETUID | NO_DEVICES | NO_EXECUTION, "")
        with suppress(OSError), open(f"{place}/sys/kernel/pid_max", "w") as file:
            file.write(str(numbers))
        call("umount2", place.encode(), DETACH)


def bare(folder: str) -> None:
    """Hide installed packages under the new root: the library is Python's own alone."""
    for place in sorted({one for path in libraries() for one in packages(folder + os.path.realpath(path))}):
        mount("tmpfs", place, NO_SETUID | NO_DEVICES | READ_ONLY, "size=4096,mode=755")


def packages(path: str) -> Iterator[str]:
    for name in ("site-packages", "dist-packages"):
        for pattern in (f"{path}/{name}", f"{path}/python*/{name}"):
            yield from (one for one in glob.glob(pattern) if os.path.isdir(one) and not os.path.islink(one))


def drop_capabilities() -> None:
    """Have no power over the namespaces any more."""
    for one in range(CAPABILITIES):
        if _libc.prctl(DROP_BOUND, one, 0, 0, 0) != 0:
            break  # the kernel knows no more
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))


def libraries() -> Iterator[str]:
    """Folders with what a Python program loads, as they are reached; of one within another the outer."""
    found = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), f"{sys.base_prefix}/lib"}
    found |= {"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo"}
    there = sorted(path for path in found if path and os.path.isdir(path))
    for path in there:
        if not any(path.startswith(f"{other}/") for other in there):
            yield path


def show(path: str, folder: str) -> None:
    """The folder at this path under the new root too; where the path leads over a link, the link."""
    if os.path.islink(path):
        os.makedirs(os.path.dirname(folder + path), exist_ok=True)
        os.symlink(os.readlink(path), folder + path)
        path = os.path.realpath(path)
        if os.path.lexists(folder + path):
            return
    real = os.path.realpath(path)
    for place in {path, real}:
        if not os.path.ismount(folder + place):
            os.makedirs(folder + place, exist_ok=True)
            call("mount", real.encode(), (folder + place).encode(), None, BIND | RECURSIVE, None)


def mounted_below(folder: str) -> list[str]:
    """Where anything is mounted below a folder, as the kernel tells."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        places = [line.split(" ")[4] for line in file]
    plain = [re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), one) for one in places]
    return [one for one in plain if one.startswith(f"{folder}/")]


def mount(kind: str, place: str, flags: int, options: str) -> None:
    call("mount", kind.encode(), place.encode(), kind.encode(), flags, options.encode())


def call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        raise failed(name)


def failed(name: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{name}: {os.strerror(number)}")


def relayed(child: int) -> None:
    """Wait for a process, and end as it ended. Asked to end, end it first: nobody else would wait for it."""
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    _, status = os.waitpid(child, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        os._exit(code)
    with suppress(OSError):
        os.kill(os.getpid(), -code)
    os._exit(128 - code)
