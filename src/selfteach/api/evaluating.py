"""``selfteach.evaluate``: how well a model answers a task's problems, as it is or under a teacher's view."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, overload

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfteach.api.evaluated import Evaluated, Evaluations
from selfteach.api.posing import Posed, posed
from selfteach.api.resolve import in_memory
from selfteach.api.result import Result
from selfteach.checks import nearest, require
from selfteach.errors import UserError, diverged, within_memory
from selfteach.policy.draws import Sampling
from selfteach.policy.loading import Policy, policy_of
from selfteach.policy.room import room_of
from selfteach.roles.view import Answer, Plain, Solution, View
from selfteach.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PositiveRows,
    PositiveUnit,
    Seed,
    settings,
)
from selfteach.task.arena import WORLDS, model_folder
from selfteach.task.example import is_graded
from selfteach.task.options import TaskOptions
from selfteach.training.config import Loading
from selfteach.training.text.estimates import estimates
from selfteach.training.text.evaluation import Answered
from selfteach.training.text.evaluation import evaluate as measure
from selfteach.training.text.saved import Saved, SavedRun, load_saved, saved_model
from selfteach.training.threads import on_threads, threads_of

ModelLike = str | Path | PreTrainedModel | Result
LONGEST, LONGEST_IN_A_WORLD = 1024, 64
"""Tokens of an answer, where neither a run nor the user says."""


@settings
class EvalSettings:
    """How a model is examined: each setting is also called as in ``train``, ``eval_problems`` for ``problems``."""

    problems: PositiveRows | None = None
    """How many problems (none: all rows of a benchmark; else as many as the run was measured on, or 128)."""
    rows: Literal["all", "held-out"] | None = None
    """What of a file or dataset is asked (none: of the data that the run was trained on what it held out, and of any
    other data all, unless a held-out option is given)."""
    samples: PositiveRows = 4
    """Answers sampled for each problem."""
    pass_at_k: tuple[PositiveInt, ...] = ()
    """Which pass@k are estimated (none: powers of two up to the samples)."""
    greedy: bool = False
    """Answer each problem once more at temperature 0."""
    temperature: NonNegativeFloat = 1.0
    """Sampling temperature (0: greedy)."""
    top_p: PositiveUnit = 1.0
    """Nucleus sampling mass (1: off)."""
    top_k: NonNegativeInt = 0
    """Sample from the k likeliest tokens only (0: off)."""
    max_tokens: PositiveInt | None = None
    """Longest answer, in tokens (none: as the run was measured; else 1024, at most half the model's window, and 64 in
    an arena world)."""
    thinking: bool | None = None
    """Thinking flag of the chat template (none: its own default)."""
    sample_batch: PositiveRows | None = None
    """Answers sampled at once (none: as a run does)."""
    max_memory: PositiveFloat | None = None
    """GB that it may use, from which follows how much is sampled at once (none: as the run had it where that fits, else
    the machine's). Answers are the same but for rounding."""
    seed: Seed = 0
    """Seed of problems and sampling."""


@dataclass(frozen=True)
class Draft:
    """What holds before anything is set: of a run or a checkpoint its own settings, else the defaults."""

    saved: Saved | None = None
    how: EvalSettings = field(default_factory=EvalSettings)
    loading: Loading = field(default_factory=Loading)
    options: TaskOptions = field(default_factory=TaskOptions)

    @property
    def run(self) -> SavedRun | None:
        return None if self.saved is None else self.saved.run


def drafted(model: str | Path | None) -> Draft:
    """The settings that a model brings. UserError for a run or a checkpoint that is not there."""
    saved = None if model is None else saved_model(model)
    if saved is None or saved.run is None:
        return Draft(saved)
    run = saved.run
    its = run.evaluation
    how = EvalSettings(
        samples=its.eval_samples, temperature=its.eval_temperature, top_p=its.eval_top_p, top_k=its.eval_top_k,
        max_tokens=run.max_tokens, thinking=run.thinking, sample_batch=run.sample_batch, seed=run.seed,
    )  # fmt: skip
    return Draft(saved, how, replace(run.loading, model=""), run.task_options)


@overload
def evaluate(model: ModelLike | None, task: list[str] | tuple[str, ...], **settings: Any) -> Evaluations: ...


@overload
def evaluate(model: ModelLike | None = None, task: Any = None, **settings: Any) -> Evaluated: ...


def evaluate(
    model: ModelLike | None = None,
    task: Any = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    reward: Callable[..., Any] | str | None = None,
    view: View | str | None = None,
    base: str | Path | None = None,
    **settings: Any,
) -> Evaluated | Evaluations:
    """Sample answers to a task's problems and grade them: an ``Evaluated``; of several tasks ``Evaluations``.

    ``model``: a run or its folder, a checkpoint RUN/checkpoints/step-N, the folder of a model or of an adapter
    (``base``: where its base model is now), a hub id, "arena:NAME", or a model in memory with its ``tokenizer``; None:
    the arena world's own. ``task`` and ``reward`` are as in ``selfteach.train``; a list of names are several tasks;
    None: the run's own task and reward, else world "table". ``view``: what the model is shown ("solution", "answer" or
    a view; None: the bare problem). ``settings``: the fields of ``EvalSettings`` (``samples=4, max_tokens=64`` …) and
    those of the data and the model as in ``train`` (``split="test"``). What is left out is as in the run, so that a
    run's own last evaluation comes out again, to the digit. Raises UserError for whatever cannot be meant.
    """
    model = model.folder if isinstance(model, Result) else model
    draft = Draft() if isinstance(model, PreTrainedModel) else drafted(model)
    asked = divided(settings)
    how = replace(draft.how, **asked[EvalSettings])
    loading = replace(draft.loading, **asked[Loading])
    for k in how.pass_at_k:
        require(k <= how.samples, f"pass_at_k: pass@{k} needs {k} samples a problem, there are {how.samples}")
    several = isinstance(task, list | tuple) and bool(task) and all(isinstance(one, str) for one in task)
    found, policy = [], None
    for one in task if several else [task]:
        what = posed(one, draft.run, how.rows, how.problems, how.seed, asked[TaskOptions], reward)
        require(
            is_graded(what.task),
            f"nothing in {what.label} is graded, for its rows have no answers: give a reward (--reward FILE:NAME)",
        )
        if policy is None or model is None:
            where = None if base is None else str(base)
            with within_memory("loading the model"):
                policy = policy_for(model, draft.saved, what, tokenizer, loading, where)
            if how.max_memory is not None:
                policy.room.memory = room_of(policy.model, limit=int(how.max_memory * 1e9)).memory
        shown = f"arena {what.label}" if model is None else label_of(draft.saved, policy)
        found.append(
            evaluate_one(policy, what, how, view_named(view) if isinstance(view, str) else view, shown)
        )
    return Evaluations(found) if several else found[0]


def evaluate_one(policy: Policy, what: Posed, how: EvalSettings, view: View | None, model: str) -> Evaluated:
    """One model's answers to one task."""
    longest = how.max_tokens or longest_of(policy, what)
    sampling = Sampling(longest, how.temperature, how.top_p, how.top_k)
    shared: dict[str, Any] = {
        "problems": what.count, "thinking": how.thinking, "view": view, "batch_size": how.sample_batch,
        "seed": how.seed,
    }  # fmt: skip
    greedy: list[Answered] = []
    with within_memory("answering"), diverged(f"model {model}"), on_threads(threads_of(policy.model)):
        result, answers = measure(policy, what.task, samples=how.samples, sampling=sampling, **shared)
        if how.greedy:
            _, greedy = measure(policy, what.task, samples=1, sampling=Sampling(longest, 0.0), **shared)
    numbers = estimates(answers, how.samples, how.pass_at_k, greedy)
    kept = ("samples", "temperature", "top_p", "top_k", "thinking", "seed")
    settings = {name: value for name, value in asdict(how).items() if name in kept} | {"max_tokens": longest}
    settings |= {"view": (view or Plain()).name, **what.asked}
    return Evaluated(
        model,
        what.label,
        result,
        answers,
        numbers,
        greedy,
        what.part,
        what.rows,
        settings,
        policy.renderer.show,
    )


def longest_of(policy: Policy, what: Posed) -> int:
    return LONGEST_IN_A_WORLD if what.label in WORLDS else min(LONGEST, policy.window // 2)


def divided(settings: Mapping[str, Any]) -> dict[type, dict[str, Any]]:
    """Settings by flat name as those of the evaluation, the data and the model. UserError for any other name, or for
    one that is given under both of its names."""
    parts: dict[type, dict[str, Any]] = {EvalSettings: {}, TaskOptions: {}, Loading: {}}
    names = {kind: {one.name for one in fields(kind)} for kind in parts}
    for name, value in settings.items():
        plain = name.removeprefix("eval_") if name.removeprefix("eval_") in names[EvalSettings] else name
        place = next((kind for kind, known in names.items() if plain in known), None)
        if place is None:
            every = [each for own in names.values() for each in own]
            raise UserError(f"evaluate has no setting {name!r}{nearest(name, every)}")
        require(plain not in parts[place], f"{plain} is given twice, as eval_{plain} too")
        parts[place][plain] = value
    return parts


def view_named(name: str) -> View:
    """The view of this name. UserError with the nearest if there is none."""
    views: Mapping[str, View] = {"plain": Plain(), "solution": Solution(), "answer": Answer()}
    if name not in views:
        raise UserError(f"there is no view {name!r}{nearest(name, views)}")
    return views[name]


def label_of(saved: Saved | None, policy: Policy) -> str:
    return policy.name if saved is None else saved.label


def policy_for(
    model: str | Path | PreTrainedModel | None,
    saved: Saved | None,
    what: Posed,
    tokenizer: PreTrainedTokenizerBase | None,
    loading: Loading,
    base: str | None = None,
) -> Policy:
    """The model to examine, on the device that ``loading`` says; one in memory is copied, none is the world's own."""
    device = device_of(loading)
    if isinstance(model, PreTrainedModel):
        require(base is None, "base says where an adapter's base model is: a model in memory has its own")
        name, tokenizer = in_memory(model, tokenizer)
        return policy_of(
            copy.deepcopy(model), tokenizer, name=name, precision=loading.precision,
            chat_template=loading.chat_template, device=device,
        )  # fmt: skip
    if saved is None:
        require(
            what.label in WORLDS,
            f"--model is missing: task {what.label} has no model of its own (give a folder or a hub id)",
        )
        saved = Saved(f"arena {what.label}", str(model_folder(what.label)))
    return load_saved(saved, loading, base=base, device=device)


def device_of(loading: Loading) -> str:
    return "cuda" if torch.cuda.is_available() and loading.device == "auto" else "cpu"
