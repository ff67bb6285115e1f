"""Compute a recipe's objective on plain arrays with the very code that training runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from selfteach.objective.batch import STUDENT, Scored, ScoredBatch
from selfteach.objective.columns import Columns
from selfteach.objective.engine import Outcome, evaluate_terms
from selfteach.objective.minibatch import rows_within
from selfteach.objective.plan import plan
from selfteach.objective.statistics import Statistics
from selfteach.recipes import NetworkRecipe, Recipe, network_recipe_named, recipe_named, with_knobs

Array = np.ndarray[Any, Any]
DISCRETE = re.compile(r"\b(labels|whole numbers|int|int64|bool)\b")
"""What ``NetworkRecipe.outputs`` says of arrays of integers or truth values."""


def evaluate(
    recipe: Recipe | str,
    arrays: Mapping[str, Any],
    step: int = 0,
    overrides: Mapping[str, Any] | None = None,
    update: int | None = None,
) -> dict[str, Any]:
    """A recipe's loss and gradients on given numbers (design: the contract).

    ``arrays``: ``ids`` [N, T] int, ``mask`` [N, T] bool, ``student_logits`` [N, T, V], ``teacher_logits`` (role →
    [N, T, V]). Optional: ``teacher_log_probs`` (role → [N, T], nats, of a role that hands over sampled tokens only),
    ``student_hidden`` [N, T, f], ``teacher_hidden`` (role → [N, T, f]), ``available`` (role → [N] or [N, T] bool),
    ``behavior`` [N, T] (nats, NaN where unknown), ``old_log_probs`` (role → [N, T], nats, before the batch's first
    update), ``group`` [N], ``reward`` [N], ``turn`` [N, T], ``trajectory`` [N], ``pair`` [N], ``origin`` (N strings),
    ``numbers`` (name → [N] or [N, T]), ``marks`` (name → [N, T] bool), ``special`` (name → token id). float64 in,
    float64 computed. ``overrides``: knob → value. ``update``: which of the batch's updates (None or 0: the first); the
    rows of its minibatch are drawn with seed 0. Of a method of several stages this is the last; the others are
    ``recipe.stages[name]``, recipes like any other.

    Returns ``loss``, ``grad`` = ∂loss/∂student_logits [N, T, V], ``grads`` and ``grad_hidden``: trained role → its
    gradient in logits [N, T, V] and in hidden states [N, T, f], ``terms`` name → value, ``token`` name → [N, T] (NaN
    where a term did not look), ``metrics`` what the recipe reported. ValueError names an array that is missing,
    misshapen or unknown, and a term that reads NaN.
    """
    chosen = recipe_named(recipe) if isinstance(recipe, str) else recipe
    chosen = with_knobs(chosen, overrides or {})
    updates = chosen.updates(step)
    if not 0 <= (update or 0) < len(updates):
        raise ValueError(
            f"recipe {type(chosen).__name__} makes {len(updates)} updates a batch; there is no update {update}"
        )
    for name in ("ids", "mask", "student_logits"):
        if name not in arrays:
            raise ValueError(f"arrays lack {name!r}, which recipe {type(chosen).__name__} reads")
    active = list(chosen.active(step))
    refuse_unknown(arrays, known=[STUDENT, *chosen.teachers])
    refuse_missing(arrays, active, type(chosen).__name__)
    given = roles_of(arrays, active)
    columns = columns_of(arrays, given[STUDENT].states.dtype)
    batch = ScoredBatch.padded(columns, given)
    old = by_name(arrays, "old_log_probs", columns.dtype) if arrays.get("old_log_probs") else None
    present = updates[update or 0]
    rows = rows_within(present, columns)
    stats = Statistics.of(
        batch, step=step, temperature=chosen.temperature, roles=active, old=old, rows=rows, update=present
    )
    outcome = evaluate_terms(batch, plan(chosen.summands(stats), columns, rows))
    outcome.loss.backward()
    return {**result(batch, given, outcome), "metrics": dict(stats.metrics)}


class OfOutputs(Protocol):
    """A recipe without tokens: its losses are pure functions of named network outputs, in its paper's symbols."""

    def losses(
        self, outputs: Mapping[str, Shaped[Tensor, "..."]], step: int
    ) -> Mapping[str, Float[Tensor, ""]]:
        """Network → 0-dim loss, differentiable in the outputs that it trains."""


