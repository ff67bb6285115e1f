"""Card 04: what TRACE is, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import VOCABULARY, arrays, log_softmax, slopes
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.grpo import GRPO
from selfteach.recipes.r04_trace import TRACE
from selfteach.roles.diagnosis import Diagnosis
from selfteach.roles.weights import Lagged
from selfteach.testing import evaluate

BOTH = {"key_weight": 1.0, "error_weight": 1.0}
DAPO = with_knobs(GRPO(), {"kl": 0.0, "clip_high": 0.28})


def batch(seed: int = 0) -> dict[str, Any]:
    """Six rollouts, of 16, 8 or 4 tokens."""
    rng = np.random.default_rng(seed)
    shape = (6, 16)
    return {
        "ids": rng.integers(VOCABULARY, size=shape),
        "mask": np.arange(16) < np.array([16, 8, 16, 4, 8, 16])[:, None],
        "student_logits": rng.normal(size=(*shape, VOCABULARY)),
        "teacher_logits": {"teacher": rng.normal(size=(*shape, VOCABULARY))},
        "behavior": -rng.random(shape),
        "group": np.array([0, 0, 0, 1, 1, 1]),
        "reward": np.array([1.0, 0, 0, 1, 1, 0]),
        "marks": {name: rng.random(shape) < 0.5 for name in ("key", "error")},
    }


def spans(given: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(K, E) by hand: the first quarter of the marked tokens, key ones of right and error ones of wrong rollouts."""
    found = {name: np.zeros_like(given["mask"]) for name in ("key", "error")}
    for n, right in enumerate(given["reward"] > 0):
        name = "key" if right else "error"
        places = np.flatnonzero(given["marks"][name][n] & given["mask"][n])
        found[name][n, places[: given["mask"][n].sum() // 4]] = True
    return found["key"], found["error"]


def kls(given: dict[str, Any], clip: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """[N, T] forward and reverse KL, each entry clipped."""
    p = log_softmax(given["student_logits"])
    q = log_softmax(given["teacher_logits"]["teacher"])
    forward = np.minimum(np.exp(q) * (q - p), clip).sum(-1)
    return forward, np.minimum(np.exp(p) * (p - q), clip).sum(-1)


def span_loss(given: dict[str, Any], kl: np.ndarray, span: np.ndarray) -> float:
    """Mean over rollouts of (mean over the span) · |S| / |y|."""
    return float(((kl * span).sum(1) / given["mask"].sum(1)).mean())


def test_the_kl_terms_are_clipped_span_sums_over_the_response_length_averaged_over_rollouts() -> None:
    given = batch()
    (key, error), (forward, reverse) = spans(given), kls(given)
    terms = evaluate("trace", given, overrides=BOTH)["terms"]
    assert terms["key"] == pytest.approx(0.5 * span_loss(given, forward, key), rel=1e-12)
    assert terms["error"] == pytest.approx(0.5 * span_loss(given, reverse, error), rel=1e-12)


def test_the_span_weights_scale_their_terms_and_zero_leaves_them_out() -> None:
    given = batch()
    both = evaluate("trace", given, overrides=BOTH)["terms"]
    scaled = evaluate("trace", given, overrides={"key_weight": 3.0, "error_weight": 0.5})["terms"]
    assert scaled["key"] == pytest.approx(3 * both["key"])
    assert scaled["error"] == pytest.approx(0.5 * both["error"])
    assert set(evaluate("trace", given)["terms"]) == {"policy", "key"}
    assert set(evaluate(recipe_named("trace", "trace-rkl"), given)["terms"]) == {"policy", "error"}


def grpo_tokens(given: dict[str, Any]) -> np.ndarray:
    """[N, T] GRPO's clipped surrogate."""
    ours = np.take_along_axis(log_softmax(given["student_logits"]), given["ids"][..., None], -1)[..., 0]
    ratio = np.exp(ours - given["behavior"])
    reward = np.zeros(6)
    for g in (0, 1):
        own = given["reward"][given["group"] == g]
        reward[given["group"] == g] = (own - own.mean()) / (own.std(ddof=1) + 1e-4)
    a = reward[:, None]
    return -np.minimum(ratio * a, np.clip(ratio, 0.8, 1.28) * a)


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (10, 0.0), (25, 0.5), (39, 29 / 30), (40, 1.0)])
def test_grpos_weight_on_spans_rises_as_the_kl_fades(step: int, share: float) -> None:
    given = batch()
    key, error = spans(given)
    weighted = grpo_tokens(given) * np.where(key | error, share, 1.0) * given["mask"]
    expected = (weighted.sum(1) / given["mask"].sum(1)).mean()
    terms = evaluate("trace", given, step=step, overrides=BOTH)["terms"]
    assert terms["policy"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("step", "strength"), [(0, 0.5), (10, 0.5), (25, 0.25), (39, 0.5 / 30)])
def test_the_kl_is_held_for_ten_steps_and_fades_in_thirty(step: int, strength: float) -> None:
    given = batch()
    key, _ = spans(given)
    terms = evaluate("trace", given, step=step)["terms"]
    assert terms["key"] == pytest.approx(strength * span_loss(given, kls(given)[0], key), rel=1e-12)


@pytest.mark.parametrize("step", [40, 41, 1000])
@pytest.mark.parametrize("which", ["marked", "random", "all"])
def test_after_the_kl_has_faded_the_loss_is_grpos_and_nobody_is_asked(step: int, which: str) -> None:
    recipe = with_knobs(TRACE(), {"spans": which})
    assert list(recipe.active(step)) == []
    given = {**batch(), "teacher_logits": {}}
    ours, theirs = evaluate(recipe, given, step=step), evaluate(DAPO, given, step=step)
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-14)
    np.testing.assert_array_equal(ours["grad"], theirs["grad"])


