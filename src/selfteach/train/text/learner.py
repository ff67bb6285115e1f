"""A causal language model that learns from text: what a recipe declares, made to run under the ``Trainer``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from selfteach.control.controller import Controller
from selfteach.control.hook import Hook
from selfteach.errors import UserError
from selfteach.objective.batch import STUDENT
from selfteach.objective.minibatch import Update as Planned
from selfteach.objective.positions import Positions, Quantity
from selfteach.policy.loading import LoraConfig, Policy, load_policy
from selfteach.policy.sampler import GenerateSampler
from selfteach.policy.sampler import NotFinite as NotSampled
from selfteach.recipes.base import BASE, Adapter, Optimization, PerRecord, Recipe, with_knobs
from selfteach.roles.store import WeightStore
from selfteach.roles.view import Plain
from selfteach.roles.weights import POLICY, Snapshot
from selfteach.task.arena import model_folder, resolve_model
from selfteach.task.example import Task
from selfteach.task.opening import open_task
from selfteach.task.trajectory import Trajectory
from selfteach.train.clock import Clock
from selfteach.train.config import TrainConfig
from selfteach.train.learner import Learner, NotFinite, Numbers, Role, Sample, Stage, Trained, Update
from selfteach.train.progress import Progress
from selfteach.train.reduce import gather_rows
from selfteach.train.schedule import scheduled
from selfteach.train.text import metrics, preflight, tokens
from selfteach.train.text.annotate import annotated
from selfteach.train.text.batch import Scoring
from selfteach.train.text.classes import read_classes, token_classes
from selfteach.train.text.columns import gathered
from selfteach.train.text.contexts import Context, Reading, refuse_blind
from selfteach.train.text.evaluation import HEADLINE, Answered, examined
from selfteach.train.text.private import private_gradient
from selfteach.train.text.probe import reference_likelihoods
from selfteach.train.text.prompts import PromptStream
from selfteach.train.text.starts import Starts
from selfteach.train.text.store import NamedStore, require_answers
from selfteach.train.text.tools import TextTools
from selfteach.train.text.update import TextBatch, backward, losses_of


class TextLearner(Learner):
    """``recipe`` is the present stage's, with the knobs as its controllers have set them for the step."""

    unit = "tokens"
    headline = HEADLINE
    advice = "lower --lr, or look at the batch's longest rollouts"

    def __init__(self, config: TrainConfig, progress: Progress) -> None:
        self.config, self.progress, self.clock = config, progress, Clock()
        here = PartialState(cpu=config.loading.device == "cpu")
        self.rank, self.processes, self.device = here.process_index, here.num_processes, here.device
        self.task: Task = open_task(config.task, seed=config.seed, options=config.task_options)
        self.also = [open_task(name, seed=config.seed) for name in config.evaluation.eval_also]
        self.recipes = list(config.recipe.stages.items())
        self.stages = [Stage(name, recipe.optimization.steps) for name, recipe in self.recipes]
        self.policies = {
            name: load_trained(config, adapter, self.device)
            for name, adapter in adapters(self.recipes).items()
        }
        snapshots = [
            role.weights
            for _, recipe in self.recipes
            for role in recipe.roles.values()
            if isinstance(role.weights, Snapshot)
        ]
        self.weights = WeightStore(self.policies, partial(load_external, config, self.device), snapshots)
        self.reading = Reading(
            self.weights, GenerateSampler, self.task.wording, config.recipe.rollouts.temperature
        )
        self.starts = Starts(self.policies, [recipe for _, recipe in self.recipes])
        self.classes = token_classes(
            self.policy.renderer, self.policy.vocabulary, read_classes(config.bookkeeping.token_classes)
        )
        self.prompts = PromptStream(
            self.task, self.policy, config.recipe.student_thinking, config.recipe.rollouts.max_tokens
        )
        probes = [recipe.reference_probe for _, recipe in self.recipes]
        self.probed = self.prompts.take(max((probe.examples for probe in probes if probe), default=0))
        self.stores: dict[str, NamedStore] = {}
        self.answers_shown: list[Answered] = []
        self.stage: int | None = None
        self.stage_name, self.recipe = self.recipes[0]
        self.controllers: dict[str, Controller] = {}
        self.hook: Hook | None = None
        self.step = self.hooked = self.answers = 0
        self.answers_until_solved: int | None = None

    @property
    def policy(self) -> Policy:
        """The weights that a recipe trains unless it says otherwise."""
        return self.policies[POLICY]

    # --- what the Trainer asks for -------------------------------------------------------------------------------

    def modules(self) -> Mapping[str, nn.Module]:
        return {name: policy.model for name, policy in self.policies.items()}

    def enter(self, stage: int) -> None:
        """Begin a stage: its weights from where it says, its roles, its controllers."""
        self.begin_weights(stage)
        self.controllers = {
            knob: spec.start(self.config.seed) for knob, spec in self.recipe.controllers.items()
        }
        self.hook = None if self.recipe.hook is None else self.recipe.hook.start(self.config.seed)
        self.hooked = self.step = 0
        self.reading = replace(self.reading, temperature=self.recipe.rollouts.temperature)
        self.prompts.thinking = self.recipe.student_thinking
        self.prompts.max_tokens = self.recipe.rollouts.max_tokens
        share(self.recipe.optimization.prompts, self.processes)

    def begin_weights(self, stage: int) -> None:
        first, follows = self.stage is None, self.stage is not None and stage == self.stage + 1
        if first:
            self.starts.keep(BASE)
        elif follows:
            self.starts.keep(self.stage_name)
            self.weights.snapshot(self.stage_name, "end")
        self.stage = stage
        self.stage_name, self.recipe = self.recipes[stage]
        if first or follows:  # else the run is resumed, and its weights are put back next
            for name, trained in self.recipe.trained.items():
                self.starts.put(name, trained.start)
        self.weights.snapshot(self.stage_name, "start")
        self.weights.enter([role.weights for role in self.recipe.roles.values()], moved=stage > 0)

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        return {
            name: trained_of(self.policies[name], trained.optimization, self.updates_each(name))
            for name, trained in self.recipe.trained.items()
        }

    def updates_each(self, name: str) -> int:
        """Optimizer steps that the weights ``name`` make on a batch, as the stage's first one has them."""
        return max(1, sum(name in one.trains for one in self.recipe.updates(0)))

    def roles(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Role]:
        return {"weights": self.weights}

    def preflight(self) -> None:
        preflight.preflight(self)

    def collect(self, step: int) -> TextBatch:
        """Prompts → trajectories → graded → views → columns; nobody has scored anything yet."""
        self.step = step
        self.set_knobs(step)
        before = Counter(self.task.verdicts)
        try:
            with self.clock("sample"):
                written, spent = self.rollouts(step)
            with self.clock("grade"):
                trajectories = self.judged(written)
        except NotSampled as problem:
            raise NotFinite(str(problem)) from problem
        self.count_answers(trajectories)
        batch = self.batch_of(trajectories, self.recipe.active(step), step, spent)
        batch.verdicts = Counter(self.task.verdicts) - before
        return batch

    def updates(self, batch: TextBatch) -> Iterator[Update]:
        planned = list(self.recipe.updates(batch.step))
        for number, one in enumerate(planned):
            several = number < len(planned) - 1
            yield Update(one.trains, partial(self.backward, batch, one, several))

    def backward(self, batch: TextBatch, update: Planned, several: bool) -> Numbers:
        if self.recipe.per_record is not None:
            return self.private_backward(batch, self.recipe.per_record)
        others = [name for name in batch.scoring.contexts if name != STUDENT]
        watch = metrics.watched(others, self.recipe.temperature) if update.epoch == 0 else {}
        compiler = "inductor" if self.config.bookkeeping.compile else None
        return backward(batch, update, watch, several=several, compiler=compiler)

    def private_backward(self, batch: TextBatch, spec: PerRecord) -> Numbers:
        """Each record's gradient by itself, clipped; noise is drawn in the first process alone."""
        by_record: dict[int, list[Trajectory]] = {}
        for one in batch.rows:
            by_record.setdefault(one.group, []).append(one)
        records = [self.record_of(rows, batch) for rows in by_record.values()]
        generator = torch.Generator().manual_seed(hash((self.config.seed, self.stage, batch.step)) % 2**63)
        parameters = {f"{n}.{k}": p for n, one in self.policies.items() for k, p in one.trainable().items()}
        return private_gradient(records, parameters, spec, generator if self.rank == 0 else None)

    def record_of(self, rows: Sequence[Trajectory], batch: TextBatch) -> Callable[[], Iterator[Tensor]]:
        return partial(losses_of, self.batch_of(rows, batch.contexts, batch.step, alone=True))

    def spent(self, batch: TextBatch) -> int:
        return batch.spent

    def metrics(self, batch: TextBatch, done: Sequence[Numbers]) -> Mapping[str, Any]:
        row = metrics.row_of(batch, self.classes, self.clock.total)
        control = {f"control/{knob}": getattr(self.recipe, knob) for knob in self.controllers}
        too_long = {"prompts/too_long": self.prompts.too_long}
        return {**row, **too_long, **control, **reference_likelihoods(self, batch.step)}

    def observe(self, row: Mapping[str, Any]) -> None:
        for controller in self.controllers.values():
            controller.observe(row)
        self.weights.observe(row)

    def after_step(self, weights: Mapping[str, nn.Parameter], evaluate: Callable[[], float]) -> bool:
        if self.hook is None:
            return False
        self.hooked += 1
        self.hook.after_step(self.hooked, weights, evaluate)
        return True

    def evaluate(self, phase: Literal["before", "train", "after", "hook"]) -> Mapping[str, float] | None:
        if self.config.evaluation.eval_problems == 0:
            return None
        numbers, answers = examined(self)
        if phase != "hook":
            self.answers_shown = answers
        return numbers

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
        return self.config.bookkeeping.until_solved and self.answers_until_solved is not None

    def state(self) -> dict[str, Any]:
        self.save_stores()
        return {
            "controllers": {knob: one.state() for knob, one in self.controllers.items()},
            "hook": None if self.hook is None else self.hook.state(),
            "hooked": self.hooked,
            "stores": sorted(self.stores),
            "cursor": self.prompts.cursor,
            "too_long": self.prompts.too_long,
            "answers": self.answers,
            "answers_until_solved": self.answers_until_solved,
            "starts": self.starts.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        for knob, one in self.controllers.items():
            one.load_state(state["controllers"][knob])
        if self.hook is not None:
            self.hook.load_state(state["hook"])
        self.hooked = state["hooked"]
        self.stores = {name: NamedStore.load(self.store_path(name)) for name in state["stores"]}
        self.prompts.cursor, self.prompts.too_long = state["cursor"], state["too_long"]
        self.answers, self.answers_until_solved = state["answers"], state["answers_until_solved"]
        self.starts.load_state(state["starts"])

    def table(self) -> Mapping[str, Any]:
        return self.config.table()

    def summary(self) -> Mapping[str, Any]:
        return {"too_long_prompts": self.prompts.too_long, "answers_until_solved": self.answers_until_solved}

    def export(self, folder: Path) -> None:
        for name, policy in self.policies.items():
            policy.save(folder if name == POLICY else folder.with_name(f"{folder.name}-{name}"))

    # --- the parts of a step --------------------------------------------------------------------------------------

    def set_knobs(self, step: int) -> None:
        """Let each controller set its knob for the step to come; every process gets the first one's choice."""
        if not self.controllers:
            return
        progress = step / self.recipe.optimization.steps
        chosen = [{knob: one.choose(progress) for knob, one in self.controllers.items()}]
        broadcast_object_list(chosen)
        self.recipe = with_knobs(self.recipe, chosen[0])

    def rollouts(self, step: int) -> tuple[list[Trajectory], int]:
        """(this process's trajectories, tokens generated for them): written now, or from the stage's store."""
        prompts = self.recipe.optimization.prompts
        if not self.recipe.rollouts.stored:
            return self.write(prompts, step)
        store, spent = self.store(self.recipe.store or self.stage_name), 0
        if not store.trajectories:
            store.trajectories, spent = self.write_once(self.recipe.rollouts.stored, step)
            self.progress.say(f"stage {self.stage_name}: {len(store.trajectories)} answers stored")
        require_answers(store.trajectories)
        seed = f"{self.config.seed} {self.stage_name} {self.rank}"
        return store.take(step, share(prompts, self.processes), seed), spent

    def write_once(self, prompts: int, step: int) -> tuple[list[Trajectory], int]:
        """Trajectories to be stored, with what the roles of signal "sampled" think of them."""
        written, spent = self.write(prompts, step)
        trajectories = self.judged(written)
        contexts = self.contexts(trajectories, self.sampled_roles(self.recipe.teachers))
        return self.with_sampled_signals(trajectories, contexts), spent

    def write(self, prompts: int, step: int) -> tuple[list[Trajectory], int]:
        """Answers to the next prompts as the recipe writes them. Every process draws all and keeps its share."""
        drawn = self.prompts.take(prompts)
        each = share(len(drawn), self.processes)
        mine = drawn[self.rank * each : (self.rank + 1) * each]
        tools = self.tools(step)
        return list(self.recipe.rollout(tools, mine, step)), tools.generated

    def tools(self, step: int) -> TextTools:
        return TextTools(
            policy=self.policy,
            recipe=self.recipe,
            reading=self.reading,
            task=self.task,
            stores=self.store,
            score=self.log_probs,
            seed=f"{self.config.seed} {self.stage_name} {step} {self.rank}",
            batch_size=self.config.bookkeeping.sample_batch,
        )

    def judged(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """Graded, and annotated where the recipe reads marks."""
        graded = [
            one if one.grade else one.graded(self.task.grade(one.example, one.text)) for one in trajectories
        ]
        if self.recipe.annotated and not all({"key", "error"} <= set(one.marks) for one in graded):
            graded = annotated(self.task, self.policy.renderer, graded)
        return graded

    def batch_of(
        self,
        trajectories: Sequence[Trajectory],
        roles: Collection[str],
        step: int,
        spent: int = 0,
        *,
        alone: bool = False,
    ) -> TextBatch:
        """The trajectories' rows with what the named roles read of them. UserError if one of these is blind.

        ``alone``: they are a batch of their own, and other processes are not asked for theirs.
        """
        rows = [row for one in trajectories for row in one.rows()]
        roles = self.readers(roles)
        with self.clock("view"):
            contexts = self.contexts(rows, roles)
            rows = self.with_sampled_signals(rows, contexts)
        sampled = self.sampled_roles(roles)
        full = {name: context for name, context in contexts.items() if name not in sampled}
        scoring = self.scoring(rows, full, sampled, alone=alone)
        scoring.several = len(self.recipe.updates(step)) > 1
        return TextBatch(step, self.recipe, rows, contexts, sampled, scoring, spent, self.config.seed)

    def scoring(
        self,
        rows: Sequence[Trajectory],
        contexts: Mapping[str, Context],
        sampled: Sequence[str] = (),
        *,
        alone: bool = False,
    ) -> Scoring:
        """Scores the rows by the student and the roles of these contexts; ``sampled`` roles gave log-probs already."""
        policy = self.policy
        eos = policy.tokenizer.eos_token_id
        columns, first_row = gathered(
            rows,
            contexts,
            sampled,
            special={} if eos is None else {"eos": int(eos)},
            dtype=torch.promote_types(torch.float32, policy.model.dtype),
            device=policy.model.device,
            alone=alone,
        )
        size = self.config.bookkeeping.micro_batch or max(1, len(rows))
        roles = self.recipe.roles
        return Scoring(
            roles, self.weights, rows, contexts, columns, first_row, size, policy.model.device, alone
        )

    # --- what the roles read --------------------------------------------------------------------------------------

    def readers(self, roles: Iterable[str]) -> list[str]:
        """The roles whose view must be rendered: those named, and the student if it is shown more than the prompt."""
        privileged = () if isinstance(self.recipe.student.view, Plain) else (STUDENT,)
        return list(dict.fromkeys([*privileged, *roles]))

    def contexts(self, rows: Sequence[Trajectory], names: Collection[str]) -> dict[str, Context]:
        """What the named roles read before each row. UserError if one of them is blind."""
        found = self.views(rows, names)
        for name, one in found.items():
            waits = not self.recipe.roles[name].view.fields
            refuse_blind(name, one, self.config.bookkeeping.max_unavailable, waits)
        return found

    def views(self, rows: Sequence[Trajectory], names: Iterable[str]) -> dict[str, Context]:
        """The same, blind or not."""
        return {name: self.reading.context(self.recipe.roles[name], rows) for name in names}

    def sampled_roles(self, names: Iterable[str]) -> list[str]:
        """Those that hand over the sampled tokens' log-probs alone."""
        return [name for name in names if self.recipe.roles[name].signal == "sampled"]

    def with_sampled_signals(
        self, rows: Sequence[Trajectory], contexts: Mapping[str, Context]
    ) -> list[Trajectory]:
        """The rows with the log-probs of roles of signal "sampled"; stored ones have them already."""
        wanted = [
            name for name in self.sampled_roles(contexts) if not all(name in one.log_probs for one in rows)
        ]
        if not wanted:
            return list(rows)
        scores = {name: self.log_probs(rows, name, contexts[name]) for name in wanted}
        return [
            replace(
                one,
                log_probs={
                    **one.log_probs,
                    **{name: scores[name][i] for name in wanted if contexts[name].prompts[i] is not None},
                },
            )
            for i, one in enumerate(rows)
        ]

    def log_probs(
        self, rows: Sequence[Trajectory], role: str, context: Context | None = None
    ) -> list[list[float]]:
        """Log-probs (nats) of every row's written tokens under a role, NaN elsewhere; at the recipe's temperature."""
        if context is None and role != STUDENT:
            context = self.views(rows, [role])[role]
        contexts = {} if context is None else {role: context}
        scoring = self.scoring(rows, contexts)
        quantity = Quantity(
            partial(Positions.sampled, role=role, temperature=self.recipe.temperature), (role,)
        )
        with torch.no_grad():
            column = scoring.measure({"log_prob": quantity})["log_prob"]
        first = scoring.first_row
        return [column[first + i, : len(one.ids)].tolist() for i, one in enumerate(rows)]

    # --- what outlives a step -------------------------------------------------------------------------------------

    def store(self, name: str) -> NamedStore:
        return self.stores.setdefault(name, NamedStore())

    def store_path(self, name: str) -> Path:
        return self.config.out / "stored" / f"{name}-{self.rank}.jsonl"

    def save_stores(self) -> None:
        for name, one in self.stores.items():
            one.save(self.store_path(name))

    def count_answers(self, trajectories: Sequence[Trajectory]) -> None:
        """How many answers it took until the first right one, over all processes (test-time training, card 28)."""
        for right in gather_rows(one.grade is not None and one.grade.correct for one in trajectories):
            self.answers += 1
            if right and self.answers_until_solved is None:
                self.answers_until_solved = self.answers


def adapters(recipes: Sequence[tuple[str, Recipe]]) -> dict[str, Adapter]:
    """Each set of trained weights with the adapter of the first stage that trains it."""
    found: dict[str, Adapter] = {}
    for _, recipe in recipes:
        for name, trained in recipe.trained.items():
            found.setdefault(name, trained.adapter)
    return found


def trained_of(policy: Policy, o: Optimization, updates: int) -> Trained:
    """AdamW on the policy's trainable weights, with the recipe's schedule over all updates of the stage."""
    parameters = policy.trainable()
    optimizer = torch.optim.AdamW(
        list(parameters.values()), lr=o.lr, betas=o.betas, weight_decay=o.weight_decay
    )
    schedule = scheduled(optimizer, o.schedule, o.warmup * updates, o.steps * updates)
    return Trained(optimizer, parameters, schedule, o.max_grad_norm)


def load_trained(config: TrainConfig, adapter: Adapter, device: torch.device) -> Policy:
    """The policy to train: full weights, or LoRA where ``lora_rank`` is above 0."""
    loading = config.loading
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


def load_external(config: TrainConfig, device: torch.device, model: str) -> Policy:
    """Another model, which never moves."""
    loading = config.loading
    return load_policy(
        resolve_model(model),
        precision=loading.precision,
        trained=False,
        trust_remote_code=loading.trust_remote_code,
        device=device,
    )


def share(prompts: int, processes: int) -> int:
    """Prompts for each process. UserError if they do not divide evenly."""
    if prompts % processes:
        raise UserError(
            f"prompts {prompts} do not divide over {processes} processes; choose a multiple of {processes}"
        )
    return prompts // processes
