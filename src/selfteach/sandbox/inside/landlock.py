"""Files for one process by Landlock (Linux 5.13 and later): the library to read, one folder to write, nothing else.

Where there are no namespaces. A process under it cannot look into those outside either (their memory, descriptors and
environment below /proc), nor, from Linux 6.12 on, send them signals.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

CREATE, ADD, RESTRICT = 444, 445, 446
ASKS_VERSION, BENEATH = 1, 1
READ = 1 | 4 | 8
"""Execute, read a file, read a folder."""
WRITE = 0b1111111111110
"""All other rights of the first version but to execute: writing, removing and making of every kind."""
SINCE = {2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
"""Version → the rights that came with it: to move between folders, to truncate, to control devices."""
SCOPES = 6
ON_FILES = 1 | 2 | 4 | 1 << 14
"""The rights that mean something for what is no folder."""
_libc = ctypes.CDLL(None, use_errno=True)


def confine(readable: Iterable[str], writable: Iterable[str]) -> bool:
    """Allow this process what is below these paths, for good; False where the kernel has no Landlock. It must have
    given up new privileges. OSError where it is refused."""
    version = _libc.syscall(CREATE, None, 0, ASKS_VERSION)
    if version < 1:
        return False
    every = READ | WRITE | sum(rights for since, rights in SINCE.items() if version >= since)
    scoped = 3 if version >= SCOPES else 0
    attributes = struct.pack("QQQ", every, 0, scoped)[: 24 if version >= SCOPES else 8]
    ruleset = _libc.syscall(CREATE, attributes, len(attributes), 0)
    if ruleset < 0:
        raise failed("landlock")
    for paths, rights in ((readable, READ), (writable, every & ~(1 << 15))):
        for path in paths:
            allow(ruleset, path, rights & every)
    if _libc.syscall(RESTRICT, ruleset, 0) != 0:
        raise failed("landlock")
    os.close(ruleset)
    return True


def allow(ruleset: int, path: str, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights &= -1 if os.path.isdir(path) else ON_FILES
        if _libc.syscall(ADD, ruleset, BENEATH, struct.pack("=Qi", rights, place), 0) != 0:
            raise failed("landlock")
    finally:
        os.close(place)


def failed(name: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{name}: {os.strerror(number)}")
