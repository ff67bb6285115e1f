"""What recursive meta-distillation recurs on: base teachers, a first student, and where they are asked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from selfteach.checks import require
from selfteach.recipes.r60_recursive_meta import RecursiveMeta
from selfteach.task.arrays import load_arrays
from selfteach.training.classic.softmax import fitted, log_probs

TABLE = "table"
MOST = 10**7
"""Numbers that the base teachers' distributions are: float64, 80 MB."""

MOST_CONTEXTS = 2000
"""Their inputs are the rows of a unit matrix."""


@dataclass(frozen=True)
class Base:
    """``x``: inputs that generations are fitted on; ``test``: inputs on which they are measured; ``labels``: of the
    latter (None: there is no truth). ``teachers``: the base teachers' weights; ``first``: the first student's."""

    x: Float[Tensor, "n d"]
    test: Float[Tensor, "m d"]
    labels: Int[Tensor, "m"] | None
    teachers: Float[Tensor, "k d c"]
    first: Float[Tensor, "d c"]


def base_of(recipe: RecursiveMeta, seed: int) -> Base:
    """Made by ``seed``. UserError where data cannot be had, has no labels, or is too little or too much."""
    random = torch.Generator().manual_seed(seed)
    return drawn(recipe, random) if recipe.data == TABLE else learned(recipe, seed, random)


def drawn(recipe: RecursiveMeta, random: torch.Generator) -> Base:
    """A distribution for each of the contexts, which are inputs without anything in common: softmax of normal draws."""
    require(
        recipe.contexts <= MOST_CONTEXTS, f"contexts must be at most {MOST_CONTEXTS}, got {recipe.contexts}"
    )
    require_size(recipe, recipe.contexts, recipe.classes)
    x = torch.eye(recipe.contexts, dtype=torch.float64)
    shape = (recipe.teachers + 1, recipe.contexts, recipe.classes)
    *teachers, first = torch.randn(shape, generator=random, dtype=torch.float64)
    return Base(x, x, None, torch.stack(teachers), first)


def learned(recipe: RecursiveMeta, seed: int, random: torch.Generator) -> Base:
    """Classifiers of labeled data, each of the rows k, k + K … of the training set."""
    data = load_arrays(recipe.data, seed, least=recipe.teachers)
    require(
        data.classes > 1,
        f"data {recipe.data} has no labels of several classes, which recipe recursive-meta needs: give y as integers",
    )
    require_size(recipe, len(data.train), data.classes)
    x, test = (with_one(torch.from_numpy(rows.x)) for rows in (data.train, data.test))
    y = torch.from_numpy(data.train.y)
    teachers = []
    for k in range(recipe.teachers):
        own, labels = x[k :: recipe.teachers], y[k :: recipe.teachers]
        zero = torch.zeros(x.shape[1], data.classes, dtype=x.dtype)
        teachers.append(fit(recipe, own, functional.one_hot(labels, data.classes).double(), zero))
    first = torch.randn(x.shape[1], data.classes, generator=random, dtype=torch.float64) / x.shape[1] ** 0.5
    return Base(x, test, torch.from_numpy(data.test.y), torch.stack(teachers), first)


def fit(
    recipe: RecursiveMeta, x: Float[Tensor, "n d"], m: Float[Tensor, "n c"], start: Float[Tensor, "d c"]
) -> Float[Tensor, "d c"]:
    """The weight at which the recipe's loss is least: of a table, whose inputs have nothing in common, log m itself."""
    if recipe.data == TABLE:
        return m.log()
    return fitted(x, start, lambda log_p, norm: loss_of(recipe, m, log_p, norm))


def loss_of(
    recipe: RecursiveMeta, m: Float[Tensor, "n c"], log_p: Float[Tensor, "n c"], norm: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    return recipe.loss("network", {"log_p": log_p, "m": m, "norm": norm}, 0)


def with_one(x: Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
    """Inputs laid flat, with a 1 for the intercept."""
    return torch.cat([x.flatten(1), torch.ones(len(x), 1, dtype=x.dtype)], 1)


def require_size(recipe: RecursiveMeta, inputs: int, classes: int) -> None:
    """UserError where the distributions would not fit the memory."""
    size = (recipe.teachers + 1) * inputs * classes
    require(
        size <= MOST,
        f"{recipe.teachers} teachers of {inputs} inputs and {classes} classes are {size:,} numbers, above {MOST:,}: "
        "give fewer",
    )


def of_teachers(base: Base, x: Float[Tensor, "n d"]) -> Float[Tensor, "k n c"]:
    """The base teachers' log-probs."""
    return log_probs(x, base.teachers)
