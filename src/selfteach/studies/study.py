"""What papers claim, put so that runs of a small world can answer: this variant does better than that one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from selfteach.checks import nearest, require
from selfteach.importing import is_reference
from selfteach.studies.verdict import Exceeds, Rule
from selfteach.words import given_names

REDUCTIONS = ("last", "first", "mean", "max")
"""Which number of a run's rows: the last that was measured, the first, their mean, their maximum."""


@dataclass(frozen=True)
class Claim:
    """One statement, as two variants of ``selfteach train`` and what is compared of them.

    Expected: ``metric`` of ``higher`` stands to that of ``lower`` as ``rule`` says. Raises ``UserError`` for a claim
    that no runs can answer.
    """

    says: str
    """The paper's claim in one sentence, with its figure."""
    variants: Mapping[str, str]
    """Label → the words after ``selfteach train`` of one run (seed and folder are added). ``{variant LABEL}`` stands
    for the folder of another variant of the same seed, whose trained model is in its ``model``."""
    higher: str
    """The label of the variant that should be ahead (or, within a tolerance, one of the two)."""
    lower: str
    """The label of the other."""
    metric: str = "eval/headline"
    """A name of docs/metrics.md (or ``summary/NAME`` of the run's summary.json), alone or after one of the words
    "last", "first", "mean", "max", as in "mean divergence/teacher"; without one the last."""
    rule: Rule = field(default_factory=Exceeds)
    """When the claim counts as reproduced or refuted."""
    withdrawn: str = ""
    """Why no verdict is given, whatever the runs say: a side that does not do its own job (empty: one is given)."""

    def __post_init__(self) -> None:
        for label, told in self.variants.items():
            require(understood(told), f"{self.about} variant {label!r} is no list of words: {told!r}")
        for label in (self.higher, self.lower):
            require(label in self.variants, f"{self.about} no variant is called {label!r}{self.near(label)}")
        for label in self.variants:
            self.depth(label)
        one, other = (self.variants[label].split() for label in (self.higher, self.lower))
        require(
            one != other,
            f"{self.about} variants {self.higher!r} and {self.lower!r} are the same words, so nothing is compared",
        )
        *words, _ = self.metric.split(" ")
        require(
            len(words) < 2 and set(words) <= set(REDUCTIONS),
            f"{self.about} metric {self.metric!r} is no NAME, nor one after one of {', '.join(REDUCTIONS)}",
        )

    @property
    def about(self) -> str:
        """How a refusal names the claim."""
        return f"claim {self.says!r}:"

    @property
    def reduction(self) -> str:
        """One of ``REDUCTIONS``."""
        return self.metric.split(" ")[0] if " " in self.metric else "last"

    @property
    def column(self) -> str:
        """The metric's name, without the word before it."""
        return self.metric.split(" ")[-1]

    def depth(self, label: str, above: tuple[str, ...] = ()) -> int:
        """How many variants must be finished one after the other before this one can start.

        ``above``: those that are waiting for it. UserError if a variant is built on one that does not exist, or on
        itself.
        """
        path = (*above, label)
        require(
            label not in above, f"{self.about} a variant is built on itself: {' on '.join(map(repr, path))}"
        )
        needed = built_on(self.variants[label])
        for one in needed:
            require(
                one in self.variants,
                f"{self.about} variant {label!r} is built on {{variant {one}}}, which does not exist{self.near(one)}",
            )
        return 1 + max((self.depth(one, path) for one in needed), default=-1)

    def near(self, label: str) -> str:
        return nearest(label, self.variants)


@dataclass(frozen=True)
class Study:
    """What a method's paper claims that a small world can show.

    Raises ``UserError`` if it claims nothing, or if a variant's words name no recipe.
    """

    method: str
    """What ``selfteach train`` calls the method."""
    claims: tuple[Claim, ...]
    task: str = ""
    """What variants are trained on whose words name no ``--task`` (empty: what ``selfteach train`` takes for their
    recipe)."""
    home: str = ""
    """The folder that recipes of one's own, ``FILE:NAME`` at the beginning of a variant's words, are looked for in
    (empty: the present one); ``study_named`` sets it to that of the study's file."""

    def __post_init__(self) -> None:
        require(bool(self.claims), f"the study of {self.method} makes no claim")
        for claim in self.claims:
            for label, words in claim.variants.items():
                require(
                    words.split()[:1] not in ([], ["train"]) and not words.lstrip().startswith("-"),
                    f"{claim.about} variant {label!r} must begin with a recipe, as in 'opsd --steps 80'; "
                    f"got {words!r}",
                )

    def written(self, claim: Claim, label: str) -> str:
        """The words after ``selfteach train`` of a variant as the study has them, and its task where they name none."""
        own = claim.variants[label]
        return own if not self.task or "task" in given_names(own.split()) else f"{own} --task {self.task}"

    def words(self, claim: Claim, label: str) -> str:
        """The same as they run from here: a recipe of one's own is looked for in ``home``."""
        recipe, _, rest = self.written(claim, label).partition(" ")
        if self.home and is_reference(recipe):
            recipe = shlex.quote(str(Path(self.home) / recipe))
        return f"{recipe} {rest}".strip()


def understood(words: str) -> bool:
    """Whether the words are quoted well, and ask for a run rather than for help."""
    try:
        return not {"-h", "--help", "--help-all", "--dry-run", "--resume"} & set(shlex.split(words))
    except ValueError:
        return False


def built_on(words: str) -> list[str]:
    """The labels of the variants whose folders a variant's words name."""
    return re.findall(r"\{variant ([^}]+)\}", words)
