"""What a reader of the page sees first, why an answer was wrong, and that no run makes the page heavy or false."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from selfteach.report import build_report
from selfteach.report.curves import Chart, columns, leading_charts, main_charts, other_charts
from selfteach.report.learned import learned
from selfteach.report.plot import draw
from selfteach.report.reading import dotted, read_run, sample
from selfteach.report.smoothing import smoothed
from selfteach.report.text import clip, exact, number, size
from selfteach.task.outcome import WHY

CONFIG = {"recipe": {"name": "opsd"}, "run": {"task": "table", "seed": 3}}


def written(
    folder: Path, metrics: list[dict[str, Any]], samples: Sequence[dict[str, Any]] = (), **config: Any
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(tomli_w.dumps({**CONFIG, **config}))
    for name, rows in (("metrics", metrics), ("samples", samples)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def text_of(path: Path) -> str:
    """The page's words, without its style, scripts and tags."""
    bare = re.sub(r"<(style|script)\b.*?</\1>", "", path.read_text(encoding="utf-8"), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", bare)).split())


# --- did it learn


def evaluated(value: float, error: float | None, step: int = 0, problems: int | None = 64) -> dict[str, Any]:
    row = {"step": step, "eval/headline": value, "eval/headline_se": error, "eval/problems": problems}
    return {name: value for name, value in row.items() if value is not None}


@pytest.mark.parametrize(
    ("rows", "said", "mood"),
    [
        ([], "Nothing was evaluated, so nothing is known of held-out accuracy.", "plain"),
        ([evaluated(0.31, 0.02)], "Held-out accuracy was 0.310 ± 0.020 at step 0;", "plain"),
        ([evaluated(0.31, 0.02), evaluated(0.33, 0.02, 40)], "no more than chance explains", "plain"),
        ([evaluated(0.31, 0.02), evaluated(0.91, 0.01, 40)], "rose from 0.310 to 0.910 in 40 steps: more than", "good"),
        ([evaluated(0.91, 0.01), evaluated(0.31, 0.02, 40)], "fell from 0.910 to 0.310 in 40 steps: more than", "bad"),
        ([evaluated(0.31, None), evaluated(0.91, None, 40)], "how certain that is was not measured", "plain"),
        ([evaluated(0.31, 0.02), evaluated(0.91, math.inf, 40)], "how certain that is was not measured", "plain"),
        ([evaluated(0.31, 0.02), evaluated(math.inf, 0.02, 40)], "is not finite after 40 steps", "bad"),
    ],
)  # fmt: skip
def test_the_page_begins_with_whether_it_learned(
    tmp_path: Path, rows: list[dict[str, Any]], said: str, mood: str
) -> None:
    found = learned(read_run(written(tmp_path / "run", rows)))
    assert said in found.answer
    assert found.mood == mood


def test_the_change_has_the_interval_of_both_standard_errors(tmp_path: Path) -> None:
    rows = [evaluated(0.4, 0.03), evaluated(0.5, 0.04, 9)]
    assert (
        "(95 % interval of the change: +0.002 to +0.198)" in learned(read_run(written(tmp_path, rows))).answer
    )


def test_no_right_answer_of_few_is_not_certainty(tmp_path: Path) -> None:
    """0 of 8 and 8 of 8 have a standard error of 0 as it is measured; 0 to 2 of 8 may still be chance."""
    rows = [evaluated(0.0, 0.0, problems=8), evaluated(0.25, 0.164, 9, problems=8)]
    assert "no more than chance" in learned(read_run(written(tmp_path, rows))).answer
    rows = [evaluated(0.0, 0.0, problems=8), evaluated(1.0, 0.0, 9, problems=8)]
    assert (
        "more than chance explains (95 % interval of the change: +0.541 to +1)"
        in learned(read_run(written(tmp_path, rows))).answer
    )


def test_a_headline_to_be_lowered_is_better_when_it_falls(tmp_path: Path) -> None:
    rows = [evaluated(0.9, 0.01), evaluated(0.3, 0.01, 9)]
    run = written(tmp_path / "run", rows, run={"headline": "distance in meters", "better": "lower"})
    found = learned(read_run(run))
    assert found.answer.startswith("Distance in meters fell")
    assert found.mood == "good"


def test_what_casts_doubt_stands_at_the_top(tmp_path: Path) -> None:
    rows = [
        {"step": i, "loss": "NaN" if i == 7 else 1.0, "truncated": 0.5, "verdicts/right": 3, "verdicts/no answer": 1}
        for i in range(1, 12)
    ]  # fmt: skip
    shown = text_of(build_report(written(tmp_path / "run", rows)))
    top = shown[: shown.index("Curves")]
    assert "Values that are not finite: loss (1)." in top
    assert "50 % of the latest training answers met the length limit" in top
    assert "25 % of the latest training answers held no answer that could be read" in top


# --- which charts lead


def titles(row: dict[str, Any]) -> list[str]:
    found = columns([{"step": 0} | row, {"step": 1} | row])
    main, others = main_charts(found), other_charts(found)
    return [chart.title for chart in leading_charts(found, main, others)]


TEXT = {"loss": 1.0, "entropy/student": 0.5, "length/mean": 31.0, "reward/mean": 0.5, "spent/tokens": 9.0,
        "memory/peak_bytes": 5e8}  # fmt: skip
EVAL = {"eval/headline": 0.5, "eval/headline_se": 0.1}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (TEXT | EVAL | {"divergence/teacher": 0.3, "divergence/teacher/style": 0.9},
         ["Held-out accuracy", "Training reward", "Divergence from the teacher", "Response length"]),
        (TEXT | EVAL, ["Held-out accuracy", "Training reward", "Response length", "Entropy"]),
        (EVAL | {"loss": 1.0, "lr": 1e-3, "spent/fits": 3.0, "seconds/update": 1.0},
         ["Held-out accuracy", "Loss", "lr", "Spent"]),
        ({"divergence/a": 1.0, "divergence/b": 1.0}, ["Divergence from each teacher"]),
        ({}, []),
    ],
)  # fmt: skip
def test_four_charts_lead_with_what_is_looked_at_first(row: dict[str, Any], expected: list[str]) -> None:
    assert titles(row) == expected


