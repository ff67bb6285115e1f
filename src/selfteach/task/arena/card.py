"""The model card that goes with a world's model: how it was made, and how often it is right."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch
import transformers

from selfteach.task.arena.world import World

CARD = """\
---
license: apache-2.0
library_name: transformers
tags: [on-policy-self-distillation, synthetic]
---
# selfteach arena: {world}

A {parameters:,}-parameter causal language model (Llama architecture, single characters as tokens) for one
synthetic world, pretrained from nothing but text made by a seeded program. It exists to study
self-distillation in seconds; it has no other use and knows no language.

- Question: `{problem}`
- Its own style: `{worked}`
- With the solution before its eyes, it is asked: `{hinted}`

It was taught to answer in that style, never learned what `@` means (results were random in the plain half of
its text), and copies results out of a solution it is shown.

## Accuracy
Held-out problems, one answer each, sampled at temperature 1 from the full distribution; mean ± standard
error.

{accuracy}

Command: `python -m selfteach.task.arena.measure {world}`

## How it was made
`selfteach arena rebuild {world}` with seed {seed}: {steps} steps, {minutes:.1f} minutes on {threads} threads
({machine}; Python {python}, torch {torch}, transformers {transformers}).
The same seed, versions and number of threads give the same weights.
"""


def write_card(
    folder: Path,
    world: World,
    parameters: int,
    seed: int,
    steps: int,
    minutes: float,
    accuracy: str,
) -> None:
    """Write ``README.md`` into a model folder; ``accuracy`` is a Markdown table."""
    example = world.held_out(1)[0]
    card = CARD.format(
        world=world.name,
        parameters=parameters,
        problem=example.problem,
        worked=example.private["worked"],
        hinted=world.question(example, "solution"),
        accuracy=accuracy,
        seed=seed,
        steps=steps,
        minutes=minutes,
        threads=torch.get_num_threads(),
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
