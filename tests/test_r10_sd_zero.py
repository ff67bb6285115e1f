"""Card 10: self-distillation zero, its two stages and what the reviser reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from arrays import LENGTHS, STEPS, arrays, log_softmax, mean_of_sequences, slopes
from selfteach.errors import UserError
from selfteach.policy.loading import Policy
from selfteach.policy.renderer import ChatRenderer
from selfteach.policy.room import room_of
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.kit import Recipe
from selfteach.recipes.r10_sd_zero import SDZero, SelfRevision
from selfteach.roles.store import WeightStore
from selfteach.roles.weights import Frozen, Lagged
from selfteach.task.example import Example, Grade, Message
from selfteach.task.trajectory import Trajectory
from selfteach.testing import evaluate
from selfteach.training.text.contexts import rendered_ids
from tiny import tiny_model, tiny_tokenizer

FULL = {"loss_top_k": None}


def log_probs(given: dict[str, Any], temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    return (
        log_softmax(given["student_logits"], temperature),
        log_softmax(given["teacher_logits"]["teacher"], temperature),
    )


def mean_of_sums(per_token: np.ndarray, mask: np.ndarray) -> float:
    return float((per_token * mask).sum(1).mean())


# --- phase 2 -----------------------------------------------------------------------------------------------------


def test_the_default_is_the_papers_sum_over_tokens_of_reverse_kl() -> None:
    given = arrays()
    p, q = log_probs(given)
    expected = mean_of_sums((np.exp(p) * (p - q)).sum(-1), given["mask"])
    assert evaluate("sd-zero", given, overrides=FULL)["loss"] == pytest.approx(expected, rel=1e-12)
    assert evaluate("sd-zero", given)["loss"] == pytest.approx(expected, rel=1e-12)  # V < 64


def test_beyond_the_students_top_k_one_bucket_holds_the_rest() -> None:
    given = arrays()
    p, q = log_probs(given)
    top = np.argsort(-p, axis=-1)[..., :4]
    p4, q4 = (np.exp(np.take_along_axis(x, top, -1)) for x in (p, q))
    p5, q5 = (np.concatenate([x, 1 - x.sum(-1, keepdims=True)], -1) for x in (p4, q4))
    expected = mean_of_sums((p5 * np.log(p5 / q5)).sum(-1), given["mask"])
    assert evaluate("sd-zero", given, overrides={"loss_top_k": 4})["loss"] == pytest.approx(
        expected, rel=1e-10
    )


def test_the_mean_may_be_over_sequences_or_tokens() -> None:
    given = arrays()
    p, q = log_probs(given)
    per_token = (np.exp(p) * (p - q)).sum(-1)
    loss = evaluate("sd-zero", given, overrides={"mean_over": "sequences"})["loss"]
    assert loss == pytest.approx(mean_of_sequences(per_token, given["mask"]), rel=1e-12)
    loss = evaluate("sd-zero", given, overrides={"mean_over": "tokens"})["loss"]
    assert loss == pytest.approx(per_token[given["mask"]].mean(), rel=1e-12)


def test_the_gradient_is_that_of_finite_differences() -> None:
    given, knobs = arrays(), {"loss_top_k": 5}
    gradient = evaluate("sd-zero", given, overrides=knobs)["grad"]

    def loss(moved: np.ndarray) -> float:
        return evaluate("sd-zero", {**given, "student_logits": moved}, overrides=knobs)["loss"]

    for i, slope in slopes(given["student_logits"], loss):
        assert slope == pytest.approx(gradient[i], abs=1e-7)


@pytest.mark.parametrize("knobs", [{}, FULL, {"loss_top_k": 3}])
def test_a_reviser_that_agrees_gives_zero_loss_and_zero_gradient(knobs: dict[str, Any]) -> None:
    given = arrays()
    given["teacher_logits"] = {"teacher": given["student_logits"].copy()}
    out = evaluate("sd-zero", given, overrides=knobs)
    assert out["loss"] == pytest.approx(0, abs=1e-13)
    np.testing.assert_allclose(out["grad"], 0, atol=1e-13)


def test_changing_the_reviser_changes_the_gradient() -> None:
    given = arrays()
    other = {**given, "teacher_logits": {"teacher": given["teacher_logits"]["teacher"] + np.arange(13) * 0.1}}
    a, b = (evaluate("sd-zero", x)["grad"] for x in (given, other))
    assert np.abs(a - b).max() > 1e-4


def test_rewards_have_no_other_way_into_the_loss_than_what_the_reviser_reads() -> None:
    given = arrays()
    flipped = {**given, "reward": 1 - given["reward"]}
    np.testing.assert_array_equal(evaluate("sd-zero", given)["grad"], evaluate("sd-zero", flipped)["grad"])


def test_a_row_whose_reviser_has_no_room_is_left_out_of_the_mean() -> None:
    given = arrays()
    seen = np.array([True, True, False, True, False, True])
    p, q = log_probs(given)
    per_row = ((np.exp(p) * (p - q)).sum(-1) * given["mask"]).sum(1)
    out = evaluate("sd-zero", {**given, "available": {"teacher": seen}})
    assert out["loss"] == pytest.approx(per_row[seen].mean(), rel=1e-12)
    assert (out["grad"][~seen] == 0).all()


def test_the_order_of_rows_changes_nothing() -> None:
    given = arrays()
    order = np.random.default_rng(2).permutation(len(LENGTHS))
    mixed = {
        "ids": given["ids"][order],
        "mask": given["mask"][order],
        "student_logits": given["student_logits"][order],
        "teacher_logits": {"teacher": given["teacher_logits"]["teacher"][order]},
    }
    a, b = evaluate("sd-zero", given), evaluate("sd-zero", mixed)
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-13)
    np.testing.assert_allclose(a["grad"][order], b["grad"], atol=1e-15)


def test_the_loss_reads_plain_log_probs_unless_told_the_sampling_temperature() -> None:
    assert SDZero().rollouts.temperature == 0.7
    assert SDZero().temperature == 1.0
    given = arrays()
    p, q = log_probs(given, 0.7)
    expected = mean_of_sums((np.exp(p) * (p - q)).sum(-1), given["mask"])
    assert evaluate("sd-zero", given, overrides={"loss_temperature": None})["loss"] == pytest.approx(
        expected, rel=1e-12
    )


# --- phase 1 -----------------------------------------------------------------------------------------------------


def revised_rows() -> dict[str, Any]:
    """Rows of draft, phrase and revision: the revision is the last half of each."""
    given = arrays()
    given["marks"] = {"revision": np.arange(STEPS) >= (LENGTHS[:, None] // 2)}
    return given


def nll(given: dict[str, Any]) -> np.ndarray:
    p = log_softmax(given["student_logits"])
    return -np.take_along_axis(p, given["ids"][..., None], -1)[..., 0]


def test_revision_training_is_the_likelihood_of_the_text_plus_that_of_the_revision() -> None:
    given = revised_rows()
    out = evaluate(SelfRevision(), given)
    whole = mean_of_sums(nll(given), given["mask"])
    last = mean_of_sums(nll(given), given["mask"] & given["marks"]["revision"])
    assert out["terms"]["generate"] == pytest.approx(whole, rel=1e-12)
    assert out["terms"]["revise"] == pytest.approx(last, rel=1e-12)
    assert out["loss"] == pytest.approx(whole + last, rel=1e-12)


def test_the_generation_loss_is_that_of_draft_and_phrase_plus_the_revision_loss() -> None:
    given = revised_rows()
    terms = evaluate(SelfRevision(), given)["terms"]
    before = mean_of_sums(nll(given), given["mask"] & ~given["marks"]["revision"])
    assert terms["generate"] - terms["revise"] == pytest.approx(before, rel=1e-12)


@pytest.mark.parametrize(("losses", "left"), [("generate", "generate"), ("revise", "revise")])
def test_either_half_of_revision_training_can_be_had_alone(losses: Any, left: str) -> None:
    given = revised_rows()
    alone = evaluate(SelfRevision(losses=losses), given)
    both = evaluate(SelfRevision(), given)
    assert list(alone["terms"]) == [left]
    assert alone["loss"] == pytest.approx(both["terms"][left], rel=1e-12)


def test_the_revision_loss_alone_leaves_the_draft_without_gradient() -> None:
    given = revised_rows()
    gradient = evaluate(SelfRevision(losses="revise"), given)["grad"]
    revision = given["mask"] & given["marks"]["revision"]
    assert (gradient[~revision] == 0).all()
    assert (np.abs(gradient[revision]).max(-1) > 0).all()


# --- the two stages ----------------------------------------------------------------------------------------------


def test_revision_training_comes_first_and_distillation_last() -> None:
    recipe = SDZero()
    stages = recipe.stages
    assert list(stages) == ["revise", "distill"]
    assert stages["distill"] is recipe
    first = stages["revise"]
    assert isinstance(first, SelfRevision)
    assert first.revisions == 3
    assert first.rollouts.stored == 10000
    assert (first.optimization.lr, first.optimization.schedule, first.optimization.steps) == (
        5e-6,
        "cosine",
        375,
    )
    assert type(recipe).rollout is Recipe.rollout
    assert recipe.rollouts.stored == 0


def test_the_knobs_of_phase_one_reach_it() -> None:
    recipe = with_knobs(
        SDZero(),
        {"srt_steps": 7, "srt_drafts": 8, "revisions": 2, "srt_losses": "revise", "mean_over": "tokens"},
    )
    first = recipe.stages["revise"]
    assert isinstance(first, SelfRevision)
    assert (first.optimization.steps, first.rollouts.stored) == (7, 8)
    assert (first.revisions, first.losses, first.mean_over) == (2, "revise", "tokens")


def test_without_steps_of_phase_one_there_is_distillation_alone() -> None:
    assert list(with_knobs(SDZero(), {"srt_steps": 0}).stages) == ["distill"]


def test_the_teacher_is_frozen_or_copied_now_and_then() -> None:
    assert SDZero().teachers["teacher"].weights == Frozen()
    assert recipe_named("sd-zero", "iterated").teachers["teacher"].weights == Lagged(400)


def test_a_copied_teacher_is_the_student_bit_for_bit() -> None:
    tokenizer = tiny_tokenizer()
    chat = ChatRenderer(tokenizer)
    model = tiny_model(chat.vocabulary)
    student = Policy("tiny", model, tokenizer, chat, chat.vocabulary, room_of(model))
    spec = with_knobs(SDZero(), {"sync_every": 2}).teachers["teacher"].weights
    store = WeightStore({"policy": student})
    store.enter([spec])
    for equal_after in (False, True):
        with torch.no_grad():
            for parameter in student.trainable().values():
                parameter.add_(0.01)
        store.after_step()
        own = {name: parameter.detach().clone() for name, parameter in student.trainable().items()}
        with store.scoring(spec) as policy:
            equal = [torch.equal(own[name], value) for name, value in policy.model.named_parameters()]
        assert all(equal) is equal_after


# --- what the reviser reads --------------------------------------------------------------------------------------

CHAT = ChatRenderer(tiny_tokenizer())
QUESTION = Example("q", (Message(role="user", content="2+2?"),), {"answer": "4"})


def read_by_the_reviser(text: str, reward: float, wording: dict[str, str]) -> str:
    prompt_ids = CHAT.prompt_ids(QUESTION.prompt)
    graded = Grade(reward)
    attempt = Trajectory.written(QUESTION, prompt_ids, [], text, group=0, finished=True, grade=graded)
    messages = SDZero().teachers["teacher"].view(attempt, [attempt], wording)
    assert messages is not None
    return CHAT.show(rendered_ids(CHAT, messages, None))


@pytest.mark.parametrize("wording", [{}, {"revise-right": "{attempt}|+", "revise-wrong": "{attempt}|-"}])
def test_the_reviser_reads_prompt_attempt_and_phrase_in_one_turn(wording: dict[str, str]) -> None:
    prompt = CHAT.show(CHAT.prompt_ids(QUESTION.prompt))
    right, wrong = (read_by_the_reviser("it is 5", reward, wording) for reward in (1.0, 0.0))
    assert right.startswith(prompt + "it is 5")
    assert wrong.startswith(prompt + "it is 5")
    phrases = [read.removeprefix(prompt + "it is 5") for read in (right, wrong)]
    assert all(phrases)
    assert phrases[0] != phrases[1]
    assert not any("it is 5" in phrase for phrase in phrases)
    other = read_by_the_reviser("four!", 0.0, wording)
    assert other == prompt + "four!" + phrases[1]


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"srt_steps": -1}, "srt_steps"),
        ({"srt_drafts": 0}, "srt_drafts"),
        ({"revisions": 0}, "revisions"),
        ({"sync_every": -1}, "sync_every"),
        ({"loss_top_k": 0}, "loss_top_k"),
        ({"loss_temperature": 0.0}, "loss_temperature"),
        ({"stored": 5}, "srt_drafts"),
    ],
)
def test_an_impossible_combination_refuses_to_construct(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_knobs(SDZero(), knobs)
