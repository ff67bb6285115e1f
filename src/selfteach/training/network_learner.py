"""What learners of recipes without tokens have in common: the recipe, its optimizers, its stages."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Shaped
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from selfteach.recipes.network import NetworkOptimization, NetworkRecipe
from selfteach.training.learner import Learner, Numbers, Trained, Update
from selfteach.training.schedule import scheduled
from selfteach.training.trainer import Settings

R = TypeVar("R", bound=NetworkRecipe)


class NetworkLearner(Learner, ABC, Generic[R]):
    """A learner that a ``NetworkRecipe`` names, made of the recipe and the run's settings. ``unit``, ``headline`` and
    ``better`` are the class's own. It seeds its own random numbers by ``settings.seed``, and raises UserError where the
    recipe's data cannot be had."""

    def __init__(self, recipe: R, settings: Settings) -> None:
        self.recipe, self.settings = recipe, settings

    def spent(self, batch: Any) -> int:
        return len(batch[0])

    @property
    def device(self) -> torch.device:
        """Where its networks are."""
        return next(one for module in self.modules().values() for one in module.parameters()).device


def write_weights(tensors: Mapping[str, Shaped[Tensor, "..."]], folder: Path, name: str) -> None:
    """What a learner exports: ``folder``/NAME.safetensors."""
    folder.mkdir(exist_ok=True)
    held = {key: one.detach().cpu().contiguous() for key, one in tensors.items()}
    save_file(held, folder / f"{name}.safetensors")


def trained(module: nn.Module, how: NetworkOptimization, moves: int | None = None) -> Trained:
    """A network with its optimizer. ``moves``: how often it is moved in the ``how.steps`` batches (None: once in each).
    Its schedule spans these, and its warm-up their same share."""
    moves = moves or how.steps
    how = replace(how, steps=moves, warmup=round(how.warmup * moves / how.steps))
    named = {name: one for name, one in module.named_parameters() if one.requires_grad}
    optimizer = optimizer_of(list(named.values()), how)
    return Trained(optimizer, named, schedule_of(optimizer, how), how.max_grad_norm)


def optimizer_of(parameters: list[nn.Parameter], how: NetworkOptimization) -> torch.optim.Optimizer:
    match how.optim:
        case "sgd":
            return torch.optim.SGD(parameters, how.lr, momentum=how.momentum, weight_decay=how.weight_decay)
        case "adam":
            return torch.optim.Adam(parameters, how.lr, how.betas, weight_decay=how.weight_decay)
        case "adamw":
            return torch.optim.AdamW(parameters, how.lr, how.betas, weight_decay=how.weight_decay)


def schedule_of(optimizer: torch.optim.Optimizer, how: NetworkOptimization) -> LRScheduler | None:
    if how.schedule == "step":
        return LambdaLR(optimizer, lambda step: stepwise(step, how.warmup, how.steps))
    if how.schedule == "constant" and not how.warmup:
        return None
    return scheduled(optimizer, how.schedule, how.warmup, how.steps)


def stepwise(step: int, warmup: int, steps: int) -> float:
    """Share of the peak rate at ``step`` (from 0) of schedule "step"; it grows from 0 in the warm-up."""
    if step < warmup:
        return step / warmup
    return 1.0 if step < steps // 2 else 0.1 if step < steps * 3 // 4 else 0.01


def update_of(recipe: NetworkRecipe, network: str, outputs: Any, step: int) -> Update:
    """The update of one of the recipe's networks on its loss of ``outputs()``, which is called when it is made."""

    def backward() -> Numbers:
        loss = recipe.loss(network, outputs(), step)
        loss.backward()
        name = "loss" if len(recipe.networks) == 1 else f"loss/{network}"
        return {name: loss.item()}

    return Update((network,), backward)
