"""Recipes by name, trained for a few steps by these processes with whole weights and with sharded ones.

python -m torch.distributed.run --standalone --nproc-per-node 2 sharded_run.py FOLDER NAME… [--lora] [--unlucky]

``--unlucky``: the first process gets nothing right, so that there a role that shows right answers is blind.

Writes, by recipe, how far losses and weights are apart (``NAME.json``), or what was raised.
"""

from __future__ import annotations

import faulthandler
import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from golden import dealt, recipe_of
from selfteach.api.progress import Silent
from selfteach.policy.sharding import Fsdp, gathered
from selfteach.recipes import RECIPES, with_knobs
from selfteach.studies.laptop import laptop_of
from selfteach.task.trajectory import Trajectory
from selfteach.training.config import Bookkeeping, Evaluation, Loading, TrainConfig
from selfteach.training.launch import settings_of
from selfteach.training.reduce import processes, state_on
from selfteach.training.text.learner import TextLearner
from selfteach.training.trainer import Trainer

PROMPTS = {"kto": 4, "pi-play": 8}
"""Of methods that read answers behind other prompts, two a process at least; and of an odd number."""
STEPS = {"sd-zero": 6, "lightning-opd": 6, "soda": 6, "pu-rl": 6, "sleep": 6, "pi-play": 4, "erpd": 6}
"""More than three, where a method has stages."""


class Dealt(TextLearner):
    """Rewards are dealt out: groups of a few tiny answers would be all right or all wrong."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config, Silent())
        judged = self.writing.judged

        def dealing(written: Sequence[Trajectory]) -> list[Trajectory]:
            if "--unlucky" in sys.argv and processes()[0] == 0:
                return [replace(one, grade=replace(one.grade, reward=0.0)) for one in judged(written)]
            return [dealt(one, i) for i, one in enumerate(judged(written))]

        self.writing.judged = dealing  # type: ignore[method-assign]


def trained(name: str, fsdp: Fsdp, out: Path, lora: bool) -> tuple[list[float], dict[str, Tensor]]:
    """(the losses, the trained weights whole)."""
    recipe = recipe_of(name)
    if name in PROMPTS:
        recipe = with_knobs(recipe, {"prompts": PROMPTS[name]})
    if "--unlucky" in sys.argv:
        recipe = with_knobs(recipe, {"sibling": True, "feedback_from": "never", "per_prompt": 4})
    if lora:
        recipe = with_knobs(recipe, {"lora_rank": 4})
    device = state_on("cpu").device
    assert device.type == "cpu"
    config = TrainConfig(
        recipe, name, "arena", laptop_of(RECIPES[name]).world, out,
        loading=Loading(fsdp=fsdp, device="cpu"),
        evaluation=Evaluation(eval_problems=4, eval_samples=1),
        # Rows are cut unlike each other, and a process has fewer parts than another.
        bookkeeping=Bookkeeping(samples_every=2, probes=1, alarms=False, micro_batch=3, max_unavailable=1.0),
    )  # fmt: skip
    torch.manual_seed(0)
    run = Trainer(Dealt(config), None, Silent(), replace(settings_of(config), eval_every=0))
    losses = []
    for _ in range(min(STEPS.get(name, 3), run.steps)):
        if run.stage_done == run.stages[run.stage].steps:
            run.enter(run.stage + 1)
        rows: list[dict[str, Any]] = []
        run.learner.observe = rows.append  # type: ignore[method-assign,assignment]
        run.step()
        losses.append(float(rows[-1]["loss"]))
    run.write_samples(None, "before")
    policies = run.learner.models.policies  # type: ignore[attr-defined]
    return losses, {
        f"{key}.{place}": gathered(one.detach()).clone()
        for key, policy in policies.items()
        for place, one in policy.trainable().items()
    }


def compared(name: str, folder: Path, lora: bool) -> dict[str, Any]:
    whole, weights = trained(name, "off", folder / "whole", lora)
    sharded, other = trained(name, "full_shard", folder / "sharded", lora)
    apart = max(float((weights[place] - other[place]).abs().max()) for place in weights)
    return {"whole": whole, "sharded": sharded, "weights": apart}


if __name__ == "__main__":
    faulthandler.enable()
    folder, *names = (word for word in sys.argv[1:] if word not in ("--lora", "--unlucky"))
    state_on("cpu")
    for name in names:
        faulthandler.dump_traceback_later(240, exit=True)
        path = Path(folder) / f"{name}.json"
        try:
            found = compared(name, Path(folder), "--lora" in sys.argv)
        except Exception:
            if processes()[0] == 0:
                path.write_text(json.dumps({"error": traceback.format_exc()}))
            raise
        if processes()[0] == 0:
            path.write_text(json.dumps(found))
    faulthandler.cancel_dump_traceback_later()
