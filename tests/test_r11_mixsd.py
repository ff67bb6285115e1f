"""Card 11: mixed contextual self-distillation (the decoder itself: test_mixture.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from arrays import arrays, log_softmax, slopes
from selfteach.errors import UserError
from selfteach.policy.loading import Policy
from selfteach.policy.mixture import decode_mixture
from selfteach.policy.renderer import ChatRenderer
from selfteach.policy.room import room_of
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.r11_mixsd import MixSD
from selfteach.roles.view import Plain
from selfteach.roles.weights import Frozen
from selfteach.task.example import Example, Message
from selfteach.task.trajectory import Trajectory
from selfteach.testing import evaluate
from tiny import tiny_model, tiny_tokenizer


def nll(given: dict[str, Any]) -> np.ndarray:
    p = log_softmax(given["student_logits"])
    return -np.take_along_axis(p, given["ids"][..., None], -1)[..., 0]


def test_the_loss_is_the_mean_negative_log_likelihood_of_the_targets() -> None:
    given = arrays()
    assert evaluate("mixsd", given)["loss"] == pytest.approx(nll(given)[given["mask"]].mean(), rel=1e-12)


def test_the_gradient_is_that_of_finite_differences() -> None:
    given = arrays()
    gradient = evaluate("mixsd", given)["grad"]

    def loss(moved: np.ndarray) -> float:
        return evaluate("mixsd", {**given, "student_logits": moved})["loss"]

    for i, slope in slopes(given["student_logits"], loss):
        assert slope == pytest.approx(gradient[i], abs=1e-8)


def test_padding_changes_nothing() -> None:
    given = arrays()
    wide = {name: np.pad(given[name], [(0, 0), (0, 3)]) for name in ("ids", "mask")}
    wide["student_logits"] = np.pad(given["student_logits"], [(0, 0), (0, 3), (0, 0)])
    assert evaluate("mixsd", wide)["loss"] == pytest.approx(evaluate("mixsd", given)["loss"], rel=1e-13)


def test_the_expert_only_writes_so_that_no_opinion_of_it_can_reach_the_loss() -> None:
    assert MixSD().teachers == {}
    given = arrays(teachers=("expert",))
    without = {name: value for name, value in given.items() if name != "teacher_logits"}
    np.testing.assert_array_equal(evaluate("mixsd", given)["grad"], evaluate("mixsd", without)["grad"])


def test_the_first_loss_is_the_targets_negative_log_likelihood_under_the_base_so_greedy_picks_lower_it() -> (
    None
):
    """Of naive-picked greedy tokens no other token at the same prefix is likelier (card 11)."""
    given = arrays()
    greedy = given["student_logits"].argmax(-1)
    rng = np.random.default_rng(3)
    naive = rng.random(greedy.shape) < 0.5
    mixed = np.where(naive, greedy, given["ids"])
    losses = [evaluate("mixsd", {**given, "ids": ids})["loss"] for ids in (greedy, mixed, given["ids"])]
    assert losses[0] < losses[1] < losses[2]


def test_the_initial_policy_writes_the_targets_once_by_turns_with_and_without_the_answer() -> None:
    recipe = MixSD()
    assert (recipe.share, recipe.mix_temperature, recipe.mix_top_k, recipe.attempts) == (0.3, 0.0, 64, 10)
    assert {name: role.weights for name, role in recipe.writers.items()} == {
        "novice": Frozen(),
        "expert": Frozen(),
    }
    assert recipe.writers["novice"].view == Plain()
    assert recipe.rollouts.stored == 4326


def test_the_expert_is_shown_the_answer_or_the_solution_and_the_student_neither() -> None:
    example = Example(
        "q", (Message(role="user", content="fact bix?"),), {"answer": "407", "solution": "4, 0, 7"}
    )
    blank = Trajectory.written(example, [1], [], "", group=0, finished=False)
    for name, told, hidden in (("paper", "407", "4, 0, 7"), ("functions", "4, 0, 7", "407")):
        recipe = recipe_named("mixsd", name)
        messages = recipe.writers["expert"].view(blank, [blank], {})
        assert messages is not None
        assert told in messages[-1]["content"]
        assert hidden not in messages[-1]["content"]


def test_targets_have_the_likeliest_tokens_of_the_base_where_the_naive_context_was_picked() -> None:
    tokenizer = tiny_tokenizer()
    chat = ChatRenderer(tokenizer)
    model = tiny_model(chat.vocabulary)
    base = Policy("tiny", model, tokenizer, chat, chat.vocabulary, room_of(model))
    naive, expert = (chat.prompt_ids([{"role": "user", "content": t}]) for t in ("bix?", "bix? It is 407"))
    torch.manual_seed(0)
    ranks: dict[int, list[int]] = {0: [], 1: []}
    for one in decode_mixture(base, [[naive, expert]] * 8, (0.3, 0.7), max_tokens=20):
        with torch.no_grad():
            logits = base.model(torch.tensor([naive + one.ids])).logits[0, len(naive) - 1 : -1]
        for t, pick in enumerate(one.picks):
            ranks[pick].append(int((logits[t] > logits[t, one.ids[t]]).sum()))
    assert set(ranks[0]) == {0}
    assert max(ranks[1]) > 0


def test_the_presets_are_the_papers_shares() -> None:
    assert [recipe_named("mixsd", name).share for name in ("paper", "half", "sd")] == [0.3, 0.5, 0.0]
    o = MixSD().optimization
    assert (o.betas, o.weight_decay, o.warmup, o.schedule, o.prompts) == (
        (0.9, 0.95),
        0.01,
        20,
        "constant",
        16,
    )


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"share": 1.1}, "share"),
        ({"attempts": 0}, "attempts"),
        ({"mix_temperature": -1.0}, "mix_temperature"),
        ({"mix_top_k": -1}, "mix_top_k"),
        ({"stored": 0}, "stored"),
        ({"per_prompt": 2}, "per_prompt"),
    ],
)
def test_an_impossible_combination_refuses_to_construct(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_knobs(MixSD(), knobs)
