"""What the rollouts' own words show, without any logits: diversity, repetition, leakage of what was private."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from selfteach.task.example import Example
from selfteach.task.trajectory import Trajectory

GRAM = 3
"""Tokens in a sequence that counts as repeated (cards 05 and 31: the 3-gram repetition ratio)."""
LOOPING = 0.6
"""A rollout whose 3-gram repetition ratio is above this loops (card 31 throws such rollouts away)."""
PHRASE = 8
"""Consecutive words that count as copied from a private text."""
WORD = re.compile(r"[^\W_]+")
MENTION = re.compile(
    r"\b(?:reference|provided|given|official|model) (?:solution|answer|explanation)s?\b"
    r"|\b(?:the|a|this|your) hints?\b|\bas hinted\b|\bthe feedback\b",
    re.IGNORECASE,
)
"""Words that name what only a teacher was shown (card 12: such tokens carry huge divergence)."""


def text_metrics(rollouts: Sequence[Trajectory], shown: Collection[str]) -> dict[str, float]:
    """Metrics of the sampled rollouts' text (docs/metrics.md); ``shown``: the private fields that teachers see.

    {} if none was sampled: a data set's references are not what the policy wrote.
    """
    sampled = [one for one in rollouts if one.ids and one.sampled]
    if not sampled:
        return {}
    counts = [grams(one) for one in sampled]
    repeated = [1 - distinct(one) for one in counts]
    return {
        f"distinct/{GRAM}": distinct(sum(counts, Counter())),
        "repetition/mean": mean(repeated),
        "repetition/looping": mean([ratio > LOOPING for ratio in repeated]),
        "leakage/copied": mean([copies(one, shown) for one in sampled]),
        "leakage/mentioned": mean([mentions(one.text, one.example) for one in sampled]),
    }


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def grams(one: Trajectory) -> Counter[tuple[int, ...]]:
    """How often each sequence of ``GRAM`` tokens that the policy wrote occurs in a rollout."""
    ids = [token for token, own in zip(one.ids, one.mask, strict=True) if own]
    return Counter(zip(*(ids[i:] for i in range(GRAM)), strict=False))


def distinct(counts: Counter[tuple[int, ...]]) -> float:
    """Different n-grams over all n-grams (distinct-n, arXiv 1510.03055); 1 where there is none."""
    return len(counts) / counts.total() if counts else 1.0


def copies(one: Trajectory, shown: Collection[str]) -> bool:
    """Whether an answer holds ``PHRASE`` consecutive words of a private text, or the whole of a shorter one.

    A right answer does not count: it may well say what the reference says. Nor does a phrase that the problem has too,
    or one that holds the final answer.
    """
    if one.grade is not None and one.grade.correct:
        return False
    private = one.example.private
    own, asked = spaced(one.text), "".join(spaced(message["content"]) for message in one.example.prompt)
    answer = spaced(private.get("answer", ""))
    return any(
        phrase in own and phrase not in asked and not (answer.strip() and answer in phrase)
        for name in set(private) & set(shown)
        for phrase in phrases(WORD.findall(private[name].casefold()))
    )


def phrases(words: Sequence[str]) -> Iterator[str]:
    for start in range(max(1, len(words) - PHRASE + 1) if words else 0):
        yield spaced(" ".join(words[start : start + PHRASE]))


def spaced(text: str) -> str:
    """The words of a text, without case and punctuation, each with a space on both sides."""
    return f" {' '.join(WORD.findall(text.casefold()))} "


def mentions(text: str, example: Example) -> bool:
    """Whether an answer speaks of a hint or a reference (``MENTION``) that its own prompt does not speak of."""
    asked = " ".join(message["content"] for message in example.prompt).casefold()
    return any(found.group().casefold() not in asked for found in MENTION.finditer(text))
