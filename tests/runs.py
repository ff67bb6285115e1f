"""Runs of text that a test drives step by step, without a folder unless it brings one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from selfteach.cli.train import configured
from selfteach.policy.loading import Policy
from selfteach.recipes.kit import Recipe
from selfteach.task.example import Task
from selfteach.training import randomness
from selfteach.training.config import Bookkeeping, Evaluation, Loading, TrainConfig
from selfteach.training.launch import settings_of
from selfteach.training.learner import Numbers, Update
from selfteach.training.progress import Silent
from selfteach.training.rundir import RunFolder
from selfteach.training.text.learner import TextLearner
from selfteach.training.text.update import TextBatch
from selfteach.training.trainer import Trainer

Row = dict[str, Any]


class Rows(Silent):
    """Shows nothing and keeps every step's row, and what was said."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, row: Mapping[str, Any]) -> None:
        self.rows.append(dict(row))


class TextRun(Trainer):
    """A Trainer of text that keeps its rows and its last batch."""

    learner: TextLearner
    progress: Rows
    batch: TextBatch

    def __init__(self, config: TrainConfig, folder: RunFolder | None = None) -> None:
        randomness.seed_all(config.seed)  # adapters are drawn as they are made
        rows = Rows()
        super().__init__(TextLearner(config, rows), folder, rows, settings_of(config))

    def update(self, update: Update, batch: TextBatch) -> tuple[Numbers, Numbers]:
        self.batch = batch
        return super().update(update, batch)

    def stepped(self) -> Row:
        """One more batch, of the next stage where this one is over; its row."""
        if self.stage_done == self.stages[self.stage].steps and self.stage + 1 < len(self.stages):
            self.enter(self.stage + 1)
        self.step()
        return self.progress.rows[-1]


def run_of(model: str, *words: str, recipe: str = "opsd", device: str = "cpu") -> TextRun:
    """A run from words of the command line: two steps of four short rollouts on world "table", never evaluated."""
    few = ["--prompts", "2", "--per-prompt", "4"] if recipe == "grpo" else ["--prompts", "4"]
    common = ["--task", "table", "--model", model, "--device", device, "--steps", "2", "--max-tokens", "8"]
    quiet = ["--eval-problems", "0", "--samples-every", "0"]
    return TextRun(configured([recipe, *common, *few, *quiet, *words])[0])


def config_of(recipe: Recipe, model: str, out: Path, **book: Any) -> TrainConfig:
    """The settings of a run of a recipe of one's own on world "table": never evaluated, looked at or saved."""
    return TrainConfig(
        recipe=recipe,
        recipe_name="test",
        preset="test",
        task="table",
        out=out,
        loading=Loading(model=model, device="cpu"),
        evaluation=Evaluation(eval_problems=0),
        bookkeeping=Bookkeeping(**{"samples_every": 0, "checkpoint_every": 0, **book}),
    )


def with_task(run: TextRun, task: Any) -> TextRun:
    """The same run on another task."""
    learner, other = run.learner, as_task(task)
    learner.now.task = learner.writing.prompts.task = other
    return run


def as_task(task: Any) -> Task:
    """A test's task has the methods that the test needs."""
    return task  # type: ignore[no-any-return]


def weights(run: TextRun) -> dict[str, torch.Tensor]:
    """A copy of the weights that are trained."""
    return {name: p.detach().clone() for name, p in run.learner.policy.trainable().items()}


def scoring(run: TextRun, role: str = "teacher") -> AbstractContextManager[Policy]:
    """The policy that scores as ``role``, for as long as the context lasts."""
    return run.learner.models.weights.scoring(run.learner.recipe.roles[role].weights)
