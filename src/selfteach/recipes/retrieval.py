"""Which experience of a bank is shown with an example."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from selfteach.recipes.bank import Bank, Experience
from selfteach.task.example import Example

_WORD = re.compile(r"\w+|[^\w\s]")


class Retrieval(Protocol):
    """The experience to show with an example; None: there is none for it."""

    def __call__(self, bank: Bank, example: Example) -> Experience | None: ...


@dataclass(frozen=True)
class UCB:
    """Among the example's own experiences one that was never used, the oldest of them; else that of the highest upper
    confidence bound (Skill-SD). ``c`` weighs what is uncertain (0: greedy). Nothing passes from one task to another."""

    c: float = 1.0

    def __call__(self, bank: Bank, example: Example) -> Experience | None:
        asked = bank.asked.get(example.key, 0)
        own = bank.of(example.key)
        return max(own, key=lambda one: ucb(one["reward"], one["uses"], asked, self.c), default=None)


def ucb(mean: float, uses: int, asked: int, c: float) -> float:
    """mean + c · √(ln N / n) of an arm that was used n = ``uses`` times in N = ``asked`` rounds; +∞ if never."""
    return mean + c * math.sqrt(math.log(max(1, asked)) / uses) if uses else math.inf


@dataclass(frozen=True)
class Similar:
    """The experience whose problem is most like the example's, of equals the newest, if their words' cosine similarity
    is at least ``threshold``. Words and signs are counted as they stand: a paraphrase is not found."""

    threshold: float

    def __call__(self, bank: Bank, example: Example) -> Experience | None:
        own = words(example.problem)
        found = [(cosine(own, words(one["problem"])), one) for one in reversed(bank.entries)]
        likeness, best = max(found, key=lambda pair: pair[0], default=(-math.inf, None))
        return best if likeness >= self.threshold else None


def words(text: str) -> Counter[str]:
    """How often each word and each sign stands in a text."""
    return Counter(_WORD.findall(text))


def cosine(one: Counter[str], other: Counter[str]) -> float:
    """Cosine of two vectors of counts, in [0, 1]; 0 where one is empty."""
    product = sum(count * other[word] for word, count in one.items())
    squares = sum(n * n for n in one.values()) * sum(n * n for n in other.values())
    # Exactly 1 for equal counts, so that a threshold of 1 finds the very same words.
    return product / math.sqrt(squares) if squares else 0.0
