"""Gradients of a recipe's losses in given network outputs, beside finite differences in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from selfteach.testing import evaluate_outputs

Arrays = Mapping[str, np.ndarray]


def require_slopes(
    recipe: Any, arrays: Arrays, network: str, names: tuple[str, ...], **overrides: Any
) -> None:
    """Every entry of ``names`` moves the loss as its gradient says, and no other array of floats has one."""
    found = evaluate_outputs(recipe, arrays, overrides=overrides)["grads"][network]
    assert {name for name, slope in found.items() if np.any(slope)} == set(names)
    for name in names:
        np.testing.assert_allclose(
            found[name], differences(recipe, arrays, network, name, overrides), rtol=1e-6, atol=1e-9
        )


def differences(
    recipe: Any, arrays: Arrays, network: str, name: str, overrides: Mapping[str, Any], by: float = 1e-6
) -> np.ndarray:
    """Central differences of one network's loss in each entry of one array."""

    def loss(place: tuple[int, ...], move: float) -> float:
        moved = np.array(arrays[name], dtype=np.float64)
        moved[place] += move
        given = {**arrays, name: moved}
        return evaluate_outputs(recipe, given, overrides=overrides)["losses"][network]

    slopes = np.zeros_like(arrays[name], dtype=np.float64)
    for place in np.ndindex(slopes.shape):
        slopes[place] = (loss(place, by) - loss(place, -by)) / (2 * by)
    return slopes
