"""Programs that a model might write and nobody wants to run. One that gets what it is after prints ESCAPED."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

CALL = """
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
x86 = platform.machine() == "x86_64"
def syscall(x, arm, *arguments):
    return libc.syscall(x if x86 else arm, *arguments)
def refuse(result):
    error = ctypes.get_errno()
    print("refused" if result < 0 and error in (1, 38) else f"ESCAPED with {result}, error {error}")
"""


def programs(name: str) -> dict[str, str]:
    """Programs of a file, each behind a line ``# --- NAME``."""
    text = (Path(__file__).parent / "data" / "hostile" / f"{name}.txt").read_text(encoding="utf-8")
    parts = [one.partition("\n") for one in text.split("# --- ")[1:]]
    return {title.strip(): program for title, _, program in parts}


def tried(body: str, error: str = "PermissionError") -> str:
    """A program that tries something, and says ESCAPED unless it is refused with this error."""
    lines = "\n".join(f"    {line}" for line in dedent(body).strip().splitlines())
    ends = f"except ({error}) as error:\n    print('refused', error)\n"
    others = "except Exception as error:\n    print('ESCAPED by', error)\n"
    return f"import os, sys\ntry:\n{lines}\n    print('ESCAPED')\n{ends}{others}"


def found(body: str) -> str:
    """The same of something that is not there at all, or not his."""
    return tried(body, "OSError, IndexError, ImportError")


def by_number(x: int, arm: int, *arguments: str) -> str:
    """A system call by its number on x86-64 and aarch64; ESCAPED unless it is refused: that it does not like its
    arguments would be said by a kernel that had looked at them."""
    return CALL + f"refuse(syscall({x}, {arm}, {', '.join(arguments) or '0'}))\n"


PROCESSES = {
    "fork": tried("os.fork()"),
    "system": "import os\nprint('ESCAPED' if os.system('true') == 0 else 'refused')\n",
    "subprocess": tried("import subprocess\nsubprocess.run([sys.executable, '-c', '1'])"),
    "shell": tried("import subprocess\nsubprocess.run('true', shell=True, check=True)"),
    "popen": tried("os.popen('echo hi').read()"),
    "multiprocessing": tried("import multiprocessing as mp\nmp.get_context('fork').Process(target=print).start()"),
    "spawn": tried("os.posix_spawn('/bin/true', ['true'], {})"),
    "pseudo-terminal": tried("import pty\npty.fork()", "OSError"),
    "exec of a shell": tried("os.execv('/bin/sh', ['sh', '-c', 'echo ESCAPED'])"),
    "exec of python": tried("os.execv(sys.executable, ['python', '-c', 'print(\"ESCAPED\")'])"),
    "exec of its own memory": tried(
        """
        file = os.memfd_create('x')
        os.write(file, b'#!/bin/sh\\necho ESCAPED\\n')
        os.execv(f'/proc/self/fd/{file}', ['x'])
        """
    ),
    "vfork": by_number(58, 220, "17"),
    "clone": by_number(56, 220, "17", "0", "0", "0", "0"),
    "clone3": CALL + "room = ctypes.create_string_buffer(88)\nrefuse(syscall(435, 435, room, 88))\n",
    "a namespace by clone": by_number(56, 220, "0x10000000 | 17", "0", "0", "0", "0"),
    "a daemon": tried("os.setsid()"),
    "a process group": tried("os.setpgid(0, 0)"),
}  # fmt: skip

NETWORK = {
    "TCP": tried("import socket\nsocket.create_connection(('127.0.0.1', 80), 1)"),
    "UDP": tried(
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))"
    ),
    "listening": tried("import socket\nsocket.create_server(('', 0))"),
    "URL": tried(
        "import urllib.request\ntry:\n    urllib.request.urlopen('http://127.0.0.1', timeout=1)\n"
        "except OSError as error:\n    raise error.reason"
    ),
    "Unix socket": tried("import socket\nsocket.socket(socket.AF_UNIX)"),
    "netlink": tried("import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)"),
    "virtual machine's socket": tried("import socket\nsocket.socket(40, socket.SOCK_STREAM)"),
    "raw packets": tried("import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)"),
    "pair of another family": tried("import socket\nsocket.socketpair(socket.AF_INET)"),
}

SIGNALS = {
    "kill the parent": tried("os.kill(os.getppid(), 9)"),
    "kill all": tried("os.kill(-1, 9)"),
    "kill the group": tried("os.killpg(0, 15)"),
    "signal by thread": by_number(234, 131, "1", "1", "9"),
    "signal by descriptor": by_number(434, 434, "1", "0"),
    "queued signal": by_number(129, 138, "1", "9", "0"),
    "trace the parent": by_number(101, 117, "16", "libc.getppid()", "0", "0"),
    "be traced": by_number(101, 117, "0", "0", "0", "0"),
    "read the parent's memory": by_number(310, 270, "libc.getppid()", "0", "0", "0", "0", "0"),
    "write the parent's memory": by_number(311, 271, "libc.getppid()", "0", "0", "0", "0", "0"),
    "the parent's limits": tried(
        "import resource\nresource.prlimit(max(os.getppid(), 1), resource.RLIMIT_CPU, (1, 1))"
    ),
    "the parent's processors": tried("os.sched_setaffinity(max(os.getppid(), 1), {0})"),
    "priority": tried("os.setpriority(os.PRIO_PROCESS, 0, -20)"),
}

