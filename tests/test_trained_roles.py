"""Several updates of a kind each, and roles beside the student that they train: told, counted, forwarded where they
see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

import selfteach.training.text.batch as text_batch
from arrays import arrays
from counting import Passes, counting
from doors import run_of_recipe
from selfteach.objective.batch import STUDENT
from selfteach.objective.divergence import ReverseKL
from selfteach.objective.minibatch import Minibatch
from selfteach.objective.statistics import Statistics
from selfteach.objective.target import FromRole
from selfteach.objective.terms import Match, NegativeLogLikelihood, Term
from selfteach.recipes.kit import Messages, Optimization, Recipe, Rollouts
from selfteach.roles.role import Role
from selfteach.roles.view import Solution
from selfteach.roles.weights import Live
from selfteach.task.trajectory import Trajectory
from selfteach.testing import evaluate
from selfteach.training.text.preflight.cost import StageWork
from selfteach.training.text.preflight.memory import tokens_trained

TEACHER = "teacher"


@dataclass(frozen=True)
class ForEven(Solution):
    """The solution, in every other group."""

    def __call__(
        self, trajectory: Trajectory, group: Sequence[Trajectory], wording: Mapping[str, str]
    ) -> Messages | None:
        return None if trajectory.group % 2 else super().__call__(trajectory, group, wording)


@dataclass(frozen=True)
class InTurn(Recipe):
    """At every other step the teacher is trained before the student is."""

    title, source, formula = "in turn", "a test", "CE, KL"
    rollouts: Rollouts = Rollouts(max_tokens=6)  # noqa: RUF009
    optimization: Optimization = Optimization(prompts=4, lr=1e-2, steps=5)  # noqa: RUF009
    view: Solution = Solution()  # noqa: RUF009
    reads: tuple[str, ...] = ()

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {TEACHER: Role(Live(), self.view)}

    def updates(self, step: int) -> Sequence[Minibatch]:
        student = Minibatch(epoch=1 - step % 2)
        return (student,) if step % 2 else (Minibatch(roles=(TEACHER,)), student)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        for role in self.reads:
            stats.report(f"read/{role}", float(stats.log_prob(role)[stats.seen(role)].sum()))
        if stats.update.roles == (TEACHER,):
            yield NegativeLogLikelihood(name="imitate", role=TEACHER)
        else:
            yield Match(name="distill", target=FromRole(TEACHER), divergence=ReverseKL())


# --- which update -----------------------------------------------------------------------------------------------------


def test_terms_are_told_which_update_they_are_for() -> None:
    given = arrays()
    assert set(evaluate(InTurn(), given)["terms"]) == {"imitate"}
    assert set(evaluate(InTurn(), given, update=1)["terms"]) == {"distill"}
    assert set(evaluate(InTurn(), given, step=1)["terms"]) == {"distill"}


def test_a_run_makes_each_update_with_its_own_terms(tiny: str, tmp_path: Path) -> None:
    run, learner = run_of_recipe(InTurn(), tiny, tmp_path)
    for step, expected in enumerate((["imitate", "distill"], ["distill"])):
        batch, found = learner.collect(step), []
        for update in learner.updates(batch):
            run.update(update, batch)
            found.append(batch.weighted[0].term.name)
        assert found == expected


@pytest.mark.parametrize(("warmup", "warm"), [(0, 0), (1, 2), (2, 3), (3, 5)])
def test_schedules_count_the_steps_that_the_updates_make(
    warmup: int, warm: int, tiny: str, tmp_path: Path
) -> None:
    """Five batches make 2 + 1 + 2 + 1 + 2 steps, the first ``warmup`` of them ``warm``."""
    o = Optimization(prompts=4, lr=1.0, steps=5, schedule="linear", warmup=warmup)
    run, _ = run_of_recipe(InTurn(optimization=o), tiny, tmp_path)
    (trained,) = run.trained.values()
    rates = []
    for _ in range(8):
        rates.append(trained.optimizer.param_groups[0]["lr"])
        trained.optimizer.step()
        assert trained.scheduler is not None
        trained.scheduler.step()
    rising = [i / warm for i in range(warm)]
    falling = [(8 - i) / (8 - warm) for i in range(warm, 8)]
    assert rates == pytest.approx(rising + falling)
    assert trained.optimizer.param_groups[0]["lr"] == 0.0


# --- only the rows that it sees ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [None, 1, 3])
def test_a_trained_role_is_forwarded_over_the_rows_that_it_sees_alone(
    micro_batch: int | None, tiny: str, tmp_path: Path
) -> None:
    recipe = InTurn(view=ForEven())
    run, learner = run_of_recipe(recipe, tiny, tmp_path, micro_batch=micro_batch)
    batch = learner.collect(0)
    prompts = batch.contexts[TEACHER].prompts
    seen = [i for i, ids in enumerate(prompts) if ids is not None]
    assert 0 < len(seen) < len(batch.rows)
    with counting(run) as counts, run.clock("update"):
        learner.backward(batch, recipe.updates(0)[0], True)
    tokens = sum(len(prompts[i] or []) + len(batch.rows[i].ids) - 1 for i in seen)
    trained = counts.by_weights("update")[STUDENT, True]  # the teacher's weights are the student's
    assert trained.real == tokens
    found = {name: p.grad.clone() for name, p in learner.policy.trainable().items()}
    learner.policy.model.zero_grad()
    loss = torch.zeros((), dtype=torch.float64)
    for i in seen:
        context, ids = prompts[i] or [], batch.rows[i].ids
        logits = learner.policy.model(torch.tensor([[*context, *ids]])).logits[0, len(context) - 1 : -1, :102]
        loss = loss - logits.log_softmax(-1).gather(-1, torch.tensor(ids).unsqueeze(-1)).sum()
    (loss / sum(len(batch.rows[i].ids) for i in seen)).backward()
    for name, parameter in learner.policy.trainable().items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-8, atol=1e-12, msg=name)


def test_a_role_that_sees_no_row_of_a_micro_batch_is_not_forwarded(tiny: str, tmp_path: Path) -> None:
    recipe = InTurn(view=ForEven())
    run, learner = run_of_recipe(recipe, tiny, tmp_path)
    batch = learner.collect(0)
    scoring = batch.scoring
    blind = tuple(i for i in range(len(scoring.rows)) if not scoring.sees(TEACHER, i))
    assert blind
    with counting(run) as counts, run.clock("update"):
        scored = scoring.scored(TEACHER, blind, gradient=True)
    assert not counts.forwards
    width = learner.policy.model.config.hidden_size
    assert scored.states.shape == (sum(len(scoring.rows[i].ids) for i in blind), width)
    assert not scored.states.any()
    assert scoring.held([(TEACHER, i) for i in blind], text_batch.alone) == [0] * len(blind)


# --- whose graphs -----------------------------------------------------------------------------------------------------


def passes(recipe: Recipe, tiny: str, out: Path, micro: int | None, tokens: int | None) -> dict[bool, Passes]:
    """With gradient or without → what the teacher's update pushed; ``tokens``: so many may be kept at once."""
    run, learner = run_of_recipe(recipe, tiny, out, micro_batch=micro)
    if tokens is not None:
        learner.policy.room.memory = tokens * learner.policy.room.needs.trained
    batch = learner.collect(0)
    with counting(run) as counts, run.clock("update"):
        learner.backward(batch, recipe.updates(0)[0], False)
    assert not batch.scoring.kept
    return {gradient: found for (_, gradient), found in counts.by_weights("update").items()}


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_of_what_statistics_read_only_the_trained_roles_graph_is_made(
    micro_batch: int | None, tiny: str, tmp_path: Path
) -> None:
    both = passes(InTurn(reads=(STUDENT, TEACHER)), tiny, tmp_path, micro_batch, None)
    alone = passes(InTurn(), tiny, tmp_path, micro_batch, None)
    # The teacher is read with the graph that its gradient pass takes; the student has none, and is read once.
    assert both[True].real == alone[True].real
    assert both[False].real == alone[False].real < both[True].real


