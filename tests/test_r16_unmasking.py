"""Card 16: the gate that keeps tokens whose gradient agrees with that of success."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arrays import arrays, log_softmax
from doors import run_of_recipe
from selfteach.errors import UserError
from selfteach.recipes import RECIPES, with_knobs
from selfteach.recipes.kit import Prompt
from selfteach.task.example import Example, Grade, Message
from selfteach.task.segment import Segment
from selfteach.task.trajectory import Trajectory
from selfteach.testing import evaluate

KNOBS: dict[str, Any] = {"clip_entry": None, "temperature": 1.0}
NODES = {(0, 1): (2, 5, 7), (0, 4): (0, 1), (1, 0): (3, 4, 5, 6), (2, 6): (9,), (4, 2): (1, 2)}


def batch(seed: int = 0) -> dict[str, Any]:
    """Nodes with two to four candidates, one with a single one, and random chances of success."""
    given = arrays(seed)
    columns = {f"candidate{j}": np.full((6, 9), -1.0) for j in range(4)}
    columns |= {f"value{j}": np.zeros((6, 9)) for j in range(4)}
    rng = np.random.default_rng(seed + 3)
    for (row, at), tokens in NODES.items():
        for j, token in enumerate(tokens):
            columns[f"candidate{j}"][row, at] = token
            columns[f"value{j}"][row, at] = rng.integers(5) / 4
    given["numbers"] = columns
    return given


def score(given: dict[str, Any], row: int, at: int, tokens: tuple[int, ...]) -> float:
    """A of a node, by its formula."""
    p = np.exp(log_softmax(given["student_logits"])[row, at])
    q = np.exp(log_softmax(given["teacher_logits"]["teacher"])[row, at])
    ids = list(tokens)
    chance = p[ids] / p[ids].sum()
    value = np.array([given["numbers"][f"value{j}"][row, at] for j in range(len(ids))])
    gradient = (p - q)[ids]
    gradient = -(gradient - chance * gradient.sum())
    ideal = chance * (value - (chance * value).sum())
    length = np.linalg.norm(gradient) * np.linalg.norm(ideal)
    return float(gradient @ ideal / length) if length > 1e-12 else np.nan


def by_answer(places: dict[tuple[int, int], float], rows: int) -> float:
    """Mean over answers of their own mean; ``places`` that are looked at → value."""
    found: dict[int, list[float]] = {}
    for (row, _), value in places.items():
        found.setdefault(row, []).append(value)
    assert len(found) == rows
    return float(np.mean([np.mean(values) for values in found.values()]))


def divergences(given: dict[str, Any]) -> np.ndarray:
    log_p, log_q = log_softmax(given["student_logits"]), log_softmax(given["teacher_logits"]["teacher"])
    return (np.exp(log_q) * (log_q - log_p)).sum(-1)


@pytest.mark.parametrize("seed", range(4))
def test_only_nodes_that_agree_are_trained_on(seed: int) -> None:
    given = batch(seed)
    kept = [place for place, tokens in NODES.items() if score(given, *place, tokens) > 0]
    expected = by_answer({place: divergences(given)[place] * (place in kept) for place in NODES}, 4)
    out = evaluate("unmasking", given, overrides=KNOBS)
    assert out["loss"] == pytest.approx(expected, rel=1e-12)
    moved = {(int(i), int(t)) for i, t in zip(*np.nonzero(np.abs(out["grad"]).sum(-1)), strict=True)}
    assert moved == set(kept)


def test_all_but_those_that_disagree() -> None:
    given = batch()
    out = evaluate("unmasking", given, overrides={**KNOBS, "gate": "unharmed"})
    left = given["mask"].copy()
    for place, tokens in NODES.items():
        left[place] = not score(given, *place, tokens) <= 0
    assert (~left & given["mask"]).any()
    kept = np.where(left, divergences(given), 0)
    means = [kept[row][given["mask"][row]].mean() for row in range(6)]
    assert out["loss"] == pytest.approx(np.mean(means), rel=1e-12)
    tokens = evaluate("unmasking", given, overrides={**KNOBS, "gate": "unharmed", "mean_over": "tokens"})
    assert tokens["loss"] == pytest.approx(kept[given["mask"]].mean(), rel=1e-12)


def test_where_all_candidates_fare_alike_nothing_is_left_out_as_harmful() -> None:
    given = batch()
    for j in range(4):
        given["numbers"][f"value{j}"][:] = 0.5
    knobs = {"clip_entry": None, "temperature": 1.0}
    gated = evaluate("unmasking", given, overrides={**KNOBS, "gate": "unharmed"})
    np.testing.assert_allclose(gated["grad"], evaluate("opsd", given, overrides=knobs)["grad"], atol=1e-15)


def test_nodes_without_a_gate_are_opsd_there() -> None:
    given = batch()
    out = evaluate("unmasking", given, overrides={**KNOBS, "gate": "nodes"})
    expected = by_answer({place: divergences(given)[place] for place in NODES}, 4)
    assert out["loss"] == pytest.approx(expected, rel=1e-12)


def test_a_teacher_that_tilts_by_success_agrees_fully_and_its_opposite_not_at_all() -> None:
    """q_j ∝ p_j exp(V_j/τ) under reverse KL descends along g* itself."""
    given = batch()
    for sign, everything in ((1, True), (-1, False)):
        theirs = given["student_logits"].copy()
        live = []
        for place, tokens in NODES.items():
            for j, token in enumerate(tokens):
                theirs[(*place, token)] += sign * given["numbers"][f"value{j}"][place] / 0.7
            values = {given["numbers"][f"value{j}"][place] for j in range(len(tokens))}
            live += [place] if len(values) > 1 else []
        out = evaluate(
            "unmasking", {**given, "teacher_logits": {"teacher": theirs}}, overrides={**KNOBS, "beta": 1.0}
        )
        moved = {
            (int(i), int(t)) for i, t in zip(*np.nonzero(np.abs(out["grad"]).sum(-1) > 1e-12), strict=True)
        }
        assert moved == (set(live) if everything else set())


def test_where_all_candidates_fare_alike_nothing_is_learned() -> None:
    given = batch()
    for j in range(4):
        given["numbers"][f"value{j}"][:] = 0.5
    out = evaluate("unmasking", given, overrides=KNOBS)
    assert not out["grad"].any()


def test_what_has_no_gradient_over_the_vocabulary_is_refused() -> None:
    for knobs in ({"teacher_top_k": 5}, {"loss": "policy-gradient", "clip_entry": None}):
        with pytest.raises(UserError, match="compares gradients over the vocabulary"):
            with_knobs(RECIPES["unmasking"](), knobs)


class Scripted:
    """Tools whose verifier calls an answer right if it holds token 7, and whose student goes on with 7 after a 5."""

    def __init__(self, most: int) -> None:
        self.most, self.sampled = most, 0

    def sample(self, begun: Any, n: int = 1, *, max_tokens: int | None = None) -> list[Trajectory]:
        if isinstance(begun[0], Prompt):
            return [answer(ids) for ids in ([1, 2, 3], [4, 4])]
        found = []
        for one in [one for one in begun for _ in range(n)]:
            self.sampled += 1
            more = [7 if one.ids[-1] == 5 else 8] * (max_tokens or 1)
            found.append(one.extended(Segment(more, "student"), "", finished=True))
        return found

    def measure(self, written: Any, wanted: Any) -> dict[str, list[list[float]]]:
        columns = {"entropy": [[0.1, 0.9, 0.5], [0.3, 0.2]]}
        return columns | {"token0": [[5, 5, 5], [6, 5]], "token1": [[6, 6, 9], [-1, 7]]}

    def cut(self, one: Trajectory, tokens: int, then: Any = ()) -> Trajectory:
        kept = one.head(tokens, text="")
        return kept.extended(Segment(list(then), "edit"), "", finished=9 in then) if then else kept

    def grade(self, many: Any) -> list[Trajectory]:
        assert all(len(one.ids) <= self.most for one in many)
        return [one.graded(Grade(float(7 in one.ids))) for one in many]


def answer(ids: list[int]) -> Trajectory:
    asked = Example("x", (Message(role="user", content="?"),))
    return Trajectory.written(asked, [1], ids, "", group=0, finished=True)


def test_each_branch_is_worth_what_its_own_completions_come_to() -> None:
    knobs = {"nodes": 2, "candidates": 2, "completions": 3, "max_tokens": 4}
    tools: Any = Scripted(4)
    prompt = Prompt(answer([1]).example, [1], 0)
    one, other = with_knobs(RECIPES["unmasking"](), knobs).rollout(tools, [prompt], 0)
    assert one.numbers["candidate0"] == [-1, 5, 5]
    assert one.numbers["candidate1"] == [-1, 6, 9]
    assert one.numbers["value0"] == [0, 1, 1]
    assert one.numbers["value1"] == [0, 0, 0]  # a 6 leads to 8s, a 9 ends the answer as it stands
    assert other.numbers["candidate0"] == [6, 5]
    assert other.numbers["candidate1"] == [-1, 7]
    assert other.numbers["value0"] == [0, 1]
    assert other.numbers["value1"] == [0, 1]
    assert tools.sampled == 3 * (2 + 1 + 1 + 2)  # all but the branch that ended


def test_a_rollout_forces_candidates_and_counts_who_succeeds(tiny: str, tmp_path: Path) -> None:
    knobs = {
        "max_tokens": 5, "prompts": 2, "nodes": 2, "candidates": 3, "completions": 2, "min_prob": 0.0,
        "student_thinking": None, "teacher_thinking": None, "lora_rank": 0, "temperature": 1.0, "top_p": 1.0,
        "top_k": 0,
    }  # fmt: skip
    recipe = with_knobs(RECIPES["unmasking"](), knobs)
    run, learner = run_of_recipe(recipe, tiny, tmp_path)
    tools = learner.writing.tools(0)
    for one in recipe.rollout(tools, learner.writing.prompts.take(2), 0):
        numbers: Any = one.numbers
        nodes = [t for t, token in enumerate(numbers["candidate0"]) if token >= 0]
        assert len(nodes) == min(2, len(one.ids))
        for t in nodes:
            tokens = [int(numbers[f"candidate{j}"][t]) for j in range(3)]
            assert len(set(tokens)) == 3
            assert all(numbers[f"value{j}"][t] in (0.0, 0.5, 1.0) for j in range(3))
        assert one.sampled
    run.step()