def test_every_chart_is_on_the_page_once(tmp_path: Path) -> None:
    row = TEXT | EVAL | {"divergence/teacher": 0.3, "divergence/teacher/style": 0.9, "odd/one": 3.0}
    page = build_report(written(tmp_path / "run", [{"step": i} | row for i in range(3)])).read_text()
    found = re.findall(r"<h3>(.*?)</h3>", page)
    assert len(found) == len(set(found)) == 10
    assert page.index("Divergence from teacher, by token class") > page.index("<summary>5 more charts: Loss")


# --- smoothing


def test_a_curve_is_smoothed_by_the_mean_around_each_value() -> None:
    points = [(float(i), float(i % 2)) for i in range(40)]
    window, smooth = smoothed(points, 250)
    assert window == 5
    assert smooth[10] == (10, pytest.approx(0.4))
    assert smooth[11] == (11, pytest.approx(0.6))
    assert smooth[0] == (0, pytest.approx(1 / 3))
    assert smoothed(points[:29], 250) == (0, ())


def test_smoothing_leaves_out_what_is_not_finite_and_forgets_a_spike() -> None:
    points = [(float(i), 1.0) for i in range(100)]
    points[20], points[50] = (20.0, math.nan), (50.0, 1e20)
    _, smooth = smoothed(points, 250)
    assert dict(smooth)[20.0] == 1.0
    assert dict(smooth)[53.0] == 1.0
    assert dict(smooth)[50.0] > 1e19
    _, unknown = smoothed([(float(i), math.nan) for i in range(100)], 250)
    assert all(math.isnan(y) for _, y in unknown)


def chart_of(values: list[float], name: str = "loss") -> Chart:
    (made,) = main_charts(columns([{"step": i, name: value} for i, value in enumerate(values)]))
    return made


def test_the_values_themselves_stay_behind_the_smooth_line_and_under_the_pointer() -> None:
    made = chart_of([float(i % 2) for i in range(40)])
    assert "Thick: mean of the 5 values around each" in made.note
    drawing = draw(made)
    assert drawing.lines[0].path.count("L") == drawing.lines[0].smooth.count("L") == 39
    assert json.loads(drawing.hover)["values"][0][:4] == ["0", "1", "0", "1"]


def test_evaluations_are_not_smoothed() -> None:
    rows = [{"step": i, "eval/headline": 0.5, "eval/headline_se": 0.1} for i in range(60)]
    assert main_charts(columns(rows))[0].series[0].smooth == ()


# --- why an answer was wrong


def answer(phase: str, step: int, **values: Any) -> dict[str, Any]:
    return {
        "step": step,
        "phase": phase,
        "key": "a",
        "problem": "1+1?",
        "reference": "2",
        "finished": True,
    } | values


