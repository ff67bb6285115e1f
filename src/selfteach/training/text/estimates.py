"""What graded answers say of a model, each number with its interval: problems are what was drawn, not answers.

The interval is that of Agresti and Coull (1998): as if z²/2 ≈ 2 more problems had been answered rightly and as many
wrongly. It is never of width 0, however few problems there are, and of a share it contains Wilson's. Of scores between
0 and 1 that are means over several answers, it takes their own variance, with these problems added, in the place of a
share's. Rewards outside of [0, 1] have mean ± 1.96 standard errors.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from selfteach.checks import require

if TYPE_CHECKING:
    from selfteach.training.text.evaluation import Answered

LEVEL = 0.95
Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
INTERVAL = "95 % interval over problems (Agresti-Coull)"


@dataclass(frozen=True)
class Estimate:
    """A ``measure`` of a model: its value and its 95 % interval [``low``, ``high``] over so many ``problems``.

    ``low`` and ``high`` are NaN where nothing is known of the spread.
    """

    measure: str
    value: float
    low: float
    high: float
    problems: int


def estimates(
    answers: Sequence[Answered], samples: int, ks: Sequence[int] = (), greedy: Sequence[Answered] = ()
) -> list[Estimate]:
    """average@n, pass@k and maj@n of answers that stand ``samples`` a problem, in order; the grades' own numbers;
    accuracy of greedy ones.

    ``ks``: which pass@k (none: powers of two up to the samples, and the samples). maj@n is left out where no answer
    has a claim to vote for. UserError for a k that is more than the samples.
    """
    groups = [answers[i : i + samples] for i in range(0, len(answers), samples)]
    rewards = [[one.grade.reward for one in group] for group in groups]
    right = [sum(one.grade.correct for one in group) for group in groups]
    name = "accuracy" if samples == 1 else f"average@{samples}"
    found = [estimated(name, [sum(own) / samples for own in rewards])]
    for k in ks or default_ks(samples):
        require(k <= samples, f"pass_at_k: pass@{k} needs {k} samples a problem or more, there are {samples}")
        found.append(estimated(f"pass@{k}", [pass_at_k(samples, count, k) for count in right]))
    if samples > 1 and any(one.grade.claim is not None for one in answers):
        found.append(estimated(f"maj@{samples}", [majority(group) for group in groups]))
    found += [estimated(name, scores) for name, scores in number_scores(answers, samples).items()]
    if greedy:
        found.append(estimated("greedy", [one.grade.reward for one in greedy]))
    return found


def number_scores(answers: Sequence[Answered], samples: int) -> dict[str, list[float]]:
    """What grades measured beside the reward (``Grade.numbers``), by name: of each problem the mean over those of its
    answers that have it, of the problems that have any. The answers stand ``samples`` a problem."""
    found: dict[str, list[float]] = {}
    for begin in range(0, len(answers), samples):
        own: dict[str, list[float]] = {}
        for one in answers[begin : begin + samples]:
            for name, value in one.grade.numbers.items():
                own.setdefault(name, []).append(value)
        for name, values in own.items():
            found.setdefault(name, []).append(sum(values) / len(values))
    return found


def default_ks(samples: int) -> list[int]:
    powers = [2**i for i in range(1, samples.bit_length()) if 2**i <= samples]
    return sorted({*powers, samples} - {1})


def pass_at_k(n: int, c: int, k: int) -> float:
    """1 − C(n−c, k) / C(n, k): the unbiased estimate, from ``n`` answers of which ``c`` are right, of the probability
    that one of ``k`` is (Chen et al. 2021, arXiv 2107.03374)."""
    require(0 <= c <= n and 1 <= k <= n, f"pass@{k} of {c} right among {n}: k must lie between 1 and {n}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def majority(group: Sequence[Answered]) -> float:
    """1 if the final answer that most answers to a problem claim is right, else 0; of several that tie, the share that
    are right.

    Claims are one where they are the same text, white space apart. Answers without a claim do not vote; 0 if none does.
    """
    claims = [(" ".join(one.grade.claim.split()), one) for one in group if one.grade.claim is not None]
    votes = Counter(claim for claim, _ in claims)
    most = max(votes.values(), default=0)
    ahead = [claim for claim, count in votes.items() if count == most]
    right = [next(one for own, one in claims if own == claim).grade.correct for claim in ahead]
    return sum(right) / len(right) if right else 0.0


def estimated(measure: str, scores: Sequence[float]) -> Estimate:
    """The mean of one score a problem, with its interval."""
    n = len(scores)
    mean = sum(scores) / n  # as a run's own evaluation adds them up, to the last digit
    if min(scores) < 0 or max(scores) > 1:
        half = Z * standard_error(scores)
        low, high = (mean - half, mean + half) if half else (math.nan, math.nan)
    else:
        low, high = agresti_coull(scores)
    return Estimate(measure, mean, low, high, n)


def standard_error(scores: Sequence[float]) -> float:
    """Of the mean; 0 for a single score, whose spread nobody knows."""
    n, mean = len(scores), math.fsum(scores) / len(scores)
    return math.sqrt(math.fsum((one - mean) ** 2 for one in scores) / max(1, n - 1) / n)


def agresti_coull(scores: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of ``scores`` in [0, 1]."""
    added = Z**2 / 2
    n = len(scores) + 2 * added
    mean = (math.fsum(scores) + added) / n
    variance = (math.fsum(one**2 for one in scores) + added) / n - mean**2
    half = Z * math.sqrt(variance / n)
    return max(0.0, mean - half), min(1.0, mean + half)
