"""What of a Trainer's run a checkpoint holds, and how a run goes on from it, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from selfteach.errors import UserError
from selfteach.outside import with_type
from selfteach.policy import sharding
from selfteach.training import checkpoint, gradients, marks, randomness, weights
from selfteach.training.learner import Trained
from selfteach.training.marks import Marks
from selfteach.training.reduce import gather_rows
from selfteach.training.rundir import RunFolder

if TYPE_CHECKING:
    from selfteach.training.trainer import Trainer


def state(run: Trainer) -> dict[str, Any]:
    """Weights, optimizers, schedulers, roles, the learner's own state, every process's random state, and progress.

    Every process must call it.
    """
    return {
        "weights": weights.kept(run.wrapped, run.ever),
        "optimizers": {name: optimizer_state(one) for name, one in run.trained.items()},
        "roles": {name: role.state() for name, role in run.roles.items()},
        "learner": run.learner.state(),
        "random": gather_rows([randomness.capture()]),
        "progress": {
            "step": run.done,
            "stage": run.stage,
            "stage_done": run.stage_done,
            "spent": run.spent,
            "training_seconds": run.training_seconds,
            "last": run.last and dict(run.last),
            "ended": run.ended,
            "idle": run.idle,
        },
    }


def load_state(run: Trainer, saved: checkpoint.State) -> None:
    """Put a state back. Raises ``UserError`` where the run is of other weights, optimizers or processes."""
    progress = saved["progress"]
    require_progress(progress)
    if not saved["random"]:
        raise ValueError("no process has a random state")
    processes, before = run.accelerator.num_processes, len(saved["random"])
    if processes != before:  # before what each process has of its own
        require_processes(processes, before, divided=run.learner.is_divided(saved["learner"]))
    run.enter(progress["stage"])
    weights.load(run.wrapped, saved["weights"])
    run.ever = weights.names(saved["weights"])
    for kind, here in (("optimizers", run.trained), ("roles", run.roles)):
        if here.keys() != saved[kind].keys():
            raise UserError(f"the checkpoint has the {kind} {list(saved[kind])}, this run {list(here)}")
    for name, one in run.trained.items():
        load_optimizer(one, saved["optimizers"][name])
    for name, role in run.roles.items():
        role.load_state(saved["roles"][name])
    run.learner.load_state(saved["learner"])
    if processes == before:
        randomness.restore(saved["random"][run.accelerator.process_index])
    else:
        randomness.seed_all(run.settings.seed + run.accelerator.process_index + before * progress["step"])
        run.progress.say(
            f"begun with {counted(before)}, goes on with {counted(processes)}: prompts, weights, optimizers and roles "
            "go on where they were; sums are rounded otherwise, so that it is no run to the bit"
        )
    run.done, run.stage_done, run.spent = progress["step"], progress["stage_done"], progress["spent"]
    run.training_seconds, run.last, run.ended = (
        progress["training_seconds"],
        progress["last"],
        progress["ended"],
    )
    run.idle = progress.get("idle", 0)


def require_processes(here: int, there: int, *, divided: bool) -> None:
    """UserError for another number of processes where each has stored something of its own (``divided``)."""
    if divided:
        launcher = f"by torchrun --nproc-per-node {there}" if there > 1 else "without torchrun"
        raise UserError(
            f"the run was begun with {counted(there)}, which hold its stored answers and notes, and goes on with as "
            f"many, not with {counted(here)}: launch it {launcher}"
        )


def counted(processes: int) -> str:
    return f"{processes} process{'es' * (processes > 1)}"


def save(run: Trainer, *, unended: Marks | None = None) -> None:
    """Write a checkpoint. Every process must take part, the first one writes.

    ``unended``: of a run's end, how far its files would be written if it had been longer.
    Raises ``UserError`` for weights, copies or optimizers that are not finite: a checkpoint is always good.
    """
    with run.refusing(None, "saving a checkpoint"):
        whole = state(run)
        refuse_broken(run, whole)
        here = run.folder
        marked = None if here is None else {"files": here.marks(), "unended": unended}
        if here is not None:
            here.sync()
        paths = gather_rows([] if here is None else [here.path])
        if paths:  # the first process's, of a run that has a folder
            values = {**whole, "written": marked}
            checkpoint.save(paths[0], run.done, values, keep=run.settings.keep, writes=here is not None)


def refuse_broken(run: Trainer, whole: checkpoint.State) -> None:
    """Stop the run if what is to be saved holds a number that is not finite."""
    for kind in ("weights", "roles", "optimizers"):
        if broken := gradients.not_finite(tensors_of(whole[kind])):
            run.refuse(f"the checkpoint would be broken: {kind}{broken} is not finite", None)


def tensors_of(tree: Any, place: str = "") -> dict[str, Shaped[Tensor, "..."]]:
    """Every tensor of a nested state, by its place."""
    if isinstance(tree, Tensor):
        return {place: tree}
    parts = (
        tree.items()
        if isinstance(tree, Mapping)
        else enumerate(tree)
        if isinstance(tree, list | tuple)
        else ()
    )
    return {name: one for key, part in parts for name, one in tensors_of(part, f"{place}/{key}").items()}


@dataclass(frozen=True)
class Restored:
    """``kept``: how far the run's files belong to it; ``beyond``: it had ended there, and is to be longer now."""

    kept: Marks
    beyond: bool


