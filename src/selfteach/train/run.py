"""A training run: its parts, and one step of it."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn

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
from selfteach.policy.sampling import NotFinite
from selfteach.policy.scoring import ResponseScorer
from selfteach.task.arena import model_folder
from selfteach.task.example import Task
from selfteach.task.opening import open_task
from selfteach.task.rollout import Rollout
from selfteach.teacher.weights import External, TeacherWeights
from selfteach.train import randomness
from selfteach.train.classes import read_classes, token_classes
from selfteach.train.collect import Draw, graded, reference_rollouts, sampled_rollouts
from selfteach.train.config import TrainConfig
from selfteach.train.context import Context, context
from selfteach.train.metrics import loss_of, peak_memory, token_means, watched
from selfteach.train.progress import Progress
from selfteach.train.rundir import RunFolder
from selfteach.train.scored import Scorer


@dataclass
class Clock:
    """Seconds spent by phase within a step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - began


@dataclass(frozen=True)
class Step:
    """What one optimiser step leaves: its metrics, this process's rollouts with what teachers read, the terms with
    their coefficients over the whole batch, each micro-batch's outcome, and the scorer that can look again."""

    row: dict[str, Any]
    rollouts: list[Rollout]
    contexts: Mapping[str, Context]
    weighted: list[Weighted]
    outcomes: list[Outcome]
    scorer: Scorer


class Run:
    """Everything one training run holds; ``step`` is one optimiser step of it (the loop: ``loop.py``)."""

    def __init__(self, config: TrainConfig, folder: RunFolder | None, progress: Progress) -> None:
        self.config, self.folder, self.progress = config, folder, progress
        self.recipe = config.recipe
        self.accelerator = Accelerator(cpu=config.loading.device == "cpu")
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
        share(o.prompts, self.accelerator.num_processes)

    def step(self) -> Step:
        """Examples → rollouts → graded → views → scored → objective → gradient → step → teachers told."""
        clock = Clock()
        with clock("sample"):
            try:
                rollouts = self.rollouts()
            except NotFinite as problem:
                self.refuse(str(problem), [])
        with clock("grade"):
            before = Counter(self.task.verdicts)
            rollouts = graded(self.task, rollouts)
            verdicts = Counter(self.task.verdicts) - before
        with clock("view"):
            contexts = self.contexts(rollouts)
        with clock("update"):
            scorer = self.scorer(rollouts, contexts)
            weighted, outcomes, gradient_norm = self.update(scorer)
        for teacher in self.teachers.values():
            teacher.after_step()
        self.done += 1
        self.generated += sum(gather_object([generated(rollouts)]))
        self.training_seconds += sum(clock.seconds.values())
        row = self.row(scorer, outcomes, clock.seconds, gradient_norm, verdicts)
        return Step(row, rollouts, contexts, weighted, outcomes, scorer)

    def row(
        self,
        scorer: Scorer,
        outcomes: list[Outcome],
        seconds: Mapping[str, float],
        gradient_norm: float,
        verdicts: Mapping[Any, int],
    ) -> dict[str, Any]:
        """What the step writes into metrics.jsonl (names, units and formulas: docs/metrics.md)."""
        rollouts = scorer.rollouts
        rewards = [one.grade.reward for one in rollouts if one.grade is not None]
        lengths = [len(one.ids) for one in rollouts]
        return {
            "step": self.done,
            **loss_of(outcomes),
            **token_means(scorer, outcomes, watched(self.teachers, self.recipe.temperature), self.classes),
            "length/mean": sum(lengths) / len(lengths),
            "truncated": sum(not one.finished for one in rollouts) / len(rollouts),
            "reward/mean": sum(rewards) / max(1, len(rewards)),
            "tokens/generated": self.generated,
            "tokens_per_second": sum(lengths) / sum(seconds.values()),
            **{f"seconds/{phase}": spent for phase, spent in seconds.items()},
            "lr": self.scheduler.get_last_lr()[0],
            "grad_norm": gradient_norm,
            "prompts/too_long": self.draw.too_long,
            **{
                f"unavailable/{name}": 1 - sum(c.available) / len(rollouts)
                for name, c in scorer.contexts.items()
            },
            **{f"verdicts/{name!s}": count for name, count in verdicts.items()},
            "memory/peak_bytes": peak_memory(),
        }

    # --- the parts of a step -------------------------------------------------------------------------------------

    def rollouts(self) -> list[Rollout]:
        """This process's rollouts of the step. Every process draws all prompts and keeps its share."""
        recipe, rank, world = self.recipe, self.accelerator.process_index, self.accelerator.num_processes
        asked = self.draw.take(recipe.optimisation.prompts)
        each = share(len(asked), world)
        mine, first_group = asked[rank * each : (rank + 1) * each], rank * each
        if isinstance(recipe.writer, Student):
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
            recipe.writer.field,
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
            mixed=self.config.loading.precision == "mixed",
        )

    def update(self, scorer: Scorer) -> tuple[list[Weighted], list[Outcome], float]:
        """Statistics, terms, gradient, optimiser step. Stops the run at a loss or gradient that is not finite."""
        stats = Statistics(
            scorer.columns,
            step=self.done,
            temperature=self.recipe.temperature,
            teachers=list(self.teachers),
            measure=scorer.measure,
        )
        try:
            weighted = plan(self.recipe.terms(stats), scorer.columns)
            outcomes = self.accumulate(scorer, weighted)
        except ValueError as problem:  # the objective's own checks: NaN log-probs, shapes that do not fit
            self.refuse(str(problem), scorer.rollouts)
        norm = self.clip()
        if not math.isfinite(norm):
            self.refuse(f"gradient norm is {norm}", scorer.rollouts)
        self.optimiser.step()
        self.scheduler.step()
        self.optimiser.zero_grad(set_to_none=True)
        return weighted, outcomes, norm

    def accumulate(self, scorer: Scorer, weighted: list[Weighted]) -> list[Outcome]:
        """Add up the gradient of every micro-batch."""
        outcomes = []
        last = len(scorer.starts) - 1
        for i, batch in enumerate(scorer.batches()):
            # DDP averages gradients over processes, but the terms' denominators already span all of them.
            with self.accelerator.no_sync(self.module) if i < last else nullcontext():
                outcome = evaluate_terms(
                    batch, weighted, watch=watched(self.teachers, self.recipe.temperature)
                )
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
