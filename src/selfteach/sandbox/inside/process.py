"""The life of a confined process: read an order, give up all that could do harm, and only then run what is in it.

Of Python's standard library alone, and of this folder: nothing of the package is imported, and nothing is that is the
user's. Started by ``selfteach.sandbox.run``, never by hand.
"""

from __future__ import annotations

import builtins
import json
import os
import resource
import sys
from types import ModuleType
from typing import Any

from . import checking, failing, landlock, namespaces, serving, syscalls

OPEN_FILES = 64
THREADS = 256
"""That a program may have, with all processes of its user where there are no namespaces; root has no such limit."""


def main(letter: int, ready: int) -> None:
    """``letter`` and ``ready``: file descriptors, of what is to be done and where it is said that it begins."""
    del sys.path[0]  # where this folder is: nothing of it is the program's to import
    for name in [one for one in sys.modules if one.partition(".")[0] == __package__]:
        del sys.modules[name]
    sys.argv = [failing.NAME]
    with os.fdopen(letter, encoding="utf-8") as file:
        order = json.load(file)
    try:
        confine(order, ready)
    except OSError as error:
        os.write(ready, (error.strerror or str(error)).encode())
        os._exit(1)
    os.write(ready, b"ready")
    os.close(ready)
    sys.set_int_max_str_digits(0)
    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # the module site, which is not here, has them
    act(order)


def confine(order: dict[str, Any], ready: int) -> None:
    """All limits, from here on and for good. What the run needs is imported by then."""
    folder = order["folder"]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    namespaces.die_with_parent(order["parent"])
    if order["namespaces"]:
        namespaces.enter()
        child = os.fork()
        if child:
            os.close(ready)
            namespaces.relayed(child)
        namespaces.die_with_parent()
        namespaces.new_root(folder, order["files"])
    else:
        os.chdir(folder)
    namespaces.drop_capabilities()
    syscalls.give_up_privileges()
    if not order["namespaces"]:
        devices = [f"/dev/{name}" for name in namespaces.DEVICES]
        landlock.confine(namespaces.libraries(), [folder, *devices])
    for kind, most in (
        (resource.RLIMIT_AS, order["memory"]),
        (resource.RLIMIT_CPU, order["seconds"]),
        (resource.RLIMIT_FSIZE, order["files"]),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_NPROC, THREADS),
    ):
        resource.setrlimit(kind, (most, most))
    syscalls.confine()


def act(order: dict[str, Any]) -> None:
    if order["act"] == "serve":
        serving.serve(order["program"], order["starter"])
    elif order["act"] == "check":
        checking.check(order["tests"])
    else:
        run(order["program"])


def run(source: str) -> None:
    """The program as Python runs a file: exit status 1, and what was raised on the standard error, if it raises."""
    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    try:
        failing.loaded(source, module)
    except SystemExit:
        raise
    except BaseException as error:
        sys.stderr.write(failing.written(error))
        raise SystemExit(1) from None
