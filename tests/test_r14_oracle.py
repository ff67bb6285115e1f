"""Card 14: the teacher that looks back, on the student's own verdicts, in numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arrays import arrays, log_softmax, slopes
from doors import run_of_recipe
from episodes import Episodes, prompt
from selfteach.errors import UserError
from selfteach.recipes import Recipe, recipe_named, with_knobs
from selfteach.recipes.kit import EMA, Field, Frozen, Live, Told, Trajectory
from selfteach.recipes.r14_oracle import Oracle, first_open
from selfteach.task.arena import Game, arena_model, open_world
from selfteach.task.example import Example, Message
from selfteach.task.segment import ENVIRONMENT, Segment
from selfteach.testing import evaluate

GIVEN = {
    "reflection": "field",
    "max_tokens": 4,
    "max_turns": 12,
    "prompts": 4,
    "weight_decay": 0.0,
    "warmup": 0,
}
SCAM = "abc/dua/fgh/wab/cde/fgh/ija/bcd/eZf/ghi"


def given(**knobs: Any) -> Recipe:
    return with_knobs(Oracle(), {**GIVEN, **knobs})


def stream(**changes: Any) -> Game:
    found = open_world("stream")
    assert isinstance(found, Game)
    return replace(found, **changes)


# --- the loss ----------------------------------------------------------------------------------------------------


def loss(batch: dict[str, Any], logits: np.ndarray, where: np.ndarray) -> float:
    """Mean over all written tokens of KL(π‖q) at those that are distilled."""
    p, q = log_softmax(logits), log_softmax(batch["teacher_logits"]["teacher"])
    return float(((np.exp(p) * (p - q)).sum(-1) * where).sum() / batch["mask"].sum())


@pytest.mark.parametrize("gate", ["", "early"])
def test_it_is_the_reverse_kl_over_all_tokens_of_the_batch(gate: str) -> None:
    batch = arrays()
    opened = np.random.default_rng(3).random(batch["mask"].shape) < 0.5
    batch["marks"] = {"open": opened}
    where = batch["mask"] & opened if gate else batch["mask"]
    out = evaluate("oracle", batch, overrides={"gate": gate})
    assert out["loss"] == pytest.approx(loss(batch, batch["student_logits"], where), rel=1e-12)
    for place, slope in slopes(batch["student_logits"], lambda moved: loss(batch, moved, where)):
        assert slope == pytest.approx(out["grad"][place], abs=1e-7)


def test_the_gate_takes_the_gradient_of_what_could_not_be_known() -> None:
    batch = arrays()
    batch["marks"] = {"open": batch["turn"] >= 1}
    out, every = evaluate("oracle", batch, overrides={"gate": "early"}), evaluate("oracle", batch)
    np.testing.assert_allclose(out["grad"], every["grad"] * (batch["turn"] >= 1)[..., None], atol=1e-14)


def test_a_teacher_that_says_what_the_student_says_teaches_nothing() -> None:
    batch = arrays()
    batch["teacher_logits"] = {"teacher": batch["student_logits"]}
    out = evaluate("oracle", batch)
    assert abs(out["loss"]) < 1e-14
    assert np.abs(out["grad"]).max() < 1e-14


def test_what_a_teacher_does_not_see_counts_nowhere() -> None:
    """Of a rollout that no reflection was written of nothing is distilled, nor does it stand in the mean."""
    shown = np.array([1, 0, 1, 1, 0, 1], dtype=bool)
    batch = {**arrays(), "available": {"teacher": shown}}
    kept = {**batch, "mask": batch["mask"] & shown[:, None]}
    out = evaluate("oracle", batch)
    assert out["loss"] == pytest.approx(loss(kept, batch["student_logits"], kept["mask"]), rel=1e-12)


def test_few_likeliest_tokens_and_the_rest_as_one() -> None:
    batch = arrays()
    p, q = (log_softmax(x) for x in (batch["student_logits"], batch["teacher_logits"]["teacher"]))
    top = np.argsort(-p, -1)[..., :3]
    sides = [np.exp(np.take_along_axis(x, top, -1)) for x in (p, q)]
    one, other = (np.concatenate([x, 1 - x.sum(-1, keepdims=True)], -1) for x in sides)
    each = (one * np.log(one / other)).sum(-1)
    out = evaluate("oracle", batch, overrides={"student_top_k": 3})
    assert out["loss"] == pytest.approx(float(each[batch["mask"]].mean()), rel=1e-9)


# --- the teacher, on a model and a stream --------------------------------------------------------------------------


def test_without_its_reflection_a_live_teacher_is_the_student(tmp_path: Path) -> None:
    """The view is there and shows nothing more: KL 0 and no gradient, at whatever the student wrote."""
    blank = stream(wording={"reflection": "{problem}"})
    for told in (blank, stream()):
        _, learner = run_of_recipe(given(weights="live"), str(arena_model("stream")), tmp_path, task=told)
        batch = learner.collect(0)
        numbers = learner.backward(batch, learner.recipe.updates(0)[0], False)
        largest = max(float(p.grad.abs().max()) for p in learner.policy.trainable().values())
        if told is blank:
            assert abs(numbers["loss"]) < 1e-12
            assert largest < 1e-12
        else:
            assert numbers["loss"] > 1e-3
            assert largest > 1e-6


def test_teacher_and_student_are_scored_at_the_same_tokens_behind_either_prompt(tmp_path: Path) -> None:
    """By hand: the student's tokens behind its own prompt, and the very same behind the one with the reflection."""
    _, learner = run_of_recipe(given(), str(arena_model("stream")), tmp_path, task=stream())
    batch = learner.collect(0)
    stats = batch.statistics()
    model, renderer = learner.policy.model, learner.policy.renderer
    apart = []
    for row, one in enumerate(batch.rows):
        assert [stats.ids[row, t] for t in range(len(one.ids))] == one.ids
        example = one.example
        shown = f"{example.problem}|{example.private['reflection']}"
        longer = renderer.prompt_ids((Message(role="user", content=shown),), None)
        assert len(longer) == len(one.prompt_ids) + len(example.private["reflection"]) + 1
        own = torch.tensor(one.mask)
        for role, begun in (("student", one.prompt_ids), ("teacher", longer)):
            with torch.no_grad():
                logits = model(torch.tensor([[*begun, *one.ids]])).logits[0]
            said = logits[len(begun) - 1 : -1].log_softmax(-1)[range(len(one.ids)), one.ids]
            mine = stats.log_prob(role)[row, : len(one.ids)]
            torch.testing.assert_close(mine[own].double(), said[own].double(), rtol=0, atol=1e-9)
        both = [stats.log_prob(role)[row, : len(one.ids)][own] for role in ("student", "teacher")]
        apart.append(float((both[0] - both[1]).abs().max()))
        assert int(own.sum()) == 2 * len(
            example.private["whole"].split("/")
        )  # a verdict and its end, each window
    assert max(apart) > 0.1


