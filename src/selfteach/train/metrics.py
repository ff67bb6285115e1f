"""What a step measures beside its loss."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from selfteach.objective.divergence import ForwardKL
from selfteach.objective.engine import Outcome
from selfteach.objective.positions import STUDENT, ColumnFunction, Positions
from selfteach.objective.statistics import role_entropy
from selfteach.train.scored import Scorer


def watched(teachers: Iterable[str], temperature: float) -> dict[str, ColumnFunction]:
    """Columns measured at every written token beside the loss: student entropy, KL(teacher‖student) per teacher."""
    columns: dict[str, ColumnFunction] = {
        "entropy/student": partial(role_entropy, role=STUDENT, temperature=temperature)
    }
    for name in teachers:
        columns[f"divergence/{name}"] = partial(gap, teacher=name, temperature=temperature)
        columns[f"entropy/{name}"] = partial(role_entropy, role=name, temperature=temperature)
    return columns


def gap(at: Positions, teacher: str, temperature: float) -> Tensor:
    """[P] unclipped forward KL(teacher‖student) in nats: the same measure whatever the recipe's own loss."""
    return ForwardKL()(at.log_probs(STUDENT, temperature), at.log_probs(teacher, temperature))


def loss_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The step's ``loss`` and ``terms``, summed over micro-batches and processes (their denominators span all)."""
    parts = gather_object(
        [(float(o.loss.detach()), {k: float(v) for k, v in o.terms.items()}) for o in outcomes]
    )
    return {
        "loss": sum(loss for loss, _ in parts),
        "terms": {name: sum(terms[name] for _, terms in parts) for name in parts[0][1]},
    }


def token_means(
    scorer: Scorer, outcomes: Sequence[Outcome], columns: Iterable[str], classes: tuple[list[str], Tensor]
) -> dict[str, float]:
    """Means of watched columns over this process's written tokens; divergences also by token class."""
    names, of_token = classes[0], classes[1].to(scorer.accelerator.device)
    sums: dict[str, float] = {}
    for start, outcome in zip(scorer.starts, outcomes, strict=True):
        batch = scorer.batch_columns(start)
        for name in columns:
            values = outcome.token[name]
            teacher = name.removeprefix("divergence/").removeprefix("entropy/")
            mask = batch.mask & batch.available_rows((teacher,)).unsqueeze(1)
            add(sums, name, values, mask)
            if name.startswith("divergence/"):
                for i, label in enumerate(names):
                    add(sums, f"{name}/{label}", values, mask & (of_token[batch.ids] == i))
    counted = [name for name in sums if not name.endswith("#")]
    return {name: sums[name] / sums[name + "#"] for name in counted if sums[name + "#"]}


def add(sums: dict[str, float], name: str, values: Tensor, mask: Tensor) -> None:
    sums[name] = sums.get(name, 0.0) + float(values[mask].sum())
    sums[name + "#"] = sums.get(name + "#", 0.0) + float(mask.sum())


def peak_memory() -> int:
    """Bytes: the accelerator's peak allocation, or the process's peak resident set on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
