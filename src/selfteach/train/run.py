"""A training run: its parts, and one step of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from selfteach.errors import UserError
from selfteach.objective.batch import STUDENT
from selfteach.objective.engine import Outcome, evaluate_terms
from selfteach.objective.plan import Weighted, plan
from selfteach.objective.positions import Positions, Quantity
from selfteach.objective.statistics import Statistics
from selfteach.policy.loading import LoraConfig, Policy, load_policy
from selfteach.policy.sampler import NotFinite
from selfteach.policy.scorer import ResponseScorer
from selfteach.recipes.base import ReferenceProbe, with_knobs
from selfteach.roles.store import WeightStore
from selfteach.roles.weights import POLICY, Snapshot, Weights
from selfteach.task.arena import model_folder, resolve_model
from selfteach.task.example import Task
from selfteach.task.opening import open_task
from selfteach.task.trajectory import Trajectory
from selfteach.train import alarms, randomness
from selfteach.train.annotate import annotated
from selfteach.train.classes import read_classes, token_classes
from selfteach.train.clock import Clock
from selfteach.train.collect import Asked, Draw, graded, reference_rollouts
from selfteach.train.config import TrainConfig
from selfteach.train.context import Context, context
from selfteach.train.memory import peak_memory
from selfteach.train.metrics import loss_of, token_means, watched
from selfteach.train.progress import Progress
from selfteach.train.reduce import gather_rows, mean_over_processes, sum_over_processes
from selfteach.train.rundir import RunFolder
from selfteach.train.schedule import scheduled
from selfteach.train.scored import Scorer
from selfteach.train.store import Store
from selfteach.train.writing import Desk, Written
from selfteach.train.written import text_metrics


@dataclass(frozen=True)
class Step:
    """What one optimizer step leaves: its metrics, this process's rollouts with what teachers read, the terms with
    their coefficients over the whole batch, each micro-batch's outcome, and the scorer that can look again."""

    row: dict[str, Any]
    rollouts: list[Trajectory]
    contexts: Mapping[str, Context]
    weighted: list[Weighted]
    outcomes: list[Outcome]
    scorer: Scorer


