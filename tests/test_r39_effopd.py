"""Card 39: leaps along the way that the weights went, and what they are validated on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import selfteach
from arrays import arrays
from doors import run_of_recipe
from selfteach.control.leaps import Leaping, Leaps
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.r39_effopd import EffOPD
from selfteach.testing import evaluate

NAMES = ("policy.model.layers.0.self_attn.q_proj.weight", "policy.model.layers.0.mlp.up_proj.weight")
OTHERS = (
    "policy.model.embed_tokens.weight", "policy.lm_head.weight", "policy.model.layers.0.self_attn.q_norm.weight",
    "policy.model.layers.0.post_attention_layernorm.weight",
)  # fmt: skip


def drawn(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(3, 4, generator=generator) for name in (*NAMES, *OTHERS)}


def moved(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """A step of the optimizer, in place; the weights as it left them."""
    for name, change in drawn(seed).items():
        weights[name].add_(change, alpha=0.1)
    return {name: w.clone() for name, w in weights.items()}


def said(scores: Sequence[float]) -> tuple[Callable[[], float], list[float]]:
    """(an oracle that gives these scores in turn, what is left of them)"""
    left = list(scores)
    return lambda: left.pop(0), left


def leap(scores: Sequence[float], trials: int = 5) -> tuple[dict[str, Tensor], ...]:
    """(the anchor, the weights after step 1, the weights after the leap)"""
    weights = drawn(0)
    hook = Leaps(trials=trials).start(0, weights)
    before, here = {name: w.clone() for name, w in weights.items()}, moved(weights, 1)
    oracle, left = said(scores)
    hook.after_step(1, weights, oracle)
    assert left == []
    return before, here, weights


@pytest.mark.parametrize("accepted", range(6))
def test_the_accepted_point_is_an_odd_multiple_of_the_way_from_the_anchor(accepted: int) -> None:
    scores = [0.1 * i for i in range(accepted + 1)] + [0.0] * (accepted < 5)
    before, here, after = leap(scores)
    for name in NAMES:
        expected = before[name] + (1 + 2 * accepted) * (here[name] - before[name])
        torch.testing.assert_close(after[name], expected, rtol=1e-5, atol=1e-6)
    for name in OTHERS:
        assert torch.equal(after[name], here[name])


def test_the_factors_of_the_released_code_lead_to_the_same_points() -> None:
    """a = 2, then a / (1 + a): W ← W + a (W − B) again and again."""
    way, a, place = 1.0, 2.0, 1.0
    for j in range(1, 6):
        assert a == pytest.approx(2 / (2 * j - 1))
        place, a = place + a * place, a / (1 + a)
        assert place == pytest.approx((1 + 2 * j) * way)


@pytest.mark.parametrize("scores", [[0.5, 0.5], [0.5, 0.4], [0.5, float("nan")]])
def test_what_is_not_strictly_better_is_taken_back_bit_for_bit(scores: list[float]) -> None:
    _, here, after = leap(scores)
    for name, w in here.items():
        assert torch.equal(after[name], w), name


def test_the_best_point_is_put_back_bit_for_bit() -> None:
    kept = leap([0.1, 0.2, 0.3, 0.2])[2]
    straight = leap([0.1, 0.2, 0.3], trials=2)[2]
    for name, w in straight.items():
        assert torch.equal(kept[name], w), name


def test_steps_that_are_no_power_of_two_ask_nothing_and_the_anchor_is_what_the_last_leap_left() -> None:
    weights = drawn(0)
    hook = Leaps(trials=1).start(0, weights)
    asked, left_by_two = [], dict[str, Tensor]()
    for step in range(1, 17):
        moved(weights, step)
        if step == 4:
            here, anchor = {n: w.clone() for n, w in weights.items()}, left_by_two
        scores, left = said([0.0, 1.0])
        hook.after_step(step, weights, scores)
        asked += [step] * (len(left) == 0)
        if step == 2:
            left_by_two = {name: w.clone() for name, w in weights.items()}
        if step == 4:
            for name in NAMES:
                expected = here[name] + 2 * (here[name] - anchor[name])
                torch.testing.assert_close(weights[name], expected)
    assert asked == [1, 2, 4, 8, 16]


def test_a_hook_goes_on_from_its_state() -> None:
    ends = []
    for resumed in (False, True):
        weights = drawn(0)
        hook: Any = Leaps(trials=1).start(0, weights)
        for step in (1, 2):
            moved(weights, step)
            if resumed and step == 2:
                saved = hook.state()
                hook = Leaps(trials=1).start(0, drawn(7))
                hook.load_state(saved)
            hook.after_step(step, weights, said([0.0, 1.0])[0])
        assert hook.metrics() == {"accepted": 1, "before": 0.0, "after": 1.0}
        ends.append(weights)
    for name, w in ends[0].items():
        assert torch.equal(ends[1][name], w)


def test_names_that_fit_no_weight_are_refused() -> None:
    with pytest.raises(UserError, match="no trained weight has one of conv in its name"):
        Leaps(parts=("conv",)).start(0, drawn(0))


# --- the method -----------------------------------------------------------------------------------------------------


def test_its_loss_is_plain_distillations() -> None:
    given = arrays()
    one, other = evaluate("effopd", given), evaluate("exopd", given, overrides={"reward_scale": 1.0})
    assert one["loss"] == other["loss"] != 0
    np.testing.assert_array_equal(one["grad"], other["grad"])


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"lora_rank": 8}, "lora_rank is above 0"),
        ({"leaping": ()}, "leaping is empty"),
        ({"trials": 0}, "trials"),
    ],
)
def test_what_cannot_be_meant_is_refused(knobs: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        with_knobs(recipe_named("effopd"), knobs)


SMALL = {
    "teacher": "arena:tutor-large",
    "max_tokens": 8,
    "prompts": 4,
    "steps": 2,
    "validation": 3,
    "lr": 1e-3,
}


def test_in_a_run_it_starts_at_the_weights_before_step_1_and_asks_problems_of_nobody_elses(
    tiny: str, tmp_path: Path
) -> None:
    recipe = with_knobs(recipe_named("effopd"), {**SMALL, "teacher": tiny, "student_thinking": None})
    run, learner = run_of_recipe(recipe, tiny, tmp_path)
    before = {name: p.detach().clone() for name, p in learner.policy.trainable().items()}
    hook = learner.hook
    assert isinstance(hook, Leaping)
    for name, w in hook.anchor.items():
        assert torch.equal(w, before[name.removeprefix("policy.")])
    asked: list[Sequence[str]] = []
    from selfteach.training.text import evaluation

    evaluate_of, task = evaluation.evaluate, learner.task

    def watched(*args: Any, **kwargs: Any) -> Any:
        asked.append([one.problem for one in kwargs["examples"]])
        return evaluate_of(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluation, "evaluate", watched)
        for _ in range(2):
            run.step()
    assert len(asked) == 4  # nothing gets better: two a leap
    assert all(len(one) == 3 and one == asked[0] for one in asked)
    assert set(asked[0]).isdisjoint(one.problem for one in task.held_out(200))
    trained = {one.example.problem for one in learner.writing.prompts.take(300)}
    assert set(asked[0]).isdisjoint(trained)


def test_tokens_of_validation_count_as_generated(tiny: str, tmp_path: Path) -> None:
    """8 of each of 4 answers, and 8 of each of 3 × samples answers, twice."""
    recipe = with_knobs(recipe_named("effopd"), {**SMALL, "teacher": tiny, "student_thinking": None})
    run, learner = run_of_recipe(recipe, tiny, tmp_path)
    batches: list[int] = []
    collect = learner.collect
    learner.collect = lambda step: batches.append((b := collect(step)).spent) or b  # type: ignore[method-assign,func-returns-value]
    run.step()
    validated = run.spent - batches[0]
    assert 0 < batches[0] <= 32
    assert 6 <= validated <= 48


def test_where_nothing_is_graded_it_is_refused_before_a_model_is_looked_for(tmp_path: Path) -> None:
    rows = [{"problem": f"Say {i}.", "solution": f"{i}."} for i in range(20)]
    with pytest.raises(UserError, match="nothing is graded here"):
        selfteach.train("effopd", tmp_path / "none", rows, teacher="x", verifier="none", out=tmp_path / "run")


def test_one_question_leaves_none_to_validate_on(tiny: str, tmp_path: Path) -> None:
    rows = [{"problem": f"What is {i} + 1?", "solution": f"{i + 1}", "answer": f"{i + 1}"} for i in range(12)]
    with pytest.raises(UserError, match="no problem left to train on"):
        selfteach.train(
            "effopd", tiny, rows, only=0, teacher=tiny, prompts=1, max_tokens=4, steps=1, validation=1,
            out=tmp_path / "run",
        )  # fmt: skip


def test_released_settings() -> None:
    recipe = EffOPD()
    assert (recipe.reward_scale, recipe.trials, recipe.optimization.prompts) == (1.0, 5, 1024)
    assert recipe.hook == Leaps(5, 64, ("attn", "attention", "mlp"))
