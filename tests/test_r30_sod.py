"""Card 30: what the paper and its code say SOD is, in numbers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arrays import VOCABULARY, arrays, log_softmax
from doors import run_of_recipe
from guessing import GuessingTask
from selfteach.recipes.kit import Optimization, Rollouts
from selfteach.recipes.r30_sod import EPSILON, SOD
from selfteach.testing import evaluate
from test_turn_contexts import FORGETFUL
from tiny import CHATML, tiny_model_folder

TURN = np.array([[0, 0, 1, 1, 1, 2, 2, 3, 3]] * 6)
ALONE = {"reward_weight": 0.0}
"""Nothing but the teacher's part."""


def given_gaps(gaps: list[float], *, holes: bool = True) -> dict[str, Any]:
    """Rows whose tokens of turn k lie gaps[k] nats above the teacher's, sampled by the student itself; each turn's last
    token but the first turn's is an environment's."""
    given = arrays()
    own = np.take_along_axis(log_softmax(given["student_logits"]), given["ids"][..., None], -1)[..., 0]
    mask = np.ones_like(given["mask"])
    if holes:
        mask[:, [4, 6, 8]] = False
    return {
        **{name: value for name, value in given.items() if name != "teacher_logits"},
        "mask": mask,
        "turn": TURN,
        "behavior": own,
        "teacher_log_probs": {"teacher": own - np.array(gaps)[TURN]},
    }


def weights(given: dict[str, Any], **knobs: Any) -> np.ndarray:
    """[N, T] w of each token that the policy wrote, read from the losses: −(−w gap) at ratio 1."""
    own, theirs = given["behavior"], given["teacher_log_probs"]["teacher"]
    return evaluate("sod", given, overrides={**ALONE, **knobs})["token"]["loss/policy"] / (own - theirs)


def test_the_product_of_the_gaps_ratios_telescopes() -> None:
    gaps = [0.4, 0.7, 0.2, 0.9]
    product, expected = 1.0, [1.0]
    for before, after in pairwise(gaps):
        product *= (before + EPSILON) / (after + EPSILON)
        expected.append(min(product, 1.2))
    assert expected[2] == 1.2  # the cap holds here, and the product behind it knows nothing of it
    given = given_gaps(gaps)
    found = weights(given)
    np.testing.assert_allclose(found[given["mask"]], np.array(expected)[TURN][given["mask"]], rtol=1e-9)
    uncapped = weights(given, max_weight=None)
    closed = np.array([(gaps[0] + EPSILON) / (gap + EPSILON) for gap in gaps])
    np.testing.assert_allclose(uncapped[given["mask"]], closed[TURN][given["mask"]], rtol=1e-9)


def test_a_gap_is_the_mean_of_absolute_log_ratios_over_the_turns_own_tokens() -> None:
    given = given_gaps([1.0] * 4)
    rng = np.random.default_rng(2)
    ratio = rng.normal(size=TURN.shape)
    given["teacher_log_probs"] = {"teacher": given["behavior"] - ratio}
    found = weights(given, max_weight=None)
    for i in range(6):
        own = [np.abs(ratio[i])[(TURN[i] == k) & given["mask"][i]].mean() for k in range(4)]
        expected = (own[0] + EPSILON) / (np.array(own) + EPSILON)
        here = given["mask"][i]
        np.testing.assert_allclose(found[i][here], expected[TURN[i]][here], rtol=1e-8)


def test_equal_gaps_weigh_nothing() -> None:
    given = given_gaps([0.3] * 4)
    np.testing.assert_allclose(weights(given)[given["mask"]], 1, rtol=1e-9)
    one, other = (evaluate("sod", given, overrides={"step_weight": w}) for w in ("gap", "uniform"))
    np.testing.assert_allclose(one["grad"], other["grad"], atol=1e-12)


def test_the_papers_second_case() -> None:
    given = given_gaps([0.218, 0.6, 0.9, 1.284])
    assert weights(given)[0, 7] == pytest.approx(0.17, abs=5e-4)


def test_one_turn_without_a_cap_is_plain_distillation() -> None:
    given = given_gaps([0.4, 0.7, 0.2, 0.9], holes=False) | {"turn": np.zeros_like(TURN)}
    one = evaluate("sod", given, overrides={**ALONE, "max_weight": None})
    plain = evaluate("sod", given, overrides={**ALONE, "step_weight": "uniform"})
    gap = given["teacher_log_probs"]["teacher"] - given["behavior"]
    score = np.eye(VOCABULARY)[given["ids"]] - np.exp(log_softmax(given["student_logits"]))
    for out in (one, plain):
        np.testing.assert_allclose(out["grad"], -gap[..., None] * score / gap.size, atol=1e-12)


def test_what_an_environment_says_has_no_weight() -> None:
    given = given_gaps([0.4, 0.7, 0.2, 0.9])
    out = evaluate("sod", given)
    assert (out["grad"][~given["mask"]] == 0).all()
    moved = given["teacher_log_probs"]["teacher"].copy()
    moved[~given["mask"]] -= 5.0
    again = evaluate("sod", {**given, "teacher_log_probs": {"teacher": moved}})
    np.testing.assert_array_equal(out["grad"], again["grad"])


