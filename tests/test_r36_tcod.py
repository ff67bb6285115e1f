"""Card 36: what the paper and its code say TCOD is, in numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arrays import arrays, log_softmax
from doors import run_of_recipe
from guessing import GuessingTask
from selfteach.errors import UserError
from selfteach.recipes import with_knobs
from selfteach.recipes.r36_tcod import TCOD, depth, replayed
from selfteach.task.example import Example
from selfteach.task.trajectory import Trajectory
from selfteach.testing import evaluate
from selfteach.training.text.learner import TextLearner
from test_turn_contexts import FORGETFUL
from tiny import CHATML, tiny_model_folder

TURN = np.array([[0, 0, 0, 1, 1, 1, 1, 2, 2]] * 6)


def test_the_depth_rises_by_a_turn_every_eta_steps() -> None:
    assert [depth(n, 1, 2) for n in range(1, 7)] == [1, 2, 2, 3, 3, 4]
    assert [depth(n, 3, 4) for n in range(1, 9)] == [3, 3, 3, 4, 4, 4, 4, 5]


def test_an_experts_turns_are_replayed_but_for_the_last() -> None:
    expert = ["a", "b", "c"]
    assert [list(replayed(expert, k)) for k in (1, 2, 3, 4)] == [["a", "b"], ["a"], [], []]


# --- the loss ---------------------------------------------------------------------------------------------------


def of_turns() -> dict[str, Any]:
    given = arrays()
    own, theirs = (
        np.take_along_axis(log_softmax(x), given["ids"][..., None], -1)[..., 0]
        for x in (given["student_logits"], given["teacher_logits"]["teacher"])
    )
    return {**given, "turn": TURN, "behavior": own, "gap": theirs - own}


def asked(given: dict[str, Any], **knobs: Any) -> dict[str, Any]:
    return evaluate("tcod", {name: value for name, value in given.items() if name != "gap"}, overrides=knobs)


def per_turn(values: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """What stands at each turn of each row that wrote any."""
    found = [values[i][mask[i] & (TURN[i] == k)] for i in range(len(values)) for k in range(3)]
    return [one for one in found if len(one)]


def test_the_loss_is_a_policy_gradient_of_the_log_ratio() -> None:
    given = of_turns()
    out = asked(given)
    expected = -np.mean([one.mean() for one in per_turn(given["gap"], given["mask"])])
    assert out["loss"] == pytest.approx(expected, rel=1e-12)
    tokens = asked(given, mean_over="tokens")
    assert tokens["loss"] == pytest.approx(-given["gap"][given["mask"]].mean(), rel=1e-12)
    chances = np.exp(log_softmax(given["student_logits"]))
    one_hot = np.eye(chances.shape[-1])[given["ids"]]
    score = -given["gap"][..., None] * (one_hot - chances) * given["mask"][..., None]
    np.testing.assert_allclose(tokens["grad"], score / given["mask"].sum(), atol=1e-13)


def test_the_papers_forward_kl_is_taken_over_the_vocabulary() -> None:
    given = of_turns()
    p, q = (log_softmax(x) for x in (given["student_logits"], given["teacher_logits"]["teacher"]))
    forward = (np.exp(q) * (q - p)).sum(-1)
    out = asked(given, loss="forward-kl")
    assert out["loss"] == pytest.approx(np.mean([one.mean() for one in per_turn(forward, given["mask"])]))


def test_an_equal_teacher_teaches_nothing() -> None:
    given = of_turns()
    given["teacher_logits"] = {"teacher": given["student_logits"]}
    for loss in ("k1", "forward-kl"):
        np.testing.assert_allclose(asked(given, loss=loss)["grad"], 0, atol=1e-16)


def test_the_trajectory_kl_is_the_sum_over_turns_and_tokens() -> None:
    given = of_turns()
    kl = -given["gap"] * given["mask"]
    out = asked(given)["metrics"]
    assert out["kl/trajectory"] == pytest.approx(kl.sum(1).mean(), rel=1e-12)
    third = [kl[i][TURN[i] == 2].sum() for i in range(6) if (given["mask"][i] & (TURN[i] == 2)).any()]
    assert out["kl/turn/2"] == pytest.approx(np.mean(third), rel=1e-12)
    shared = asked({**given, "trajectory": np.array([0, 0, 1, 2, 2, 2])})["metrics"]
    assert shared["kl/trajectory"] == pytest.approx(kl.sum() / 3, rel=1e-12)


# --- the curriculum ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[CHATML, FORGETFUL], ids=["extends", "forgets"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return (
        str(tiny_model_folder(folder / "student", template=request.param)),
        str(tiny_model_folder(folder / "teacher", template=request.param, seed=1)),
    )


def learner_of(models: tuple[str, str], out: Path, task: GuessingTask, **knobs: Any) -> TextLearner:
    small = {"max_tokens": 4, "max_turns": 4, "prompts": 6, "teacher": models[1], **knobs}
    return run_of_recipe(with_knobs(TCOD(), small), models[0], out, task=task)[1]


def wrote(rows: Sequence[Trajectory]) -> dict[int, set[int]]:
    """Trajectory → the turns that the student wrote."""
    found: dict[int, set[int]] = {}
    for one in rows:
        assert one.trajectory is not None
        own = {turn for turn, mine in zip(one.turn, one.mask, strict=True) if mine}
        found.setdefault(one.trajectory, set()).update(own)
    return found


class NeverSolved(GuessingTask):
    """The student cannot guess it by chance, so that episodes are as long as they may be."""

    def example(self, index: int, part: str) -> Example:
        made = super().example(index, part)
        private = {"answer": "x", "solution": json.dumps(["5", "7", "8"])}
        return Example(made.key, made.prompt, private)


def test_front_to_back_shows_the_first_turns(models: tuple[str, str], tmp_path: Path) -> None:
    learner = learner_of(models, tmp_path, NeverSolved(), eta=2)
    for step, turns in enumerate([1, 2, 2, 3, 3, 4, 4]):
        assert set(map(len, wrote(learner.collect(step).rows).values())) == {turns}
    assert set(map(len, wrote(learner.collect(40).rows).values())) == {4}


def test_deep_enough_it_is_plain_distillation_bit_for_bit(models: tuple[str, str], tmp_path: Path) -> None:
    deep = {"start_turns": 4, "mean_over": "tokens"}
    kinds = ({"curriculum": "f2b"}, {"curriculum": "b2f"}, {"curriculum": "none"})
    found = []
    for i, kind in enumerate(kinds):
        run, learner = run_of_recipe(
            with_knobs(TCOD(), {"max_tokens": 4, "max_turns": 4, "prompts": 3, "teacher": models[1], **deep, **kind}),
            models[0],
            tmp_path / str(i),
            task=GuessingTask(),
        )  # fmt: skip
        run.step()
        weights = {name: one.clone() for name, one in learner.policy.trainable().items()}
        found.append((weights, run.progress.rows[-1]["loss"]))
    for weights, loss in found[1:]:
        assert loss == found[0][1]
        assert all((found[0][0][name] == one).all() for name, one in weights.items())


def test_back_to_front_begins_behind_the_expert(models: tuple[str, str], tmp_path: Path) -> None:
    """An expert of three turns: two are replayed, then one, then none; the student goes on to the fourth."""
    learner = learner_of(models, tmp_path, NeverSolved(), curriculum="b2f", eta=1, start_turns=1)
    recipe = learner.recipe
    assert isinstance(recipe, TCOD)
    for step, turns in ((0, {1, 2, 3}), (1, {0, 1, 2, 3})):  # depth 2, depth 3
        for one in wrote(learner.collect(step).rows).values():
            assert one == turns
    tools = learner.writing.tools(0)
    (first, *_) = recipe.gone_on(tools, learner.writing.drawn(1, 0), 1)
    assert wrote([first] if first.trajectory is not None else []) in ({}, {first.trajectory: {2, 3}})
    said = [learner.policy.renderer.text(one.ids) for one in first.segments if one.spoken and not one.trains]
    assert said == ["5", "7"]
    assert {t for t, own in zip(first.turn, first.mask, strict=True) if own} == {2, 3}


def test_replayed_turns_have_no_gradient(models: tuple[str, str], tmp_path: Path) -> None:
    run, learner = run_of_recipe(
        with_knobs(
            TCOD(),
            {"max_tokens": 4, "max_turns": 3, "prompts": 2, "teacher": models[1], "curriculum": "b2f", "eta": 9},
        ),
        models[0],
        tmp_path,
        task=NeverSolved(),
    )  # fmt: skip
    batch = learner.collect(0)
    given = [one for row in batch.rows for one in row.segments if one.author == "data"]
    assert given
    assert not any(one.trains for one in given)
    run.step()
    weighted = learner.collect(0).columns
    replay = weighted.turn < 2
    assert not (weighted.mask & replay).any()


def test_an_episode_that_ends_while_it_is_replayed_is_dropped(
    models: tuple[str, str], tmp_path: Path
) -> None:
    class Solved(GuessingTask):
        """Every other expert says more than it needs to."""

        def example(self, index: int, part: str) -> Example:
            made = super().example(index, part)
            secret = made.private["answer"]
            wrong = "0" if secret != "0" else "1"
            turns = [secret, wrong, wrong] if index % 2 else [wrong, wrong, secret]
            return Example(made.key, made.prompt, {"answer": secret, "solution": json.dumps(turns)})

    learner = learner_of(models, tmp_path, Solved(), curriculum="b2f", eta=9)
    rows = learner.collect(0).rows
    assert {one.example.key for one in rows} == {"train 0", "train 2", "train 4"}


def test_what_cannot_be_replayed_is_refused(models: tuple[str, str], tmp_path: Path) -> None:
    learner = learner_of(models, tmp_path / "a", NeverSolved(), curriculum="b2f", eta=9, max_turns=2)
    with pytest.raises(UserError, match="max_turns 2 is used up by every replay"):
        learner.collect(0)
    learner = learner_of(models, tmp_path / "b", GuessingTask(), curriculum="b2f", reference="answer")
    with pytest.raises(UserError, match="'answer' must be a JSON list of texts, an expert's turns"):
        learner.collect(0)
