"""SDFT: a demonstration in the teacher's context, and the variant that rewrites references."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from arrays import arrays, log_softmax
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.sdft import SDFT
from selfteach.recipes.sdft_rewrite import SDFTRewrite
from selfteach.roles.weights import EMA, Frozen, Live
from selfteach.task.example import Example, Grade, Message
from selfteach.task.trajectory import Trajectory
from selfteach.testing import evaluate


def kl(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (np.exp(one) * (one - other)).sum(-1)


def by_hand(given: dict[str, Any], beta: float, skip: int) -> list[np.ndarray]:
    p, q = (log_softmax(x) for x in (given["student_logits"], given["teacher_logits"]["teacher"]))
    each = kl(p, q) if beta == 1 else kl(q, p)
    return [each[n, skip:written] for n, written in enumerate(given["mask"].sum(1))]


@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("skip", [0, 3])
def test_the_loss_begins_behind_the_first_tokens(beta: float, skip: int) -> None:
    given = arrays()
    rows = [row for row in by_hand(given, beta, skip) if len(row)]
    out = evaluate("sdft", given, overrides={"beta": beta, "skip_tokens": skip})
    assert out["loss"] == pytest.approx(np.mean([row.mean() for row in rows]), rel=1e-12)
    assert (out["grad"][:, :skip] == 0).all()
    tokens = evaluate("sdft", given, overrides={"beta": beta, "skip_tokens": skip, "mean_over": "tokens"})
    assert tokens["loss"] == pytest.approx(np.concatenate(rows).mean(), rel=1e-12)


def test_whose_weights_teach() -> None:
    found = {name: SDFT(weights=name).teachers["teacher"].weights for name in ("ema", "frozen", "live")}  # type: ignore[arg-type]
    assert found == {"ema": EMA(0.99, from_start=True), "frozen": Frozen(), "live": Live()}
    assert recipe_named("sdft", "trl").teachers["teacher"].weights == Frozen()


def example() -> Example:
    return Example("k", (Message(role="user", content="2+2?"),), {"solution": "It is 4."})


def test_the_teacher_reads_the_demonstration_and_the_student_does_not() -> None:
    one = Trajectory.written(example(), [1], [2], "4", group=0, finished=True)
    messages = SDFT().teachers["teacher"].view(one, [one], {})
    assert messages is not None
    assert "2+2?" in messages[-1]["content"]
    assert "It is 4." in messages[-1]["content"]
    assert "{" not in messages[-1]["content"]
    assert SDFT(demonstration="shown").teachers["teacher"].view(one, [one], {}) is None


def test_the_teacher_may_write_instead() -> None:
    asked: list[str] = []
    tools: Any = SimpleNamespace(sample=lambda prompts, n, role: asked.append(role))
    SDFT().rollout(tools, [], 0)
    SDFT(generate_from_teacher=True).rollout(tools, [], 0)
    assert asked == ["student", "teacher"]


def test_a_rewriting_that_does_not_verify_gives_way_to_the_reference() -> None:
    prompts: Any = ["a", "b"]
    right, wrong = (Trajectory.written(example(), [1], [i], "x", group=i, finished=True) for i in (0, 1))
    graded = [right.graded(Grade(1.0)), wrong.graded(Grade(0.0))]
    tools: Any = SimpleNamespace(
        sample=lambda given, role: [right, wrong],
        quote=lambda given, field: [f"{field} of {one}" for one in given],
        grade=lambda written: graded,
    )
    assert SDFTRewrite().rollout(tools, prompts, 0) == [graded[0], "solution of b"]
    assert SDFTRewrite(keep_wrong=True).rollout(tools, prompts, 0) == [right, wrong]


def test_what_is_read_while_rewriting_may_be_another_field() -> None:
    one = Trajectory.written(example(), [1], [2], "4", group=0, finished=True)
    for recipe in (SDFTRewrite(), SDFTRewrite(reference="worked", shown="solution")):
        messages = recipe.writers["seed"].view(one, [one], {})
        assert messages is not None
        assert "It is 4." in messages[-1]["content"]
        assert "{" not in messages[-1]["content"]


def test_the_rewritten_texts_are_imitated() -> None:
    given = arrays()
    p = np.take_along_axis(log_softmax(given["student_logits"]), given["ids"][..., None], -1)[..., 0]
    expected = -(p * given["mask"]).sum() / given["mask"].sum()
    assert evaluate("sdft-rewrite", given)["loss"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("kind", "change"), [
    (SDFT, {"skip_tokens": -1}), (SDFT, {"beta": 1.5}), (SDFTRewrite, {"stored": 0}), (SDFTRewrite, {"per_prompt": 2}),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused(kind: Any, change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        with_knobs(kind(), change)
