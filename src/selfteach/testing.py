"""Compute a recipe's objective on plain arrays with the very code that training runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfteach.objective.batch import Columns, Scored, ScoredBatch
from selfteach.objective.engine import evaluate_terms, measure
from selfteach.objective.plan import plan
from selfteach.objective.statistics import Statistics
from selfteach.recipes import Recipe, recipe_named, with_knobs


def evaluate(
    recipe: Recipe | str,
    arrays: Mapping[str, Any],
    step: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A recipe's loss and gradient on given numbers (design: the contract).

    ``arrays``: ``ids`` [N, T] int, ``mask`` [N, T] bool, ``student_logits`` [N, T, V], ``teacher_logits`` (teacher
    name → [N, T, V]); optional ``available`` (teacher name → [N] bool), ``behavior`` [N, T] (nats), ``group`` [N],
    ``reward`` [N], ``turn`` [N, T], ``marks`` (name → [N, T] bool), ``teacher_log_probs`` (teacher name → [N, T], nats,
    of a teacher that hands over sampled tokens only). float64 in, float64 computed. ``overrides``: knob → value. Of a
    method of several stages this is the last; the others are ``recipe.stages[name]``, recipes like any other.

    Returns ``loss``, ``grad`` = ∂loss/∂student_logits [N, T, V], ``terms`` name → value, ``token`` name → [N, T]
    (NaN where a term did not look). ValueError names an array that is missing or misshapen.
    """
    chosen = recipe_named(recipe) if isinstance(recipe, str) else recipe
    chosen = with_knobs(chosen, overrides or {})
    for name in ("ids", "mask", "student_logits", *chosen.needs):
        if name not in arrays and name != "behavior":
            raise ValueError(f"arrays lack {name!r}, which recipe {type(chosen).__name__} reads")
    given = dict(arrays.get("teacher_logits") or {})
    stored = arrays.get("teacher_log_probs") or {}
    active = chosen.active(step)
    missing = set(active) - set(given) - set(stored)
    if missing:
        raise ValueError(f"teacher_logits lack {sorted(missing)}, which recipe {type(chosen).__name__} reads")
    student = torch.tensor(np.asarray(arrays["student_logits"])).requires_grad_()
    batch = ScoredBatch(
        columns=columns_of(arrays, student.dtype),
        student=Scored(student),
        teachers={
            name: Scored(torch.tensor(np.asarray(given[name])).to(student.dtype))
            for name in active
            if name in given
        },
    )
    stats = Statistics(
        batch.columns,
        step=step,
        temperature=chosen.temperature,
        teachers=list(active),
        measure=lambda wanted: measure(batch, wanted),
    )
    outcome = evaluate_terms(batch, plan(chosen.terms(stats), batch.columns))
    outcome.loss.backward()
    assert student.grad is not None
    return {
        "loss": float(outcome.loss.detach()),
        "grad": student.grad.numpy(),
        "terms": {name: float(value) for name, value in outcome.terms.items()},
        "token": {name: column.numpy() for name, column in outcome.token.items()},
    }


def columns_of(arrays: Mapping[str, Any], dtype: torch.dtype) -> Columns:
    """The columns of a batch from arrays by name; absent group and reward become one group each and 0."""

    def tensor(name: str, kind: torch.dtype) -> Tensor | None:
        value = arrays.get(name)
        return None if value is None else torch.tensor(np.asarray(value)).to(kind)

    ids = tensor("ids", torch.long)
    mask = tensor("mask", torch.bool)
    assert ids is not None
    assert mask is not None
    group, reward = tensor("group", torch.long), tensor("reward", dtype)
    return Columns(
        ids=ids,
        mask=mask,
        group=torch.arange(len(ids)) if group is None else group,
        reward=torch.zeros(len(ids), dtype=dtype) if reward is None else reward,
        behavior=tensor("behavior", dtype),
        turn=tensor("turn", torch.long),
        available={
            name: torch.tensor(np.asarray(rows)).bool()
            for name, rows in (arrays.get("available") or {}).items()
        },
        marks={
            name: torch.tensor(np.asarray(mark)).bool() for name, mark in (arrays.get("marks") or {}).items()
        },
        log_probs={
            name: torch.tensor(np.asarray(column)).to(dtype)
            for name, column in (arrays.get("teacher_log_probs") or {}).items()
        },
    )
