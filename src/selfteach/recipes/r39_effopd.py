"""On-policy distillation that leaps along its own way (EffOPD)."""

from __future__ import annotations

from selfteach.recipes.kit import *
from selfteach.recipes.r33_exopd import ExOPD


@settings
class EffOPD(ExOPD):
    """On-policy distillation whose weights go further along the way that they went, where validation gets better.

    "Learning to Foresee" (arXiv 2605.11739). The loss is that of ``ExOPD`` with ``reward_scale`` = λ = 1,

        A_t = log π*(y_t) − log π(y_t)                                       without gradient
        L = mean over tokens of −min( π/π_rollout, is_cap ) A_t log π(y_t)

    and after steps k = 1, 2, 4, 8 … the attention's and MLPs' weights try ``Leaps``: with the anchor B (the weights
    before step 1, then those that the last leap left), W_k + 2j (W_k − B) for j = 1 … ``trials``, as long as the
    accuracy of sampled answers to ``validation`` problems gets strictly better. These are neither trained on nor held
    out for evaluation; their tokens count as generated.
    """

    name = "effopd"
    title = "Efficient On-Policy Distillation by foresight"
    source = "https://arxiv.org/abs/2605.11739"
    formula = "ExOPD at λ = 1;  at k = 1, 2, 4 …  W ← W_k + 2j (W_k − B) while validation rises"
    presets = {"paper": {}}

    reward_scale: NonNegativeFloat = 1.0
    """λ, how much the reward log(teacher/reference) counts (1: plain distillation, as in the paper)."""
    trials: PositiveInt = 5
    """Points tried beyond the weights of a step, at most: 3, 5, 7, 9 and 11 times the way from the anchor."""
    validation: PositiveRows = 64
    """Problems on which each point is validated, kept out of training and evaluation (the paper gives no number)."""
    leaping: tuple[str, ...] = ("attn", "attention", "mlp")
    """Parts of the names of weights that leap; norms do not (released code: attention and MLPs)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.adapter.lora_rank == 0,
            "lora_rank is above 0: to go on along an adapter's two factors is not to go on along their product; train "
            "all weights, or take exopd --reward-scale 1",
        )
        require(
            bool(self.leaping) and all(self.leaping), "leaping is empty: name parts of modules, such as attn"
        )

    @property
    def hook(self) -> HookSpec:
        return Leaps(self.trials, self.validation, self.leaping)
