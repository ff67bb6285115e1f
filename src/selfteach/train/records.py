"""Rows of samples.jsonl: what was asked, what everybody read, what was answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from selfteach.policy.renderer import Renderer
from selfteach.task.example import Example
from selfteach.train.evaluation import Answered
from selfteach.train.tokens import Look


def answer_row(one: Answered, step: int, phase: str, chat: Renderer) -> dict[str, Any]:
    """An answer to a held-out problem; ``phase`` is "before" or "after"."""
    return {
        **asked(one.example, step, phase),
        "prompt": chat.show(one.prompt_ids),
        **answered(one.text, one.grade.reward, one.finished, len(one.ids)),
    }


def rollout_rows(seen: Look, step: int, chat: Renderer) -> Iterator[dict[str, Any]]:
    """The rollouts of a look, each with every rendered prompt; ``row`` is its place in tokens/step-N.

    ``phase`` is "train" for the step's own, "probe" for greedy answers to held-out problems.
    """
    for i, one in enumerate(seen.rollouts):
        reward = None if one.grade is None else one.grade.reward
        yield {
            **asked(one.example, step, "train" if i < seen.trained else "probe"),
            "row": i,
            "prompt": chat.show(one.prompt_ids),
            "teacher_prompts": {
                name: chat.show(read.prompts[i] or []) for name, read in seen.contexts.items()
            },
            **answered(one.text, reward, one.finished, len(one.ids)),
        }


def asked(example: Example, step: int, phase: str) -> dict[str, Any]:
    return {"step": step, "phase": phase, "key": example.key, "problem": example.problem}


def answered(text: str, reward: float | None, finished: bool, length: int) -> dict[str, Any]:
    return {"answer": text, "reward": reward, "finished": finished, "length": length}
