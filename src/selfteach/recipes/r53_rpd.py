"""RPD: PPO with a cloning term towards what a mediocre policy would do where the student goes (arXiv 2503.05833)."""

from __future__ import annotations

import math

from torch.distributions import Normal, kl_divergence

from selfteach.objective.sampled import clipped_surrogate
from selfteach.recipes.network_kit import *


@settings
class RolloutOptimization(NetworkOptimization):
    """Several passes of small updates over a batch of rollouts."""

    steps: PositiveInt = 1000
    """Batches of num_envs · num_steps transitions."""
    batch_size: PositiveRows = 128
    """Transitions of an update; the last one of a pass has what is left."""


@settings
class RPD(EmbodiedRecipe):
    """On the states s that the student comes to, with its Gaussian policy π = N(μ(s), std²) and the teacher's action
    there, of m samples their mean and standard deviation:

        L = L_PPO + c_v L_V − c_e H + λ(t) L_D

        L_PPO = −mean min(ρ A, clip(ρ, 1 ± ε) A),  ρ = π(a|s)/π_old(a|s),  A standardized over the update's transitions
        L_V   = mean (V − R)²/2,  H: entropy of π
        L_D   = mean (μ − a_T)² (mse) · mean |μ − a_T| (l1) · −mean log π(a_T|s) (nll)
                · mean KL(π ‖ N(a_T, std_T²)) max(ρ, 1 − ε) (kl: PPD, its gradient goes through ρ too)

    The last two are sums over the dimensions of an action, the first two means over them.
    """

    name = "rpd"
    title = "Refined Policy Distillation: From VLA Generalists to RL Experts"
    source = "https://arxiv.org/abs/2503.05833"
    formula = "PPO + λ · mean (μ − a_teacher)² at the student's own states"
    learner = "rpd"
    outputs = {
        "mu": "[n, d] the policy's mean action",
        "log_std": "[d] logarithm of its standard deviation, whatever the state",
        "V": "[n] the critic's value",
        "a": "[n, d] the action that was taken",
        "log_p_old": "[n] its log-density under the policy that took it, in nats",
        "A": "[n] its advantage",
        "R": "[n] what V should be: old value + A",
        "a_T": "[n, d] mean of the teacher's actions",
        "std_T": "[n, d] their standard deviation",
    }
    presets = {
        "paper": {},
        "paper-sparse": {"gamma": 0.99},
        "ppd": {"distance": "kl", "teacher_samples": 10},
        "ppo": {"distill_weight": 0.0},
    }

    teacher: str = "expert"
    """The environment's scripted expert, or FILE.py:NAME of a function: observations [n, …] → actions [n, …]."""
    teacher_samples: Few = 1
    """m: how often it is asked at a state."""
    teacher_bias: float = 0.0
    """Added to each dimension of its actions, which then are cut to the bounds: makes a good teacher mediocre."""
    teacher_noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise on its actions, drawn for each sample."""
    distance: Literal["mse", "l1", "nll", "kl"] = "mse"
    """L_D; nll is the released code's bc."""
    distill_weight: NonNegativeFloat = 1.0
    """λ (0: PPO alone; nobody is asked)."""
    anneal_steps: PositiveInt | None = None
    """T: λ falls by half a cosine to 0 at this batch (none: it is constant)."""
    std_floor: PositiveFloat = 0.01
    """Least std_T of the kl, which is infinite at 0."""
    ppo: bool = True
    """Off: L_D alone, on the student's own rollouts."""
    clip_range: OpenUnit = 0.2
    """ε."""
    vf_coef: NonNegativeFloat = 0.5
    """c_v."""
    ent_coef: NonNegativeFloat = 0.0
    """c_e."""
    gamma: UnitInterval = 0.8
    """Discount; the paper's 0.99 where the reward is sparse."""
    gae_lambda: UnitInterval = 0.9
    """λ of advantages."""
    finite_horizon: bool = True
    """Advantages as means of k-step ones by weights that are normalized; off: the usual recursion."""
    bootstrap: Literal["truncation", "end"] = "truncation"
    """Where the value of an episode's last state counts: where it was cut short; or at any end, as in the released
    code."""
    num_envs: PositiveRows = 128
    """Environments side by side; each batch resets them."""
    num_steps: PositiveRows = 50
    """Steps of each in a batch: what comes later in an episode is never trained on."""
    epochs: PositiveRows = 8
    """Passes over a batch."""
    target_kl: PositiveFloat | None = 0.2
    """No more updates of a batch once the policy is so many nats from that which acted."""
    log_std_init: float = -0.5
    """log_std at the beginning."""
    width: PositiveRows = 512
    """Of the hidden layers of policy and critic."""
    depth: PositiveRows = 1
    """Their number."""
    optimization: RolloutOptimization = RolloutOptimization(
        lr=3e-4, steps=4687, batch_size=133, max_grad_norm=0.5
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.distance != "kl" or self.teacher_samples > 1,
            "distance kl is to a Gaussian that is fitted to samples: let teacher_samples be 2 or more",
        )
        require(
            self.ppo or self.weight(self.optimization.steps - 1) > 0,
            "without ppo the teacher is all there is: let distill_weight be above 0, anneal_steps none or the steps",
        )

    def weight(self, step: int) -> float:
        """λ(t)."""
        if self.anneal_steps is None:
            return self.distill_weight
        done = min(step / self.anneal_steps, 1.0)
        return self.distill_weight * (math.cos(math.pi * done) + 1) / 2

    def loss(self, network: str, outputs: Outputs, step: int) -> Float[Tensor, ""]:
        weight, losses = self.weight(step), []
        if self.ppo:
            losses.append(self.ppo_loss(outputs))
        if weight > 0:
            losses.append(weight * self.distances(outputs).mean())
        return torch.stack(losses).sum()

    def ppo_loss(self, outputs: Outputs) -> Float[Tensor, ""]:
        policy, A = self.policy(outputs), outputs["A"].detach()
        if len(A) > 1:
            A = (A - A.mean()) / (A.std() + 1e-8)
        log_p = policy.log_prob(outputs["a"].detach()).sum(1)
        surrogate = clipped_surrogate(log_p, outputs["log_p_old"], A, self.clip_range, self.clip_range)
        value = (outputs["V"] - outputs["R"].detach()).square().mean() / 2
        entropy: Tensor = policy.entropy().sum(1).mean()
        return surrogate.mean() + self.vf_coef * value - self.ent_coef * entropy

    def policy(self, outputs: Outputs) -> Normal:
        return Normal(outputs["mu"], outputs["log_std"].exp().expand_as(outputs["mu"]), validate_args=False)

    def distances(self, outputs: Outputs) -> Float[Tensor, "n"]:
        """L_D at each state."""
        mu, a_T = outputs["mu"], outputs["a_T"].detach()
        match self.distance:
            case "mse":
                return (mu - a_T).square().mean(1)
            case "l1":
                return (mu - a_T).abs().mean(1)
            case "nll":
                log_p: Tensor = self.policy(outputs).log_prob(a_T).sum(1)
                return -log_p
            case "kl":
                std_T = outputs["std_T"].detach().clamp(min=self.std_floor)
                teacher = Normal(a_T, std_T, validate_args=False)
                kl: Tensor = kl_divergence(self.policy(outputs), teacher).sum(1)
                return kl * self.log_ratio(outputs).exp().clamp(min=1 - self.clip_range)

    def log_ratio(self, outputs: Outputs) -> Float[Tensor, "n"]:
        """log ρ of the actions that were taken."""
        log_p: Tensor = self.policy(outputs).log_prob(outputs["a"].detach()).sum(1)
        return log_p - outputs["log_p_old"].detach()
