"""``testing.evaluate`` refuses what has no answer, and ignores what nobody reads: every recipe, preset and stage."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import golden
from arrays import arrays
from selfteach.errors import UserError
from selfteach.recipes import RECIPES, Recipe, knobs, recipe_named, with_knobs
from selfteach.testing import evaluate

KNOBS: list[tuple[str, dict[str, Any]]] = [
    ("opsd", {"loss": "policy-gradient", "clip_entry": None}),
    ("opsd", {"teacher_top_k": 3}),
    ("opsd", {"beta": 0.5, "loss_temperature": 0.7}),
    ("avsd", {"view_top_k": 3}),
    ("avsd", {"view_top_k": 3, "beta": 1.0, "clip_token": 0.3}),
    ("avsd", {"pooling": "geometric", "view_top_k": 2}),
    ("sd-zero", {"loss_top_k": 3, "mean_over": "tokens"}),
    ("sdpo", {"student_top_k": 3, "mean_over": "rollouts", "distill": "wrong"}),
    ("sdpo", {"student_top_k": None, "alpha": 1.0, "loss": "sequence"}),
    ("sdpo", {"student_top_k": None, "alpha": 1.0, "clip_advantage": 0.5, "grpo_share": 0.3}),
    ("srpo", {"student_top_k": 3}),
    ("trace", {"spans": "all", "error_weight": 1.0}),
    ("trace", {"spans": "random", "error_weight": 1.0}),
    ("cepo", {"contrast": "student", "mean_over": "sequences"}),
    ("vopd", {"baseline": "none"}),
    ("vopd", {"baseline": "top-k", "baseline_top_k": 3}),
    ("exopd", {"estimator": "full"}),
    ("exopd", {"teacher": "math=a,code=b"}),
    ("scope", {"estimator": "full", "mean_over": "tokens"}),
    ("scope", {"clip": 0.2}),
    ("lightning-opd", {"clip_advantage": 0.3, "mean_over": "tokens"}),
    *(("dpo", {"loss": loss}) for loss in ("sigmoid_norm", "hinge", "nca_pair", "bco_pair", "sppo_hard")),
    *(("dpo", {"loss": loss}) for loss in ("apo_zero", "apo_down", "robust")),
    ("dpo", {"loss": "exo_pair", "label_smoothing": 0.1}),
    ("kto", {"undesirable_weight": 0.5}),
    ("grpo", {"overlong_cache": 1.0, "max_tokens": 9, "kl": 0.0}),
    ("minillm", {"single_step": False, "length_normalization": False, "discount": 0.9}),
    ("minillm", {"teacher_mix": 0.0, "mean_over": "rollouts"}),
    ("distillm2", {"loss_temperature": None}),
    ("reopold", {"explore_steps": 0}),
    ("sdft", {"student_top_k": 3, "beta": 0.5}),
    ("reinforce-plus-plus", {"kl_estimator": "k3", "mean_over": "sequences"}),
    ("unisd", {"agreement": "sequence", "normalize": "tokens", "clip_quantile": 0.6}),
    ("many-faces", {"loss": "wiener", "position_decay": 2.0}),
    ("many-faces", {"loss": "intersect-sg", "loss_top_k": 3}),
    ("many-faces", {"loss": "ppo", "teacher_share": 0.3}),
    ("selfci", {"weighting": "adaptive", "student_share": 0.3}),
    ("selfci", {"loss": "sampled", "disallow_weight": 0.2}),
    ("rltf", {"revision_ratio": "token", "critique_weight": 0.1}),
    ("caopd", {"alpha": 0.5, "skip": 0}),
    ("tcod", {"loss": "forward-kl"}),
    ("mad-opd", {"teacher_top_k": 3, "mean_over": "tokens"}),
]
"""Forms of the losses that no preset has."""
CASES = golden.different_cases()
CASES += [(f"{name}:{words}", with_knobs(recipe_named(name), words), 0) for name, words in KNOBS]
EARLY = [(label, recipe) for label, recipe, step in CASES if step == 0]
every_case = pytest.mark.parametrize(("label", "recipe", "step"), CASES, ids=[case[0] for case in CASES])
every_recipe = pytest.mark.parametrize(("label", "recipe"), EARLY, ids=[case[0] for case in EARLY])


def batch_for(recipe: Recipe, seed: int = 0) -> dict[str, Any]:
    return arrays(seed, teachers=tuple(recipe.teachers))


def nothing(given: dict[str, Any], how: str) -> dict[str, Any]:
    """The batch without a row, without a position, or without a written token."""
    if how == "no token":
        return {**given, "mask": np.zeros_like(given["mask"])}

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: cut(one) for name, one in value.items()}
        return value[:0] if how == "no row" else value[:, :0] if value.ndim > 1 else value

    return {name: cut(value) for name, value in given.items()}


@pytest.mark.parametrize("how", ["no row", "no position", "no token"])
@every_case
def test_an_empty_batch_is_a_loss_of_zero(label: str, recipe: Recipe, step: int, how: str) -> None:
    given = nothing(batch_for(recipe), how)
    out = evaluate(recipe, given, step)
    assert out["loss"] == 0
    assert set(out["terms"].values()) <= {0.0}
    assert out["grad"].shape == given["student_logits"].shape
    assert (out["grad"] == 0).all()


# --- NaN is refused where it is read and ignored where it is not -------------------------------------------------


def places(given: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The float arrays by path: ("behavior",), ("teacher_logits", "teacher") …"""
    for name, value in given.items():
        if isinstance(value, dict):
            yield from ((name, inner) for inner, one in value.items() if one.dtype.kind == "f")
        elif value.dtype.kind == "f":
            yield (name,)


