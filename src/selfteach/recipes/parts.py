"""What a recipe's settings are made of: how answers are written, how weights move, which of them."""

from __future__ import annotations

from typing import Any, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.checks import require
from selfteach.objective.advantage import Baseline, Scale, group_advantage
from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import PolicyGradient
from selfteach.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    NonNegativeRows,
    OpenUnit,
    PositiveFloat,
    PositiveInt,
    PositiveRows,
    PositiveUnit,
    Rank,
    UnitInterval,
    settings,
)

Optim = Literal["adamw_torch", "adamw_torch_fused", "adamw_8bit", "adafactor", "sgd"]
"""Optimizers by the names that transformers and TRL have for them."""
PREVIOUS, BASE, END = "previous", "base", "end:"
"""Where a stage's trained weights start: where the stage before left them, at the model given, or, with a stage's name
behind it, at that stage's end."""


@settings
class Rollouts:
    """How the student's answers come about."""

    per_prompt: PositiveRows = 1
    """Answers sampled for each prompt of a step."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature; the loss uses the same one unless the recipe says otherwise."""
    top_p: PositiveUnit = 1.0
    """Nucleus sampling: smallest set of tokens with this mass (1: off)."""
    top_k: NonNegativeInt = 0
    """Sample from the k likeliest tokens only (0: off)."""
    max_tokens: PositiveInt = 1024
    """Longest answer, in tokens; in an environment, longest turn."""
    max_turns: PositiveInt = 16
    """Longest episode, in turns, where the task is an environment."""
    stored: NonNegativeRows = 0
    """Prompts answered once, before the first step, and trained on ever after (0: fresh answers each step)."""


@settings
class Optimization:
    """How the student's weights move."""

    optim: Optim = "adamw_torch_fused"
    """AdamW in one kernel or tensor by tensor (equal to rounding); with moments in 8 bits (bitsandbytes, on an
    accelerator); Adafactor, whose lr is relative to the weights' size and whose state is small; or plain gradient
    descent, which has none."""
    lr: PositiveFloat = 1e-6
    """Peak learning rate."""
    steps: PositiveInt = 100
    """Batches; each makes one optimizer step, unless update_epochs or minibatches says otherwise."""
    prompts: PositiveRows = 32
    """Prompts per step, over all processes."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Shape of the learning rate after warm-up."""
    warmup: NonNegativeInt = 0
    """Steps of linear warm-up."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.999)
    """AdamW's moment decays (Adafactor and sgd have none)."""
    max_grad_norm: PositiveFloat | None = 1.0
    """Clip the global gradient norm to this (None: no clipping)."""
    update_epochs: PositiveInt = 1
    """Passes over each batch (PPO's epochs)."""
    minibatches: PositiveInt = 1
    """Optimizer steps of a pass: the batch is split so that groups stay whole."""
    poisson_records: NonNegativeRows = 0
    """Draw each of the data's first so many records into a batch with chance prompts / poisson_records, by itself
    (Poisson sampling, for differential privacy; 0: prompts come in the data's order)."""

    def __post_init__(self) -> None:
        require(max(self.betas) < 1, f"betas must lie in [0, 1), got {self.betas}")
        require(
            self.minibatches <= self.prompts,
            "minibatches must be at most prompts: a batch is split so that groups stay whole",
        )
        require(
            self.poisson_records == 0 or self.prompts <= self.poisson_records,
            f"prompts {self.prompts} is above poisson_records {self.poisson_records}: none is drawn twice in a step",
        )


@settings
class Adapter:
    """Which weights are trained: all of them, or a LoRA adapter."""

    lora_rank: Rank = 0
    """Rank of the LoRA adapter (0: train all weights)."""
    lora_alpha: PositiveInt = 128
    """LoRA's alpha: the update is scaled by alpha / rank."""
    lora_targets: tuple[str, ...] = ("all-linear",)
    """What takes an adapter: all-linear (every linear map but the head, stacked experts too), or names of modules."""

    def __post_init__(self) -> None:
        require(len(self.lora_targets) > 0, "lora_targets is empty: give all-linear, or names of modules")


