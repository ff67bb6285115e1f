"""A run's folder: the only place a run writes to, and all that its report reads.

    config.toml      every resolved value        tokens/step-N.*   per-token columns of the sampled rollouts
    metrics.jsonl    one row a step              failed/step-N.*   the batch that stopped a run
    samples.jsonl    a few rollouts              summary.json      the result
    checkpoints/     see ``checkpoint``          stopped.txt       why it stopped by itself
    images/          sampled images, as PNG      .lock             held while a process writes here

JSON has no NaN or infinity: such numbers are the strings "NaN", "Infinity" and "-Infinity", which ``float``
reads back. Text is escaped to ASCII, so that half a surrogate pair from a model cannot break a row.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import filelock
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from selfteach.errors import UserError
from selfteach.outside import said_by
from selfteach.training import marks
from selfteach.training.checkpoint import storable, sync
from selfteach.training.jsonrows import jsonable
from selfteach.training.marks import Growing, Mark, Marks
from selfteach.training.pictures import png
from selfteach.training.runconfig import advice_on, changes, config_text, dotted, refuse_older_format

ROWS = ("metrics.jsonl", "samples.jsonl")
"""Files that grow row by row."""
LOOKS = ("tokens", "images")
"""Folders whose files are each written once, with a row of samples.jsonl that speaks of it."""
RUN_FILES = ("config.toml", "metrics.jsonl", "samples.jsonl", "checkpoints", "summary.json")

STOPPED = "stopped.txt"
"""Why a run stopped by itself, in one line."""
FURTHER = (STOPPED, "tokens", "images", "stored", "model", "report.html", "tensorboard", "wandb")
"""What else a run, its tracker or its report writes; not failed/, which a start that broke leaves for the user."""


class RunFolder:
    """One run's folder, locked against other writers until ``close`` or the end of the process."""

    def __init__(self, path: Path) -> None:
        """Lock ``path``, creating it if need be; use ``create`` or ``resume``."""
        self.path = Path(path)
        self._names: tuple[str, ...] = ()
        self._new = not os.path.lexists(path)
        self._rows = {name: Growing() for name in ROWS}
        self._looks: dict[str, Mark] = {}
        self._made_lock = not os.path.lexists(self.path / ".lock")
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(self.path / ".lock", timeout=0)
            try:
                self._lock.acquire()
            except filelock.Timeout:
                raise UserError(
                    f"another live process is writing the run in {self.path}; "
                    "wait for it, or choose another --out"
                ) from None

    @classmethod
    def create(cls, path: Path, also: Collection[str] = ()) -> Self:
        """A folder for a new run. Raises ``UserError`` if it holds one, or anything by a name that a run writes: what
        has such a name is the run's own, to be replaced or taken away. ``also``: more names that this run writes."""
        run = cls(path)
        run._names = (*RUN_FILES, *FURTHER, *also)
        if held := next((name for name in run._names if os.path.lexists(run.path / name)), None):
            if run._made_lock:  # there is no run of ours to be locked
                (run.path / ".lock").unlink(missing_ok=True)
            run.close()
            raise UserError(
                f"{path} already holds a run ({held}); go on with it by --resume, or choose another --out"
                if held in RUN_FILES
                else f"{path} holds {held} already, which a run writes itself; move it away, or choose another --out"
            )
        return run

    @classmethod
    def resume(
        cls,
        path: Path,
        config: Mapping[str, Any],
        free: Collection[str] = (),
        why: Mapping[str, str] | None = None,
    ) -> Self:
        """An interrupted run's folder. Raises ``UserError`` naming each knob that differs from its config.

        ``free`` lists knobs or whole tables (dotted names) that may differ, such as ``versions``; ``why`` says of some
        others why they may not.
        """
        if not (Path(path) / "config.toml").is_file():
            raise UserError(f"{path} holds no run to resume (no config.toml); start it without --resume")
        refuse_older_format(path, config)
        run = cls(path)
        try:
            changed = [
                f"{one} ({why[name]})" if why and (name := one.partition(": ")[0]) in why else one
                for one in changes(run.path, config, free)
            ]
        except BaseException:
            run.close()
            raise
        if changed:
            run.close()
            raise UserError(
                f"{path} was started with other values: {'; '.join(changed)}; {advice_on(changed, config)}"
            )
        return run

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.toml. TOML has no null: a knob that is None is the word "none"."""
        self._replace(self.path / "config.toml", config_text(config).encode())

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Append one row (it has a ``step``) to metrics.jsonl."""
        self._append(self.path / "metrics.jsonl", [row])

    def samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rollouts (each has a ``step``) to samples.jsonl."""
        self._append(self.path / "samples.jsonl", rows)

    def tokens(self, step: int, columns: Mapping[str, Any]) -> None:
        """Write per-token columns: tensors to tokens/step-N.safetensors, the rest to tokens/step-N.json.

        Nested columns get dotted names.
        """
        written = self._columns(self.path / "tokens", step, columns)
        for path in (written, written.with_suffix(".safetensors")):
            self._looks[f"tokens/{path.name}"] = marks.mark_of(path)

    def image(self, name: str, pixels: Float[Tensor, "c h w"]) -> str:
        """Write a picture as images/NAME.png, whole or not at all; gives its path within the folder. ``pixels``: one
        channel or three, in [0, 1]."""
        path = self.path / "images" / f"{name}.png"
        with writing(path):
            path.parent.mkdir(exist_ok=True)
        self._replace(path, png(pixels))
        self._looks[f"images/{path.name}"] = marks.mark_of(path)
        return f"images/{path.name}"

    def write_aside(self, step: int, batch: Mapping[str, Any], reason: str) -> Path:
        """Keep the batch that stopped a run: failed/step-N.safetensors and .json (returned)."""
        return self._columns(self.path / "failed", step, {**batch, "step": step, "reason": reason})

    def summary(self, values: Mapping[str, Any]) -> None:
        """Write summary.json, whole or not at all."""
        self._replace(self.path / "summary.json", (json.dumps(jsonable(values), indent=1) + "\n").encode())

    def marks(self) -> dict[str, Mark]:
        """How far rows and columns are written: what a checkpoint that is made now relies on."""
        return {name: one.mark for name, one in self._rows.items() if one.count} | self._looks

    def sync(self) -> None:
        """Force all rows to the disk, for a checkpoint that relies on them; columns are there as they are written."""
        for name, one in self._rows.items():
            if not one.synced:
                with writing(self.path / name):
                    sync(self.path / name)
                    sync(self.path)
                one.synced = True

    def cut(self, kept: Marks) -> None:
        """Forget what was written behind these marks, so that a resumed run's files equal an uninterrupted run's.

        Look first (``marks.require``) whether the files are what the marks say.
        """
        for name in ROWS:
            path, count = self.path / name, kept[name]["bytes"] if name in kept else 0
            with writing(path):
                marks.cut(path, count)
                self._rows[name] = marks.begun(path, count) if count else Growing()
        self._looks = {name: mark for name, mark in kept.items() if name not in ROWS}
        for folder in LOOKS:
            for path in (*(self.path / folder).glob("step-*.*"), *(self.path / folder).glob(".*.partial")):
                if f"{folder}/{path.name}" not in kept:
                    path.unlink()

    def forget_summary(self) -> None:
        """Forget that the run had ended: it goes on."""
        (self.path / "summary.json").unlink(missing_ok=True)

    def stopped(self, step: int, why: str) -> None:
        """Write why the run stopped by itself; a folder that cannot be written is left without."""
        with contextlib.suppress(UserError):
            self._replace(self.path / STOPPED, f"after step {step}: {why}\n".encode("utf-8", "replace"))

    def forget_stop(self) -> None:
        """Forget that the run had stopped: it goes on."""
        (self.path / STOPPED).unlink(missing_ok=True)

    def forget_all(self) -> None:
        """Forget a run that was created here and ended before its first step: all that it wrote, but for what is
        written aside for the user (failed/)."""
        for name in self._names:
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let other processes write here. A folder that was made for a run, and is empty, is taken away again."""
        if not any(os.path.lexists(self.path / name) for name in RUN_FILES):
            (self.path / ".lock").unlink(missing_ok=True)  # there is no run to be locked
        self._lock.release()
        if self._new:
            with contextlib.suppress(OSError):  # it is not empty
                self.path.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(jsonable(row), allow_nan=False) + "\n" for row in rows)
        content = text.encode("ascii")
        with writing(path), path.open("ab") as stream:
            stream.write(content)
        self._rows[path.name].grow(content)

    def _replace(self, path: Path, content: bytes) -> None:
        aside = path.with_name(f".{path.name}.partial")
        with writing(path):
            aside.write_bytes(content)
            sync(aside)
            aside.replace(path)
            sync(path.parent)

    def _columns(self, folder: Path, step: int, columns: Mapping[str, Any]) -> Path:
        flat = dict(dotted(columns))
        tensors = {name: column for name, column in flat.items() if isinstance(column, Tensor)}
        rest = {name: jsonable(column) for name, column in flat.items() if name not in tensors}
        aside = folder / f".step-{step}.partial"
        with writing(folder):
            folder.mkdir(exist_ok=True)
            save_file(storable(tensors), aside)
            sync(aside)
            aside.replace(folder / f"step-{step}.safetensors")
        self._replace(folder / f"step-{step}.json", (json.dumps(rest, allow_nan=False) + "\n").encode())
        return folder / f"step-{step}.json"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within it a refusal of the disk is a ``UserError`` that names ``path``."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = said_by(error)
        full = getattr(error, "errno", None) in FULL or any(os.strerror(one) in reason for one in FULL)
        advice = "make room, then use --resume" if full else "choose another --out"
        raise UserError(f"{named(path)} could not be written ({reason}); {advice}") from error


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def named(path: Path, most: int = 300) -> str:
    """A path for a message; of one that is too long, its end."""
    return str(path) if len(str(path)) <= most else f"… {str(path)[-most:]}"


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write to that stands at ``path`` afterwards: whole or not at all, in the place of what was there.

    Raises ``UserError`` where the disk refuses; nothing half-written is left then.
    """
    aside = path.with_name(f".{path.name}.partial")
    with writing(path):
        shutil.rmtree(aside, ignore_errors=True)
        try:
            yield aside
            for file in (*aside.rglob("*"), aside):
                sync(file)
            shutil.rmtree(path, ignore_errors=True)
            aside.rename(path)
            sync(path.parent)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
