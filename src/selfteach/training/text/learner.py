"""A causal language model that learns from text: what a recipe declares, made to run under the ``Trainer``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Literal

import torch
from accelerate.utils import broadcast_object_list
from jaxtyping import Float
from torch import Tensor, nn

from selfteach.checks import require
from selfteach.control.accountant import epsilon
from selfteach.control.controller import Controller
from selfteach.control.hook import Hook
from selfteach.errors import UserError, less_memory
from selfteach.objective.batch import STUDENT
from selfteach.objective.minibatch import Minibatch
from selfteach.policy.loading import Policy
from selfteach.policy.sharding import whole_state
from selfteach.recipes.base import Recipe
from selfteach.recipes.knobs import knobs, takes, with_knobs
from selfteach.recipes.parts import PerRecord
from selfteach.roles.weights import POLICY
from selfteach.task.example import Example, Task, is_graded
from selfteach.task.rows import make_task
from selfteach.task.trajectory import Trajectory
from selfteach.training.clock import Clock
from selfteach.training.config import TrainConfig
from selfteach.training.learner import Learner, Numbers, Role, Sample, Stage, Trained, Update
from selfteach.training.progress import Progress
from selfteach.training.reduce import state_on
from selfteach.training.rundir import whole_folder
from selfteach.training.text import data, metrics, mismatch, offloading, preflight, tokens
from selfteach.training.text.batching import Batching
from selfteach.training.text.classes import read_classes, token_classes
from selfteach.training.text.evaluation import HEADLINE, Answered, answered, examined
from selfteach.training.text.models import Models
from selfteach.training.text.present import Present
from selfteach.training.text.private import private_gradient
from selfteach.training.text.probe import reference_likelihoods
from selfteach.training.text.teachers import given
from selfteach.training.text.update import TextBatch, backward, losses_of
from selfteach.training.text.writing import Writing
from selfteach.training.threads import small_folder, threads_of
from selfteach.training.weights import trainable

ONE_THREAD = (
    "so small a model computes on one thread, faster than on several (set OMP_NUM_THREADS for another number)"
)


class TextLearner(Learner):
    """Its parts: ``models`` hold the weights, ``writing`` makes trajectories, ``batching`` makes batches of them;
    ``now`` is what they share.
    """

    unit = "tokens"
    headline = HEADLINE
    advice = "lower --lr if the weights have diverged, else look at what the terms read in the batch's longest rollouts"

    def __init__(self, config: TrainConfig, progress: Progress) -> None:
        self.config, self.progress = config, progress
        if config.fitted:
            progress.say(config.fitted)
        here = state_on(config.loading.device)
        for line in offloading.in_vain(config.loading, here.device):
            progress.say(line)
        task = config.open_task()
        self.also = [make_task(name, seed=config.seed) for name in config.evaluation.eval_also]
        self._held_out: dict[tuple[int, int], Sequence[Example]] = {}
        self.recipes = list(config.recipe.stages.items())
        for line in data.examined(config, task, self.also, dict(self.recipes)):
            progress.say(line)
        self.stages = [Stage(name, recipe.optimization.steps) for name, recipe in self.recipes]
        every = [recipe for _, recipe in self.recipes]
        self.now = Present(
            config,
            task,
            every[0],
            self.stages[0].name,
            here.process_index,
            here.num_processes,
            Clock(),
            progress,
        )
        self.models = Models(config, every, here.device)
        given.refuse_stale(config, self.recipes, self.models.handed, self.models.weights)
        self.batching = Batching(self.now, self.models)
        self.writing = Writing(self.now, self.policy, self.batching, every)
        self.classes = token_classes(
            self.policy.renderer, self.policy.vocabulary, read_classes(config.bookkeeping.token_classes)
        )
        self.controllers: dict[str, Controller] = {}
        self.hook: Hook | None = None
        self.hooked = self.validated_tokens = 0
        if self.threads() == 1:
            progress.say(ONE_THREAD)
        self.answers_shown: list[Answered] = []
        self.whole: dict[str, dict[str, Tensor] | None] = {}
        self.longest_prompt = 0

    def threads(self) -> int | None:
        if not all(map(small_folder, self.models.others)):
            return None  # it is loaded when it is asked first
        return threads_of(*(one.model for one in self.models.policies.values()))

    # --- where it stands ------------------------------------------------------------------------------------------

    @property
    def clock(self) -> Clock:
        return self.now.clock

    @clock.setter
    def clock(self, clock: Clock) -> None:
        self.now.clock = clock

    @property
    def step(self) -> int:
        """The stage's step that is collected, or was last."""
        return self.now.step

    @property
    def recipe(self) -> Recipe:
        """The present stage's, with the knobs as its controllers have set them for the step."""
        return self.now.recipe

    @property
    def task(self) -> Task:
        return self.now.task

    @property
    def policy(self) -> Policy:
        """The weights that a recipe trains unless it says otherwise."""
        return self.models.policy

    @property
    def problems_asked(self) -> int:
        """Problems of an evaluation; 0: there is none, as where nothing is graded."""
        return self.config.evaluation.eval_problems if is_graded(self.task) else 0

    def held_out(self, task: Task, count: int) -> Sequence[Example]:
        """The task's held-out problems, which are the same all through a run: it is asked for them once."""
        key = id(task), count
        if key not in self._held_out:
            self._held_out[key] = task.held_out(count)
        return self._held_out[key]

    # --- what the Trainer asks for --------------------------------------------------------------------------------

    def modules(self) -> Mapping[str, nn.Module]:
        return {name: policy.model for name, policy in self.models.policies.items()}

    def memory_advice(self, doing: str) -> str:
        return less_memory(doing)

    def enter(self, stage: int) -> None:
        """Begin a stage: its weights from where it says, its roles, its controllers, its hook."""
        self.now.stage, self.now.recipe = self.recipes[stage]
        steps = range(self.recipe.optimization.steps)
        if self.recipe.per_record is not None and any(len(self.recipe.updates(one)) > 1 for one in steps):
            raise UserError(
                "gradients of single records allow one update a batch (their noise is accounted for once): set "
                "update_epochs and minibatches to 1"
            )
            require(
                self.recipe.per_record.delta is None or self.recipe.optimization.poisson_records > 0,
                "an epsilon at a given delta is known of Poisson samples alone: set poisson_records",
            )
        self.models.enter(stage, self.now.stage, self.recipe)
        self.writing.enter()
        self.moved()
        seed = self.config.seed
        self.controllers = {knob: spec.start(seed) for knob, spec in self.recipe.controllers.items()}
        here = trainable(self.modules())
        self.hook = None if self.recipe.hook is None else self.recipe.hook.start(seed, here)
        self.hooked = self.now.step = 0

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        return self.models.optimizers(self.recipe)

    def roles(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Role]:
        return {"weights": self.models.weights}

    def preflight(self) -> None:
        self.push()
        preflight.preflight(self)

    def moved(self) -> None:
        """The weights are others than before, without a step of an optimizer."""
        if self.models.vllm is not None:
            self.models.vllm.forget()

    def push(self) -> None:
        """Have vLLM sample with the weights as they are now, if it is used. All processes must call it."""
        if self.models.vllm is not None and self.recipe.generates:
            with self.clock("push"):
                self.models.vllm.follow(lambda: copy(self.writing.prompts).take(1)[0].prompt_ids)

    def collect(self, step: int) -> TextBatch:
        """Prompts → trajectories → graded → views → columns; nobody has scored anything yet."""
        self.now.step = step
        self.validated_tokens = 0
        self.set_knobs(step)
        self.push()
        before = Counter(self.task.verdicts)
        drawn = self.models.weights.drawn_apart
        with self.clock("sample"):
            written, spent = self.writing.rollouts(step, self.progress)
        if step == 0 and self.recipe.generates and self.models.weights.drawn_apart == drawn:
            self.say_not_sampled(written)
        with self.clock("grade"):
            trajectories = self.writing.judged(written)
        self.writing.count(trajectories)
        self.longest_prompt = max([self.longest_prompt, *(len(one.prompt_ids) for one in trajectories)])
        batch = self.batching.of(trajectories, self.recipe.active(step), step, spent)
        batch.verdicts = Counter(self.task.verdicts) - before
        return batch

    def say_not_sampled(self, written: Sequence[Trajectory]) -> None:
        """Where others wrote the first answers, a sampler of its own dtype has nothing to do."""
        who = sorted({one.origin for one in written})
        if self.config.sampled_apart and written:
            name, where = (
                ("use_vllm", "by vLLM")
                if self.config.vllm.use_vllm
                else ("sampler_dtype", "from the trained weights' own copy")
            )
            self.progress.say(
                f"{name}: stage {self.now.stage} begins with answers of {', '.join(who)}, none sampled {where}: "
                "it changes nothing there"
            )

    def set_knobs(self, step: int) -> None:
        """Let each controller set its knob for the step to come; every process gets the first one's choice."""
        if not self.controllers:
            return
        progress = step / self.recipe.optimization.steps
        chosen = [{knob: one.choose(progress) for knob, one in self.controllers.items()}]
        broadcast_object_list(chosen)
        self.now.recipe = with_knobs(self.recipe, chosen[0])

    def updates(self, batch: TextBatch) -> Iterator[Update]:
        planned = self.planned(batch)
        for number, one in enumerate(planned):
            several = number < len(planned) - 1
            yield Update(one.trains, partial(self.backward, batch, one, several))

    def planned(self, batch: TextBatch) -> list[Minibatch]:
        """The recipe's updates but for those without a row: a batch that came out small has fewer parts, and a step
        without a gradient would still move Adam's averages, the decay of weights and the schedule."""
        every = list(self.recipe.updates(batch.step))
        filled = [one for one in every if (rows := batch.within(one)) is None or rows.any()]
        return filled or every[:1]

    def backward(self, batch: TextBatch, update: Minibatch, several: bool) -> Numbers:
        if self.recipe.per_record is not None:
            return self.private_backward(batch, self.recipe.per_record)
        others = [name for name in batch.scoring.contexts if name != STUDENT]
        watch = (
            metrics.watched(others, self.recipe.temperature, batch.drawn, batch.listed)
            if update.epoch == 0
            else {}
        )
        if watch and (correction := batch.correction) is not None:
            watch |= mismatch.watched(correction)
        batch.staleness.append(self.models.weights.steps - batch.written_at)
        compiler = "inductor" if self.config.bookkeeping.compile else None
        return backward(batch, update, watch, several=several, compiler=compiler)

    def private_backward(self, batch: TextBatch, spec: PerRecord) -> Numbers:
        """Each record's gradient by itself, clipped; noise is drawn in the first process alone."""
        by_record: dict[int, list[Trajectory]] = {}
        for one in batch.rows:
            by_record.setdefault(one.group, []).append(one)
        records = [self.record_of(rows, batch) for rows in by_record.values()]
        seed = Random(f"{self.config.seed} {self.now.stage} {batch.step}").getrandbits(63)
        generator = torch.Generator().manual_seed(seed)
        parameters = {
            f"{n}.{k}": p for n, one in self.models.policies.items() for k, p in one.trainable().items()
        }
        return private_gradient(records, parameters, spec, generator if self.now.rank == 0 else None)

    def record_of(
        self, rows: Sequence[Trajectory], batch: TextBatch
    ) -> Callable[[], Iterator[Float[Tensor, ""]]]:
        return partial(losses_of, self.batching.of(rows, batch.contexts, batch.step, alone=True))

    def spent(self, batch: TextBatch) -> int:
        """Tokens generated for the batch, and by a hook after it."""
        return batch.spent + self.validated_tokens

    def metrics(self, batch: TextBatch, done: Sequence[Numbers]) -> Mapping[str, Any]:
        row = metrics.row_of(batch, self.classes, self.clock.total)
        control = {f"control/{knob}": getattr(self.recipe, knob) for knob in self.controllers}
        too_long = {"prompts/too_long": self.writing.prompts.too_long}
        hooked = {} if self.hook is None else {f"hook/{k}": v for k, v in self.hook.metrics().items()}
        more = {**too_long, **control, **hooked, **self.privacy(batch.step)}
        return {**row, **more, **reference_likelihoods(self, batch.step)}

    def privacy(self, step: int) -> Mapping[str, float]:
        """ε of the stage's steps so far."""
        spec, o = self.recipe.per_record, self.recipe.optimization
        if spec is None or spec.delta is None:
            return {}
        rate = o.prompts / o.poisson_records
        return {"privacy/epsilon": epsilon(rate, spec.noise, step + 1, spec.delta)}

    def observe(self, row: Mapping[str, Any]) -> None:
        for controller in self.controllers.values():
            controller.observe(row)
        self.models.weights.observe(row)

    def after_step(self, weights: Mapping[str, nn.Parameter], evaluate: Callable[[], float]) -> bool:
        if self.hook is None:
            return False
        self.hooked += 1
        self.hook.after_step(self.hooked, weights, evaluate)
        self.moved()
        return True

    def evaluate(self, phase: Literal["before", "train", "after", "hook"]) -> Mapping[str, float] | None:
        if phase == "hook":
            return self.validated()
        if self.problems_asked == 0:
            return None
        numbers, self.answers_shown = examined(self)
        return numbers

    def validated(self) -> Mapping[str, float]:
        """What the stage's hook is told of the weights as they are now."""
        if self.recipe.hook is None:
            raise ValueError(f"stage {self.now.stage} has no hook that would ask")
        kept = [one.example for one in self.writing.probed[: self.recipe.hook.problems]]
        found, answers = answered(self, self.task, kept)
        if self.now.rank == 0:  # every process has all the answers, and what is spent is summed
            self.validated_tokens += sum(len(one.ids) for one in answers)
        return found.headline()

    def samples(
        self, batch: TextBatch | None, phase: Literal["before", "train", "after"]
    ) -> Iterable[Sample]:
        return tokens.samples(self, batch, phase)

    def failed(self, batch: TextBatch | None) -> Mapping[str, Any]:
        rows = [] if batch is None else batch.rows
        return {
            "rollouts": [
                {"key": one.example.key, "ids": one.ids, "prompt_ids": one.prompt_ids} for one in rows
            ]
        }

    def finished(self) -> bool:
        return self.config.bookkeeping.until_solved and self.writing.answers_until_solved is not None

    def state(self) -> dict[str, Any]:
        return {
            "controllers": {knob: one.state() for knob, one in self.controllers.items()},
            "hook": None if self.hook is None else self.hook.state(),
            "hooked": self.hooked,
            "writing": self.writing.state(),
            "starts": self.models.starts.state(),
            "longest_prompt": self.longest_prompt,
            "per_record": None if self.recipe.per_record is None else asdict(self.recipe.per_record),
            **self.models.state(),
        }

    def is_divided(self, state: Mapping[str, Any]) -> bool:
        return any(state["writing"]["stores"])

    def load_state(self, state: Mapping[str, Any]) -> None:
        for knob, one in self.controllers.items():
            one.load_state(state["controllers"][knob])
        if self.hook is not None:
            self.hook.load_state(state["hook"])
        self.hooked = state["hooked"]
        spec, kept = self.recipe.per_record, state.get("per_record")
        require(
            spec is None or kept is None or asdict(spec) == kept,
            "noise and clipping were others so far (more steps at the same epsilon want more noise from the first on): "
            "give the noise itself, or start anew",
        )
        self.writing.load_state(state["writing"])
        self.models.starts.load_state(state["starts"])
        self.longest_prompt = state.get("longest_prompt", 0)
        self.models.load_state(state)
        self.moved()

    def table(self) -> Mapping[str, Any]:
        return self.config.table()

    def facts(self) -> Mapping[str, Any]:
        teachers = self.recipe.others.values()
        return {
            **knobs(self.recipe),
            "teachers": sorted({type(one.weights).__name__.lower() for one in teachers}),
            "room": self.policy.window - self.longest_prompt,
            "takes": partial(takes, self.recipe),
        }

    def summary(self) -> Mapping[str, Any]:
        return {
            "too_long_prompts": self.writing.prompts.too_long,
            "room": self.models.rooms,
            "answers_until_solved": self.writing.answers_until_solved,
        }

    def gather(self) -> None:
        self.whole = {
            name: whole_state(policy.model, keep=self.now.rank == 0)
            for name, policy in self.models.policies.items()
        }

    def export(self, folder: Path) -> None:
        for name, policy in self.models.policies.items():
            with whole_folder(
                folder if name == POLICY else folder.with_name(f"{folder.name}-{name}")
            ) as aside:
                policy.save(aside, state=self.whole[name])
        self.whole = {}
