"""A comparison's page: seeds on one scale, verdicts, who was not run; from the numbers alone, of any age."""

from __future__ import annotations

import html
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from selfteach.cli import main
from selfteach.errors import UserError
from selfteach.recipes import RECIPES
from selfteach.report import comparison_page, read_results
from selfteach.report.comparison import EDGE, WIDTH, interval, line_ends, on_one_scale, panels
from selfteach.report.plot import draw
from selfteach.report.several_runs import comparison_charts

RESULTS = Path(__file__).parent.parent / "results"


def recipe(ends: list[float], start: float = 0.3) -> dict[str, Any]:
    mean = sum(ends) / len(ends)
    runs = [
        {
            "seed": i,
            "points": [{"step": 0, "spent": 0, "headline": start}, {"step": 9, "spent": 90, "headline": x}],
        }
        for i, x in enumerate(ends)
    ]
    return {"runs": runs, "start": start, "headline": mean, "headline_se": 0.05 if len(ends) > 1 else None,
            "steps": 9, "spent": 90, "training_seconds": 750.0}  # fmt: skip


def results(recipes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"task": "table", "model": "m", "equal": "tokens", "seeds": 2, "command": "c", "versions": {},
            "headline": "held-out accuracy", "unit": "tokens", "recipes": recipes} | more  # fmt: skip


CLAIM = {
    "method": "sdpo", "says": "It is better.", "variants": {}, "metric": "eval/accuracy", "rule": "exceeds",
    "higher": {"variant": "sdpo", "by_seed": [0.6, 0.8]}, "lower": {"variant": "grpo", "by_seed": [0.5, 0.5]},
    "verdict": "undecided", "caveat": "baselines not tuned",
}  # fmt: skip