def evaluate_outputs(
    recipe: str | OfOutputs,
    arrays: Mapping[str, Any],
    step: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The losses of a recipe without tokens and their gradients, on given network outputs.

    ``recipe``: its name (then at its first preset), or an object. ``arrays``: name → array, or tensor on whatever
    device; numbers are computed in float64. What a recipe calls labels, whole numbers, int or bool in its ``outputs``
    stays what it is, and so do integers and booleans where a recipe declares none. Returns ``losses`` network → value,
    ``grads`` network → array → gradient (arrays that a loss does not depend on, or holds constant, are left out).
    ValueError where an array is missing, unknown, empty or misshapen, holds a number that is not finite, something else
    than numbers or a label that is none, or where a loss or a gradient is not finite; UserError where no recipe is
    called so.
    """
    chosen = with_knobs(network_recipe_named(recipe) if isinstance(recipe, str) else recipe, overrides or {})
    declared: Mapping[str, str] = {}
    arrays = {name: array_of(name, value) for name, value in arrays.items()}
    if isinstance(chosen, NetworkRecipe):
        declared = chosen.outputs
        for name in set(arrays) ^ set(chosen.outputs):
            lack = "lack" if name in chosen.outputs else "have no"
            raise ValueError(f"arrays {lack} {name!r}; the recipe reads {', '.join(chosen.outputs)}")
        require_shapes(declared, arrays)
        require_finite(arrays)
        require_labels(declared, arrays)
    outputs = {name: leaf_of(value, declared.get(name, "int")) for name, value in arrays.items()}
    leaves = {name: one for name, one in outputs.items() if one.requires_grad}
    losses = dict(chosen.losses(outputs, step))
    grads: dict[str, dict[str, np.ndarray]] = {}
    for optimizer, loss in losses.items():
        found = (
            torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, allow_unused=True)
            if loss.requires_grad
            else [None] * len(leaves)
        )
        grads[optimizer] = {name: g.numpy() for name, g in zip(leaves, found, strict=True) if g is not None}
        numbers = [loss.detach().numpy(), *grads[optimizer].values()]
        if not all(np.isfinite(one).all() for one in numbers):
            raise ValueError(f"loss or gradient of optimizer {optimizer!r} is not finite")
    return {"losses": {name: float(loss.detach()) for name, loss in losses.items()}, "grads": grads}


def array_of(name: str, value: Any) -> Array:
    """What was given, as numbers of numpy: a tensor's without its graph, floats in float64. ValueError for what is no
    array of real numbers or truth values."""
    if isinstance(value, Tensor):
        value = (value.detach().double() if value.is_floating_point() else value.detach()).cpu()
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} is no array: its rows differ in length") from None
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} is of type {array.dtype}, not of real numbers")
    return array.astype({"f": np.float64, "b": np.bool_}.get(array.dtype.kind, np.int64))


def require_finite(arrays: Mapping[str, Array]) -> None:
    """ValueError for NaN and infinities, also where nobody looks: a comparison would take them for a number."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(
                f"{name} has a number that is not finite (where nothing is read, give any other)"
            )


def require_labels(declared: Mapping[str, str], arrays: Mapping[str, Array]) -> None:
    """ValueError for labels that are no integers from 0: torch's losses leave rows of label −100 out without a word."""
    for name, meaning in declared.items():
        if "labels" not in meaning:
            continue
        if arrays[name].dtype.kind == "f":
            raise ValueError(f"{name} is of type {arrays[name].dtype}; labels are whole numbers from 0")
        if (arrays[name] < 0).any():
            raise ValueError(f"{name} holds {np.min(arrays[name])}; labels are whole numbers from 0")


