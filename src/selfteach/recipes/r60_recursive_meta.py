"""Recursive meta-distillation: generation after generation, each anchored to base teachers (arXiv 2601.13100)."""

from __future__ import annotations

from selfteach.recipes.network_kit import *


@settings
class RecursiveMeta(NetworkRecipe):
    """A generation is fitted to a meta-teacher m, made of the generation before, p, and of the base teachers' pool q:

        arithmetic   m = (1 − a) p + a q                  q = Σ_k w_k q_k
        geometric    m ∝ p^(1 − a) q^a                    q ∝ Π_k q_k^(w_k)
        L = KL(m ‖ p_θ) + l2/2 |θ|²

    Fitted exactly, KL(q ‖ p) falls by the factor 1 − a a generation at least. The paper names no operator and no loss:
    these two are ours, in the sense of its abstract.
    """

    name = "recursive-meta"
    title = "Recursive Meta-Distillation: An Axiomatic Framework for Iterative Knowledge Refinement"
    source = "https://arxiv.org/abs/2601.13100"
    formula = "KL(m ‖ p), m = (1 − a) p_before + a Σ w_k q_k"
    learner = "recursion"
    outputs = {
        "log_p": "[n, c] log-probs of the generation that is fitted",
        "m": "[n, c] what it is fitted to: the meta-teacher's probabilities, or shares of what was drawn from it",
        "norm": "[] |θ|², the weights of softmax regression; 0 of a table, which has none",
    }

    data: str = "table"
    """table (distributions drawn at random), digits, or FILE.npz with arrays x and y of labels."""
    steps: PositiveInt = 30
    """Generations."""
    anchor: UnitInterval = 0.2
    """a, the weight of the base teachers; 0: none, and errors add up."""
    anchor_end: UnitInterval | None = None
    """a of the last generation, reached on a straight line (None: constant)."""
    operator: Literal["arithmetic", "geometric"] = "arithmetic"
    """Which mean the meta-teacher is: of probabilities, or of log-probs."""
    teachers: PositiveRows = 2
    """Base teachers: of data table drawn, else each fitted to its part of the training data."""
    teacher_weights: tuple[UnitInterval, ...] = ()
    """w, one for each, with a sum of 1 (empty: all equal)."""
    teacher_temperature: PositiveFloat = 1.0
    """T: a base teacher says q_k^(1/T), rescaled to sum to 1."""
    start: Literal["drawn", "base"] = "drawn"
    """The first generation: drawn at random, or fitted to the base teachers."""
    samples: NonNegativeInt = 0
    """Labels drawn from the meta-teacher for each input, which a generation is fitted to (0: to the meta-teacher)."""
    smoothing: PositiveFloat = 0.5
    """Added to the number of draws of every label."""
    l2: PositiveFloat = 1e-3
    """Weight of |θ|²/2 in the fit of softmax regression."""
    contexts: PositiveRows = 20
    """Distributions of data table."""
    classes: PositiveRows = 50
    """Labels of data table."""

    def __post_init__(self) -> None:
        weights = self.teacher_weights
        require(
            not weights or (len(weights) == self.teachers and abs(sum(weights) - 1) < 1e-6),
            f"teacher_weights must be {self.teachers} numbers, one a teacher, with a sum of 1, got {weights}",
        )

    def anchor_at(self, step: int) -> float:
        """a of a generation, from 0."""
        end = self.anchor if self.anchor_end is None else self.anchor_end
        return self.anchor + (end - self.anchor) * min(1.0, step / max(1, self.steps - 1))

    def pooled(self, log_probs: Float[Tensor, "k n c"], weights: tuple[float, ...]) -> Float[Tensor, "n c"]:
        """Log-probs of the ``operator``'s mean of k distributions, whose ``weights`` sum to 1."""
        shares = torch.tensor(weights, dtype=log_probs.dtype)[:, None, None]
        if self.operator == "arithmetic":
            return (log_probs + shares.log()).logsumexp(0)
        return (shares * log_probs).sum(0).log_softmax(-1)

    def base(self, log_q: Float[Tensor, "k n c"]) -> Float[Tensor, "n c"]:
        """Log-probs of the base teachers' pool, q."""
        weights = self.teacher_weights or (1.0,) * self.teachers
        shares = tuple(weight / sum(weights) for weight in weights)
        return self.pooled((log_q / self.teacher_temperature).log_softmax(-1), shares)

    def meta_teacher(
        self, before: Float[Tensor, "n c"], base: Float[Tensor, "n c"], step: int
    ) -> Float[Tensor, "n c"]:
        """Log-probs of m from those of the generation ``before`` and of the ``base`` teachers' pool."""
        anchor = self.anchor_at(step)
        return self.pooled(torch.stack([before, base]), (1 - anchor, anchor))

    def loss(self, network: str, outputs: Outputs, step: int) -> Float[Tensor, ""]:
        divergence = functional.kl_div(outputs["log_p"], outputs["m"].detach(), reduction="batchmean")
        return divergence + self.l2 / 2 * outputs["norm"]
