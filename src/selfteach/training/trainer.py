"""The Trainer: batches, updates, evaluations and checkpoints of any learner, until steps or budget are spent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NoReturn

from accelerate import Accelerator
from torch import nn

from selfteach.errors import NotFinite, OutOfMemory, UserError, exhausted
from selfteach.policy import sharding
from selfteach.settings import NonNegativeInt, PositiveCount, PositiveInt, Seed
from selfteach.settings import settings as checked_settings
from selfteach.training import alarm_rules, alarms, checkpoint, gradients, randomness, resuming, weights
from selfteach.training.advice import advised
from selfteach.training.clock import Clock
from selfteach.training.interruption import Interrupted, interruption
from selfteach.training.learner import Batch, Learner, Numbers, Role, Sample, Stage, Trained, Update
from selfteach.training.marks import Marks
from selfteach.training.memory import peak_memory
from selfteach.training.progress import Progress
from selfteach.training.reduce import on_cpu, state_on, sum_over_processes
from selfteach.training.rundir import RunFolder, writing

DOING = {
    "collect": "collecting the batch",
    "sample": "sampling",
    "grade": "grading",
    "view": "rendering what teachers see",
    "update": "scoring and updating",
    "metrics": "measuring the step",
}
"""The phases of a step, in words."""


@checked_settings
class Settings:
    """How a run is watched, saved and bounded."""

    seed: Seed = 0
    """Seed of data order, initial weights and sampling."""
    eval_every: NonNegativeInt = 0
    """Steps between evaluations (0: before and after training only)."""
    samples_every: NonNegativeInt = 20
    """Steps between looks at the batch; there is one after step 1 too (0: none)."""
    checkpoint_every: NonNegativeInt = 50
    """Steps between checkpoints (0: only at the end or when interrupted)."""
    keep: PositiveInt = 2
    """Checkpoints kept."""
    budget: PositiveCount | None = None
    """Stop before the step that would begin with this many units spent (none: run all steps)."""
    alarms: bool = True
    """Watch the metrics for signs of collapse, and say what was seen (docs/alarms.md)."""
    max_idle_steps: NonNegativeInt = 20
    """Stop after so many steps in a row whose gradients are all 0 (0: never)."""
    device: Literal["auto", "cpu"] = "auto"
    """Where to compute: the accelerator if there is one, or the CPU."""


class Trainer:
    """Everything one run holds beside its learner. ``folder`` is None in processes that write nothing."""

    def __init__(
        self, learner: Learner, folder: RunFolder | None, progress: Progress, settings: Settings
    ) -> None:
        self.learner, self.folder, self.progress, self.settings = learner, folder, progress, settings
        state_on(settings.device)
        self.accelerator = Accelerator(cpu=on_cpu(settings.device))
        randomness.seed_all(settings.seed + self.accelerator.process_index)
        self.clock = learner.clock = Clock()
        # Placed on the device, not wrapped for data parallelism: gradients are added by hand (see ``learner``), or by
        # FSDP as they are taken, of a module that the learner has sharded.
        self.wrapped: dict[str, nn.Module] = {
            name: module
            if sharding.parts(module)
            else self.accelerator.prepare_model(module, evaluation_mode=True)
            for name, module in learner.modules().items()
        }
        for module in self.wrapped.values():
            whole = () if sharding.parts(module) else module.parameters()
            gradients.broadcast([*whole, *module.buffers()])
        self.check = True
        self.done = self.spent = 0
        self.training_seconds = 0.0
        self.memory = alarms.Memory(better=learner.better)
        self.last: Mapping[str, float] | None = None
        self.ended = False
        self.idle = 0
        self.ever: Mapping[str, set[str]] = {}
        self.enter(0)

    def enter(self, stage: int) -> None:
        """Begin a stage, with fresh optimizers and roles."""
        self.stage, self.stage_done = stage, 0
        self.learner.enter(stage)
        self.trained: Mapping[str, Trained] = self.learner.optimizers(self.wrapped)
        self.roles: Mapping[str, Role] = self.learner.roles(self.wrapped)
        self.ever = weights.names(weights.kept(self.wrapped, self.ever))

    @property
    def stages(self) -> Sequence[Stage]:
        return self.learner.stages

    @property
    def steps(self) -> int:
        """Batches of all stages together."""
        return sum(stage.steps for stage in self.stages)

    # --- the loop -----------------------------------------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        """Train to the end, write the model and return what summary.json holds.

        Raises ``Interrupted`` after the first Ctrl-C, when the run is saved.
        """
        self.progress.start(self.steps, self.done, self.learner.headline)
        with interruption(self.progress.say) as pressed:
            if self.done == 0:
                self.evaluate("before")
                self.write_samples(None, "before")
                self.say_stage()
            while not self.finished() and not anywhere(pressed):
                if self.stage_done == self.stages[self.stage].steps:
                    self.begin_next_stage()
                self.step()
                if self.finished():
                    continue
                if self.due(self.settings.eval_every) or self.stage_done == self.stages[self.stage].steps:
                    self.evaluate("train")
                if self.due(self.settings.checkpoint_every):
                    resuming.save(self)
                self.refuse_idleness()  # last: a run that goes on from there has made this step with all that follows
            if not self.finished():
                if self.done:
                    resuming.save(self)
                raise Interrupted(str(self.folder.path if self.folder is not None else ""))
        if self.out_of_budget() and self.done < self.steps:
            self.progress.say(
                f"the budget of {self.settings.budget} {self.learner.unit} is spent: ended after step {self.done} "
                f"of {self.steps}"
            )
        return self.end()

    def step(self) -> None:
        """One batch: collect, update as often as the learner says, measure, write down."""
        self.clock.restart()
        with self.refusing(None), self.clock("collect"):
            batch = self.learner.collect(self.stage_done)
        with self.refusing(batch), self.clock("update"):
            done = [self.update(update, batch) for update in self.learner.updates(batch)]
            for role in self.roles.values():
                role.after_batch()
        self.done += 1
        self.stage_done += 1
        with self.refusing(batch), self.clock("metrics"):
            self.spent += int(sum_over_processes({"spent": self.learner.spent(batch)})["spent"])
            measured = {**means([numbers for numbers, _ in done]), **means([norms for _, norms in done])}
            measured |= self.learner.metrics(batch, [numbers for numbers, _ in done])
        self.training_seconds += self.clock.total
        self.write_row(measured)
        if self.done == 1 or self.due(self.settings.samples_every):
            self.write_samples(batch, "train")

    def update(self, update: Update, batch: Batch) -> tuple[Numbers, Numbers]:
        """One optimizer step; gives the update's numbers and the gradients' norms."""
        if unknown := set(update.steps) - set(self.trained):
            raise ValueError(
                f"an update steps {sorted(unknown)}; there are optimizers {sorted(self.trained)}"
            )
        stepping = {name: self.trained[name] for name in update.steps}
        self.forget_gradients()
        numbers = update.backward()
        self.refuse_unless_finite(numbers, batch)
        norms = {}
        for name, one in stepping.items():
            gradients.sum_gradients(one.parameters.values())
            norm = gradients.clip(one.parameters.values(), one.max_grad_norm)
            norms["grad_norm" if len(self.trained) == 1 else f"grad_norm/{name}"] = norm
        self.refuse_unless_finite(norms, batch)
        for one in stepping.values():
            one.optimizer.step()
            if one.scheduler is not None:
                one.scheduler.step()
        self.forget_gradients()  # here too: while the next batch is collected they would only take room
        for module in self.wrapped.values():
            sharding.settle(module)  # what is gathered is out of date
        self.after_step(update, batch)
        return numbers, norms

    def forget_gradients(self) -> None:
        for one in self.trained.values():
            one.optimizer.zero_grad(set_to_none=True)

    def after_step(self, update: Update, batch: Batch) -> None:
        """The weights have moved: are they finite, who follows them, and does a hook move them again?"""
        self.refuse_broken_weights(batch)
        for module in self.wrapped.values():
            gradients.broadcast(module.buffers())  # statistics of batches, which differ by process
        for role in self.roles.values():
            role.after_step(update.steps)
        if self.learner.after_step(weights.trainable(self.wrapped), self.headline):
            self.refuse_broken_weights(batch)

    # --- what is written ----------------------------------------------------------------------------------------

    def write_row(self, measured: Mapping[str, Any]) -> None:
        row: dict[str, Any] = {
            "step": self.done,
            **({"stage": self.stage} if len(self.stages) > 1 else {}),
            **measured,
            **self.rates(),
            f"spent/{self.learner.unit}": self.spent,
            **{f"seconds/{phase}": seconds for phase, seconds in self.clock.seconds.items()},
            "memory/peak_bytes": peak_memory(),
        }
        # Last: the step is the Trainer's, whatever a learner calls its numbers.
        row = self.judged(row | {"step": self.done})
        self.idle = alarm_rules.idle_steps(self.idle, row)
        self.learner.observe(row)
        self.progress.step(row)
        if self.folder is not None:
            self.folder.metrics(row)

    def rates(self) -> dict[str, float]:
        """``lr`` after the step, or ``lr/OPTIMIZER`` where there are several."""
        rates = {name: float(one.optimizer.param_groups[0]["lr"]) for name, one in self.trained.items()}
        if len(rates) == 1:
            return {"lr": rates.popitem()[1]}
        return {f"lr/{name}": rate for name, rate in rates.items()}

    def evaluate(self, phase: Literal["before", "train", "after"]) -> None:
        """Held-out numbers, written down; none where the learner is not evaluated."""
        with self.refusing(None, "evaluating"):
            self.last = self.learner.evaluate(phase)
        if self.last is None:
            return
        if "eval/headline" not in self.last:
            raise ValueError(f"{type(self.learner).__name__}.evaluate gave no eval/headline")
        self.refuse_unless_finite({"eval/headline": self.last["eval/headline"]}, None)
        row = {"step": self.done, f"spent/{self.learner.unit}": self.spent, **self.last}
        row = self.judged(row | {"step": self.done})
        self.progress.evaluated(self.done, row)
        if self.folder is not None:
            self.folder.metrics(row)

    def headline(self) -> float:
        """The headline as the weights are now, for hooks. Raises ``UserError`` if the run is not evaluated."""
        found = self.learner.evaluate("hook")
        if found is None:
            raise UserError("this method validates its weights on held-out problems: evaluate the run")
        return float(found["eval/headline"])

    def judged(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with the alarms that begin to sound at it."""
        if self.settings.alarms:
            self.memory, row = alarms.judged(self.memory, row, self.learner.facts())
        return row

    def write_samples(self, batch: Batch | None, phase: Literal["before", "train", "after"]) -> None:
        """Every process makes its samples (that may take all of them), the first one writes."""
        with self.refusing(batch, "looking at rollouts"):
            made = list(self.learner.samples(batch, phase))
        if self.folder is None:
            return
        rows = [self.written(one, f"step-{self.done}-{phase}-{place}") for place, one in enumerate(made)]
        about = {"step": self.done, "phase": phase}
        self.folder.samples({**about, **row} for row in rows if row)

    def written(self, one: Sample, name: str) -> dict[str, Any]:
        """What samples.jsonl says of a sample, whose pixels or columns have a file of their own; {} of columns."""
        assert self.folder is not None
        if one.kind == "tokens":
            self.folder.tokens(self.done, one.values)
            return {}
        values = dict(one.values)
        if one.kind == "image":
            values["path"] = self.folder.image(name, values.pop("pixels"))
        return {"kind": one.kind, "key": one.key, **values}

    def end(self) -> dict[str, Any]:
        """The last evaluation and checkpoint, the model, summary.json."""
        if not self.ended:
            unended = self.marks()
            self.evaluate("after")
            if self.due(self.settings.eval_every):
                unended = self.marks()  # a longer run would have this row too
            self.write_samples(None, "after")
            self.ended = True
            resuming.save(self, unended=unended)
        values = {
            "steps": self.done,
            "spent": self.spent,
            "unit": self.learner.unit,
            "headline": None if self.last is None else self.last["eval/headline"],
            "training_seconds": self.training_seconds,
            **self.learner.summary(),
            **(self.last or {}),
        }
        with self.refusing(None, "gathering the model"):
            self.learner.gather()
        if self.folder is not None:
            with self.refusing(None, "saving the model"), writing(self.folder.path / "model"):
                self.learner.export(self.folder.path / "model")
            self.folder.summary(values)
        return values

    def marks(self) -> Marks | None:
        """How far the run's files are written; None in processes that write none."""
        return None if self.folder is None else self.folder.marks()

    # --- when and whether ---------------------------------------------------------------------------------------

    def begin_next_stage(self) -> None:
        with self.refusing(None, "beginning a stage"):
            self.enter(self.stage + 1)
            self.say_stage()
            if self.check:
                self.learner.preflight()

    def say_stage(self) -> None:
        """Which stage begins, where there are several."""
        if len(self.stages) > 1:
            self.progress.say(f"stage {self.stage + 1} of {len(self.stages)}: {self.stages[self.stage].name}")

    def due(self, every: int) -> bool:
        return every > 0 and self.done % every == 0

    def finished(self) -> bool:
        """Whether the steps or the budget are spent, or the learner has nothing left to learn."""
        return self.done >= self.steps or self.out_of_budget() or self.learner.finished()

    def out_of_budget(self) -> bool:
        return self.settings.budget is not None and self.spent >= self.settings.budget

    @contextmanager
    def refusing(self, batch: Batch | None, doing: str = "") -> Iterator[None]:
        """Within it numbers that are not finite, and memory that is used up, stop the run in one line.

        ``doing``: what is done; of a step it is known by its phase.
        """
        try:
            yield
            return
        except NotFinite as problem:
            self.refuse(str(problem), batch)
        except Exception as problem:
            if (said := exhausted(problem)) is None:
                raise
        # Outside of the handler: what the frames of the error hold is free by now.
        doing = doing or DOING.get(self.clock.stopped, self.clock.stopped)
        raise OutOfMemory(
            f"out of memory while {doing} at step {self.done} ({said}); {self.intact}: "
            f"{self.learner.memory_advice(doing)}" + ("; then use --resume" if self.saved else "")
        )

    def refuse_unless_finite(self, numbers: Numbers, batch: Batch) -> None:
        for name, value in numbers.items():
            if not -float("inf") < value < float("inf"):
                self.refuse(f"{name.replace('_', ' ')} is {float(value)}", batch)

    def refuse_idleness(self) -> None:
        """Stop a run that has not moved for long, saved: it would end as it began."""
        bound = self.settings.max_idle_steps
        if not bound or self.idle < bound or self.finished():
            return
        resuming.save(self)
        raise UserError(
            f"{self.idle} steps in a row without a gradient, the last of them {self.done}: nothing is learned "
            f"(see the alarm 'nothing to learn'): {advised('nothing to learn', self.learner.facts())}; the run is "
            "saved, to go on all the same: --resume --max-idle-steps 0"
        )

    def refuse_broken_weights(self, batch: Batch) -> None:
        if broken := gradients.not_finite(weights.flat(weights.kept(self.wrapped))):
            self.refuse(f"after the update {broken} is not finite", batch)

    def refuse(self, what: str, batch: Batch | None) -> NoReturn:
        """Keep the batch that broke the run, then stop it."""
        where = ""
        if self.folder is not None:
            kept = self.learner.failed(batch)
            aside = self.folder.write_aside(self.done, kept, what)
            where = f" the batch is in {aside};" if kept else ""
        raise UserError(f"{what} at step {self.done};{where} {self.intact}: {self.learner.advice}")

    @property
    def intact(self) -> str:
        if self.folder is None and self.accelerator.num_processes > 1:
            return "what is saved the first process knows"
        return "the last checkpoint is intact" if self.saved else "there is no checkpoint yet"

    @property
    def saved(self) -> bool:
        return self.folder is not None and checkpoint.latest(self.folder.path) is not None


def means(several: Sequence[Numbers]) -> dict[str, float]:
    """Each number's mean over the updates that have it."""
    names = dict.fromkeys(name for numbers in several for name in numbers)
    columns = {name: [float(one[name]) for one in several if name in one] for name in names}
    return {name: sum(column) / len(column) for name, column in columns.items()}


def anywhere(pressed: Sequence[int]) -> bool:
    """Whether Ctrl-C was pressed in any process: all must stop at the same step."""
    return bool(sum_over_processes({"pressed": len(pressed)})["pressed"])
