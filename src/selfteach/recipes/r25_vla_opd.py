"""VLA-OPD: a policy of action tokens, taught by a frozen expert wherever it goes itself (arXiv 2603.26666)."""

from __future__ import annotations

from selfteach.recipes.network_kit import *


@settings
class VLAOPD(EmbodiedRecipe):
    """The student acts; at every state s_t that it visits a frozen teacher says how likely it would have been to do the
    same. With |τ| action tokens of an episode, and means over the batch's episodes,

        r_t = log π_T(a_t | s_t) − sg log π_θ(a_t | s_t)
        L = −mean_τ 1/|τ| Σ_t sg[r_t] log π_θ(a_t | s_t)

    whose gradient has the mean of that of KL(π_θ ‖ π_T) at each state: r_t is the advantage as it is, without a
    baseline, the future's rewards, or the episode's success. The teacher never acts. ``reinforce_steps`` of GRPO on
    success may follow.
    """

    name = "vla-opd"
    title = "VLA-OPD: Bridging Offline SFT and Online RL for Vision-Language-Action Models via On-Policy Distillation"
    source = "https://arxiv.org/abs/2603.26666"
    formula = "−mean_τ 1/|τ| Σ_t sg[log π_T(a_t|s_t) − log π_θ(a_t|s_t)] log π_θ(a_t|s_t)"
    learner = "vla-opd"
    outputs = {
        "log_pi": "[n, D, K] log-probs of the K values of each of a state's D action tokens, of the student",
        "log_pi_T": "[n, D, K] the teacher's",
        "a": "[n, D] int: the tokens that were executed",
        "tau": "[n] int: the number of the episode that each state is of",
        "A": "[n] the episode's advantage of success within its group (read by grpo alone)",
    }
    presets = {
        "paper": {},
        "distill-grpo": {"reinforce_steps": 150},
        "grpo": {"objective": "grpo"},
    }

    environment: str = "babyai:GoToLocal"
    """babyai:LEVEL, point-reach (-slide, -slide-back, …), or FILE.py:NAME of a function that gives an EmbodiedTask with
    an expert."""
    unseen: str = "babyai:PickupLoc"
    """Another environment of the same observations and actions, on which student and teacher were cloned too and which
    is not trained on: what is forgotten (empty: none)."""
    max_episode_steps: PositiveRows | None = 32
    """Longest episode (none: the environment's own)."""
    objective: Literal["reverse-kl", "forward-kl", "cross-entropy", "grpo", "sft"] = "reverse-kl"
    """What is trained on the student's own states: the method's; KL(π_T ‖ π_θ); the teacher's likeliest token; success
    alone. Or, sft, further epochs over the student's demonstrations."""
    estimator: Literal["sampled", "exact"] = "sampled"
    """Of reverse-kl: on the executed tokens, or summed over all values of a token."""
    per_seed: PositiveRows = 8
    """Episodes that begin alike, the group of GRPO; batch_size counts episodes."""
    temperature: PositiveFloat = 1.0
    """Of actions in training; held-out ones are the likeliest."""
    bins: PositiveRows = 21
    """Values of the token of a continuous action's dimension, evenly over its bounds."""
    width: PositiveRows = 64
    """Units of the policies' layers."""
    teacher_demonstrations: PositiveRows = 1000
    """The expert's episodes that the teacher is cloned from, of each environment. (The paper's teacher is trained by
    reinforcement learning.)"""
    teacher_noise: UnitInterval = 0.3
    """Share of their actions that are random, while the expert's are learned: so the teacher knows the way back from
    where a student strays."""
    teacher_steps: PositiveInt = 1500
    """Batches of its cloning."""
    demonstrations: PositiveRows = 20
    """The expert's episodes that the student is cloned from before it is distilled, of each environment."""
    clone_steps: PositiveInt = 150
    """Batches of its cloning."""
    clone_batch_size: PositiveRows = 256
    """States of a batch of cloning, of either."""
    clone_lr: PositiveFloat = 1e-3
    """Learning rate of cloning (adam, a cosine to 0)."""
    reinforce_steps: NonNegativeInt = 0
    """Batches of GRPO on success behind the distillation (0: none)."""
    eval_episodes: PositiveRows = 100
    """Held-out episodes."""
    optimization: NetworkOptimization = NetworkOptimization(lr=3e-4, steps=100, batch_size=64)

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = self.optimization.batch_size
        require(
            rows % self.per_seed == 0,
            f"batch_size {rows} is no multiple of per_seed {self.per_seed}: it counts episodes of all groups",
        )
        require(
            self.per_seed > 1 or not (self.reinforce_steps or self.objective == "grpo"),
            "GRPO compares episodes that begin alike: let per_seed be 2 or more",
        )
        require(self.bins > 1, "bins must be 2 or more: a token of one value says nothing")
        require(
            self.estimator == "sampled" or self.objective == "reverse-kl",
            f"estimator exact is reverse-kl's, and objective is {self.objective}",
        )
        require(
            self.unseen != self.environment,
            f"unseen is {self.unseen}, which is what is trained on: name another",
        )

    def objective_at(self, step: int) -> str:
        """What is trained at a step of the student's own, from 0."""
        return "grpo" if step >= self.optimization.steps else self.objective

    def loss(self, network: str, outputs: Outputs, step: int) -> Float[Tensor, ""]:
        log_pi, log_pi_T = outputs["log_pi"], outputs["log_pi_T"].detach()
        taken = chosen(log_pi, outputs["a"])
        match self.objective_at(step), self.estimator:
            case "reverse-kl", "exact":
                each = (log_pi.exp() * (log_pi - log_pi_T)).sum(-1)
            case "reverse-kl", _:
                r = chosen(log_pi_T, outputs["a"]) - taken.detach()
                each = -r * taken
            case "forward-kl", _:
                each = (log_pi_T.exp() * (log_pi_T - log_pi)).sum(-1)
            case "cross-entropy", _:
                each = -chosen(log_pi, log_pi_T.argmax(-1))
            case "grpo", _:
                each = -outputs["A"].detach()[:, None] * taken
            case _:
                each = -taken
        return mean_of_means(each.mean(-1), outputs["tau"])


def chosen(log_pi: Float[Tensor, "n D K"], tokens: Int[Tensor, "n D"]) -> Float[Tensor, "n D"]:
    return log_pi.gather(-1, tokens[..., None])[..., 0]
