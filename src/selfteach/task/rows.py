"""A task of the user's own: rows in memory, an object, or a function that makes one of these."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Any

from selfteach.errors import UserError
from selfteach.importing import in_one_line, is_reference, load_object, users_call
from selfteach.task.example import Task
from selfteach.task.files import Part, read_task
from selfteach.task.opening import finished, heeded, open_rows, open_task
from selfteach.task.options import TaskOptions
from selfteach.task.own import METHODS, OwnTask, is_task
from selfteach.task.reading import Row, Source, dataset_source
from selfteach.task.reward import Reward, RewardFunction
from selfteach.task.verifiers_task import VerifiersTask, is_environment

ROWS = "rows"
"""What rows without a name of their own are called in messages and keys."""


def make_task(
    task: Any,
    *,
    reward: Reward | str | None = None,
    seed: int = 0,
    options: TaskOptions | None = None,
    part: Part | None = None,
) -> Task:
    """A task from whatever names, holds or makes one (docs/data.md).

    ``task``: a name (``open_task``); an object with ``train``, ``held_out`` and ``grade``; a verifiers environment;
    rows (a list of dicts, a ``datasets.Dataset``, a pandas DataFrame); a function or class that makes one of these,
    called with ``seed`` if it has such a parameter; or a reference ``FILE.py:NAME`` to any of them. ``reward``: a
    function that grades in place of the task's verifier, or a reference to one. ``part``: what of rows is asked where
    nothing is trained. Raises UserError, in one line, where it is none of these.
    """
    judge = None if reward is None else RewardFunction.of(reward)
    found, label = task, ROWS
    name = task if isinstance(task, str) else None
    if isinstance(found, str) and is_reference(found):
        found, label = load_object(found), found
    graded = judge is None
    if callable(found) and not is_task(found, graded):
        found = _made(found, seed, label)
    if isinstance(found, str | os.PathLike):
        return open_task(os.fspath(found), seed=seed, options=options, reward=judge, part=part)
    if is_environment(found):
        found = VerifiersTask(found, seed=seed)
    if is_task(found, graded):
        heeded("own", f"task {type(found).__name__}", options)
        ours = type(found).__module__.partition(".")[0] == "selfteach"
        return finished(found if ours else OwnTask(found), options, judge, name, seed)
    source = source_of(found, label)
    if source is None:
        raise UserError(_none_of_these(found, label))
    chosen = heeded("rows", label, options)
    read = read_task(label, source, open_rows, seed=seed, options=chosen, reward=judge, part=part)
    return finished(read, options, judge, name, seed)


def source_of(rows: Any, label: str = ROWS) -> Source | None:
    """Rows in memory as a source like any file; None for what holds no rows."""
    name = Path(label).name
    if all(hasattr(rows, one) for one in ("column_names", "num_rows", "select_columns")):
        if isinstance(rows, Mapping):
            raise UserError(f"{label}: splits {', '.join(map(str, rows))}: choose one, such as data['train']")
        return dataset_source(label, name, rows)
    if all(hasattr(rows, one) for one in ("columns", "notna", "to_dict")):
        rows = _frame_rows(rows)
    if isinstance(rows, str | bytes | Mapping) or not all(
        hasattr(rows, one) for one in ("__len__", "__getitem__")
    ):
        return None
    if len(rows) == 0:
        raise UserError(f"{label}: there are no rows")
    listed = [_row(label, i + 1, rows[i]) for i in range(len(rows))]
    columns = tuple(dict.fromkeys(key for row in listed for key in row if isinstance(key, str)))
    return Source(label, name, columns, lambda columns: _numbered(listed))


def _frame_rows(frame: Any) -> Sequence[Mapping[str, Any]]:
    """A DataFrame's rows, None where it has no value (NaN, NaT, NA)."""
    rows: Sequence[Mapping[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return rows


def _row(label: str, number: int, row: Any) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise UserError(
            f'{label}, row {number}: of type {type(row).__name__}, not a dict; write {{"problem": …}} for each row'
        )
    return row


def _numbered(rows: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    return iter(enumerate(rows, start=1))


def _made(make: Callable[..., Any], seed: int, label: str) -> Any:
    """What the user's function or class makes."""
    own = getattr(make, "__qualname__", type(make).__name__)
    what = f"task {own if label == ROWS else label}"
    try:
        parameters = list(inspect.signature(make).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    any_number = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    seeded = any(one.name == "seed" and one.kind not in any_number for one in parameters)
    needed = [one.name for one in parameters if one.default is Parameter.empty and one.kind not in any_number]
    for name in needed:
        if name != "seed":
            raise UserError(f"{what} is made with seed alone, but needs {name!r}: give it a default")
    return users_call(f"{what} cannot be made", make, **({"seed": seed} if seeded else {}))


def _none_of_these(found: object, label: str) -> str:
    where = "" if label == ROWS else f"{label}: "
    kind = type(found).__name__
    if isinstance(found, Mapping):
        return f"{where}a {kind} is no list of rows: give [{{'problem': …}}, …], or datasets.Dataset.from_dict(…)"
    if hasattr(found, "__iter__") and not isinstance(found, str | bytes):
        return f"{where}a {kind} has no length: give a list of its rows"
    have = [name for name in METHODS if callable(getattr(found, name, None))]
    if have:
        lacks = ", ".join(name for name in METHODS if name not in have)
        return f"{where}a {kind} is no task: it has {', '.join(have)}, but lacks {lacks}"
    return (
        f"{where}no task can be made of {kind} {in_one_line(found)}: give a name, rows (a list of dicts, a Dataset, a "
        "DataFrame), an object with train, held_out and grade, or a function that makes one of these"
    )
