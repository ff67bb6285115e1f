"""The loop: step, write, evaluate, checkpoint, until the steps or the token budget are spent."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from selfteach.policy.sampling import Sampling
from selfteach.train.evaluation import Result, evaluate
from selfteach.train.records import answer_row, rollout_rows
from selfteach.train.run import Run, Step
from selfteach.train.saving import save
from selfteach.train.tokens import look


class Interrupted(Exception):
    """The user pressed Ctrl-C; the run in the folder this names can be resumed where it stopped."""


def train(run: Run) -> dict[str, Any]:
    """Train to the end (or the token budget), write the final model, and return the summary."""
    book = run.config.bookkeeping
    run.progress.start(run.recipe.optimisation.steps, run.done)
    with interruption() as pressed:
        if run.done == 0:
            measure(run, "before")
            look_closer(run, None)
        while not finished(run) and not pressed:
            write(run, run.step())
            if due(run, run.config.evaluation.eval_every) and not finished(run):
                measure(run, "train")
            # The last checkpoint comes after the last evaluation, so that a resumed run never writes that twice.
            if due(run, book.checkpoint_every) and not finished(run):
                save(run)
    if pressed:
        if run.done:
            save(run)
        raise Interrupted(str(run.config.out))
    final = measure(run, "after")
    save(run)
    return summary(run, final)


def measure(run: Run, phase: str) -> Result | None:
    """Held-out accuracy, written down; before and after training with a few answers."""
    settings = run.config.evaluation
    if settings.eval_problems == 0:
        return None
    longest = settings.eval_max_tokens or run.recipe.rollouts.max_tokens
    result, answers = evaluate(
        run.policy,
        run.task,
        problems=settings.eval_problems,
        samples=settings.eval_samples,
        sampling=Sampling(longest, settings.eval_temperature),
        thinking=run.recipe.student_thinking,
        batch_size=run.config.bookkeeping.sample_batch,
        seed=run.config.seed,
    )
    if run.folder is not None:
        run.folder.metrics({"step": run.done, "tokens/generated": run.generated, **result.row()})
        if phase != "train":
            few = answers[:: settings.eval_samples][:16]
            run.folder.samples(answer_row(one, run.done, phase, run.policy.chat) for one in few)
    run.progress.evaluated(run.done, result)
    return result


def write(run: Run, step: Step) -> None:
    """The step's metrics, and now and then a few of its rollouts, token by token."""
    run.progress.step(step.row)
    if run.folder is not None:
        run.folder.metrics(step.row)
    if run.done == 1 or due(run, run.config.bookkeeping.samples_every):
        look_closer(run, step)


def look_closer(run: Run, step: Step | None) -> None:
    """A few rollouts with what everybody thought of their tokens. Every process scores, the first one writes."""
    if run.config.bookkeeping.samples_every == 0:
        return
    seen = look(run, step)
    if run.folder is not None and seen.rollouts:
        run.folder.samples(rollout_rows(seen, run.done, run.policy.chat))
        run.folder.tokens(run.done, seen.columns)


def summary(run: Run, final: Result | None) -> dict[str, Any]:
    """Write the trained model and summary.json; return what the latter holds."""
    values: dict[str, Any] = {
        "steps": run.done,
        "generated_tokens": run.generated,
        "training_seconds": run.training_seconds,
        "too_long_prompts": run.draw.too_long,
        **(final.row() if final is not None else {}),
    }
    if run.folder is not None:
        run.policy.save(run.folder.path / "model")
        run.folder.summary(values)
    return values


def due(run: Run, every: int) -> bool:
    return every > 0 and run.done % every == 0


def finished(run: Run) -> bool:
    """Whether the steps or the token budget are spent."""
    budget = run.config.bookkeeping.token_budget
    return run.done >= run.recipe.optimisation.steps or (budget is not None and run.generated >= budget)


@contextmanager
def interruption() -> Iterator[list[int]]:
    """A list that is empty until the first Ctrl-C; a second one ends the process at once."""
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
