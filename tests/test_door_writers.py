"""Door: writers that select, debate and replay, each a few lines of a recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from doors import run_of_recipe
from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import NegativeLogLikelihood, Term
from selfteach.recipes.kit import Optimization, Recipe, Rollouts
from selfteach.recipes.tools import Prompt, Tools
from selfteach.roles.role import Role
from selfteach.roles.view import Solution
from selfteach.roles.weights import Frozen
from selfteach.task.example import Message
from selfteach.task.trajectory import Trajectory


@dataclass(frozen=True)
class Writer(Recipe):
    title, source, formula = "writer", "a test", "−log π"
    rollouts: Rollouts = Rollouts(max_tokens=5)
    optimization: Optimization = Optimization(prompts=2)

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {"teacher": Role(Frozen(), Solution())}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield NegativeLogLikelihood(name="nll")


class BestOf(Writer):
    """The teacher's answer that the student finds likeliest, of four."""

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        written = tools.sample(prompts, 4, role="teacher")
        scores = [sum(own) / len(own) for own in tools.log_probs(written)]
        best = [max(range(4 * i, 4 * i + 4), key=scores.__getitem__) for i in range(len(prompts))]
        return [written[i].with_numbers(score=scores[i]) for i in best]


class Debate(Writer):
    """Two answers, each then answers again after it has read the other's."""

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        first = tools.sample(prompts, 2)
        read = [Message(role="user", content=f"Another says: {first[i ^ 1].text}") for i in range(len(first))]
        return tools.sample(tools.act(first, [(one,) for one in read]))


class Replay(Writer):
    """The first turn of what was once written, and a new second one."""

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        past = tools.store("past").trajectories
        if not past:
            past += tools.sample(tools.act(tools.sample(prompts), [(Message(role="user", content="?"),)] * 2))
        forks = [one.cut(1, text=one.conversation[0]["content"]) for one in past]
        return tools.sample(forks)


def test_the_best_of_the_teachers_answers_is_kept_and_all_are_counted(tiny: str, tmp_path: Path) -> None:
    run, learner = run_of_recipe(BestOf(), tiny, tmp_path)
    batch = learner.collect(0)
    assert [one.origin for one in batch.rows] == ["teacher"] * 2
    assert batch.spent > sum(len(one.ids) for one in batch.rows)
    column = batch.statistics().log_prob()
    for i, one in enumerate(batch.rows):
        assert abs(float(column[i, : len(one.ids)].mean()) - one.numbers["score"]) < 1e-9
    run.step()


def test_debaters_read_each_other_and_train_on_their_own_words(tiny: str, tmp_path: Path) -> None:
    run, learner = run_of_recipe(Debate(), tiny, tmp_path)
    rows = learner.collect(0).rows
    assert len(rows) == 4
    for i, one in enumerate(rows):
        other = rows[i ^ 1].conversation[0]["content"]
        between = [token for token, own in zip(one.ids, one.mask, strict=True) if not own]
        assert f"Another says: {other}" in learner.policy.renderer.text(between)
        assert sorted(set(one.turn)) == [0, 1]
    run.step()


def test_a_stored_prefix_is_replayed_and_forked_behind_its_first_turn(tiny: str, tmp_path: Path) -> None:
    _, learner = run_of_recipe(Replay(), tiny, tmp_path)
    first, again = learner.collect(0).rows, learner.collect(1).rows
    for one, other in zip(first, again, strict=True):
        assert one.fork == other.fork is not None
        assert one.ids[: one.fork] == other.ids[: one.fork]
        assert one.parent == one.example.key
    assert [one.ids for one in first] != [one.ids for one in again]
