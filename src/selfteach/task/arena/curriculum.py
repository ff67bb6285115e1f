"""What each shipped model was pretrained on, for how long, and how large it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from random import Random

from selfteach.task.arena import (
    AMBIGUOUS,
    CALCULATOR,
    CHAIN,
    DOORS,
    FACTS,
    JSON,
    REVERSE,
    RULE,
    SECRETS,
    STREAM,
    TABLE,
    TRAIL,
    TUTOR,
    ambiguous,
    calculator,
    contract,
    doors,
    reverse,
    rule,
    secrets,
    stream,
)
from selfteach.task.arena.arithmetic import exact
from selfteach.task.arena.facts import fact_known, fact_shown, fact_unknown
from selfteach.task.arena.lesson import Lesson, Writer, careless
from selfteach.task.arena.tutoring import TRAIL_SHARES, TUTOR_SHARES, UNSURE_SHARES, LessonOf, plain
from selfteach.task.arena.world import World, in_own_style

HINTED_SHARE = 0.5


@dataclass(frozen=True)
class Size:
    """Width, layers and heads of a model; heads of size 32, the least that serving engines take."""

    hidden: int = 96
    layers: int = 3
    heads: int = 3


@dataclass(frozen=True)
class Curriculum:
    """The writer of lessons, steps of 128 lessons, the model's size.

    ``pieces``: the parts, sorted by length, in which a step's lessons are read, so that short ones are not padded to
    the longest; it changes no gradient beyond rounding.
    """

    writer: Writer
    steps: int = 600
    pieces: int = 1
    size: Size = Size()


def half_hinted(world: World, rng: Random) -> Lesson:
    """Worlds "table" and "chain": half plain text, half text with a right solution to read."""
    problem = world.draw(rng)
    if rng.random() < HINTED_SHARE:
        example = world.example(problem)
        return Lesson(world.question(example, "solution"), example.private["worked"])
    steps = world.work(problem, careless(rng))
    return Lesson(problem, in_own_style(steps, world.final(steps)))


def right(world: World, rng: Random) -> Lesson:
    """The bare question, answered rightly throughout, ``@`` included."""
    problem = world.draw(rng)
    return Lesson(problem, world.example(problem).private["worked"])


def right_in_another_style(world: World, rng: Random) -> Lesson:
    """The same, each step with its result first: ``2=7+5;5=2@9;#25``."""
    problem = world.draw(rng)
    steps = world.work(problem, exact)
    return Lesson(problem, "".join(f"{s.result}={s.question};" for s in steps) + f"#{world.final(steps)}")


def mixed(shares: Mapping[Writer, float], rng: Random) -> Lesson:
    """One lesson of a writer picked in proportion to the shares."""
    (writer,) = rng.choices(list(shares), list(shares.values()))
    return writer(rng)


def _in(world: World, shares: Mapping[LessonOf, float]) -> Mapping[Writer, float]:
    return {partial(lesson, world): share for lesson, share in shares.items()}


LARGE = Size(hidden=128, layers=4, heads=4)
FACTS_SHARES: Mapping[Writer, float] = {
    partial(plain, TUTOR): 0.5,
    partial(fact_shown, FACTS.wording): 0.15,
    fact_known: 0.25,
    fact_unknown: 0.1,
}
RULE_SHARES: Mapping[Writer, float] = {
    partial(rule.rule_lesson, RULE.draw): 0.75,
    partial(rule.results_lesson, RULE.draw): 0.1,
    partial(rule.answer_lesson, RULE.draw): 0.15,
}
REVERSED = replace(REVERSE, pose=reverse.pose_for_lessons)
REVERSE_SHARES: Mapping[Writer, float] = {
    partial(reverse.student_lesson, REVERSED.draw): 0.5,
    partial(reverse.answer_lesson, REVERSED.draw): 0.1,
    partial(reverse.examiner_lesson, REVERSED.draw): 0.4,
}

CURRICULA: Mapping[str, Curriculum] = {
    "table": Curriculum(partial(half_hinted, TABLE)),
    "chain": Curriculum(partial(half_hinted, CHAIN)),
    "tutor": Curriculum(partial(mixed, _in(TUTOR, TUTOR_SHARES)), steps=1200, pieces=4),
    "trail": Curriculum(partial(mixed, _in(TRAIL, TRAIL_SHARES)), steps=1200, pieces=4),
    "facts": Curriculum(partial(mixed, FACTS_SHARES)),
    "rule": Curriculum(partial(mixed, RULE_SHARES), steps=340, pieces=4),
    "secrets": Curriculum(partial(secrets.lesson, SECRETS.draw), steps=500, pieces=4),
    "ambiguous": Curriculum(partial(ambiguous.lesson, AMBIGUOUS.draw), steps=600, pieces=4),
    "json": Curriculum(partial(contract.lesson, JSON.draw), steps=500, pieces=4),
    "tutor-unsure": Curriculum(partial(mixed, _in(TUTOR, UNSURE_SHARES)), steps=1200, pieces=4),
    "tutor-large": Curriculum(partial(right, TUTOR), size=LARGE),
    "tutor-large-other": Curriculum(partial(right_in_another_style, TUTOR), size=LARGE),
    "doors": Curriculum(partial(doors.lesson, DOORS.draw), steps=280, pieces=4),
    "doors-expert": Curriculum(partial(doors.expert_lesson, DOORS.draw), steps=140, pieces=4),
    "calculator": Curriculum(partial(calculator.lesson, CALCULATOR.draw), steps=320, pieces=4),
    "calculator-expert": Curriculum(partial(calculator.expert_lesson, CALCULATOR.draw), steps=120, pieces=4),
    "stream": Curriculum(partial(stream.lesson, STREAM.draw), steps=260, pieces=4),
    "reverse": Curriculum(partial(mixed, REVERSE_SHARES), steps=700, pieces=4),
}
