"""How much memory a process may use: a limit on its address space, which the kernel keeps (Linux; none elsewhere)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def used() -> int:
    """Bytes of address space that this process has now; 0 where nothing would keep a limit."""
    if sys.platform != "linux":
        return 0
    import resource

    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


@contextmanager
def limited(most: int) -> Iterator[None]:
    """Within it this process may have ``most`` bytes of address space; what asks for more gets a MemoryError, or
    crashes."""
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    hard = most if before[1] == resource.RLIM_INFINITY else min(before[1], most)
    resource.setrlimit(resource.RLIMIT_AS, (hard, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
