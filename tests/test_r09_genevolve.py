"""Card 9: what the paper says GenEvolve is, in numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from arrays import VOCABULARY, arrays, log_softmax
from episodes import Episodes, prompt
from selfteach.errors import UserError
from selfteach.recipes import with_knobs
from selfteach.recipes.r09_genevolve import STORE, GenEvolve, contrasts
from selfteach.testing import evaluate


def taken(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.take_along_axis(log_softmax(logits), ids[..., None], -1)[..., 0]


def batch(shown: tuple[int, ...] = (1, 1, 0, 1, 0, 1)) -> dict[str, Any]:
    """On-policy rows of equal rewards, some with an experience."""
    given = {**arrays(), "reward": np.ones(6), "available": {"teacher": np.array(shown, dtype=bool)}}
    given["behavior"] = taken(given["student_logits"], given["ids"])
    return given


def both(given: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(l, where the teacher sees something)."""
    gap = taken(given["student_logits"], given["ids"]) - taken(
        given["teacher_logits"]["teacher"], given["ids"]
    )
    return gap, given["mask"] & given["available"]["teacher"][:, None]


def distilled(given: dict[str, Any], **knobs: Any) -> dict[str, Any]:
    changes = {"kl": 0.0, "temperature": 1.0, "distill_weight": 1.0, **knobs}
    known = {"available"} if changes["distill_weight"] == 0 else set()  # of a role that is not there
    return evaluate("genevolve", {k: v for k, v in given.items() if k not in known}, overrides=changes)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 1.0])
def test_the_largest_gaps_of_the_batch_are_distilled_rounded_up(share: float) -> None:
    given = batch()
    gap, seen = both(given)
    count = math.ceil(share * seen.sum() - 1e-9)
    largest = np.sort(np.abs(gap[seen]))[::-1][:count]
    out = distilled(given, top_share=share)
    moved = np.abs(out["grad"]).max(-1) > 0
    assert moved.sum() == count
    np.testing.assert_allclose(np.sort(np.abs(gap[moved]))[::-1], largest)


@pytest.mark.parametrize(("mean", "share"), [("selected", 0.3), ("seen", 0.3), ("selected", 1.0)])
def test_at_ratio_one_the_gradient_is_the_gap_times_the_score_over_the_named_tokens(
    mean: str, share: float
) -> None:
    given = batch()
    gap, seen = both(given)
    out = distilled(given, top_share=share, distill_mean=mean)
    chosen = np.abs(out["grad"]).max(-1) > 0
    over = chosen.sum() if mean == "selected" else seen.sum()
    score = np.eye(VOCABULARY)[given["ids"]] - np.exp(log_softmax(given["student_logits"]))
    np.testing.assert_allclose(out["grad"], (gap * chosen / over)[..., None] * score, atol=1e-13)
    value = ((np.exp(-gap) - 1 + gap) * chosen).sum() / over
    assert out["terms"]["distill"] == pytest.approx(value, rel=1e-12)


def test_a_tenth_of_the_tokens_has_a_tenth_of_the_weight_if_all_are_counted() -> None:
    given = batch()
    one, other = (distilled(given, distill_mean=mean)["terms"]["distill"] for mean in ("seen", "selected"))
    _, seen = both(given)
    assert one / other == pytest.approx(math.ceil(0.1 * seen.sum()) / seen.sum())


def test_the_ratio_is_capped_and_the_gap_bound() -> None:
    given = batch()
    given["behavior"] = given["behavior"] - math.log(5)  # every ratio is 5
    gap, seen = both(given)
    k3 = np.exp(-gap) - 1 + gap
    capped, free = (distilled(given, top_share=1.0, ratio_cap=cap)["terms"]["distill"] for cap in (2.0, None))
    assert capped == pytest.approx(2 * k3[seen].mean(), rel=1e-12)
    assert free == pytest.approx(5 * k3[seen].mean(), rel=1e-12)
    held = np.clip(gap, -0.5, 0.5)
    bound = distilled(given, top_share=1.0, gap_bound=0.5)["terms"]["distill"]
    assert bound == pytest.approx(2 * (np.exp(-held) - 1 + held)[seen].mean(), rel=1e-12)