def test_beside_an_answer_stand_what_was_read_the_reference_and_the_reason(tmp_path: Path) -> None:
    samples = [
        answer("before", 0, answer="so 3", reward=0.0, outcome="wrong", claim="3", feedback="Count again."),
        answer("after", 9, answer="so", reward=0.0, outcome="no answer"),
        answer("train", 5, answer="so {", reward=0.0, outcome="unparseable", claim="{", feedback="Oh."),
    ]
    page = build_report(written(tmp_path / "run", [], samples))
    shown = text_of(page)
    assert "reference: 2" in shown
    assert f"✗ wrong read out: 3 · {WHY['wrong']} Count again. so 3" in shown
    assert f"✗ no answer read out: nothing · {WHY['no answer']} so" in shown
    data = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page.read_text(), re.S)
    assert data is not None
    packed = json.loads(data[1])
    (one,) = packed["rollouts"]
    told = {name: packed["texts"][one[name]] for name in ("why", "claim", "reference", "feedback")}
    assert told == {"why": WHY["unparseable"], "claim": "{", "reference": "2", "feedback": "Oh."}
    assert one["outcome"] == "unparseable"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"reward": 1.0}, "right"),
        ({"reward": 1.0, "finished": False}, "right"),
        ({"reward": 0.0}, "wrong"),
        ({"reward": 0.0, "finished": False}, "cut off"),
        ({}, "ungraded"),
        ({"reward": "NaN"}, "wrong"),
        ({"reward": 0.0, "outcome": "no answer"}, "no answer"),
        ({"reward": 0.0, "outcome": ["nonsense"]}, "wrong"),
        ({"reward": 0.0, "outcome": "nonsense", "claim": 3}, "wrong"),
    ],
)
def test_a_row_without_an_outcome_has_that_of_its_reward(row: dict[str, Any], expected: str) -> None:
    found = sample({"step": 1} | row)
    assert found.outcome == expected
    assert found.claim is None


def test_pairs_can_be_chosen_by_their_outcomes(tmp_path: Path) -> None:
    samples = [
        answer(
            phase, step, key=f"k{i}", answer="x", reward=float(good), outcome="right" if good else "cut off"
        )
        for i in range(3)
        for phase, step, good in (("before", 0, False), ("after", 9, i > 0))
    ]
    page = build_report(written(tmp_path / "run", [], samples)).read_text()
    assert re.findall(r'data-before="(.*?)" data-after="(.*?)"', page) == [
        ("cut off", "right"), ("cut off", "right"), ("cut off", "cut off")
    ]  # fmt: skip
    assert '<option value="right">right (2)</option>' in page
    assert '<option value="cut off">cut off (3)</option>' in page


# --- sizes, digits, names


def test_bytes_are_shown_as_megabytes_or_gigabytes(tmp_path: Path) -> None:
    assert [size(x) for x in (5.7e8, 2.34e10, 900)] == ["570 MB", "23.4 GB", "900 bytes"]
    (made,) = main_charts(columns([{"step": 1, "memory/peak_bytes": 572_182_528}]))
    assert (made.unit, made.series[0].label, number(made.series[0].points[0][1])) == (
        "peak, MB",
        "peak",
        "572",
    )
    (other,) = other_charts(columns([{"step": 1, "cache/held_bytes": 3.2e9}]))
    assert (other.unit, other.series[0].points) == ("GB", ((1, 3.2),))
    run = written(tmp_path / "run", [{"step": 1, "loss": 0.1}])
    (run / "summary.json").write_text(json.dumps({"memory/peak_bytes": 572182528, "headline": 0.36328125}))
    page = build_report(run).read_text()
    assert '<span title="572182528">572 MB</span>' in page
    assert '<span title="0.36328125">0.363</span>' in page


LONG = "x" * 100_000


def test_names_of_any_length_are_clipped_with_the_whole_within_reach(tmp_path: Path) -> None:
    assert clip("table:1+2") == "table:1+2"
    assert clip("y" * 200) == f'<span class="clip" title="{"y" * 200}">{"y" * 80}…</span>'
    samples = [
        answer(phase, step, key=LONG, problem=LONG, reference=LONG, claim=LONG, feedback=LONG, outcome="wrong",
               answer=LONG, reward=0.0, teacher_prompts={LONG: LONG})
        for phase, step in (("before", 0), ("after", 9), ("train", 5))
    ]  # fmt: skip
    metrics = [
        {"step": 1, LONG: 1.0, "alarms": [{"name": LONG, "since": LONG, "seen": LONG, "advice": LONG}]}
    ]
    texts = {"title": LONG, "source": LONG, "formula": LONG}
    run = written(
        tmp_path / "run", metrics, samples, about=texts, recipe={"name": LONG, LONG[:300]: LONG}, paper={"a": LONG},
        run={"task": LONG, "seed": LONG, "headline": LONG, "unit": LONG}, loading={"model": LONG},
    )  # fmt: skip
    (run / "summary.json").write_text(json.dumps({LONG: LONG, "reason": LONG}))
    page = build_report(run)
    assert page.stat().st_size < 2_000_000
    assert not re.search("x{21000}", page.read_text())
    assert build_report([run, run], tmp_path / "both.html").stat().st_size < 4_000_000