@settings
class GRPOSettings:
    """The clipped policy gradient with group advantages that many methods contain (DeepSeekMath, arXiv 2402.03300).

    A = (r − group mean) / (group std + ε), one per rollout; a token's loss is −min(ρ A, clip(ρ, 1 − low, 1 + high) A)
    with ρ = π / π_sampling of the token.
    """

    clip_low: OpenUnit = 0.2
    """Lower clip of the policy gradient's ratio: 1 − clip_low."""
    clip_high: PositiveFloat = 0.2
    """Upper clip of the policy gradient's ratio: 1 + clip_high (DAPO: 0.28)."""
    scale: Scale = "std"
    """Divide the advantage by the group's standard deviation, of the sample (GRPO) or of the population, or not (Dr.
    GRPO)."""
    baseline: Baseline = "group"
    """What is taken off a reward: the mean of its group (GRPO), or of the others in it (RLOO)."""
    advantage_eps: PositiveFloat = 1e-4
    """ε beside the group's standard deviation (GRPO's released trainers: 1e-4 or 1e-6)."""

    def advantage(
        self,
        stats: Statistics,
        reward: Float[Tensor, "N"] | None = None,
        among: Bool[Tensor, "N"] | None = None,
    ) -> Float[Tensor, "N"]:
        """[N] A of each rollout within its group, over the whole group whatever a term selects of it. ``reward``: what
        is compared (None: the task's); ``among``: the rows that are (None: all), 0 for the others."""
        compared = stats.reward if reward is None else reward
        whole = stats.columns.split is False
        # The turns of an episode that are rows of their own are one rollout of the group.
        if not whole:
            among = stats.first_rows if among is None else among & stats.first_rows
        found = group_advantage(
            compared, stats.group, self.scale, self.advantage_eps, self.baseline, among=among
        )
        return found if whole else stats.by_trajectory(found)

    def term(
        self, name: str, stats: Statistics, advantage: Float[Tensor, "N *T"] | None = None, **fields: Any
    ) -> PolicyGradient:
        """The policy gradient as a term; ``advantage`` [N] or [N, T] in place of the group's, ``fields`` the term's."""
        return PolicyGradient(
            name=name,
            advantage=self.advantage(stats) if advantage is None else advantage,
            behavior=stats.behavior_log_prob,
            clip=(self.clip_low, self.clip_high),
            **fields,
        )


@settings
class TrainedWeights:
    """One set of weights that a recipe trains: where they start in this stage, how they move, which of them."""

    start: str = PREVIOUS
    optimization: Optimization = Optimization()
    adapter: Adapter = Adapter()


@settings
class PerRecord:
    """Gradients of single records (all rows of one prompt): each clipped to norm ``clip``, summed, noise of deviation
    ``noise`` · ``clip`` added once, divided by the ``expected`` number of records a batch (DP-SGD, DP-OPD).

    Each record's loss is the recipe's loss on that record alone, divisors included: what other records are would leak.
    A statistic of the whole batch (``Statistics.quantile``) is refused. The noise is drawn from the run's seed, which
    must stay secret for a guarantee to hold. With ``delta`` (batches are then Poisson samples:
    ``Optimization.poisson_records``) the ε that is spent at this δ is written down at every step.
    """

    clip: PositiveFloat
    noise: NonNegativeFloat
    expected: PositiveFloat
    delta: OpenUnit | None = None

    def __post_init__(self) -> None:
        require(self.delta is None or self.noise > 0, "noise is 0, which has no epsilon: leave delta out")


@settings
class ReferenceProbe:
    """Measure at every step how likely some examples' private text is: as NLL of the student under the bare problem
    (``reference/student``, nats a token) and as mean log-prob of each teacher under its view (``reference/NAME``).
    The examples are kept out of training. A controller may read it (ATESD)."""

    field: str = "answer"
    examples: PositiveRows = 16
