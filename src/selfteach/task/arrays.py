"""Data of recipes without tokens: inputs with their targets, by name or from a file, split three ways."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from zipfile import is_zipfile

import numpy as np

from selfteach.checks import nearest, require
from selfteach.errors import UserError
from selfteach.outside import blamed
from selfteach.task.glyphs import glyphs, glyphs_color
from selfteach.task.mnist1d import signals

Array = np.ndarray[Any, Any]
SINE = (
    0.38476636465198066, 1.2333967683416893, 1.33232242217057, 0.6920159488889518, -0.29756145531871736,
    -0.24189291901377769, -0.7964485769175675, -0.9616480167034174, -0.49672509509916934, -0.3469066003991437,
    0.5589512650600734,
)  # fmt: skip
"""Noisy values of sin 2πx at x = 0, 0.1 … 1 (arXiv 2002.05715, used again by arXiv 2102.13088)."""
VALID, TEST = 0.2, 0.3
"""Shares of rows that are held out: to choose by, and to report."""
LARGEST = 1e9
"""Of a file's numbers: float32 still tells 1e9 from twice as much, squared and summed."""
EXTRA = "pip install 'selfteach[networks]'"


@dataclass(frozen=True)
class Rows:
    """``x``: [n, …] inputs, float64; ``y``: [n] labels (int64) or [n, c] targets (float64)."""

    x: Array
    y: Array

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Arrays:
    """``valid`` is to choose by (empty: there is none), ``test`` to report. ``classes``: how many labels there are (0:
    targets are numbers)."""

    train: Rows
    valid: Rows
    test: Rows
    classes: int = 0


def load_arrays(name: str, seed: int = 0, least: int = 1) -> Arrays:
    """The data called ``name``, or of a file FILE.npz with arrays ``x`` and ``y`` (held out of it: shares ``VALID`` and
    ``TEST``, drawn by ``seed``; or ``x_test`` and ``y_test``, where it has them).

    UserError: there is no such data, a package is missing, the file holds something else, fewer than ``least`` rows
    are left to train on, or none is held out.
    """
    if name.endswith(".npz"):
        found = of_file(name, seed)
    else:
        require(
            name in NAMED,
            f"data {name!r} is unknown{nearest(name, NAMED)}; or give FILE.npz with arrays x and y",
        )
        found = NAMED[name](seed)
    require(
        len(found.train) >= least,
        f"data {name}: {len(found.train)} rows are left to train on, and {least} are needed",
    )
    require(
        len(found.test) > 0, f"data {name}: no rows are held out to report: give more, or x_test and y_test"
    )
    return found


def sine(seed: int) -> Arrays:
    """Eleven noisy points; held out is the wave itself on 101."""
    grid = np.linspace(0, 1, 101)
    wave = np.sin(2 * math.pi * grid)[:, None]
    none = Rows(np.zeros((0, 1)), np.zeros((0, 1)))
    return Arrays(
        Rows(np.linspace(0, 1, 11)[:, None], np.array(SINE)[:, None]), none, Rows(grid[:, None], wave)
    )


def diabetes(seed: int) -> Arrays:
    """442 patients: ten measurements, the progress of a disease after a year (both standardized)."""
    given = datasets("diabetes").load_diabetes(scaled=False)
    return split(standardized(given.data), standardized(given.target)[:, None], seed)


def digits(seed: int) -> Arrays:
    """1797 handwritten digits of 8 × 8 pixels in [0, 1], as [n, 1, 8, 8]."""
    given = datasets("digits").load_digits()
    return split(given.images[:, None] / 16.0, given.target.astype(np.int64), seed, classes=10)


def mnist1d(seed: int) -> Arrays:
    """5000 signals of 40 points that are digits in disguise, as [n, 1, 40]; another ``seed`` draws others."""
    return split(*signals(5000, seed), seed, classes=10)


def drawn_digits(make: Callable[[int, int], tuple[Array, Array]]) -> Callable[[int], Arrays]:
    """2,000 images that ``make`` draws."""

    def made(seed: int) -> Arrays:
        return split(*make(2000, seed), seed, classes=10)

    return made


NAMED: Mapping[str, Callable[[int], Arrays]] = {
    "sine": sine,
    "diabetes": diabetes,
    "digits": digits,
    "mnist1d": mnist1d,
    "glyphs": drawn_digits(glyphs),
    "glyphs-color": drawn_digits(glyphs_color),
}
"""Data by name: what the seed splits."""


def datasets(name: str) -> Any:
    require(
        find_spec("sklearn") is not None, f"data {name} is scikit-learn's, which is not installed: {EXTRA}"
    )
    return import_module("sklearn.datasets")


