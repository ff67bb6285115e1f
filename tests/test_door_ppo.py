"""Door: several minibatch updates on one batch are those of a plain PPO loop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from doors import run_of_recipe
from selfteach.objective.advantage import group_advantage
from selfteach.objective.minibatch import passes, rows_within
from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import PolicyGradient, Term
from selfteach.recipes.kit import Optimization, Recipe, Rollouts
from selfteach.task.trajectory import Trajectory

VOCABULARY = 102  # the rest of the matrix is padding
STEPS = dict(lr=1e-3, prompts=6, steps=2, update_epochs=2, minibatches=3, max_grad_norm=None)


@dataclass(frozen=True)
class PPO(Recipe):
    title, source, formula = "PPO", "arXiv 1707.06347", "−min(ρA, clip(ρ)A), ρ = π/π_old"
    rollouts: Rollouts = Rollouts(per_prompt=2, max_tokens=6)
    optimization: Optimization = field(default_factory=lambda: Optimization(**STEPS))

    def terms(self, stats: Statistics) -> Iterable[Term]:
        advantage = group_advantage(stats.number("score"), stats.group)
        yield PolicyGradient(name="ppo", advantage=advantage, behavior=stats.old_log_prob(), clip=(0.2, 0.2))


def log_probs(model: torch.nn.Module, one: Trajectory) -> Tensor:
    logits = model(torch.tensor([[*one.prompt_ids, *one.ids]])).logits[0]
    return logits[len(one.prompt_ids) - 1 : -1, :VOCABULARY].log_softmax(-1)[range(len(one.ids)), one.ids]


def test_three_minibatch_updates_an_epoch_equal_a_reference_loop(tiny: str, tmp_path: Path) -> None:
    run, learner = run_of_recipe(PPO(), tiny, tmp_path, micro_batch=2)
    batch = learner.collect(0)
    rows = [one.with_numbers(score=float(i * i % 5)) for i, one in enumerate(batch.rows)]
    learner.collect = lambda step: learner.batching.of(rows, (), 0)  # type: ignore[method-assign]
    _, other = run_of_recipe(PPO(), tiny, tmp_path)
    model, columns = other.policy.model, learner.batching.of(rows, (), 0).columns
    old = [log_probs(model, one).detach() for one in rows]
    advantage = group_advantage(torch.tensor([one.numbers["score"] for one in rows]).double(), columns.group)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
    for update in passes(2, 3):
        chosen = rows_within(update, columns).nonzero().squeeze(1).tolist()
        loss, count = torch.zeros((), dtype=torch.float64), sum(len(rows[i].ids) for i in chosen)
        for i in chosen:
            ratio = (log_probs(model, rows[i]) - old[i]).exp()
            clipped = ratio.clamp(0.8, 1.2) * advantage[i]
            loss = loss - torch.minimum(ratio * advantage[i], clipped).sum() / count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    run.step()
    for (name, ours), theirs in zip(learner.policy.trainable().items(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11, msg=name)
