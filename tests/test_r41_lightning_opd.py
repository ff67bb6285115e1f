"""Card 41: offline on-policy distillation, and how it differs from online by a covariance."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arrays import arrays, log_softmax, mean_of_sequences, slopes
from runs import TextRun, config_of
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.kit import Imitate, Optimization, Recipe, Rollouts
from selfteach.recipes.r41_lightning_opd import LightningOPD
from selfteach.roles.weights import External
from selfteach.testing import evaluate
from tiny import tiny_model_folder


def sampled(given: dict[str, Any], temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """[N, T] log-probs of the tokens under student and teacher."""
    logits = (given["student_logits"], given["teacher_logits"]["teacher"])
    return tuple(
        np.take_along_axis(log_softmax(x, temperature), given["ids"][..., None], -1)[..., 0] for x in logits
    )  # type: ignore[return-value]


def score(given: dict[str, Any]) -> np.ndarray:
    """[N, T, V] ∂ log π(y_t) / ∂ logits."""
    p = np.exp(log_softmax(given["student_logits"]))
    return np.eye(p.shape[-1])[given["ids"]] - p


def test_the_gradient_is_minus_the_mean_over_rollouts_of_the_sum_of_advantage_times_score() -> None:
    given = arrays()
    ours, theirs = sampled(given)
    advantage = (theirs - ours) * given["mask"]
    expected = -advantage[..., None] * score(given) / len(given["ids"])
    np.testing.assert_allclose(evaluate("lightning-opd", given)["grad"], expected, atol=1e-13)


def test_the_released_mean_is_over_each_samples_tokens() -> None:
    given = arrays()
    ours, theirs = sampled(given)
    loss = evaluate(recipe_named("lightning-opd", "released"), given)["loss"]
    assert loss == pytest.approx(mean_of_sequences(-(theirs - ours) * ours, given["mask"]), rel=1e-12)


def test_the_advantage_is_clipped_on_both_sides() -> None:
    given = arrays()
    ours, theirs = sampled(given)
    advantage = np.clip(theirs - ours, -0.5, 0.5) * given["mask"]
    assert (np.abs(theirs - ours)[given["mask"]] > 0.5).any()
    expected = -advantage[..., None] * score(given) / len(given["ids"])
    out = evaluate("lightning-opd", given, overrides={"clip_advantage": 0.5})
    np.testing.assert_allclose(out["grad"], expected, atol=1e-13)
    wide = evaluate("lightning-opd", given, overrides={"clip_advantage": 1e9})
    np.testing.assert_array_equal(wide["grad"], evaluate("lightning-opd", given)["grad"])


def test_the_gradient_is_that_of_finite_differences_with_the_advantage_held() -> None:
    given = arrays()
    gradient = evaluate("lightning-opd", given)["grad"]
    ours, theirs = sampled(given)
    advantage = theirs - ours

    def loss(moved: np.ndarray) -> float:
        student = sampled({**given, "student_logits": moved})[0]
        return float((-advantage * student * given["mask"]).sum(1).mean())

    for i, slope in slopes(given["student_logits"], loss):
        assert slope == pytest.approx(gradient[i], abs=1e-8)


def test_stored_log_probs_of_the_teacher_give_what_its_live_distribution_gives() -> None:
    given = arrays()
    stored = {name: value for name, value in given.items() if name != "teacher_logits"}
    stored["teacher_log_probs"] = {"teacher": sampled(given)[1]}
    live, cached = evaluate("lightning-opd", given), evaluate("lightning-opd", stored)
    assert cached["loss"] == pytest.approx(live["loss"], rel=1e-12)
    np.testing.assert_allclose(cached["grad"], live["grad"], atol=1e-14)


def test_offline_and_online_have_one_gradient_on_the_same_answers_at_the_same_weights() -> None:
    given = arrays()
    offline, online = (evaluate("lightning-opd", given, overrides={"stored": n}) for n in (100, 0))
    np.testing.assert_array_equal(offline["grad"], online["grad"])


def test_there_is_no_importance_weight_towards_the_policy_that_wrote() -> None:
    given = arrays()
    other = {**given, "behavior": given["behavior"] - 3.0}
    a, b = (evaluate("lightning-opd", x)["grad"] for x in (given, other))
    np.testing.assert_array_equal(a, b)


def test_a_teacher_that_agrees_gives_zero_gradient_token_by_token() -> None:
    given = arrays()
    given["teacher_logits"] = {"teacher": given["student_logits"].copy()}
    out = evaluate("lightning-opd", given)
    assert out["loss"] == pytest.approx(0, abs=1e-14)
    np.testing.assert_allclose(out["grad"], 0, atol=1e-14)


def test_changing_the_teacher_changes_the_gradient() -> None:
    given = arrays()
    other = {**given, "teacher_logits": {"teacher": given["teacher_logits"]["teacher"] + np.arange(13) * 0.1}}
    a, b = (evaluate("lightning-opd", x)["grad"] for x in (given, other))
    assert np.abs(a - b).max() > 1e-4


def test_rows_that_the_teacher_could_not_read_are_left_out() -> None:
    given = arrays()
    seen = np.array([True, False, True, True, False, True])
    ours, theirs = sampled(given)
    per_row = (-(theirs - ours) * ours * given["mask"]).sum(1)
    out = evaluate("lightning-opd", {**given, "available": {"teacher": seen}})
    assert out["loss"] == pytest.approx(per_row[seen].mean(), rel=1e-12)
    assert (out["grad"][~seen] == 0).all()


# --- theory, by enumeration of all texts of two tokens over three ---------------------------------------------------

VOCABULARY = 3
TEXTS = list(product(range(VOCABULARY), repeat=2))


def places(text: tuple[int, int]) -> list[int]:
    """Where a text's two next-token distributions stand in a table of all prefixes."""
    return [0, 1 + text[0]]