def test_beyond_the_memory_the_trained_role_is_read_a_second_time(tiny: str, tmp_path: Path) -> None:
    kept, anew = (passes(InTurn(reads=(STUDENT, TEACHER)), tiny, tmp_path, 2, tokens) for tokens in (None, 1))
    assert anew[True].real == kept[True].real
    assert anew[False].real > kept[False].real + kept[True].real - 8  # less what rows share of a context


def test_micro_batches_are_cut_by_all_graphs_that_are_alive_together(tiny: str, tmp_path: Path) -> None:
    _, learner = run_of_recipe(InTurn(optimization=Optimization(prompts=6, steps=2)), tiny, tmp_path)
    scoring, room = learner.collect(0).scoring, learner.policy.room
    rows = range(len(scoring.rows))
    student, teacher = (
        scoring.held([(name, i) for i in rows], scoring.tokens_held) for name in (STUDENT, TEACHER)
    )
    both = [one + other for one, other in zip(student, teacher, strict=True)]
    room.memory = 3 * max(both) * room.needs.trained
    together = scoring.parts(trained=(STUDENT, TEACHER))
    assert max(map(len, together)) == 3
    for part in together:
        assert len(part) * max(both[i] for i in part) * room.needs.trained <= room.memory
    room.memory = len(rows) * max(student) * room.needs.trained
    assert scoring.parts() == [tuple(rows)]  # the teacher has no graph: its longer context does not count
    assert len(scoring.parts(trained=(TEACHER,))) > 1
    part = tuple(rows)
    assert scoring.graphs_fit(part, (STUDENT,))
    assert not scoring.graphs_fit(part, (STUDENT, TEACHER))
    scoring.kept[STUDENT, part] = torch.zeros(1, requires_grad=True)
    assert not scoring.graphs_fit(part, (TEACHER,))


