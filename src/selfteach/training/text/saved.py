"""What a model's name may mean beside a folder or a hub id: a run, or one of its checkpoints; and how it is loaded."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from selfteach.checks import require
from selfteach.errors import UserError
from selfteach.policy.adapter import base_of, is_adapter
from selfteach.policy.loading import Policy, load_policy
from selfteach.policy.lora import LoraConfig
from selfteach.recipes.parts import Adapter
from selfteach.roles.weights import POLICY
from selfteach.task.arena import WORLDS, model_folder, resolve_model
from selfteach.task.options import TaskOptions
from selfteach.training import checkpoint, weights
from selfteach.training.config import FORMAT, Bookkeeping, Evaluation, Loading
from selfteach.training.inputs import fingerprint
from selfteach.training.runconfig import RESTORE, saved_config
from selfteach.training.whereabouts import from_here

log = logging.getLogger(__name__)
CHECKPOINTS = "checkpoints"
S = TypeVar("S")


@dataclass(frozen=True)
class SavedRun:
    """What a run's config.toml says of its model, its task and how it was measured. UserError where it says nothing
    that this version knows."""

    folder: Path

    @cached_property
    def config(self) -> Mapping[str, Any]:
        config = from_here(saved_config(self.folder / "config.toml"), self.folder)
        known = config.get("about", {}).get("format", 1)
        require(
            known == FORMAT,
            f"{self.folder} is a run of an earlier selfteach (config format {known}, now {FORMAT}): give its model "
            f"folder, {self.folder / 'model'}, instead; to eval, and say --task",
        )
        require(
            "loading" in config,
            f"{self.folder} is no run of a causal language model: selfteach report takes it, and its weights are in "
            f"{self.folder / 'model'}",
        )
        complete = {"task", "seed"} <= config.get("run", {}).keys() and "recipe" in config
        require(complete, f"{self.folder / 'config.toml'} lacks run.task, run.seed or recipe; {RESTORE}")
        return config

    def part(self, name: str, kind: type[S]) -> S:
        """A part of the settings, as the class that has it."""
        return kind(**self.config.get(name, {}))

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Fingerprints of what it read."""
        return dict(self.config.get("inputs", {}))

    @property
    def given(self) -> list[str]:
        """What was given from Python, so that the folder does not hold it."""
        given = self.config["run"].get("given", ())
        return list(map(str, given)) if isinstance(given, list) else []

    @property
    def task(self) -> str | None:
        """Its task's name; None if that was an object."""
        return None if "task" in self.given else str(self.config["run"]["task"])

    @property
    def reward(self) -> str | None:
        """FILE:NAME of its reward function, None without one. UserError if that was an object."""
        if "reward" in self.given:
            raise UserError(f"the reward of {self.folder} was given from Python: pass it again, reward=…")
        found = self.config["run"].get("reward")
        return None if found is None else str(found)

    @property
    def seed(self) -> int:
        return whole_number(self.config["run"], "seed", self.folder)

    @property
    def loading(self) -> Loading:
        return self.part("loading", Loading)

    @property
    def task_options(self) -> TaskOptions:
        return self.part("task_options", TaskOptions)

    @property
    def evaluation(self) -> Evaluation:
        return self.part("evaluation", Evaluation)

    @property
    def sample_batch(self) -> int | None:
        return self.part("bookkeeping", Bookkeeping).sample_batch

    @property
    def max_tokens(self) -> int:
        """Longest answer of an evaluation."""
        rollouts = self.config["recipe"].get("rollouts")
        of_training = rollouts if isinstance(rollouts, Mapping) else {}
        return self.evaluation.eval_max_tokens or whole_number(of_training, "max_tokens", self.folder)

    @property
    def thinking(self) -> bool | None:
        """The thinking flag of an evaluation."""
        student = self.config["recipe"].get("student_thinking", "none")
        own = self.evaluation.eval_thinking
        return own if own is not None else None if student == "none" else bool(student)

    @property
    def adapter(self) -> LoraConfig | None:
        """The LoRA adapter that it trains, None where it trains all weights."""
        table = self.config["recipe"].get("adapter", {})
        require(
            isinstance(table, Mapping),
            f"{self.folder / 'config.toml'} has no table recipe.adapter; {RESTORE}",
        )
        one = Adapter(**table)
        return LoraConfig(one.lora_rank, one.lora_alpha, one.lora_targets) if one.lora_rank else None

    @property
    def base(self) -> str:
        """The model that it began with. UserError if that was in memory."""
        if "model" in self.given:
            raise UserError(f"the model of {self.folder} was given from Python: say where it is with --base")
        named = self.loading.model
        if not named and self.task in WORLDS:
            return str(model_folder(str(self.task)))
        return resolve_model(named)


def whole_number(table: Mapping[str, Any], name: str, folder: Path) -> int:
    """A number of a run's record. UserError where it is none."""
    value = table.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{folder / 'config.toml'} has {name} {value!r}, which is no whole number; {RESTORE}")
    return value


