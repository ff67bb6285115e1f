"""Any learner's run, begun or gone on with: its folder, preflight, loop, and what is said on the way."""

from __future__ import annotations

import atexit
import os
import platform
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from functools import partial, wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import distributed

from selfteach.errors import UserError, within_memory
from selfteach.training import alarms, checkpoint, resuming
from selfteach.training.config import FORMAT
from selfteach.training.interruption import Interrupted
from selfteach.training.jsonrows import read_rows
from selfteach.training.learner import Learner
from selfteach.training.peers import answering
from selfteach.training.progress import Progress, Silent
from selfteach.training.reduce import gather_rows, processes, state_on
from selfteach.training.runconfig import anew, changes, dotted, is_without_tokens, saved_config
from selfteach.training.rundir import RunFolder
from selfteach.training.threads import on_threads
from selfteach.training.trainer import Settings, Trainer
from selfteach.training.whereabouts import base_of, renamed

P = ParamSpec("P")
R = TypeVar("R")
STEPS, BUDGETS = "recipe.optimization.steps", ("bookkeeping.token_budget", "settings.budget")
FREE = (
    "versions",
    "about.title",
    "about.source",
    "about.formula",
    "run.started_in",
    "loading.device",
    "bookkeeping.keep",
    "bookkeeping.track",
    "bookkeeping.project",
    "bookkeeping.run_name",
    "bookkeeping.micro_batch",
    "bookkeeping.sample_batch",
    "loading.gradient_checkpointing",
    "loading.offload_teachers",
    "loading.fsdp",
    "loading.ddp_timeout",
    "vllm.vllm_server_base_url",
    "vllm.vllm_server_timeout",
    "vllm.vllm_gpu_memory_utilization",
    "bookkeeping.max_idle_steps",
    "bookkeeping.max_unavailable",
    "bookkeeping.max_unscored",
    "loading.teacher_server",
    "recipe.black_box.text_teacher_url",
    "recipe.black_box.text_teacher_budget",
    "recipe.summaries.summarizer_url",
    "recipe.summaries.summarizer_budget",
    "settings.device",
    "settings.keep",
    "settings.max_idle_steps",
)
"""What may differ between a run and its resumption: what makes it, and how its work is cut to fit the machine."""


