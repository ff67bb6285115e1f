"""ORACLE: distillation from a copy that reads, beside the stream so far, what its whole course later showed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from selfteach.recipes.kit import *

REFLECTION = (
    "{{problem}}\n\n--- for your eyes only: a look back, written once the whole course of events was known ---\n"
    "{{{field}}}\n--- end of the look back ---\n\n"
    "Judge by what has been seen so far; let the look back tell you which of it matters, and do not mention it."
)
ASK = (
    "{problem}\n\n--- what came then, and how it was judged ---\n{attempt}\n--- end ---\n\n"
    "Now that you know the whole course of events, look back: which early signs should have been recognized, and when? "
    "Name them in fewer than 60 words, and leave out what nobody could have known at the time."
)
TOLD, OPEN = "reflection", "open"
"""The field that a reflection is told in; the mark on tokens of turns before which the early signs had been shown."""


@settings
class Oracle(Recipe):
    """Pull the student to a copy that reads a reflection on the whole stream, on the student's own verdicts.

    "ORACLE: Anticipating Scams from Partial Trajectories in Streaming App Usage" (arXiv 2605.16363). The student π sees
    a stream up to the present window W; the teacher q sees the same and a reflection r that was written with knowledge
    of all of it. Over the n tokens that the student writes at the windows of its rollouts,

        L = (1/n) Σ_t KL( π(·|W, y_<t) ‖ q(·|W, r, y_<t) )

    gradient through π only. An episode is a stream: each turn is the verdict on a window, each later window what the
    environment answers, and the conversation is the memory of what came before. The paper could be read as an abstract
    and other people's notes only: whose weights teach, rates, lengths and the reflection's words are ours, and so is
    ``gate``. Entity-keyed memory and the skill library that is edited from high-risk predictions are left out.
    """

    name = "oracle"
    title = "ORACLE: self-distillation from reflections in hindsight"
    source = "https://arxiv.org/abs/2605.16363"
    formula = "mean_t KL( π(·|W, y_<t) ‖ q(·|W, r, y_<t) )"
    plays = True
    marks = (OPEN,)
    presets = {"paper": {}, "field": {"reflection": "field"}}
    sizes = {**Recipe.sizes, "summary_tokens": "tokens"}

    rollouts: Rollouts = Rollouts(max_turns=40)
    optimization: Optimization = Optimization(lr=1e-6)
    summaries: Summarizer = Summarizer()
    reflection: Literal["written", "field"] = "written"
    """Where reflections come from: --summarizer writes one behind each rollout, by which the whole stream is known, or
    the data hold them."""
    field: str = "reflection"
    """The private field of reflection "field"."""
    ask_template: str = ASK
    """What a summarizer is asked: {problem}, {attempt} (the whole exchange) and private fields such as {future}."""
    weights: Literal["frozen", "live", "ema"] = "frozen"
    """Whose scores teach: the initial policy's, the current ones, or an average (paper: not read)."""
    ema_decay: UnitInterval = 0.99
    """Decay of the average; used with ``--weights ema``."""
    gate: str = ""
    """A private field, a list of early signs: a turn is distilled only once each has been shown (ours, not the paper's;
    empty: all turns). Rows where the list is empty, as nothing is to be recognized, are distilled throughout."""
    student_top_k: PositiveInt | None = None
    """Compare on the student's k likeliest tokens and the rest as one (paper: not read; none: full vocabulary)."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        whose: Mapping[str, Weights] = {"frozen": Frozen(), "live": Live(), "ema": EMA(self.ema_decay)}
        given = self.reflection == "field"
        view: View = Field(self.field, REFLECTION) if given else Told(REFLECTION.format(field=TOLD), TOLD)
        return {TEACHER: Role(whose[self.weights], view, self.student_thinking)}

    @property
    def writers(self) -> Mapping[str, Role]:
        return self.summaries.writers(self.student_thinking) if self.reflection == "written" else {}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        written = tools.play(prompts, self.rollouts.per_prompt)
        if self.reflection == "written":
            asked = dict(enumerate(written))
            texts = self.summaries.written(
                tools, asked, Told(self.ask_template, "look-back"), lambda one: one.text
            )
            written = [one.told(**{TOLD: texts.get(i, "")}) for i, one in asked.items()]
        return [self.gated(one) for one in written] if self.gate else written

    def gated(self, one: Trajectory) -> Trajectory:
        """The rollout with the mark ``OPEN`` on the turns before which all its early signs had been shown.

        UserError where the example lacks the field, or it is no list."""
        signs = one.example.private.get(self.gate)
        require(signs is not None, f"example {one.example.key} has no {self.gate!r} for --gate to wait for")
        # It would be read as one sign that never comes: nothing would be distilled, and nobody told.
        require(
            not no_list(signs or ""),
            f"example {one.example.key}: {self.gate!r} is no list of early signs: write a JSON list of texts, or lines",
        )
        opens = first_open(one, listed(signs or ""))
        return replace(one, marks={**one.marks, OPEN: [turn >= opens for turn in one.turn]})

    def terms(self, stats: Statistics) -> Iterable[Term]:
        where = stats.seen(TEACHER)
        yield Match(
            name="distill",
            target=FromRole(TEACHER),
            divergence=ReverseKL(),
            support=likeliest(self.student_top_k, of="student"),
            where=where & stats.mark(OPEN) if self.gate else where,
            mean_over="tokens",
        )


def no_list(told: str) -> bool:
    """Whether this is JSON that is no list of texts or numbers; lines of a text are a list (``listed``)."""
    try:
        found = json.loads(told)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) or (
        isinstance(found, list) and not all(isinstance(each, str | int | float) for each in found)
    )


def first_open(one: Trajectory, signs: Sequence[str]) -> float:
    """The first turn (from 0) behind texts in which each of the signs stands; infinite where there is none."""
    missing = set(signs)
    for turn, messages in [
        (0, one.example.prompt),
        *((part.turn + 1, part.messages) for part in one.segments),
    ]:
        shown = "\n".join(message["content"] for message in messages if message["role"] != "assistant")
        missing -= {sign for sign in missing if sign in shown}
        if not missing:
            return float(turn)
    return math.inf
