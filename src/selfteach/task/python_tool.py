"""A tool that runs Python programs: those that a policy writes, in a sandbox."""

from __future__ import annotations

from selfteach.sandbox.confined import Limits
from selfteach.sandbox.run import run
from selfteach.task.tool import ToolError

LIMITS = Limits(seconds=3.0)


def python(code: str) -> str:
    """Run a Python program, and return what it prints. It has the standard library, no network and no files; each call
    begins anew."""
    ended = run(code, limits=LIMITS)
    if ended.how == "timed out":
        raise ToolError(f"the program took longer than {LIMITS.seconds:g} s")
    if ended.how == "killed":
        raise ToolError("the program used up its memory, or crashed")
    said = ended.output + ended.errors
    return said if said.strip() else "(the program printed nothing)"
