"""How alike two short texts are: what a teacher that gives no probabilities can be asked (OmniOPD)."""

from __future__ import annotations

from collections import Counter

import numpy as np


def edit_distance(one: str, other: str) -> int:
    """Levenshtein's: the fewest characters inserted, deleted or replaced to make one of the other."""
    if not one or not other:
        return max(len(one), len(other))
    letters = np.array([ord(c) for c in other])
    place = np.arange(len(other) + 1)
    row = place.copy()
    for i, letter in enumerate(one, start=1):
        replaced = row[:-1] + (letters != ord(letter))
        best = np.concatenate([[i], np.minimum(row[1:] + 1, replaced)])
        # Insertions run along the row: each costs one a place.
        row = np.minimum.accumulate(best - place) + place
    return int(row[-1])


def edit_similarity(one: str, other: str) -> float:
    """1 − edit distance / the longer length, in [0, 1]; two empty texts are alike."""
    longest = max(len(one), len(other))
    return 1.0 - edit_distance(one, other) / longest if longest else 1.0


def rouge_1(one: str, other: str) -> float:
    """F1 of the words that two texts share, in [0, 1]; two texts without words are alike."""
    ours, theirs = Counter(one.split()), Counter(other.split())
    total = sum(ours.values()) + sum(theirs.values())
    return 2 * sum((ours & theirs).values()) / total if total else 1.0
