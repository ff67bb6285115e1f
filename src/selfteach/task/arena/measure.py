"""How often a world's model is right, without and with the solution before its eyes.

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

from selfteach.task.arena import WORLDS, model_folder, open_world
from selfteach.task.arena.tokenizer import encode
from selfteach.task.arena.world import World
from selfteach.task.example import Message

MAX_NEW_TOKENS = 48


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers among ``count``."""

    mean: float
    count: int

    @property
    def standard_error(self) -> float:
        return math.sqrt(self.mean * (1 - self.mean) / self.count)

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.standard_error:.3f}"


@torch.no_grad()
def answers(
    model: Any, tokenizer: PreTrainedTokenizerBase, questions: list[str], sample: bool = True
) -> list[str]:
    """The answers of ``model``, a causal LM: sampled at temperature 1, nothing cut off, or greedy."""
    conversations = [[Message(role="user", content=text)] for text in questions]
    left = {"padding_side": "left"}
    batch = encode(tokenizer, conversations, add_generation_prompt=True, tokenizer_kwargs=left)
    sampling = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {}
    ids = model.generate(**batch, do_sample=sample, max_new_tokens=MAX_NEW_TOKENS, **sampling)
    return tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)


def measure(
    world: World, folder: Path, view: str, count: int, seed: int = 0, sample: bool = True
) -> Accuracy:
    """Accuracy of the model in ``folder`` on the world's first ``count`` held-out examples, one try each."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    examples = world.held_out(count)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        texts = answers(model, tokenizer, [world.question(e, view) for e in examples], sample)
    right = sum(world.grade(e, text).correct for e, text in zip(examples, texts, strict=True))
    return Accuracy(right / count, count)


def accuracy_table(world: World, folder: Path, count: int = 1024, seed: int = 0) -> str:
    """A Markdown table: accuracy on the bare question and under each view that the model was taught."""
    views = ("plain", *world.wording)
    lines = [f"| {view} | {measure(world, folder, view, count, seed)} |" for view in views]
    return "\n".join([f"| view | accuracy (n = {count}) |", "|---|---|", *lines])


def main(words: Sequence[str] | None = None) -> None:
    """Print the accuracy table of a world; ``words`` are the command line's (None: this process's own)."""
    parser = argparse.ArgumentParser(
        description="Measure a world's model on held-out problems at temperature 1."
    )
    parser.add_argument("world", choices=sorted(WORLDS))
    parser.add_argument("--folder", type=Path, help="a rebuilt model; without it, the one that ships")
    parser.add_argument("--count", type=int, default=1024, help="held-out problems, one answer each")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling")
    given = parser.parse_args(words)
    folder = given.folder or model_folder(given.world)
    print(accuracy_table(open_world(given.world), folder, given.count, given.seed))


if __name__ == "__main__":
    main()
