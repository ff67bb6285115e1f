"""Differentially private on-policy distillation (DP-OPD)."""

from __future__ import annotations

from selfteach.recipes.gkd import GKD
from selfteach.recipes.kit import *


@settings
class DPOPD(GKD):
    """GKD whose step is DP-SGD's: of each private record one clipped gradient, and noise once.

    "Differentially Private On-Policy Distillation" (arXiv 2604.04461). A step draws each of N = ``poisson_records``
    records with chance q = prompts / N. With chance λ the student continues their prompts, else the data does; a
    record's loss ℓ_i is GKD's on its own continuation, both sides at temperature ``distill_temperature``, and

        g = (1/B) [ Σ_i ∇ℓ_i min(1, C/‖∇ℓ_i‖) + N(0, σ²C²) ],     B = prompts, the mean number of records a step

    σ is the least of which all ``steps`` together are (ε, δ)-differentially private, records being added or removed
    (Rényi accounting of the sampled Gaussian). The teacher costs nothing beyond what its own training did. What is
    private is the trained model; metrics and samples of the run are not.
    """

    name = "dp-opd"
    title = "Differentially Private On-Policy Distillation"
    source = "https://arxiv.org/abs/2604.04461"
    formula = "(1/B) [ Σ_i clip_C ∇ mean_t JSD_β(q ‖ p) + N(0, σ²C²) ],  y ~ λ p + (1 − λ) data"
    presets = {"paper": {}}

    rollouts: Rollouts = Rollouts(max_tokens=128)
    optimization: Optimization = Optimization(
        lr=1e-4, steps=1000, prompts=1024, max_grad_norm=None, poisson_records=100_000
    )
    teacher: str = "openai-community/gpt2-large"
    """The larger model of the same tokenizer that is distilled: a folder, a hub id or arena:NAME."""
    lmbda: UnitInterval = 0.5
    """λ, how often a step's answers are the student's own (1: on-policy; 0: supervised)."""
    distill_temperature: PositiveFloat = 1.0
    """τ, by which both sides' logits are divided in the loss (the paper's value is not known)."""
    epsilon: PositiveFloat | None = 2.0
    """ε of the whole training, from which the noise follows (none: noise_multiplier is given)."""
    delta: OpenUnit = 1e-6
    """δ, the chance that the guarantee fails: below 1 / poisson_records (the paper's value is not known)."""
    noise_multiplier: NonNegativeFloat | None = None
    """σ, the noise's deviation over C (none: the least that keeps epsilon; 0: no noise and no guarantee)."""
    clip_norm: PositiveFloat = 1.0
    """C, the longest gradient of a record (the paper's value is not known)."""

    def __post_init__(self) -> None:
        records = self.optimization.poisson_records
        require(records > 0, "poisson_records is 0: name how many private records there are")
        require(
            (self.epsilon is None) != (self.noise_multiplier is None),
            "epsilon and noise_multiplier decide the same: give one of them, and none for the other",
        )
        require(
            self.delta < 1 / records,
            f"delta {self.delta:g} is not below 1 / poisson_records, {1 / records:g}: it would let whole records out",
        )
        require(
            self.epsilon is None or self.sigma < float("inf"),
            f"no noise gives epsilon {self.epsilon} at delta {self.delta:g}: ask for a larger one",
        )

    @property
    def sigma(self) -> float:
        """σ, given or found; infinite where no noise is enough."""
        if self.epsilon is None:
            return self.noise_multiplier or 0.0
        o = self.optimization
        return noise_for(self.epsilon, o.prompts / o.poisson_records, o.steps, self.delta)

    @property
    def per_record(self) -> PerRecord:
        sigma = self.sigma
        return PerRecord(self.clip_norm, sigma, self.optimization.prompts, self.delta if sigma else None)

    @property
    def temperature(self) -> float:
        return self.distill_temperature
