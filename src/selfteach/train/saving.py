"""What of a run a checkpoint holds, and how a run goes on from it."""

from __future__ import annotations

import torch
from accelerate.utils import gather_object

from selfteach.train import alarms, checkpoint, randomness
from selfteach.train.run import Run
from selfteach.train.rundir import read_rows
from selfteach.train.store import Store


def save(run: Run) -> None:
    """Checkpoint trainable weights, optimizer, scheduler, roles, controllers, data position, random states."""
    random = gather_object([randomness.capture()])
    if run.folder is None:
        return
    named = list(run.policy.trainable().items())
    state = {
        "weights": dict(named),
        "optimizer": checkpoint.optimizer_state(run.optimizer, named),
        "scheduler": run.scheduler.state_dict(),
        "roles": run.weights.state(),
        "controllers": {knob: controller.state() for knob, controller in run.controllers.items()},
        "random": random,
        "progress": {
            "step": run.done,
            "stage": run.stage,
            "stage_done": run.stage_done,
            "stored": run.store is not None,
            "cursor": run.draw.cursor,
            "too_long": run.draw.too_long,
            "generated": run.generated,
            "answers": run.answers,
            "answers_until_solved": run.answers_until_solved,
            "training_seconds": run.training_seconds,
        },
    }
    checkpoint.save(run.folder.path, run.done, state, keep=run.config.bookkeeping.keep)


def restore(run: Run) -> bool:
    """Go on from the newest good checkpoint; False if there is none yet. Rows written after it are forgotten."""
    path = checkpoint.latest(run.config.out)
    if path is not None:
        put_back(run, checkpoint.load(path))
        run.progress.say(f"resumed at step {run.done} from {path}")
    if run.folder is not None:
        run.folder.truncate_after(run.done if path is not None else -1)
        run.memory = alarms.remembered(read_rows(run.folder.path / "metrics.jsonl"))
    return path is not None


def put_back(run: Run, state: checkpoint.State) -> None:
    progress = state["progress"]
    run.enter(progress["stage"])
    run.stage_done = progress["stage_done"]
    if progress["stored"]:
        run.store = Store.load(run.store_path, run.store_seed)
    named = list(run.policy.trainable().items())
    with torch.no_grad():
        for name, parameter in named:
            parameter.copy_(state["weights"][name])
    checkpoint.load_optimizer_state(run.optimizer, named, state["optimizer"])
    run.scheduler.load_state_dict(state["scheduler"])
    run.weights.load_state(state["roles"])
    for knob, controller in run.controllers.items():
        controller.load_state(state["controllers"][knob])
    randomness.restore(state["random"][run.accelerator.process_index])
    run.done, run.generated = progress["step"], progress["generated"]
    run.answers, run.answers_until_solved = progress["answers"], progress["answers_until_solved"]
    run.draw.cursor, run.draw.too_long = progress["cursor"], progress["too_long"]
    run.training_seconds = progress["training_seconds"]
