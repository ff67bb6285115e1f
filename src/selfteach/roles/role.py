"""A role: weights × view × thinking flag × span. A recipe declares it; the trainer makes it score."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from selfteach.roles.span import Span, Whole
from selfteach.roles.view import Solution, View
from selfteach.roles.weights import Frozen, Weights


@dataclass(frozen=True)
class ReasonFirst:
    """Let the role write an analysis of what it was shown before it scores (OPSD, option ``reason_first``).

    The role's weights answer ``instruction`` (at most ``max_tokens``); its context becomes view + analysis +
    ``transition``.
    """

    max_tokens: int = 4096
    instruction: str = (
        "{shown}\n\nBefore anything else, analyze the reference: which idea makes it work, and which steps carry it? "
        "Write the analysis only."
    )
    transition: str = "Now use this understanding to solve the problem yourself, step by step: {problem}"


@dataclass(frozen=True)
class Role:
    """``weights`` score the written tokens under ``view``; ``thinking`` is the chat template's flag (None: unset).

    ``signal``: what it hands over, its full distribution or the sampled tokens' log-probs alone (of stored rollouts
    these are computed once, Lightning OPD). ``tag``: it scores examples of this tag only (None: all). ``span``: the
    part of a trajectory that it scores, behind its view.
    """

    weights: Weights = field(default_factory=Frozen)
    view: View = field(default_factory=Solution)
    thinking: bool | None = None
    reason_first: ReasonFirst | None = None
    signal: Literal["full", "sampled"] = "full"
    tag: str | None = None
    span: Span = field(default_factory=Whole)
