"""A run's folder: the only place a run writes to, and all that its report reads.

    config.toml      every resolved value        tokens/step-N.*   per-token columns of the sampled rollouts
    metrics.jsonl    one row a step              failed/step-N.*   the batch that stopped a run
    samples.jsonl    a few rollouts              summary.json      the result
    checkpoints/     see ``checkpoint``          .lock             held while a process writes here

JSON has no NaN or infinity: such numbers are the strings "NaN", "Infinity" and "-Infinity", which ``float``
reads back. Text is escaped to ASCII, so that half a surrogate pair from a model cannot break a row.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import filelock
import tomli_w
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from selfteach.errors import UserError
from selfteach.training.checkpoint import storable, sync

RUN_FILES = ("config.toml", "metrics.jsonl", "samples.jsonl", "checkpoints", "summary.json")

FURTHER = ("tokens", "stored", "tensorboard", "wandb")
"""What else a run, or its tracker, may have written."""


class RunFolder:
    """One run's folder, locked against other writers until ``close`` or the end of the process."""

    def __init__(self, path: Path) -> None:
        """Lock ``path``, creating it if need be; use ``create`` or ``resume``."""
        self.path = Path(path)
        with _writing(self.path):
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
    def create(cls, path: Path) -> Self:
        """A folder for a new run. Raises ``UserError`` if it already holds one."""
        run = cls(path)
        if held := next((name for name in RUN_FILES if (run.path / name).exists()), None):
            run.close()
            raise UserError(
                f"{path} already holds a run ({held}); go on with it by --resume, or choose another --out"
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
                f"{path} was started with other values: {'; '.join(changed)}; "
                "leave these out to go on (--resume --out RUN is enough), or start a new run with another --out"
            )
        return run

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.toml. TOML has no null: a knob that is None is the word "none"."""
        self._replace(self.path / "config.toml", _toml(config).encode())

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
        self._columns(self.path / "tokens", step, columns)

    def write_aside(self, step: int, batch: Mapping[str, Any], reason: str) -> Path:
        """Keep the batch that stopped a run: failed/step-N.safetensors and .json (returned)."""
        return self._columns(self.path / "failed", step, {**batch, "step": step, "reason": reason})

    def summary(self, values: Mapping[str, Any]) -> None:
        """Write summary.json, whole or not at all."""
        self._replace(self.path / "summary.json", (json.dumps(jsonable(values), indent=1) + "\n").encode())

    def truncate_after(self, step: int) -> None:
        """Forget what was written after ``step``, so that a resumed run's files equal an uninterrupted run's.

        Rows of ``step`` itself stay: write a step's rows before its checkpoint.
        """
        for name in ("metrics.jsonl", "samples.jsonl"):
            path = self.path / name
            if path.exists():
                lines = [line for row, line in _rows_and_lines(path) if row["step"] <= step]
                self._replace(path, b"".join(lines))
        for path in (self.path / "tokens").glob("step-*.*"):
            if int(path.stem.removeprefix("step-")) > step:
                path.unlink()

    def forget_end(self, step: int, *, due: bool) -> None:
        """Forget that the run ended at ``step``: its summary, its last samples and, unless it was ``due`` anyhow, its
        last evaluation. Then its files are those of a run that was longer from the start."""
        (self.path / "summary.json").unlink(missing_ok=True)

        def of_the_end(row: Mapping[str, Any]) -> bool:
            return row["step"] == step and (
                row["phase"] == "after" if "phase" in row else not due and "loss" not in row
            )

        for name in ("metrics.jsonl", "samples.jsonl"):
            path = self.path / name
            if path.exists():
                kept = [line for row, line in _rows_and_lines(path) if not of_the_end(row)]
                self._replace(path, b"".join(kept))

    def forget_all(self) -> None:
        """Forget a run that ended before its first step. What was written aside for the user (failed/) stays."""
        for name in (*RUN_FILES, *FURTHER):
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let other processes write here. A folder in which nothing was written is taken away again."""
        lock = self.path / ".lock"
        if self.path.is_dir() and set(self.path.iterdir()) <= {lock}:
            lock.unlink(missing_ok=True)
            self._lock.release()
            with contextlib.suppress(OSError):
                self.path.rmdir()
            return
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(jsonable(row), allow_nan=False) + "\n" for row in rows)
        with _writing(path), path.open("a", encoding="ascii") as stream:
            stream.write(text)

    def _replace(self, path: Path, content: bytes) -> None:
        aside = path.with_name(f".{path.name}.partial")
        with _writing(path):
            aside.write_bytes(content)
            sync(aside)
            aside.replace(path)
            sync(path.parent)

    def _columns(self, folder: Path, step: int, columns: Mapping[str, Any]) -> Path:
        flat = dict(dotted(columns))
        tensors = {name: column for name, column in flat.items() if isinstance(column, Tensor)}
        rest = {name: jsonable(column) for name, column in flat.items() if name not in tensors}
        aside = folder / f".step-{step}.partial"
        with _writing(folder):
            folder.mkdir(exist_ok=True)
            save_file(storable(tensors), aside)
            aside.replace(folder / f"step-{step}.safetensors")
        self._replace(folder / f"step-{step}.json", (json.dumps(rest, allow_nan=False) + "\n").encode())
        return folder / f"step-{step}.json"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file ([] if there is none); a last row still being written is left out.

    Raises ``UserError`` naming a line that is no row.
    """
    return [row for row, _ in _rows_and_lines(path)] if path.exists() else []


def refuse_older_format(path: Path, config: Mapping[str, Any]) -> None:
    """UserError if the run was begun by a version whose knobs had other names."""
    saved, ours = (
        table.get("about", {}).get("format", 1) for table in (saved_config(path / "config.toml"), config)
    )
    if saved != ours:
        raise UserError(
            f"{path} was begun by an earlier selfteach (config format {saved}, now {ours}): its report still opens, "
            "but it cannot go on; start a new run with another --out"
        )


def changes(path: Path, config: Mapping[str, Any], free: Collection[str] = ()) -> list[str]:
    """The knobs whose values in a run's config.toml are not those of ``config``, as ``differing`` names them."""
    return differing(saved_config(path / "config.toml"), tomllib.loads(_toml(config)), free)


