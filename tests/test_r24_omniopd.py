"""Card 24: what the paper says OmniOPD is, in numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arrays import VOCABULARY, arrays, log_softmax, slopes
from doors import run_of_recipe
from selfteach.recipes import RECIPES, with_knobs
from selfteach.recipes.r24_omniopd import peaks
from selfteach.task.example import Example, Message
from selfteach.task.segment import Segment
from selfteach.task.trajectory import Trajectory
from selfteach.testing import evaluate

C = 3
KNOBS: dict[str, Any] = {
    "chunk_tokens": C,
    "chunks": 2,
    "continuations": 4,
    "prior_strength": 1.0,
    "anchor": 0.1,
}


def batch(seed: int = 0) -> dict[str, Any]:
    """Rows of 9, 4, 7, 1, 6, 3 tokens with chunks at places of their own."""
    given = arrays(seed, teachers=("reference",))
    chunk = np.full((6, 9), -1.0)
    agreement = np.zeros((6, 9))
    rng = np.random.default_rng(seed + 1)
    for row, places in {0: (1, 5), 1: (0,), 2: (4,), 4: (0, 3), 5: (0,)}.items():
        for k, at in enumerate(places):
            chunk[row, at : at + C] = k
            agreement[row, at : at + C] = 4 * rng.random()
    given["numbers"] = {"chunk": chunk, "agreement": agreement}
    return given


def belief(given: dict[str, Any], prior: float = 1.0, n: int = 4) -> np.ndarray:
    own = np.take_along_axis(log_softmax(given["student_logits"]), given["ids"][..., None], -1)[..., 0]
    chunk, found = given["numbers"]["chunk"], np.zeros(given["ids"].shape)
    for row in range(6):
        for k in range(2):
            there = chunk[row] == k
            if there.any():
                sure = np.exp(own[row][there].mean())
                found[row][there] = (given["numbers"]["agreement"][row][there] + prior * sure) / (n + prior)
    return found


def loss(
    given: dict[str, Any], weight: np.ndarray, beta: float = 0.1, logits: np.ndarray | None = None
) -> float:
    log_p = log_softmax(given["student_logits"] if logits is None else logits)
    log_b = log_softmax(given["teacher_logits"]["reference"])
    own = np.take_along_axis(log_p, given["ids"][..., None], -1)[..., 0]
    audited = given["numbers"]["chunk"] >= 0
    kl = (np.exp(log_b) * (log_b - log_p)).sum(-1)
    per_token = np.where(audited, -weight * own, beta * kl)
    return float(per_token[given["mask"]].sum() / given["mask"].sum())


def test_the_loss_is_the_cards() -> None:
    given = batch()
    out = evaluate("omniopd", given, overrides=KNOBS)
    assert out["loss"] == pytest.approx(loss(given, belief(given)), rel=1e-12)
    assert 0 < out["metrics"]["agreement"] < 1


def test_no_gradient_flows_through_the_belief() -> None:
    given = batch()
    weight, out = belief(given), evaluate("omniopd", given, overrides=KNOBS)["grad"]
    for place, slope in slopes(given["student_logits"], lambda moved: loss(given, weight, logits=moved)):
        assert slope == pytest.approx(out[place], abs=1e-8)


def test_without_continuations_the_belief_is_the_students_own() -> None:
    given = batch()
    given["numbers"]["agreement"] *= 0
    out = evaluate("omniopd", given, overrides={**KNOBS, "continuations": 0})
    assert out["loss"] == pytest.approx(loss(given, belief(given, 1.0, 0)), rel=1e-12)


@pytest.mark.parametrize(("prior", "n"), [(0.0, 4), (1e9, 4)])
def test_the_two_ends_of_the_prior(prior: float, n: int) -> None:
    given = batch()
    out = evaluate("omniopd", given, overrides={**KNOBS, "prior_strength": prior})
    shares = np.where(given["numbers"]["chunk"] >= 0, given["numbers"]["agreement"] / n, 0.0)
    expected = shares if prior == 0 else belief(given, 1.0, 0) * (given["numbers"]["agreement"] >= 0)
    if prior:
        own = {**given, "numbers": {**given["numbers"], "agreement": 0 * given["numbers"]["agreement"]}}
        expected = belief(own, 1.0, 0)
    assert out["loss"] == pytest.approx(loss(given, expected), rel=1e-7)


def test_identical_texts_are_believed_fully_but_for_the_prior() -> None:
    given = batch()
    given["numbers"]["agreement"] = np.where(given["numbers"]["chunk"] >= 0, 4.0, 0.0)
    own = belief(given)
    audited = given["numbers"]["chunk"] >= 0
    assert (own[audited] <= 1).all()
    assert (own[audited] >= 4 / 5).all()
    assert evaluate("omniopd", given, overrides=KNOBS)["loss"] == pytest.approx(loss(given, own), rel=1e-12)


def test_without_chunks_it_is_the_anchor_alone_and_0_at_the_start() -> None:
    given = batch()
    given["numbers"]["chunk"] = np.full((6, 9), -1.0)
    assert evaluate("omniopd", given, overrides=KNOBS)["loss"] == pytest.approx(
        loss(given, np.zeros((6, 9))), rel=1e-12
    )
    given["teacher_logits"] = {"reference": given["student_logits"]}
    out = evaluate("omniopd", given, overrides=KNOBS)
    assert out["loss"] == pytest.approx(0, abs=1e-14)
    np.testing.assert_allclose(out["grad"], 0, atol=1e-14)


def test_one_chunks_loss_is_its_belief_times_its_negative_log_likelihood() -> None:
    given = batch()
    given["numbers"]["chunk"][1:] = -1
    given["numbers"]["chunk"][0, 5:8] = -1
    weight = belief(given)
    own = np.take_along_axis(log_softmax(given["student_logits"]), given["ids"][..., None], -1)[..., 0]
    out = evaluate("omniopd", given, overrides={**KNOBS, "anchor": 0.0})
    expected = -weight[0, 1] * C * own[0, 1:4].mean() / given["mask"].sum()
    assert out["loss"] == pytest.approx(expected, rel=1e-12)
    assert out["grad"].shape[-1] == VOCABULARY


@pytest.mark.parametrize(
    ("height", "most", "width", "places"),
    [
        ([0, 5, 1, 4, 0, 0], 2, 2, [1, 3]),
        ([0, 5, 4, 3, 0, 0], 2, 2, [1, 3]),
        ([1, 1, 1, 1], 2, 2, [0, 2]),
        ([0, 0, 9], 3, 2, [0]),
        ([3, 2], 5, 3, []),
        ([1, 2, 3], 0, 1, []),
        ([1, 3, 2], 2, 1, [1, 2]),
    ],
)
def test_chunks_begin_at_the_highest_places_that_fit(
    height: list[float], most: int, width: int, places: list[int]
) -> None:
    assert peaks(height, most, width) == places


class Scripted:
    """Tools whose teacher repeats what stands behind position 4 of the first answer and says other things elsewhere."""

    def sample(
        self, begun: Any, n: int = 1, *, role: str = "student", max_tokens: int | None = None
    ) -> list[Trajectory]:
        if role == "student":
            return [answer([1, 2, 3, 4, 5, 6]), answer([1, 2, 3])]
        assert (role, n, max_tokens) == ("teacher", 3, 2)
        found = []
        for one in begun:
            for copy in range(n):
                said = [5, 6] if one.ids == [1, 2, 3, 4] and copy < 2 else [9, 9]
                found.append(one.extended(Segment(said, role), "", finished=False))
        return found

    def measure(self, written: Any, wanted: Any) -> dict[str, list[list[float]]]:
        return {"entropy": [[0.8, 0.1, 0.2, 0.3, 0.9, 0.1], [0.1, 0.7, 0.2]]}

    def cut(self, one: Trajectory, tokens: int, then: Any = ()) -> Trajectory:
        return one.head(tokens, text="")

    def text(self, ids: Any) -> str:
        return "".join(map(str, ids))


def answer(ids: list[int]) -> Trajectory:
    asked = Example("x", (Message(role="user", content="?"),))
    return Trajectory.written(asked, [1], ids, "", group=0, finished=True)


def test_each_chunk_has_the_agreement_of_its_own_continuations() -> None:
    knobs = {"chunks": 2, "continuations": 3, "chunk_tokens": 2}
    tools: Any = Scripted()
    one, other = with_knobs(RECIPES["omniopd"](), knobs).rollout(tools, [], 0)
    assert one.numbers["chunk"] == [0, 0, -1, -1, 1, 1]
    assert one.numbers["agreement"] == [0, 0, 0, 0, 2, 2]
    assert other.numbers["chunk"] == [-1, 0, 0]
    assert other.numbers["agreement"] == [0, 0, 0]


def test_a_rollout_asks_the_teacher_from_the_students_prefix(tiny: str, tmp_path: Path) -> None:
    knobs = {
        "teacher": tiny, "chunks": 2, "continuations": 3, "chunk_tokens": 2, "max_tokens": 8, "prompts": 2,
        "student_thinking": None,
    }  # fmt: skip
    recipe = with_knobs(RECIPES["omniopd"](), knobs)
    run, learner = run_of_recipe(recipe, tiny, tmp_path)
    tools = learner.writing.tools(0)
    for one in recipe.rollout(tools, learner.writing.prompts.take(2), 0):
        chunk, agreement = one.numbers["chunk"], one.numbers["agreement"]
        assert isinstance(chunk, list)
        assert isinstance(agreement, list)
        for k in {at for at in chunk if at >= 0}:
            places = [t for t, at in enumerate(chunk) if at == k]
            assert places == list(range(places[0], places[0] + 2))
            assert 0 <= agreement[places[0]] <= 3
        assert all(value == 0 for at, value in zip(chunk, agreement, strict=True) if at < 0)
        assert set(one.authors) == {"student"}
    run.step()