def test_the_view_shows_the_stream_so_far_first_and_the_reflection_behind_it() -> None:
    example = stream().example(SCAM)
    one = Trajectory.written(example, [0], [1], "", group=0, finished=True)
    for recipe in (given(), with_knobs(Oracle(), {})):
        view = recipe.teachers["teacher"].view
        assert isinstance(view, Field if recipe.reflection == "field" else Told)  # type: ignore[attr-defined]
        own, taught = view(one, [one], {}), view(one, [one], stream().wording)
        assert taught == (Message(role="user", content="abc|uwZ"),)
        assert own is not None
        text = own[0]["content"]
        assert text.startswith("abc\n\n")
        assert text.index("uwZ") > text.index("abc")
        assert example.private["future"] not in text
    bare = replace(one, example=replace(example, private={}))
    assert given().teachers["teacher"].view(bare, [bare], {}) is None


def test_whose_weights_teach() -> None:
    found = {name: given(weights=name).teachers["teacher"].weights for name in ("live", "frozen", "ema")}
    assert found == {"live": Live(), "frozen": Frozen(), "ema": EMA(0.99)}


# --- who writes the reflection -------------------------------------------------------------------------------------


def test_the_policy_writes_it_behind_the_whole_stream() -> None:
    tools = Episodes([("one exchange", None), ("another exchange", None)])
    rows = Oracle().rollout(tools, [prompt("a", 0), prompt("b", 1)], 0)  # type: ignore[arg-type]
    assert ["one exchange" in said for said in tools.written] == [True, False]
    assert all(said.startswith("open the door") for said in tools.written)
    assert [one.example.private["reflection"] for one in rows] == ["of the time."] * 2
    assert not any(one.marks for one in rows)


def test_a_summarizer_may_be_shown_what_is_private() -> None:
    tools = Episodes([("seen", None)])
    asked = prompt("a", 0)
    asked = replace(asked, example=asked.example.told(future="the rest"))
    recipe = with_knobs(Oracle(), {"ask_template": "{problem} {attempt} {future}"})
    recipe.rollout(tools, [asked], 0)  # type: ignore[arg-type]
    assert tools.written == ["open the door seen the rest"]