def test_a_coefficient_of_nothing_is_grpo_and_asks_no_teacher() -> None:
    given = {name: value for name, value in arrays().items() if name != "teacher_logits"}
    one = evaluate("sod", given, overrides={"opd_weight": 0.0})
    same = {"kl": 0.0, "clip_high": 0.28, "mean_over": "tokens"}
    other = evaluate("grpo", given, overrides=same)
    assert one["loss"] == other["loss"]
    np.testing.assert_array_equal(one["grad"], other["grad"])


def test_the_advantages_of_reward_and_teacher_add_up() -> None:
    given = given_gaps([0.4, 0.7, 0.2, 0.9])
    both, alone, grpo = (
        evaluate("sod", given, overrides=knobs) for knobs in ({}, ALONE, {"opd_weight": 0.0})
    )
    np.testing.assert_allclose(both["grad"], alone["grad"] + grpo["grad"], atol=1e-12)
    equal = evaluate("sod", {**given, "reward": np.ones(6)})
    np.testing.assert_allclose(equal["grad"], alone["grad"], atol=1e-12)


def test_the_papers_loss_has_the_codes_gradient_at_ratio_one_and_no_other() -> None:
    given = given_gaps([0.4, 0.7, 0.2, 0.9])
    one, other = (evaluate("sod", given, overrides={"form": form}) for form in ("advantage", "loss"))
    np.testing.assert_allclose(one["grad"], other["grad"], atol=1e-12)
    stale = {**given, "behavior": given["behavior"] - 0.5}  # ratio 1.65: clipped within the advantage's form
    one, other = (evaluate("sod", stale, overrides={"form": form}) for form in ("advantage", "loss"))
    assert np.abs(one["grad"] - other["grad"]).max() > 1e-4


def test_turns_that_are_rows_of_their_own_are_weighed_by_the_episodes_first_turn() -> None:
    """Three rows of three turns each, and the same tokens with each turn a row of its own."""
    given = given_gaps([0.4, 0.7, 0.2, 0.9])
    whole = weights(given)[:2]
    rows, turns = [0, 0, 0, 0, 1, 1, 1, 1], [2, 0, 1, 3, 0, 1, 2, 3]  # the order of rows says nothing
    apart = {
        name: value[rows] if isinstance(value, np.ndarray) and len(value) == 6 else value
        for name, value in given.items()
        if name not in ("pair", "teacher_log_probs", "marks", "numbers", "teacher_hidden")
    }
    own = TURN[rows] == np.array(turns)[:, None]
    apart["mask"] = given["mask"][rows] & own
    apart["teacher_log_probs"] = {"teacher": given["teacher_log_probs"]["teacher"][rows]}
    found = weights(apart | {"trajectory": np.array(rows)})
    np.testing.assert_allclose(found[apart["mask"]], whole[rows][apart["mask"]], rtol=1e-9)


def test_rows_that_the_teacher_cannot_read_are_not_trained_on() -> None:
    given = given_gaps([0.4, 0.7, 0.2, 0.9])
    out = evaluate("sod", {**given, "available": {"teacher": np.arange(6) != 2}})
    assert (out["grad"][2] == 0).all()
    assert (out["grad"][[0, 1, 3, 4, 5]] != 0).any()


@pytest.mark.parametrize("template", [CHATML, FORGETFUL], ids=["extends", "forgets"])
def test_episodes_of_a_real_model_are_weighed_turn_by_turn(template: str, tmp_path: Path) -> None:
    model = str(tiny_model_folder(tmp_path / "model", template=template))
    teacher = str(tiny_model_folder(tmp_path / "teacher", template=template, seed=1))
    recipe = SOD(
        rollouts=Rollouts(max_tokens=4, per_prompt=3, max_turns=3),
        optimization=Optimization(prompts=2),
        teacher=teacher,
        max_weight=None,
    )
    learner = run_of_recipe(recipe, model, tmp_path / "run", task=GuessingTask())[1]
    batch = learner.collect(0)
    stats = batch.statistics()
    found = recipe.weights(stats)
    gap = (stats.old_log_prob() - stats.log_prob("teacher")).abs()
    number, turn = batch.columns.trajectory, stats.turn
    assert number is not None
    assert (len(number) > len(number.unique())) == (template == FORGETFUL)
    later = 0
    for i, t in stats.mask.nonzero().tolist():
        same = (number == number[i]).unsqueeze(1) & stats.mask
        d = gap[same & (turn == turn[i, t])].mean()
        first = gap[same & (turn == 0)].mean()
        torch.testing.assert_close(found[i, t], (first + EPSILON) / (d + EPSILON), rtol=1e-6, atol=0)
        later += int(turn[i, t] > 0)
    assert later > 0
    assert (found[~stats.mask] == 0).all()
