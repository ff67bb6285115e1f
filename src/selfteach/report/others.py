"""Samples that are no text: points in the plane as a scatter plot, images as they are, anything else as JSON."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfteach.errors import UserError
from selfteach.outside import blamed, require_file
from selfteach.report.plot import HEIGHT, WIDTH, Placement
from selfteach.report.rows import Row
from selfteach.report.text import as_number, drawable

MOST_SHOWN = 12
MOST_POINTS = 400
"""Of one series; more are thinned evenly."""

MOST_BYTES, MOST_PIXELS = 2**20, 4096
"""Of a picture's file, and of its sides: a page holds all that it shows."""
PNG = b"\x89PNG\r\n\x1a\n"

Point = tuple[float, float]


@dataclass(frozen=True)
class Other:
    """A sample of another kind than text. ``clouds``: points by name, if it is of kind points; ``folder``:
    the run's, in which a picture lies."""

    step: float
    phase: str
    kind: str
    key: str
    values: Row
    clouds: Mapping[str, Sequence[Point]]
    folder: Path

    @property
    def caption(self) -> str:
        """What is to be read below a picture."""
        given = self.values.get("caption")
        return given if isinstance(given, str) else ""

    @property
    def text(self) -> str:
        try:
            return json.dumps(self.values, indent=1, ensure_ascii=False)
        except RecursionError:
            return "(nested too deeply to be shown; it is in samples.jsonl)"


@dataclass(frozen=True)
class Picture:
    """A PNG file in base64, or why there is none to be shown."""

    data: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Scatter:
    """A cloud of points, in the coordinates of the drawing."""

    label: str
    color: int
    dots: list[Point]
    left_out: int


def other(row: Row, folder: Path) -> Other:
    values = {k: v for k, v in row.items() if k not in ("step", "phase", "kind", "key")}
    given = values.get("points") if row["kind"] == "points" else None
    clouds = {str(k): cloud(v) for k, v in given.items()} if isinstance(given, Mapping) else {}
    about = {name: str(row.get(name, "")) for name in ("phase", "kind", "key")}
    return Other(step=row["step"], **about, values=values, clouds=clouds, folder=folder)


def picture(one: Other) -> Picture | None:
    """What a sample of kind image shows; None of any other kind."""
    if one.kind != "image":
        return None
    try:
        return Picture(read_image(one.folder, one.values.get("path")))
    except UserError as problem:
        return Picture(fault=f"{problem}.")


def read_image(folder: Path, path: object) -> str:
    """A PNG file within a run's folder, in base64. UserError where there is none that may be shown: who wrote the row
    is not trusted, so that links and paths that lead out of the folder, and pictures that would fill a browser's
    memory, are refused."""
    what = f"The image {str(path)[:200]}"
    with blamed(what):
        found = (folder / str(path)).resolve()
        if not found.is_relative_to(folder.resolve()):
            raise UserError(f"{what} lies outside of the run's folder")
        data = require_file(found, what, MOST_BYTES).read_bytes()
    width, height = struct.unpack(">II", data[16:24]) if len(data) >= 24 else (0, 0)
    if not (data.startswith(PNG) and 0 < width <= MOST_PIXELS and 0 < height <= MOST_PIXELS):
        raise UserError(f"{what} is no PNG of at most {MOST_PIXELS} pixels a side")
    return base64.b64encode(data).decode()


def cloud(given: object) -> list[Point]:
    """The pairs of drawable numbers in what was written."""
    rows = given if isinstance(given, list) else []
    pairs = [tuple(map(as_number, row)) for row in rows if isinstance(row, list) and len(row) == 2]
    return [(x, y) for x, y in pairs if x is not None and y is not None and drawable(x) and drawable(y)]


def few(others: Sequence[Other]) -> list[Other]:
    """At most ``MOST_SHOWN``, spread evenly over the run, the first and the last among them."""
    if len(others) <= MOST_SHOWN:
        return list(others)
    return [others[round(i * (len(others) - 1) / (MOST_SHOWN - 1))] for i in range(MOST_SHOWN)]


def scatters(one: Other) -> list[Scatter]:
    """The clouds over one pair of axes of equal scale."""
    every = [point for points in one.clouds.values() for point in points] or [(0.0, 0.0)]
    (left, right), (low, high) = ((min(axis), max(axis)) for axis in zip(*every, strict=True))
    half = max((right - left) / WIDTH, (high - low) / HEIGHT) / 2 or 1.0
    x, y = (left + right) / 2, (low + high) / 2
    place = Placement((x - half * WIDTH, x + half * WIDTH), (y - half * HEIGHT, y + half * HEIGHT))
    drawn = []
    for color, (label, points) in enumerate(one.clouds.items()):
        kept = points[:: math.ceil(len(points) / MOST_POINTS) or 1]
        dots = [(place.x(px), place.y(py)) for px, py in kept]
        drawn.append(Scatter(label, color, dots, len(points) - len(kept)))
    return drawn