class Run:
    """Everything one training run holds; ``step`` is one optimizer step of it (the loop: ``loop.py``).

    ``recipe`` is the present stage's, with the knobs as its controllers have set them for the step.
    """

    def __init__(self, config: TrainConfig, folder: RunFolder | None, progress: Progress) -> None:
        self.config, self.folder, self.progress = config, folder, progress
        self.accelerator = Accelerator(cpu=config.loading.device == "cpu")
        randomness.seed_all(config.seed + self.accelerator.process_index)
        self.task: Task = open_task(config.task, seed=config.seed, options=config.task_options)
        self.also = [open_task(name, seed=config.seed) for name in config.evaluation.eval_also]
        self.policy = load_student(config, self.accelerator.device)
        self.module = self.accelerator.prepare(ResponseScorer(self.policy.model))
        self.draw = Draw(
            self.task, self.policy, config.recipe.student_thinking, config.recipe.rollouts.max_tokens
        )
        self.classes = token_classes(
            self.policy.renderer, self.policy.vocabulary, read_classes(config.bookkeeping.token_classes)
        )
        self.stages = list(config.recipe.stages.items())
        every = [role.weights for _, stage in self.stages for role in stage.teachers.values()]
        self.weights = WeightStore(
            {POLICY: self.policy}, self.other_model, [spec for spec in every if isinstance(spec, Snapshot)]
        )
        probes = [stage.reference_probe for _, stage in self.stages]
        self.probed = self.draw.take(max((probe.examples for probe in probes if probe), default=0))
        self.done = 0
        self.generated = 0
        self.training_seconds = 0.0
        self.answers = 0
        self.answers_until_solved: int | None = None
        self.memory = alarms.Memory()
        self.enter(0)

    def enter(self, stage: int) -> None:
        """Begin a stage: its teachers (frozen ones as the weights are now), a fresh optimizer, its controllers."""
        if stage > 0:
            self.weights.snapshot(self.stages[stage - 1][0], "end")
        self.stage = stage
        self.stage_name, self.recipe = self.stages[stage]
        o = self.recipe.optimization
        share(o.prompts, self.accelerator.num_processes)
        self.specs: dict[str, Weights] = {name: role.weights for name, role in self.recipe.teachers.items()}
        self.weights.enter(self.specs.values(), moved=stage > 0)
        self.weights.snapshot(self.stage_name, "start")
        self.optimizer = torch.optim.AdamW(
            list(self.policy.trainable().values()), lr=o.lr, betas=o.betas, weight_decay=o.weight_decay
        )
        self.scheduler = scheduled(self.optimizer, o.schedule, o.warmup, o.steps)
        self.controllers = {
            knob: spec.start(self.config.seed) for knob, spec in self.recipe.controllers.items()
        }
        self.store: Store | None = None
        self.stage_done = 0
        self.draw.thinking = self.recipe.student_thinking
        self.draw.max_tokens = self.recipe.rollouts.max_tokens

    @property
    def steps(self) -> int:
        """Optimizer steps of all stages together."""
        return sum(recipe.optimization.steps for _, recipe in self.stages)

    def step(self) -> Step:
        """Examples → rollouts → graded → views → scored → objective → gradient → step → teachers told."""
        clock = Clock()
        before = Counter(self.task.verdicts)
        self.turn_knobs()
        with clock("sample"):
            try:
                written = self.rollouts()
            except NotFinite as problem:
                self.refuse(str(problem), [])
        with clock("grade"):
            rollouts = self.judged(written.rollouts)
        active = self.recipe.active(self.stage_done)
        with clock("view"):
            contexts = self.contexts(rollouts, active)
        with clock("update"):
            rollouts = self.with_sampled_signals(rollouts, contexts)
            scorer = self.scorer(rollouts, contexts, sampled=self.sampled_signals(active))
            weighted, outcomes, gradient_norm = self.update(scorer, active)
        self.weights.after_step()
        self.weights.after_batch()
        self.done += 1
        self.stage_done += 1
        self.generated += sum(gather_rows([written.tokens]))
        self.count_answers(rollouts)
        probed = self.reference_metrics(clock)
        self.training_seconds += sum(clock.seconds.values())
        verdicts = Counter(self.task.verdicts) - before
        row = self.row(scorer, outcomes, clock.seconds, gradient_norm, verdicts) | probed
        if self.config.bookkeeping.alarms:
            self.memory, row = alarms.judged(self.memory, row)
        self.weights.observe(row)
        for controller in self.controllers.values():
            controller.observe(row)
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
        lengths = gather_rows([len(one.ids) for one in rollouts])
        means = mean_over_processes(
            {
                "length/mean": [len(one.ids) for one in rollouts],
                "truncated": [not one.finished for one in rollouts],
                "reward/mean": [one.grade.reward for one in rollouts if one.grade is not None],
            }
        )
        stage = {"stage": self.stage} if len(self.stages) > 1 else {}
        private = {field for teacher in self.recipe.teachers.values() for field in teacher.view.fields}
        return {
            "step": self.done,
            **stage,
            **loss_of(outcomes),
            **token_means(scorer, outcomes, watched(scorer.teachers, self.recipe.temperature), self.classes),
            **text_metrics(rollouts, private),
            **{"reward/mean": 0.0, **means},
            "spent/tokens": self.generated,
            "tokens_per_second": sum(lengths) / sum(seconds.values()),
            **{f"seconds/{phase}": spent for phase, spent in seconds.items()},
            "lr": self.scheduler.get_last_lr()[0],
            "grad_norm": gradient_norm,
            "prompts/too_long": self.draw.too_long,
            **unavailable(scorer.contexts),
            **{f"control/{knob}": getattr(self.recipe, knob) for knob in self.controllers},
            **sum_over_processes({f"verdicts/{name!s}": count for name, count in verdicts.items()}),
            "memory/peak_bytes": peak_memory(),
        }

    def count_answers(self, rollouts: list[Trajectory]) -> None:
        """How many answers it took until the first right one, over all processes (test-time training, card 28)."""
        rewards = [one.grade.reward for one in rollouts if one.grade]
        for right in (reward >= 0.5 for reward in gather_rows(rewards)):
            self.answers += 1
            if right and self.answers_until_solved is None:
                self.answers_until_solved = self.answers

    # --- the parts of a step -------------------------------------------------------------------------------------

    def turn_knobs(self) -> None:
        """Let each controller set its knob for the step to come; every process gets the first one's choice."""
        if not self.controllers:
            return
        progress = self.stage_done / self.recipe.optimization.steps
        chosen = [{knob: one.choose(progress) for knob, one in self.controllers.items()}]
        broadcast_object_list(chosen)
        self.recipe = with_knobs(self.recipe, chosen[0])

    def rollouts(self) -> Written:
        """This process's rollouts of the step: written now, or taken from the stage's store."""
        prompts = self.recipe.optimization.prompts
        if not self.recipe.rollouts.stored:
            return self.write(prompts)
        if self.store is not None:
            return Written(
                self.store.take(self.stage_done, share(prompts, self.accelerator.num_processes)), 0
            )
        written = self.write(self.recipe.rollouts.stored)
        rollouts = self.judged(written.rollouts)
        wanted = self.sampled_signals(self.recipe.teachers)
        rollouts = self.with_sampled_signals(rollouts, self.contexts(rollouts, wanted) if wanted else {})
        self.store = Store(rollouts, self.store_seed)
        self.store.save(self.store_path)
        self.progress.say(f"stage {self.stage_name}: {len(rollouts)} answers stored")
        return Written(self.rollouts().rollouts, written.tokens)

    def write(self, prompts: int) -> Written:
        """Answers to the next prompts. Every process draws all of them and keeps its share."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        asked = self.draw.take(prompts)
        each = share(len(asked), world)
        mine, first_group = asked[rank * each : (rank + 1) * each], rank * each
        batch = self.config.bookkeeping.sample_batch
        return Desk(self.policy, self.weights, self.task, self.recipe, batch).write(mine, first_group)

    @property
    def store_path(self) -> Path:
        return self.config.out / "stored" / f"{self.stage_name}-{self.accelerator.process_index}.jsonl"

    @property
    def store_seed(self) -> str:
        return f"{self.config.seed} {self.stage_name} {self.accelerator.process_index}"

    def judged(self, rollouts: list[Trajectory]) -> list[Trajectory]:
        """Graded, and annotated where the recipe reads marks."""
        rollouts = graded(self.task, rollouts)
        if self.recipe.annotated and not all(one.marks for one in rollouts):
            rollouts = annotated(self.task, self.policy.renderer, rollouts)
        return rollouts

    def contexts(
        self, rollouts: list[Trajectory], names: Collection[str] | None = None
    ) -> dict[str, Context]:
        """What the named teachers (None: all) read before each rollout. UserError if one of them is blind."""
        contexts = self.views(rollouts, self.recipe.teachers if names is None else names)
        for name, one in contexts.items():
            waits = not self.recipe.teachers[name].view.fields
            refuse_blind_teacher(name, one, self.config.bookkeeping.max_unavailable, waits)
        return contexts

    def views(self, rollouts: Sequence[Trajectory], names: Iterable[str]) -> dict[str, Context]:
        """The same, blind or not."""
        return {
            name: context(
                self.recipe.teachers[name],
                self.weights,
                rollouts,
                self.task.wording,
                window=self.weights.policy_of(self.specs[name]).window,
                temperature=self.recipe.rollouts.temperature,
            )
            for name in names
        }

    def scorer(
        self, rollouts: list[Trajectory], contexts: Mapping[str, Context], *, sampled: Sequence[str] = ()
    ) -> Scorer:
        """Scores the rollouts with the student and the teachers of these contexts, but for those in ``sampled``."""
        return Scorer(
            self.accelerator,
            self.policy,
            self.module,
            self.weights,
            {name: self.specs[name] for name in contexts if name not in sampled},
            rollouts,
            contexts,
            micro_batch=self.config.bookkeeping.micro_batch or len(rollouts),
            sampled=sampled,
        )

    def sampled_signals(self, names: Collection[str]) -> list[str]:
        """Those of the teachers that hand over the sampled tokens' log-probs alone."""
        return [name for name in names if self.recipe.teachers[name].signal == "sampled"]

    def with_sampled_signals(
        self, rollouts: list[Trajectory], contexts: Mapping[str, Context]
    ) -> list[Trajectory]:
        """The rollouts with what teachers of signal "sampled" think of their tokens; stored ones have it already."""
        wanted = self.sampled_signals(contexts)
        if not wanted or self.store is not None:
            return rollouts
        scorer = self.scorer(rollouts, {name: contexts[name] for name in wanted})
        temperature = self.recipe.temperature
        opinions = scorer.measure(
            {
                name: Quantity(partial(Positions.sampled, role=name, temperature=temperature), (name,))
                for name in wanted
            }
        )
        return [
            replace(
                one,
                log_probs={
                    name: opinions[name][scorer.first_row + i, : len(one.ids)].tolist()
                    for name in wanted
                    if contexts[name].prompts[i] is not None
                },
            )
            for i, one in enumerate(rollouts)
        ]

    def reference_metrics(self, clock: Clock) -> dict[str, float]:
        """``reference/…`` of the recipe's probe: the student's NLL (nats a token), each teacher's mean log-prob."""
        probe = self.recipe.reference_probe
        if probe is None:
            return {}
        with clock("probe"):
            return self.reference_likelihoods(probe)

    def reference_likelihoods(self, probe: ReferenceProbe) -> dict[str, float]:
        rows = self.reference_rows(probe, self.probed[: probe.examples])
        contexts = self.contexts(rows, self.recipe.active(self.stage_done))
        scorer = self.scorer(rows, contexts)
        roles = (STUDENT, *contexts)
        opinions = scorer.measure(
            {
                role: Quantity(partial(Positions.sampled, role=role, temperature=1.0), (role,))
                for role in roles
            }
        )
        means = {role: float(opinions[role][scorer.columns.seen((role,))].mean()) for role in roles}
        return {f"reference/{role}": -mean if role == STUDENT else mean for role, mean in means.items()}

    def reference_rows(self, probe: ReferenceProbe, asked: Sequence[Asked]) -> list[Trajectory]:
        return reference_rollouts(
            self.policy,
            asked,
            probe.field,
            max_tokens=self.recipe.rollouts.max_tokens,
            thinking=self.recipe.student_thinking,
            first_group=0,
        )

    def other_model(self, model: str) -> Policy:
        """A model that is not trained, for roles of ``External`` weights."""
        loading = self.config.loading
        return load_policy(
            resolve_model(model),
            precision=loading.precision,
            trained=False,
            trust_remote_code=loading.trust_remote_code,
            device=self.policy.model.device,
        )

    def update(self, scorer: Scorer, active: Collection[str]) -> tuple[list[Weighted], list[Outcome], float]:
        """Statistics, terms, gradient, optimizer step. Stops the run at a loss or gradient that is not finite."""
        stats = Statistics(
            scorer.columns,
            step=self.stage_done,
            temperature=self.recipe.temperature,
            roles=list(active),
            measure=scorer.measure,
            seed=self.config.seed,
        )
        try:
            weighted = plan(self.recipe.terms(stats), scorer.columns)
            outcomes = self.accumulate(scorer, weighted)
        except ValueError as problem:  # the objective's own checks: NaN log-probs, shapes that do not fit
            self.refuse(str(problem), scorer.rollouts)
        norm = self.clip()
        if not math.isfinite(norm):
            self.refuse(f"gradient norm is {norm}", scorer.rollouts)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        return weighted, outcomes, norm

    def accumulate(self, scorer: Scorer, weighted: list[Weighted]) -> list[Outcome]:
        """Add up the gradient of every micro-batch."""
        outcomes = []
        last = len(scorer.starts) - 1
        for i, batch in enumerate(scorer.batches()):
            # DDP averages gradients over processes, but the terms' denominators already span all of them.
            with self.accelerator.no_sync(self.module) if i < last else nullcontext():
                outcome = evaluate_terms(
                    batch, weighted, watch=watched(scorer.teachers, self.recipe.temperature)
                )
                if not torch.isfinite(outcome.loss):
                    self.refuse(f"loss is {float(outcome.loss.detach())}", scorer.rollouts)
                self.accelerator.backward(outcome.loss * self.accelerator.num_processes)
            outcomes.append(outcome)
        return outcomes

    def clip(self) -> float:
        bound = self.recipe.optimization.max_grad_norm
        parameters = list(self.policy.trainable().values())
        norm: Tensor = torch.nn.utils.clip_grad_norm_(parameters, bound or math.inf)
        return float(norm)

    def refuse(self, what: str, rollouts: Sequence[Trajectory]) -> NoReturn:
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
        resolve_model(loading.model) if loading.model else str(model_folder(config.task)),
        precision=loading.precision,
        lora=LoraConfig(adapter.lora_rank, adapter.lora_alpha) if adapter.lora_rank else None,
        gradient_checkpointing=loading.gradient_checkpointing,
        chat_template=loading.chat_template,
        revision=loading.model_revision,
        trust_remote_code=loading.trust_remote_code,
        device=device,
    )


def unavailable(contexts: Mapping[str, Context]) -> dict[str, float]:
    """``unavailable/NAME``: share of all processes' rollouts that the teacher was asked about and could not see."""
    blind = sum_over_processes({name: c.blind for name, c in contexts.items()})
    asked = sum_over_processes({name: c.asked for name, c in contexts.items()})
    return {f"unavailable/{name}": count / max(1, asked[name]) for name, count in blind.items()}


def share(prompts: int, processes: int) -> int:
    """Prompts for each process. UserError if they do not divide evenly."""
    if prompts % processes:
        raise UserError(
            f"prompts {prompts} do not divide over {processes} processes; choose a multiple of {processes}"
        )
    return prompts // processes


def refuse_blind_teacher(name: str, one: Context, bound: float, waits: bool) -> None:
    """``waits``: its view reads no private field, but how answers turn out; a right sibling may yet come."""
    blind = one.too_long + (0 if waits else one.no_privilege)
    if blind > bound * (len(one.prompts) - one.elsewhere):
        raise UserError(
            f"teacher {name!r} has nothing to see in {blind} of {len(one.prompts)} rollouts ({one.no_privilege} "
            f"without its privilege, {one.too_long} too long for the window): more than --max-unavailable {bound}"
        )
