"""This library's side: a run as ``selfteach train`` makes it, watched from outside.

What is replaced for the measurement: no token ends an answer (``stop_ids``), and the run ends after the last timed
step, before its checkpoint. The preflight is left out; nothing is evaluated; metrics and alarms are as in every
run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stepbench.recorder import Finished, Recorder, replaced
from stepbench.side import Task, answer, begun, body_of
from stepbench.workload import ROWS, fingerprint

WORKLOAD = f"{Path(__file__).with_name('workload.py')}:task"
RECIPES = {
    "sdft": "opsd --preset v1 --view solution --weights frozen --clip-entry none --beta 0.5 --student-thinking none "
    "--teacher-thinking none",
    "sdpo": "sdpo --preset sec3 --weights frozen --no-sibling --feedback always --alpha 0.5 --student-top-k none "
    "--is-clip none --student-thinking none",
    "gkd": "gkd --preset paper --lmbda 1 --beta 0.5",
}


def words_of(task: Task) -> list[str]:
    """The run's command line, without ``selfteach train``; ``task.words`` come last."""
    shape = task.shape
    options = {
        "task": WORKLOAD, "model": task.model, "out": task.out, "seed": task.seed, "steps": task.steps + 2,
        "prompts": shape.prompts, "per-prompt": shape.group, "max-tokens": shape.tokens,
        "micro-batch": shape.micro_batch, "sample-batch": shape.rows, "lr": shape.lr,
        "temperature": 1, "top-p": 1, "top-k": 0, "lora-rank": 0,
        "schedule": "constant", "warmup": 0, "weight-decay": 0, "max-grad-norm": 1, "eval-problems": 0,
        "samples-every": 0, "checkpoint-every": 0, "device": "auto" if task.cuda else "cpu",
    }  # fmt: skip
    if task.family == "gkd" and not task.recipe:
        options["teacher"] = task.teacher
    words = (task.recipe or RECIPES[task.family]).split()
    words += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [*words, *task.words]


def run(task: Task) -> dict[str, Any]:
    os.environ[ROWS] = task.rows
    from selfteach.api.progress import Silent
    from selfteach.cli.train import configured
    from selfteach.training.launch import launch

    recorder = task.recorder()
    watched(recorder, task)
    config, _ = configured(words_of(task))
    begun(task, recorder)
    try:
        launch(config, Silent, check=False)
    except Finished:
        return answer(task, recorder)
    raise RuntimeError("the run ended before its last timed step")


def watched(recorder: Recorder, task: Task) -> None:
    """Time the phases of every run that this process makes."""
    from selfteach.objective.engine import evaluate_terms
    from selfteach.objective.record import measure
    from selfteach.policy.renderer import ChatRenderer
    from selfteach.training.clock import Clock
    from selfteach.training.text.learner import TextLearner
    from selfteach.training.trainer import Trainer

    recorder.watch_passes(body_of(task.model))
    for function in (evaluate_terms, measure):
        if not replaced(function, recorder.timed(function, "loss"), "selfteach"):
            raise RuntimeError(f"nobody calls {function.__name__}: the loss cannot be timed")
    Clock.__call__ = sampling_too(Clock.__call__, recorder)
    ChatRenderer.__init__ = without_stops(ChatRenderer.__init__)
    Trainer.step = ticking(Trainer.step, recorder, task)
    TextLearner.collect = noting(TextLearner.collect, recorder)
    Trainer.write_row = noting_loss(Trainer.write_row, recorder)


def sampling_too(original: Callable[..., Any], recorder: Recorder) -> Callable[..., Any]:
    """The run's own clock, whose phase "sample" is ours too."""
    from contextlib import contextmanager

    @contextmanager
    def clocked(self: Any, phase: str) -> Any:
        with original(self, phase):
            if phase != "sample":
                yield
                return
            with recorder.phase("sampling"):
                yield

    return clocked


def without_stops(original: Callable[..., None]) -> Callable[..., None]:
    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.stop_ids = frozenset()

    return made


def ticking(original: Callable[..., None], recorder: Recorder, task: Task) -> Callable[..., None]:
    """A step, the first one with short answers; its end is the recorder's."""
    from selfteach.recipes.knobs import with_knobs

    def step(self: Any) -> None:
        now = self.learner.now
        if recorder.probe is None:
            recorder.remember(self.learner.policy.model)
        if not recorder.warm:
            whole, now.recipe = now.recipe, with_knobs(now.recipe, {"max_tokens": task.warmup_tokens})
            original(self)
            now.recipe = whole
        else:
            original(self)
        recorder.tick()

    return step


def noting(original: Callable[..., Any], recorder: Recorder) -> Callable[..., Any]:
    """What was read and written, for the comparison with the other sides."""

    def collect(self: Any, step: int) -> Any:
        batch = original(self, step)
        taught = next(iter(batch.contexts.values())).prompts
        prompts = [(one.prompt_ids, seen or []) for one, seen in zip(batch.rows, taught, strict=True)]
        recorder.note(tokens=sum(len(one.ids) for one in batch.rows), prompts=fingerprint(prompts))
        return batch

    return collect


def noting_loss(original: Callable[..., Any], recorder: Recorder) -> Callable[..., Any]:
    def write_row(self: Any, measured: Any) -> None:
        recorder.note(loss=float(measured["loss"]))
        original(self, measured)

    return write_row
