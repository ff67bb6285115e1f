"""Model-written programs: what they may not do they cannot, what they may they can, and none grades itself."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from textwrap import dedent

import pytest

from hostile_programs import CHEATS, FILES, GREEDY, HIDDEN, REFUSED, RIGHT, TESTS, programs
from selfteach.errors import UserError
from selfteach.sandbox.confined import Limits
from selfteach.sandbox.inside import landlock, syscalls, values
from selfteach.sandbox.run import check, require_sandbox, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")
DANGEROUS = {
    "fork", "vfork", "clone", "clone3", "execve", "execveat", "kill", "tkill", "tgkill", "ptrace", "socket",
    "connect", "bind", "mount", "umount2", "unshare", "setns", "chroot", "pivot_root", "bpf", "prctl", "seccomp",
    "process_vm_readv", "process_vm_writev", "io_uring_setup", "mknodat", "setuid", "keyctl", "init_module",
    "open_by_handle_at", "perf_event_open", "userfaultfd", "prlimit64",
}  # fmt: skip
SHORT = Limits(seconds=2.0)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("isolation", ["namespaces", "container"])
def test_the_filter_refuses(name, isolation):
    ended = run(REFUSED[name], limits=SHORT, isolation=isolation)
    assert "ESCAPED" not in ended.output + ended.errors
    assert ended.how == "exited", ended


@pytest.mark.parametrize("name", FILES)
def test_namespaces_hide(name, tmp_path):
    canary = tmp_path / "secret"
    canary.write_text("ours")
    ended = run(FILES[name].replace("CANARY", str(canary)), limits=SHORT)
    assert "ESCAPED" not in ended.output, ended
    assert ended.how == "exited", ended
    assert canary.read_text() == "ours"


@pytest.mark.parametrize("name", HIDDEN)
def test_landlock_hides(name, tmp_path):
    if not landlocked():
        pytest.skip("the kernel has no Landlock")
    canary = tmp_path / "secret"
    canary.write_text("ours")
    ended = run(FILES[name].replace("CANARY", str(canary)), limits=SHORT, isolation="container")
    assert "ESCAPED" not in ended.output, ended
    assert canary.read_text() == "ours"


def landlocked() -> bool:
    return ctypes.CDLL(None).syscall(landlock.CREATE, None, 0, landlock.ASKS_VERSION) > 0


@pytest.mark.parametrize("name", ["link", "two words", "é", "tab\there"])
def test_where_temporary_files_are_does_not_matter(name, tmp_path, monkeypatch):
    """The library was writable where a link led to the folder, or the kernel writes its letters otherwise."""
    place = tmp_path / name
    if name == "link":
        (tmp_path / "real").mkdir()
        place.symlink_to(tmp_path / "real")
    else:
        place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    ended = run("import os\nos.open(os.__file__, os.O_RDWR)")
    assert ended.errors.splitlines()[-1].startswith("OSError: [Errno 30] Read-only file system")
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("isolation", ["namespaces", "container"])
@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGKILL])
def test_no_program_outlives_its_parent(isolation, signal_, tmp_path):
    program = "import time\ntime.sleep(777)"
    words = (
        f"from selfteach.sandbox.run import *; run({program!r}, limits=Limits(600), isolation={isolation!r})"
    )
    # The folder of one that is killed stays: not where others look.
    parent = subprocess.Popen([sys.executable, "-c", words], env={**os.environ, "TMPDIR": str(tmp_path)})
    assert waited(lambda: len(below(parent.pid)) > (isolation == "namespaces"))
    started = below(parent.pid)
    parent.send_signal(signal_)
    parent.wait()
    assert waited(lambda: not [one for one in started if Path(f"/proc/{one}").exists()])


def below(pid: int) -> list[int]:
    """The processes that a process has started, and those that these have."""
    found = []
    for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(one), *below(int(one))]
    return found


def waited(what) -> bool:
    until = time.monotonic() + 30
    while not what():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_nothing_is_left_of_a_hundred_programs():
    """Neither descriptors nor processes nor folders, however they ended."""
    before = len(os.listdir("/proc/self/fd")), len(below(os.getpid()))
    for i in range(100):
        if i % 4:
            run("import os\nos._exit(3)", limits=SHORT)
        else:
            check(
                "def f():\n    pass" if i % 8 else "while True: pass",
                {"source": "assert f()"},
                limits=Limits(0.2),
            )
    assert (len(os.listdir("/proc/self/fd")), len(below(os.getpid()))) == before


def test_a_machine_with_no_room_for_processes_is_waited_for(monkeypatch):
    refused = iter([True, True, False])
    real = subprocess.Popen

    def popen(*words, **how):
        if next(refused, False):
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return real(*words, **how)

    monkeypatch.setattr(subprocess, "Popen", popen)
    assert run("print(1)").output == "1\n"


def test_folders_that_are_too_deep_are_taken_away(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run("import os\nfor i in range(3000):\n    os.mkdir('x')\n    os.chdir('x')", isolation="container")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", GREEDY)
def test_limits_hold(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    began = time.monotonic()
    ended = run(GREEDY[name], limits=Limits(seconds=1.0, memory=256 << 20, files=1 << 20, output=1 << 12))
    assert time.monotonic() - began < 20  # far above the limit: that it ends at all is what is tested
    assert not ended.fine or name in ("parentheses",), ended
    assert len(ended.output) <= 1 << 12
    assert len(ended.errors) <= 1 << 12
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("isolation", ["namespaces", "container"])
@pytest.mark.parametrize("name", CHEATS)
def test_no_program_grades_itself(name, isolation):
    tested = check(CHEATS[name], {"source": TESTS}, limits=Limits(seconds=1.5), isolation=isolation)
    assert not tested.fine, tested
    assert tested.fault is None, tested


def test_a_right_program_passes():
    tested = check(RIGHT, {"source": TESTS})
    assert tested.fine
    assert (tested.passed, tested.of) == (3, 3)


@pytest.mark.parametrize("isolation", ["namespaces", "container"])
def test_what_programs_need_is_there(isolation):
    ended = run(
        "import collections, ctypes, dataclasses, decimal, fractions, functools, heapq, itertools, json, math, re\n"
        "import asyncio, sqlite3, statistics, string, threading, time, zoneinfo, concurrent.futures as futures\n"
        "open('x', 'w').write('kept')\n"
        "async def half(x):\n    await asyncio.sleep(0)\n    return x / 2\n"
        "with futures.ThreadPoolExecutor(4) as pool:\n    print(sum(pool.map(lambda x: x * x, range(4))))\n"
        "print(asyncio.run(half(3)), open('x').read(), input(), zoneinfo.ZoneInfo('UTC'))\n",
        stdin="a line\n",
        isolation=isolation,
    )
    assert ended.errors == ""
    assert ended.output == "14\n1.5 kept a line UTC\n"
    assert ended.fine


def test_how_a_program_ended():
    assert run("raise SystemExit(3)").status == 3
    failed = run("def f():\n    return 1 / 0\nf()")
    assert failed.status == 1
    assert failed.errors.splitlines()[0] == "Traceback (most recent call last):"
    assert failed.errors.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "    return 1 / 0" in failed.errors
    assert "process.py" not in failed.errors
    assert run("import time\ntime.sleep(9)", limits=Limits(seconds=0.2)).how == "timed out"
    assert run("import ctypes\nctypes.string_at(0)").how == "killed"


def test_a_program_is_the_same_each_time():
    program = "print(sorted(map(hash, 'abc')), list({'x', 'yy', 'zzz'}))"
    assert len({run(program).output for _ in range(3)}) == 1


def test_values_come_over_as_they_are():
    told = "[None, True, -7, 10**30, 1.5, float('inf'), 2 + 3j, 'é\\n', b'\\xff', (1, (2,)), {1, 2}, {(1,): [{}]}]"
    tests = f"assert f() == {told}\nassert str(f()) == str({told})"
    assert check(f"def f():\n    return {told}", {"source": tests}).fine
    program = dedent("""
        from collections import Counter, OrderedDict, namedtuple
        P = namedtuple("P", "x y")
        def f():
            return [Counter("aab"), OrderedDict(a=1), P(1, 2)]
    """)
    assert check(program, {"source": "assert f() == [{'a': 2, 'b': 1}, {'a': 1}, (1, 2)]"}).fine


def test_objects_stay_where_they_are():
    program = dedent("""
        class Stack:
            def __init__(self):
                self.items = []
            def push(self, x):
                self.items.append(x)
                return self
            def pop(self):
                return self.items.pop()
        def count():
            yield from range(3)
    """)
    tests = dedent("""
        s = Stack()
        s.push(1).push((2, 3))
        assert s.pop() == (2, 3)
        assert s.items == [1]
        assert list(count()) == [0, 1, 2]
        for i, x in enumerate(count()):
            assert i == x
    """)
    assert check(program, {"source": tests}).fine
    failed = check("def f(s):\n    return s", {"source": "assert f(len) == 1"}).failed
    assert failed["why"].startswith("TypeError: tests cannot")


def test_errors_of_a_program_are_its_tests_to_catch():
    program = dedent("""
        def f(x):
            if x < 0:
                raise ValueError("negative")
            return x ** 0.5
    """)
    tests = dedent("""
        try:
            f(-1)
        except ValueError as error:
            assert str(error) == "negative"
        else:
            raise AssertionError
        assert f(4) == 2
    """)
    assert check(program, {"source": tests}).fine
    tests = "assert f(1) == 1\nassert f(0) == 0\nassert f(2) == 0.5"
    tested = check("def f(x):\n    return 1 / x", {"source": tests})
    assert (tested.passed, tested.of) == (2, 3)
    why = "ZeroDivisionError: division by zero (line 2: return 1 / x)"
    assert tested.failed == {"test": "assert f(0) == 0", "why": why, "call": "f(0)"}


def test_a_failure_names_the_line_of_a_test_function():
    tests = dedent("""
        def check(f):
            assert f(1) == 1
            assert f(2) == 4, 'squares'
        check(f)
        def test_more():
            assert f(3) == 9
    """)
    tested = check("def f(x):\n    return x", {"source": tests})
    assert (tested.passed, tested.of) == (0, 2)
    assert tested.failed == {"test": "assert f(2) == 4, 'squares'", "why": "squares", "call": "f(2) gave 2"}


def test_a_module_solution_can_be_imported():
    assert check(
        RIGHT, {"source": "from solution import add\ndef test_it():\n    assert add(2, 2) == 4"}
    ).fine
    assert not check(
        RIGHT, {"source": "from solution import sub\ndef test_it():\n    assert sub(2, 2) == 0"}
    ).fine


def test_calls_with_their_values():
    calls = [("f", [1, [2]], [1, 2]), ("f", [[], 0], [[], 0])]
    assert check("def f(a, b):\n    return (a, b[0]) if b else (a, b)", {"calls": calls}).fine
    assert check(
        "class Solution:\n    def f(self, a, b):\n        return [a, b[0]] if b else [a, b]", {"calls": calls}
    ).fine
    tested = check("def f(a, b):\n    return a", {"calls": calls})
    assert tested.failed["call"] == "f(1, [2]) gave 1"


NOTHING_ASSERTED = {
    "a text": '"""Tests."""',
    "a call": "import random\nrandom.seed(0)",
    "a comparison": "print(add(1, 2) == 3)",
    "a function that nobody calls": "def check(f):\n    assert f(1, 2) == 3",
    "a generator": "def test_add():\n    yield add(1, 2)\n    assert False",
    "a program of unittest's": "import unittest\nif __name__ == '__main__':\n    unittest.main()",
}


@pytest.mark.parametrize("name", NOTHING_ASSERTED)
def test_where_nothing_is_asserted_nothing_is_passed(name):
    tested = check("def add(a, b):\n    return 0", {"source": NOTHING_ASSERTED[name]})
    assert not tested.fine
    assert tested.fault == "they assert nothing" or "generator" in tested.failed["why"]


FALSE = {name: tuple(one.split("# tests\n")) for name, one in programs("false").items()}


@pytest.mark.parametrize("name", FALSE)
def test_a_wrong_program_fails_whatever_form_its_tests_have(name):
    more, tests = FALSE[name]
    tested = check(f"def add(a, b):\n    return 0\n{more}\n", {"source": tests}, limits=SHORT)
    assert not tested.fine, tested
    if not more.strip():
        assert check(RIGHT, {"source": tests}).fine


def test_an_endless_program_is_timed_out_every_time():
    """It may end at the moment at which its tests look whether it has."""
    tests = {
        "source": "def test_it():\n    try:\n        f()\n    except Exception:\n        return\n    assert True"
    }
    for _ in range(10):
        tested = check("def f():\n    while True:\n        pass", tests, limits=Limits(0.2))
        assert tested.timed_out
        assert not tested.fine


HONEST = {name: tuple(one.split("# tests\n")) for name, one in programs("honest").items()}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_passes(name):
    program, tests = HONEST[name]
    tested = check(program, {"source": tests})
    assert tested.fine, tested


def test_a_list_changed_in_place_is_what_a_call_gives():
    assert check("def f(a):\n    a.reverse()", {"calls": [("f", [[1, 2]], [2, 1])]}).fine
    assert not check("def f(a):\n    pass", {"calls": [("f", [[1, 2]], [2, 1])]}).fine


def test_words_of_errors_are_text():
    tested = check("def f():\n    raise ValueError('\\ud800')", {"source": "assert f()"})
    assert tested.failed["why"].startswith("ValueError: ?")
    tested.failed["why"].encode()


def test_a_library_that_tests_need_and_is_not_there_is_their_fault():
    tested = check(RIGHT, {"source": "import numpy as np\nassert add(1, 2) == 3"})
    assert tested.fault == "they need numpy, and the sandbox has Python's library alone"


def test_faults_of_the_tests_are_not_the_programs():
    assert "SyntaxError" in check(RIGHT, {"source": "assert add(1,"}).fault
    assert not check(RIGHT, {"source": ""}).fine
    assert not check(RIGHT, {"source": "x = 1"}).fine


def test_the_tests_are_never_where_the_program_is():
    """Its side of the order holds the program alone."""
    spy = "import gc\ndef add(a, b):\n    return str([one for one in gc.get_objects() if type(one) in (dict, list)])\n"
    tested = check(spy, {"source": "assert 'hidden42' not in str(add(1, 2))"})
    assert tested.fine, tested


def test_limits_are_checked():
    for wrong in ({"seconds": 0}, {"seconds": float("inf")}, {"memory": 1}, {"files": 0}):
        with pytest.raises(UserError, match="limits of a program"):
            Limits(**wrong)


def test_a_machine_without_a_sandbox_is_named(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    require_sandbox.cache_clear()
    with pytest.raises(UserError, match=r"sandbox only.*needs Linux.*--sandbox container"):
        require_sandbox("namespaces")
    require_sandbox.cache_clear()


def test_the_filter_knows_the_kernels_numbers():
    """A call by its number in the kernel's own headers, where they are installed."""
    headers = {
        "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", {"read": 0, "openat": 257, "futex": 202}),
        "aarch64": ("/usr/include/asm-generic/unistd.h", {"read": 63, "openat": 56, "futex": 98}),
    }
    for machine, (path, wanted) in headers.items():
        allowed = syscalls.allowed(machine)
        assert set(wanted.values()) <= allowed
        if not Path(path).exists():
            continue
        found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(path).read_text())
        names = {int(number): name for name, number in found}
        assert not {names.get(number) for number in allowed} & DANGEROUS


def test_values_that_are_none_are_refused():
    for told in ([], ["list", ["no"]], ["dict", [1], []], ["kept", "x", "y"], ["tuple", {}], {"a": 1}):
        with pytest.raises((ValueError, TypeError)):
            values.decoded(told, lambda number, kind: None)
