"""Who writes a step's trajectories: the recipe, with the run's tools; or the stage's store, written once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from selfteach.policy.loading import Policy
from selfteach.recipes.base import Recipe
from selfteach.recipes.tools import Prompt, Tools
from selfteach.task.grading import grades
from selfteach.task.sizes import sizes_of
from selfteach.task.split import fingerprint
from selfteach.task.trajectory import Trajectory
from selfteach.training.progress import Progress
from selfteach.training.reduce import gather_rows, sum_over_processes
from selfteach.training.text.annotate import annotated
from selfteach.training.text.batching import Batching, rows_of
from selfteach.training.text.data import kept_out_of, probed_of
from selfteach.training.text.ledger import Ledger
from selfteach.training.text.present import Present
from selfteach.training.text.prompts import PromptStream, knob_of_longest
from selfteach.training.text.store import SERVED, NamedStore, require_answers
from selfteach.training.text.tools import TextTools

Rollout = Callable[[Tools, Sequence[Prompt], int], Sequence[Trajectory]]


class Writing:
    """``prompts``: where the data stands; ``stores``: what outlives a step; ``probed``: prompts never trained on;
    ``asked``: how many were drawn for the present step."""

    def __init__(self, now: Present, policy: Policy, batching: Batching, stages: Sequence[Recipe]) -> None:
        self.now, self.policy, self.batching = now, policy, batching
        self.prompts = PromptStream(
            now.task,
            policy,
            now.recipe.student_thinking,
            now.recipe.rollouts.max_tokens,
            knob_of_longest(now.config.recipe, now.stage),
        )
        sizes, asked = sizes_of(now.task), kept_out_of(stages)
        self.probed: list[Prompt] = self.prompts.take(asked if sizes is None else probed_of(sizes, asked))
        # Else they would come again, in the next epoch, or by chance: a hook must not choose by what is trained on.
        if sizes is not None or any(one.hook is not None for one in stages):
            self.prompts.kept_out = frozenset(fingerprint(one.example.problem) for one in self.probed)
        self.stores: dict[str, NamedStore] = {}
        self.filled: set[str] = set()
        self.asked = 0
        self.answers = 0
        self.answers_until_solved: int | None = None

    def enter(self) -> None:
        """Draw prompts as the present stage's student reads them."""
        self.prompts.thinking = self.now.recipe.student_thinking
        self.prompts.max_tokens = self.now.recipe.rollouts.max_tokens
        self.prompts.knob = knob_of_longest(self.now.config.recipe, self.now.stage)
        self.now.share(self.now.recipe.optimization.prompts)

    def aside(self, now: Present, batching: Batching) -> Writing:
        """One that writes the same way and leaves this one's data and stores alone, but what servers were asked for."""
        if now.recipe.servers:
            self.store(SERVED)
        other = copy(self)
        other.now, other.batching, other.prompts = now, batching, copy(self.prompts)
        other.filled = set(self.filled)
        other.stores = {
            name: one if name == SERVED else NamedStore(list(one.trajectories), deepcopy(one.notes))
            for name, one in self.stores.items()
        }
        return other

    def rollouts(self, step: int, progress: Progress) -> tuple[list[Trajectory], int]:
        """(this process's trajectories, tokens generated for them): written now, or from the stage's store."""
        now, recipe = self.now, self.now.recipe
        if not recipe.rollouts.stored:
            return self.write(recipe.optimization.prompts, step)
        name, spent = recipe.store or now.stage, 0
        store = self.store(name)
        if name not in self.filled:
            store.trajectories, spent = self.given() or self.write_once(recipe.rollouts.stored, step)
            kept = int(sum_over_processes({"answers": len(store.trajectories)})["answers"])
            progress.say(f"stage {now.stage}: {kept} answers stored")
            require_answers(kept)  # of all processes: one may have none, and learns from the others'
            self.filled.add(name)
        seed = f"{now.config.seed} {now.stage} {now.rank}"
        return store.take(step, now.share(recipe.optimization.prompts), seed), spent

    def write_once(self, prompts: int, step: int) -> tuple[list[Trajectory], int]:
        """Trajectories to be stored, with what the roles of signal "sampled" think of them."""
        written, spent = self.write(prompts, step)
        return self.batching.with_sampled_signals(rows_of(self.judged(written))), spent

    def given(self) -> tuple[list[Trajectory], int] | None:
        """This process's share of the answers that a teacher cache has scores of, for which nothing is generated; None:
        there is none."""
        handed = self.batching.models.handed
        if handed is None or not handed.stored:
            return None
        groups = {group: i for i, group in enumerate(dict.fromkeys(one.group for one in handed.stored))}
        now = self.now
        return [one for one in handed.stored if groups[one.group] % now.processes == now.rank], 0

    def write(self, prompts: int, step: int, rollout: Rollout | None = None) -> tuple[list[Trajectory], int]:
        """Answers to the next prompts as the recipe (or ``rollout``) writes them."""
        self.asked = 0
        mine, tools = self.drawn(prompts, step), self.tools(step)
        recipe = self.now.recipe
        own = rollout is not None or type(recipe).rollout is not Recipe.rollout
        # Each process writes as long as it has to; a rollout of the recipe's own may ask any role.
        with self.batching.models.whole_to_write(recipe, own=own):
            return list((rollout or recipe.rollout)(tools, mine, step)), tools.generated

    def drawn(self, prompts: int, step: int) -> list[Prompt]:
        """This process's share of the next prompts of the step, or of a Poisson sample of so many in the mean."""
        now = self.now
        if records := now.recipe.optimization.poisson_records:
            seed = f"{now.config.seed} {now.stage} {step} poisson"
            return self.prompts.sample(records, prompts / records, seed)[now.rank :: now.processes]
        every = [replace(one, group=one.group + self.asked) for one in self.prompts.take(prompts)]
        self.asked += prompts
        each = now.share(len(every))
        return every[now.rank * each : (now.rank + 1) * each]

    def further(self, step: int, lacking: int) -> list[Prompt]:
        """See ``Tools.more``."""
        wanted, processes = int(sum_over_processes({"lacking": lacking})["lacking"]), self.now.processes
        return self.drawn(-(-wanted // processes) * processes, step) if wanted > 0 else []

    def tools(self, step: int) -> TextTools:
        now = self.now
        return TextTools(
            policy=self.policy,
            recipe=now.recipe,
            reading=self.batching.reading,
            task=now.task,
            stores=self.store,
            measured=self.batching.measured,
            further=partial(self.further, step),
            seed=f"{now.config.seed} {now.stage} {step}",
            rank=now.rank,
            ledger=Ledger(now.config.out / "stored" / f"spent-{now.rank}.json"),
            batch_size=now.config.bookkeeping.sample_batch,
        )

    def judged(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """Graded, and annotated where the recipe reads marks."""
        task, recipe = self.now.task, self.now.recipe
        waiting = [one for one in trajectories if not one.grade]
        found = iter(grades(task, ((one.example.asked, one.text) for one in waiting)))
        graded = [one if one.grade else one.graded(next(found)) for one in trajectories]
        if recipe.annotated and not all({"key", "error"} <= set(one.marks) for one in graded):
            graded = annotated(task, self.policy.renderer, graded)
        return graded

    def count(self, trajectories: Sequence[Trajectory]) -> None:
        """How many answers it took until the first right one, over all processes (test-time training, SDPO)."""
        for right in gather_rows(one.right for one in trajectories):
            self.answers += 1
            if right and self.answers_until_solved is None:
                self.answers_until_solved = self.answers

    # --- what outlives a step -------------------------------------------------------------------------------------

    def store(self, name: str) -> NamedStore:
        return self.stores.setdefault(name, NamedStore())

    def path(self, name: str, version: int) -> Path:
        return self.now.config.out / "stored" / f"{name}-{self.now.rank}-{version}.jsonl"

    def state(self) -> dict[str, Any]:
        """Where the data stands; the stores are written beside, those that changed."""
        keep = self.now.config.bookkeeping.keep
        versions = {name: one.save(partial(self.path, name), keep) for name, one in self.stores.items()}
        return {
            "stores": gather_rows([versions]),
            "filled": sorted(self.filled),
            "cursor": self.prompts.cursor,
            "too_long": self.prompts.too_long,
            "answers": self.answers,
            "answers_until_solved": self.answers_until_solved,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        several = any(state["stores"])  # else there may be more or fewer processes now
        versions = state["stores"][self.now.rank] if several else {}
        self.stores = {name: NamedStore.load(partial(self.path, name), one) for name, one in versions.items()}
        self.filled = set(state["filled"])
        self.prompts.cursor, self.prompts.too_long = state["cursor"], state["too_long"]
        self.answers, self.answers_until_solved = state["answers"], state["answers_until_solved"]