def standardized(values: Array) -> Array:
    found = np.asarray(values, dtype=np.float64)
    return (found - found.mean(0)) / found.std(0)  # type: ignore[no-any-return]


def split(x: Array, y: Array, seed: int, classes: int = 0) -> Arrays:
    """Rows in an order drawn by ``seed``, then cut: the last are held out."""
    order = np.random.default_rng(seed).permutation(len(x))
    test, valid = round(TEST * len(x)), round(VALID * len(x))
    parts = np.split(order, [len(x) - test - valid, len(x) - test])
    train, chosen, held = (Rows(x[part], y[part]) for part in parts)
    return Arrays(train, chosen, held, classes)


def of_file(name: str, seed: int) -> Arrays:
    """Data of a user's own file, which is not trusted: no pickle, finite numbers alone."""
    advice = "write it with numpy.savez(FILE, x=…, y=…)"
    if not os.path.isfile(name):
        raise UserError(f"data {name} is no file: {advice}")
    require(is_zipfile(name), f"data {name} is no archive of arrays, which is what .npz is: {advice}")
    with blamed(f"data {name}", advice), np.load(name, allow_pickle=False) as file:
        found = {key: file[key] for key in ("x", "y", "x_test", "y_test") if key in file}
    whole = all(isinstance(one, np.ndarray) for one in found.values())
    require(whole, f"data {name} holds something else than arrays: {advice}")
    require(
        ("x_test" in found) == ("y_test" in found),
        f"data {name} has one of x_test and y_test: give both, or neither",
    )
    require("x" in found and "y" in found, f"data {name} has no arrays x and y: {advice}")
    rows = rows_of(name, found["x"], found["y"])
    classes = classes_of(name, rows.y) if rows.y.ndim == 1 else 0
    if "x_test" not in found or "y_test" not in found:
        return split(rows.x, rows.y, seed, classes)
    test = rows_of(name, found["x_test"], found["y_test"])
    require(
        test.x.shape[1:] == rows.x.shape[1:] and test.y.shape[1:] == rows.y.shape[1:],
        f"data {name}: x_test and y_test have another shape than x and y",
    )
    require(
        not classes or int(test.y.max(initial=0)) < classes, f"data {name}: y_test has a label that y lacks"
    )
    cut = split(rows.x, rows.y, seed, classes)
    train = Rows(np.concatenate([cut.train.x, cut.test.x]), np.concatenate([cut.train.y, cut.test.y]))
    return Arrays(train, cut.valid, test, classes)


def classes_of(name: str, labels: Array) -> int:
    """How many there are. UserError unless they are numbered from 0 without gaps: a slip would ask for a network with
    as many outputs as its largest number."""
    present = np.unique(labels)
    missing = np.flatnonzero(present != np.arange(len(present)))
    if len(missing):
        raise UserError(
            f"data {name}: labels are numbered 0, 1, 2 … without gaps, and y has no {missing[0]} but {present[-1]}"
        )
    return len(present)


def rows_of(name: str, x: Array, y: Array) -> Rows:
    """Labels as int64, anything else as float64. UserError for what is no number, not finite, or of unequal length."""
    for label, one in (("x", x), ("y", y)):
        require(
            one.ndim > 0 and (np.issubdtype(one.dtype, np.number) or one.dtype == bool),
            f"data {name}: {label} is of type {one.dtype}, not a list of numbers",
        )
        require(not np.iscomplexobj(one), f"data {name}: {label} is complex")
        require(not np.issubdtype(one.dtype, np.timedelta64), f"data {name}: {label} is of type {one.dtype}")
        require(bool(np.isfinite(one).all()), f"data {name}: {label} has a number that is not finite")
        require(
            bool((np.abs(one.astype(np.longdouble)) <= LARGEST).all()),
            f"data {name}: {label} has a number beyond {LARGEST:g}, where squares lose all others: scale it",
        )
    require(len(x) == len(y), f"data {name}: x has {len(x)} rows and y {len(y)}")
    require(
        math.prod(x.shape[1:]) > 0,
        f"data {name}: x has shape {list(x.shape)}: its rows are empty",
    )
    inputs = x.astype(np.float64)
    inputs = inputs[:, None] if inputs.ndim == 1 else inputs
    if y.ndim == 1 and np.issubdtype(y.dtype, np.integer):
        require(len(y) == 0 or y.min() >= 0, f"data {name}: y has a negative label")
        return Rows(inputs, y.astype(np.int64))
    targets = y.astype(np.float64)
    return Rows(inputs, targets[:, None] if targets.ndim == 1 else targets.reshape(len(targets), -1))
