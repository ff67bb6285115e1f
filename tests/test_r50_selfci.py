"""Card 50: what the paper says SelfCI is, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arrays import VOCABULARY, arrays, log_softmax, mean_of_sequences, slopes
from doors import run_of_recipe
from selfteach.errors import UserError
from selfteach.recipes import with_knobs
from selfteach.recipes.kit import Prompt, listed
from selfteach.recipes.r50_selfci import NOTE, SelfCI
from selfteach.task.example import Example, Message
from selfteach.testing import evaluate

SIDES = ("allow", "disallow")


def batch(seed: int = 0) -> dict[str, Any]:
    given = arrays(seed, teachers=SIDES)
    given["numbers"] = {
        "utility": np.array([1.0, 0, 1, 0, 1, 0]),
        "integrity": np.array([1.0, 1, 0, 0, 1, 0]),
    }
    return given


def sides(given: dict[str, Any]) -> list[np.ndarray]:
    """[N, T] KL(π‖q) of each teacher."""
    p = log_softmax(given["student_logits"])
    return [(np.exp(p) * (p - log_softmax(given["teacher_logits"][side]))).sum(-1) for side in SIDES]


def loss(given: dict[str, Any], weights: Sequence[Any]) -> float:
    w = [np.asarray(one, dtype=float).reshape(-1, 1) for one in weights]
    total = np.maximum(1, w[0] + w[1])
    return mean_of_sequences(sum(a * d for a, d in zip(w, sides(given), strict=True)) / total, given["mask"])


def given_weights(a: float, b: float) -> dict[str, float]:
    return {"allow_weight": a, "disallow_weight": b}


@pytest.mark.parametrize(
    "weights", [(1.0, 1.0), (0.5, 0.5), (0.25, 0.25), (2.0, 1.0), (1.0, 0.0), (0.0, 0.3)]
)
def test_the_loss_is_the_weighted_reverse_kl_of_both(weights: tuple[float, float]) -> None:
    given = batch()
    given["teacher_logits"] = {
        side: logits for side, logits in given["teacher_logits"].items() if weights[SIDES.index(side)]
    }
    out = evaluate("selfci", given, overrides=given_weights(*weights))
    assert out["loss"] == pytest.approx(
        loss({**batch(), **given, "teacher_logits": batch()["teacher_logits"]}, weights)
    )


def test_equal_weights_of_a_whole_are_one_loss_and_of_less_a_share_of_it() -> None:
    given = batch()
    one, half, quarter = (evaluate("selfci", given, overrides=given_weights(w, w)) for w in (1.0, 0.5, 0.25))
    assert half["loss"] == pytest.approx(one["loss"], rel=1e-14)
    np.testing.assert_allclose(half["grad"], one["grad"], atol=1e-16)
    np.testing.assert_allclose(quarter["grad"], one["grad"] / 2, atol=1e-16)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, 0.9), (2.0, 0.5)])
def test_the_target_is_the_normalized_product_of_both_teachers(weights: tuple[float, float]) -> None:
    """Σ w KL(p‖q_b) = W [ KL(p‖p*) − log Z ], p* = Π q_b^(w_b/W) / Z."""
    given = batch()
    whole = sum(weights)
    q = [log_softmax(given["teacher_logits"][side]) for side in SIDES]
    product = sum(w / whole * one for w, one in zip(weights, q, strict=True))
    log_z = np.log(np.exp(product).sum(-1))
    p = log_softmax(given["student_logits"])
    to_product = (np.exp(p) * (p - (product - log_z[..., None]))).sum(-1)
    expected = mean_of_sequences(whole * (to_product - log_z), given["mask"]) / max(1.0, whole)
    assert evaluate("selfci", given, overrides=given_weights(*weights))["loss"] == pytest.approx(
        expected, rel=1e-12
    )


def test_two_teachers_of_one_mind_are_one_teacher() -> None:
    given = batch()
    given["teacher_logits"]["disallow"] = given["teacher_logits"]["allow"]
    both = evaluate("selfci", given)
    alone = {**given, "teacher_logits": {"allow": given["teacher_logits"]["allow"]}}
    one = evaluate("selfci", alone, overrides={"disallow_weight": 0.0})
    np.testing.assert_allclose(both["grad"], one["grad"], atol=1e-15)


def test_it_is_the_reverse_kl() -> None:
    """0 where both are the student; its gradient in the logits is p (log p/q − KL)."""
    given = batch()
    given["teacher_logits"] = {side: given["student_logits"] for side in SIDES}
    same = evaluate("selfci", given)
    assert same["loss"] == pytest.approx(0, abs=1e-14)
    assert np.abs(same["grad"]).max() < 1e-15
    given = batch()
    p = log_softmax(given["student_logits"])
    expected = np.zeros_like(p)
    for side in SIDES:
        gap = p - log_softmax(given["teacher_logits"][side])
        expected += 0.5 * np.exp(p) * (gap - (np.exp(p) * gap).sum(-1, keepdims=True))
    mask = given["mask"]
    weight = (mask / mask.sum(1, keepdims=True) / len(mask))[..., None]
    np.testing.assert_allclose(evaluate("selfci", given)["grad"], weight * expected, atol=1e-14)


def test_adaptive_weights_are_what_the_answer_still_lacks() -> None:
    given = batch()
    out = evaluate("selfci", given, overrides={"weighting": "adaptive"})
    numbers = given["numbers"]
    assert out["loss"] == pytest.approx(
        loss(given, (1 - numbers["utility"], 1 - numbers["integrity"])), rel=1e-12
    )
    perfect = [0, 4]
    assert not np.any(out["grad"][perfect])
    assert np.all(np.abs(out["grad"][[1, 2, 3, 5]]).max((1, 2)) > 0)


def test_an_answer_that_nobody_measured_is_no_perfect_one() -> None:
    given = batch()
    given["numbers"]["utility"][2] = np.nan
    with pytest.raises(ValueError, match=r"NaN|nan"):
        evaluate("selfci", given, overrides={"weighting": "adaptive"})


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_share_of_the_student_in_the_teacher_shortens_the_step(share: float) -> None:
    """KL(p ‖ sg p^w q^(1−w)/Z) has (1 − w) times the gradient of KL(p‖q); at w = 1 nothing is left."""
    given = batch()
    whole, less = evaluate("selfci", given), evaluate("selfci", given, overrides={"student_share": share})
    np.testing.assert_allclose(less["grad"], (1 - share) * whole["grad"], atol=1e-14)


def test_over_all_tokens_the_sampled_form_has_the_same_gradient() -> None:
    given = batch()
    total = 0.0
    for v in range(VOCABULARY):
        one = {**given, "ids": np.full_like(given["ids"], v)}
        grad = evaluate("selfci", one, overrides={"loss": "sampled"})["grad"]
        total = total + np.exp(log_softmax(given["student_logits"]))[..., v : v + 1] * grad
    np.testing.assert_allclose(total, evaluate("selfci", given)["grad"], atol=1e-14)


def test_of_a_top_k_both_sides_are_renormalized() -> None:
    given, k = batch(), 4
    p = log_softmax(given["student_logits"])
    top = np.argsort(-p, axis=-1)[..., :k]

    def cut(logits: np.ndarray) -> np.ndarray:
        return log_softmax(np.take_along_axis(logits, top, -1))

    own = cut(given["student_logits"])
    gaps = [(np.exp(own) * (own - cut(given["teacher_logits"][side]))).sum(-1) for side in SIDES]
    out = evaluate("selfci", given, overrides={"student_top_k": k})
    assert out["loss"] == pytest.approx(
        mean_of_sequences(0.5 * (gaps[0] + gaps[1]), given["mask"]), rel=1e-12
    )


def test_the_gradient_is_that_of_finite_differences() -> None:
    given = batch()
    out = evaluate("selfci", given, overrides=given_weights(1.0, 0.4))["grad"]

    def moved(logits: np.ndarray) -> float:
        return loss({**given, "student_logits": logits}, (1.0, 0.4))

    for place, slope in slopes(given["student_logits"], moved):
        assert slope == pytest.approx(out[place], abs=1e-8)


# --- what is read and written ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ('["name", "birth date", "name"]', ["name", "birth date"]),
        ("name\n birth date \n\nname", ["name", "birth date"]),
        ("one, of several words", ["one, of several words"]),
        ("[not JSON", ["[not JSON"]),
        ("[]", []),
        ("", []),
        ("7", ["7"]),
        ("[1, 2]", ["1", "2"]),
    ],
)
def test_a_list_is_read_from_a_field(text: str, entries: list[str]) -> None:
    assert listed(text) == entries


def examples(*private: Mapping[str, str]) -> list[Example]:
    return [
        Example(f"k{i}", (Message(role="user", content=f"case {i}"),), dict(one))
        for i, one in enumerate(private)
    ]


def learned(recipe: SelfCI, model: str, out: Path) -> Any:
    return run_of_recipe(
        with_knobs(recipe, {"max_tokens": 4, "note_tokens": 3, "prompts": 2, "lora_rank": 0}), model, out
    )


def prompts_of(learner: Any, *private: Mapping[str, str]) -> list[Prompt]:
    renderer = learner.policy.renderer
    return [Prompt(one, renderer.prompt_ids(one.prompt), i) for i, one in enumerate(examples(*private))]


def test_each_entry_is_explained_once_a_run_by_the_initial_weights(tiny: str, tmp_path: Path) -> None:
    _, learner = learned(SelfCI(), tiny, tmp_path)
    tools = learner.writing.tools(0)
    asked: list[tuple[str, int]] = []
    plain = tools.sample

    def sample(begun: Sequence[Any], n: int = 1, **how: Any) -> Any:
        asked.append((how.get("role", "student"), len(begun)))
        if how.get("role") == "author":
            assert (how["temperature"], how["top_p"], how["max_tokens"]) == (0.6, 0.9, 3)
        return plain(begun, n, **how)

    rooms: list[int | None] = []
    shown = tools.prompt

    def prompt(one: Any, view: Any, room: int | None = None) -> Any:
        rooms.append(room)
        return shown(one, view, room)

    tools.sample, tools.prompt = sample, prompt
    prompts = prompts_of(learner, {"allow": '["a", "b"]', "disallow": "c"}, {"allow": "a", "disallow": ""})
    rows = learner.recipe.rollout(tools, prompts, 0)
    assert asked == [("author", 4), ("student", 2)]
    assert rooms == [3] * 4, "a note needs room for a note"
    notes = learner.writing.store("explanations").notes
    assert sorted(notes) == ["allow k0 a", "allow k0 b", "allow k1 a", "disallow k0 c"]
    own = rows[0].example.private
    assert own["allow"] == "\n\n".join(dict.fromkeys([notes["allow k0 a"], notes["allow k0 b"]]))
    assert own["disallow"] == notes["disallow k0 c"]
    learner.recipe.rollout(tools, prompts, 1)
    assert asked[2:] == [("author", 0), ("student", 2)]


def test_what_is_given_is_shown_as_it_stands_and_an_empty_list_leaves_the_bare_prompt(
    tiny: str, tmp_path: Path
) -> None:
    _, learner = learned(with_knobs(SelfCI(), {"notes": "given"}), tiny, tmp_path)
    assert learner.recipe.writers == {}
    prompts = prompts_of(learner, {"allow": '["a", "b"]', "disallow": "[]"})
    (row,) = learner.recipe.rollout(learner.writing.tools(0), prompts, 0)
    views = {name: role.view for name, role in learner.recipe.teachers.items()}
    shown = {name: view(row, [row], {}) for name, view in views.items()}
    assert shown["allow"][-1]["content"] == NOTE["allow"].format(problem="case 0", allow="a\n\nb")
    assert shown["disallow"] == row.example.prompt


def test_examples_without_either_list_are_refused(tiny: str, tmp_path: Path) -> None:
    _, learner = learned(SelfCI(), tiny, tmp_path)
    prompts = prompts_of(learner, {"answer": "7"})
    with pytest.raises(UserError, match=r"k0 has neither 'allow' nor 'disallow': .*known: answer"):
        learner.recipe.rollout(learner.writing.tools(0), prompts, 0)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        (given_weights(0, 0), "nobody would teach"),
        ({"student_share": 1.0}, "student_share must be below 1"),
        ({"loss": "sampled", "student_top_k": 5}, "set student_top_k none"),
    ],
)
def test_what_cannot_be_is_refused(knobs: Mapping[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_knobs(SelfCI(), knobs)


def test_fixed_weights_of_0_are_no_teacher_but_adaptive_ones_know_both() -> None:
    assert list(with_knobs(SelfCI(), {"allow_weight": 0.0}).teachers) == ["disallow"]
    adaptive = with_knobs(SelfCI(), {"allow_weight": 0.0, "weighting": "adaptive"})
    assert list(adaptive.teachers) == ["allow", "disallow"]