# --- holes


DEEP: dict[str, Any] = {}
for _ in range(900):
    DEEP = {"a": DEEP}


def test_what_is_nested_deeply_is_a_word_not_an_error(tmp_path: Path) -> None:
    flat = dotted({"b": 1, "c": {"d": 2, "e": {}}, **DEEP})
    assert [*flat][:2] == ["b", "c.d"]
    assert [*flat.values()][-1] == "(nested too deeply to be shown)"
    run = written(tmp_path / "run", [{"step": 1, "loss": DEEP}], [{"step": 1, "kind": "odd", **DEEP}])
    (run / "summary.json").write_text(json.dumps(DEEP))
    (run / "config.toml").write_text("[recipe]\nname = 'opsd'\n[" + ".".join("a" * 1000) + "]\nb = 1\n")
    shown = text_of(build_report(run))
    assert "nested too deeply" in shown or "config.toml could not be read" in shown


@pytest.mark.parametrize("value", ["1e400", "-1e400", "0x" + "f" * 5000, "[" * 100 + "]" * 100, "nan"])
def test_numbers_beyond_all_bounds_stand_in_the_settings(tmp_path: Path, value: str) -> None:
    run = written(tmp_path / "run", [])
    (run / "config.toml").write_text(
        f"[recipe]\nname = 'opsd'\nlr = {value}\n[paper]\nlr = 1.0\n[run]\nseed = {value}\n"
    )
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 1e400, "lr": -1e400, "x": 1' + "0" * 4000 + "}\n")
    shown = text_of(build_report(run))
    assert "settings differ" in shown or "config.toml could not be read" in shown
    assert exact(16**5000) == "(cannot be written out)"


HOLES: list[Any] = [None, "NaN", "Infinity", "-Infinity", "high", [], {}, True, 1e300, -1e308, 0, 1.5]


@pytest.mark.parametrize("count", [0, 1, 2, 33])
@pytest.mark.parametrize("hole", HOLES)
def test_any_hole_in_any_metric_is_drawn_around(tmp_path: Path, count: int, hole: Any) -> None:
    names = [*TEXT, *EVAL, "divergence/teacher", "divergence/teacher/style", "eval/problems", "truncated",
             "verdicts/right", "odd"]  # fmt: skip
    rows: list[dict[str, Any]] = [{"step": i} | {n: hole if (i + k) % 2 else 0.5 for k, n in enumerate(names)}
            for i in range(count)]  # fmt: skip
    page = build_report(written(tmp_path / "run", rows)).read_text()
    assert not re.search(r'(?:d|x1|cx)="[^"]*(?:nan|inf)', page)


def test_many_rows_full_of_holes_stay_light(tmp_path: Path) -> None:
    names = [f"divergence/teacher/{i}" for i in range(8)] + [f"entropy/{i}" for i in range(8)] + [*TEXT]
    rows = [
        {"step": i} | {name: "NaN" if (i + k) % 3 == 0 else i % 7 for k, name in enumerate(names)}
        for i in range(8_000)
    ]
    page = build_report(written(tmp_path / "run", rows))
    assert page.stat().st_size < 1_000_000
    assert "2,667 of the values" in text_of(page)


def test_many_names_of_metrics_make_a_bounded_page(tmp_path: Path) -> None:
    rows = [{"step": i} | {f"m{k}/x": 1.0 for k in range(3000)} for i in range(2)]
    page = build_report(written(tmp_path / "run", rows))
    assert page.stat().st_size < 500_000
    assert "2940 more metrics" in text_of(page)


# --- for readers who do not see it


def test_every_chart_says_in_words_what_it_shows() -> None:
    drawing = draw(chart_of([3.0, 1.0, 5.0, 2.0]))
    assert drawing.said == "loss: 3 at first, 2 at last, between 1 and 5."


def test_tables_have_headers_and_charts_have_titles(tmp_path: Path) -> None:
    row = TEXT | EVAL | {"divergence/teacher": 0.3, "odd": 1.0}
    page = build_report(written(tmp_path / "run", [{"step": i} | row for i in range(3)])).read_text()
    tables = re.findall(r"<table>.*?</table>", page, re.S)
    assert tables
    assert all('<th scope="col">' in table for table in tables)
    drawings = re.findall(r"<svg .*?</svg>", page, re.S)
    assert len(drawings) == 9
    assert all(re.search(r"<title>\S.*?</title>\s*<desc>\S.*?</desc>", one) for one in drawings)