KERNEL = {
    "mount": CALL + "refuse(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))\n",
    "unmount": CALL + "refuse(libc.umount2(b'/tmp', 2))\n",
    "unshare": CALL + "refuse(libc.unshare(0x10000000))\n",
    "setns": by_number(308, 268, "0", "0"),
    "chroot": tried("os.chroot('/tmp')"),
    "pivot_root": by_number(155, 41, "b'/'", "b'/'"),
    "device": tried("os.mknod('disk', 0o60600, os.makedev(8, 0))"),
    "pipe with a name": tried("os.mkfifo('pipe')"),
    "bpf": by_number(321, 280, "0", "0", "0"),
    "perf": by_number(298, 241, "0", "0", "-1", "-1", "0"),
    "io_uring": by_number(425, 425, "1", "0"),
    "userfaultfd": by_number(323, 282, "0"),
    "keyring": by_number(250, 219, "0", "-3"),
    "file by handle": by_number(304, 265, "-100", "0", "0"),
    "kernel module": by_number(175, 105, "0", "0", "b''"),
    "reboot": by_number(169, 142, "0", "0", "0", "0"),
    "capabilities": by_number(126, 91, "0", "0"),
    "signals by a pipe": "import fcntl, os\nread, write = os.pipe()\n"
    + tried("fcntl.fcntl(read, fcntl.F_SETOWN, max(os.getppid(), 1))"),
    "another signal": tried("import fcntl\nfcntl.fcntl(0, 10, 9)"),
    "signals by a device": tried("import fcntl\nfcntl.ioctl(0, 0x8901, b'\\x01\\0\\0\\0')"),
    "a file without a name": tried("os.memfd_create('x')"),
    "another filter": by_number(317, 277, "0", "0", "0"),
    "prctl": by_number(157, 167, "4", "1", "0", "0", "0"),
    "personality": by_number(135, 92, "0x0040000"),
    "lock memory": by_number(151, 230, "3"),
    "shared memory": by_number(29, 194, "0", "4096", "0x3b6"),
    "message queue": by_number(68, 186, "0", "0x3b6"),
    "host name": by_number(170, 161, "b'mine'", "4"),
    "clock": tried("import time\ntime.clock_settime(time.CLOCK_REALTIME, 0)"),
    "another user": tried("os.setuid(12345)"),
    "more memory": tried("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "ValueError"),
    "more files": tried("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))", "ValueError"),
}  # fmt: skip

REFUSED = {**PROCESSES, **NETWORK, **SIGNALS, **KERNEL}
"""What the filter of system calls and the limits refuse, with namespaces or without."""

HIDDEN = (
    "passwords", "secrets", "by a link", "by a hard link", "overwriting", "removing", "environment of the parent",
    "system", "processes", "a new file in the root", "the library", "removing the library", "descriptors",
    "variables", "what is in its folder",
)  # fmt: skip
"""Of the next ones, what Landlock hides where there are no namespaces."""
FILES = {
    "passwords": found("open('/etc/passwd').read()"),
    "secrets": found("open('CANARY').read()"),
    "by going up": found("open('../../../../../..CANARY').read()"),
    "by a link": found("os.symlink('CANARY', 'link')\nopen('link').read()"),
    "by a hard link": found("os.link('CANARY', 'link')"),
    "overwriting": found("open('CANARY', 'w').write('mine')"),
    "removing": found("os.remove('CANARY')"),
    "home": found("os.listdir(os.path.expanduser('~root/.ssh'))"),
    "environment of the parent": found("open(f'/proc/{os.getppid()}/environ').read()"),
    "own memory map": found("open('/proc/self/maps').read()"),
    "processes": found("[one for one in os.listdir('/proc') if one.isdigit()][0]"),
    "system": found("os.listdir('/sys/class')"),
    "disk": found("open('/dev/sda', 'rb')"),
    "terminal": found("open('/dev/tty')"),
    "shared memory folder": found("open('/dev/shm/x', 'w')"),
    "a new file in the root": found("open('/x', 'w')"),
    "the library": found("open(os.__file__, 'a')"),
    "the library's folder": found("open(os.path.join(os.path.dirname(os.__file__), 'x.py'), 'w')"),
    "mode of the library": found("os.chmod(os.__file__, 0o777)"),
    "removing the library": found("os.remove(os.__file__)"),
    "old root": found("os.listdir('/old')"),
    "docker": found("os.stat('/var/run/docker.sock')"),
    "descriptors": "".join(found(f"os.fstat({one})") for one in range(3, 40)),
    "variables": "import os\nif [one for one in os.environ if one[:2] not in ('PY', 'LC')]:\n    print('ESCAPED')\n",
    "what is in its folder": "import os\nprint('ESCAPED' if os.listdir('.') else 'refused')\n",
    "packages": found("import numpy"),
    "packages by their folder": found(
        "sys.path.append(os.path.join(os.path.dirname(os.__file__), 'site-packages'))\nimport pip"
    ),
    "the host's name": "import os\nprint('refused' if os.uname().nodename == 'sandbox' else 'ESCAPED')\n",
    "the package around it": found("import selfteach"),
    "what confines it": found("import inside.process"),
}  # fmt: skip
"""What namespaces hide. CANARY stands for a file of the user's."""

GREEDY = {
    **programs("greedy"),
    "parentheses": "(" * 10**5 + ")" * 10**5,
    "null bytes": "x = '\0'\n",
    "no text": "\ud800",
}
"""What wants more than there is: each must end, and leave nothing behind."""

RIGHT = "def add(a, b):\n    return a + b\n"
TESTS = "assert add(1, 2) == 3\nassert add(20, 22) == 42\nassert add('a', 'b') == 'ab'\n"

CHEATS = {**programs("cheats"), "nothing": ""}
"""Programs that do not add, and want to be told that they do. ``TESTS`` must not be passed."""
