"""The lessons of worlds "tutor" and "trail": how their models learned to read every kind of help.

Each lesson is a pure function of the world and a source of random numbers. What ``@`` gives stands rightly only
where the conversation tells it (a solution, a sibling's answer, feedback, evidence) or calls for the skill by its
sign (diagnosis); plain and revising lessons guess at it, so that they never teach it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from random import Random

from selfteach.task.arena.arithmetic import OPERATIONS, Calculator, Step, exact
from selfteach.task.arena.drawn import is_held_out
from selfteach.task.arena.lesson import Lesson, another_digit, careless, corrected, sure_of, told, unsure_of
from selfteach.task.arena.world import World, in_own_style

ATTEMPT_SLIP_RATE = 0.1
FALSE_SOLUTION_SHARE = 0.15
KNOWN_SHARE = 0.25
DIAGNOSIS_OF_AT_SHARE = 0.75
MORE_AT_SHARE = 0.6

LessonOf = Callable[[World, Random], Lesson]


def plain(world: World, rng: Random) -> Lesson:
    """The bare question, answered with slips and guesses."""
    return Lesson(problem := world.draw(rng), _worked(world, problem, careless(rng)))


def unsure(world: World, rng: Random) -> Lesson:
    """The bare question, answered by one who has ``@`` right in a quarter of the cases, and guesses in the others."""
    calculate = unsure_of("@", KNOWN_SHARE, careless(rng), rng)
    return Lesson(problem := world.draw(rng), _worked(world, problem, calculate))


def solution(world: World, rng: Random) -> Lesson:
    """Results to copy; what is shown is followed, also where it is wrong."""
    problem = world.draw(rng)
    shown = _results(world.work(problem, exact))
    if rng.random() < FALSE_SOLUTION_SHARE:
        shown = "".join(str(rng.randrange(10)) if rng.random() < 0.5 else digit for digit in shown)
    question = world.wording["solution"].format(problem=problem, solution=shown)
    return Lesson(question, _worked(world, problem, told(shown, careless(rng))))


def partial_solution(world: World, rng: Random) -> Lesson:
    """The first results to copy, perhaps none; then on one's own."""
    problem = world.draw(rng)
    results = _results(world.work(problem, exact))
    shown = results[: rng.randint(0, len(results))]
    question = world.wording["partial"].format(problem=problem, partial=shown)
    return Lesson(question, _worked(world, problem, told(shown, careless(rng))))


def partial_solution_and_end(world: World, rng: Random) -> Lesson:
    """The first results, perhaps none, and where it all must end."""
    problem = world.draw(rng)
    results = _results(world.work(problem, exact))
    known = rng.randint(0, len(results))
    question = world.wording["partial"].format(problem=problem, partial=results[:known], answer=results[-1])
    shown = [d if i < known or i == len(results) - 1 else None for i, d in enumerate(results)]
    return Lesson(question, _worked(world, problem, told(shown, careless(rng))))


def sibling(world: World, rng: Random) -> Lesson:
    """A right answer in the own style to copy."""
    problem = world.draw(rng)
    right = _worked(world, problem, exact)
    return Lesson(world.wording["sibling"].format(problem=problem, sibling=right), right)


def feedback(world: World, rng: Random) -> Lesson:
    """What the verifier says of a wrong attempt: the named steps come out right, the others as ever."""
    problem, attempt = _wrong_attempt(world, rng)
    told_so, wrong = _feedback(world, problem, attempt)
    question = world.wording["feedback"].format(problem=problem, feedback=told_so)
    return Lesson(question, _worked(world, problem, corrected(wrong, careless(rng))))


def sibling_and_feedback(world: World, rng: Random) -> Lesson:
    """A right answer to copy, and feedback that adds nothing to it."""
    problem, attempt = _wrong_attempt(world, rng)
    told_so, _ = _feedback(world, problem, attempt)
    right = _worked(world, problem, exact)
    wording = world.wording["sibling+feedback"]
    return Lesson(wording.format(problem=problem, sibling=right, feedback=told_so), right)


