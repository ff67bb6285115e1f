"""Card 38: the base loss, and what each of the five parts does and does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import arrays, log_softmax, mean_of_sequences
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.demonstrations import nearest
from selfteach.recipes.kit import EMA, Frozen
from selfteach.testing import evaluate

CONTEXTS = ("context_0", "context_1", "context_2")
ROLES = ("teacher", "wrong", *CONTEXTS)
OFF = {"agreement": "none", "contrast": 0.0, "features": 0.0, "temperature": 0.7}


def given_with(**logits: np.ndarray) -> dict[str, Any]:
    given = arrays(teachers=ROLES)
    given["teacher_logits"] |= logits
    return given


def found(given: dict[str, Any], **words: Any) -> dict[str, Any]:
    return evaluate("unisd", given, overrides={**OFF, **words})


def taken(logits: np.ndarray, given: dict[str, Any], temperature: float) -> np.ndarray:
    return np.take_along_axis(log_softmax(logits, temperature), given["ids"][..., None], -1)[..., 0]


def forward(given: dict[str, Any]) -> np.ndarray:
    q, p = (log_softmax(x, 0.7) for x in (given["teacher_logits"]["teacher"], given["student_logits"]))
    kl: np.ndarray = (np.exp(q) * (q - p)).sum(-1)
    return kl


def weighted(loss: np.ndarray, weight: np.ndarray, mask: np.ndarray) -> float:
    return float(((loss * weight * mask).sum(1) / np.maximum((weight * mask).sum(1), 1)).mean())


def test_the_base_is_the_mean_of_sequences_of_the_forward_kl_at_the_sampling_temperature() -> None:
    given = given_with()
    assert found(given)["loss"] == pytest.approx(mean_of_sequences(forward(given), given["mask"]))


def test_between_its_ends_the_divergence_is_a_jsd_with_alpha_on_the_teacher() -> None:
    given, a = given_with(), 0.3
    q, p = (
        np.exp(log_softmax(x, 0.7)) for x in (given["teacher_logits"]["teacher"], given["student_logits"])
    )
    m = (1 - a) * p + a * q
    jsd = (a * q * np.log(q / m) + (1 - a) * p * np.log(p / m)).sum(-1)
    assert found(given, alpha=a)["loss"] == pytest.approx(mean_of_sequences(jsd, given["mask"]))


@pytest.mark.parametrize("spread", ["variance", "range"])
def test_token_weights_fall_with_the_contexts_disagreement(spread: str) -> None:
    given = given_with()
    a = np.stack([taken(given["teacher_logits"][name], given, 1.0) for name in CONTEXTS])
    delta = a.var(0, ddof=1) if spread == "variance" else a.max(0) - a.min(0)
    usual = np.quantile(delta[given["mask"]], 0.95)
    weight = np.maximum(1 / (1 + 2.0 * np.minimum(delta / usual, 10)), 0.01)
    assert weight[given["mask"]].min() < 0.4
    out = found(given, agreement="token", gamma=2.0, spread=spread)
    assert out["loss"] == pytest.approx(weighted(forward(given), weight, given["mask"]))


def test_a_sequences_weight_cancels_as_released_and_acts_where_tokens_are_counted() -> None:
    given = given_with()
    a, mask = np.stack([taken(given["teacher_logits"][name], given, 1.0) for name in CONTEXTS]), given["mask"]
    mean = (a * mask).sum(-1) / mask.sum(1)
    weight = np.exp(-0.4 * mean.var(0))[:, None] * np.ones_like(a[0])
    released = found(given, agreement="sequence", gamma=0.4)["loss"]
    assert released == pytest.approx(weighted(forward(given), weight, mask))
    counted = found(given, agreement="sequence", gamma=0.4, normalize="tokens")["loss"]
    assert counted == pytest.approx(mean_of_sequences(forward(given) * weight, mask))
    long = {**given, "mask": mask & (mask.sum(1) > 3)[:, None]}
    assert (weight * long["mask"]).sum(1)[long["mask"].any(1)].min() > 1
    plain = found(long)["grad"]
    np.testing.assert_allclose(found(long, agreement="sequence", gamma=0.4)["grad"], plain, atol=1e-15)
    assert (
        np.abs(found(long, agreement="sequence", gamma=0.4, normalize="tokens")["grad"] - plain).max() > 1e-4
    )


@pytest.mark.parametrize("by", ["token", "sequence"])
def test_equal_contexts_and_a_gamma_of_zero_are_the_base(by: str) -> None:
    given = given_with()
    base = found(given)
    same = given["teacher_logits"]["teacher"]
    for out in (
        found(given_with(**dict.fromkeys(CONTEXTS, same)), agreement=by, gamma=5.0),
        found(given, agreement=by, gamma=0.0),
    ):
        assert out["loss"] == pytest.approx(base["loss"], rel=1e-12)
        np.testing.assert_allclose(out["grad"], base["grad"], atol=1e-15)


def test_rows_without_the_further_contexts_weigh_one() -> None:
    blind = {**given_with(), "available": {"context_1": np.zeros(6, dtype=bool)}}
    base = found(given_with())["loss"]
    assert found(blind, agreement="token", gamma=3.0)["loss"] == pytest.approx(base, rel=1e-12)
    assert found(given_with(), agreement="token", gamma=3.0)["loss"] != pytest.approx(base, rel=1e-3)


def test_a_clip_bounds_a_token_and_a_large_one_does_nothing() -> None:
    given = given_with()
    loss, mask = forward(given), given["mask"]
    assert found(given, clip_token=0.5)["loss"] == pytest.approx(
        mean_of_sequences(np.minimum(loss, 0.5), mask)
    )
    assert found(given, clip_token=1e6)["loss"] == found(given)["loss"]
    bound = np.quantile(loss[mask], 0.6)
    out = found(given, clip_quantile=0.6)
    assert out["loss"] == pytest.approx(mean_of_sequences(np.minimum(loss, bound), mask))
    assert (out["grad"][(loss > bound) & mask] == 0).all()


def test_the_hinge_pulls_to_the_good_and_from_the_wrong_demonstration() -> None:
    given = given_with()
    own, good, wrong = (
        taken(x, given, 0.7)
        for x in (
            given["student_logits"],
            given["teacher_logits"]["teacher"],
            given["teacher_logits"]["wrong"],
        )
    )
    hinge = np.maximum(0.5 + abs(own - good) - abs(own - wrong), 0)
    assert 0 < (hinge > 0).mean() < 1
    out = found(given, contrast=0.1, margin=0.5)
    assert out["terms"]["contrast"] == pytest.approx(0.1 * mean_of_sequences(hinge, given["mask"]))
    same = found(given_with(wrong=given["teacher_logits"]["teacher"]), contrast=1.0, margin=0.5)
    assert same["terms"]["contrast"] == pytest.approx(0.5)
    np.testing.assert_allclose(same["grad"], found(given)["grad"], atol=1e-15)


def test_features_are_drawn_to_the_teachers_last_layer() -> None:
    given = given_with()
    gap = given["student_hidden"] - given["teacher_hidden"]["teacher"]
    out = found(given, features=0.1, distill_weight=0.0)
    assert out["loss"] == pytest.approx(0.1 * mean_of_sequences((gap**2).mean(-1), given["mask"]))
    scale = given["mask"] / given["mask"].sum(1, keepdims=True) / 6
    np.testing.assert_allclose(out["grad_hidden"]["student"], 0.1 * scale[..., None] * gap / 2, atol=1e-15)


def test_a_student_that_is_its_teacher_is_at_rest() -> None:
    given = given_with()
    given["teacher_logits"] = dict.fromkeys(ROLES, given["student_logits"])
    given["teacher_hidden"] = dict.fromkeys(ROLES, given["student_hidden"])
    out = evaluate("unisd", given, overrides={"contrast": 0.0})
    assert out["loss"] == pytest.approx(0.0, abs=1e-15)
    np.testing.assert_allclose(out["grad"], 0.0, atol=1e-15)


def test_who_scores() -> None:
    full = recipe_named("unisd")
    assert set(full.teachers) == set(ROLES)
    assert {one.weights for one in full.teachers.values()} == {EMA(0.98, 10, from_start=True)}
    base = recipe_named("unisd", "base")
    assert {name: one.weights for name, one in base.teachers.items()} == {"teacher": Frozen()}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"contexts": 1}, "contexts: at least 2"),
        ({"clip_token": 1.0, "clip_quantile": 0.9}, "one bound"),
        ({"distill_weight": 0.0, "contrast": 0.0, "features": 0.0}, "nothing is learned"),
    ],
)
def test_what_cannot_be_is_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_knobs(recipe_named("unisd"), words)


def test_the_nearest_share_most_words() -> None:
    pool = [{"key": str(i), "problem": p, "text": ""} for i, p in enumerate(["a b", "x y", "a b c", "a x"])]
    assert [one["key"] for one in nearest("a b c", pool, 2)] == ["2", "0"]
