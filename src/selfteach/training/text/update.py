"""One update of a batch: statistics → terms → gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.errors import NotFinite
from selfteach.objective.batch import STUDENT
from selfteach.objective.columns import Columns
from selfteach.objective.engine import Outcome, evaluate_terms
from selfteach.objective.gate import GateProduct, ImportanceRatio, SamplerCorrection
from selfteach.objective.listed import listed_roles
from selfteach.objective.minibatch import Minibatch, rows_within
from selfteach.objective.plan import Weighted, plan
from selfteach.objective.positions import Positions, Quantity
from selfteach.objective.sequence import SequenceTerm
from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import Term
from selfteach.recipes.base import Recipe
from selfteach.task.trajectory import Trajectory
from selfteach.training.learner import Numbers
from selfteach.training.reduce import sum_over_processes
from selfteach.training.text.batch import Scoring
from selfteach.training.text.contexts import Context
from selfteach.training.text.drawn import Drawn


@dataclass
class TextBatch:
    """A step's rows on this process with what every role reads, and what its updates leave behind.

    ``spent``: tokens generated for it. ``old``: role → [N, T] log-probs before the first update. ``weighted`` and
    ``outcomes``: the last update's terms with their coefficients, and what each micro-batch gave; ``looked``: those
    outcomes that hold watched columns, measured at ``metrics_tokens`` of the batch (None: all).
    """

    step: int
    recipe: Recipe
    rows: Sequence[Trajectory]
    contexts: Mapping[str, Context]
    sampled: Sequence[str]
    scoring: Scoring
    spent: int
    seed: int = 0
    metrics_tokens: int | None = None
    verdicts: Mapping[str, int] = field(default_factory=dict)
    old: Mapping[str, Float[Tensor, "N T"]] | None = None
    weighted: Sequence[Weighted] = ()
    outcomes: list[Outcome] = field(default_factory=list)
    looked: list[Outcome] = field(default_factory=list)
    reported: dict[str, float] = field(default_factory=dict)
    unscored: Mapping[str, Sequence[bool]] = field(default_factory=dict)
    """By role, of each row that a server was to score, whether it did not."""
    sampler_cap: float | None = None
    """Truncation of importance weights where the sampler computes otherwise than what is trained (None: as it does, or
    the answers are stored ones: of another step's weights)."""
    written_at: int = 0
    """Optimizer steps that the weights had made which wrote the rows."""
    staleness: list[int] = field(default_factory=list)
    """Of each update so far: optimizer steps between the weights that wrote the rows and those that train on them."""
    before: Float[Tensor, "N T"] | None = None
    """Log-probs at which the student would have drawn the tokens, once an update has moved it (None: none has)."""

    @property
    def columns(self) -> Columns:
        return self.scoring.columns

    @cached_property
    def drawn(self) -> Drawn:
        """The tokens at which distributions are compared for the metrics."""
        return Drawn(self.columns, self.seed, self.step, self.metrics_tokens)

    @property
    def roles(self) -> list[str]:
        """Those that are scored at this step beside the student."""
        return [name for name in self.contexts if name != STUDENT]

    @property
    def listed(self) -> Mapping[str, int]:
        """Roles that hand over their likeliest tokens alone → how many."""
        return listed_roles(self.scoring.frozen)

    def within(self, update: Minibatch) -> Bool[Tensor, "N"] | None:
        """[N] bool: the rows of an update; None: all of them."""
        return rows_within(update, self.columns, self.seed) if update.parts > 1 else None

    def statistics(self, update: Minibatch | None = None, *, record: bool = False) -> Statistics:
        """What the terms of an update read (None: of the step's first, over all rows). ``record``: the batch is one
        record, and its gradient is to be private."""
        rows = None if update is None else self.within(update)
        update = update or self.recipe.updates(self.step)[0]
        return Statistics(
            self.columns,
            step=self.step,
            temperature=self.recipe.temperature,
            roles=self.roles,
            measure=partial(self.scoring.measure, rows=rows, trained=update.roles),
            rows=rows,
            old=self.old,
            seed=self.seed,
            record=record,
            update=update,
            listed=self.listed,
        )

    @property
    def correction(self) -> SamplerCorrection | None:
        """Of what the student drew for this batch in arithmetic of its sampler's own; at the temperature of the draw,
        whatever that of the loss."""
        if self.sampler_cap is None or self.columns.drawn is None:
            return None
        return SamplerCorrection(
            self.columns.drawn, self.sampler_cap, self.recipe.rollouts.temperature, self.before
        )

    def remember(self, rows: Bool[Tensor, "N"] | None, stats: Statistics) -> None:
        """Keep the log-probs of before the first update, which is of ``rows`` and has read ``stats``."""
        if self.old is not None:
            return
        whole = self.statistics() if rows is not None else stats
        # The graphs of an update's own rows are worth keeping for its gradient.
        with torch.set_grad_enabled(rows is None):
            self.old = {role: whole.log_prob(role) for role in (STUDENT, *self.roles)}
            if (correction := self.correction) is None:
                return
            self.before = self.old[STUDENT]
            if correction.temperature != self.recipe.temperature:
                drawn = Quantity(partial(Positions.sampled, temperature=correction.temperature))
                self.before = self.scoring.measure({"drawn": drawn})["drawn"]

    def planned(self, stats: Statistics, rows: Bool[Tensor, "N"] | None = None) -> list[Weighted]:
        """The recipe's terms with their coefficients, corrected for a sampler of its own arithmetic."""
        terms = self.recipe.summands(stats)
        if (correction := self.correction) is not None:
            terms = [corrected(one, correction) for one in terms]
        return plan(terms, self.columns, rows)


def backward(
    batch: TextBatch,
    update: Minibatch,
    watch: Mapping[str, Quantity],
    *,
    several: bool,
    compiler: str | None = None,
) -> Numbers:
    """Add the update's gradient to ``.grad``; its loss and terms over all processes.

    ``watch``: columns measured beside the loss. ``several``: more updates of the batch follow, which may ask for the
    log-probs as they are now. Raises ``NotFinite`` where a term reads NaN.
    """
    rows = batch.within(update)
    stats = batch.statistics(update)
    try:
        weighted = batch.planned(stats, rows)
        if several:
            batch.remember(rows, stats)
        trained = {one.term.role for one in weighted}
        parts, outcomes = batch.scoring.parts(rows, {*update.roles, *trained}), []
        batch.scoring.release_all_but(parts)
        for part in parts:
            outcomes.append(differentiated(batch, part, weighted, trained, watch, compiler))
            batch.scoring.working("gradient", len(outcomes) / len(parts))
    except ValueError as problem:  # the objective's own checks: NaN log-probs, shapes that do not fit
        raise NotFinite(str(problem)) from problem
    finally:
        batch.scoring.kept.clear()
    batch.scoring.forget(trained)
    batch.weighted, batch.outcomes = weighted, outcomes
    batch.looked += outcomes if watch else []
    batch.reported |= stats.metrics
    return numbers_of(weighted, outcomes)


def differentiated(
    batch: TextBatch,
    part: tuple[int, ...],
    weighted: Sequence[Weighted],
    trained: set[str],
    watch: Mapping[str, Quantity],
    compiler: str | None,
) -> Outcome:
    """One micro-batch: its loss, whose gradient is added to ``.grad``."""
    scored = batch.scoring.batch(part, trained, features=reads_features(weighted))
    outcome = evaluate_terms(scored, weighted, watch=watch, compiler=compiler)
    if outcome.loss.requires_grad:
        outcome.loss.backward()
    batch.scoring.release(part)
    return outcome


def corrected(term: Term, correction: SamplerCorrection) -> Term:
    """The term with the correction among its gates, unless its own ratio has the sampler's log-prob below already."""
    gates = () if term.gate is None else (term.gate,)
    if (
        isinstance(term, SequenceTerm) or term.role != STUDENT
    ):  # it weighs its units itself; another writes elsewhere
        return term
    if getattr(term, "behavior", None) is not None or any(isinstance(one, ImportanceRatio) for one in gates):
        return term
    return replace(term, gate=GateProduct((*gates, correction)) if gates else correction)


def reads_features(weighted: Sequence[Weighted]) -> bool:
    return any("features" in one.term.reads.values() for one in weighted)


def losses_of(batch: TextBatch) -> Iterator[Float[Tensor, ""]]:
    """The loss of a batch that is one record, a micro-batch at a time. Raises ``NotFinite`` where a term reads NaN."""
    stats = batch.statistics(record=True)
    try:
        weighted = batch.planned(stats)
        trained = {one.term.role for one in weighted}
        for part in batch.scoring.parts(trained={*stats.update.roles, *trained}):
            scored = batch.scoring.batch(part, trained, features=reads_features(weighted))
            yield evaluate_terms(scored, weighted).loss
            batch.scoring.release(part)
    except ValueError as problem:
        raise NotFinite(str(problem)) from problem


def numbers_of(weighted: Sequence[Weighted], outcomes: Sequence[Outcome]) -> Numbers:
    """``loss`` and ``terms/NAME``, summed over micro-batches and processes (their divisors span all)."""
    own = {f"terms/{one.term.name}": 0.0 for one in weighted} | {"loss": 0.0}
    for outcome in outcomes:
        own["loss"] += float(outcome.loss.detach())
        for name, value in outcome.terms.items():
            own[f"terms/{name}"] += float(value)
    return sum_over_processes(own)
