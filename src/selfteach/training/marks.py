"""How far a run's files were written when a checkpoint was made.

A mark is a file's length and the SHA-256 of its content up to there. A checkpoint holds the marks of all that was
written before it; a run that goes on from it holds the files against them, and cuts off what lies behind.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from selfteach.errors import UserError
from selfteach.training.checkpoint import sync


class Mark(TypedDict):
    """``bytes``: a file's length; ``sha256``: of its content up to there, in hexadecimal digits."""

    bytes: int
    sha256: str


Marks = Mapping[str, Mark]
"""By name within the run's folder."""


@dataclass
class Growing:
    """A file to which is only ever appended: its bytes so far, their hash, and whether all of them are on the disk."""

    count: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    synced: bool = True

    def grow(self, content: bytes) -> None:
        self.count += len(content)
        self.digest.update(content)
        self.synced = False

    @property
    def mark(self) -> Mark:
        return Mark(bytes=self.count, sha256=self.digest.hexdigest())


def mark_of(path: Path) -> Mark:
    """The mark of a file as it is."""
    with path.open("rb") as stream:
        return Mark(bytes=path.stat().st_size, sha256=hashlib.file_digest(stream, "sha256").hexdigest())


def fault(path: Path, mark: Mark) -> str | None:
    """What is wrong with a file that has to begin as its mark says, in words; None: nothing."""
    try:
        if (size := path.stat().st_size) < mark["bytes"]:
            return f"has {size} bytes instead of at least {mark['bytes']}"
        if begun(path, mark["bytes"]).mark["sha256"] != mark["sha256"]:
            return "is not as it was written"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def require(folder: Path, marks: Marks, relying: Path) -> None:
    """Raise ``UserError`` for the first file that is not what the checkpoint ``relying`` says it was."""
    for name, mark in marks.items():
        if (wrong := fault(folder / name, mark)) is not None:
            raise UserError(
                f"{folder / name} {wrong}, and checkpoint {relying.name} relies on it: put the file back as it was, "
                f"or remove {relying} to go on from the checkpoint before it"
            )


def begun(path: Path, count: int) -> Growing:
    """A file's first ``count`` bytes, to be appended to."""
    growing = Growing()
    with path.open("rb") as stream:
        while growing.count < count and (block := stream.read(min(1 << 20, count - growing.count))):
            growing.grow(block)
    growing.synced = True
    return growing


def cut(path: Path, count: int) -> None:
    """Cut a file to its first ``count`` bytes; none is left of one that had not been begun."""
    if count == 0:
        path.unlink(missing_ok=True)
    elif path.stat().st_size > count:
        os.truncate(path, count)
        sync(path)
