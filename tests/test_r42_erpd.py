"""Card 42: what is known of ERPD, in numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arrays import VOCABULARY, arrays, log_softmax, slopes
from doors import run_of_recipe
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.kit import Recipe, Snapshot
from selfteach.testing import evaluate

EPS = 1e-4


def taken(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.take_along_axis(log_softmax(logits), ids[..., None], -1)[..., 0]


def near(seed: int = 0) -> dict[str, Any]:
    """A batch whose ratios lie on both sides of the clip."""
    given, rng = arrays(seed), np.random.default_rng(seed + 1)
    own = taken(given["student_logits"], given["ids"])
    given["behavior"] = own + 0.3 * rng.normal(size=own.shape)
    return given


def delta(given: dict[str, Any]) -> np.ndarray:
    return taken(given["teacher_logits"]["teacher"], given["ids"]) - given["behavior"]


def token_mean(column: np.ndarray, mask: np.ndarray) -> float:
    return float((column * mask).sum() / mask.sum())


def loss(
    given: dict[str, Any], sign: float = 1.0, logits: np.ndarray | None = None, clip: float = 0.2
) -> float:
    own = taken(given["student_logits"] if logits is None else logits, given["ids"])
    r, d = np.exp(own - given["behavior"]), sign * delta(given)
    return token_mean(-np.minimum(r * d, r.clip(1 - clip, 1 + clip) * d), given["mask"])


def advantage(given: dict[str, Any]) -> np.ndarray:
    found = np.zeros(len(given["reward"]))
    for group in set(given["group"]):
        rows = given["group"] == group
        r = given["reward"][rows]
        found[rows] = (r - r.mean()) / (r.std(ddof=1) + EPS)
    return found


def stage(name: str, **knobs: Any) -> Recipe:
    return with_knobs(recipe_named("erpd"), {"rounds": 1, **knobs}).stages[name]


# --- the distillation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("extreme", "sign"), [("learned", 1.0), ("unlearned", -1.0)])
def test_the_loss_is_the_clipped_surrogate_of_the_copys_log_ratio(extreme: str, sign: float) -> None:
    given = near()
    out = evaluate("erpd", given, overrides={"extreme": extreme})
    assert out["loss"] == pytest.approx(loss(given, sign), rel=1e-12)
    for place, slope in slopes(given["student_logits"], lambda moved: loss(given, sign, moved)):
        assert slope == pytest.approx(out["grad"][place], abs=1e-8)


def test_a_copy_that_did_not_move_teaches_nothing() -> None:
    given = near()
    scores = {"teacher": given["behavior"]}
    del given["teacher_logits"]
    out = evaluate("erpd", {**given, "teacher_log_probs": scores})
    assert out["loss"] == 0
    assert not out["grad"].any()


def test_the_first_steps_gradient_is_that_of_delta_times_log_prob() -> None:
    given = arrays()
    given["behavior"] = taken(given["student_logits"], given["ids"])
    score = np.eye(VOCABULARY)[given["ids"]] - np.exp(log_softmax(given["student_logits"]))
    weight = given["mask"] / given["mask"].sum()
    expected = -(weight * delta(given))[..., None] * score
    np.testing.assert_allclose(evaluate("erpd", given)["grad"], expected, atol=1e-13)


def test_a_clip_of_next_to_nothing_holds_every_token_that_has_moved_the_way_it_was_told() -> None:
    given = near()
    out = evaluate("erpd", given, overrides={"clip_low": 1e-9, "clip_high": 1e-9})["grad"]
    moved = (taken(given["student_logits"], given["ids"]) - given["behavior"]) * delta(given) > 0
    assert (moved & given["mask"]).any()
    assert not out[moved].any()
    assert np.abs(out[~moved & given["mask"]]).max() > 0


def test_kl_adds_the_whole_vocabularys_divergence_from_the_base() -> None:
    given = near()
    rng = np.random.default_rng(5)
    base = rng.normal(size=given["student_logits"].shape)
    both = {**given, "teacher_logits": {**given["teacher_logits"], "reference": base}}
    p, q = log_softmax(given["student_logits"]), log_softmax(base)
    kl = token_mean((np.exp(p) * (p - q)).sum(-1), given["mask"])
    out = evaluate("erpd", both, overrides={"kl": 0.3})
    assert out["loss"] == pytest.approx(loss(given) + 0.3 * kl, rel=1e-12)


# --- what drives the copy off ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("extreme", "sign"), [("learned", 1.0), ("unlearned", -1.0)])
def test_the_policy_gradient_has_an_unbounded_ratio(extreme: str, sign: float) -> None:
    given = near()
    own = taken(given["student_logits"], given["ids"])
    expected = token_mean(-sign * np.exp(own - given["behavior"]) * advantage(given)[:, None], given["mask"])
    out = evaluate(stage("extreme-1", extreme=extreme), given)
    assert out["loss"] == pytest.approx(expected, rel=1e-12)


def test_or_a_bounded_one() -> None:
    given = near()
    r = np.exp(taken(given["student_logits"], given["ids"]) - given["behavior"])
    a = advantage(given)[:, None]
    expected = token_mean(-np.minimum(r * a, r.clip(0.9, 1.1) * a), given["mask"])
    assert evaluate(stage("extreme-1", extreme_clip=0.1), given)["loss"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("extreme", "sign"), [("learned", 1.0), ("unlearned", -1.0)])
def test_the_regression_fits_the_mean_log_ratio_to_the_advantage(extreme: str, sign: float) -> None:
    given, beta = near(), 0.7
    one = stage("extreme-1", extreme_loss="mse", extreme_beta=beta, extreme=extreme)

    def squares(logits: np.ndarray) -> float:
        gained = (taken(logits, given["ids"]) - given["behavior"]) * given["mask"]
        mean = gained.sum(1) / given["mask"].sum(1)
        return float(((beta * mean - sign * advantage(given)) ** 2).mean())

    out = evaluate(one, given)
    assert out["loss"] == pytest.approx(squares(given["student_logits"]), rel=1e-12)
    for place, slope in slopes(given["student_logits"], squares):
        assert slope == pytest.approx(out["grad"][place], abs=1e-8)


def test_an_answer_without_a_token_is_none_of_the_regressions() -> None:
    given = near()
    given["mask"] = given["mask"].copy()
    given["mask"][1] = False
    out = evaluate(stage("extreme-1", extreme_loss="mse"), given)
    mean = ((taken(given["student_logits"], given["ids"]) - given["behavior"]) * given["mask"]).sum(1)
    squares = (mean / given["mask"].sum(1).clip(1) - advantage(given)) ** 2
    assert out["loss"] == pytest.approx(squares[given["mask"].any(1)].mean(), rel=1e-12)


# --- rounds ------------------------------------------------------------------------------------------------------


def test_each_round_starts_where_the_last_was_distilled_and_has_answers_and_a_copy_of_its_own() -> None:
    stages = with_knobs(recipe_named("erpd"), {"rounds": 3}).stages
    assert list(stages) == ["extreme-1", "distill-1", "extreme-2", "distill-2", "extreme-3", "distill-3"]
    starts = {name: one.trained["policy"].start for name, one in stages.items()}
    assert starts == {
        "extreme-1": "previous", "distill-1": "base", "extreme-2": "previous", "distill-2": "end:distill-1",
        "extreme-3": "previous", "distill-3": "end:distill-2",
    }  # fmt: skip
    for i in (1, 2, 3):
        assert stages[f"extreme-{i}"].store == stages[f"distill-{i}"].store == f"round-{i}"
        assert stages[f"distill-{i}"].teachers["teacher"].weights == Snapshot(f"extreme-{i}")


def test_a_run_takes_the_base_back_and_answers_once_a_round(tiny: str, tmp_path: Path) -> None:
    small = {
        "rounds": 2, "stored": 3, "per_prompt": 2, "prompts": 2, "steps": 1, "extreme_steps": 1, "max_tokens": 5,
        "lr": 1e-3, "extreme_lr": 1e-3, "max_grad_norm": None, "optim": "sgd",
    }  # fmt: skip
    recipe = with_knobs(recipe_named("erpd", "released"), small)
    run, learner = run_of_recipe(recipe, tiny, tmp_path)

    def now() -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in learner.policy.trainable().items()}

    starts, ends = [], []
    for number in range(4):
        if number:
            run.enter(number)
        starts.append(now())
        run.step()
        ends.append(now())
    for name, w in starts[0].items():
        assert torch.equal(starts[1][name], w)
        assert torch.equal(starts[2][name], ends[1][name])
        assert torch.equal(starts[3][name], ends[1][name])
    assert {name: len(one.trajectories) for name, one in learner.writing.stores.items()} == {
        "round-1": 6, "round-2": 6,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("knobs", "says"), [({"stored": 0}, "same stored answers"), ({"per_prompt": 1}, "compared with others")]
)
def test_what_cannot_be_meant_is_refused(knobs: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        with_knobs(recipe_named("erpd"), knobs)
