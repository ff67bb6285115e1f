"""The loop: step, write, evaluate, checkpoint, until the steps or the token budget are spent."""

from __future__ import annotations

from typing import Any

from selfteach.policy.sampling import Sampling
from selfteach.task.example import Task
from selfteach.train import alarms
from selfteach.train.evaluation import HEADLINE, Answered, Result, evaluate
from selfteach.train.interruption import Interrupted, interruption
from selfteach.train.preflight import preflight
from selfteach.train.records import answer_row, rollout_rows
from selfteach.train.run import Run, Step
from selfteach.train.saving import save
from selfteach.train.tokens import look


def train(run: Run) -> dict[str, Any]:
    """Train to the end (or the token budget), write the final model, and return the summary."""
    book = run.config.bookkeeping
    run.progress.start(run.steps, run.done, HEADLINE)
    with interruption() as pressed:
        if run.done == 0:
            measure(run, "before")
            look_closer(run, None)
        while not finished(run) and not pressed:
            if run.stage_done == run.recipe.optimization.steps:
                begin_next_stage(run)
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


def begin_next_stage(run: Run) -> None:
    """Held-out accuracy of the stage that ends, then the next one's teachers, optimizer and preflight."""
    if not due(run, run.config.evaluation.eval_every):
        measure(run, "train")
    run.enter(run.stage + 1)
    run.progress.say(f"stage {run.stage + 1} of {len(run.stages)}: {run.stage_name}")
    preflight(run)


def measure(run: Run, phase: str) -> Result | None:
    """Held-out accuracy, written down; before and after training with a few answers."""
    settings = run.config.evaluation
    if settings.eval_problems == 0:
        return None
    result, answers = examined(run, run.task)
    also = {f"eval/{task.name}": examined(run, task)[0] for task in run.also}
    further = {name: value for place, one in also.items() for name, value in one.row(place).items()}
    row = {"step": run.done, "spent/tokens": run.generated, **result.headline(), **result.row(), **further}
    run.memory = alarms.after(run.memory, row)
    if run.folder is not None:
        run.folder.metrics(row)
        if phase != "train":
            few = answers[:: settings.eval_samples][:16]
            run.folder.samples(answer_row(one, run.done, phase, run.policy.chat) for one in few)
    run.progress.evaluated(run.done, row)
    return result


def examined(run: Run, task: Task) -> tuple[Result, list[Answered]]:
    """The policy's answers to a task's held-out problems, under the run's evaluation settings."""
    settings = run.config.evaluation
    return evaluate(
        run.policy,
        task,
        problems=settings.eval_problems,
        samples=settings.eval_samples,
        sampling=Sampling(
            settings.eval_max_tokens or run.recipe.rollouts.max_tokens, settings.eval_temperature
        ),
        thinking=run.recipe.student_thinking,
        batch_size=run.config.bookkeeping.sample_batch,
        seed=run.config.seed,
    )


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
        "spent": run.generated,
        "unit": "tokens",
        "headline": None if final is None else final.accuracy,
        "training_seconds": run.training_seconds,
        "too_long_prompts": run.draw.too_long,
        "answers_until_solved": run.answers_until_solved,
        **(final.row() if final is not None else {}),
    }
    if run.folder is not None:
        run.policy.save(run.folder.path / "model")
        run.folder.summary(values)
    return values


def due(run: Run, every: int) -> bool:
    return every > 0 and run.done % every == 0


def finished(run: Run) -> bool:
    """Whether the steps or the token budget are spent, or the one question is solved."""
    book = run.config.bookkeeping
    spent = book.token_budget is not None and run.generated >= book.token_budget
    return run.done >= run.steps or spent or (book.until_solved and run.answers_until_solved is not None)