def in_training_mode(function: Callable[P, R]) -> Callable[P, R]:
    """The function with gradients, whatever mode its caller is in: a notebook may stand under no_grad."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(False), torch.enable_grad():
            return function(*args, **kwargs)

    return called


@in_training_mode
def run_learner(
    learner: Learner | Callable[[], Learner],
    out: Path | str,
    settings: Settings | None = None,
    *,
    table: Mapping[str, Any] | None = None,
    resume: bool = False,
    check: bool = True,
    progress: Callable[[], Progress] = Silent,
    also: Collection[str] = (),
) -> tuple[Path | None, dict[str, Any]]:
    """Train any learner to its end in the folder ``out``, or go on with the run that is there.

    ``learner``: one, or a function that makes it once the folder is known to be free. ``table``: what config.toml holds
    beside the versions (none: the learner's own, and the settings). ``also``: what it exports beside ``model``.
    Returns the run folder (None on processes that do not write) and what summary.json holds. Raises ``UserError`` where
    the folder holds another run, settings differ from those it was begun with, or the run cannot go on; ``Interrupted``
    after Ctrl-C, when the run is saved.
    """
    out, settings = Path(out), settings or Settings()
    first = state_on(settings.device).is_main_process
    if table is None:
        learner = learner() if callable(learner) else learner
        table = learner_table(learner, settings)
    config = {**table, "versions": versions()}
    folder, changed = opened_by_one(partial(opened, out, config, resume, also), first)
    shown = progress() if first else Silent()
    trainer: Trainer | None = None
    begun = False
    try:
        with within_memory("loading the model"), answering(partial(safe, out)):
            trainer = Trainer(learner() if callable(learner) else learner, folder, shown, settings)
        trainer.check = check
        with on_threads(trainer.learner.threads()):
            config["versions"] = versions()
            with answering(partial(safe, out)):
                begin_or_go_on(trainer, out, config, resume, changed)
                begun = True
                summary = trainer.train()
    except Interrupted:
        raise
    except BaseException as problem:
        if folder is not None and not resume and (trainer is None or trainer.done == 0):
            folder.forget_all()  # nothing was learned: the corrected command may have the folder
        elif folder is not None and begun and trainer is not None and isinstance(problem, UserError):
            folder.stopped(trainer.done, str(problem))
        raise
    finally:
        shown.stop()
        if folder is not None:
            folder.close()
    return (folder.path if folder is not None else None), summary


def opened_by_one(act: Callable[[], tuple[RunFolder, bool]], first: bool) -> tuple[RunFolder | None, bool]:
    """What ``act`` opens, in the first process; where that refuses, all of them do, in its words."""
    found: tuple[RunFolder | None, bool] = None, False
    problem: UserError | None = None
    try:
        found = act() if first else found
    except UserError as refused:
        problem = refused
    if told := gather_rows([] if problem is None else [str(problem)]):
        raise problem or UserError(told[0])
    return found


def safe(out: Path) -> str:
    """What is left of a run whose processes have lost each other, and how it goes on."""
    if checkpoint.latest(out) is None:
        return "there is no checkpoint yet: launch the run anew"
    return "the last checkpoint is intact: launch it with --resume, by as many processes or others"


def begin_or_go_on(
    trainer: Trainer, out: Path, config: Mapping[str, Any], resume: bool, changed: bool
) -> None:
    """Preflight of a run that begins, or the state of one that goes on (``resume``); and its folder made ready.
    ``changed``: its settings are others than it was begun with."""
    restored = resuming.restore(trainer, out) if resume else None
    if restored is None and trainer.check:
        trainer.learner.preflight()
    folder = trainer.folder
    if folder is not None and (changed or restored is None):
        # Only now: a start that fails leaves a folder that the corrected command may use.
        folder.write_config(config)
    if folder is not None and resume:
        folder.forget_stop()
        resuming.cut(folder, restored)
        trainer.memory = alarms.remembered(read_rows(folder.path / "metrics.jsonl"), trainer.memory)


@atexit.register
def leave_process_group() -> None:
    """End gloo's threads before the interpreter ends: a finished process may abort without (pytorch issue 190489)."""
    if distributed.is_available() and distributed.is_initialized() and distributed.get_backend() == "gloo":
        distributed.destroy_process_group()


def learner_table(learner: Learner, settings: Settings) -> dict[str, Any]:
    """What config.toml holds of a run without a recipe's command line."""
    return {
        "about": {"format": FORMAT},
        "recipe": {"name": type(learner).__name__, **learner.table()},
        "stages": {
            "names": [one.name for one in learner.stages],
            "steps": [one.steps for one in learner.stages],
        },
        "run": {"seed": settings.seed, **followed(learner.unit, learner.headline, learner.better)},
        "settings": asdict(settings),
    }


def opened(
    out: Path, config: Mapping[str, Any], resume: bool, also: Collection[str] = ()
) -> tuple[RunFolder, bool]:
    """The run's folder, and whether the run that is there is to go on with other settings: beyond the end it was
    given, or cut to fit the machine in another way."""
    if not resume:
        return RunFolder.create(out, also), False
    saved = saved_config(out / "config.toml") if os.path.isfile(out / "config.toml") else {}
    raised = longer(saved, config) if saved else set()
    same = renamed(dict(dotted(saved)), dict(dotted(config)), base_of(saved, out))
    folder = RunFolder.resume(out, config, free=(*FREE, *raised, *same), why=why_not(saved, config))
    return folder, bool(changes(out, config, free=("versions",)))


def why_not(saved: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """Why steps and budget cannot be what they are asked to be, by dotted name."""
    old, new = dict(dotted(saved)), dict(dotted(config))
    schedule, knobs = new.get("recipe.optimization.schedule", "constant"), new.get("run.controlled")
    instead = anew(config)
    fixed = ""
    if schedule != "constant":
        fixed = (
            f"the {schedule} schedule of the learning rate was laid out for {old.get(STEPS)} steps: {instead}"
        )
    elif is_without_tokens(config):
        fixed = f"its stages were laid out for {old.get(STEPS)} steps: start a new run in another --out"
    elif knobs:
        fixed = f"{', '.join(knobs)} is chosen by the share of the steps that is done: {instead}"
    lowered = "it can be raised, not lowered"
    found = {}
    for name in (STEPS, *BUDGETS):
        before, now = old.get(name), new.get(name)
        less = isinstance(now, int) and (not isinstance(before, int) or now < before)
        found[name] = lowered if less else fixed if name == STEPS else ""
    return {name: text for name, text in found.items() if text}


def longer(saved: Mapping[str, Any], config: Mapping[str, Any]) -> set[str]:
    """The bounds of a run that are raised, by dotted name; of steps only where no schedule or controller looks at
    them."""
    old, new = dict(dotted(saved)), dict(dotted(config))
    found = {
        name
        for name in (STEPS, *BUDGETS)
        if isinstance(old.get(name), int) and (not isinstance(new.get(name), int) or new[name] > old[name])
    }
    schedule, found_on_the_way = (
        new.get("recipe.optimization.schedule", "constant"),
        new.get("run.controlled"),
    )
    fixed = schedule != "constant" or found_on_the_way or is_without_tokens(config)
    return found - {STEPS} if fixed else found


def followed(unit: str, headline: str, better: str = "higher") -> dict[str, str]:
    """What ``spent`` counts, what ``eval/headline`` is, and which way it should go: the report's labels."""
    return {"unit": unit, "headline": headline, "better": better}


def versions() -> dict[str, str]:
    """What a run was made with."""
    known = {name: version(name) for name in ("selfteach", "torch", "transformers", "accelerate", "peft")}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        **known,
        "python": platform.python_version(),
        "device": device,
        "threads": str(torch.get_num_threads()),
        "processes": str(processes()[1]),
    }
