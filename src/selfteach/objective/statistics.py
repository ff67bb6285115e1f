"""What a recipe may read before it names its terms: columns over the whole batch, without gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor

from selfteach.objective import advantage
from selfteach.objective.aggregate import (
    first_place_of,
    first_row_of,
    mean_by,
    quantile_over,
    standardized,
    sum_by,
    to_go,
)
from selfteach.objective.axes import LogProbs
from selfteach.objective.batch import STUDENT, ScoredBatch
from selfteach.objective.columns import Columns, by_position
from selfteach.objective.divisor import required, units
from selfteach.objective.entrywise import Divergence
from selfteach.objective.gate import ImportanceRatio
from selfteach.objective.listed import beyond, listed_roles
from selfteach.objective.minibatch import Minibatch
from selfteach.objective.positions import Positions, Quantity, only_sampled
from selfteach.objective.record import measure
from selfteach.objective.spans import row_top
from selfteach.objective.support import Full, Support, likeliest_read
from selfteach.objective.uniform import uniform

Measure = Callable[[Mapping[str, Quantity]], dict[str, Float[Tensor, "N T"]]]
"""Quantities by name → [N, T] columns over the whole batch, NaN where they were not measured."""


class Statistics:
    """The whole batch (all micro-batches, all processes) as [N] and [N, T] columns at one temperature.

    Columns that need logits are measured on first use, of the role that is read alone: a recipe that reads none of the
    student's costs no pass of the student. They are NaN at positions that the policy did not write, outside ``rows``
    and where a role they read saw nothing; a NaN of a role's own logits stays one too, and is refused by the term that
    reads it. A column that the batch lacks is refused (ValueError) by name when it is read.

    ``step``: the optimizer step the loss is for, from 0. ``roles``: those scored beside the student. ``rows`` [N] bool:
    the rows of the present update (None: all). ``old``: role → [N, T] log-probs measured before the first update
    of this batch (None: this is the first). ``record``: the rows are one record's, whose gradient must know nothing of
    the others (DP-OPD): a statistic of the whole batch is refused. ``listed``: the roles that hand over so many of
    their likeliest tokens, and no more. ``update``: which of the batch's updates the terms
    are for, of those that ``Recipe.updates`` named. ``metrics``: what the recipe reported.
    """

    def __init__(
        self,
        columns: Columns,
        *,
        step: int,
        temperature: float,
        roles: Sequence[str],
        measure: Measure,
        rows: Bool[Tensor, "N"] | None = None,
        old: Mapping[str, Float[Tensor, "N T"]] | None = None,
        seed: int = 0,
        record: bool = False,
        update: Minibatch = Minibatch(),
        listed: Mapping[str, int] | None = None,
    ) -> None:
        self.record, self.update = record, update
        self.columns, self.step, self.temperature, self.seed = columns, step, temperature, seed
        self.roles = tuple(role for role in roles if role != STUDENT)
        every = torch.ones(len(columns.ids), dtype=torch.bool, device=columns.ids.device)
        self.rows = every if rows is None else rows
        self.mask = columns.mask & self.rows.unsqueeze(1)
        self.metrics: dict[str, float] = {}
        self._measure, self._old, self._listed = measure, old, listed or {}
        self._cache: dict[str, Float[Tensor, "N T"]] = {}

    @classmethod
    def of(
        cls,
        batch: ScoredBatch,
        *,
        step: int = 0,
        temperature: float = 1.0,
        roles: Sequence[str] | None = None,
        rows: Bool[Tensor, "N"] | None = None,
        old: Mapping[str, Float[Tensor, "N T"]] | None = None,
        seed: int = 0,
        update: Minibatch = Minibatch(),
    ) -> Statistics:
        """The statistics of a batch that is whole, measured on its own states. ``roles``: by default all that gave
        states or log-probs."""

        def measured(wanted: Mapping[str, Quantity]) -> dict[str, Float[Tensor, "N T"]]:
            return {name: batch.spread(values) for name, values in measure(batch, wanted).items()}

        return cls(
            batch.columns,
            step=step,
            temperature=temperature,
            roles=[*batch.roles, *batch.columns.log_probs] if roles is None else roles,
            measure=measured,
            rows=rows,
            old=old,
            seed=seed,
            update=update,
            listed=listed_roles(batch.roles),
        )

    # --- what the batch says -------------------------------------------------------------------------------------

    @property
    def ids(self) -> Int[Tensor, "N T"]:
        return self.columns.ids

    @property
    def dtype(self) -> torch.dtype:
        """The type of numbers made from the columns."""
        return self.columns.dtype

    @property
    def group(self) -> Int[Tensor, "N"]:
        """[N] rows of one prompt share a number."""
        return required(self.columns.group, "group")

    @property
    def reward(self) -> Float[Tensor, "N"]:
        """[N]. ValueError if one is NaN or infinite."""
        reward = required(self.columns.reward, "reward")
        if not reward.isfinite().all():
            raise ValueError(f"reward is {float(reward[~reward.isfinite()][0])} at some row")
        return reward

    @property
    def correct(self) -> Bool[Tensor, "N"]:
        """[N] bool: reward ≥ 0.5, as ``Grade.correct`` has it. A recipe of another threshold reads ``reward``."""
        return self.reward >= 0.5

    @property
    def turn(self) -> Int[Tensor, "N T"]:
        """[N, T] long."""
        return required(self.columns.turn, "turn")

    @property
    def first_rows(self) -> Bool[Tensor, "N"]:
        """[N] the first row of each trajectory; each row where none has several."""
        number = self.columns.trajectory
        if number is None:
            return torch.ones_like(self.rows)
        return first_row_of(number) == torch.arange(len(number), device=number.device)

    def by_trajectory(self, values: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
        """[N] in place of each row's value that of its trajectory's first row."""
        number = self.columns.trajectory
        return values if number is None else values[first_row_of(number)]

    def trajectory_sum(self, values: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
        """[N] in place of each row's value the sum over the rows of its trajectory (its own where none has several)."""
        number = self.columns.trajectory
        return values if number is None else advantage.group_sum(values, number)

    @property
    def pair(self) -> Int[Tensor, "N"]:
        """[N] long: the row that this one is preferred to, −1 where there is none; of the update's rows."""
        return required(self.columns.pair, "pair").masked_fill(~self.rows, -1)

    @property
    def length(self) -> Int[Tensor, "N"]:
        """[N] long: written tokens."""
        return self.columns.mask.sum(dim=1)

    @property
    def relative_position(self) -> Float[Tensor, "N T"]:
        """[N, T] (t − ½)/|y| of the t-th (from 1) written token of a rollout; 0 where it wrote none (PW-OPSD)."""
        written = self.columns.mask
        nth = written.cumsum(dim=1).to(self.dtype) - 0.5
        return torch.where(written, nth / self.length.clamp(min=1).unsqueeze(1), 0.0)

    def mark(self, name: str) -> Bool[Tensor, "N T"]:
        """[N, T] bool: the written tokens that carry this mark."""
        return _named(self.columns.marks, "marks", name) & self.mask

    def number(self, name: str) -> Real[Tensor, "N"] | Real[Tensor, "N T"]:
        """[N] or [N, T]: a number somebody put beside the rows or tokens."""
        return _named(self.columns.numbers, "numbers", name)

    def origin(self, name: str) -> Bool[Tensor, "N"]:
        """[N] bool: the rows that ``name`` wrote."""
        if self.columns.origin is None:
            raise ValueError("the batch has no column 'origin', which is read")
        return torch.tensor(
            [one == name for one in self.columns.origin], dtype=torch.bool, device=self.ids.device
        )

    def special(self, name: str) -> Bool[Tensor, "N T"]:
        """[N, T] bool: the tokens with the id of this name, such as "eos"."""
        return self.ids == self.token(name)

    def token(self, name: str) -> int:
        """The id of this name, such as "eos". ValueError where the tokenizer has none."""
        if name not in self.columns.special:
            raise ValueError(
                f"special lacks {name!r}, which is read; there are {sorted(self.columns.special)}"
            )
        return self.columns.special[name]

    def seen(self, role: str) -> Bool[Tensor, "N T"]:
        """[N, T] bool: the update's written tokens at which ``role`` sees its view; none if it is not scored."""
        if role not in (STUDENT, *self.roles):
            return torch.zeros_like(self.mask)
        return self.columns.seen((role,)) & self.mask

    def available(self, role: str) -> Bool[Tensor, "N"]:
        """[N] bool: the rows in which ``role`` sees its view somewhere; none if it is not scored at this step."""
        everywhere = torch.ones_like(self.rows)
        if role not in (STUDENT, *self.roles):
            return ~everywhere
        given = self.columns.available.get(role, everywhere)
        return given if given.dim() == 1 else given.any(dim=1)

    def whole(self, role: str) -> Bool[Tensor, "N"]:
        """[N] bool: the update's rows of which ``role`` sees every written token, if there is one."""
        return self.mask.any(dim=1) & (self.seen(role) == self.mask).all(dim=1)

    # --- what is measured on logits ------------------------------------------------------------------------------

    def log_prob(self, role: str = STUDENT) -> Float[Tensor, "N T"]:
        """[N, T] log-prob (nats) of the sampled tokens under a role."""
        if role in self.columns.log_probs:
            return torch.where(self.seen(role), self.columns.log_probs[role], torch.nan)
        return self._standard("log_prob", role)

    def old_log_prob(self, role: str = STUDENT) -> Float[Tensor, "N T"]:
        """[N, T] the same, measured before the first update of this batch."""
        if self._old is None:
            return self.log_prob(role)
        return torch.where(self.seen(role), _named(self._old, "old_log_probs", role), torch.nan)

    @property
    def behavior_log_prob(self) -> Float[Tensor, "N T"]:
        """[N, T] log-prob (nats) of the sampled tokens under the policy that wrote them, the denominator of PPO's
        ratio: as recorded (NaN where nobody knows it, which a term refuses), else ``old_log_prob``."""
        return self.old_log_prob() if self.columns.behavior is None else self.columns.behavior

    def importance(self, cap: float | None = None) -> ImportanceRatio | None:
        """The gate min(π/μ, ``cap``), μ = ``behavior_log_prob``; None where it would be 1: the present policy wrote the
        tokens. It corrects the sampler's mismatch (SDPO, ExOPD)."""
        if self.columns.behavior is None and self._old is None:
            return None
        return ImportanceRatio(self.behavior_log_prob, cap, self.temperature)

    def entropy(self, role: str = STUDENT) -> Float[Tensor, "N T"]:
        """[N, T] entropy (nats) of a role's next-token distribution."""
        return self._standard("entropy", role)

    def divergence(
        self, role: str, divergence: Divergence, support: Support | None = None, of: str = STUDENT
    ) -> Float[Tensor, "N T"]:
        """[N, T] a divergence (nats) of ``of``, the side that the divergence calls student, from ``role``."""
        cut = support or Full()

        def function(at: Positions) -> Float[Tensor, "P"]:
            own = at.log_probs(of, self.temperature)
            theirs = at.log_probs(role, self.temperature, likeliest_read(cut))
            return divergence.unrefused(*cut.restrict(own, theirs))

        return self.column(f"divergence/{of}/{role}/{divergence}/{cut}", Quantity(function, (of, role)))

    def column(self, name: str, quantity: Quantity) -> Float[Tensor, "N T"]:
        """[N, T] any quantity of one position's logits; ``name`` identifies it, so that it is measured once."""
        if name not in self._cache:
            self._keep({name: quantity})
        return self._cache[name]

    def _standard(self, kind: str, role: str) -> Float[Tensor, "N T"]:
        if role not in (STUDENT, *self.roles):
            raise ValueError(
                f"{kind}/{role} is read, but the roles scored at this step are {[STUDENT, *self.roles]}"
            )
        if f"{kind}/{role}" not in self._cache:
            if role in self.columns.log_probs:
                raise only_sampled(role)
            if role in self._listed and kind == "entropy":
                raise beyond(role, self._listed[role], "the entropy")
            wanted = standard_columns(role, self.temperature)
            self._keep({f"log_prob/{role}": wanted[f"log_prob/{role}"]} if role in self._listed else wanted)
        return self._cache[f"{kind}/{role}"]

    def _refuse_record(self, what: str) -> None:
        if self.record:
            raise ValueError(
                f"{what} of the whole batch is read, which a gradient of single records must not know: use row_top, "
                "or a threshold that is a knob"
            )

    def _keep(self, wanted: Mapping[str, Quantity]) -> None:
        for name, column in self._measure(wanted).items():
            self._cache[name] = torch.where(self.mask, column, torch.nan)

    # --- what is made of columns ---------------------------------------------------------------------------------

    def sequence_mean(
        self, column: Float[Tensor, "N T"], among: Bool[Tensor, "N T"] | None = None
    ) -> Float[Tensor, "N"]:
        """[N, T] → [N]: each rollout's mean over its written tokens that ``among`` [N, T] selects (None: all), such as
        those that a role has ``seen``; 0 of none."""
        over = self.mask if among is None else self.mask & among
        return torch.where(over, column, 0.0).sum(dim=1) / over.sum(dim=1).clamp(min=1)

    def turn_mean(self, column: Float[Tensor, "N T"]) -> Float[Tensor, "N T"]:
        """[N, T] → [N, T]: each written token gets the mean over those of its turn; NaN elsewhere."""
        return mean_by(units(self.columns, "turn"), column, self.mask)

    def first_of_trajectory(
        self, column: Float[Tensor, "N T"], among: Bool[Tensor, "N T"] | None = None
    ) -> Float[Tensor, "N"]:
        """[N, T] → [N]: what stands at the first written token of each row's trajectory, in its earliest turn, in
        whichever row that stands; ``among`` [N, T]: of these tokens alone (None: all). NaN of none."""
        over = self.mask if among is None else self.mask & among
        place = first_place_of(over, self.columns.turn, self.columns.trajectory)
        if not over.numel():
            return column.new_full((len(over),), torch.nan)
        return column.flatten()[place.clamp(min=0)].masked_fill(place < 0, torch.nan)

    def to_go(
        self,
        column: Float[Tensor, "N T"],
        discount: float = 1.0,
        among: Bool[Tensor, "N T"] | None = None,
    ) -> Float[Tensor, "N T"]:
        """[N, T] → [N, T]: what is still to come in a row, each written token's entry and those behind it, a token
        further counting ``discount`` times as much (the return of a reward a token; MiniLLM, REINFORCE++).

        ``among`` [N, T]: only these tokens, such as those that a role has ``seen``. NaN elsewhere. ValueError: discount
        outside [0, 1].
        """
        return to_go(column, self.mask if among is None else self.mask & among, discount)

    def standardized(
        self, column: Float[Tensor, "*N"], among: Bool[Tensor, "*N"] | None = None, epsilon: float = 1e-4
    ) -> Float[Tensor, "*N"]:
        """(x − mean) / max(population standard deviation, ε), over the update's rows of [N], or over the written tokens
        of [N, T], of all processes (REINFORCE++'s global normalization); NaN elsewhere.

        ``among``, a mask of the same shape, selects further. ValueError for NaN among them, and of a single record.
        """
        self._refuse_record("a mean and deviation")
        over = self.rows if column.dim() == 1 else self.mask
        return standardized(column, over if among is None else over & among, epsilon)

    def unit_sum(
        self, unit: Int[Tensor, "N"] | Int[Tensor, "N T"], role: str = STUDENT
    ) -> Float[Tensor, "U"]:
        """[U] log-prob (nats) of each unit's tokens under a role.

        ``unit`` [N] or [N, T] long says to which unit a token belongs, counted from 0 (−1: to none). NaN
        where a token of the unit is outside the update or unseen by the role.
        """
        places = by_position(unit).expand(self.ids.shape)
        return sum_by(places, self.log_prob(role), self.columns.mask)

    def quantile(
        self, column: Float[Tensor, "*N"], q: float, among: Bool[Tensor, "*N"] | None = None
    ) -> Float[Tensor, ""]:
        """0-dim: the q-quantile of [N] over the update's rows, or of [N, T] over its written tokens.

        ``among``, a mask of the same shape, selects further. NaN of no entries. ValueError for NaN among them, and of a
        single record.
        """
        self._refuse_record("a quantile")
        over = self.rows if column.dim() == 1 else self.mask
        return quantile_over(column, q, over if among is None else over & among)

    def row_top(
        self,
        column: Float[Tensor, "N T"],
        most: int | float,
        among: Bool[Tensor, "N T"] | None = None,
        least: int = 0,
    ) -> Bool[Tensor, "N T"]:
        """[N, T] bool: each row's ``most`` (int: tokens, float: share of them, rounded down) written tokens of highest
        ``column``, ``least`` at least.

        ``among`` [N, T]: only of these. Of equals the earlier. ValueError for NaN among them.
        """
        return row_top(column, self.mask if among is None else self.mask & among, most, least)

    def group_sum(
        self, values: Float[Tensor, "N"], among: Bool[Tensor, "N"] | None = None
    ) -> Float[Tensor, "N"]:
        """[N] → [N]: the sum over the rows of each group that ``among`` [N] selects (None: all)."""
        return advantage.group_sum(values, self.group, among)

    def group_mean(
        self, values: Float[Tensor, "N"], among: Bool[Tensor, "N"] | None = None
    ) -> Float[Tensor, "N"]:
        """[N] → [N]: their mean; NaN where there are none."""
        return advantage.group_mean(values, self.group, among)

    def group_std(
        self, values: Float[Tensor, "N"], among: Bool[Tensor, "N"] | None = None
    ) -> Float[Tensor, "N"]:
        """[N] → [N]: their sample standard deviation; 0 of one row, NaN of none."""
        return advantage.group_std(values, self.group, among)

    def random(self, name: str) -> Float[Tensor, "N T"]:
        """[N, T] uniform in [0, 1): a pure function of seed, step, name, row and position, equal for any split."""
        key = f"{self.seed} {self.step} {name}"
        rows, steps = self.ids.shape
        return uniform(key, rows, steps, self.dtype, self.ids.device)

    def report(self, name: str, value: float | Real[Tensor, ""]) -> None:
        """Put a number into the step's metrics."""
        self.metrics[name] = float(value)


def standard_columns(role: str, temperature: float) -> dict[str, Quantity]:
    """Sampled log-prob and entropy of a role."""
    return {
        f"{kind}/{role}": Quantity(partial(function, role=role, temperature=temperature), (role,))
        for kind, function in (("log_prob", Positions.sampled), ("entropy", role_entropy))
    }


def role_entropy(at: Positions, role: str = STUDENT, temperature: float = 1.0) -> Float[Tensor, "P"]:
    """[P] entropy (nats) of a role's next-token distribution."""
    log_probs = at.log_probs(role, temperature)
    found = -(at.probs(role, temperature) * log_probs).sum(-1)
    return entropy(log_probs) if found.isnan().any() else found  # 0 · −inf of an excluded token


def entropy(log_probs: LogProbs) -> Float[Tensor, "*P"]:
    """[..., V] log-probs → [...] entropy in nats; an excluded token (−inf) adds nothing."""
    summands: Tensor = torch.special.entr(log_probs.exp())
    return summands.sum(dim=-1)


def _named(columns: Mapping[str, Tensor], kind: str, name: str) -> Tensor:
    if name not in columns:
        raise ValueError(f"{kind} lack {name!r}, which is read; there are {sorted(columns)}")
    return columns[name]
