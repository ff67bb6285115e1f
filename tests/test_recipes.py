"""What holds for every recipe, and the baselines GRPO and SFT."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest

from arrays import VOCABULARY, arrays, log_softmax, mean_of_sequences
from selfteach.api.resolve import draft
from selfteach.errors import UserError
from selfteach.recipes import RECIPES, knobs, recipe_named, with_knobs
from selfteach.recipes.grpo import GRPO
from selfteach.recipes.knobs import documented
from selfteach.recipes.sft import SFT
from selfteach.studies.laptop import presets
from selfteach.testing import evaluate

EVERY = [(name, preset) for name, kind in RECIPES.items() for preset in presets(kind)]


@pytest.mark.parametrize(("name", "preset"), EVERY)
def test_knob_names_are_unique_within_a_recipe(name: str, preset: str) -> None:
    recipe = presets(RECIPES[name])[preset]
    names = [
        g.name
        for f in fields(recipe)
        for g in (fields(getattr(recipe, f.name)) if is_dataclass(getattr(recipe, f.name)) else [f])
    ]
    assert len(names) == len(set(names))
    assert set(names) == set(knobs(recipe))


@pytest.mark.parametrize(("name", "preset"), EVERY)
def test_every_preset_gives_a_finite_loss_and_gradient(name: str, preset: str) -> None:
    recipe = presets(RECIPES[name])[preset]
    given = arrays(teachers=tuple(recipe.teachers))
    own = log_softmax(given["student_logits"])  # sampled by the student: else a clip may leave no gradient
    given["behavior"] = np.take_along_axis(own, given["ids"][..., None], -1)[..., 0]
    out = evaluate(recipe, given)
    assert np.isfinite(out["loss"])
    assert np.isfinite(out["grad"]).all()
    moved = [*out["grads"].values(), *out["grad_hidden"].values()]
    assert max(np.abs(gradient).max() for gradient in moved) > 0
    assert sum(out["terms"].values()) == pytest.approx(out["loss"])


@pytest.mark.parametrize(("name", "preset"), EVERY)
def test_no_gradient_reaches_tokens_the_policy_did_not_write(name: str, preset: str) -> None:
    recipe = presets(RECIPES[name])[preset]
    given = arrays(teachers=tuple(recipe.teachers))
    assert (evaluate(recipe, given)["grad"][~given["mask"]] == 0).all()


@pytest.mark.parametrize("name", RECIPES)
def test_every_knob_is_documented(name: str) -> None:
    for knob, (_, meaning) in documented(recipe_named(name)).items():
        assert meaning, knob


BUILT_ON = {
    "r02_pw_opsd.py": "r01_opsd", "r06_atesd.py": "r01_opsd", "r46_rlad.py": "grpo", "r58_dgrpo.py": "grpo",
    "r30_sod.py": "grpo",
    "r57_listopd.py": "r33_exopd", "r16_unmasking.py": "r01_opsd",
    "r39_effopd.py": "r33_exopd", "r62_dp_opd.py": "gkd",
    "r27_pu_rl.py": "sft",
}  # fmt: skip
"""The methods whose papers define them as another method plus one thing."""


def test_no_recipe_imports_the_trainer_or_another_recipe() -> None:
    for kind in RECIPES.values():
        file = Path(inspect.getfile(kind))
        imported = {n.module for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.ImportFrom)}
        inner = {m for m in imported if m and m.startswith("selfteach.")}
        allowed = {"selfteach.recipes.kit", f"selfteach.recipes.{BUILT_ON.get(file.name)}"}
        assert inner <= allowed, file.name


def test_an_unknown_recipe_preset_or_knob_names_the_nearest() -> None:
    with pytest.raises(UserError, match="opsd"):
        recipe_named("opds")
    with pytest.raises(UserError, match="v3-thinking"):
        recipe_named("opsd", "v3-thinkin")
    with pytest.raises(UserError, match="clip_entry"):
        with_knobs(recipe_named("opsd"), {"clip_entri": 1})


def test_a_missing_array_is_named() -> None:
    given = arrays()
    with pytest.raises(ValueError, match="reward"):
        evaluate("grpo", {k: v for k, v in given.items() if k != "reward"}, overrides={"kl": 0.0})
    with pytest.raises(ValueError, match="teacher"):
        evaluate("opsd", {k: v for k, v in given.items() if k != "teacher_logits"})


# --- GRPO --------------------------------------------------------------------------------------------------------


def grpo_by_hand(given: dict, low: float = 0.2, high: float = 0.2) -> float:
    p = log_softmax(given["student_logits"])
    ours = np.take_along_axis(p, given["ids"][..., None], -1)[..., 0]
    ratio = np.exp(ours - given["behavior"])
    reward, group = given["reward"], given["group"]
    advantage = np.zeros_like(reward)
    for g in np.unique(group):
        own = reward[group == g]
        advantage[group == g] = (own - own.mean()) / (own.std(ddof=1) + 1e-4)
    a = advantage[:, None]
    return mean_of_sequences(-np.minimum(ratio * a, np.clip(ratio, 1 - low, 1 + high) * a), given["mask"])


def test_grpo_is_the_clipped_surrogate_with_group_advantages() -> None:
    given = arrays()
    assert evaluate("grpo", given, overrides={"kl": 0.0})["loss"] == pytest.approx(
        grpo_by_hand(given), rel=1e-10
    )
    loss = evaluate("grpo", given, overrides={"kl": 0.0, "clip_high": 0.5})["loss"]
    assert loss == pytest.approx(grpo_by_hand(given, high=0.5), rel=1e-10)


def test_grpos_kl_is_the_k3_estimate_of_the_reference() -> None:
    given = arrays(teachers=("reference",))
    p, r = (log_softmax(x) for x in (given["student_logits"], given["teacher_logits"]["reference"]))
    ours, theirs = (np.take_along_axis(x, given["ids"][..., None], -1)[..., 0] for x in (p, r))
    k3 = np.exp(theirs - ours) - (theirs - ours) - 1
    out = evaluate("grpo", given)
    assert out["terms"]["kl"] == pytest.approx(0.04 * mean_of_sequences(k3, given["mask"]), rel=1e-10)


def test_equal_rewards_in_every_group_give_no_gradient() -> None:
    given = {**arrays(), "reward": np.array([1.0, 1, 1, 0, 0, 0])}
    assert (evaluate("grpo", given, overrides={"kl": 0.0})["grad"] == 0).all()


def test_dr_grpo_divides_neither_by_the_standard_deviation_nor_by_any_length() -> None:
    """But by rollouts × max_tokens, a constant (arXiv 2503.20783)."""
    given = arrays()
    behavior = np.take_along_axis(log_softmax(given["student_logits"]), given["ids"][..., None], -1)[..., 0]
    given["behavior"] = behavior
    out = evaluate(recipe_named("grpo", "dr-grpo"), given, overrides={"max_tokens": 50})
    centered = given["reward"] - np.array([1 / 3] * 3 + [2 / 3] * 3)
    one_hot = np.eye(VOCABULARY)[given["ids"]]
    score = one_hot - np.exp(log_softmax(given["student_logits"]))
    expected = -centered[:, None, None] * score * given["mask"][..., None] / (len(given["reward"]) * 50)
    np.testing.assert_allclose(out["grad"], expected, atol=1e-12)


def test_grpo_refuses_a_group_of_one() -> None:
    with pytest.raises(UserError, match="per_prompt"):
        with_knobs(GRPO(), {"per_prompt": 1})


# --- SFT ---------------------------------------------------------------------------------------------------------


def test_sft_is_the_mean_negative_log_likelihood() -> None:
    given = arrays()
    p = log_softmax(given["student_logits"])
    nll = -np.take_along_axis(p, given["ids"][..., None], -1)[..., 0]
    expected = float((nll * given["mask"]).sum() / given["mask"].sum())
    assert evaluate("sft", given)["loss"] == pytest.approx(expected, rel=1e-12)


def test_sft_of_a_teachers_text_generates_and_reads_no_reference() -> None:
    assert not SFT().generates
    assert with_knobs(SFT(), {"teacher": "arena:tutor-large"}).generates
    with pytest.raises(UserError, match="reference worked would do nothing"):
        with_knobs(SFT(), {"teacher": "arena:tutor-large", "reference": "worked"})


def code_lines(path: Path) -> int:
    """Lines of code: neither blank ones nor those of docstrings."""
    text = path.read_text(encoding="utf-8")
    prose = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return sum(1 for i, line in enumerate(text.splitlines(), start=1) if line.strip() and i not in prose)


def test_recipes_are_short() -> None:
    lines = {name: code_lines(Path(inspect.getfile(kind))) for name, kind in RECIPES.items()}
    assert sum(lines.values()) / len(lines) <= 80, lines
    assert max(lines.values()) <= 120, lines


def test_a_world_has_a_preset_of_its_own_where_the_method_was_not_made_for_it() -> None:
    """A preset of the paper's that is called as a world is none of the arena."""
    taken = {
        words: draft(words.split()[0], task=next(iter(words.split()[1:]), None))
        for words in ("tcod", "tcod tutor", "tcod doors", "many-faces rule")
    }
    assert [one.preset for one in taken.values()] == ["arena", "tutor", "arena", "arena"]
    assert [getattr(one.recipe, "teacher", None) for one in list(taken.values())[:3]] == [
        "arena:doors-expert", "arena:tutor-large", "arena:doors-expert",
    ]  # fmt: skip