def restore(run: Trainer, out: Path) -> Restored | None:
    """Go on from the newest good checkpoint of the run in ``out``; None if there is none yet.

    Every process must call it. Raises ``UserError`` where the run's rows are not those that the checkpoint relies on.
    """
    path = checkpoint.latest(out)
    if path is None:
        return None
    saved = checkpoint.load(path, mesh=sharding.mesh_in(run.wrapped.values()))
    if "written" not in saved:
        raise UserError(f"{path} was written by an earlier selfteach: it cannot go on; start a new run")
    with fitting(path):
        load_state(run, saved)
    beyond = run.ended and not run.finished()
    run.ended &= not beyond
    kept: Marks = saved["written"]["unended" if beyond else "files"]
    if run.folder is not None:
        marks.require(run.folder.path, kept, path)
    run.progress.say(f"resumed at step {run.done} from {path}")
    return Restored(kept, beyond)


def cut(folder: RunFolder, restored: Restored | None) -> None:
    """Forget the rows written after the checkpoint that a run goes on from (None: all of them)."""
    folder.cut(restored.kept if restored is not None else {})
    if restored is not None and restored.beyond:
        folder.forget_summary()


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """A checkpoint whose files are whole, and whose content is not what this run would have written, is a UserError."""
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as problem:
        raise UserError(
            f"checkpoint {path} does not fit this run ({with_type(problem)}); resume with the saved model and "
            "settings, or take it out to go on from an older one"
        ) from problem


def require_progress(progress: Any) -> None:
    """TypeError or KeyError unless every number of the run's progress is one."""
    for name in ("step", "stage_done", "spent", "training_seconds"):
        if isinstance(value := progress[name], bool) or not isinstance(value, int | float) or not value >= 0:
            raise TypeError(f"progress.{name} is {value!r}, not a number")
    if not isinstance(progress["last"], Mapping | None) or not isinstance(progress["ended"], bool):
        raise TypeError("progress.last or progress.ended is of another type")


def optimizer_state(one: Trained) -> dict[str, Any]:
    return {
        "optimizer": checkpoint.optimizer_state(one.optimizer, one.parameters.items()),
        "scheduler": one.scheduler and one.scheduler.state_dict(),
    }


def load_optimizer(one: Trained, saved: checkpoint.State) -> None:
    checkpoint.load_optimizer_state(one.optimizer, one.parameters.items(), saved["optimizer"])
    if one.scheduler is not None:
        one.scheduler.load_state_dict(saved["scheduler"])