def require_shapes(declared: Mapping[str, str], arrays: Mapping[str, Array]) -> None:
    """ValueError for an array of another shape than the recipe declares ("[n, c] …"), an empty one whose meaning does
    not say "n = 0", or one that differs from another in an axis of the same name: broadcasting would make a number of
    them all the same."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, meaning in declared.items():
        axes = [axis.strip() for axis in meaning[1 : meaning.index("]")].split(",") if axis.strip()]
        shape = np.shape(arrays[name])
        if len(shape) != len(axes):
            raise ValueError(f"{name} has shape {shape}, and the recipe reads {meaning}")
        for axis, size in zip(axes, shape, strict=True):
            if size == 0 and f"{axis} = 0" not in meaning:
                raise ValueError(f"{name} is empty: {axis} is 0, and the recipe reads {meaning}")
            known, first = sizes.setdefault(axis, (size, name))
            if size != known:
                raise ValueError(f"{name} has {axis} = {size}, and {first} has {known}")


def leaf_of(array: Array, meaning: str) -> Shaped[Tensor, "..."]:
    """An array as a tensor: a float64 leaf that gets a gradient, whole numbers given for others too; or as it is, where
    ``meaning`` says that it holds no other numbers."""
    tensor = torch.tensor(array)
    return (
        tensor if array.dtype.kind != "f" and DISCRETE.search(meaning) else tensor.double().requires_grad_()
    )


def result(batch: ScoredBatch, given: Mapping[str, Scored], outcome: Outcome) -> dict[str, Any]:
    """What ``evaluate`` returns, from an outcome that was differentiated."""
    grads = {role: one.states.grad for role, one in given.items()}
    hidden = {role: None if one.features is None else one.features.grad for role, one in given.items()}
    student = grads[STUDENT]
    if student is None:
        student = torch.zeros_like(given[STUDENT].states)
    return {
        "loss": float(outcome.loss.detach()),
        "grad": student.numpy(),
        "grads": {role: gradient.numpy() for role, gradient in grads.items() if gradient is not None},
        "grad_hidden": {role: gradient.numpy() for role, gradient in hidden.items() if gradient is not None},
        "terms": {name: float(value) for name, value in outcome.terms.items()},
        "token": {name: batch.spread(column).numpy() for name, column in outcome.token.items()},
    }


def roles_of(arrays: Mapping[str, Any], active: Iterable[str]) -> dict[str, Scored]:
    """Padded scores of the student and the active roles, each a leaf that may get a gradient."""
    student = torch.tensor(np.asarray(arrays["student_logits"]))
    logits = {STUDENT: student, **(arrays.get("teacher_logits") or {})}
    hidden = {STUDENT: arrays.get("student_hidden"), **(arrays.get("teacher_hidden") or {})}

    def leaf(value: Any) -> Float[Tensor, "N T _"] | None:
        if value is None:
            return None
        return torch.tensor(np.asarray(value)).to(student.dtype).requires_grad_()

    found = {}
    for role in (STUDENT, *active):
        states = leaf(logits.get(role))
        if states is not None:
            found[role] = Scored(states, features=leaf(hidden.get(role)))
    return found


def refuse_missing(arrays: Mapping[str, Any], active: Iterable[str], recipe: str) -> None:
    """ValueError naming active roles that have neither logits nor log-probs."""
    missing = (
        set(active) - set(arrays.get("teacher_logits") or {}) - set(arrays.get("teacher_log_probs") or {})
    )
    if missing:
        raise ValueError(f"teacher_logits lack {sorted(missing)}, which recipe {recipe} reads")


def refuse_unknown(arrays: Mapping[str, Any], known: Iterable[str]) -> None:
    """ValueError naming arrays, or roles in ``available``, that nobody reads: most are a slip of the pen."""
    unknown = set(arrays) - KNOWN
    if unknown:
        raise ValueError(f"arrays has no {sorted(unknown)}; known: {', '.join(sorted(KNOWN))}")
    roles = set(arrays.get("available") or {}) - set(known)
    if roles:
        raise ValueError(f"available names {sorted(roles)}, but the roles are {sorted(known)}")


KNOWN = {
    "ids", "mask", "student_logits", "teacher_logits", "teacher_log_probs", "student_hidden", "teacher_hidden",
    "available", "behavior", "old_log_probs", "group", "reward", "turn", "trajectory", "pair", "origin", "numbers",
    "marks", "special",
}  # fmt: skip


def columns_of(arrays: Mapping[str, Any], dtype: torch.dtype) -> Columns:
    """The columns of a batch from arrays by name; numbers in ``dtype``."""

    def tensor(name: str, kind: torch.dtype) -> Shaped[Tensor, "..."] | None:
        value = arrays.get(name)
        return None if value is None else torch.tensor(np.asarray(value)).to(kind)

    ids, mask = tensor("ids", torch.long), tensor("mask", torch.bool)
    assert ids is not None
    assert mask is not None
    return Columns(
        ids=ids,
        mask=mask,
        group=tensor("group", torch.long),
        reward=tensor("reward", dtype),
        behavior=tensor("behavior", dtype),
        turn=tensor("turn", torch.long),
        trajectory=tensor("trajectory", torch.long),
        pair=tensor("pair", torch.long),
        origin=None if arrays.get("origin") is None else tuple(arrays["origin"]),
        available=by_name(arrays, "available", torch.bool),
        marks=by_name(arrays, "marks", torch.bool),
        log_probs=by_name(arrays, "teacher_log_probs", dtype),
        numbers=by_name(arrays, "numbers", dtype),
        special=arrays.get("special") or {},
        precision=dtype,
    )


def by_name(arrays: Mapping[str, Any], kind: str, dtype: torch.dtype) -> dict[str, Shaped[Tensor, "..."]]:
    """The tensors of an array that is a mapping by name."""
    return {name: torch.tensor(np.asarray(x)).to(dtype) for name, x in (arrays.get(kind) or {}).items()}
