"""What a teacher cache's rounding does to loss and gradient, and what it weighs, on the arena's table world.

    python benchmarks/teacher_cache.py

For each k and each number format: OPSD's forward KL on the teacher's k' likeliest tokens (k' = 16 of k = 64; with k = V
the whole vocabulary) on stored answers, scored by the teacher itself and by a cache of it; relative errors of the loss
and of the student's gradient (Euclidean), and bytes a token.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from selfteach.cli.train import configured
from selfteach.training import randomness
from selfteach.training.launch import learner_of
from selfteach.training.progress import Silent
from selfteach.training.text.learner import TextLearner
from selfteach.training.text.teachers.cache import TeacherCache
from selfteach.training.text.teachers.scoring import score
from selfteach.training.text.update import losses_of

WORDS = (
    "opsd", "--task", "table", "--stored", "64", "--prompts", "64", "--max-tokens", "64", "--clip-entry", "none",
    "--loss-temperature", "1", "--device", "cpu", "--max-unavailable", "1",
)  # fmt: skip
CASES = {"k = V": (None, ()), "k = 64, k' = 16": (64, ("--teacher-top-k", "16"))}


def loss_and_gradient(learner: TextLearner, cache: TeacherCache) -> tuple[float, torch.Tensor]:
    """Of all stored answers at the student's first weights, moved a little from its teacher's."""
    generator = torch.Generator().manual_seed(0)
    parameters = list(learner.policy.trainable().values())
    with torch.no_grad():
        for one in parameters:
            one.add_(torch.randn(one.shape, generator=generator), alpha=0.01)
    batch = learner.batching.of(cache.stored, learner.recipe.active(0), 0, alone=True)
    total = 0.0
    for loss in losses_of(batch):
        loss.backward()
        total += float(loss.detach())
    return total, torch.cat([one.grad.flatten() for one in parameters if one.grad is not None])


def main() -> int:
    for case, (k, more) in CASES.items():
        for dtype in ("float16", "float32"):
            with TemporaryDirectory() as folder:
                words = [*WORDS, *more]
                randomness.seed_all(0)
                config = configured(words)[0]
                made = score(
                    learner_of(config, Silent()), Path(folder) / "cache", top_logprobs=k, dtype=dtype
                )
                cache = TeacherCache(Path(folder) / "cache")
                local = loss_and_gradient(learner_of(config, Silent()), cache)
                cached = configured([*words, "--teacher-cache", f"{folder}/cache"])[0]
                other = loss_and_gradient(learner_of(cached, Silent()), cache)
            tokens = sum(one.tokens for one in made.shards)
            size = sum(one.mark["bytes"] for one in made.shards)
            loss = abs(other[0] - local[0]) / local[0]
            gradient = float((other[1] - local[1]).norm() / local[1].norm())
            print(
                f"{case:<16} {dtype}  loss {local[0]:.4f} relative error {loss:.1e}  gradient {gradient:.1e}  "
                f"{tokens:,} tokens, {size / tokens:.0f} bytes each"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