def test_the_teacher_is_asked_until_the_kl_has_faded() -> None:
    assert [bool(TRACE().active(step)) for step in (0, 10, 39, 40)] == [True, True, True, False]


def routed(given: dict[str, Any], **knobs: Any) -> tuple[np.ndarray, np.ndarray]:
    """(K, E) as the recipe routes them: where its two terms looked."""
    token = evaluate("trace", given, overrides={**BOTH, **knobs})["token"]
    return ~np.isnan(token["loss/key"]), ~np.isnan(token["loss/error"])


def test_the_spans_are_disjoint_written_and_cover_at_most_a_quarter() -> None:
    given = batch()
    key, error = routed(given)
    np.testing.assert_array_equal(key, spans(given)[0])
    np.testing.assert_array_equal(error, spans(given)[1])
    assert not (key & error).any()
    assert not ((key | error) & ~given["mask"]).any()
    assert ((key | error).sum(1) <= given["mask"].sum(1) / 4).all()
    assert key.any()
    assert error.any()


def test_key_marks_on_wrong_rollouts_and_error_marks_on_right_ones_are_not_read() -> None:
    given = batch()
    right = given["reward"] > 0
    marks = {
        "key": given["marks"]["key"] & right[:, None],
        "error": given["marks"]["error"] & ~right[:, None],
    }
    a, b = (evaluate("trace", x, overrides=BOTH)["grad"] for x in (given, {**given, "marks": marks}))
    np.testing.assert_array_equal(a, b)


def test_random_spans_cover_a_quarter_and_change_with_the_step() -> None:
    given = batch()
    key, error = routed(given, spans="random")
    np.testing.assert_array_equal((key | error).sum(1), given["mask"].sum(1) // 4)
    right = given["reward"] > 0
    assert not key[~right].any()
    assert not error[right].any()
    later = evaluate("trace", given, step=1, overrides={**BOTH, "spans": "random"})["token"]["loss/key"]
    assert (np.isnan(later) == key)[right].any()


def test_with_all_tokens_and_the_kl_held_only_the_kl_over_the_response_length_is_left() -> None:
    given = batch()
    right, mask = (given["reward"] > 0)[:, None], given["mask"]
    forward, reverse = kls(given)
    out = evaluate("trace", given, overrides={**BOTH, "spans": "all"})
    expected = span_loss(given, forward, mask & right) + span_loss(given, reverse, mask & ~right)
    assert out["terms"]["policy"] == 0
    assert out["loss"] == pytest.approx(0.5 * expected, rel=1e-12)


def one_token(q: np.ndarray, p: np.ndarray, reward: float) -> dict[str, Any]:
    return {
        "ids": np.array([[0]]),
        "mask": np.array([[True]]),
        "student_logits": np.log(p)[None, None],
        "teacher_logits": {"teacher": np.log(q)[None, None]},
        "group": np.array([0]),
        "reward": np.array([reward]),
        "marks": {"key": np.array([[True]]), "error": np.array([[True]])},
    }


UNCLIPPED = {**BOTH, "clip_entry": None, "coverage": 1.0, "kl_start": 1.0}


def test_the_forward_kl_lifts_a_token_the_student_has_lost_and_the_reverse_kl_does_not() -> None:
    q, p = np.array([0.6, 0.3, 0.1]), np.array([1e-9, 0.5, 0.5 - 1e-9])
    key = evaluate("trace", one_token(q, p, 1.0), overrides=UNCLIPPED)["grad"][0, 0]
    error = evaluate("trace", one_token(q, p, 0.0), overrides=UNCLIPPED)["grad"][0, 0]
    np.testing.assert_allclose(key, p - q, atol=1e-12)
    gap = np.log(p) - np.log(q)
    np.testing.assert_allclose(error, p * (gap - (p * gap).sum()), atol=1e-12)
    assert key[0] == pytest.approx(-0.6)
    assert abs(error[0]) < 1e-6


def test_the_gradient_is_that_of_finite_differences() -> None:
    given = batch()
    given["behavior"] = given["behavior"] - 3
    knobs = {**BOTH, "clip_entry": None}
    gradient = evaluate("trace", given, step=15, overrides=knobs)["grad"]

    def loss(moved: np.ndarray) -> float:
        return evaluate("trace", {**given, "student_logits": moved}, 15, knobs)["loss"]

    for i, slope in slopes(given["student_logits"], loss):
        assert slope == pytest.approx(gradient[i], abs=1e-7)


def test_a_teacher_that_agrees_leaves_nothing_on_the_spans() -> None:
    given = batch()
    given["teacher_logits"] = {"teacher": given["student_logits"].copy()}
    key, error = spans(given)
    np.testing.assert_allclose(evaluate("trace", given, overrides=BOTH)["grad"][key | error], 0, atol=1e-14)


def test_changing_the_teacher_changes_the_gradient_on_the_spans_alone() -> None:
    given = batch()
    other = {**given, "teacher_logits": {"teacher": given["teacher_logits"]["teacher"] + np.arange(13) * 0.1}}
    a, b = (evaluate("trace", x, overrides=BOTH)["grad"] for x in (given, other))
    key, error = spans(given)
    assert np.abs(a - b)[key].max() > 1e-5
    assert np.abs(a - b)[error].max() > 1e-5
    np.testing.assert_array_equal(a[~(key | error)], b[~(key | error)])


def test_a_rollout_whose_teacher_saw_no_diagnosis_keeps_all_of_grpo() -> None:
    given = batch()
    blind = {**given, "available": {"teacher": np.array([False] * 6)}}
    ours, theirs = evaluate("trace", blind, overrides=BOTH), evaluate(DAPO, given)
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-14)


