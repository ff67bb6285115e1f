"""Card 17: what the paper says CaOPD is, in numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arrays import arrays, log_softmax, slopes
from doors import run_of_recipe
from selfteach.errors import UserError
from selfteach.objective.calibration import calibration
from selfteach.recipes import with_knobs
from selfteach.recipes.kit import Prompt, Trajectory
from selfteach.recipes.r17_caopd import CaOPD
from selfteach.task.example import Example, Grade, Message
from selfteach.testing import evaluate


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (np.exp(p) * (p - q)).sum(-1)


def loss(given: dict[str, Any], alpha: float, skip: int, logits: np.ndarray | None = None) -> float:
    """Mean over rows that have more than ``skip`` tokens of the mean over those behind."""
    p = log_softmax(given["student_logits"] if logits is None else logits)
    q = log_softmax(given["teacher_logits"]["teacher"])
    mix = np.logaddexp(p + np.log(max(1 - alpha, 1e-300)), q + np.log(max(alpha, 1e-300)))
    gap = {0.0: kl(q, p), 1.0: kl(p, q)}.get(alpha, alpha * kl(q, mix) + (1 - alpha) * kl(p, mix))
    where = given["mask"] & (given["mask"].cumsum(1) > skip)
    count = where.sum(1)
    return float(((gap * where).sum(1)[count > 0] / count[count > 0]).mean())


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("skip", [0, 3])
def test_the_loss_is_the_mean_of_answers_means_behind_the_first_tokens(alpha: float, skip: int) -> None:
    given = arrays()
    out = evaluate("caopd", given, overrides={"alpha": alpha, "skip": skip})
    assert out["loss"] == pytest.approx(loss(given, alpha, skip), rel=1e-12)
    for place, slope in slopes(given["student_logits"], lambda moved: loss(given, alpha, skip, moved)):
        assert slope == pytest.approx(out["grad"][place], abs=1e-8)


def test_by_default_it_is_the_forward_kl_without_the_first_three_tokens() -> None:
    given = arrays()
    out = evaluate("caopd", given)
    assert out["loss"] == pytest.approx(loss(given, 0.0, 3), rel=1e-12)
    first = given["mask"].cumsum(1) <= 3
    assert not np.any(out["grad"][first])
    given["teacher_logits"] = {"teacher": given["student_logits"]}
    same = evaluate("caopd", given)
    assert same["loss"] == pytest.approx(0, abs=1e-14)
    assert np.abs(same["grad"]).max() < 1e-14


def test_how_well_the_stated_confidences_agree_is_reported_of_those_that_could_be_read() -> None:
    given = arrays()
    given["numbers"]["confidence"] = np.array([0.9, np.nan, 0.2, 0.8, 0.8, 0.9])
    found = evaluate("caopd", given)["metrics"]
    c, r = np.array([0.9, 0.2, 0.8, 0.8, 0.9]), np.array([1.0, 0, 1, 1, 0])
    assert found["confidence/brier"] == pytest.approx(((c - r) ** 2).mean())
    assert found["confidence/gap"] == pytest.approx((c - r).mean())
    assert found["confidence/ranked"] == pytest.approx(3 / 6), "an equal confidence is no ranking"
    assert found["confidence/ece"] == pytest.approx((abs(0.9 - 1 + 0.9 - 0) + 0.2 + 0.4) / 5)
    given["numbers"]["confidence"] = np.full(6, np.nan)
    assert evaluate("caopd", given)["metrics"] == {}


# --- calibration ---------------------------------------------------------------------------------------------------


def measured(confidence: Sequence[float], right: Sequence[int]) -> dict[str, float]:
    return calibration(torch.tensor(confidence, dtype=torch.float64), torch.tensor(right, dtype=torch.bool))


def test_who_is_right_as_often_as_he_says_has_no_calibration_error() -> None:
    assert measured([0.25] * 4 + [0.75] * 4, [1, 0, 0, 0, 1, 1, 1, 0])["ece"] == pytest.approx(0, abs=1e-15)
    assert measured([1.0, 0.0], [1, 0]) == {"ece": 0.0, "brier": 0.0, "gap": 0.0, "ranked": 1.0}


def test_single_precision_has_the_bins_of_double_precision() -> None:
    stated, right = [0.7, 0.75] * 2, [1, 0, 0, 1]  # one bin: mean 0.725, half of them right
    for dtype in (torch.float64, torch.float32):
        found = calibration(torch.tensor(stated, dtype=dtype), torch.tensor(right, dtype=torch.bool))
        assert found["ece"] == pytest.approx(0.225, abs=1e-6)
    stated, right = [0.7, 0.75], [1, 0]  # apart they would be off by 0.3 and 0.75
    for dtype in (torch.float64, torch.float32):
        found = calibration(torch.tensor(stated, dtype=dtype), torch.tensor(right, dtype=torch.bool))
        assert found["ece"] == pytest.approx(0.225, abs=1e-6)


def test_one_confidence_for_all_ranks_nothing() -> None:
    assert measured([0.5] * 4, [1, 0, 1, 0])["ranked"] == 0.0
    assert measured([0.9, 0.1], [1, 1])["ranked"] == 0.0
    assert measured([], []) == {}


@pytest.mark.parametrize(("c", "sign"), [(0.9, 1), (0.1, -1)])
def test_the_gap_is_above_0_for_who_claims_too_much(c: float, sign: int) -> None:
    assert np.sign(measured([c] * 4, [1, 0, 1, 0])["gap"]) == sign


def test_the_success_rate_is_the_confidence_of_the_least_brier_score() -> None:
    right = [1, 0, 0, 1, 1]
    best = min(np.linspace(0, 1, 101), key=lambda c: measured([float(c)] * 5, right)["brier"])
    assert best == pytest.approx(np.mean(right))


# --- what is written -----------------------------------------------------------------------------------------------


@pytest.fixture
def learner(tiny: str, tmp_path: Path) -> Any:
    recipe = with_knobs(CaOPD(), {"max_tokens": 60, "per_prompt": 4, "prompts": 2, "warmup": 0})
    return run_of_recipe(recipe, tiny, tmp_path)[1]


QUESTION = (Message(role="user", content="2+2?"),)


def answered(
    learner: Any, text: str, right: bool = False, group: int = 0, finished: bool = True
) -> Trajectory:
    renderer = learner.policy.renderer
    ids = renderer.completion_ids(text, None)[: None if finished else -1]
    example = Example(f"k{group}", QUESTION, {"solution": "it is 4\nConfidence: 1.00"})
    return Trajectory.written(
        example, renderer.prompt_ids(QUESTION), ids, renderer.text(ids), group=group, finished=finished,
        behavior=[-1.0] * len(ids), grade=Grade(float(right)),
    )  # fmt: skip


def rolled(learner: Any, rows: Sequence[Trajectory], **knobs: Any) -> list[Trajectory]:
    """What the recipe makes of these answers."""
    tools = learner.writing.tools(0)
    tools.sample = lambda prompts, n: list(rows)
    recipe = with_knobs(learner.recipe, knobs)
    prompts = [Prompt(rows[0].example, rows[0].prompt_ids, 0)]
    return list(recipe.rollout(tools, prompts, 0))


def test_every_answer_ends_with_the_share_of_right_ones_of_its_group(learner: Any) -> None:
    texts = ["4\nConfidence: 0.90", "4", "5 Confidence: 1.0\nConfidence: 0.2", "6\n\nConfidence: never"]
    rows = [answered(learner, text, right=text[0] == "4", finished=i != 1) for i, text in enumerate(texts)]
    rows.append(answered(learner, "1\nConfidence: 0.10", right=True, group=1))
    found = rolled(learner, rows)
    said = [
        f"{digit}\nConfidence: {rate}" for digit, rate in zip("44561", ["0.50"] * 4 + ["1.00"], strict=True)
    ]
    renderer = learner.policy.renderer
    for before, row, text in zip(rows, found, said, strict=True):
        assert row.text == text
        assert row.ids == renderer.completion_ids(text, None), (
            "one confidence, then the template's stop token"
        )
        assert row.finished
        assert row.grade == before.grade
        assert row.ids[0] == before.ids[0]
        assert row.behavior[0] == -1.0
        assert all(math.isnan(one) for one in row.behavior[1:])
    np.testing.assert_array_equal(
        [row.numbers["confidence"] for row in found], [0.9, math.nan, 1.0, math.nan, 0.1]
    )


def test_a_confidence_that_is_earned_already_leaves_the_answers_as_they_are(learner: Any) -> None:
    rows = [answered(learner, f"{d}\nConfidence: 0.50", right=d == "4") for d in "45"]
    edited, plain = rolled(learner, rows), rolled(learner, rows, rewrite="none")
    assert [row.ids for row in edited] == [row.ids for row in plain] == [row.ids for row in rows]


def test_an_answer_that_would_be_too_long_is_cut_before_its_confidence(learner: Any) -> None:
    (row,) = rolled(learner, [answered(learner, "4" * 59, finished=False)])
    assert len(row.ids) == 60
    assert row.text.endswith("44\nConfidence: 0.00")


def test_the_teacher_reads_a_demonstration_that_is_as_sure_as_the_student_may_be(learner: Any) -> None:
    rows = [answered(learner, f"{d}\nConfidence: 0.90", right=d == "4") for d in "4455"]
    shown = {}
    for rewrite in ("both", "completion", "context", "none"):
        found = rolled(learner, rows, rewrite=rewrite)
        view = with_knobs(learner.recipe, {"rewrite": rewrite}).teachers["teacher"].view
        shown[rewrite] = view(found[0], found, {})[-1]["content"]
        assert found[0].text == ("4\nConfidence: 0.50" if rewrite in ("both", "completion") else rows[0].text)
    assert shown["both"] == shown["context"]
    assert shown["none"] == shown["completion"]
    assert "it is 4\nConfidence: 0.50\n" in shown["both"]
    assert "share of 0.50 of" in shown["both"]
    assert "it is 4\nConfidence: 1.00\n" in shown["none"]
    assert "share of" not in shown["none"]


def test_a_sibling_is_another_right_answer_with_its_confidence_replaced(learner: Any) -> None:
    rows = [answered(learner, f"{d}\nConfidence: 0.90", right=d != "5") for d in "456"]
    found = rolled(learner, rows, demonstration="sibling")
    assert [row.example.private["sibling"] for row in found] == [
        f"{d}\nConfidence: 0.67" for d in ("6", "4", "4")
    ]
    view = with_knobs(learner.recipe, {"demonstration": "sibling"}).teachers["teacher"].view
    (alone,) = rolled(learner, rows[:1], demonstration="sibling")
    assert view(alone, [alone], {}) is None


def test_a_marker_and_decimals_of_ones_own(learner: Any) -> None:
    (row,) = rolled(learner, [answered(learner, "4 sure 0.7", right=True)], marker="sure", digits=1)
    assert row.text == "4\nsure 1.0"
    assert row.numbers["confidence"] == 0.7


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Confidence: 0.7", 0.7),
        ("Confidence:1", 1.0),
        ("Confidence: 1.5", None),
        ("Confidence: 10", None),
        ("Confidence: 0.95.", 0.95),
        ("Confidence: 0.95, I think", 0.95),
        ("Confidence: 1.", 1.0),
        ("Confidence: 1%", None),
        ("Confidence: 0.95 %", None),
        ("Confidence: 1 percent", None),
        ("Confidence: 1/10", None),
        ("Confidence: 1 / 2", None),
        ("Confidence: 1 out of 10", None),
        ("Confidence: 1 of 2", None),
        ("Confidence: 0,95", None),
        ("Confidence: 0.9.5", None),
        ("Confidence: 1e-3", None),
        ("7", None),
    ],
)
def test_a_confidence_is_read_if_it_lies_between_0_and_1(text: str, value: float | None) -> None:
    found = CaOPD().read(text)
    assert math.isnan(found) if value is None else found == value


def test_an_example_without_the_demonstration_is_refused(learner: Any) -> None:
    row = answered(learner, "4")
    bare = replace(row, example=replace(row.example, private={"answer": "4"}))
    with pytest.raises(UserError, match=r"k0 has no 'solution' to show; known: answer"):
        rolled(learner, [bare])


@pytest.mark.parametrize(
    ("knobs", "said"), [({"marker": " "}, "marker is empty"), ({"digits": 12}, "9 decimals")]
)
def test_what_cannot_be_is_refused(knobs: Mapping[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_knobs(CaOPD(), knobs)


def test_a_step_goes_through_the_real_path(tiny: str, tmp_path: Path) -> None:
    recipe = with_knobs(CaOPD(), {"max_tokens": 30, "per_prompt": 2, "prompts": 2, "warmup": 0})
    run, _ = run_of_recipe(recipe, tiny, tmp_path)
    run.step()
    assert all(row.text.endswith("\nConfidence: 0.00") for row in run.batch.rows)
    assert math.isfinite(run.progress.rows[-1]["loss"])