def changed(given: dict[str, Any], path: tuple[str, ...], row: int, step: int, value: Any) -> dict[str, Any]:
    """A copy whose entry at a row (and position) is ``value``, or moved at random if that is None."""
    other = copy.deepcopy(given)
    column = other
    for name in path:
        column = column[name]
    at = (row,) if column.ndim == 1 else (row, step)  # type: ignore[attr-defined]
    if value is None:
        shape = np.shape(column[at])  # type: ignore[index]
        value = column[at] + np.random.default_rng(7).normal(size=shape)  # type: ignore[index]
    column[at] = value  # type: ignore[index]
    return other


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["loss"] == other["loss"] and np.array_equal(one["grad"], other["grad"])


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["NaN", "+inf"])
@every_case
def test_what_is_not_a_number_is_refused_wherever_a_number_would_count(
    label: str, recipe: Recipe, step: int, value: float
) -> None:
    """If moving an entry moves loss or gradient, a NaN there must be an error; else it must change nothing."""
    given = batch_for(recipe)
    base = evaluate(recipe, given, step)
    for path in places(given):
        for row, position in ((0, 1), (1, 3), (4, 2), (2, 8)):  # the last was not written
            read = not same(base, evaluate(recipe, changed(given, path, row, position, None), step))
            broken = changed(given, path, row, position, value)
            if read:
                with pytest.raises(ValueError, match=r"nan|NaN|inf|finite"):
                    evaluate(recipe, broken, step)
            elif path[0] not in ("reward", "numbers") and not given["mask"][row, position]:
                assert same(base, evaluate(recipe, broken, step)), path


@every_recipe
def test_rows_that_a_role_did_not_see_are_never_read(label: str, recipe: Recipe) -> None:
    given = batch_for(recipe)
    for role in recipe.active(0):
        seen = np.array([True, False, True, True, False, True])
        hidden = {**given, "available": {role: seen}}
        base = evaluate(recipe, hidden)
        broken = copy.deepcopy(hidden)
        broken["teacher_logits"][role][~seen] = np.nan
        assert same(base, evaluate(recipe, broken))
        by_token = {**broken, "available": {role: np.broadcast_to(seen[:, None], given["mask"].shape)}}
        assert same(base, evaluate(recipe, by_token))


@every_recipe
def test_positions_that_nobody_wrote_are_never_read(label: str, recipe: Recipe) -> None:
    given = batch_for(recipe)
    broken = copy.deepcopy(given)
    for column in (broken["student_logits"], *broken["teacher_logits"].values(), broken["behavior"]):
        column[~given["mask"]] = np.nan
    assert same(evaluate(recipe, given), evaluate(recipe, broken))


@every_recipe
def test_a_role_that_saw_nothing_at_all_leaves_no_trace(label: str, recipe: Recipe) -> None:
    """Nor does it make a NaN, an error, or a gradient that depends on what stands in its place."""
    given = batch_for(recipe)
    for role in recipe.active(0):
        blind = {**given, "available": {role: np.zeros(6, dtype=bool)}}
        other = copy.deepcopy(blind)
        other["teacher_logits"][role] += 1.0
        assert same(evaluate(recipe, blind), evaluate(recipe, other))


# --- refusals by name --------------------------------------------------------------------------------------------


@every_recipe
def test_a_missing_array_is_named(label: str, recipe: Recipe) -> None:
    given = batch_for(recipe)
    for name in ("ids", "mask", "student_logits"):
        with pytest.raises(ValueError, match=name):
            evaluate(recipe, {k: v for k, v in given.items() if k != name})
    for role in recipe.active(0):
        with pytest.raises(ValueError, match=f"teacher_logits lack .*{role}"):
            evaluate(recipe, {**given, "teacher_logits": {}})


@every_recipe
def test_a_column_that_is_read_and_missing_is_named(label: str, recipe: Recipe) -> None:
    given = batch_for(recipe)
    base = evaluate(recipe, given)
    for name in ("group", "reward", "marks"):
        bare = {k: v for k, v in given.items() if k != name}
        try:
            assert same(base, evaluate(recipe, bare))
        except ValueError as problem:
            assert name in str(problem)  # noqa: PT017


@every_recipe
def test_unknown_roles_and_arrays_are_named(label: str, recipe: Recipe) -> None:
    given = batch_for(recipe)
    with pytest.raises(ValueError, match="nobody"):
        evaluate(recipe, {**given, "available": {"nobody": np.ones(6, dtype=bool)}})
    with pytest.raises(ValueError, match="rewards"):
        evaluate(recipe, {**given, "rewards": given["reward"]})
    with pytest.raises(ValueError, match="no update 3"):
        evaluate(recipe, given, update=3)


