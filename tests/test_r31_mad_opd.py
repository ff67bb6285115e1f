"""Card 31: what the paper and its code say MAD-OPD is, in numbers, and how its debates are held."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arrays import arrays, log_softmax, mean_of_sequences
from doors import run_of_recipe
from guessing import GuessingTask
from selfteach.errors import UserError
from selfteach.objective.divergence import ReverseKL
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.debate import UNSTATED, confidence
from selfteach.recipes.r31_mad_opd import MADOPD, repetition, weights
from selfteach.recipes.tools import Prompt
from selfteach.roles.told import Told
from selfteach.task.example import Example, Message
from selfteach.task.segment import ENVIRONMENT, Segment
from selfteach.task.trajectory import Trajectory
from selfteach.testing import evaluate
from test_turn_contexts import FORGETFUL
from tiny import CHATML, tiny_model_folder

TWO = ("teacher-A", "teacher-B")
ROUND = 1e-12


def given(**confidences: Any) -> dict[str, Any]:
    made = arrays(teachers=TWO)
    made["numbers"] |= {
        f"confidence-{letter}": np.array(value, float) for letter, value in confidences.items()
    }
    return made


def jsd(q: np.ndarray, p: np.ndarray, beta: float = 0.5) -> np.ndarray:
    """[N, T] of log-probs, as the card writes it."""
    if beta == 0:
        return (np.exp(q) * (q - p)).sum(-1)
    if beta == 1:
        return (np.exp(p) * (p - q)).sum(-1)
    m = np.log(beta * np.exp(q) + (1 - beta) * np.exp(p))
    return beta * (np.exp(q) * (q - m)).sum(-1) + (1 - beta) * (np.exp(p) * (p - m)).sum(-1)


def by_teacher(made: dict[str, Any], beta: float = 0.5) -> list[np.ndarray]:
    p = log_softmax(made["student_logits"])
    return [jsd(log_softmax(made["teacher_logits"][name]), p, beta) for name in TWO]


# --- the loss ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_the_loss_is_the_weighted_sum_of_the_teachers_divergences(beta: float) -> None:
    a, b = np.array([100, 0, 50, 80, 10, 33]), np.array([0, 100, 50, 20, 90, 66])
    made = given(A=a, B=b)
    first = 1 / (1 + np.exp((b - a) / 100))
    one, other = by_teacher(made, beta)
    mixed = first[:, None] * one + (1 - first[:, None]) * other
    out = evaluate("mad-opd", made, overrides={"beta": beta})
    assert out["loss"] == pytest.approx(mean_of_sequences(mixed, made["mask"]), rel=ROUND)
    tokens = evaluate("mad-opd", made, overrides={"beta": beta, "mean_over": "tokens"})
    assert tokens["loss"] == pytest.approx(mixed[made["mask"]].mean(), rel=ROUND)


def test_confidences_become_weights() -> None:
    pairs = [(100, 0, 0.7311), (0, 100, 0.2689), (40, 40, 0.5), (UNSTATED, 90, 0.5), (10, UNSTATED, 0.5)]
    sure = torch.tensor([[a, b] for a, b, _ in pairs], dtype=torch.float64).T
    found = weights(sure, 1.0)
    np.testing.assert_allclose(found[0], [first for *_, first in pairs], atol=5e-5)
    np.testing.assert_allclose(found.sum(0), 1, atol=ROUND)
    with pytest.raises(ValueError, match="confidence is nan"):
        weights(sure * math.nan, 1.0)
    assert weights(sure[:, :1], 0.1)[0] == pytest.approx(1 / (1 + math.exp(-10)))


def test_a_missing_confidence_makes_all_weigh_alike() -> None:
    made = given(A=[90, UNSTATED, UNSTATED, 10, 20, 30], B=[90, 100, UNSTATED, 10, 20, 30])
    equal = evaluate("mad-opd", made, overrides={"weighting": "equal"})
    out = evaluate("mad-opd", made)
    np.testing.assert_allclose(out["grad"], equal["grad"], atol=1e-15)


def test_a_teacher_that_cannot_read_a_row_leaves_it_to_the_other() -> None:
    made = given(A=[90] * 6, B=[10] * 6)
    one, other = by_teacher(made)
    first = 1 / (1 + math.exp(-0.8))
    mixed = first * one + (1 - first) * other
    mixed[1], mixed[2] = one[1], other[2]
    available = {TWO[0]: np.arange(6) != 2, TWO[1]: np.arange(6) != 1}
    out = evaluate("mad-opd", {**made, "available": available})
    assert out["loss"] == pytest.approx(mean_of_sequences(mixed, made["mask"]), rel=ROUND)
    none = {name: seen & (np.arange(6) != 5) for name, seen in available.items()}
    out = evaluate("mad-opd", {**made, "available": none})
    assert out["loss"] == pytest.approx(mean_of_sequences(mixed[:5], made["mask"][:5]), rel=ROUND)


def test_equal_teachers_are_one() -> None:
    made = given(A=[90] * 6, B=[10] * 6)
    same = made["teacher_logits"][TWO[0]]
    out = evaluate("mad-opd", {**made, "teacher_logits": dict.fromkeys(TWO, same)})
    alone = evaluate(recipe_named("mad-opd", "opd"), {**made, "teacher_logits": {"teacher": same}})
    gkd = evaluate("gkd", {**made, "teacher_logits": {"teacher": same}}, overrides={"beta": 0.5})
    np.testing.assert_allclose(out["grad"], alone["grad"], atol=1e-15)
    np.testing.assert_allclose(alone["grad"], gkd["grad"], atol=1e-15)
    assert alone["loss"] == pytest.approx(gkd["loss"], rel=ROUND)


def test_without_a_debate_teachers_weigh_alike_and_need_no_number() -> None:
    made = {name: value for name, value in given().items() if name != "numbers"}
    out = evaluate(recipe_named("mad-opd", "mt-opd"), made)
    one, other = by_teacher(made)
    assert out["loss"] == pytest.approx(mean_of_sequences((one + other) / 2, made["mask"]), rel=ROUND)


def test_the_jsd_is_symmetric_and_at_most_log_two_and_its_gradient_is_bounded() -> None:
    rng = np.random.default_rng(0)
    made = {**given(A=[50] * 6, B=[50] * 6)}
    sharp = 30 * rng.normal(size=made["student_logits"].shape)
    made["student_logits"], made["teacher_logits"] = sharp, dict.fromkeys(TWO, -sharp)
    out = evaluate("mad-opd", made, overrides={"mean_over": "tokens"})
    turned = {**made, "student_logits": -sharp, "teacher_logits": dict.fromkeys(TWO, sharp)}
    assert 0 <= out["loss"] <= math.log(2)
    assert out["loss"] == pytest.approx(
        evaluate("mad-opd", turned, overrides={"mean_over": "tokens"})["loss"]
    )
    assert np.abs(out["grad"]).max() * made["mask"].sum() <= 2
    soft = {**turned, "student_logits": rng.normal(size=sharp.shape)}
    reverse = evaluate("mad-opd", soft, overrides={"mean_over": "tokens", "beta": 1.0})
    assert np.abs(reverse["grad"]).max() * made["mask"].sum() > 2


def test_on_a_mixture_of_disjoint_teachers_the_reverse_kl_rests_on_the_top_mode() -> None:
    """KL(p ‖ α q_A + (1 − α) q_B) at p = q_A is −log α: of the mixture, not of the mean of divergences."""
    a, b = torch.tensor([[0.7, 0.3, 0, 0], [0, 0, 0.5, 0.5]], dtype=torch.float64)
    for alpha in (0.6, 0.9):
        value, gradient = ReverseKL().value_and_logit_gradient(a.log(), (alpha * a + (1 - alpha) * b).log())
        assert float(value) == pytest.approx(-math.log(alpha))
        np.testing.assert_allclose(gradient, 0, atol=ROUND)


def test_a_teachers_likeliest_tokens_are_rescaled_on_both_sides() -> None:
    made = given(A=[50] * 6, B=[50] * 6)
    out = evaluate("mad-opd", made, overrides={"teacher_top_k": 3})
    p, expected = log_softmax(made["student_logits"]), np.zeros(made["mask"].shape)
    for name in TWO:
        q = log_softmax(made["teacher_logits"][name])
        ids = np.argsort(-q, axis=-1)[..., :3]
        kept = [log_softmax(np.take_along_axis(x, ids, -1)) for x in (q, p)]
        expected += jsd(*kept) / 2
    assert out["loss"] == pytest.approx(mean_of_sequences(expected, made["mask"]), rel=ROUND)


# --- the debate -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sure"),
    [
        ("so it is 4 <<CONFIDENCE=85>>", 85), ("<<CONFIDENCE=10>> no: <<CONFIDENCE=0>>", 0),
        ("<<CONFIDENCE=100>>", 100), ("<<CONFIDENCE=101>>", None), ("<<CONFIDENCE=-1>>", None),
        ("CONFIDENCE=50", None), ("<<CONFIDENCE=0.5>>", None), ("<<CONFIDENCE=1000>>", None), ("", None),
    ],
)  # fmt: skip
def test_a_confidence_is_read_from_its_tag_alone(text: str, sure: int | None) -> None:
    assert confidence(text) == (UNSTATED if sure is None else sure)


def test_the_share_of_repeated_three_grams() -> None:
    assert repetition([1, 2]) == 0
    assert repetition([1, 2, 3, 4]) == 0
    assert repetition([7] * 12) == pytest.approx(0.9)
    assert repetition([1, 2] * 4) == pytest.approx(4 / 6)


class Scripted:
    """Students and experts whose words are given; what each was shown is written down."""

    def __init__(self, said: Mapping[str, Sequence[str]], ids: Sequence[Sequence[int]]) -> None:
        self.said = {role: iter(words) for role, words in said.items()}
        self.ids, self.shown = ids, list[tuple[str, str]]()

    def play(self, prompts: Sequence[Prompt], n: int = 1, **options: Any) -> list[Trajectory]:
        each = [one for one in prompts for _ in range(n)]
        return [
            Trajectory.written(p.example, p.prompt_ids, list(ids), "STUDENT", group=p.group, finished=True)
            for p, ids in zip(each, self.ids, strict=True)
        ]

    def sample(
        self, begun: Sequence[Trajectory], n: int = 1, *, role: str, view: Told, max_tokens: int
    ) -> list[Trajectory]:
        for one in begun:
            assert one.ids == []
            assert one.text == ""
            messages = view(one, [one], {})
            assert messages is not None
            self.shown.append((role, messages[-1]["content"]))
        return [one.extended(Segment([9], role), next(self.said[role]), finished=True) for one in begun]


def written(tools: Scripted, **knobs: Any) -> list[Trajectory]:
    size = len(tools.ids)
    recipe = with_knobs(MADOPD(), {"per_prompt": size, **knobs})
    prompt = Prompt(Example("k", (Message(role="user", content="PROBLEM {expert}"),)), [5], 0)
    return list(recipe.rollout(tools, [prompt], 0))  # type: ignore[arg-type]


def test_experts_answer_blind_then_read_one_another_and_say_how_sure_they_are() -> None:
    tools = Scripted(
        {TWO[0]: ["a1", "a2 <<CONFIDENCE=90>>"], TWO[1]: ["b1 <<CONFIDENCE=3>>", "b2"]},
        [[1, 2, 3], [4, 5, 6]],
    )
    rows = written(tools)
    assert [role for role, _ in tools.shown] == [*TWO, *TWO]  # once for both answers, whose state is one
    assert not any("STUDENT" in words for _, words in tools.shown)
    first, other, again, last = (words for _, words in tools.shown)
    assert "expert A" in first
    assert "expert B" in other
    assert "a1" not in other
    for words in (again, last):
        assert "Expert A, round 1: a1\nExpert B, round 1: b1" in words
        assert "PROBLEM {expert}" in words
        assert "a2" not in words
    assert ["CONFIDENCE=N" in words for _, words in tools.shown] == [False, False, True, True]
    for one in rows:
        assert one.numbers["confidence-A"] == 90
        assert one.numbers["confidence-B"] == UNSTATED
        transcript = one.example.private["transcript"]
        assert transcript.splitlines()[-2:] == [
            "Expert A, round 2: a2 <<CONFIDENCE=90>>",
            "Expert B, round 2: b2",
        ]
        assert one.text == "STUDENT"


def test_each_teacher_reads_the_whole_debate_and_its_own_role() -> None:
    tools = Scripted({TWO[0]: ["a1"], TWO[1]: ["b1"]}, [[1, 2, 3]])
    (row,) = written(tools, rounds=1)
    recipe = with_knobs(MADOPD(), {"rounds": 1})
    for name, letter in zip(TWO, "AB", strict=True):
        (*_, message) = recipe.teachers[name].view(row, [row], {}) or ()
        assert f"You are expert {letter}" in message["content"]
        assert "a1" in message["content"]
        assert "b1" in message["content"]


def test_answers_that_repeat_themselves_are_dropped() -> None:
    tools = Scripted({TWO[0]: ["a"], TWO[1]: ["b"]}, [[7] * 12, [1, 2, 3, 4]])
    assert [one.ids for one in written(tools, rounds=1)] == [[1, 2, 3, 4]]
    tools = Scripted({TWO[0]: ["a"], TWO[1]: ["b"]}, [[7] * 12, [1, 2, 3, 4]])
    assert len(written(tools, rounds=1, max_repetition=1.0)) == 2


def test_without_rounds_nobody_debates() -> None:
    tools = Scripted({}, [[1, 2, 3]])
    (row,) = written(tools, rounds=0)
    assert "transcript" not in row.example.private
    assert list(recipe_named("mad-opd", "opd").teachers) == ["teacher"]


@pytest.mark.parametrize("experts", [(), tuple("abcde")])
def test_too_few_or_many_experts_are_refused(experts: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="experts must name 1 to 4 models"):
        with_knobs(MADOPD(), {"experts": experts})


# --- at every turn (OPAD) ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [CHATML, FORGETFUL], ids=["extends", "forgets"])
def test_a_debate_is_held_at_every_turn_behind_what_was_observed(template: str, tmp_path: Path) -> None:
    folders = [str(tiny_model_folder(tmp_path / f"{i}", template=template, seed=i)) for i in range(3)]
    small = {"max_tokens": 4, "max_turns": 3, "prompts": 3, "debate_tokens": 3, "experts": tuple(folders[1:])}
    words = {
        "debate_template": "{problem} first {expert}", "revise_template": "{transcript} again {expert}",
        "shown_template": "{problem} heard {transcript} as {expert}",
    }  # fmt: skip
    recipe = with_knobs(MADOPD(), {**small, **words, "temperature": 1.0, "top_p": 1.0, "top_k": 0})
    run, learner = run_of_recipe(recipe, folders[0], tmp_path / "run", task=GuessingTask())
    learner.policy.model.float()
    batch = learner.collect(0)
    renderer = learner.policy.renderer
    assert max(one.turn[0] for one in batch.rows) > 0
    assert batch.columns.trajectory is not None
    assert len(batch.columns.trajectory.unique()) == 3
    for i, one in enumerate(batch.rows):
        assert len(set(one.turn)) == 1
        assert all(one.mask)
        assert all(segment.author != ENVIRONMENT for segment in one.segments if segment.ids)
        for name, letter in zip(TWO, "AB", strict=True):
            seen = renderer.show(batch.contexts[name].prompts[i] or [])
            assert "heard Expert A, round 1: " in seen
            assert "Expert B, round 2: " in seen
            assert f" as {letter}" in seen
            observed = [message["content"] for message in one.history if message["role"] == "user"]
            assert all(words in seen.partition(f" as {letter}")[2] for words in observed)  # behind the debate
    told = [one.example.private["transcript"] for one in batch.rows]
    assert len(set(told)) == len(told)  # each state has its own debate
    run.step()
    assert math.isfinite(run.progress.rows[-1]["loss"])
