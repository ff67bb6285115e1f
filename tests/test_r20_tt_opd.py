"""Card 20: TT-OPD as it is described and as it ran, in numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from arrays import VOCABULARY, arrays, log_softmax
from episodes import Episodes, prompt
from selfteach.control.kl_gate import KLGate
from selfteach.errors import UserError
from selfteach.policy.loading import load_policy
from selfteach.recipes import Recipe, recipe_named, with_knobs
from selfteach.recipes.cosine_reward import CosineReward
from selfteach.recipes.kit import EMA, Frozen, Plain, Trajectory
from selfteach.recipes.r20_tt_opd import TTOPD, distinct
from selfteach.roles.hint import Hint
from selfteach.roles.store import WeightStore
from selfteach.testing import evaluate


def taken(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.take_along_axis(log_softmax(logits), ids[..., None], -1)[..., 0]


def batch(**numbers: Any) -> dict[str, Any]:
    """On-policy rows that do not repeat themselves, each of ten fives."""
    given = arrays(teachers=("teacher", "reference"))
    given["behavior"] = taken(given["student_logits"], given["ids"])
    known = {"fives": np.full(6, 10.0), "distinct": np.ones(6), **numbers}
    return {**given, "numbers": known}


def alone(given: dict[str, Any], **knobs: Any) -> np.ndarray:
    """[N, T, V] the gradient of the distillation without the policy gradient: the difference of two λ."""
    one, other = (evaluate("tt-opd", given, overrides={**knobs, "distill_weight": w}) for w in (2.0, 1.0))
    return one["grad"] - other["grad"]


def score(given: dict[str, Any]) -> np.ndarray:
    return np.eye(VOCABULARY)[given["ids"]] - np.exp(log_softmax(given["student_logits"]))


def gap(given: dict[str, Any]) -> np.ndarray:
    return taken(given["student_logits"], given["ids"]) - taken(
        given["teacher_logits"]["teacher"], given["ids"]
    )


# --- the reward --------------------------------------------------------------------------------------------------


def test_the_reward_runs_from_one_end_to_the_other() -> None:
    right, length = (
        torch.tensor([True] * 3 + [False] * 3),
        torch.tensor([0.0, 100 - 1e-9, 50.0] * 2, dtype=torch.float64),
    )
    found = CosineReward().of(right, length, 100.0)
    assert found.tolist() == pytest.approx([1.1, 0.7, 0.9, 0.0, -0.3, -0.15])
    beyond = CosineReward().of(right[2:4], torch.tensor([100.0, 1e6]).double(), 100.0)
    assert beyond.tolist() == [-0.5, -0.5]


def test_of_equally_right_answers_the_shorter_one_is_reinforced() -> None:
    given = {**batch(fives=np.array([10.0, 90, 90, 10, 10, 10])), "reward": np.ones(6)}
    out = evaluate("tt-opd", given, overrides={"distill_weight": 0.0, "longest": 100})
    first = np.take_along_axis(out["grad"], given["ids"][..., None], -1)[..., 0]
    assert (first[0][given["mask"][0]] < 0).all()  # descent makes its tokens likelier
    assert (first[1][given["mask"][1]] > 0).all()
    assert not out["grad"][3:].any()


def test_the_longest_answer_is_max_tokens_unless_it_is_said() -> None:
    given = batch(fives=np.array([10.0, 60, 90, 20, 30, 40]))
    one, other = (
        evaluate("tt-opd", given, overrides=knobs) for knobs in ({"max_tokens": 100}, {"longest": 100})
    )
    assert one["metrics"]["reward/shaped"] == other["metrics"]["reward/shaped"]


def test_repeating_answers_stand_in_no_mean_and_are_not_reinforced() -> None:
    """Group 0: the second row is degenerate; the others have the advantages of a group of two."""
    given = batch(distinct=np.array([1.0, 0.2, 1, 1, 1, 1]))
    out = evaluate("tt-opd", given, overrides={"distill_weight": 0.0})
    assert not out["grad"][1].any()
    shaped = (
        CosineReward().of(torch.tensor([True, False]), torch.tensor([10.0, 10.0]).double(), 12288.0).numpy()
    )
    advantage = (shaped - shaped.mean()) / (shaped.std(ddof=1) + 1e-4)
    expected = -advantage[:, None, None] * score(given)[[0, 2]] * given["mask"][[0, 2], :, None]
    np.testing.assert_allclose(out["grad"][[0, 2]], expected / given["mask"].sum(), atol=1e-12)
    counted = evaluate("tt-opd", given, overrides={"distill_weight": 0.0, "min_distinct": 0.0})
    assert counted["grad"][1].any()


def test_repetition_is_told_by_pieces_of_four_tokens() -> None:
    assert distinct([1, 2, 3]) == distinct(list(range(50))) == 1
    assert distinct([7] * 13) == pytest.approx(1 / 10)
    assert distinct([1, 2] * 6 + [1]) == pytest.approx(2 / 10)


# --- the distillation --------------------------------------------------------------------------------------------


def test_its_gradient_is_the_gap_times_the_score_over_all_tokens() -> None:
    given = batch()
    expected = gap(given)[..., None] * score(given) * given["mask"][..., None] / given["mask"].sum()
    np.testing.assert_allclose(alone(given), expected, atol=1e-12)


def test_in_the_mean_over_tokens_it_is_the_reverse_kls() -> None:
    """One row a token of the vocabulary, each weighted by its probability."""
    rng = np.random.default_rng(2)
    here, there = rng.normal(size=(2, VOCABULARY))
    p, q = log_softmax(here), log_softmax(there)
    ids = np.arange(VOCABULARY)[:, None]
    given = {
        "ids": ids,
        "mask": np.ones_like(ids, dtype=bool),
        "student_logits": np.tile(here, (VOCABULARY, 1, 1)),
        "teacher_logits": {"teacher": np.tile(there, (VOCABULARY, 1, 1))},
        "behavior": p[:, None],
        "group": np.zeros(VOCABULARY, dtype=int),
        "reward": np.ones(VOCABULARY),
        "numbers": {"fives": np.ones(VOCABULARY), "distinct": np.ones(VOCABULARY)},
    }
    each = alone(given)[:, 0] * VOCABULARY
    kl = (np.exp(p) * (p - q)).sum()
    np.testing.assert_allclose(np.exp(p) @ each, np.exp(p) * (p - q - kl), atol=1e-12)


def test_the_sign_is_flipped_where_the_advantage_is_negative() -> None:
    given = batch()  # rewards 1 0 0 · 1 1 0
    plain, flipped = alone(given), alone(given, flip=True)
    sign = np.array([1, -1, -1, 1, 1, -1])[:, None, None]
    np.testing.assert_allclose(flipped, sign * plain, atol=1e-13)
    assert np.abs(plain[1]).max() > 0


def test_on_policy_the_clip_changes_no_gradient_and_off_policy_it_does() -> None:
    given = batch()
    np.testing.assert_allclose(alone(given, clip_distill=True), alone(given), atol=1e-13)
    away = {**given, "behavior": given["behavior"] - 1.0}  # every ratio is e: clipped where it gains
    ours = alone(away, clip_distill=True)
    reached = np.abs(ours).max(-1) > 0
    np.testing.assert_array_equal(reached[given["mask"]], gap(given)[given["mask"]] > 0)
    expected = math.e * gap(given)[..., None] * score(given) / given["mask"].sum()
    np.testing.assert_allclose(ours[reached], expected[reached], atol=1e-12)


def test_no_first_turns_are_all_turns() -> None:
    turn = np.minimum(np.arange(9) // 3, 2)[None].repeat(6, 0)
    given = {**batch(), "turn": turn}
    every, some = alone(given), alone(given, first_turns=1)
    assert (np.abs(every).max(-1) > 0)[given["mask"]].all()
    np.testing.assert_allclose(some, every * (turn < 1)[..., None], atol=1e-14)
    np.testing.assert_array_equal(alone(given, first_turns=3), every)


def test_the_half_that_the_teacher_finds_likeliest_is_kept() -> None:
    given = batch()
    moved = np.abs(alone(given, top_share=0.5)).max(-1) > 0
    theirs = np.where(given["mask"], taken(given["teacher_logits"]["teacher"], given["ids"]), -np.inf)
    for row, length in enumerate(given["mask"].sum(1)):
        kept = np.argsort(-theirs[row])[: max(1, length // 2)]
        assert set(np.flatnonzero(moved[row])) == set(kept)


def test_the_kl_to_the_teacher_is_reported() -> None:
    given = batch()
    assert evaluate("tt-opd", given)["metrics"]["kl/teacher"] == pytest.approx(
        gap(given)[given["mask"]].mean()
    )


# --- who teaches -------------------------------------------------------------------------------------------------


def test_described_and_as_run_are_two_methods() -> None:
    teacher = recipe_named("tt-opd").teachers["teacher"]
    assert teacher.weights == EMA(0.995, 5, 30, from_start=True)
    assert isinstance(teacher.view, Hint)
    ran = recipe_named("tt-opd", "as-run")
    assert {name: (one.weights, one.view) for name, one in ran.teachers.items()} == {
        "teacher": (Frozen(), Plain()), "reference": (Frozen(), Plain()),
    }  # fmt: skip
    given = batch()
    out = evaluate(ran, given)
    assert list(out["terms"]) == ["policy", "distill", "kl"]


def test_the_average_nears_a_fixed_student_as_its_decay_says_until_it_is_copied(tiny: str) -> None:
    """After n updates θ + αⁿ (θ_T0 − θ), an update every fifth step; at the thirtieth step θ itself."""
    student, spec = load_policy(tiny), TTOPD().teachers["teacher"].weights
    store = WeightStore({"policy": student}, load_policy, [])
    store.enter([spec])
    with torch.no_grad():
        for parameter in student.trainable().values():
            parameter.add_(0.5)
    (name, now), *_ = student.trainable().items()
    for step in range(1, 31):
        store.after_step()
        with store.scoring(spec) as policy:
            held = dict(policy.model.named_parameters())[name].detach().clone()
        behind = 0.995 ** (step // 5) if step < 30 else 0.0
        torch.testing.assert_close(held, now.detach() - 0.5 * behind, rtol=0, atol=1e-5)


def graded(reward: float | None) -> Trajectory:
    return Episodes([("x", reward)]).play([prompt("a", 0)])[0]


def test_the_hint_is_a_turn_behind_the_prompt_by_outcome() -> None:
    view = Hint("fine", "look again")
    for reward, said in ((1.0, "fine"), (0.0, "look again")):
        one = graded(reward)
        shown = view(one, [one], {})
        assert shown is not None
        assert shown[:-1] == one.example.prompt
        assert shown[-1] == {"role": "user", "content": said}


def test_an_empty_hint_and_an_ungraded_rollout_leave_the_plain_prompt() -> None:
    for view, one in (
        (Hint("", "wrong"), graded(1.0)),
        (Hint("right", ""), graded(0.0)),
        (Hint("a", "b"), graded(None)),
    ):
        assert view(one, [one], {}) == one.example.prompt


def test_the_rollouts_say_how_long_they_are_and_how_they_repeat() -> None:
    tools = Episodes([("abcdefghij", 1.0), ("", 0.0), ("a", 0.0)])
    tools.text = lambda ids: "x" * 5 * len(ids)  # type: ignore[attr-defined]  # of what it wrote, not of the exchange
    rows = TTOPD().rollout(tools, [prompt("a", 0)], 0)  # type: ignore[arg-type]
    assert [one.numbers["fives"] for one in rows] == [2.0, 2.0, 2.0]
    assert [one.numbers["distinct"] for one in rows] == [1.0, 1.0, 1.0]


# --- the coefficient ---------------------------------------------------------------------------------------------


def test_the_coefficient_goes_out_in_a_line() -> None:
    gate = KLGate()
    assert [2.0 * gate.share(kl) for kl in (0.0, 0.3, 0.4, 0.5, 0.7, 9.0)] == pytest.approx(
        [2, 2, 1.5, 1, 0, 0]
    )
    assert 2.0 * KLGate(kl_floor=0.05).share(9.0) == pytest.approx(0.1)


@pytest.mark.parametrize(("monotone", "last"), [(True, 0.5), (False, 2.0)])
def test_it_is_raised_again_only_on_request(monotone: bool, last: float) -> None:
    controller = KLGate(monotone=monotone).of(2.0).start(0)
    chosen = []
    for kl in (0.2, 0.5, 0.6, 0.1):
        controller.observe({"kl/teacher": kl})
        chosen.append(controller.choose(0.0))
    assert chosen == pytest.approx([2.0, 1.0, 0.5, last])
    again = KLGate(monotone=monotone).of(2.0).start(0)
    again.load_state(controller.state())
    assert again.choose(0.0) == controller.choose(0.0)


def phasing() -> Recipe:
    return recipe_named("tt-opd", "phase-out")


def test_the_teacher_stays_where_its_coefficient_has_gone_out() -> None:
    assert set(phasing().controllers) == {"distill_weight"}
    gone = with_knobs(phasing(), {"distill_weight": 0.0})
    assert set(gone.teachers) == {"teacher"}
    out = evaluate(gone, batch())
    assert out["terms"]["distill"] == 0
    assert "kl/teacher" in out["metrics"]
    assert with_knobs(TTOPD(), {"distill_weight": 0.0}).teachers == {}


@pytest.mark.parametrize(
    ("knobs", "said"), [({"per_prompt": 1}, "per_prompt"), ({"kl_low": 0.8}, "kl_low 0.8 must lie below")]
)
def test_what_cannot_be_is_refused(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_knobs(TTOPD(), knobs)