@pytest.mark.parametrize("which", ["marked", "random", "all"])
def test_padding_changes_nothing(which: str) -> None:
    given = batch()

    def padded(value: np.ndarray) -> np.ndarray:
        return np.pad(value, [(0, 0), (0, 4)] + [(0, 0)] * (value.ndim - 2)) if value.ndim > 1 else value

    wide = {k: padded(v) for k, v in given.items() if isinstance(v, np.ndarray)}
    for name in ("teacher_logits", "marks"):
        wide[name] = {role: padded(v) for role, v in given[name].items()}
    knobs = {**BOTH, "spans": which}
    a, b = (evaluate("trace", x, overrides=knobs)["loss"] for x in (given, wide))
    assert a == pytest.approx(b, rel=1e-13)


def test_the_order_of_rows_changes_nothing() -> None:
    given, order = batch(), np.array([3, 0, 5, 1, 4, 2])
    other = {k: v[order] for k, v in given.items() if isinstance(v, np.ndarray)}
    for name in ("teacher_logits", "marks"):
        other[name] = {role: v[order] for role, v in given[name].items()}
    a, b = (evaluate("trace", x, overrides=BOTH)["loss"] for x in (given, other))
    assert a == pytest.approx(b, rel=1e-13)


def test_the_teacher_is_a_copy_every_ten_steps_that_reads_the_type_of_the_mark() -> None:
    teacher = TRACE().teachers["teacher"]
    assert (teacher.weights, teacher.view, teacher.thinking) == (Lagged(10), Diagnosis(), True)
    assert TRACE.annotated


def test_the_presets_hold_the_papers_values() -> None:
    strong, weak = (recipe_named("trace", name) for name in ("trace-fkl", "trace-rkl"))
    assert isinstance(strong, TRACE)
    assert isinstance(weak, TRACE)
    assert (strong.key_weight, strong.error_weight) == (1.0, 0.0)
    assert (weak.key_weight, weak.error_weight) == (0.0, 1.0)
    assert (strong.kl_start, strong.kl_hold, strong.kl_decay) == (0.5, 10, 30)
    assert (strong.clip_entry, strong.coverage, strong.sync_every) == (0.05, 0.25, 10)
    assert (strong.grpo.clip_low, strong.grpo.clip_high) == (0.2, 0.28)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"per_prompt": 1}, "per_prompt"),
        ({"kl_start": 0.0}, "kl_start"),
        ({"kl_decay": 0}, "kl_decay"),
        ({"key_weight": 0.0}, "key_weight"),
        ({"coverage": 0.0}, "coverage"),
        ({"sync_every": 0}, "sync_every"),
        ({"clip_low": 1.5}, "clip_low"),
    ],
)
def test_an_impossible_combination_refuses_to_construct(knobs: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_knobs(TRACE(), knobs)


def test_the_divergence_term_is_exact_in_float64() -> None:
    """1/|y| of 9 tokens in float32 is off by 3e-9."""
    given = arrays()
    knobs = {**BOTH, "spans": "all", "coverage": 1.0}
    value = evaluate("trace", given, overrides=knobs)["terms"]["key"]
    p, q = (log_softmax(x) for x in (given["student_logits"], given["teacher_logits"]["teacher"]))
    kl = np.minimum(np.exp(q) * (q - p), 0.05).sum(-1)
    right = (given["reward"] >= 0.5)[:, None] & given["mask"]
    expected = 0.5 * ((kl * right).sum(1) / given["mask"].sum(1)).sum() / 6
    assert value == pytest.approx(expected, rel=1e-13)
