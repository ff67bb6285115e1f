"""Which problems a model is asked in an evaluation: a whole benchmark, or what a run holds out of its data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from selfteach.checks import require
from selfteach.errors import UserError
from selfteach.task.example import Task
from selfteach.task.files import Part
from selfteach.task.opening import HEEDED, HUB, kind_of
from selfteach.task.options import TaskOptions, yielding
from selfteach.task.rows import make_task
from selfteach.training.config import named
from selfteach.training.inputs import file_of, fingerprint, of_object
from selfteach.training.text.saved import SavedRun

log = logging.getLogger(__name__)
FEW = 128
"""Problems, where a task makes as many as are asked for, or holds out a part of its rows (as ``eval_problems``)."""
DEFAULT_WORLD = "table"
ASKING = ("system_prompt", "prompt_template", "instruction", "answer_format", "verifier", "grade_seconds")
"""Options of how something is asked and graded: a run's hold for other data too, those of its columns do not."""
HELD_OUT = ("held_out_file", "held_out_fraction")


@dataclass(frozen=True)
class Posed:
    """A task as it is asked: ``count`` problems of ``part`` of it; ``asked``: its options that are not the defaults."""

    task: Task
    label: str
    part: Part
    count: int
    asked: Mapping[str, Any]
    rows: int | None = None
    """How many rows the part has; None: it makes them."""


def posed(
    task: Any,
    run: SavedRun | None,
    rows: Part | None,
    problems: int | None,
    seed: int,
    options: Mapping[str, Any],
    reward: Callable[..., Any] | str | None,
) -> Posed:
    """A task (None: the run's, else world "table"), with the options and the reward of the run where they are left out.

    Of the run's own data the held-out rows are asked, of any other data all rows, unless ``rows`` or a held-out option
    says otherwise. UserError for rows that there are not, or a task or reward that only Python can bring back.
    """
    if task is None:
        task = task_of(run)
    own = run is not None and is_of_run(task, run, options)
    part: Part = rows or ("held-out" if own or set(HELD_OUT) & set(options) else "all")
    if run is not None and own and reward is None:
        reward = run.reward
    if run is not None and own and isinstance(task, str):
        tell_of_changes(run, task)
    chosen = replace(yielding(carried(task, run, own, part), options), **options)
    made = make_task(task, reward=reward, seed=seed, options=chosen, part=part)
    held = getattr(made, "held_out_rows", None)
    if held is None:
        name = task if isinstance(task, str) else named(task)
        require(
            rows != "all",
            f"rows is all, but task {name} has no rows: it makes as many problems as are asked for",
        )
        part = "held-out"
    count = problems
    if count is None and run is not None and own and part == "held-out":
        count = run.evaluation.eval_problems or None
    if held is not None and part == "all":
        count = min(count or len(held), len(held))
    default = asdict(TaskOptions())
    asked = {name: value for name, value in asdict(chosen).items() if value != default[name]}
    return Posed(
        made,
        task if isinstance(task, str) else named(task),
        part,
        count or FEW,
        asked,
        None if held is None else len(held),
    )


def task_of(run: SavedRun | None) -> str:
    """The run's task by name, or the world that stands for none. UserError where it was an object."""
    if run is None:
        return DEFAULT_WORLD
    if run.task is None:
        raise UserError(
            f"the task of {run.folder} was given from Python: say which one, task=… (or --task NAME)"
        )
    return run.task


def is_of_run(task: Any, run: SavedRun, options: Mapping[str, Any]) -> bool:
    """Whether it is the very data that the run was trained on, the split of a dataset included."""
    if not isinstance(task, str):
        return run.task is None and of_object(task) == run.inputs.get("task")
    before = run.task_options
    other = any(name in options and options[name] != getattr(before, name) for name in HUB)
    return run.task is not None and not other and same_place(task, run.task)


def tell_of_changes(run: SavedRun, task: str) -> None:
    """Say so where the run's data is no longer what it was trained on: other problems may be held out now."""
    known, place = run.inputs.get("task"), file_of(task)
    if known and place.exists() and fingerprint(place) != known:
        log.warning("%s has changed since %s was trained on it", task, run.folder)


def same_place(one: str, other: str) -> bool:
    return one == other or (Path(one).exists() and Path(one).resolve() == Path(other).resolve())


def carried(task: Any, run: SavedRun | None, own: bool, part: Part) -> TaskOptions:
    """The run's options that hold for a task: all of them for its own data, for other data how it asks and grades."""
    if run is None:
        return TaskOptions()
    its = run.task_options
    if own and part == "held-out":
        return its
    if own or (isinstance(task, str) and run.task is not None and dataset_of(task) == dataset_of(run.task)):
        return replace(its, held_out_file=None, only=None)
    heeded = HEEDED.get(
        kind_of(task) if isinstance(task, str) else "rows" if hasattr(task, "__len__") else "", ()
    )
    return TaskOptions(**{name: getattr(its, name) for name in ASKING if name in heeded})


def dataset_of(name: str) -> str:
    """A dataset's name without what stands behind a question mark."""
    return name.partition("?")[0]
