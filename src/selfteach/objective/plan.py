"""Fix every term's coefficients over the whole batch, before any gradient is taken."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from selfteach.objective.batch import Columns
from selfteach.objective.engine import Weighted
from selfteach.objective.terms import Term, token_coefficients


@torch.no_grad()
def plan(terms: Iterable[Term], columns: Columns) -> list[Weighted]:
    """Each term with its [N, T] coefficients: weight × coefficient / denominator where it selects, else 0."""
    return [
        Weighted(term, token_coefficients(term, columns.mask, columns.available_rows(term.teachers)))
        for term in terms
    ]
