"""A training run: its parts, one step of it, and the loop that calls the step."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from transformers import get_scheduler

from selfteach.errors import UserError
from selfteach.objective.engine import Outcome, Weighted, evaluate_terms
from selfteach.objective.plan import plan
from selfteach.objective.statistics import Statistics
from selfteach.policy.loading import LoraConfig, Policy, load_policy
from selfteach.policy.sampling import NotFinite, Sampling
from selfteach.policy.scoring import ResponseScorer
from selfteach.task.arena import model_folder
from selfteach.task.example import Task
from selfteach.task.opening import open_task
from selfteach.task.rollout import Rollout
from selfteach.teacher.weights import External, TeacherWeights
from selfteach.train import checkpoint, randomness
from selfteach.train.classes import read_classes, token_classes
from selfteach.train.collect import Draw, graded, reference_rollouts, sampled_rollouts
from selfteach.train.config import TrainConfig
from selfteach.train.context import Context, context
from selfteach.train.evaluation import Answered, Result, evaluate
from selfteach.train.metrics import step_row, watched
from selfteach.train.rundir import RunFolder
from selfteach.train.scored import Scorer


class Progress(Protocol):
    """Who shows a run while it goes on."""

    def say(self, text: str) -> None: ...

    def start(self, steps: int, step: int) -> None: ...

    def step(self, row: Mapping[str, Any]) -> None: ...

    def evaluated(self, step: int, result: Result) -> None: ...

    def stop(self) -> None: ...


@dataclass
class Clock:
    """Seconds spent by phase within a step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - began


class Interrupted(Exception):
    """The user pressed Ctrl-C; the run was checkpointed."""


