"""Rows of samples.jsonl: what was asked, what everybody read, what was answered."""

from __future__ import annotations

from typing import Any

from selfteach.policy.chat import Chat
from selfteach.task.example import Example
from selfteach.train.evaluation import Answered
from selfteach.train.run import Step


def answer_row(one: Answered, step: int, phase: str, chat: Chat) -> dict[str, Any]:
    """An answer to a held-out problem; ``phase`` is "before" or "after"."""
    return {
        **asked(one.example, step, phase),
        "prompt": chat.show(one.prompt_ids),
        **answered(one.text, one.grade.reward, one.finished, len(one.ids)),
    }


def rollout_row(i: int, step: Step, number: int, chat: Chat) -> dict[str, Any]:
    """The ``i``-th rollout of a training step, with both rendered prompts."""
    one = step.rollouts[i]
    reward = None if one.grade is None else one.grade.reward
    return {
        **asked(one.example, number, "train"),
        "prompt": chat.show(one.prompt_ids),
        "teacher_prompts": {name: chat.show(seen.prompts[i] or []) for name, seen in step.contexts.items()},
        **answered(one.text, reward, one.finished, len(one.ids)),
    }


def asked(example: Example, step: int, phase: str) -> dict[str, Any]:
    return {"step": step, "phase": phase, "key": example.key, "problem": example.problem}


def answered(text: str, reward: float | None, finished: bool, length: int) -> dict[str, Any]:
    return {"answer": text, "reward": reward, "finished": finished, "length": length}
