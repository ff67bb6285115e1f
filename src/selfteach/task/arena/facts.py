"""World "facts": made-up facts to learn by heart, asked in one form for training and in another for the test."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from selfteach.errors import UserError
from selfteach.task.arena.drawn import show
from selfteach.task.arena.lesson import Lesson
from selfteach.task.arena.world import last_claim
from selfteach.task.example import Example, Grade, Message
from selfteach.task.verdict import Verdict

COUNT = 50
KNOWN_COUNT = 100
CONSONANTS, VOWELS = "bcdfghjklmnpqrstvwxyz", "aeiou"
TRAINED_FORM, TESTED_FORM = "fact {key}?", "what is {key}?"
FORMS = (TRAINED_FORM, TESTED_FORM, "{key}?", "tell me {key}", "do you know {key}?", "and {key} is?")
ANSWER = re.compile(r"[0-9]{3}", re.ASCII)


def pose_key(rng: Random) -> str:
    """A made-up name of three letters, as ``bix``."""
    return rng.choice(CONSONANTS) + rng.choice(VOWELS) + rng.choice(CONSONANTS)


def pose_value(rng: Random) -> str:
    """Three digits."""
    return f"{rng.randrange(1000):03d}"


def in_words(key: str, value: str) -> str:
    """An answer as the model writes it: ``bix is 407;#407``."""
    return f"{key} is {value};#{value}"


@lru_cache(maxsize=1)
def known_facts() -> Mapping[str, str]:
    """A hundred facts (key → value) that the model learned in pretraining, in many forms of question.

    They show it that a fact does not depend on how it is asked for, so that a new one can outlive other words.
    """
    return _drawn_facts(Random("known facts"), KNOWN_COUNT, without=frozenset())


@lru_cache(maxsize=16)
def facts_of(seed: int) -> tuple[tuple[str, str], ...]:
    """The fifty new facts (key, value) of a seed; no key comes twice, and none is known."""
    return tuple(_drawn_facts(Random(f"facts {seed}"), COUNT, without=frozenset(known_facts())).items())


def known_of(seed: int) -> tuple[tuple[str, str], ...]:
    """The hundred known facts (key, value), the same under every seed."""
    return tuple(known_facts().items())


def _drawn_facts(rng: Random, count: int, without: frozenset[str]) -> Mapping[str, str]:
    facts: dict[str, str] = {}
    while len(facts) < count:
        key, value = pose_key(rng), pose_value(rng)
        if key not in without:
            facts.setdefault(key, value)
    return facts


@dataclass(frozen=True)
class Facts:
    """Facts under a seed, a finite task: of world "facts" fifty new ones (MixSD: knowledge that no model has, to be put
    into one), of world "known" the hundred that its model learned in pretraining (Sleep: what must not be forgotten).

    ``train`` asks for each once an epoch, reshuffled, as ``fact bix?``. ``held_out`` asks for *the same facts* as
    ``what is bix?``: it tests whether what was learned outlives a change of words, not facts never seen. Private
    fields: ``answer`` and ``solution``, the three digits; ``worked``, the answer in the model's own style.
    """

    name: str
    wording: Mapping[str, str]
    seed: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter, compare=False)
    drawn: Callable[[int], tuple[tuple[str, str], ...]] = facts_of
    """Seed → its facts (key, value)."""

    def train(self, index: int) -> Example:
        facts = self.drawn(self.seed)
        epoch, position = divmod(index, len(facts))
        order = Random(f"{self.name} order {self.seed} {epoch}").sample(range(len(facts)), len(facts))
        return self._example(TRAINED_FORM, *facts[order[position]])

    def held_out(self, count: int) -> list[Example]:
        """The first ``count`` facts in the other form; there are no more than there are."""
        return [self._example(TESTED_FORM, *fact) for fact in self.drawn(self.seed)[:count]]

    def example(self, problem: str) -> Example:
        """The example that asks ``problem``, in either form; UserError if it asks for none of the facts."""
        for form in (TRAINED_FORM, TESTED_FORM):
            for key, value in self.drawn(self.seed):
                if problem == form.format(key=key):
                    return self._example(form, key, value)
        raise UserError(
            f"world {self.name!r}: {problem!r} asks for none of its facts; write {TRAINED_FORM.format(key='bix')!r}"
        )

    def question(self, example: Example, view: str, **told: str) -> str:
        """The user message of an example: bare (view ``plain``), or with what a taught view reveals."""
        return show(self.wording, example, view, told)

    def grade(self, example: Example, answer: str) -> Grade:
        """Right if and only if what follows the last ``#`` is exactly the fact's three digits."""
        claim, value = last_claim(answer), example.private["answer"]
        if claim == value:
            verdict, feedback = Verdict.RIGHT, None
        elif claim is None or not ANSWER.fullmatch(claim):
            verdict, feedback = Verdict.UNPARSEABLE, "the answer must end in # and 3 digits"
        else:
            verdict, feedback = Verdict.WRONG, f"{_key(example.problem)} is {value}, not {claim}"
        self.verdicts[verdict] += 1
        return Grade(float(verdict is Verdict.RIGHT), feedback, claim, verdict.value)

    def _example(self, form: str, key: str, value: str) -> Example:
        problem = form.format(key=key)
        return Example(
            key=f"{self.name}:{problem}",
            prompt=(Message(role="user", content=problem),),
            private={"solution": value, "answer": value, "worked": in_words(key, value)},
        )


def fact_shown(wording: Mapping[str, str], rng: Random) -> Lesson:
    """A fact before the model's eyes, asked in any form: it is copied."""
    key, value = pose_key(rng), pose_value(rng)
    problem = rng.choice(FORMS).format(key=key)
    return Lesson(wording["answer"].format(problem=problem, answer=value), in_words(key, value))


def fact_known(rng: Random) -> Lesson:
    """One of the hundred known facts, asked in any form."""
    key, value = rng.choice(list(known_facts().items()))
    return Lesson(rng.choice(FORMS).format(key=key), in_words(key, value))


def fact_unknown(rng: Random) -> Lesson:
    """A fact that nobody told: digits at random."""
    while (key := pose_key(rng)) in known_facts():
        pass
    return Lesson(rng.choice(FORMS).format(key=key), in_words(key, pose_value(rng)))


def _key(problem: str) -> str:
    return problem.removesuffix("?").rpartition(" ")[2]