def table(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1 + VOCABULARY, VOCABULARY))


def chance(logits: np.ndarray, text: tuple[int, int]) -> float:
    p = log_softmax(logits)
    return float(np.exp(sum(p[place, token] for place, token in zip(places(text), text, strict=True))))


def ascent(student: np.ndarray, teacher: np.ndarray, text: tuple[int, int]) -> np.ndarray:
    """f(x) = Σ_t A_t ∇ log π(y_t), in the table's logits: minus the gradient that the recipe gives for one text."""
    out = evaluate(
        "lightning-opd",
        {
            "ids": np.array([text]),
            "mask": np.ones((1, 2), dtype=bool),
            "student_logits": student[places(text)][None],
            "teacher_logits": {"teacher": teacher[places(text)][None]},
        },
    )
    gradient = np.zeros_like(student)
    for t, place in enumerate(places(text)):
        gradient[place] -= out["grad"][0, t]
    return gradient


STUDENT, TEACHER, BEGINNING = table(1), table(2), table(3)


def expected_ascent(writer: np.ndarray, student: np.ndarray = STUDENT) -> np.ndarray:
    return sum(chance(writer, text) * ascent(student, TEACHER, text) for text in TEXTS)  # type: ignore[return-value]


def test_online_the_expected_gradient_is_that_of_reverse_kl_at_each_prefix_as_often_as_it_is_met() -> None:
    p, q = log_softmax(STUDENT), log_softmax(TEACHER)
    met = np.array([1.0, *np.exp(p[0])])[:, None]
    kl = (np.exp(p) * (p - q)).sum(-1, keepdims=True)
    expected = -met * np.exp(p) * (p - q - kl)
    np.testing.assert_allclose(expected_ascent(STUDENT), expected, atol=1e-13)


def test_the_offline_gradient_is_the_online_one_less_a_covariance_with_the_likelihood_ratio() -> None:
    ratio = [chance(STUDENT, text) / chance(BEGINNING, text) for text in TEXTS]
    each = [ascent(STUDENT, TEACHER, text) for text in TEXTS]
    weight = [chance(BEGINNING, text) for text in TEXTS]

    def mean(values: list[Any]) -> Any:
        return sum(w * value for w, value in zip(weight, values, strict=True))

    covariance = mean([r * f for r, f in zip(ratio, each, strict=True)]) - mean(ratio) * mean(each)
    offline, online = expected_ascent(BEGINNING), expected_ascent(STUDENT)
    assert np.abs(covariance).max() > 1e-3
    np.testing.assert_allclose(offline, online - covariance, atol=1e-13)


def test_at_the_beginning_offline_is_online_and_at_the_teacher_both_vanish() -> None:
    begin = sum(chance(BEGINNING, text) * ascent(BEGINNING, TEACHER, text) for text in TEXTS)
    np.testing.assert_array_equal(expected_ascent(BEGINNING, student=BEGINNING), begin)
    np.testing.assert_allclose(expected_ascent(BEGINNING, student=TEACHER), 0, atol=1e-14)
    np.testing.assert_allclose(expected_ascent(TEACHER, student=TEACHER), 0, atol=1e-14)


