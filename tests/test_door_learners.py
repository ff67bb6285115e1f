"""Learners without tokens, from outside the package, go through everything that text goes through."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import learners
from dying import dies
from learners import FLOW, Flow, Ridge
from saved import everything
from selfteach.errors import UserError
from selfteach.report import build_report, comparison_page
from selfteach.studies.runs import Planned, cells, condensed, curve, heads, labels
from selfteach.training.jsonrows import read_rows
from selfteach.training.running import run_learner
from selfteach.training.trainer import Settings

TABLE = {
    0.0: (0.16477, 0.15076, 0.14915, 0.15561, 0.16735, 0.18251),
    0.25: (0.16477, 0.15309, 0.14958, 0.14903, 0.14946, 0.15011),
    0.35: (0.16477, 0.15424, 0.15089, 0.14983, 0.14954, 0.14948),
}
"""Card 35: mean squared error to the sine on 101 points, distillation steps 1 to 6."""
LIMIT = {0.25: 0.15250, 0.35: 0.14959}
EACH = Settings(eval_every=1, checkpoint_every=2, device="cpu")
STEPS = 24


@pytest.mark.parametrize("kind", [Ridge, Flow])
def test_a_learner_is_sixty_lines(kind: type) -> None:
    assert len([line for line in inspect.getsource(kind).splitlines() if line.strip()]) <= 60


# --- a closed form ----------------------------------------------------------------------------------------------


def headlines(out: Path) -> list[float]:
    return [row["eval/headline"] for row in read_rows(out / "metrics.jsonl") if "eval/headline" in row]


@pytest.mark.parametrize("alpha", TABLE)
def test_self_distilled_regression_gives_the_papers_table_to_five_digits(
    tmp_path: Path, alpha: float
) -> None:
    run_learner(Ridge(alpha, 6), tmp_path / "run", EACH)
    assert [round(value, 5) for value in headlines(tmp_path / "run")[1:]] == list(TABLE[alpha])


@pytest.mark.parametrize("alpha", LIMIT)
def test_with_ground_truth_it_goes_to_the_papers_limit(tmp_path: Path, alpha: float) -> None:
    _, summary = run_learner(Ridge(alpha, 60), tmp_path / "run", Settings(device="cpu"))
    assert round(summary["headline"], 5) == LIMIT[alpha]


def test_a_closed_form_resumes_with_its_teacher(tmp_path: Path) -> None:
    class Stopped(Ridge):
        def collect(self, step: int) -> Tensor:
            if step == 5:
                raise KeyboardInterrupt
            return super().collect(step)

    Stopped.__name__ = "Ridge"
    with pytest.raises(KeyboardInterrupt):
        run_learner(Stopped(0.25, 6), tmp_path / "run", EACH)
    run_learner(Ridge(0.25, 6), tmp_path / "run", EACH, resume=True)
    assert [round(value, 5) for value in headlines(tmp_path / "run")[1:]] == list(TABLE[0.25])


# --- a flow and its critic --------------------------------------------------------------------------------------


def words(out: Path, *more: str) -> list[str]:
    return [str(Path(learners.__file__)), str(out), str(STEPS), *more]


def run_to_end(out: Path, *more: str) -> None:
    program = [sys.executable, *words(out, *more)]
    subprocess.run(program, env=ENVIRONMENT, check=True, capture_output=True)


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("flow") / "whole"
    run_to_end(out)
    return out


def test_the_critic_steps_at_every_third_step_and_the_flow_learns(flow: Path) -> None:
    rows = [row for row in read_rows(flow / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows if "critic/loss" in row] == list(range(3, STEPS + 1, 3))
    assert [row["step"] for row in rows if "grad_norm/critic" in row] == list(range(3, STEPS + 1, 3))
    assert headlines(flow)[-1] < headlines(flow)[0]
    assert rows[-1]["spent/points"] == 64 * STEPS


@pytest.mark.parametrize(
    "moment",
    [
        "checkpoints/step-3",
        *(
            pytest.param(moment, marks=pytest.mark.slow)
            for moment in ("metrics.jsonl", "checkpoints/.step-9.partial", "checkpoints/step-21")
        ),
    ],
)
def test_a_killed_run_goes_on_bit_for_bit(flow: Path, tmp_path: Path, moment: str) -> None:
    out = tmp_path / "killed"
    dies(words(out), moment, signal.SIGKILL, ENVIRONMENT)
    assert (out / moment).exists()
    assert not (out / "summary.json").exists()
    run_to_end(out, "--resume")
    (saved, rows, samples), (weights, metrics, shown) = everything(out, STEPS), everything(flow, STEPS)
    assert rows == metrics
    assert samples == shown
    assert saved.keys() == weights.keys()
    assert {place for place in saved if "running_mean" in place} == {"/weights/critic/1.running_mean"}
    for place, value in saved.items():
        assert torch.equal(value, weights[place]), place
    model = "model/velocity.safetensors"
    assert (out / model).read_bytes() == (flow / model).read_bytes()


def test_the_report_shows_its_curve_under_its_own_name_and_its_points(flow: Path, tmp_path: Path) -> None:
    html = build_report(flow, tmp_path / "report.html").read_text()
    for text in (
        "Distance from the ring",
        "points spent",
        "Terms of the loss",
        "Finished after 24 steps",
        "ring",
    ):
        assert text in html
    assert html.count('r="1.75"') >= 200
    assert "accuracy" not in html


# --- compared ---------------------------------------------------------------------------------------------------


def test_two_learners_are_compared_at_what_they_spent(flow: Path, tmp_path: Path) -> None:
    run_learner(Flow(STEPS, lr=1e-4), tmp_path / "slow", FLOW)
    runs = {"fast": [Planned("fast", 0, flow)], "slow": [Planned("slow", 0, tmp_path / "slow")]}
    curves = {label: [curve(run) for run in own] for label, own in runs.items()}
    recipes = {label: {"runs": own, **condensed(own)} for label, own in curves.items()}
    about = labels([run for own in runs.values() for run in own])
    assert about == {"headline": "distance from the ring", "unit": "points"}
    assert heads(about["unit"])[4] == "points spent"
    assert cells("fast", recipes["fast"])[3:5] == ["24", "1,536"]
    assert recipes["fast"]["headline"] < recipes["slow"]["headline"]
    facts = {"task": "a ring", "model": "", "equal": "steps", "seeds": 1, "command": "python learners.py"}
    page = comparison_page({**facts, "versions": {}, **about, "recipes": recipes}, tmp_path / "compare.html")
    text = page.read_text()
    assert "Distance from the ring by points spent" in text
    assert f"{recipes['slow']['headline']:.3f}" in text


def test_runs_that_follow_different_things_are_not_compared(flow: Path, tmp_path: Path) -> None:
    run_learner(Ridge(0.25, 2), tmp_path / "ridge", EACH)
    with pytest.raises(UserError, match="distance from the ring, MSE to the sine"):
        labels([Planned("flow", 0, flow), Planned("ridge", 0, tmp_path / "ridge")])


def test_a_run_that_goes_well_raises_no_alarm(flow: Path) -> None:
    rows = read_rows(flow / "metrics.jsonl")
    assert not [row for row in rows if "alarms" in row]
    assert json.loads((flow / "summary.json").read_text())["unit"] == "points"