class Run:
    """Everything one training run holds. ``train`` is the loop; ``step`` is one optimiser step of it."""

    def __init__(self, config: TrainConfig, folder: RunFolder | None, progress: Progress) -> None:
        self.config, self.folder, self.progress = config, folder, progress
        self.recipe = config.recipe
        self.accelerator = accelerator_for(config)
        randomness.seed_all(config.seed + self.accelerator.process_index)
        self.task: Task = open_task(config.task, seed=config.seed, options=config.task_options)
        self.policy = load_student(config, self.accelerator.device)
        self.teachers = {
            name: TeacherWeights(
                teacher.weights, self.policy, external_policy(teacher.weights, config, self.policy)
            )
            for name, teacher in self.recipe.teachers.items()
        }
        self.module = self.accelerator.prepare(ResponseScorer(self.policy.model))
        o = self.recipe.optimisation
        self.optimiser = torch.optim.AdamW(
            list(self.policy.trainable().values()), lr=o.lr, betas=o.betas, weight_decay=o.weight_decay
        )
        self.scheduler = get_scheduler(o.schedule, self.optimiser, o.warmup, o.steps)
        self.draw = Draw(
            self.task, self.policy, self.recipe.student_thinking, self.recipe.rollouts.max_tokens
        )
        self.classes = token_classes(
            self.policy.chat, self.policy.vocabulary, read_classes(config.bookkeeping.token_classes)
        )
        self.done = 0
        self.generated = 0
        self.training_seconds = 0.0
        self.interrupted = False
        share(o.prompts, self.accelerator.num_processes)

    # --- the loop ------------------------------------------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        """Train to the end (or the token budget) and return the summary."""
        steps, every = self.recipe.optimisation.steps, self.config.bookkeeping.checkpoint_every
        self.progress.start(steps, self.done)
        if self.done == 0:
            self.evaluate("before")
        with self.stopping_on_interrupt():
            while self.done < steps and not self.budget_spent():
                row, rollouts, contexts = self.step()
                self.write(row, rollouts, contexts)
                if self.due(self.config.evaluation.eval_every) and self.done < steps:
                    self.evaluate("train")
                if self.interrupted or self.due(every):
                    self.save()
                if self.interrupted:
                    raise Interrupted(str(self.folder.path) if self.folder else "")
        final = self.evaluate("after")
        self.save()
        return self.summary(final)

    def step(self) -> tuple[dict[str, Any], list[Rollout], Mapping[str, Context]]:
        """Examples → rollouts → graded → views → scored → objective → gradient → step → teachers told."""
        clock = Clock()
        with clock("sample"):
            try:
                rollouts = self.rollouts()
            except NotFinite as problem:
                self.refuse(str(problem), [])
        with clock("grade"):
            rollouts = graded(self.task, rollouts)
        with clock("view"):
            contexts = self.contexts(rollouts)
        with clock("update"):
            scorer = self.scorer(rollouts, contexts)
            outcomes, gradient_norm = self.update(scorer)
        for teacher in self.teachers.values():
            teacher.after_step()
        self.done += 1
        self.generated += sum(self.accelerator.gather(torch.tensor([generated(rollouts)])).tolist())
        self.training_seconds += sum(clock.seconds.values())
        row = step_row(self, scorer, outcomes, clock.seconds, gradient_norm, rollouts, contexts)
        return row, rollouts, contexts

    # --- the parts of a step -------------------------------------------------------------------------------------

    def rollouts(self) -> list[Rollout]:
        """This process's rollouts of the step. Every process draws all prompts and keeps its share."""
        recipe, rank, world = self.recipe, self.accelerator.process_index, self.accelerator.num_processes
        asked = self.draw.take(recipe.optimisation.prompts)
        each = share(len(asked), world)
        mine, first_group = asked[rank * each : (rank + 1) * each], rank * each
        if recipe.rollouts.source == "policy":
            return sampled_rollouts(
                self.policy,
                mine,
                recipe.rollouts,
                first_group=first_group,
                batch_size=self.config.bookkeeping.sample_batch,
            )
        return reference_rollouts(
            self.policy,
            mine,
            recipe.rollouts.reference,
            max_tokens=recipe.rollouts.max_tokens,
            thinking=recipe.student_thinking,
            first_group=first_group,
        )

    def contexts(self, rollouts: list[Rollout]) -> dict[str, Context]:
        contexts = {
            name: context(
                teacher,
                self.teachers[name],
                rollouts,
                self.task.wording,
                window=self.teachers[name].policy.window,
                temperature=self.recipe.rollouts.temperature,
            )
            for name, teacher in self.recipe.teachers.items()
        }
        for name, one in contexts.items():
            refuse_blind_teacher(name, one, self.config.bookkeeping.max_unavailable)
        return contexts

    def scorer(self, rollouts: list[Rollout], contexts: Mapping[str, Context]) -> Scorer:
        return Scorer(
            self.accelerator,
            self.policy,
            self.module,
            self.teachers,
            rollouts,
            contexts,
            micro_batch=self.config.bookkeeping.micro_batch or len(rollouts),
        )

    def update(self, scorer: Scorer) -> tuple[list[Outcome], float]:
        """Statistics, terms, gradient, optimiser step. Stops the run at a loss or gradient that is not finite."""
        stats = Statistics(
            scorer.columns,
            step=self.done,
            temperature=self.recipe.temperature,
            teachers=list(self.teachers),
            measure=scorer.measure,
        )
        try:
            outcomes = self.accumulate(scorer, plan(self.recipe.terms(stats), scorer.columns))
        except ValueError as problem:  # the objective's own checks: NaN log-probs, shapes that do not fit
            self.refuse(str(problem), scorer.rollouts)
        norm = self.clip()
        if not math.isfinite(norm):
            self.refuse(f"gradient norm is {norm}", scorer.rollouts)
        self.optimiser.step()
        self.scheduler.step()
        self.optimiser.zero_grad(set_to_none=True)
        return outcomes, norm

    def accumulate(self, scorer: Scorer, weighted: list[Weighted]) -> list[Outcome]:
        """Add up the gradient of every micro-batch."""
        outcomes = []
        last = len(scorer.starts) - 1
        for i, batch in enumerate(scorer.batches()):
            # DDP averages gradients over processes, but the terms' denominators already span all of them.
            with self.accelerator.no_sync(self.module) if i < last else nullcontext():
                outcome = evaluate_terms(batch, weighted, watch=watched(self.recipe))
                if not torch.isfinite(outcome.loss):
                    self.refuse(f"loss is {float(outcome.loss.detach())}", scorer.rollouts)
                self.accelerator.backward(outcome.loss * self.accelerator.num_processes)
            outcomes.append(outcome)
        return outcomes

    def clip(self) -> float:
        bound = self.recipe.optimisation.max_grad_norm
        parameters = list(self.policy.trainable().values())
        norm: Tensor = torch.nn.utils.clip_grad_norm_(parameters, bound or math.inf)
        return float(norm)

    def refuse(self, what: str, rollouts: Sequence[Rollout]) -> NoReturn:
        """Keep the batch that broke the run, then stop it."""
        where = ""
        if self.folder is not None:
            rows = [
                {"key": one.example.key, "ids": one.ids, "prompt_ids": one.prompt_ids} for one in rollouts
            ]
            where = f" the batch is in {self.folder.write_aside(self.done, {'rollouts': rows}, what)};"
        raise UserError(
            f"{what} at step {self.done};{where} the last checkpoint is intact: lower --lr, or look at the "
            "batch's longest rollouts"
        )

    # --- looking and writing -------------------------------------------------------------------------------------

    def evaluate(self, phase: str) -> Result | None:
        settings = self.config.evaluation
        if settings.eval_problems == 0:
            return None
        result, answers = evaluate(
            self.policy,
            self.task,
            problems=settings.eval_problems,
            samples=settings.eval_samples,
            sampling=Sampling(
                settings.eval_max_tokens or self.recipe.rollouts.max_tokens, settings.eval_temperature
            ),
            thinking=self.recipe.student_thinking,
            batch_size=self.config.bookkeeping.sample_batch,
            seed=self.config.seed,
        )
        if self.folder is not None:
            self.folder.metrics({"step": self.done, "tokens/generated": self.generated, **result.row()})
            if phase != "train":
                self.folder.samples(
                    self.sample_row(phase, one) for one in answers[:: settings.eval_samples][:16]
                )
        self.progress.evaluated(self.done, result)
        return result

    def sample_row(self, phase: str, one: Answered) -> dict[str, Any]:
        return {
            "step": self.done,
            "phase": phase,
            "key": one.example.key,
            "problem": one.example.problem,
            "prompt": self.policy.chat.show(one.prompt_ids),
            "answer": one.text,
            "reward": one.grade.reward,
            "finished": one.finished,
            "length": len(one.ids),
        }

    def write(self, row: dict[str, Any], rollouts: list[Rollout], contexts: Mapping[str, Context]) -> None:
        self.progress.step(row)
        if self.folder is None:
            return
        self.folder.metrics(row)
        if self.done == 1 or self.due(self.config.bookkeeping.samples_every):
            self.folder.samples(self.rollout_row(i, one, contexts) for i, one in enumerate(rollouts[:4]))

    def rollout_row(self, i: int, one: Rollout, contexts: Mapping[str, Context]) -> dict[str, Any]:
        show = self.policy.chat.show
        return {
            "step": self.done,
            "phase": "train",
            "key": one.example.key,
            "problem": one.example.problem,
            "prompt": show(one.prompt_ids),
            "teacher_prompts": {name: show(c.prompts[i] or []) for name, c in contexts.items()},
            "answer": one.text,
            "reward": None if one.grade is None else one.grade.reward,
            "finished": one.finished,
            "length": len(one.ids),
        }

    def summary(self, final: Result | None) -> dict[str, Any]:
        values: dict[str, Any] = {
            "steps": self.done,
            "generated_tokens": self.generated,
            "training_seconds": self.training_seconds,
            "too_long_prompts": self.draw.too_long,
        }
        if final is not None:
            values |= final.row()
        if self.folder is not None:
            self.policy.save(self.folder.path / "model")
            self.folder.summary(values)
        return values

    # --- checkpoint and resume -----------------------------------------------------------------------------------

    def save(self) -> None:
        random = gather_object([randomness.capture()])
        if self.folder is None:
            return
        named = list(self.policy.trainable().items())
        state = {
            "weights": dict(named),
            "optimiser": checkpoint.optimizer_state(self.optimiser, named),
            "scheduler": self.scheduler.state_dict(),
            "teachers": {name: teacher.state() for name, teacher in self.teachers.items()},
            "random": random,
            "progress": {
                "step": self.done,
                "cursor": self.draw.cursor,
                "too_long": self.draw.too_long,
                "generated": self.generated,
                "training_seconds": self.training_seconds,
            },
        }
        checkpoint.save(self.folder.path, self.done, state, keep=self.config.bookkeeping.keep)

    def load(self) -> bool:
        """Go on from the newest good checkpoint; False if there is none yet."""
        path = checkpoint.latest(self.config.out)
        if path is None:
            self.forget_after(-1)
            return False
        state = checkpoint.load(path)
        named = list(self.policy.trainable().items())
        with torch.no_grad():
            for name, parameter in named:
                parameter.copy_(state["weights"][name])
        checkpoint.load_optimizer_state(self.optimiser, named, state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        for name, teacher in self.teachers.items():
            teacher.load_state(state["teachers"][name])
        randomness.restore(state["random"][self.accelerator.process_index])
        progress = state["progress"]
        self.done, self.generated = progress["step"], progress["generated"]
        self.draw.cursor, self.draw.too_long = progress["cursor"], progress["too_long"]
        self.training_seconds = progress["training_seconds"]
        self.forget_after(self.done)
        self.progress.say(f"resumed at step {self.done} from {path}")
        return True

    def forget_after(self, step: int) -> None:
        if self.folder is not None:
            self.folder.truncate_after(step)

    # --- small questions -----------------------------------------------------------------------------------------

    def due(self, every: int) -> bool:
        return every > 0 and self.done % every == 0

    def budget_spent(self) -> bool:
        budget = self.config.bookkeeping.token_budget
        return budget is not None and self.generated >= budget

    @contextmanager
    def stopping_on_interrupt(self) -> Iterator[None]:
        """The first Ctrl-C ends the run after the step it is in; a second one at once."""

        def note(number: int, frame: FrameType | None) -> None:
            self.interrupted = True
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.progress.say("stopping after this step (Ctrl-C again: at once, without a checkpoint)")

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def accelerator_for(config: TrainConfig) -> Accelerator:
    mixed = "bf16" if config.loading.precision == "mixed" else "no"
    return Accelerator(mixed_precision=mixed, cpu=config.loading.device == "cpu")


def load_student(config: TrainConfig, device: torch.device) -> Policy:
    """The policy to train: full weights, or LoRA where the recipe's ``lora_rank`` is above 0."""
    loading, adapter = config.loading, config.recipe.adapter
    return load_policy(
        loading.model or str(model_folder(config.task)),
        dtype="bfloat16" if loading.precision == "bfloat16" else "float32",
        lora=LoraConfig(adapter.lora_rank, adapter.lora_alpha) if adapter.lora_rank else None,
        gradient_checkpointing=loading.gradient_checkpointing,
        chat_template=loading.chat_template,
        revision=loading.model_revision,
        trust_remote_code=loading.trust_remote_code,
        device=device,
    )


def external_policy(weights: Any, config: TrainConfig, student: Policy) -> Policy | None:
    if not isinstance(weights, External):
        return None
    return load_policy(
        weights.model,
        dtype="bfloat16" if config.loading.precision == "bfloat16" else "float32",
        trust_remote_code=config.loading.trust_remote_code,
        device=student.model.device,
    )


def share(prompts: int, processes: int) -> int:
    """Prompts for each process. UserError if they do not divide evenly."""
    if prompts % processes:
        raise UserError(
            f"prompts {prompts} do not divide over {processes} processes; choose a multiple of {processes}"
        )
    return prompts // processes


def generated(rollouts: list[Rollout]) -> int:
    """Tokens the policy wrote; references cost none."""
    return sum(sum(one.mask) for one in rollouts if one.behaviour is not None)


def refuse_blind_teacher(name: str, one: Context, bound: float) -> None:
    blind = len(one.prompts) - sum(one.available)
    if blind > bound * len(one.prompts):
        raise UserError(
            f"teacher {name!r} has nothing to see in {blind} of {len(one.prompts)} rollouts ({one.no_privilege} "
            f"without its private field, {one.too_long} too long for the window): more than --max-unavailable {bound}"
        )
