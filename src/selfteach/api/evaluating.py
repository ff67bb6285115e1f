"""``selfteach.evaluate``: held-out accuracy of a model on a task, as it is or under a teacher's view."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfteach.api.configfile import given_from_python, read_settings
from selfteach.api.resolve import in_memory
from selfteach.api.result import Result
from selfteach.checks import nearest
from selfteach.errors import UserError
from selfteach.policy.loading import Policy, load_policy, policy_of
from selfteach.policy.sampler import Sampling
from selfteach.roles.view import Answer, Plain, Solution, View
from selfteach.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    PositiveRows,
    PositiveUnit,
    Seed,
    settings,
)
from selfteach.task.arena import WORLDS, model_folder, resolve_model
from selfteach.task.options import TaskOptions
from selfteach.task.rows import make_task
from selfteach.training.config import Loading, named
from selfteach.training.text.evaluation import Answered, EvaluationResult
from selfteach.training.text.evaluation import evaluate as measure


@settings
class EvalSettings:
    """How a model is examined."""

    problems: PositiveRows = 256
    """Held-out problems."""
    samples: PositiveRows = 4
    """Answers sampled for each problem."""
    temperature: NonNegativeFloat = 1.0
    """Sampling temperature (0: greedy)."""
    top_p: PositiveUnit = 1.0
    """Nucleus sampling mass (1: off)."""
    top_k: NonNegativeInt = 0
    """Sample from the k likeliest tokens only (0: off)."""
    max_tokens: PositiveInt = 64
    """Longest answer, in tokens."""
    thinking: bool | None = None
    """Thinking flag of the chat template (none: its own default)."""
    batch: PositiveRows = 256
    """Answers sampled at once."""
    seed: Seed = 0
    """Seed of problems and sampling."""


@dataclass(frozen=True)
class Evaluated:
    """``result``: accuracy with its standard error over problems, pass@k, mean length in tokens, share that finished;
    ``answers``: every answer with its grade; ``model`` and ``task``: of what."""

    model: str
    task: str
    result: EvaluationResult
    answers: list[Answered]

    @property
    def accuracy(self) -> float:
        return self.result.accuracy

    def rows(self) -> list[dict[str, Any]]:
        """The answers as plain values."""
        return [
            {"key": a.example.key, "problem": a.example.problem, "answer": a.text, "reward": a.grade.reward}
            for a in self.answers
        ]

    def save(self, path: Path | str) -> None:
        """Write result and answers as JSON."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        table = {
            "model": self.model,
            "task": self.task,
            "result": asdict(self.result),
            "answers": self.rows(),
        }
        path.write_text(json.dumps(table, indent=1), encoding="utf-8")

    def __repr__(self) -> str:
        one = self.result
        return (
            f"{self.model} on {self.task}: accuracy {one.accuracy:.3f} ± {one.accuracy_se:.3f} (standard error over "
            f"{one.problems} problems)  pass@{one.k} {one.pass_at_k:.3f}  length {one.length:.1f} tokens  "
            f"finished {one.finished:.2f}"
        )


def evaluate(
    model: str | Path | PreTrainedModel | Result | None = None,
    task: Any = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    reward: Callable[..., Any] | str | None = None,
    view: View | str | None = None,
    **settings: Any,
) -> Evaluated:
    """Sample answers to a task's held-out problems and grade them.

    ``model``: a run or its folder, a model's folder, a hub id, "arena:NAME", or a model in memory with its
    ``tokenizer``; None: the arena world's own. ``task`` and ``reward`` are as in ``selfteach.train``; None: the run's
    own task, else world "table". ``view``: what the model is shown ("solution", "answer" or a view; None: the bare
    problem). ``settings``: the fields of ``EvalSettings`` (``problems=256, samples=4, max_tokens=64, seed=0`` …), and
    those of the data and the model as in ``train`` (``held_out_fraction=0.2``). Raises UserError for whatever cannot
    be meant.
    """
    asked, options, loading = divided(settings)
    model = model.folder if isinstance(model, Result) else model
    task = task if task is not None else task_of(model)
    source = make_task(task, reward=reward, seed=asked.seed, options=options)
    if model is None and not (isinstance(task, str) and task in WORLDS):
        raise UserError(
            f"--model is missing: task {source.name} has no model of its own (give a folder or a hub id)"
        )
    policy = policy_for(model if model is not None else str(model_folder(task)), tokenizer, loading)
    sampling = Sampling(asked.max_tokens, asked.temperature, asked.top_p, asked.top_k)
    result, answers = measure(
        policy, source, problems=asked.problems, samples=asked.samples, sampling=sampling, thinking=asked.thinking,
        view=view_named(view) if isinstance(view, str) else view, batch_size=asked.batch, seed=asked.seed,
    )  # fmt: skip
    label = task if isinstance(task, str) else named(task)
    shown = f"arena {task}" if model is None else str(model) if isinstance(model, str | Path) else policy.name
    return Evaluated(shown, label, result, answers)


def divided(settings: Mapping[str, Any]) -> tuple[EvalSettings, TaskOptions, Loading]:
    """Settings by flat name as those of the evaluation, the data and the model. UserError for any other name."""
    parts: list[dict[str, Any]] = [{}, {}, {}]
    names = [[one.name for one in fields(kind)] for kind in (EvalSettings, TaskOptions, Loading)]
    for name, value in settings.items():
        place = next((i for i, known in enumerate(names) if name in known), None)
        if place is None:
            raise UserError(
                f"evaluate has no setting {name!r}{nearest(name, [n for own in names for n in own])}"
            )
        parts[place][name] = value
    return EvalSettings(**parts[0]), TaskOptions(**parts[1]), Loading(**parts[2])


def task_of(model: Any) -> str:
    """The task of the run whose folder is the model, if it can be named; else world "table"."""
    if isinstance(model, str | Path) and os.path.isfile(Path(model) / "config.toml"):
        settings = read_settings(model)
        run = settings.get("run")
        task = run.get("task") if isinstance(run, Mapping) else None
        if "task" not in given_from_python(settings) and isinstance(task, str):
            return task
    return "table"


def view_named(name: str) -> View:
    """The view of this name. UserError with the nearest if there is none."""
    views: Mapping[str, View] = {"plain": Plain(), "solution": Solution(), "answer": Answer()}
    if name not in views:
        raise UserError(f"there is no view {name!r}{nearest(name, views)}")
    return views[name]


def policy_for(
    model: str | Path | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, loading: Loading
) -> Policy:
    """The model to examine, on the device that ``loading`` says; one in memory is copied."""
    device = "cuda" if torch.cuda.is_available() and loading.device == "auto" else "cpu"
    if isinstance(model, PreTrainedModel):
        name, tokenizer = in_memory(model, tokenizer)
        return policy_of(
            copy.deepcopy(model), tokenizer, name=name, precision=loading.precision,
            chat_template=loading.chat_template, device=device,
        )  # fmt: skip
    return load_policy(
        resolve_model(str(model)), precision=loading.precision, trained=False, chat_template=loading.chat_template,
        revision=loading.model_revision, trust_remote_code=loading.trust_remote_code, device=device,
    )  # fmt: skip