def test_without_an_experience_there_is_nothing_but_grpo() -> None:
    given = {**batch((0,) * 6), "reward": arrays()["reward"]}
    out = distilled(given)
    assert out["terms"]["distill"] == 0
    np.testing.assert_array_equal(out["grad"], distilled(given, distill_weight=0.0)["grad"])


def test_the_policy_gradient_sums_tokens_and_averages_rollouts() -> None:
    given = {**batch(), "reward": arrays()["reward"]}
    out = distilled(given, distill_weight=0.0)
    group = np.array([1, -0.5, -0.5, 0.5, 0.5, -1]) * 2 / 3
    advantage = group / (np.sqrt(1 / 3) + 1e-4)
    score = np.eye(VOCABULARY)[given["ids"]] - np.exp(log_softmax(given["student_logits"]))
    expected = -(advantage[:, None] * given["mask"] / 6)[..., None] * score
    np.testing.assert_allclose(out["grad"], expected, atol=1e-13)


# --- what is written ---------------------------------------------------------------------------------------------


def rule(**knobs: Any) -> GenEvolve:
    return with_knobs(GenEvolve(), {"summarizer": "rule", "per_prompt": 2, **knobs})  # type: ignore[return-value]


def rows_of(*rewards: tuple[float, ...]) -> list[Any]:
    """Rollouts of a group each, named by group and place."""
    tools = Episodes([(f"{g}.{i}", r) for g, each in enumerate(rewards) for i, r in enumerate(each)])
    return [row for g, each in enumerate(rewards) for row in tools.play([prompt(f"{g}", g)], len(each))]


def test_best_and_worst_are_compared_where_they_lie_far_enough_apart() -> None:
    rows = rows_of((0.5, 0.6, 0.5), (0.9, 0.7), (0.0, 1.0, 0.2), (0.4, 0.4))
    assert [(a.text, b.text) for a, b in contrasts(rows, 0.2)] == [("2.1", "2.0"), ("1.0", "1.1")]
    assert [(a.text, b.text) for a, b in contrasts(rows, 0.0)][-1] == ("0.1", "0.0")  # equal ones never


def test_at_most_so_many_are_compared_in_a_step() -> None:
    tools = Episodes([("a", 1.0), ("b", 0.0), ("c", 0.6), ("d", 0.0), ("e", 0.8), ("f", 0.0)])
    prompts = [prompt(f"{g}", g, f"problem {g} {'x' * g}") for g in range(3)]
    rule(comparisons=2).rollout(tools, prompts, 0)  # type: ignore[arg-type]
    entries = tools.store(STORE).notes["entries"]
    assert [(one["text"], one["gap"]) for one in entries] == [("a", 1.0), ("e", 0.8)]


def test_the_teacher_of_the_same_step_reads_what_its_group_has_taught_and_others_what_is_like_it() -> None:
    tools = Episodes([("a", 1.0), ("b", 0.0), ("c", 0.5), ("d", 0.5), ("e", 0.5), ("f", 0.5)])
    prompts = [
        prompt("0", 0, "paint a cat in red"),
        prompt("1", 1, "paint a cat in red"),
        prompt("2", 2, "sing"),
    ]
    rows = rule().rollout(tools, prompts, 0)  # type: ignore[arg-type]
    assert [one.example.private.get("experience") for one in rows] == ["a", "a", "a", "a", None, None]
    (entry,) = tools.store(STORE).notes["entries"]
    assert (entry["uses"], entry["reward"]) == (2, 0.5)


def test_who_summarizes_reads_both_attempts_with_their_rewards() -> None:
    tools = Episodes([("north", 0.75), ("", 0.25)])
    rule(summarizer="self").rollout(tools, [prompt("0", 0)], 0)  # type: ignore[arg-type]
    (asked,) = tools.written
    assert asked.index("reward 0.75") < asked.index("north") < asked.index("reward 0.25")
    assert "(nothing)" in asked


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(UserError, match="per_prompt"):
        with_knobs(GenEvolve(), {"per_prompt": 1})
