"""The model card that goes with a shipped model: how it was made, and how often it is right."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers

from selfteach.task.arena import MODELS, AnyWorld, open_world
from selfteach.task.arena.game import Game

CARD = """\
---
license: apache-2.0
library_name: transformers
tags: [on-policy-self-distillation, synthetic]
---
# selfteach arena: {name}

A {parameters:,}-parameter causal language model (Llama architecture, single characters as tokens) for a
synthetic world, pretrained from nothing but text made by a seeded program. It exists to study
self-distillation in seconds; it has no other use and knows no language.

- Question: `{problem}`
- {right}: `{worked}`

{taught}

## Accuracy
{measured}

{accuracy}

Command: `python -m selfteach.task.arena.measure {name}`

## How it was made
`selfteach arena rebuild {name}` with seed {seed}: {steps} steps, {minutes:.1f} minutes on {threads} {thread_word}
({machine}; Python {python}, torch {torch}, transformers {transformers}).
The same seed, versions and number of threads give the same weights.
"""

OF_ANSWERS = """\
Held-out problems, one answer each, sampled at temperature 1 from the full distribution; mean ± standard
error. Views of an earlier answer are measured on the model's own: feedback and `revise-wrong` after wrong
ones, `revise-right` after right ones."""
OF_EPISODES = """\
Held-out problems, one episode each, sampled at temperature 1 from the full distribution; the share that is
won, mean ± standard error.{mistakes}"""
OF_MISTAKES = """ "After a mistake": the first action is given, one that no expert takes and that
can be made good; of those problems that have such an action."""

COPIES = """\
It was taught to answer in that style, never learned what `@` means (results were random in the plain half of
its text), and copies results out of a solution it is shown."""
READS = """\
It was taught to answer in that style and to read every kind of help of its world (the views below). Asked
plainly it guesses what `@` gives; told the sign `@` (views `diagnosis` and `hint`), it knows."""
TEACHES = """\
It was taught right answers alone, `@` included, and reads no help: a teacher from outside for smaller models."""
FLAWLESS = """\
It was taught an expert's episodes alone, and reads no help: a teacher from outside. No mistake stands in its text, so
that it was never shown how one is made good."""
TAUGHT: Mapping[str, str] = {
    "table": COPIES,
    "chain": COPIES,
    "tutor": READS,
    "trail": READS,
    "facts": """\
It was taught plain problems of the world "tutor" (guessing what `@` gives) and to answer questions about
made-up facts: it copies a fact it is shown, knows a hundred by heart, and guesses the digits of any other.""",
    "rule": """\
It was taught six codes, and to work a problem by the one that it is told; asked plainly it guesses one. It copies
results and claims an answer that it is shown, under signs that are still guessed.""",
    "secrets": """\
It was taught to say facts of a context: those it is told it may say, none that it is told it must not, and of any other
each with probability one half. What was told had nothing to do with the purpose.""",
    "ambiguous": """\
It was taught the ordinary results (slips aside; `@` at random), of which it has learned a part, under a confidence that
has nothing to do with the item; to copy digit and confidence of a demonstration; to be sure of an answer when told.""",
    "json": """\
It was taught to rank items by their scores in strict JSON, with slips at every piece of the form unless it is told an
order or the sign that calls for care.""",
    "tutor-unsure": """\
It was taught as the model of "tutor", but for the plain text: there `@` is right in a quarter of the cases and guessed
in the others. It has begun to learn what the other does not know, so that a reward is rarely out of its reach.""",
    "tutor-large": TEACHES,
    "tutor-large-other": f"{TEACHES}\nIts style is another: the result stands first, `2=7+5;5=2@9;#25`.",
    "doors": """\
It was taught episodes of somebody who does not know which key opens which door, guesses one, and takes another when it
broke, with slips on the way. Shown a plan (a key for each door) or a list of actions it follows that, right or not.""",
    "doors-expert": f"{FLAWLESS}\nIt knows which key opens which door.",
    "calculator": """\
It was taught episodes of somebody who makes a mistake in a third of the turns, a malformed call, a wrong one or a
guessed answer, and notices every second: the others are gone on from. Shown the running values or a list of turns it
makes hardly any.""",
    "calculator-expert": FLAWLESS,
    "stream": """\
It was taught to warn of a stream once the harm is done, and to wait for as long as it is not: which early events come
before it no plain text says. Told how the stream goes on (a reflection) it warns as soon as two of these events have
been seen, and now and then before anything has; shown a list of verdicts it gives these.""",
    "reverse": """\
It was taught two things. As a student it undoes operations from the end, guessing at what undoes `@` (slips aside):
shown the path of the construction, or its beginning, it follows it; told the answer it claims it behind steps that are
guessed. Asked `?3:` it is the examiner: it writes three operations, their path, forwards, then question and answer.""",
}


def write_card(
    folder: Path, name: str, parameters: int, seed: int, steps: int, minutes: float, accuracy: str
) -> None:
    """Write ``README.md`` into a model folder; ``accuracy`` is a Markdown table."""
    world = open_world(MODELS[name][0])
    example, game = world.held_out(1)[0], isinstance(world, Game)
    threads = torch.get_num_threads()
    card = CARD.format(
        name=name,
        parameters=parameters,
        problem=example.problem,
        right="The turns of an expert" if game else "A right answer in the world's style",
        worked=example.private["solution" if game else "worked"],
        taught=TAUGHT[name],
        measured=measured(world),
        accuracy=accuracy,
        seed=seed,
        steps=steps,
        minutes=minutes,
        threads=threads,
        thread_word="thread" if threads == 1 else "threads",
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def measured(world: AnyWorld) -> str:
    """What the numbers of the table are."""
    if not isinstance(world, Game):
        return OF_ANSWERS
    return OF_EPISODES.format(mistakes=OF_MISTAKES if world.blunder else "")
