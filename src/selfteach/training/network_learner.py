"""What learners of recipes without tokens have in common: the recipe, its optimizers, its stages."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Shaped
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from selfteach.recipes.knobs import knobs
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

    def failed(self, batch: Any) -> Mapping[str, Any]:
        return dict(parts_of(batch, "batch"))

    @property
    def advice(self) -> str:
        """What to do about numbers that are not finite: which learning rates there are."""
        rates = [name for name in knobs(self.recipe) if name.split("_")[-1] == "lr"]
        return f"lower the learning rate ({', '.join(rates)}), or look at the batch"

    @property
    def device(self) -> torch.device:
        """Where its networks are."""
        return next(one for module in self.modules().values() for one in module.parameters()).device


def parts_of(batch: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Tensors, arrays (as tensors) and plain values that a batch is made of, each under its place: batch.x, batch.0.x;
    of None nothing."""
    if isinstance(batch, Tensor | np.ndarray):
        yield name, torch.as_tensor(batch)
    elif isinstance(batch, bool | int | float | str):
        yield name, batch
    else:
        for place, part in places_of(batch):
            yield from parts_of(part, f"{name}.{place}")


def places_of(batch: Any) -> Iterable[tuple[Any, Any]]:
    """The parts of a table, a named tuple, a dataclass or a list, with what each is called; of anything else none."""
    if isinstance(batch, Mapping):
        return batch.items()
    if isinstance(batch, tuple | list):
        return zip(getattr(batch, "_fields", range(len(batch))), batch, strict=True)
    if is_dataclass(batch):
        return ((one.name, getattr(batch, one.name)) for one in fields(batch))
    return ()


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