def test_terms_that_train_more_than_was_said_are_right_all_the_same(tiny: str, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Unsaid(InTurn):
        """Its one update trains both, and does not say so."""

        said: tuple[str, ...] = (STUDENT,)

        def updates(self, step: int) -> Sequence[Minibatch]:
            return (Minibatch(roles=self.said),)

        def terms(self, stats: Statistics) -> Iterable[Term]:
            yield from super().terms(stats)
            yield NegativeLogLikelihood(name="back", role=TEACHER)

    gradients = []
    for said in ((STUDENT,), (STUDENT, TEACHER)):
        recipe = Unsaid(said=said, reads=(STUDENT, TEACHER))
        _, learner = run_of_recipe(recipe, tiny, tmp_path / str(len(said)))
        room = learner.policy.room
        room.memory = 2 * 40 * room.needs.trained
        batch = learner.collect(0)
        learner.backward(batch, recipe.updates(0)[0], False)
        assert not batch.scoring.kept
        gradients.append({name: p.grad.clone() for name, p in learner.policy.trainable().items()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-9, atol=1e-12, msg=name)


def test_memory_counts_the_graphs_of_all_roles_that_an_update_trains() -> None:
    recipe = InTurn()
    work = StageWork(recipe, steps=5, rows=8, once=0, prompt=10, tokens=6)
    assert tokens_trained(work, {TEACHER: 30}) == 30 + 6  # the teacher's update, not the student's
    assert tokens_trained(replace(work, recipe=Plainly()), {TEACHER: 30}) == 10 + 6
    assert tokens_trained(replace(work, recipe=Together()), {TEACHER: 30}) == 10 + 6 + 30 + 6


@dataclass(frozen=True)
class Plainly(InTurn):
    def updates(self, step: int) -> Sequence[Minibatch]:
        return (Minibatch(),)


@dataclass(frozen=True)
class Together(InTurn):
    def updates(self, step: int) -> Sequence[Minibatch]:
        return (Minibatch(roles=(STUDENT, TEACHER)),)
