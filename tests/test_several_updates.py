"""Teachers are scored once a batch: several updates of it do not change what they said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from doors import run_of_recipe
from selfteach.errors import UserError
from selfteach.objective.divergence import ReverseKL
from selfteach.objective.statistics import Statistics
from selfteach.objective.target import FromRole
from selfteach.objective.terms import Match, Term
from selfteach.policy.head import output_head
from selfteach.policy.loading import LoraConfig, load_policy
from selfteach.recipes.kit import Optimization, Recipe, Rollouts
from selfteach.recipes.tools import Prompt, Tools
from selfteach.roles.role import Role
from selfteach.roles.store import WeightStore
from selfteach.roles.view import Solution
from selfteach.roles.weights import EMA, Frozen, Lagged, Live, Weights
from selfteach.task.segment import Segment
from selfteach.task.trajectory import Trajectory
from selfteach.training.text.batch import detached, head_of
from tiny import tiny_model_folder


@dataclass(frozen=True)
class Distilled(Recipe):
    title, source, formula = "distilled", "a test", "KL(p‖q)"
    rollouts: Rollouts = Rollouts(max_tokens=6)  # noqa: RUF009
    optimization: Optimization = Optimization(prompts=4, lr=1e-2, update_epochs=2, minibatches=2)  # noqa: RUF009
    whose: Weights = Live()  # noqa: RUF009

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {"teacher": Role(self.whose, Solution())}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield Match(name="distill", target=FromRole("teacher"), divergence=ReverseKL())


@pytest.mark.parametrize("whose", [Live(), Frozen(), EMA(0.5, from_start=True)], ids=str)
def test_what_a_teacher_said_stays_what_it_was_before_the_first_update(
    whose: Weights, tiny: str, tmp_path: Path
) -> None:
    run, learner = run_of_recipe(Distilled(whose=whose), tiny, tmp_path)
    batch = learner.collect(0)
    before = batch.statistics().log_prob("teacher").clone()
    learner.collect = lambda step: batch  # type: ignore[method-assign]
    run.step()
    after = batch.statistics().log_prob("teacher")
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
    assert len(batch.looked) == 2  # the first epoch's two minibatches


def test_a_roles_head_stays_its_own_when_the_adapters_are_exchanged_back(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path, tied=False)
    policy = load_policy(str(folder), lora=LoraConfig(rank=2, targets=("q_proj", "lm_head")))
    store, hidden = WeightStore({"policy": policy}), torch.randn(3, 64)
    store.enter([Lagged(2)])
    expected = output_head(policy.model).logits(hidden)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(0.1)
    with store.scoring(Lagged(2)) as role:
        head = detached(head_of(role), copy=False)
    torch.testing.assert_close(head.logits(hidden), expected[:, : head.vocabulary])
    assert (output_head(policy.model).logits(hidden) - expected).abs().max() > 0.1


@dataclass(frozen=True)
class Both(Distilled):
    """The teacher is trained too."""

    def terms(self, stats: Statistics) -> Iterable[Term]:
        stats.report("seen", float(stats.log_prob("teacher")[stats.mask].sum()))
        yield Match(name="distill", target=FromRole("teacher"), divergence=ReverseKL())
        yield Match(name="back", role="teacher", target=FromRole("student"), divergence=ReverseKL())


def test_what_a_trained_role_says_is_measured_before_each_update(tiny: str, tmp_path: Path) -> None:
    whole = Optimization(prompts=4, lr=1e-2, update_epochs=2)
    run, learner = run_of_recipe(Both(optimization=whole), tiny, tmp_path)
    batch, seen = learner.collect(0), []
    for update in learner.updates(batch):
        run.update(update, batch)
        seen.append(batch.reported["seen"])
    assert abs(seen[0] - seen[1]) > 1e-2


def test_a_trained_second_role_gets_autograds_gradient(tiny: str, tmp_path: Path) -> None:
    run, learner = run_of_recipe(Both(optimization=Optimization(prompts=3)), tiny, tmp_path, micro_batch=2)
    batch = learner.collect(0)
    learner.backward(batch, learner.recipe.updates(0)[0], False)
    found = {name: p.grad.clone() for name, p in learner.policy.trainable().items()}
    run.learner.policy.model.zero_grad()
    loss, count = torch.zeros((), dtype=torch.float64), sum(len(one.ids) for one in batch.rows)
    for i, one in enumerate(batch.rows):
        p, q = (
            learner.policy.model(torch.tensor([[*context, *one.ids]]))
            .logits[0, len(context) - 1 : -1, :102]
            .log_softmax(-1)
            for context in (one.prompt_ids, batch.contexts["teacher"].prompts[i] or [])
        )
        loss = loss + (p.exp() * (p - q.detach())).sum() / count + (q.exp() * (q - p.detach())).sum() / count
    loss.backward()
    for name, parameter in learner.policy.trainable().items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-8, atol=1e-12, msg=name)


def test_a_batch_that_came_out_small_makes_no_step_without_a_row(tiny: str, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Few(Distilled):
        def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> list[Trajectory]:
            return super().rollout(tools, prompts[:1], step)

    run, _ = run_of_recipe(Few(), tiny, tmp_path)
    run.step()
    (optimizer,) = (one.optimizer for one in run.trained.values())
    # Of each epoch's two minibatches one is empty: Adam has seen two gradients, not four.
    assert {int(state["step"]) for state in optimizer.state.values()} == {2}


def test_a_row_that_the_student_cannot_read_is_refused(tiny: str, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Long(Distilled):
        def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> list[Trajectory]:
            return [
                replace(
                    one, segments=(*one.segments, Segment([5] * 4096, author="environment", trains=False))
                )
                for one in super().rollout(tools, prompts, step)
            ]

    _, learner = run_of_recipe(Long(), tiny, tmp_path)
    with pytest.raises(
        UserError, match=r"4 rows of the batch are longer than the model's window of \d+ tokens"
    ):
        learner.collect(0)