def text_of(path: Path) -> str:
    bare = re.sub(r"<(style|script)\b.*?</\1>", "", path.read_text(encoding="utf-8"), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", bare)).split())


def test_recipes_stand_in_the_order_of_their_means_on_one_scale() -> None:
    strips, scale = on_one_scale({"a": recipe([0.2, 0.3]), "b": recipe([0.5, 1.0]), "c": recipe([0.0, 0.0])})
    assert [one.name for one in strips] == ["b", "a", "c"]
    assert [label for _, label in scale] == ["0", "0.5", "1"]
    best, _, last = strips
    inside = WIDTH - 2 * EDGE
    assert best.seeds == [EDGE + inside / 2, EDGE + inside]
    assert best.mean == EDGE + 0.75 * inside
    assert best.start == pytest.approx(EDGE + 0.3 * inside, abs=0.1)
    assert best.interval == (EDGE, EDGE + inside)
    assert last.interval is None
    assert last.said == "seeds 0, 0; mean 0; no interval"


def test_the_interval_is_students_and_seeds_that_agree_have_none() -> None:
    """t at 2 degrees of freedom is 4.303; the standard error of 0.4, 0.5, 0.6 is 0.1 / √3."""
    assert interval([0.4, 0.5, 0.6]) == pytest.approx((0.5 - 0.24843, 0.5 + 0.24843), abs=1e-4)
    assert interval([0.5]) is None
    assert interval([0.5, 0.5, 0.5]) is None


def test_a_page_does_not_claim_certainty_where_seeds_agree(tmp_path: Path) -> None:
    whole = results({"a": recipe([0.0, 0.0]) | {"headline_se": 0.0}, "b": recipe([0.4])})
    shown = text_of(comparison_page(whole, tmp_path / "page.html"))
    assert "0.000 (no spread)" in shown
    assert "0.400 (one seed)" in shown
    assert "± 0.000" not in shown


def test_every_registered_recipe_is_shown_or_named_as_not_run(tmp_path: Path) -> None:
    page = comparison_page(results({"opsd": recipe([0.4, 0.5])}, claims=[CLAIM]), tmp_path / "page.html")
    (named,) = re.findall(r"Not run here: (.*?)\.", text_of(page))
    assert {"opsd", *named.split(", ")} == set(RECIPES)
    assert "Not run" not in text_of(comparison_page(results({"opsd": recipe([0.4])}), tmp_path / "page.html"))


def test_verdicts_stand_in_a_table_with_what_was_measured(tmp_path: Path) -> None:
    claims = [CLAIM, CLAIM | {"method": "atesd", "verdict": "reproduced"}, CLAIM | {"verdict": "withdrawn"}]
    shown = text_of(comparison_page(results({}, claims=claims), tmp_path / "page.html"))
    assert "3 claims: 1 reproduced, 1 undecided, 1 withdrawn." in shown
    assert "sdpo 0.700 ± 0.100 exceeds grpo 0.500?" in shown
    assert "0.200 ± 0.100" in shown
    assert shown.index("atesd") < shown.index("sdpo")


def test_few_recipes_share_a_plot_with_names_at_the_lines_ends() -> None:
    drawing = draw(comparison_charts({"a": recipe([0.50]), "b": recipe([0.51]), "c": recipe([0.9])})[1])
    ends = line_ends(drawing)
    assert [label for _, _, label, _ in ends] == ["c", "b", "a"]
    heights = [y for _, y, _, _ in ends]
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 14


def test_many_recipes_have_a_plot_each_over_the_same_axes(tmp_path: Path) -> None:
    recipes = {f"r{i}": recipe([i / 10, i / 20]) for i in range(8)}
    charts = panels(recipes, "held-out accuracy")
    assert [chart.title for chart in charts] == [f"r{i}" for i in reversed(range(8))]
    assert len({(draw(chart).y_ticks[-1][1], chart.x_range) for chart in charts}) == 1
    assert {series.color for chart in charts for series in chart.series} == {0}
    assert "the best first, all over the same axes" in text_of(
        comparison_page(results(recipes), tmp_path / "p.html")
    )


# --- from files


@pytest.mark.parametrize("name", ["methods", "arena"])
def test_the_results_pages_are_those_of_their_numbers(tmp_path: Path, name: str) -> None:
    """Also of numbers written when the headline was called accuracy; no number is on the page alone."""
    assert main(["report", str(RESULTS / f"{name}.json"), "--out", str(tmp_path / "page.html")]) == 0
    assert text_of(tmp_path / "page.html") == text_of(RESULTS / f"{name}.html")


def test_older_results_are_read_in_todays_names() -> None:
    found = read_results(Path(__file__).parent / "data" / "older_results.json")
    assert found["headline"] == "held-out accuracy"
    assert found["recipes"]["opsd"]["headline"] == pytest.approx(0.7806, abs=1e-4)
    assert found["recipes"]["opsd"]["runs"][0]["points"][-1] == {
        "step": 53,
        "spent": 101531,
        "headline": 0.990234375,
    }
    claims = found["claims"]
    assert {claim["verdict"] for claim in claims} == {"reproduced", "refuted", "undecided", "withdrawn"}
    assert {claim["rule"] for claim in claims} == {"exceeds", "within 0.1 of", "within 0.05 of"}


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "{}", '{"task": 1}', '{"recipes": []}', '{"recipes": {"a": 3}}', '{"recipes": {"a": {}}}',
     '{"task": "t", "headline": "h", "unit": "u", "recipes": {"a": {"runs": [{"points": 3}]}}}',
     '{"task": "t", "headline": "h", "unit": "u", "recipes": {"a": {"runs": []}}}',
     '{"task": "t", "recipes": {}, "claims": [{"method": 1}]}',
     '{"task": "t", "recipes": {}, "claims": 7}'],
)  # fmt: skip
def test_a_file_that_holds_no_results_is_a_users_mistake(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    assert main(["report", str(path)]) == 2
    said = capsys.readouterr().err.strip()
    assert str(path) in said
    assert len(said.splitlines()) == 1


def test_results_that_cannot_be_opened_are_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not be read"):
        read_results(tmp_path)


def test_endless_names_in_results_are_clipped(tmp_path: Path) -> None:
    long = "x" * 100_000
    whole = results({long: recipe([0.3, 0.4])}, claims=[CLAIM | {"says": long, "method": long}], model=long)
    path = comparison_page(json.loads(json.dumps(whole)), tmp_path / "page.html")
    assert not re.search("x{3000}", path.read_text())
