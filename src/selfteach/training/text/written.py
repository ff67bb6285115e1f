"""What the rollouts' own words show, without any logits: diversity, repetition, leakage of what was private."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import chain

from selfteach.task.example import Example
from selfteach.task.segment import STUDENT
from selfteach.task.trajectory import Trajectory
from selfteach.training.reduce import gather_rows

GRAM = 3
"""Tokens in a sequence that counts as repeated (Many Faces and MAD-OPD: the 3-gram repetition ratio)."""
LOOPING = 0.6
"""A rollout whose 3-gram repetition ratio is above this loops (MAD-OPD throws such rollouts away)."""
PHRASE = 8
"""Consecutive words that count as copied from a private text."""
WORD = re.compile(r"[^\W_]+")
MENTION = re.compile(
    r"\b(?:reference|provided|given|official|model) (?:solution|answer|explanation)s?\b"
    r"|\b(?:the|a|this|your) hints?\b|\bas hinted\b|\bthe feedback\b",
    re.IGNORECASE,
)
"""Words that name what only a teacher was shown (pi-Distill: such tokens carry huge divergence)."""


def text_metrics(rollouts: Sequence[Trajectory], shown: Collection[str]) -> dict[str, float]:
    """Metrics of the sampled rollouts' text (docs/metrics.md); ``shown``: the private fields that teachers see.

    Of the rollouts of all processes. {} if it sampled none: references and a teacher's answers are not the policy's.
    """
    sampled = [one for one in rollouts if one.ids and sampled_by_policy(one)]
    # A row holds the tokens and not the n-grams: those would be three times as much to send.
    rows = gather_rows(
        (own_turns(one), copies(one, shown), mentions(one.text, one.example)) for one in sampled
    )
    if not rows:
        return {}
    written = [[gram for ids in turns for gram in grams(ids)] for turns, _, _ in rows]
    repeated = [1 - distinct([own]) for own in written]
    return {
        f"distinct/{GRAM}": distinct(written),
        "repetition/mean": mean(repeated),
        "repetition/looping": mean([ratio > LOOPING for ratio in repeated]),
        "leakage/copied": mean([copied for _, copied, _ in rows]),
        "leakage/mentioned": mean([mentioned for _, _, mentioned in rows]),
    }


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def sampled_by_policy(one: Trajectory) -> bool:
    """Whether the policy sampled all that it is trained on."""
    trained = {author for author, own in zip(one.authors, one.mask, strict=True) if own}
    return one.sampled and trained <= {STUDENT}


def own_ids(one: Trajectory) -> list[int]:
    """The tokens that the policy wrote."""
    return [token for token, own in zip(one.ids, one.mask, strict=True) if own]


def own_turns(one: Trajectory) -> list[list[int]]:
    """The same turn by turn: no n-gram goes on over what an environment said. One that says the same at each turn
    repeats itself all the same."""
    turns: dict[int, list[int]] = {}
    for token, own, turn in zip(one.ids, one.mask, one.turn, strict=True):
        if own:
            turns.setdefault(turn, []).append(token)
    return list(turns.values())


def grams(ids: Sequence[int]) -> list[tuple[int, ...]]:
    """Each sequence of ``GRAM`` tokens."""
    return list(zip(*(ids[i:] for i in range(GRAM)), strict=False))


def distinct(written: Sequence[Sequence[tuple[int, ...]]]) -> float:
    """Different n-grams over all n-grams of all texts (distinct-n, arXiv 1510.03055); 1 where there is none."""
    total = sum(map(len, written))
    return len(set(chain.from_iterable(written))) / total if total else 1.0


def copies(one: Trajectory, shown: Collection[str]) -> bool:
    """Whether an answer holds ``PHRASE`` consecutive words of a private text, or the whole of a shorter one.

    A right answer does not count: it may well say what the reference says. Nor does a phrase that the problem has too,
    or one that holds the final answer.
    """
    if one.grade is not None and one.grade.correct:
        return False
    private = one.example.private
    own, prompt = spaced(one.text), "".join(spaced(message["content"]) for message in one.example.prompt)
    answer = spaced(private.get("answer", ""))
    return any(
        phrase in own and phrase not in prompt and not (answer.strip() and answer in phrase)
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
    prompt = " ".join(message["content"] for message in example.prompt).casefold()
    return any(found.group().casefold() not in prompt for found in MENTION.finditer(text))