def differing(saved: Mapping[str, Any], given: Mapping[str, Any], free: Collection[str] = ()) -> list[str]:
    """The knobs whose values differ, each as ``name: saved → given`` with a dotted name; of what a run reads, in words:
    its fingerprints say nothing."""
    old, new = dict(dotted(saved)), dict(dotted(given))
    names = [name for name in {**old, **new} if not any(name == f or name.startswith(f + ".") for f in free)]
    return [
        told(name, old.get(name, "unset"), new.get(name, "unset"))
        for name in names
        if not _same(old.get(name), new.get(name))
    ]


def told(name: str, old: Any, new: Any) -> str:
    """One difference."""
    if name.startswith("inputs."):
        what = (
            "is new" if old == "unset" else "is not there any more" if new == "unset" else "has changed since"
        )
        return f"{name}: what it reads {what}"
    return f"{name}: {shortened(old)} → {shortened(new)}"


def shortened(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"


def dotted(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a nested table under its dotted name."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def jsonable(value: Any) -> Any:
    """``value`` as strict JSON can hold it: a tensor of one number is that number, one that is not finite a string."""
    if callable(getattr(value, "item", None)):
        value = value.item()  # a tensor's or an array's one number
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    return value


def _same(old: Any, new: Any) -> bool:
    return bool(jsonable(old) == jsonable(new))  # two NaN are the same value of a knob


def saved_config(path: Path) -> dict[str, Any]:
    """What a run's config.toml holds. UserError if it is not valid."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML ({error}); restore it or start a new run") from error


def _toml(config: Mapping[str, Any]) -> str:
    # A string with half a surrogate pair has no UTF-8; TOML, which is UTF-8, must refuse it here by name.
    for name, value in dotted(config):
        if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
            raise UserError(f"{name}: {value!r} is not valid Unicode text; write it without lone surrogates")
    return toml_text(config)


def toml_text(table: Mapping[str, Any]) -> str:
    """A table as TOML. Long texts keep their lines, unless they have a carriage return, which TOML would read as
    none."""
    returns = "\\r" in json.dumps(table, default=str)
    return tomli_w.dumps(with_none_spelled(table), multiline_strings=not returns)


def with_none_spelled(table: Mapping[str, Any]) -> dict[str, Any]:
    """A nested table with the word "none" for None: TOML has no null."""
    return {
        key: with_none_spelled(value) if isinstance(value, Mapping) else "none" if value is None else value
        for key, value in table.items()
    }


def _rows_and_lines(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            return
        try:
            row = json.loads(line)
            row["step"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: not a row with a step; remove that line") from error
        yield row, line


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(
            f"{path} could not be written ({reason}); make room or choose another --out"
        ) from error
