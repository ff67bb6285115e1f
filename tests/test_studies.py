"""A suite: claims become runs, runs become verdicts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from selfteach.cli import suite as suites
from selfteach.cli.runs import Planned
from selfteach.cli.suite import (
    Answer,
    Plan,
    Suite,
    depth_of,
    forget_orphans,
    forget_outdated,
    label_of,
    margin,
    measured,
    planned_variant,
    run_suite,
)
from selfteach.cli.train import configured
from selfteach.errors import UserError
from selfteach.recipes import RECIPES
from selfteach.recipes.claim import Claim
from selfteach.recipes.r02_pw_opsd import PWOPSD
from selfteach.train.launch import table_of
from selfteach.train.rundir import RunFolder

PLAIN = Claim(says="a beats b", variants={"a": "sft --steps 2", "b": "sft --steps 1"}, higher="a", lower="b")


def suite(out: Path, **changes: object) -> Suite:
    settings = {"name": "first", "seeds": 2, "jobs": 2, "out": out, "world": "table", "tokens": 100}
    return Suite(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("higher", "lower", "verdict"),
    [
        ([0.9, 0.91, 0.89], [0.1, 0.12, 0.11], "reproduced"),
        ([0.1, 0.12, 0.11], [0.9, 0.91, 0.89], "refuted"),
        ([0.5, 0.6, 0.4], [0.45, 0.5, 0.55], "not seen"),
        ([0.9], [0.1], "not seen"),
    ],
)
def test_a_verdict_needs_a_difference_beyond_the_spread_over_seeds(
    higher: list[float], lower: list[float], verdict: str
) -> None:
    assert Answer("m", PLAIN, higher, lower).verdict == verdict


@pytest.mark.parametrize(
    ("higher", "verdict"),
    [([0.50, 0.51, 0.49], "reproduced"), ([0.9, 0.91, 0.89], "refuted"), ([0.5, 0.7, 0.3], "not seen")],
)
def test_equality_is_reproduced_only_where_the_whole_interval_is_within(
    higher: list[float], verdict: str
) -> None:
    claim = Claim(says="alike", variants=PLAIN.variants, higher="a", lower="b", within=0.1)
    assert Answer("m", claim, higher, [0.5, 0.5, 0.5]).verdict == verdict


def test_the_margin_is_students_t_times_the_standard_error() -> None:
    assert margin([1.0, 2.0, 3.0]) == pytest.approx(2.92 / math.sqrt(3))
    assert margin([1.0]) == math.inf


def test_an_arm_that_builds_on_another_waits_for_it_and_gets_its_folder(tmp_path: Path) -> None:
    claim = Claim(
        says="x",
        variants={"teacher": "opsd", "student": "exopd --teacher {variant teacher}/model"},
        higher="student",
        lower="teacher",
    )
    assert (depth_of(claim, "teacher"), depth_of(claim, "student")) == (0, 1)
    run = planned_variant(suite(tmp_path), claim.variants["student"], claim)[1]
    assert f"{tmp_path}/{label_of('opsd')}-1/model" in run.words


def test_an_arms_own_evaluation_settings_stand(tmp_path: Path) -> None:
    run = planned_variant(suite(tmp_path), "sft --eval-problems 8", PLAIN)[0]
    assert run.words.count("--eval-problems") == 1
    assert "--eval-samples" in run.words


@pytest.mark.parametrize(
    ("metric", "value"),
    [("eval/headline", 0.4), ("first eval/headline", 0.2), ("mean loss", 2.0), ("max loss", 3.0)],
)
def test_a_metric_is_read_from_the_rows_that_have_it(tmp_path: Path, metric: str, value: float) -> None:
    rows = [
        {"step": 0, "eval/headline": 0.2},
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": 1.0},
        {"step": 2, "eval/headline": 0.4},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    claim = Claim(says="x", variants=PLAIN.variants, higher="a", lower="b", metric=metric)
    assert measured(claim, Planned("a", 0, tmp_path)) == value


def test_a_metric_that_no_run_wrote_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    claim = Claim(says="x", variants=PLAIN.variants, higher="a", lower="b", metric="eval/acuracy")
    with pytest.raises(UserError, match="eval/acuracy"):
        measured(claim, Planned("a", 0, tmp_path))


def test_a_run_whose_settings_have_changed_is_made_anew(tmp_path: Path) -> None:
    runs = planned_variant(suite(tmp_path, seeds=2), "sft --steps 2", PLAIN)
    for run in runs:
        config, _ = configured(run.words[1:])
        with RunFolder.create(run.folder) as folder:
            folder.write_config(table_of(config))
    text = (runs[1].folder / "config.toml").read_text()
    (runs[1].folder / "config.toml").write_text(text.replace("steps = 2", "steps = 3"))
    forget_outdated(runs)
    assert [run.folder.exists() for run in runs] == [True, False]


def test_a_run_whose_teacher_is_to_be_made_anew_is_so_too(tmp_path: Path) -> None:
    variants = {"teacher": "opsd", "student": "exopd --teacher {variant teacher}/model"}
    claim = Claim(says="x", variants=variants, higher="student", lower="teacher")
    runs = {words: planned_variant(suite(tmp_path), words, claim) for words in variants.values()}
    for run in (*runs["opsd"][:1], *runs[variants["student"]]):
        run.folder.mkdir()
        (run.folder / "summary.json").write_text("{}")
    forget_orphans(Plan([("m", claim)], runs, {}))
    assert [run.folder.exists() for run in runs[variants["student"]]] == [True, False]


def test_an_unknown_ring_or_method_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="first"):
        _ = suite(tmp_path, name="firts").names
    with pytest.raises(UserError, match="sdpo"):
        _ = suite(tmp_path, only=("sdop",)).names


def test_every_method_of_the_ring_makes_a_claim_whose_arms_name_recipes() -> None:
    first = {name: kind for name, kind in RECIPES.items() if kind.suite == "first"}
    assert len(first) == 12
    for name, kind in first.items():
        assert kind.claims, name
        for claim in kind.claims:
            for words in claim.variants.values():
                assert words.split()[0] in RECIPES, words


@pytest.mark.slow
def test_a_suite_runs_its_arms_and_writes_claims_table_and_plot_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = "--task table --prompts 2 --max-tokens 16 --eval-problems 4"
    claim = Claim(
        says="longer is better",
        variants={"long": f"sft {short} --steps 2", "short": f"sft {short} --steps 1"},
        higher="long",
        lower="short",
    )
    monkeypatch.setattr(PWOPSD, "claims", (claim,))
    monkeypatch.setattr(suites, "BASELINES", ())
    small = suite(tmp_path / "runs", only=("pw-opsd",))
    run_suite(small, tmp_path / "results")
    written = (tmp_path / "results" / "methods.md").read_text()
    assert "longer is better" in written
    assert any(verdict in written for verdict in ("*reproduced*", "*not seen*", "*refuted*"))
    assert (tmp_path / "results" / "methods.html").exists()
    capsys.readouterr()
    run_suite(small, tmp_path / "results")
    assert "starting" not in capsys.readouterr().out
