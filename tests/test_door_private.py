"""Door: gradients of single records, clipped, summed and noised once (card 62), against ``torch.func``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.func import functional_call, grad

from doors import run_of_recipe
from selfteach.errors import NotFinite, UserError
from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import NegativeLogLikelihood, Term
from selfteach.recipes.kit import Optimization, PerRecord, Recipe, Rollouts
from selfteach.recipes.tools import Prompt, Tools
from selfteach.task.trajectory import Trajectory


@dataclass(frozen=True)
class Private(Recipe):
    title, source, formula = "private", "a test of card 62", "Σ clip(∇ℓ_i) + noise"
    rollouts: Rollouts = Rollouts(per_prompt=2, max_tokens=6)
    optimization: Optimization = Optimization(prompts=3, max_grad_norm=None)
    per_record: PerRecord = PerRecord(clip=0.5, noise=0.0, expected=4.0)
    drawn: int = 3

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        return tools.sample(prompts[: self.drawn], self.rollouts.per_prompt)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield NegativeLogLikelihood(name="nll")


def test_one_backward_a_record_is_the_clipped_sum_of_per_record_gradients(tiny: str, tmp_path: Path) -> None:
    _, learner = run_of_recipe(Private(), tiny, tmp_path, micro_batch=1)
    batch = learner.collect(0)
    model, parameters = learner.policy.model, dict(learner.policy.trainable())

    def loss(values: dict[str, torch.Tensor], rows: list[Trajectory]) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for one in rows:
            logits = functional_call(model, values, (torch.tensor([[*one.prompt_ids, *one.ids]]),)).logits[0]
            log_probs = logits[len(one.prompt_ids) - 1 : -1, :102].log_softmax(-1)
            total = total - log_probs[range(len(one.ids)), one.ids].sum()
        return total / sum(len(one.ids) for one in rows)

    expected = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for group in range(3):
        gradient = grad(loss)(parameters, [one for one in batch.rows if one.group == group])
        norm = torch.stack([g.norm() for g in gradient.values()]).norm()
        for name in expected:
            expected[name] += gradient[name] * min(1.0, 0.5 / norm) / 4.0
    numbers = learner.backward(batch, learner.recipe.updates(0)[0], False)
    assert numbers["clipped"] == 1.0
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-8, atol=1e-11, msg=name)


@pytest.mark.parametrize("drawn", [0, 1])
def test_an_empty_draw_is_pure_noise_of_the_stated_deviation(drawn: int, tiny: str, tmp_path: Path) -> None:
    noisy = Private(per_record=PerRecord(clip=0.5, noise=3.0, expected=4.0), drawn=drawn)
    run, learner = run_of_recipe(noisy, tiny, tmp_path)
    learner.backward(learner.collect(0), learner.recipe.updates(0)[0], False)
    noise = torch.cat([p.grad.flatten() for p in learner.policy.trainable().values()])
    assert float(noise.std()) == pytest.approx(3.0 * 0.5 / 4.0, rel=0.02)
    run.step()


def test_several_updates_of_private_gradients_are_refused(tiny: str, tmp_path: Path) -> None:
    twice = Optimization(prompts=3, update_epochs=2)
    with pytest.raises(UserError, match="one update a batch"):
        run_of_recipe(Private(optimization=twice), tiny, tmp_path)


def test_a_statistic_of_the_whole_batch_is_refused_before_the_first_step(tiny: str, tmp_path: Path) -> None:
    class Masked(Private):
        def terms(self, stats: Statistics) -> Iterable[Term]:
            yield NegativeLogLikelihood(
                name="nll", where=stats.entropy() > stats.quantile(stats.entropy(), 0.5)
            )

    _, learner = run_of_recipe(Masked(), tiny, tmp_path)
    with pytest.raises(UserError, match="a gradient of single records must not know"):
        learner.preflight()
    with pytest.raises(NotFinite, match="must not know"):
        learner.backward(learner.collect(0), learner.recipe.updates(0)[0], False)
