"""The pages' colors: lines that anybody can tell apart, words that anybody can read."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import selfteach

Array = NDArray[np.float64]
PACKAGE = Path(selfteach.__file__).parent
STYLES = {name: PACKAGE / name for name in ("report/templates/style.css", "probe/templates/probe.css")}
LIGHT, DARK = 0, 1
SEEN_BY: dict[str, Array] = {
    "everybody": np.eye(3),
    "nobody who lacks the green cones": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "nobody who lacks the red cones": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}
"""Linear RGB as it is seen (Machado, Oliveira and Fernandes 2009, severity 1)."""
TO_CONES = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
TO_OKLAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip
LEAST_DISTANCE = 0.1
"""In Oklab, where black and white are 1 apart. The eight colors before these had pairs at 0.02."""


def palettes(style: Path) -> list[dict[str, str]]:
    """The style's named colors, by light and by dark preference."""
    light, _, dark = style.read_text().partition("@media (prefers-color-scheme: dark)")
    found = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part)) for part in (light, dark)]
    return [found[0], found[0] | found[1]]


def linear(color: str) -> Array:
    values = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def oklab(rgb: Array) -> Array:
    seen: Array = TO_OKLAB @ np.cbrt(TO_CONES @ rgb.clip(0, 1))
    return seen


def nearest(colors: Sequence[str], eyes: Array) -> float:
    """The least distance of two colors, in Oklab."""
    places = [oklab(eyes @ linear(one)) for one in colors]
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(places, 2))


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio, 1 to 21."""
    low, high = sorted(float(np.array([0.2126, 0.7152, 0.0722]) @ linear(c)) for c in (one, other))
    return (high + 0.05) / (low + 0.05)


def test_the_measures_are_those_of_the_books() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert oklab(linear("#ffffff")) == pytest.approx([1, 0, 0], abs=1e-3)
    assert nearest(["#000000", "#ffffff"], np.eye(3)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("eyes", SEEN_BY)
@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_the_colors_of_lines_can_be_told_apart(scheme: int, eyes: str) -> None:
    colors = palettes(STYLES["report/templates/style.css"])[scheme]
    assert nearest([colors[f"c{i}"] for i in range(8)], SEEN_BY[eyes]) > LEAST_DISTANCE


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_words_and_lines_stand_out_from_what_is_behind_them(scheme: int, name: str) -> None:
    colors = palettes(STYLES[name])[scheme]
    behind = [colors[one] for one in ("paper", "card", "wash") if one in colors]
    words = [one for one in ("ink", "soft", "good", "bad", "link", "mark") if one in colors]
    lines = [one for one in colors if re.fullmatch(r"c\d", one)]
    faint = {
        one: round(min(contrast(colors[one], under) for under in behind), 2)
        for one in words
    } | {one: round(contrast(colors[one], colors["card"]), 2) for one in lines}  # fmt: skip
    assert {one: ratio for one, ratio in faint.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("name", [*STYLES, "report/templates/notebook.html"])
def test_no_letter_is_smaller_than_twelve_pixels(name: str) -> None:
    """Sizes in rem are of the browser's 16 px; those in px outside a drawing are as written."""
    text = (PACKAGE / name).read_text()
    outside = re.sub(r"svg text \{[^}]*\}", "", text)
    sizes = [float(n) * 16 for n in re.findall(r"font(?:-size)?: (?:\d+ )?([\d.]+)rem", outside)]
    sizes += [float(n) for n in re.findall(r"font(?:-size)?: (?:\d+ )?([\d.]+)px", outside)]
    sizes += [12.8 * float(n) for n in re.findall(r"font-size: ([\d.]+)em", outside)]
    assert [one for one in sizes if one < 12 - 1e-9] == []
