"""Door: a completion edited after sampling (card 17) has void behavior log-probs; a term that reads them is refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from doors import run_of_recipe
from selfteach.errors import NotFinite
from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import NegativeLogLikelihood, PolicyGradient, Term
from selfteach.recipes.kit import Optimization, Recipe, Rollouts
from selfteach.recipes.tools import Prompt, Tools
from selfteach.task.trajectory import Trajectory


@dataclass(frozen=True)
class Edited(Recipe):
    title, source, formula = "edited", "a test of card 17", "−log π, or PPO"
    rollouts: Rollouts = Rollouts(per_prompt=2, max_tokens=6)
    optimization: Optimization = Optimization(prompts=2)
    how: str = "likelihood"

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        first, *rest = tools.sample(prompts, self.rollouts.per_prompt)
        return [tools.edit(first, 3, " 0.50"), *rest]

    def terms(self, stats: Statistics) -> Iterable[Term]:
        gate = stats.importance(2.0) if self.how == "gate" else None
        if self.how == "surrogate":
            yield PolicyGradient(
                name="ppo", advantage=stats.reward + 1, behavior=stats.behavior_log_prob, clip=(0.2, 0.2)
            )
        else:
            yield NegativeLogLikelihood(name="nll", gate=gate)


@pytest.mark.parametrize("how", ["surrogate", "gate"])
def test_a_term_that_reads_void_behavior_log_probs_is_refused(how: str, tiny: str, tmp_path: Path) -> None:
    _, learner = run_of_recipe(Edited(how=how), tiny, tmp_path)
    batch = learner.collect(0)
    with pytest.raises(NotFinite, match="behavior is nan at row 0, position 3"):
        learner.backward(batch, learner.recipe.updates(0)[0], False)


def test_what_reads_none_of_it_trains_on_the_edited_text(tiny: str, tmp_path: Path) -> None:
    run, learner = run_of_recipe(Edited(), tiny, tmp_path)
    one = learner.collect(0).rows[0]
    assert one.text.endswith(" 0.50")
    assert one.authors[3:] == ["edit"] * (len(one.ids) - 3)
    assert one.ids[-1] in learner.policy.renderer.stop_ids
    run.step()
    whole = replace(one, segments=one.segments[:1])
    assert whole.sampled
    assert not one.sampled
