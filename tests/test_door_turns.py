"""Door: two turns with a tool's output between them; and turns that do not extend one another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from doors import run_of_recipe
from selfteach.objective.divisor import Divisor
from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import PolicyGradient, Term
from selfteach.recipes.kit import Optimization, Recipe, Rollouts
from selfteach.recipes.tools import Prompt, Tools
from selfteach.task.example import Message
from selfteach.task.trajectory import Trajectory
from tiny import CHATML, tiny_model_folder

TOOL = (Message(role="tool", content="42"),)
FORGETFUL = CHATML.replace("message.content +", "(message.content if loop.last else '…') +")


@dataclass(frozen=True)
class Agent(Recipe):
    title, source, formula = "agent", "a test", "mean over turns of mean_t −R_turn log π"
    rollouts: Rollouts = Rollouts(max_tokens=5)
    optimization: Optimization = Optimization(prompts=2)

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        first = tools.sample(prompts)
        both = tools.sample(tools.act(first, [TOOL] * len(first)))
        rewards = [[1.0 if turn == 0 else -2.0 for turn in one.turn] for one in both]
        return [
            replace(one.with_numbers(reward=r), trajectory=i)
            for i, (one, r) in enumerate(zip(both, rewards, strict=True))
        ]

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield PolicyGradient(
            name="turns", advantage=stats.number("reward"), mean_over=Divisor("written", "turn")
        )


@pytest.mark.parametrize(("template", "rows_each"), [(CHATML, 1), (FORGETFUL, 2)])
def test_turns_keep_the_tokens_that_were_written(template: str, rows_each: int, tmp_path: Path) -> None:
    model = str(tiny_model_folder(tmp_path / "model", template=template))
    _, learner = run_of_recipe(Agent(), model, tmp_path)
    batch = learner.collect(0)
    assert len(batch.rows) == 2 * rows_each
    numbers = learner.backward(batch, learner.recipe.updates(0)[0], False)
    expected = torch.zeros((), dtype=torch.float64)
    for one in batch.rows:
        logits = learner.policy.model(torch.tensor([[*one.prompt_ids, *one.ids]])).logits[0, :, :102]
        log_prob = logits[len(one.prompt_ids) - 1 : -1].log_softmax(-1)[range(len(one.ids)), one.ids].detach()
        mask, turn = torch.tensor(one.mask), torch.tensor(one.turn)
        torch.testing.assert_close(
            log_prob[mask], torch.tensor(one.behavior).double()[mask], rtol=0, atol=1e-4
        )
        between = learner.policy.renderer.text(
            [t for t, own in zip(one.ids, one.mask, strict=True) if not own]
        )
        assert between in ("", "\ntool\n42\nassistant\n")
        for number, reward in ((0, 1.0), (1, -2.0)):
            if (own := mask & (turn == number)).any():
                expected = expected - reward * log_prob[own].mean() / 4
    assert numbers["loss"] == pytest.approx(float(expected), abs=1e-10)
