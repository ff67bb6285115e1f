"""What a step writes into metrics.jsonl."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from selfteach.objective.divergence import ForwardKL
from selfteach.objective.engine import Outcome
from selfteach.objective.positions import STUDENT, ColumnFunction, Positions
from selfteach.objective.statistics import role_entropy
from selfteach.recipes.base import Recipe
from selfteach.task.rollout import Rollout
from selfteach.train.context import Context
from selfteach.train.scored import Scorer

if TYPE_CHECKING:
    from selfteach.train.run import Run


def watched(recipe: Recipe) -> dict[str, ColumnFunction]:
    """Columns measured at every written token beside the loss: student entropy, KL(teacher‖student) per teacher."""
    temperature = recipe.temperature
    columns: dict[str, ColumnFunction] = {
        "entropy/student": partial(role_entropy, role=STUDENT, temperature=temperature)
    }
    for name in recipe.teachers:
        columns[f"divergence/{name}"] = partial(gap, teacher=name, temperature=temperature)
        columns[f"entropy/{name}"] = partial(role_entropy, role=name, temperature=temperature)
    return columns


def gap(at: Positions, teacher: str, temperature: float) -> Tensor:
    """[P] unclipped forward KL(teacher‖student) in nats: the same measure whatever the recipe's own loss."""
    return ForwardKL()(at.log_probs(STUDENT, temperature), at.log_probs(teacher, temperature))


def step_row(
    run: Run,
    scorer: Scorer,
    outcomes: Sequence[Outcome],
    seconds: Mapping[str, float],
    gradient_norm: float,
    rollouts: Sequence[Rollout],
    contexts: Mapping[str, Context],
) -> dict[str, Any]:
    """One optimiser step's row (units and formulas: docs/metrics.md). Token means are over this process's rollouts."""
    rewards = [one.grade.reward for one in rollouts if one.grade is not None]
    lengths = [len(one.ids) for one in rollouts]
    total = sum(seconds.values())
    return {
        "step": run.done,
        "loss": sum(float(outcome.loss.detach()) for outcome in outcomes),
        "terms": {name: sum(float(o.terms[name]) for o in outcomes) for name in outcomes[0].terms},
        **token_means(run, scorer, outcomes, contexts),
        "length/mean": sum(lengths) / len(lengths),
        "truncated": sum(not one.finished for one in rollouts) / len(rollouts),
        "reward/mean": sum(rewards) / max(1, len(rewards)),
        "tokens/generated": run.generated,
        "tokens_per_second": sum(lengths) / total,
        **{f"seconds/{phase}": spent for phase, spent in seconds.items()},
        "lr": run.scheduler.get_last_lr()[0],
        "grad_norm": gradient_norm,
        "prompts/too_long": run.draw.too_long,
        **{f"unavailable/{name}": 1 - sum(c.available) / len(rollouts) for name, c in contexts.items()},
        **{f"verdicts/{name!s}": count for name, count in run.task.verdicts.items()},
        "memory/peak_bytes": peak_memory(),
    }


def token_means(
    run: Run, scorer: Scorer, outcomes: Sequence[Outcome], contexts: Mapping[str, Context]
) -> dict[str, float]:
    """Means of the watched columns over written tokens; divergences also by token class."""
    names, of_token = run.classes
    of_token = of_token.to(scorer.accelerator.device)
    sums: dict[str, float] = {}
    for start, outcome in zip(scorer.starts, outcomes, strict=True):
        columns = scorer.batch_columns(start)
        for name in watched(run.recipe):
            values = outcome.token[name]
            teacher = name.removeprefix("divergence/").removeprefix("entropy/")
            mask = columns.mask & columns.available_rows((teacher,)).unsqueeze(1)
            add(sums, name, values, mask)
            if name.startswith("divergence/"):
                for i, label in enumerate(names):
                    add(sums, f"{name}/{label}", values, mask & (of_token[columns.ids] == i))
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