@dataclass(frozen=True)
class Saved:
    """``model``: what transformers loads, a folder or a hub id; of a ``step`` of a ``run`` the checkpoint's folder."""

    name: str
    model: str
    run: SavedRun | None = None
    step: int | None = None

    @property
    def label(self) -> str:
        return (
            self.name if self.step is None else f"{self.run.folder if self.run else ''} at step {self.step}"
        )


def saved_model(name: str | Path) -> Saved:
    """What a model's name means: a run's folder, RUN/checkpoints/step-N, "arena:NAME", a model's or adapter's folder, a
    hub id. UserError, in one line that names what there is, for a run or a checkpoint that is not there."""
    name = str(name)
    path = Path(name)
    if (path / "config.toml").is_file():
        return Saved(name, str(trained_model(path)), SavedRun(path))
    place = path.absolute()
    if place.name == CHECKPOINTS and (place.parent / "config.toml").is_file():
        raise UserError(f"{name} holds the checkpoints of a run: give one of them ({listed(path)})")
    if place.parent.name == CHECKPOINTS and (place.parent.parent / "config.toml").is_file():
        require((path / "manifest.json").is_file(), f"there is no checkpoint {name} ({listed(path.parent)})")
        run = path.parent.parent if len(path.parts) > 2 else place.parent.parent
        return Saved(name, name, SavedRun(run), checkpoint.step_of(path))
    return Saved(name, resolve_model(name))


def trained_model(run: Path) -> Path:
    """The model of a finished run. UserError naming the checkpoints of one that is not."""
    if not (run / "model").is_dir():
        raise UserError(
            f"{run} holds no trained model yet (the run is not finished): give a checkpoint of it "
            f"({listed(run / CHECKPOINTS)}), or resume it"
        )
    return run / "model"


def listed(home: Path) -> str:
    steps = sorted(checkpoint.step_of(one) for one in home.glob("step-*"))
    return ", ".join(f"{home / f'step-{step}'}" for step in steps) or "there is none yet"


def load_saved(
    saved: Saved, loading: Loading, *, base: str | None = None, device: torch.device | str | None = None
) -> Policy:
    """The model, as it was trained: weights of a run in its own precision, an adapter beside its base, not merged.

    ``loading`` says how (its ``model`` is not read); ``base``: where the model is now that an adapter or a checkpoint
    builds on.
    """
    how: dict[str, Any] = {
        "precision": loading.precision,
        "chat_template": loading.chat_template,
        "trust_remote_code": loading.trust_remote_code,
        "device": device,
    }
    if saved.step is not None and saved.run is not None:
        return _of_checkpoint(saved.run, Path(saved.model), loading, base, how)
    revision = None if saved.run is not None else loading.model_revision
    trained = saved.run is not None
    base = base or moved_base(saved)
    policy = load_policy(saved.model, trained=trained, revision=revision, base=base, merge=False, **how)
    if saved.run is not None and (file := saved.run.folder / "summary.json").is_file():
        keep_room(policy, summary_of(file))
    return policy


def moved_base(saved: Saved) -> str | None:
    """Where the base of a run's adapter is, by the run's record, if it is no longer where the adapter says: both have
    moved (the adapter's own fingerprint tells another one). None: the adapter is right, or there is none."""
    if saved.run is None or not is_adapter(saved.model) or "model" in saved.run.given:
        return None
    named, _ = base_of(Path(saved.model), saved.model)
    lost = os.path.isabs(named) and not os.path.isdir(named)
    return saved.run.base if lost and os.path.isdir(saved.run.base) else None


def summary_of(file: Path) -> Mapping[str, Any]:
    """What a finished run says of itself. UserError if it cannot be read."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, Mapping):
        raise UserError(f"{file} cannot be read: give the run's model folder, {file.parent / 'model'}")
    return found


def keep_room(policy: Policy, record: Mapping[str, Any]) -> None:
    """Sample in batches no larger than the run's own, nor than fit here.

    Training leaves less memory, so batches would be larger here, sums rounded otherwise, and now and then a token drawn
    that the run's last evaluation, which is to come out again to the digit, did not draw.
    """
    rooms = record.get("room")
    memory = rooms.get(POLICY) if isinstance(rooms, Mapping) else None
    if isinstance(memory, int) and memory > 0:
        policy.room.memory = min(policy.room.memory, memory)


def _of_checkpoint(
    run: SavedRun, path: Path, loading: Loading, base: str | None, how: Mapping[str, Any]
) -> Policy:
    begun = resolve_model(base) if base else run.base
    known = run.inputs.get("model")
    if known and Path(begun).is_dir() and fingerprint(Path(begun)) != known:
        log.warning("%s is not the model that %s began with: its files have changed", begun, run.folder)
    policy = load_policy(begun, lora=run.adapter, revision=loading.model_revision, **how)
    whole = checkpoint.load(path, groups=("learner", "weights"))
    held = whole["weights"]
    keep_room(policy, whole["learner"])
    require(POLICY in held, f"checkpoint {path} holds no weights of a language model")
    weights.load({POLICY: policy.model}, {POLICY: held[POLICY]})
    return policy
