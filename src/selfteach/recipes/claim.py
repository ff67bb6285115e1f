"""What a paper claims, put so that runs of a small world can answer: this variant does better than that one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Claim:
    """``says``: the paper's claim in one sentence, with its figure. ``variants``: label → the words after ``selfteach
    train`` of one run (seed and folder are added; ``{variant LABEL}`` stands for the folder of another variant of the
    same seed, whose trained model is in its ``model``). Expected: ``metric`` of ``higher`` exceeds that of ``lower``.

    ``metric``: a name of docs/metrics.md, of the run's ``last`` row that has it, its ``mean`` over the rows, its
    ``max`` or its ``first``, as in "mean divergence/teacher"; without such a word the last. With ``within`` the claim
    is that the two differ by no more than this.
    """

    says: str
    variants: Mapping[str, str]
    higher: str
    lower: str
    metric: str = "eval/headline"
    within: float | None = None

    def __post_init__(self) -> None:
        for label in (self.higher, self.lower):
            if label not in self.variants:
                raise ValueError(f"variants lack {label!r}; there are {list(self.variants)}")

    @property
    def reduction(self) -> Literal["last", "mean", "max", "first"]:
        match self.metric.split(" ")[0]:
            case "mean" | "max" | "first" as word:
                return word
        return "last"

    @property
    def column(self) -> str:
        return self.metric.split(" ")[-1]