def test_what_nobody_reflects_on_is_not_taught_from_the_datas_own_field() -> None:
    class Silent(Episodes):
        def sample(self, begun: Any, **how: Any) -> list[Trajectory]:
            return [replace(one, text=" ") for one in super().sample(begun, **how)]

    asked = prompt("a", 0)
    asked = replace(asked, example=asked.example.told(reflection="of the data"))
    (one,) = Oracle().rollout(Silent([("x", None)]), [asked], 0)  # type: ignore[arg-type]
    assert Oracle().teachers["teacher"].view(one, [one], {}) is None


def test_the_rollout_itself_can_be_the_reflection() -> None:
    tools = Episodes([("all of it", None)])
    recipe = with_knobs(Oracle(), {"summarizer": "rule"})
    (one,) = recipe.rollout(tools, [prompt("a", 0)], 0)  # type: ignore[arg-type]
    assert one.example.private["reflection"] == "all of it"
    assert tools.written == []


def test_of_the_data_nobody_is_asked() -> None:
    tools = Episodes([("x", None)])
    recipe = recipe_named("oracle", "field")
    (one,) = recipe.rollout(tools, [prompt("a", 0)], 0)  # type: ignore[arg-type]
    assert (tools.written, dict(one.example.private), recipe.writers) == ([], {}, {})


def test_another_model_writes_if_it_is_named() -> None:
    named = with_knobs(Oracle(), {"summarizer": "model", "summarizer_model": "arena:tutor"})
    assert set(named.writers) == {"summarizer"}
    assert with_knobs(named, {"reflection": "field"}).writers == {}


# --- the gate ------------------------------------------------------------------------------------------------------


def episode(windows: list[str], early: str | None) -> Trajectory:
    """One token a turn, each answered by the next window."""
    private = {} if early is None else {"early": early}
    example = Example("x", (Message(role="user", content=windows[0]),), private)
    parts: list[Segment] = []
    for turn, window in enumerate(windows):
        parts.append(Segment([1], turn=turn))
        if turn + 1 < len(windows):
            said = (
                Message(role="assistant", content=f"uw {window}"),
                Message(role="user", content=windows[turn + 1]),
            )
            parts.append(Segment([7, 8], ENVIRONMENT, trains=False, turn=turn, messages=said))
    return Trajectory(example, [0], tuple(parts), "", 0, True)


@pytest.mark.parametrize(
    ("signs", "turn"),
    [([], 0), (["a"], 0), (["u"], 1), (["w", "u"], 3), (["Z"], math.inf), (["u", "Z"], math.inf)],
)
def test_a_turn_is_open_once_all_signs_were_shown_before_it(signs: list[str], turn: float) -> None:
    """What the assistant itself said is no sign."""
    assert first_open(episode(["abc", "dua", "fgh", "wab"], None), signs) == turn


def test_the_gate_marks_the_turns_from_the_last_early_sign_on() -> None:
    recipe = given(gate="early")
    assert isinstance(recipe, Oracle)
    marked = recipe.gated(episode(["abc", "dua", "fgh", "wab"], '["u","w"]'))
    assert marked.marks["open"] == [turn >= 3 for turn in marked.turn]
    assert all(recipe.gated(episode(["abc", "dua"], "[]")).marks["open"])
    with pytest.raises(UserError, match="example x has no 'early' for --gate"):
        recipe.gated(episode(["abc"], None))
    for wrong in ('{"a": 1}', '["u", null]', '[["u"]]'):
        with pytest.raises(UserError, match="'early' is no list of early signs"):
            recipe.gated(episode(["abc"], wrong))
    for fine in ("", "[]", "a\nb", '["a"]'):
        assert all(recipe.gated(episode(["abc"], fine)).marks["open"])


def test_the_gate_leaves_out_of_a_scam_what_came_before_its_signs(tmp_path: Path) -> None:
    """In the stream itself: a scam's verdicts count from the window of its second early event on."""
    _, learner = run_of_recipe(
        given(gate="early", prompts=8), str(arena_model("stream")), tmp_path, task=stream()
    )
    batch = learner.collect(0)
    opened, tags = batch.statistics().mark("open"), []
    for row, one in enumerate(batch.rows):
        windows, private = one.example.private["whole"].split("/"), one.example.private
        first = 0
        if one.example.tag == "scam":
            early = "".join(private["early"][2:-2].split('","'))
            first = max(next(i for i, window in enumerate(windows) if sign in window) for sign in early)
        expected = [own and turn >= first for own, turn in zip(one.mask, one.turn, strict=True)]
        assert opened[row, : len(one.ids)].tolist() == expected
        tags.append(one.example.tag)
    assert set(tags) == {"scam", "calm"}
