"""Whether right answers earn a reward, and wrong ones none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from selfteach.task.environment import environment_of
from selfteach.task.references import check_references
from selfteach.training.text.preflight.check import Check
from selfteach.training.text.preflight.environment import environment_checks

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner

EXAMPLES = 16
"""Training examples whose references are graded."""


def reference_checks(run: TextLearner) -> Iterator[Check]:
    """What grading makes of the first examples' own references, in sentences with numbers.

    None of it refuses a run: a method may learn without rewards. A reward that is always 0 is said, not found out.
    """
    if (make := environment_of(run.task)) is not None:
        yield from environment_checks(run, make)
        yield from corpus_checks(run)
        return
    report = check_references(run.task, [run.task.train(i) for i in range(EXAMPLES)])
    good = report.fine and report.graded
    for sentence in report.sentences:
        yield Check("references", True, sentence.removeprefix(f"{report.task}: "), warns=not good)


def corpus_checks(run: TextLearner) -> Iterator[Check]:
    """Where answers are searched for: whether they can be found."""
    found_of = getattr(run.task, "answers_found", None)
    if found_of is None:
        return
    found = found_of([run.task.train(i) for i in range(EXAMPLES)])
    words = f"the answer stands in the corpus, word by word, of {found} of the first {EXAMPLES} questions"
    if not found:
        words += ": is it the corpus of these questions?"
    yield Check("corpus", True, words, warns=not found)
