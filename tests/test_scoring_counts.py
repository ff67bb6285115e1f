"""What goes through the models while a step is scored, counted: no forward pass too many, no prompt twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from runs import run_of
from selfteach.objective.batch import STUDENT
from selfteach.policy.economy import PASS_ON_CPU
from selfteach.policy.loading import body
from selfteach.policy.scorer import ResponseScorer
from selfteach.training.text.batch import Scoring


@dataclass
class Call:
    """One call of a scorer: with gradient or without, the tokens that its passes pushed."""

    gradient: bool
    tokens: int = 0


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    made: list[Call] = []
    forward = ResponseScorer.forward

    def counted(self: ResponseScorer, *laid: Any) -> torch.Tensor:
        made.append(Call(torch.is_grad_enabled()))

        def count(_: torch.nn.Module, args: Any, kwargs: Any) -> None:
            made[-1].tokens += kwargs["input_ids"].numel()

        hook = body(self.model).register_forward_pre_hook(count, with_kwargs=True)
        try:
            return forward(self, *laid)
        finally:
            hook.remove()

    monkeypatch.setattr(ResponseScorer, "forward", counted)
    return made


def least(scoring: Scoring, role: str, *, share: bool) -> int:
    """Tokens that a role has to read: each context once (or once a row), of a response all but its last."""
    rows = [(tuple(scoring.context(role, i)), len(one.ids) - 1) for i, one in enumerate(scoring.rows)]
    contexts = {context for context, _ in rows} if share else [context for context, _ in rows]
    return sum(map(len, contexts)) + sum(length for _, length in rows)


WITHOUT_GRADIENT = {"opsd": 1, "pw-opsd": 1, "grpo": 0, "sdpo": 1, "avsd": 1, "srpo": 0, "cepo": 1}
"""Recipe → calls without gradient in its step: one for each of its teachers' weights, however many views they have (of
avsd three, of cepo two)."""
GROUPS = {"grpo", "srpo", "cepo"}
"""Recipes whose runs here sample several answers to a prompt, long enough to pay for a pass more."""


@pytest.mark.parametrize("recipe", WITHOUT_GRADIENT)
def test_a_step_scores_the_student_once_each_teacher_once_and_every_prompt_once(
    tiny: str, calls: list[Call], recipe: str
) -> None:
    run = run_of(tiny, recipe=recipe)
    run.stepped()
    scoring = run.batch.scoring
    (student,) = [one.tokens for one in calls if one.gradient]
    others = [one.tokens for one in calls if not one.gradient]
    assert len(others) == WITHOUT_GRADIENT[recipe]
    needed = least(scoring, STUDENT, share=True)
    assert needed <= student <= needed + 2 * PASS_ON_CPU  # beyond it passes more would have paid
    if recipe in GROUPS:
        assert student < 0.6 * least(scoring, STUDENT, share=False)
    if others and scoring.contexts:
        teachers = sum(least(scoring, name, share=True) for name in scoring.contexts)
        assert others[0] <= teachers + 2 * PASS_ON_CPU


def test_micro_batches_cost_a_second_pass_of_the_student_only_for_what_is_read_of_it(
    tiny: str, calls: list[Call]
) -> None:
    """cepo reads its teachers' log-probs before the loss, and the student's in it: a pass a micro-batch each."""
    run = run_of(tiny, "--micro-batch", "4", recipe="cepo")
    run.stepped()
    parts = len(run.batch.scoring.parts())
    assert parts > 1
    assert [one.gradient for one in calls].count(True) == parts
    assert [one.gradient for one in calls].count(False) == 2 * parts
