"""Whether a task's environment says what its examples say, answers the same twice, and pays its own expert."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from selfteach.errors import UserError
from selfteach.outside import with_type
from selfteach.task.environment import Environment, opening_in, turns_of
from selfteach.task.example import Example
from selfteach.task.trajectory import Trajectory
from selfteach.training.text.playing import SAID, Episode, close
from selfteach.training.text.preflight.check import Check

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner

EXAMPLES = 8
"""Training examples whose episodes are tried."""
TRIED = ("?", "1", "yes", "no")
"""What is said where no expert's turns are known, in this order, as long as the episode lasts."""


def environment_checks(run: TextLearner, make: Callable[[], Environment]) -> Iterator[Check]:
    """Episodes of the first examples, without a model: with their experts' turns in the field ``solution`` if they have
    them, else with some words."""
    examples = [run.task.train(i) for i in range(EXAMPLES)]
    opening = opening_check(examples, make)
    yield opening
    if not opening.ok:
        return
    plans = [plan_of(one) for one in examples]
    first = list(until_failure(examples, plans, make))
    if first[-1].ending == "failure":
        said = (
            f"step failed in the episode of example {first[-1].trajectory.example.key}: {first[-1].trouble}"
        )
        yield Check("environment: step", False, said)
        return
    yield repeated_check(first, [tried(*each, make) for each in zip(examples, plans, strict=True)])
    known = [episode for episode, plan in zip(first, plans, strict=True) if plan]
    if known:
        yield expert_check(known, len(examples))


def opening_check(examples: Sequence[Example], make: Callable[[], Environment]) -> Check:
    name = "environment: reset"
    for one in examples:
        environment: Environment | None = None
        try:
            environment = make()
            opening = opening_in(environment.reset(one.asked))
        except (Exception, SystemExit) as error:
            return Check(name, False, f"reset of example {one.key} failed: {with_type(error)[:SAID]}")
        finally:
            close(environment)
        if opening != tuple(one.prompt):
            return Check(
                name,
                False,
                f"of example {one.key} reset says other than its prompt, which is what the model reads: give train's "
                "and held_out's examples the messages of reset",
            )
    return Check(name, True, f"of {len(examples)} examples it says what their prompts are")


def repeated_check(first: Sequence[Episode], again: Sequence[Episode]) -> Check:
    """An episode may be played again up to a turn, in another process too."""
    differing = [
        one.trajectory.example.key
        for one, other in zip(first, again, strict=True)
        if (one.said, one.rewards) != (other.said, other.rewards)
    ]
    said = "the same turns are answered the same again"
    if differing:
        said = (
            f"the same turns are answered otherwise in a second episode of {differing[0]} (and {len(differing) - 1} "
            "more): let what is drawn follow from the example's key"
        )
    return Check("environment: repeats", not differing, said)


def expert_check(played: Sequence[Episode], examples: int) -> Check:
    won = sum(sum(one.rewards) >= 0.5 for one in played)
    words = f"the turns in 'solution' earn 0.5 or more in {won} of {len(played)} episodes"
    if len(played) < examples:
        words += f" ({examples - len(played)} of the first {examples} examples have none)"
    return Check("environment: expert", True, words, warns=won < len(played))


def plan_of(example: Example) -> list[str]:
    with suppress(UserError):
        return turns_of(example, "solution")
    return []


def until_failure(
    examples: Sequence[Example], plans: Sequence[Sequence[str]], make: Callable[[], Environment]
) -> Iterator[Episode]:
    """The episodes, up to the first that fails: each further one may take as long, where an environment hangs."""
    for example, plan in zip(examples, plans, strict=True):
        episode = tried(example, plan, make)
        yield episode
        if episode.ending == "failure":
            return


def tried(example: Example, plan: Sequence[str], make: Callable[[], Environment]) -> Episode:
    """An episode of an expert's turns; of some words where none are known."""
    episode = Episode.begun(Trajectory(example, [], (), "", 0, False), make)
    for words in plan or TRIED:
        if episode.ending is None:
            episode.step(words)
    close(episode.environment)
    return episode