# --- stages and refusals ---------------------------------------------------------------------------------------------


def test_the_teachers_text_is_imitated_first() -> None:
    recipe = LightningOPD()
    stages = recipe.stages
    assert list(stages) == ["sft", "distill"]
    assert stages["distill"] is recipe
    first = stages["sft"]
    assert isinstance(first, Imitate)
    assert first.writers["teacher"].weights == External("Qwen/Qwen3-8B")
    assert first.teachers == {}
    assert first.rollouts.stored == 300000
    o = first.optimization
    assert (o.lr, o.schedule, o.steps, o.warmup, o.prompts) == (8e-5, "cosine", 3000, 300, 100)


def test_the_teacher_writes_what_the_first_stage_imitates(tmp_path: Path) -> None:
    student, teacher = (str(tiny_model_folder(tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    recipe = Imitate(
        teacher=teacher,
        rollouts=Rollouts(max_tokens=8, stored=4),
        optimization=Optimization(lr=1e-3, steps=1, prompts=4),
    )
    run = TextRun(config_of(recipe, student, tmp_path / "run"))
    run.step()
    assert {one.origin for one in run.batch.rows} == {"teacher"}
    for one, theirs in zip(
        run.batch.rows, run.learner.writing.tools(0).log_probs(run.batch.rows, "teacher"), strict=True
    ):
        assert one.behavior == pytest.approx(theirs, abs=1e-5)


def test_the_first_stage_is_the_mean_negative_log_likelihood() -> None:
    given = arrays()
    ours, _ = sampled(given)
    assert evaluate(Imitate(), given)["loss"] == pytest.approx(-ours[given["mask"]].mean(), rel=1e-12)


def test_answers_are_stored_and_the_teacher_gives_sampled_tokens_only() -> None:
    recipe = LightningOPD()
    assert recipe.rollouts.stored == 17000
    assert type(recipe).rollout is Recipe.rollout
    assert recipe.teachers["teacher"].signal == "sampled"
    assert recipe.teachers["teacher"].weights == External("Qwen/Qwen3-8B")


def test_the_online_preset_stores_nothing_and_is_the_repositorys_baseline() -> None:
    r = recipe_named("lightning-opd", "online")
    assert (r.rollouts.stored, r.rollouts.per_prompt, r.rollouts.temperature) == (0, 4, 0.8)
    assert r.optimization.prompts == 64
    assert r.stages["sft"].rollouts.stored == 300000
    assert r.stages["sft"].rollouts.per_prompt == 1


def test_without_sft_steps_there_is_distillation_alone() -> None:
    assert list(with_knobs(LightningOPD(), {"sft_steps": 0}).stages) == ["distill"]


def test_another_teacher_for_the_first_stage_is_refused_unless_allowed() -> None:
    with pytest.raises(UserError, match="--allow-inconsistent"):
        with_knobs(LightningOPD(), {"sft_teacher": "other/model"})
    recipe = with_knobs(LightningOPD(), {"sft_teacher": "other/model", "allow_inconsistent": True})
    assert recipe.stages["sft"].writers["teacher"].weights == External("other/model")
    assert recipe.teachers["teacher"].weights == External("Qwen/Qwen3-8B")
    assert with_knobs(LightningOPD(), {"sft_teacher": "Qwen/Qwen3-8B"}).stages["sft"].writers


def test_the_loss_reads_plain_log_probs_whatever_the_sampling_temperature() -> None:
    assert LightningOPD().temperature == 1.0
    given = arrays()
    ours, theirs = sampled(given, 0.7)
    loss = evaluate("lightning-opd", given, overrides={"loss_temperature": None})["loss"]
    expected = float((-(theirs - ours) * ours * given["mask"]).sum(1).mean())
    assert loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"teacher": ""}, "teacher"),
        ({"sft_steps": -1}, "sft_steps"),
        ({"sft_prompts": 0}, "sft_prompts"),
        ({"sft_batch": 0}, "sft_batch"),
        ({"clip_advantage": 0.0}, "clip_advantage"),
        ({"loss_temperature": 0.0}, "loss_temperature"),
    ],
)
def test_an_impossible_combination_refuses_to_construct(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_knobs(LightningOPD(), knobs)
