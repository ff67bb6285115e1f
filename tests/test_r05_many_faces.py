"""Card 05: the identities of truncated reverse KLs, the guards, the privileges, the stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from arrays import ROWS, VOCABULARY, arrays, log_softmax, mean_of_sequences, slopes
from selfteach.errors import UserError
from selfteach.objective.forms import form, losses
from selfteach.recipes import knobs, recipe_named, with_knobs
from selfteach.recipes.kit import BASE, PREVIOUS, External, Frozen, InformedGRPO, Live, Snapshot
from selfteach.testing import evaluate

NAME = "many-faces"


def gradient(given: dict[str, Any], **overrides: Any) -> np.ndarray:
    found: np.ndarray = evaluate(NAME, given, overrides=overrides)["grad"]
    return found


def weight(given: dict[str, Any]) -> np.ndarray:
    mask = given["mask"]
    return (mask / mask.sum(1, keepdims=True) / len(mask))[..., None]


def sides(given: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return log_softmax(given["student_logits"]), log_softmax(given["teacher_logits"]["teacher"])


def taken(values: np.ndarray, given: dict[str, Any]) -> np.ndarray:
    return np.take_along_axis(values, given["ids"][..., None], -1)[..., 0]


def among_top(values: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(np.argsort(-values, -1), -1) < k


def mass_gradient(p: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """∇P(S) in the student's logits."""
    chance = np.exp(p) * inside
    return chance - np.exp(p) * chance.sum(-1, keepdims=True)


# --- the forms of the truncated reverse KL ------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 5, VOCABULARY])
def test_the_biased_form_differs_from_the_mended_one_by_the_gradient_of_the_mass(k: int) -> None:
    given = arrays()
    p, _ = sides(given)
    difference = gradient(given, loss="topk", loss_top_k=k) - gradient(given, loss="topk-sg", loss_top_k=k)
    np.testing.assert_allclose(difference, weight(given) * mass_gradient(p, among_top(p, k)), atol=1e-14)
    if k < VOCABULARY:
        assert np.abs(difference).max() > 1e-4


@pytest.mark.parametrize("loss", ["topk", "topk-sg", "topk-tail", "intersect-sg"])
def test_on_the_whole_vocabulary_all_forms_have_the_reverse_kls_gradient(loss: str) -> None:
    given = arrays()
    found = gradient(given, loss=loss, loss_top_k=VOCABULARY)
    np.testing.assert_allclose(found, gradient(given, loss="reverse-kl"), atol=1e-14)


def test_the_tail_form_never_exceeds_the_full_kl_and_is_it_with_a_tail_of_one_token() -> None:
    given = arrays()
    student, teacher = (torch.tensor(one) for one in sides(given))
    full, support = form("reverse-kl")
    whole = full(*support.restrict(student, teacher))
    for k in (1, 2, 5, VOCABULARY - 2):
        divergence, support = form("topk-tail", k)
        assert (divergence(*support.restrict(student, teacher)) < whole + 1e-12).all()
    divergence, support = form("topk-tail", VOCABULARY - 1)
    torch.testing.assert_close(divergence(*support.restrict(student, teacher)), whole)


@pytest.mark.parametrize("k", [1, 3])
def test_at_equal_sides_the_mended_forms_are_at_rest_and_the_biased_one_is_not(k: int) -> None:
    given = arrays()
    given["teacher_logits"] = {"teacher": given["student_logits"]}
    for loss in ("topk-sg", "intersect-sg", "topk-tail"):
        np.testing.assert_allclose(gradient(given, loss=loss, loss_top_k=k), 0.0, atol=1e-15)
    p, _ = sides(given)
    left = gradient(given, loss="topk", loss_top_k=k)
    np.testing.assert_allclose(left, weight(given) * mass_gradient(p, among_top(p, k)), atol=1e-14)


def top_two(given: dict[str, Any]) -> float:
    p, _ = sides(given)
    mass = (np.exp(p) * among_top(p, 2)).sum(-1)
    return float(mass[given["mask"]].mean())


def test_descent_on_the_biased_form_moves_mass_out_of_the_set_and_on_the_mended_ones_does_not() -> None:
    """From student = teacher, where nothing is to be learned."""
    found = {}
    for loss in ("topk", "topk-sg", "intersect-sg"):
        given = arrays()
        given["teacher_logits"] = {"teacher": given["student_logits"].copy()}
        before = top_two(given)
        for _ in range(30):
            step = gradient(given, loss=loss, loss_top_k=2) / np.maximum(weight(given), 1e-9)
            given = {**given, "student_logits": given["student_logits"] - step * given["mask"][..., None]}
        found[loss] = top_two(given) - before
    assert found["topk"] < -0.05
    assert abs(found["topk-sg"]) < 1e-9
    assert abs(found["intersect-sg"]) < 1e-9


