"""Digits drawn by rule, 28 × 28 pixels: images without a download, of which any number can be had."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
SIZE, POINTS = 28, 16
"""Pixels of a side; points of a stroke."""
WARM, COOL = (0.95, 0.75, 0.45), (0.15, 0.25, 0.5)
"""Colors of strokes and of what is behind them (red, green, blue): around these they vary, so that which channel is
which can be told from an image."""


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> list[tuple[float, float]]:
    """Points of an ellipse about (x, y), between two angles in degrees (0: to the right, 90: downwards)."""
    angles = np.radians(np.linspace(start, end, POINTS))
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


SIX = [(0.64, 0.1), (0.42, 0.35), *arc(0.5, 0.67, 0.22, 0.22, 190, -170)]
STROKES = (
    arc(0.5, 0.5, 0.26, 0.38, -90, 270),
    [(0.36, 0.26), (0.52, 0.1), (0.52, 0.9)],
    [*arc(0.5, 0.32, 0.24, 0.22, -170, 40), (0.26, 0.9), (0.76, 0.9)],
    [*arc(0.46, 0.3, 0.24, 0.2, -160, 90), *arc(0.46, 0.7, 0.27, 0.2, -90, 160)],
    [(0.62, 0.9), (0.62, 0.1), (0.22, 0.64), (0.8, 0.64)],
    [(0.72, 0.1), (0.34, 0.1), (0.32, 0.46), *arc(0.48, 0.66, 0.25, 0.24, -130, 150)],
    SIX,
    [(0.24, 0.1), (0.76, 0.1), (0.42, 0.9)],
    [*arc(0.5, 0.29, 0.2, 0.19, 90, 450), *arc(0.5, 0.69, 0.25, 0.21, -90, 270)],
    [(1 - x, 1 - y) for x, y in SIX],
)
"""Digit → the corners of its one stroke in the unit square, x to the right and y downwards. 9 is 6 turned by 180°."""


def evenly(corners: list[tuple[float, float]]) -> Array:
    """[POINTS, 2]: points at equal distances along a stroke."""
    given = np.array(corners)
    along = np.concatenate([[0.0], np.linalg.norm(np.diff(given, axis=0), axis=1).cumsum()])
    wanted = np.linspace(0, along[-1], POINTS)
    return np.stack([np.interp(wanted, along, given[:, axis]) for axis in (0, 1)], 1)


def drawn(labels: Array, rng: np.random.Generator) -> Array:
    """[n, 28, 28] in [0, 1]: the digits ``labels`` [n], each turned by up to 20°, sheared, scaled, moved, bent and
    drawn as thick as it comes, beside a short stroke that belongs to none."""
    n, strokes = len(labels), np.stack([evenly(one) for one in STROKES])[labels] - 0.5

    def within(low: float, high: float, *shape: int) -> Array:
        return rng.uniform(low, high, (n, *shape))

    angle, shear = within(-0.35, 0.35), within(-0.3, 0.3)
    turned = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], 1).reshape(n, 2, 2)
    turned[:, :, 1] += shear[:, None] * turned[:, :, 0]
    bent = strokes + within(0, 0.05, 1, 2) * np.sin(6 * strokes[:, :, ::-1] + within(0, 2 * math.pi, 1, 2))
    points = bent @ turned.transpose(0, 2, 1) * within(0.6, 0.95, 1, 2) + 0.5 + within(-0.08, 0.08, 1, 2)
    start, way = within(0.05, 0.95, 2), within(-0.25, 0.25, 2)
    stray = np.stack([start, start + way], 1)
    thick = within(0.03, 0.06)
    return np.maximum(inked(points, thick), inked(stray, thick))


def inked(points: Array, thick: Array) -> Array:
    """[n, 28, 28]: how dark each pixel is of polylines ``points`` [n, p, 2] with half widths ``thick`` [n]: 1 on the
    line, falling to 0 over a pixel."""
    axis = (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE
    pixels = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    ends = points.astype(np.float32)
    nearest = np.full((len(ends), SIZE * SIZE), np.inf, np.float32)
    for one, two in zip(ends[:, :-1].swapaxes(0, 1), ends[:, 1:].swapaxes(0, 1), strict=True):
        way = two - one
        length = np.maximum((way**2).sum(1, keepdims=True), 1e-12)
        along = way @ pixels.T - (way * one).sum(1, keepdims=True)
        share = (along / length).clip(0, 1)
        # |p − one − share · way|², by parts: no array has an axis for x and y
        off = (pixels**2).sum(1) - 2 * one @ pixels.T + (one**2).sum(1, keepdims=True)
        np.minimum(nearest, off + share * (share * length - 2 * along), out=nearest)
    far = np.sqrt(np.maximum(nearest, 0))
    ink: Array = ((thick[:, None] - far) * SIZE + 0.5).clip(0, 1).reshape(-1, SIZE, SIZE)
    return ink


def glyphs(n: int, seed: int, noise: float = 0.15) -> tuple[Array, Array]:
    """``n`` images [n, 1, 28, 28] in [0, 1] with Gaussian noise, and their digits [n]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(10, size=n)
    ink = drawn(labels, rng)[:, None]
    return (ink + rng.normal(0, noise, ink.shape)).clip(0, 1), labels


def glyphs_color(n: int, seed: int, noise: float = 0.15) -> tuple[Array, Array]:
    """The same in color, [n, 3, 28, 28]: warm strokes on cool ground, each image with tones of its own."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(10, size=n)
    ink = drawn(labels, rng)[:, None]
    stroke, ground = (
        (np.array(tone) + rng.normal(0, 0.12, (n, 3)))[:, :, None, None] for tone in (WARM, COOL)
    )
    image = ink * stroke + (1 - ink) * ground
    return (image + rng.normal(0, noise, image.shape)).clip(0, 1), labels
