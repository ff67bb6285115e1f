"""How often a shipped model is right, without help and under each kind of help it was taught to read.

``python -m selfteach.task.arena.measure table``
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from selfteach.task.arena import MODELS, AnyWorld, arena_model, named_model, open_world
from selfteach.task.arena.game import Game, whole
from selfteach.task.arena.generating import continued, earned
from selfteach.task.arena.wording import PREFILLS
from selfteach.task.example import Example, Message

HELPLESS = ("tutor-large", "tutor-large-other", "doors-expert", "calculator-expert")
"""Models that were taught to read no help."""
NEEDS_ATTEMPT = {"feedback": False, "sibling+feedback": False, "revise-wrong": False, "revise-right": True}
"""Views of an earlier answer of the model's own, and whether that must have been right."""
BLUNDER = "plain, after a mistake"
"""Episodes of a game behind a first action that no expert takes and that can be made good."""


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers among ``count``."""

    mean: float
    count: int

    @property
    def standard_error(self) -> float:
        return math.sqrt(self.mean * (1 - self.mean) / self.count) if self.count else math.nan

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.standard_error:.3f}"


def answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    given: Sequence[str] | None = None,
    sample: bool = True,
) -> list[str]:
    """The answers of ``model``, a causal LM: sampled at temperature 1, nothing cut off, or greedy.

    ``given``: how the assistant's turn already begins, one text a question; not repeated in the answers.
    """
    conversations = [[Message(role="user", content=text)] for text in questions]
    return continued(model, tokenizer, conversations, given, sample)


def measure(
    world: AnyWorld, folder: Path, view: str, count: int, seed: int = 0, sample: bool = True
) -> Accuracy:
    """Accuracy of the model in ``folder`` on the world's first ``count`` held-out examples, one try each.

    A view of an earlier attempt is measured on the model's own plain answers, sampled, as far as they are of the
    kind it is meant for: feedback and ``revise-wrong`` after wrong ones, ``revise-right`` after right ones. The
    others: ``partial`` shows the first half of the results, ``sibling`` the right answer, ``diagnosis`` is ``@``.
    Of a game the share of episodes that are won; view ``BLUNDER``: of those problems that allow of a blunder.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if isinstance(world, Game):
            rewards = earned(model, tokenizer, world, *_begun(world, view, count), sample)
            if not rewards:  # no problem allows of a blunder
                return Accuracy(math.nan, 0)
            return Accuracy(sum(one >= 0.5 for one in rewards) / len(rewards), len(rewards))
        asked: list[tuple[Example, dict[str, str]]] = [(e, _told(e)) for e in world.held_out(count)]
        if view in NEEDS_ATTEMPT:
            attempts = answers(model, tokenizer, [e.problem for e, _ in asked])
            asked = _with_attempts(world, [e for e, _ in asked], attempts, right=NEEDS_ATTEMPT[view])
        if not asked:  # none of the attempts is of the kind that the view is meant for
            return Accuracy(math.nan, 0)
        texts = answers(
            model,
            tokenizer,
            [e.problem if view in PREFILLS else world.question(e, view, **told) for e, told in asked],
            [world.question(e, view, **told) if view in PREFILLS else "" for e, told in asked],
            sample,
        )
    right = sum(world.grade(e, text).correct for (e, _), text in zip(asked, texts, strict=True))
    return Accuracy(right / len(asked), len(asked))


def _begun(world: Game, view: str, count: int) -> tuple[str, list[tuple[Example, list[str]]]]:
    """(the view that is read, held-out examples with the turns that are given)."""
    examples = world.held_out(count)
    if view != BLUNDER:
        return view, [(one, []) for one in examples]
    blunders = [(one, world.blunder(whole(one)) if world.blunder else None) for one in examples]
    return "plain", [(one, [words]) for one, words in blunders if words]


def _told(example: Example) -> dict[str, str]:
    """What the views show beyond private fields, as far as no attempt is needed."""
    solution = example.private["solution"]
    return {
        "partial": solution[: len(solution) // 2],
        "sibling": example.private["worked"],
        "diagnosis": "@",
    }


def _with_attempts(
    world: AnyWorld, examples: Sequence[Example], attempts: Sequence[str], right: bool
) -> list[tuple[Example, dict[str, str]]]:
    """The examples whose attempt was right, or else was a wrong answer of the right form; and what to tell."""
    asked = []
    for example, attempt in zip(examples, attempts, strict=True):
        grade = world.grade(example, attempt)
        readable = grade.claim is not None and len(grade.claim) == len(example.private["answer"])
        if grade.correct == right and readable:
            told = {"attempt": attempt, "feedback": grade.feedback or ""}
            asked.append((example, _told(example) | told))
    return asked


def accuracy_table(name: str, folder: Path, count: int = 1024, seed: int = 0) -> str:
    """A Markdown table: accuracy of the shipped model ``name``, or of a rebuilt one, in ``folder``.

    In every world whose problems it was taught, on the bare question; in its own, under each view it was taught.
    """
    rows = []
    for world in map(open_world, MODELS[named_model(name)]):
        own = world.name == MODELS[name][0] and name not in HELPLESS
        views = world.wording if own else ()
        off_path = (BLUNDER,) if isinstance(world, Game) and world.blunder else ()
        for view in ("plain", *views, *off_path):
            accuracy = measure(world, folder, view, count, seed)
            rows.append(f"| {world.name} | {view} | {accuracy} | {accuracy.count} |")
    return "\n".join(["| world | view | accuracy | n |", "|---|---|---|---|", *rows])


def main(words: Sequence[str] | None = None) -> None:
    """Print the accuracy table of a model; ``words`` are the command line's (None: this process's own)."""
    parser = argparse.ArgumentParser(
        description="Measure a shipped model on held-out problems at temperature 1."
    )
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--folder", type=Path, help="a rebuilt model; without it, the one that ships")
    parser.add_argument("--count", type=int, default=1024, help="held-out problems, one answer each")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling")
    given = parser.parse_args(words)
    print(accuracy_table(given.model, given.folder or arena_model(given.model), given.count, given.seed))


if __name__ == "__main__":
    main()