def test_the_sampled_forms_expectation_is_the_full_kls_gradient_and_that_of_the_decoded_is_zero() -> None:
    given = arrays()
    p, _ = sides(given)
    for loss, expected in (("sampled", gradient(given, loss="reverse-kl")), ("decoded", 0.0)):
        total = sum(
            np.exp(p)[..., v : v + 1] * gradient({**given, "ids": np.full_like(given["ids"], v)}, loss=loss)
            for v in range(VOCABULARY)
        )
        np.testing.assert_allclose(total, np.broadcast_to(expected, total.shape), atol=1e-14)


def intersect_by_hand(p: np.ndarray, q: np.ndarray, k: int) -> np.ndarray:
    both = among_top(p, k) & among_top(q, k)
    own, theirs = (
        np.where(
            both, x - np.log((np.exp(x) * both).sum(-1, keepdims=True) + ~both.any(-1, keepdims=True)), 0.0
        )
        for x in (p, q)
    )
    return (np.where(both, np.exp(own), 0.0) * (own - theirs)).sum(-1)


VALUES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "reverse-kl": lambda p, q: (np.exp(p) * (p - q)).sum(-1),
    "forward-kl": lambda p, q: (np.exp(q) * (q - p)).sum(-1),
    "topk": lambda p, q: (among_top(p, 3) * np.exp(p) * (p - q)).sum(-1),
    "topk-sg": lambda p, q: (among_top(p, 3) * np.exp(p) * (p - q)).sum(-1),
    "topk-forward": lambda p, q: (among_top(q, 3) * np.exp(q) * (q - p)).sum(-1),
    "topk-forward-student": lambda p, q: (among_top(p, 3) * np.exp(q) * (q - p)).sum(-1),
    "intersect-sg": lambda p, q: intersect_by_hand(p, q, 3),
}


@pytest.mark.parametrize("loss", VALUES)
def test_each_form_has_its_value(loss: str) -> None:
    given = arrays()
    out = evaluate(NAME, given, overrides={"loss": loss, "loss_top_k": 3})
    assert out["loss"] == pytest.approx(
        mean_of_sequences(VALUES[loss](*sides(given)), given["mask"]), rel=1e-10
    )


