"""How alike two short texts are: what a teacher that gives no probabilities can be asked (OmniOPD), and how well one is
retold (Sleep)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

Text = str | Sequence[int]
"""Characters, or token ids."""


def edit_distance(one: Text, other: Text) -> int:
    """Levenshtein's: the fewest characters (or tokens) inserted, deleted or replaced to make one of the other."""
    if not one or not other:
        return max(len(one), len(other))
    letters = np.array(codes(other))
    place = np.arange(len(other) + 1)
    row = place.copy()
    for i, letter in enumerate(codes(one), start=1):
        replaced = row[:-1] + (letters != letter)
        best = np.concatenate([[i], np.minimum(row[1:] + 1, replaced)])
        # Insertions run along the row: each costs one a place.
        row = np.minimum.accumulate(best - place) + place
    return int(row[-1])


def codes(text: Text) -> Sequence[int]:
    """A number for each character; token ids as they are."""
    return [ord(c) for c in text] if isinstance(text, str) else text


def edit_similarity(one: Text, other: Text) -> float:
    """1 − edit distance / the longer length, in [0, 1]; two empty texts are alike."""
    longest = max(len(one), len(other))
    return 1.0 - edit_distance(one, other) / longest if longest else 1.0


def rouge_1(one: str, other: str) -> float:
    """F1 of the words that two texts share, in [0, 1]; two texts without words are alike."""
    ours, theirs = Counter(one.split()), Counter(other.split())
    total = sum(ours.values()) + sum(theirs.values())
    return 2 * sum((ours & theirs).values()) / total if total else 1.0