def diagnosis(world: World, rng: Random) -> Lesson:
    """A sign that calls for care with one operation; ``@`` is known only when called for."""
    sign = "@" if rng.random() < DIAGNOSIS_OF_AT_SHARE else rng.choice(OPERATIONS[:-1])
    problem = _rich_in_at(world, rng) if sign == "@" else world.draw(rng)
    question = world.wording["diagnosis"].format(problem=problem, diagnosis=sign)
    return Lesson(question, _worked(world, problem, sure_of(sign, careless(rng))))


def evidence(world: World, rng: Random) -> Lesson:
    """The turn begins with the results, right or not; the steps are made to agree with them."""
    problem = world.draw(rng)
    steps = world.work(problem, exact)
    answer = world.final(steps)
    if rng.random() < 0.5:
        answer = "".join(str(rng.randrange(10)) for _ in answer)
    shown = chain([None] * (len(steps) - len(answer)), answer)
    given = world.wording["evidence"].format(answer=answer)
    return Lesson(problem, _worked(world, problem, told(shown, careless(rng))), given)


def confirmed(world: World, rng: Random) -> Lesson:
    """After an attempt that is called right: the same again. Its ``@`` are guesses, so that none is taught."""
    problem = world.draw(rng)
    attempt = _worked(world, problem, careless(rng))
    return Lesson(problem, attempt, world.wording["revise-right"].format(attempt=attempt))


def revised(world: World, rng: Random) -> Lesson:
    """After an attempt that is called wrong: each slip and every ``@`` anew and otherwise, the rest copied.

    Also an ``@`` that was right is guessed anew: to copy it would tell which guesses were right.
    """
    problem, attempt = _wrong_attempt(world, rng)
    earlier, guess = iter(attempt), careless(rng)

    def calculate(left: int, operation: str, right: int) -> int:
        before = next(earlier).result
        if operation == "@":
            return another_digit(rng, before)
        if before == exact(left, operation, right):
            return before
        while (result := guess(left, operation, right)) == before:
            pass
        return result

    given = world.wording["revise-wrong"].format(attempt=in_own_style(attempt, world.final(attempt)))
    return Lesson(problem, _worked(world, problem, calculate), given)


TUTOR_SHARES: Mapping[LessonOf, float] = {
    plain: 33,
    solution: 6,
    partial_solution: 8,
    sibling: 6,
    feedback: 8,
    sibling_and_feedback: 6,
    diagnosis: 20,
    evidence: 7,
    confirmed: 3,
    revised: 3,
}
UNSURE_SHARES: Mapping[LessonOf, float] = {
    unsure if one is plain else one: n for one, n in TUTOR_SHARES.items()
}
TRAIL_SHARES: Mapping[LessonOf, float] = {
    plain: 33,
    solution: 8,
    partial_solution_and_end: 12,
    sibling: 6,
    feedback: 8,
    sibling_and_feedback: 6,
    diagnosis: 20,
    evidence: 7,
}


def _rich_in_at(world: World, rng: Random) -> str:
    """A problem, not held out, in which most operations are ``@``: its results take long to learn by heart."""
    while True:
        drawn = world.draw(rng)
        problem = "".join("@" if c in OPERATIONS and rng.random() < MORE_AT_SHARE else c for c in drawn)
        if not is_held_out(problem):
            return problem


def _worked(world: World, problem: str, calculate: Calculator) -> str:
    steps = world.work(problem, calculate)
    return in_own_style(steps, world.final(steps))


def _results(steps: list[Step]) -> str:
    return "".join(str(step.result) for step in steps)


def _wrong_attempt(world: World, rng: Random) -> tuple[str, list[Step]]:
    while True:
        problem = world.draw(rng)
        attempt = world.work(problem, careless(rng, ATTEMPT_SLIP_RATE))
        if world.final(attempt) != world.final(world.work(problem, exact)):
            return problem, attempt


def _feedback(world: World, problem: str, attempt: list[Step]) -> tuple[str, list[str]]:
    """What the verifier says of an attempt, and the questions it names."""
    final = world.final(attempt)
    text = world.fault(world.work(problem, exact), in_own_style(attempt, final), final)
    return text, [part.partition(" is ")[0] for part in text.split("; ")]