@pytest.mark.parametrize(("name", "chosen"), [("topk-tail", "student"), ("topk-forward-tail", "teacher")])
def test_a_tail_is_one_more_entry(name: str, chosen: str) -> None:
    p, q = sides(arrays())
    inside = among_top(p if chosen == "student" else q, 3)
    tails = [np.log(1 - (np.exp(x) * inside).sum(-1)) for x in (p, q)]
    if chosen == "student":
        expected = (inside * np.exp(p) * (p - q)).sum(-1) + np.exp(tails[0]) * (tails[0] - tails[1])
    else:
        expected = (inside * np.exp(q) * (q - p)).sum(-1) + np.exp(tails[1]) * (tails[1] - tails[0])
    divergence, support = form(name, 3)
    found = divergence(*support.restrict(torch.tensor(p), torch.tensor(q)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_wiener_weighs_the_two_kls_by_how_sure_the_teacher_is_of_the_token() -> None:
    given = arrays()
    p, q = sides(given)
    m = np.maximum(taken(q, given) - taken(p, given), 0)
    w = m / (m - (np.exp(q) * q).sum(-1) + 1e-8)
    assert 0.1 < w[given["mask"]].max() < 1
    assert (w[given["mask"]] == 0).any()
    reverse, forward = VALUES["reverse-kl"](p, q), VALUES["forward-kl"](p, q)
    out = evaluate(NAME, given, overrides={"loss": "wiener"})
    assert out["loss"] == pytest.approx(mean_of_sequences(w * reverse + (1 - w) * forward, given["mask"]))
    slope = np.exp(p) * (p - q - reverse[..., None])
    expected = w[..., None] * slope + (1 - w[..., None]) * (np.exp(p) - np.exp(q))
    np.testing.assert_allclose(out["grad"], weight(given) * expected, atol=1e-14)


def test_ppo_is_the_clipped_surrogate_of_the_log_ratio() -> None:
    given = arrays()
    p, q = sides(given)
    ratio = np.exp(taken(p, given) - given["behavior"])
    gained = taken(q, given) - given["behavior"]
    expected = -np.minimum(ratio * gained, np.clip(ratio, 0.8, 1.2) * gained)
    out = evaluate(NAME, given, overrides={"loss": "ppo"})
    assert out["loss"] == pytest.approx(mean_of_sequences(expected, given["mask"]), rel=1e-10)


def test_an_unknown_loss_is_named() -> None:
    with pytest.raises(ValueError, match="name must be one of topk, topk-sg"):
        form("top")
    with pytest.raises(ValueError, match="name must be one of"):
        losses("top", "teacher")  # type: ignore[arg-type]


# --- what teachers with different privileges are averaged to -------------------------------------------------------


def best_against(loss: str, teachers: np.ndarray) -> np.ndarray:
    """[V] the distribution to which descent on the mean loss to several teachers leads: one prompt, one row a teacher,
    all with the same student's logits."""
    logits = np.zeros(teachers.shape[-1])
    rows = len(teachers)
    for _ in range(3000):
        given = {
            "ids": np.zeros((rows, 1), dtype=int), "mask": np.ones((rows, 1), dtype=bool),
            "student_logits": np.broadcast_to(logits, (rows, 1, len(logits))).copy(),
            "teacher_logits": {"teacher": np.log(teachers)[:, None]},
        }  # fmt: skip
        logits = logits - 1.0 * gradient(given, loss=loss).sum((0, 1))
    found: np.ndarray = np.exp(log_softmax(logits))
    return found


@pytest.mark.slow
def test_instance_privileges_are_averaged_and_a_shared_rule_is_not() -> None:
    teachers = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    np.testing.assert_allclose(best_against("forward-kl", teachers), teachers.mean(0), atol=1e-6)
    geometric = np.exp(np.log(teachers).mean(0))
    np.testing.assert_allclose(best_against("reverse-kl", teachers), geometric / geometric.sum(), atol=1e-6)
    rule = np.broadcast_to(teachers[0], teachers.shape)
    for loss in ("forward-kl", "reverse-kl"):
        np.testing.assert_allclose(best_against(loss, rule), teachers[0], atol=1e-6)


# --- weights, guards, rewards --------------------------------------------------------------------------------------


def test_later_tokens_weigh_less_by_the_decay() -> None:
    given = arrays()
    p, q = sides(given)
    t = np.arange(given["ids"].shape[1])
    shared = {"loss": "reverse-kl", "max_tokens": 20, "position_decay": 3.0}
    expected = mean_of_sequences(VALUES["reverse-kl"](p, q) * np.exp(-3 * t / 20), given["mask"])
    assert evaluate(NAME, given, overrides=shared)["loss"] == pytest.approx(expected)


def test_the_guard_of_the_end_is_the_end_tokens_likelihood_growing_with_position() -> None:
    given = {**arrays(), "special": {"eos": 4}}
    p, _ = sides(given)
    t = np.arange(given["ids"].shape[1])
    out = evaluate(NAME, given, overrides={"eos": 0.5, "max_tokens": 20, "distill_weight": 0.0})
    assert out["loss"] == pytest.approx(0.5 * mean_of_sequences(-p[..., 4] * t / 20, given["mask"]))
    expected = np.exp(p) - np.eye(VOCABULARY)[4]
    np.testing.assert_allclose(out["grad"], weight(given) * (0.5 * t / 20)[:, None] * expected, atol=1e-14)


def test_an_end_that_the_tokenizer_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="special lacks 'eos'"):
        evaluate(NAME, arrays(), overrides={"eos": 0.5})


def test_the_bonus_is_the_groups_min_max_of_the_teachers_liking_with_the_rewards_sign() -> None:
    given = arrays()
    _, q = sides(given)
    mask, reward, group = (given[name] for name in ("mask", "reward", "group"))
    mean = ((taken(q, given) - given["behavior"]) * mask).sum(1) / mask.sum(1)
    total = reward.astype(float).copy()
    for g in (0, 1):
        rows = group == g
        place = (mean[rows] - mean[rows].min()) / (mean[rows].max() - mean[rows].min())
        total[rows] += 0.3 * np.where(reward[rows] > 0, place, -place)
    out = evaluate(
        NAME,
        given,
        overrides={"reinforce": "bonus", "bonus_weight": 0.3, "distill_weight": 0.0, "per_prompt": 3},
    )
    alone = {name: value for name, value in given.items() if name != "teacher_logits"}
    grpo = evaluate("grpo", {**alone, "reward": total}, overrides={"kl": 0.0})
    np.testing.assert_allclose(out["grad"], grpo["grad"], atol=1e-14)


def test_a_reward_may_stand_beside_the_distillation() -> None:
    given = arrays()
    alone = {name: value for name, value in given.items() if name != "teacher_logits"}
    both = gradient(given, reinforce="reward", per_prompt=3)
    grpo = evaluate("grpo", alone, overrides={"kl": 0.0})["grad"]
    np.testing.assert_allclose(both, gradient(given) + grpo, atol=1e-14)


def test_what_the_teacher_wrote_is_imitated_and_the_rest_distilled() -> None:
    given = {**arrays(), "origin": np.array(["student", "teacher"] * 3)}
    theirs = given["origin"] == "teacher"
    out = evaluate(NAME, given, overrides={"teacher_share": 0.4})
    p, _ = sides(given)
    nll = mean_of_sequences(-taken(p, given)[theirs], given["mask"][theirs])
    assert out["terms"]["imitate"] == pytest.approx(nll / 2)
    half = {k: v[~theirs] for k, v in given.items() if isinstance(v, np.ndarray) and len(v) == ROWS}
    half["teacher_logits"] = {"teacher": given["teacher_logits"]["teacher"][~theirs]}
    assert out["terms"]["distill"] == pytest.approx(evaluate(NAME, half)["loss"] / 2)


@pytest.mark.parametrize("mean_over", ["sequences", "tokens"])
@pytest.mark.parametrize("theirs", [(), (4,), (0, 3, 5), tuple(range(ROWS))])
def test_imitated_and_distilled_rows_stand_in_one_mean(theirs: tuple[int, ...], mean_over: str) -> None:
    given = arrays()
    given["origin"] = np.array(["teacher" if i in theirs else "student" for i in range(ROWS)])
    out = evaluate(
        NAME, given, overrides={"teacher_share": 0.4, "loss": "reverse-kl", "mean_over": mean_over}
    )
    (p, q), mask = sides(given), given["mask"]
    per_token = np.where(
        (given["origin"] == "teacher")[:, None], -taken(p, given), VALUES["reverse-kl"](p, q)
    )
    of_tokens = float((per_token * mask).sum() / mask.sum())
    expected = mean_of_sequences(per_token, mask) if mean_over == "sequences" else of_tokens
    assert out["loss"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", ["topk", "topk-tail", "topk-forward-tail", "jsd", "decoded"])
def test_the_gradient_is_the_slope_of_the_value_where_nothing_is_held(loss: str) -> None:
    given = arrays()
    found = gradient(given, loss=loss, loss_top_k=3)

    def value(logits: np.ndarray) -> float:
        return float(
            evaluate(NAME, {**given, "student_logits": logits}, overrides={"loss": loss, "loss_top_k": 3})[
                "loss"
            ]
        )

    for place, slope in slopes(given["student_logits"], value):
        assert found[place] == pytest.approx(slope, abs=1e-7)


# --- who teaches ---------------------------------------------------------------------------------------------------


def weights_of(**words: Any) -> Any:
    (teacher,) = with_knobs(recipe_named(NAME), words).teachers.values()
    return teacher.weights


def test_the_teacher_is_oneself_another_or_one_that_is_made_first() -> None:
    assert weights_of() == Frozen()
    assert weights_of(weights="live") == Live()
    assert weights_of(sft_steps=3) == Snapshot("sft", "start"), "frozen are the weights before all stages"
    assert weights_of(sft_steps=3, weights="live") == Live()
    assert weights_of(teacher="arena:tutor-large") == External("arena:tutor-large")
    assert weights_of(rlvr_steps=3, per_prompt=4) == Snapshot("rlvr")


def test_a_teacher_made_first_starts_at_the_base_as_the_student_does() -> None:
    recipe = with_knobs(
        recipe_named(NAME), {"rlvr_steps": 3, "sft_steps": 2, "per_prompt": 4, "privilege": "answer"}
    )
    assert list(recipe.stages) == ["rlvr", "sft", "distill"]
    made, imitated, last = recipe.stages.values()
    assert isinstance(made, InformedGRPO)
    assert made.view == recipe.teachers["teacher"].view
    assert [one.optimization.steps for one in (made, imitated, last)] == [3, 2, 100]
    assert [one.trained["policy"].start for one in (imitated, last)] == [BASE, PREVIOUS]
    assert knobs(imitated)["teacher_share"] == 1.0
    given = {**arrays(), "origin": np.array(["teacher"] * ROWS)}
    assert set(evaluate(imitated, given)["terms"]) == {"imitate"}
    alone = with_knobs(recipe_named(NAME), {"rlvr_steps": 3, "per_prompt": 4})
    assert alone.trained["policy"].start == BASE


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"privilege": "constitution"}, "constitution is empty"),
        ({"privilege": "none"}, "no privilege teach nothing"),
        ({"reinforce": "reward"}, "per_prompt must be 2 or more"),
        ({"rlvr_steps": 3}, "per_prompt must be 2 or more"),
        ({"rlvr_steps": 3, "per_prompt": 2, "teacher": "x"}, "leave teacher empty"),
        ({"loss": "topp"}, "loss"),
        ({"gaps": 1.5}, "gaps"),
    ],
)
def test_what_cannot_teach_is_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_knobs(recipe_named(NAME), words)
