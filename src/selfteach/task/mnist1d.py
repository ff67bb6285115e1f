"""Ten digits as signals that shape, place, size and noise hide: the procedure of MNIST-1D (arXiv 2011.14439), which
needs no download."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
TEMPLATES = np.array([
    [5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5],
    [5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5],
    [5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5],
    [5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5],
    [5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5],
    [5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5],
    [5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5],
    [5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5],
    [5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5],
    [5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5],
])  # fmt: skip
"""Twelve points of each digit, as the paper's authors draw them."""
LENGTH = 40
"""Points of a signal."""
LEAST_PADDING, MOST_PADDING, MOST_SHIFT = 36, 60, 48
STRETCH, SHEAR = 0.4, 0.75
"""Widths of the ranges of size (about 1) and slope (about 0)."""
SMOOTH_NOISE, NOISE, SMOOTHNESS = 0.25, 0.02, 2.0
"""Standard deviations: of the noise around the digit before it is smoothed, of the noise everywhere, of the smoothing
kernel in points."""


def signals(count: int, seed: int) -> tuple[Array, Array]:
    """(x [count, 1, 40] of mean 0 and deviation 1 over all, y [count] labels), the same for the same ``seed``."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(count) % len(TEMPLATES))
    digits = TEMPLATES - TEMPLATES.mean(1, keepdims=True)
    digits /= 6 * digits.std(1, keepdims=True)
    digits -= digits[:, :1]
    x = np.stack([signal(digits[label], rng) for label in y])
    return ((x - x.mean()) / x.std())[:, None], y.astype(np.int64)


def signal(digit: Array, rng: np.random.Generator) -> Array:
    """One digit [12]: padded, stretched to a fixed length, scaled, shifted around, noised, tilted, thinned to 40."""
    whole = len(digit) + MOST_PADDING
    padding = rng.integers(LEAST_PADDING, MOST_PADDING + 1)
    there = np.arange(len(digit) + padding) < len(digit)
    drawn = np.concatenate([digit, np.zeros(padding)])
    shift = rng.integers(MOST_SHIFT)
    size = 1 + STRETCH * rng.uniform(-0.5, 0.5)
    drawn = np.roll(size * resampled(drawn, whole), shift)
    inside = np.roll(resampled(there.astype(float), whole) > 0, shift)
    drawn = np.where(inside, drawn, smoothed(SMOOTH_NOISE * rng.standard_normal(whole)))
    drawn = drawn + NOISE * rng.standard_normal(whole)
    drawn = drawn - SHEAR * rng.uniform(-0.5, 0.5) * np.linspace(-0.5, 0.5, whole)
    return resampled(drawn, LENGTH)


def resampled(x: Array, length: int) -> Array:
    """Linear interpolation at ``length`` places from the first to the last."""
    return np.interp(np.linspace(0, 1, length), np.linspace(0, 1, len(x)), x)


def smoothed(x: Array) -> Array:
    """Convolved with a Gaussian, mirrored at the ends."""
    reach = round(4 * SMOOTHNESS)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SMOOTHNESS) ** 2)
    return np.convolve(np.pad(x, reach, mode="symmetric"), kernel / kernel.sum(), mode="valid")
