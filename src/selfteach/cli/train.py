"""``selfteach train RECIPE``: one run from words to a run folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Any

from selfteach.cli.console import parsed
from selfteach.cli.progress import Silent, progress_for_here
from selfteach.errors import UserError
from selfteach.recipes import RECIPES, Recipe, recipe_named
from selfteach.recipes.checks import require
from selfteach.report import build_report
from selfteach.task.arena import WORLDS
from selfteach.task.opening import TaskOptions, open_task
from selfteach.train.config import Bookkeeping, Evaluation, Loading, TrainConfig
from selfteach.train.launch import launch


@dataclass(frozen=True)
class Where:
    """What is trained on, and where the run goes."""

    task: str = ""
    """A world of the arena, gym:NAME, hf:ID, or a .jsonl or .parquet file, docs/data.md (empty: the arena world that
    suits the recipe)."""
    out: Path | None = None
    """Run folder (none: runs/RECIPE-TASK-TIME)."""
    preset: str | None = None
    """A named setting of the recipe (none: the paper's; in an arena world its "arena" one)."""
    seed: int = 0
    """Seed of data order, sampling and evaluation."""
    resume: bool = False
    """Go on with the interrupted run in --out."""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, f"seed is {self.seed}: give a number from 0 up to 2^63")


def command(words: Sequence[str]) -> int:
    """Parse, train, report."""
    config, resume = configured(words)
    folder, _ = launch(config, progress_for_here, Silent, resume=resume)
    if folder is not None:
        page = build_report(folder)
        print(f"model    {folder / 'model'}\nreport   {page}")
    return 0


def configured(words: Sequence[str], command: str = "train") -> tuple[TrainConfig, bool]:
    """The run that the words ask for, and whether it is to be resumed."""
    if not words or words[0].startswith("-"):
        raise UserError(f"which recipe? selfteach {command} RECIPE; known: {', '.join(RECIPES)}")
    name, rest = words[0], list(words[1:])
    task = option(rest, "--task") or world_of(name)
    preset = option(rest, "--preset")
    recipe, preset = chosen_preset(name, preset, task)
    kind = arguments(type(recipe))
    program = f"selfteach {command} {name}"
    given = parsed(
        kind, rest, program=program, default=kind(recipe=recipe), description=described(recipe, preset)
    )
    where: Where = replace(given.where, task=task)
    out = where.out or Path("runs") / f"{name}-{safe(where.task)}-{time.strftime('%Y%m%d-%H%M%S')}"
    require_model(given.loading.model, where.task, given.task_options)
    config = TrainConfig(
        recipe=given.recipe,
        recipe_name=name,
        preset=preset,
        task=where.task,
        out=out,
        seed=where.seed,
        loading=given.loading,
        task_options=given.task_options,
        evaluation=given.evaluation,
        bookkeeping=given.bookkeeping,
    )
    return config, where.resume


def world_of(name: str) -> str:
    """The arena world that suits a recipe; an unknown recipe is refused when it is chosen."""
    return RECIPES[name].world if name in RECIPES else Recipe.world


def arguments(recipe: type[Recipe]) -> Any:
    """The knobs of ``selfteach train`` for one recipe, as a dataclass."""
    return make_dataclass(
        "Arguments",
        [
            ("recipe", recipe),
            ("where", Where, field(default_factory=Where)),
            ("loading", Loading, field(default_factory=Loading)),
            ("task_options", TaskOptions, field(default_factory=TaskOptions)),
            ("evaluation", Evaluation, field(default_factory=Evaluation)),
            ("bookkeeping", Bookkeeping, field(default_factory=Bookkeeping)),
        ],
        frozen=True,
    )


def chosen_preset(name: str, preset: str | None, task: str) -> tuple[Recipe, str]:
    """The preset asked for; without one the arena's in an arena world, else the paper's."""
    recipe = recipe_named(name, preset)
    presets = RECIPES[name].presets()
    if preset is None:
        preset = "arena" if task in WORLDS and "arena" in presets else next(iter(presets))
        recipe = presets[preset]
    return recipe, preset


def require_model(model: str, task: str, options: TaskOptions | None = None) -> None:
    """Refuse a task without a model of its own; a task that does not exist is refused as such first."""
    if not model and task not in WORLDS:
        open_task(task, options=options)
        raise UserError(
            f"--model is missing: task {task} has no model of its own (give a folder or a hub id)"
        )


def described(recipe: Recipe, preset: str) -> str:
    known = ", ".join(type(recipe).presets())
    return f"{type(recipe).__doc__}\n\nDefaults below are those of preset {preset}. Presets: {known}."


def option(words: Sequence[str], name: str) -> str | None:
    """The value of an option before anything is parsed."""
    for i, word in enumerate(words):
        if word == name and i + 1 < len(words):
            return words[i + 1]
        if word.startswith(name + "="):
            return word.split("=", 1)[1]
    return None


def safe(task: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in task).strip("-")[:40]
