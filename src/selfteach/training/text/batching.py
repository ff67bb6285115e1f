"""From trajectories to a batch: what each role reads of every row, the columns of all processes, and who scores."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from selfteach.errors import UserError
from selfteach.objective.batch import STUDENT
from selfteach.objective.positions import Positions, Quantity
from selfteach.policy.loading import bare
from selfteach.policy.sampler import LocalSampler
from selfteach.policy.sharding import as_many
from selfteach.roles.view import Plain
from selfteach.roles.weights import MOVING
from selfteach.task.trajectory import Trajectory
from selfteach.training.reduce import gather_rows, sum_over_processes
from selfteach.training.text.batch import Scoring
from selfteach.training.text.columns import gathered
from selfteach.training.text.contexts import Context, Reading, refuse_blind
from selfteach.training.text.models import Models
from selfteach.training.text.present import Present
from selfteach.training.text.teachers.handed import scored, without_unscored
from selfteach.training.text.update import TextBatch
from selfteach.training.text.vllm_rollouts import is_cut


class Batching:
    def __init__(self, now: Present, models: Models) -> None:
        self.now, self.models = now, models

    @property
    def reading(self) -> Reading:
        """How views become token ids at present."""
        now = self.now
        watch = partial(now.progress.working, "sampling")
        sampler_of = partial(LocalSampler, watch=watch)
        temperature = now.recipe.rollouts.temperature
        live = None if self.models.vllm is None else self.models.vllm.sampler(watch)
        return Reading(self.models.weights, sampler_of, now.task.wording, temperature, now.draws, live)

    def of(
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
        now = self.now
        rows = rows_of(trajectories)
        refuse_overlong(rows, self.models.policy.window, alone)
        roles = self.readers(roles)
        with now.clock("view"):
            # A record by itself is no share: that a role is blind for it says nothing.
            read = self.views(rows, roles) if alone else self.contexts(rows, roles)
            contexts, unscored = self.scorable(rows, read, alone)
            rows = self.with_sampled_signals(rows, contexts)
        sampled = self.sampled_roles(roles)
        scoring = self.scoring(rows, contexts, sampled, alone=alone)
        scoring.several = len(now.recipe.updates(step)) > 1
        settings, loading = now.config.bookkeeping, now.config.loading
        # What is stored was drawn from other weights, and is trained on as it is.
        fresh = now.config.sampled_apart and not now.recipe.rollouts.stored
        # Behind a cut vLLM's log-probs are those of the cut: the policy has scored the answers, and how they were drawn
        # is not known.
        fresh &= not (self.models.vllm is not None and is_cut(now.recipe))
        return TextBatch(
            step,
            now.recipe,
            rows,
            contexts,
            sampled,
            scoring,
            spent,
            now.config.seed,
            metrics_tokens=settings.metrics_tokens,
            sampler_cap=loading.importance_sampling_cap if fresh else None,
            unscored=unscored,
            written_at=self.models.written_at,
        )

    def scorable(
        self, rows: Sequence[Trajectory], contexts: Mapping[str, Context], alone: bool = False
    ) -> tuple[Mapping[str, Context], Mapping[str, list[bool]]]:
        """What is left of the contexts where a server could not score some rows, and which these are, by role.
        UserError where there are too many of all processes' rows; every process must call it, unless ``alone``."""
        handed, bound = self.models.handed, self.now.config.bookkeeping.max_unscored
        if handed is None or handed.stored:
            return contexts, {}
        sampled = self.sampled_roles(contexts)
        asked = [one for one in contexts if one not in sampled or lacking(rows, one, contexts[one])]
        if not alone:
            handed.forget()
        left, why = without_unscored(handed, rows, contexts, asked)
        unscored = {name: [one is not None for one in of_rows] for name, of_rows in why.items()}
        if alone:
            return left, unscored
        for name, of_rows in why.items():
            every = gather_rows(of_rows)
            reasons = [one for one in every if one is not None]
            if len(reasons) > bound * len(every):
                raise UserError(
                    f"the server gave no scores by {name!r} of {len(reasons)} of {len(every)} rollouts ({reasons[0]}): "
                    f"more than --max-unscored {bound}; look at the server, and go on with --resume"
                )
        return left, unscored

    def scoring(
        self,
        rows: Sequence[Trajectory],
        contexts: Mapping[str, Context],
        sampled: Sequence[str] = (),
        *,
        alone: bool = False,
    ) -> Scoring:
        """Scores the rows by the student and the roles of these contexts but for the ``sampled`` ones: these gave their
        log-probs already."""
        policy = self.models.policy
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
        size = self.now.config.bookkeeping.micro_batch
        roles, weights = self.now.recipe.roles, self.models.weights
        full = {name: context for name, context in contexts.items() if name not in sampled}
        handed = self.models.handed
        known = {
            name: scored(handed, name, rows, context, policy.model.device, columns.dtype)
            for name, context in full.items()
            if handed is not None and name in handed.roles
        }
        return Scoring(
            roles, weights, rows, full, columns, first_row, size, policy.model.device, self.now.progress.working, alone,
            frozen={**known},
        )  # fmt: skip

    # --- what the roles read --------------------------------------------------------------------------------------

    def readers(self, roles: Iterable[str]) -> list[str]:
        """The roles whose view must be rendered: those named, and the student if it is shown more than the prompt."""
        privileged = () if isinstance(self.now.recipe.student.view, Plain) else (STUDENT,)
        return list(dict.fromkeys([*privileged, *roles]))

    def contexts(self, rows: Sequence[Trajectory], names: Collection[str]) -> dict[str, Context]:
        """What the named roles read before each row. UserError if one is blind in too many of all processes' rows."""
        found = self.views(rows, names)
        waits = {name: not self.now.recipe.roles[name].view.fields for name in found}
        refuse_blind(found, waits, self.now.config.bookkeeping.max_unavailable)
        return found

    def views(self, rows: Sequence[Trajectory], names: Iterable[str]) -> dict[str, Context]:
        """The same, blind or not."""
        reading = self.reading
        return {name: reading.context(self.now.recipe.roles[name], rows) for name in names}

    # --- roles that hand over log-probs alone ---------------------------------------------------------------------

    def sampled_roles(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if self.now.recipe.roles[name].signal == "sampled"]

    def with_sampled_signals(
        self, rows: Sequence[Trajectory], contexts: Mapping[str, Context] | None = None
    ) -> list[Trajectory]:
        """The rows with the log-probs of roles of signal "sampled" where these see something; stored rows have them
        already (``contexts`` None: they are being stored, so that roles whose weights will move are left out)."""
        names = self.sampled_roles(self.unmoved if contexts is None else contexts)
        if not names:
            return list(rows)
        read = self.scorable(rows, self.contexts(rows, names))[0] if contexts is None else contexts
        wanted = [name for name in names if lacking(rows, name, read[name])]
        if not as_many(bare(self.models.policy.model), len(wanted)):
            return list(rows)
        with self.models.whole(self.now.recipe, roles=True):  # processes lack more or less
            scores = self._measured(rows, self.sampled(wanted), {name: read[name] for name in wanted})
        return [
            replace(
                one,
                log_probs={
                    **one.log_probs,
                    **{name: scores[name][i] for name in wanted if read[name].prompts[i] is not None},
                },
            )
            for i, one in enumerate(rows)
        ]

    @property
    def unmoved(self) -> list[str]:
        """The teachers whose weights stay what they are as long as the stage lasts."""
        return [name for name, one in self.now.recipe.teachers.items() if not isinstance(one.weights, MOVING)]

    def sampled(self, roles: Iterable[str]) -> dict[str, Quantity]:
        """The log-probs of the written tokens under each role, at the recipe's temperature."""
        temperature = self.now.recipe.temperature
        return {
            role: Quantity(partial(Positions.sampled, role=role, temperature=temperature), (role,))
            for role in roles
        }

    def measured(
        self, trajectories: Sequence[Trajectory], wanted: Mapping[str, Quantity]
    ) -> dict[str, list[list[float]]]:
        """Quantities of every trajectory's written tokens, NaN elsewhere.

        Of this process's trajectories alone: no other process is asked for anything.
        """
        parts = [rows_of([one]) for one in trajectories]
        flat = [part for each in parts for part in each]
        asked = dict.fromkeys(role for one in wanted.values() for role in one.roles if role != STUDENT)
        by_row = self._measured(flat, wanted, self.views(flat, self.readers(asked)))
        found: dict[str, list[list[float]]] = {}
        for name, columns in by_row.items():
            rows = iter(columns)
            found[name] = [[value for _ in each for value in next(rows)] for each in parts]
        return found

    def _measured(
        self, rows: Sequence[Trajectory], wanted: Mapping[str, Quantity], contexts: Mapping[str, Context]
    ) -> dict[str, list[list[float]]]:
        with torch.no_grad():
            columns = self.scoring(rows, contexts, alone=True).measure(wanted)
        return {
            name: [column[i, : len(one.ids)].tolist() for i, one in enumerate(rows)]
            for name, column in columns.items()
        }


def rows_of(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """What is scored: each trajectory, or its parts where turns do not extend one another; all of them numbered."""
    numbered = [
        one if one.trajectory is not None else replace(one, trajectory=-1 - i)
        for i, one in enumerate(trajectories)
    ]
    return [row for one in numbered for row in one.rows()]


def refuse_overlong(rows: Sequence[Trajectory], window: int, alone: bool) -> None:
    """UserError where the student itself cannot read a row; every process must call it, unless ``alone``."""
    lengths = [len(one.prompt_ids) + len(one.ids) for one in rows]
    long: float = sum(length > window for length in lengths)
    if not alone:
        long = sum_over_processes({"long": long})["long"]
    if long:
        raise UserError(
            f"{int(long)} rows of the batch are longer than the model's window of {window} tokens: lower max_tokens, "
            "drop long prompts, or cut what the recipe's rollout appends"
        )


def lacking(rows: Sequence[Trajectory], role: str, read: Context) -> bool:
    """Whether some row that the role sees has no log-probs of it yet."""
    return any(seen and role not in one.log_probs for one, seen in zip(rows, read.available, strict=True))