@every_recipe
def test_float64_stays_float64(label: str, recipe: Recipe) -> None:
    """A rounding to float32 anywhere would show: a batch of three equal copies has the single one's loss."""
    drawn = (getattr(recipe, "spans", "") == "random", getattr(recipe, "select", "") == "sample")
    if any(drawn) or getattr(recipe, "balance", None):
        return  # what is drawn goes by the rows' order
    if getattr(recipe, "agreement", None) == "token" or getattr(recipe, "clip_quantile", None):
        return  # a quantile between two values is another among three copies of them
    given = batch_for(recipe)

    def thrice(value: Any) -> Any:
        return (
            {n: thrice(v) for n, v in value.items()}
            if isinstance(value, dict)
            else np.concatenate([value] * 3)
        )

    large = {name: thrice(value) for name, value in given.items()}
    large["group"] = np.concatenate([given["group"] + 10 * i for i in range(3)])
    rows = len(given["pair"])
    large["pair"] = np.concatenate(
        [np.where(given["pair"] < 0, -1, given["pair"] + rows * i) for i in range(3)]
    )
    once, again = evaluate(recipe, given), evaluate(recipe, large)
    assert again["loss"] == pytest.approx(once["loss"], rel=1e-12)
    np.testing.assert_allclose(again["grad"][:6] * 3, once["grad"], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", RECIPES)
def test_a_loss_temperature_of_zero_or_less_is_refused(name: str) -> None:
    recipe = recipe_named(name)
    if "loss_temperature" in knobs(recipe):
        for value in (0.0, -1.0):
            with pytest.raises(UserError, match="loss_temperature"):
                with_knobs(recipe, {"loss_temperature": value})


@pytest.mark.parametrize("name", RECIPES)
def test_the_epsilon_of_group_advantages_is_a_knob_that_must_be_positive(name: str) -> None:
    recipe = recipe_named(name)
    if name == "sdpo":  # reinforces in its mix alone, there without the deviation
        recipe = with_knobs(recipe, {"grpo_share": 0.5, "scale": "std"})
    if name == "many-faces":
        recipe = with_knobs(recipe, {"reinforce": "reward", "per_prompt": 2})
    if "advantage_eps" in knobs(recipe):
        assert knobs(recipe)["advantage_eps"] == 1e-4
        with pytest.raises(UserError, match="advantage_eps"):
            with_knobs(recipe, {"advantage_eps": 0.0})
        moved = with_knobs(recipe, {"advantage_eps": 0.5})
        assert any(  # in one of the stages
            evaluate(moved.stages[stage], batch_for(one))["loss"] != evaluate(one, batch_for(one))["loss"]
            for stage, one in recipe.stages.items()
        )


NOWHERE: list[tuple[str, dict[str, Any]]] = [
    ("opsd", {"mean_over": "tokens"}), ("opsd", {"mean_over": "sequences"}),
    ("opsd", {"mean_over": "tokens", "loss": "policy-gradient", "clip_entry": None}),
    ("pw-opsd", {"mean_over": "tokens"}), ("sd-zero", {"mean_over": "tokens"}), ("sd-zero", {}),
    ("avsd", {}), ("avsd", {"view_top_k": 3}), ("sdpo", {}), ("vopd", {}), ("vopd", {"baseline": "none"}),
    ("exopd", {}), ("exopd", {"estimator": "full"}), ("lightning-opd", {}),
    ("lightning-opd", {"mean_over": "tokens"}), ("lightning-opd", {"mean_over": "sequences"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "words"), NOWHERE, ids=str)
def test_rows_whose_teacher_saw_nothing_count_nowhere(name: str, words: dict[str, Any]) -> None:
    """The loss is that of the batch without them, whatever it is divided by."""
    recipe = with_knobs(recipe_named(name), words)
    given, seen = batch_for(recipe), np.array([True, False, True, True, False, True])
    role = next(iter(recipe.active(0)))

    def kept(value: Any) -> Any:
        return {k: kept(v) for k, v in value.items()} if isinstance(value, dict) else value[seen]

    whole, part = evaluate(recipe, {**given, "available": {role: seen}}), evaluate(recipe, kept(given))
    assert whole["loss"] == pytest.approx(part["loss"], rel=1e-12)
    np.testing.assert_allclose(whole["grad"][seen], part["grad"], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "words"),
    [("opsd", {}), ("avsd", {"view_top_k": 3}), ("trace", {}), ("scope", {"estimator": "full"})],
)
def test_a_role_read_in_full_of_which_only_log_probs_were_given_is_named(
    name: str, words: dict[str, Any]
) -> None:
    recipe = with_knobs(recipe_named(name), words)
    given = batch_for(recipe)
    given["teacher_log_probs"] = {role: given["behavior"] for role in given.pop("teacher_logits")}
    with pytest.raises(
        ValueError, match=r"distribution of '\w+' is read \(signal 'full'\), but only log-probs"
    ):
        evaluate(recipe, given)
