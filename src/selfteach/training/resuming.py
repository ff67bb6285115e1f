"""What of a Trainer's run a checkpoint holds, and how a run goes on from it, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfteach.errors import UserError
from selfteach.training import alarms, checkpoint, randomness, weights
from selfteach.training.learner import Trained
from selfteach.training.reduce import gather_rows
from selfteach.training.rundir import read_rows

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
    here, there = run.accelerator.num_processes, len(saved["random"])
    if here != there:
        raise UserError(f"the run was begun with {there} processes; resume it with as many, not {here}")
    randomness.restore(saved["random"][run.accelerator.process_index])
    run.done, run.stage_done, run.spent = progress["step"], progress["stage_done"], progress["spent"]
    run.training_seconds, run.last, run.ended = (
        progress["training_seconds"],
        progress["last"],
        progress["ended"],
    )
    run.idle = progress.get("idle", 0)


def save(run: Trainer) -> None:
    """Write a checkpoint. Every process must take part, the first one writes."""
    whole = state(run)
    if run.folder is not None:
        checkpoint.save(run.folder.path, run.done, whole, keep=run.settings.keep)


def restore(run: Trainer, out: Path) -> bool:
    """Go on from the newest good checkpoint of the run in ``out``; False if there is none yet. Rows written after it
    are forgotten; of a run that goes on beyond its end, those of the end too. Every process must call it."""
    path = checkpoint.latest(out)
    if path is not None:
        load_state(run, checkpoint.load(path))
        run.progress.say(f"resumed at step {run.done} from {path}")
    beyond = run.ended and not run.finished()
    run.ended &= not beyond
    if run.folder is not None:
        run.folder.truncate_after(run.done if path is not None else -1)
        if beyond:
            run.folder.forget_end(run.done, due=run.due(run.settings.eval_every))
        run.memory = alarms.remembered(read_rows(run.folder.path / "metrics.jsonl"), run.memory)
    return path is not None


def optimizer_state(one: Trained) -> dict[str, Any]:
    return {
        "optimizer": checkpoint.optimizer_state(one.optimizer, one.parameters.items()),
        "scheduler": one.scheduler and one.scheduler.state_dict(),
    }


def load_optimizer(one: Trained, saved: checkpoint.State) -> None:
    checkpoint.load_optimizer_state(one.optimizer, one.parameters.items(), saved["optimizer"])
    if one.scheduler is not None:
        one.scheduler.load_state_dict(saved["scheduler"])
