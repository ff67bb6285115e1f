"""RTI-DP: a diffusion policy that denoises its own last chunk of actions, moved on by a step (arXiv 2508.05396)."""

from __future__ import annotations

from itertools import pairwise

from selfteach.recipes.network_kit import *

CAN_CLIP = (40, 35, 30, 25, 20, 17, 15, 12, 10, 8, 5, 3, 2, 1, 0)
Sampler = Literal["warm-start", "full", "closed-loop", "cold", "noised"]


@settings
class RTIDP(EmbodiedRecipe):
    """A sampler, nothing that is trained: the policy is a diffusion policy, cloned from a scripted expert by

        L = mean |ε − ε_θ(A_k, k, O)|²,      A_k = √ᾱ_k A_0 + √(1 − ᾱ_k) ε

    with A_0 the ``horizon`` actions behind an observation O. The first chunk of an episode is denoised from noise in
    all K steps. Each later one begins at the chunk before it, whose executed action is dropped and whose last one is
    repeated, without noise, and takes the steps ``timesteps`` alone, under the new observation:

        G = [a_{t+1}, …, a_{t+T−1}, a_{t+T−1}],      for k in S: A ← DDPM's step of ε_θ(A, k, O) from k to k − 1
    """

    name = "rti-dp"
    title = "Real-Time Iteration Scheme for Diffusion Policy"
    source = "https://arxiv.org/abs/2508.05396"
    formula = (
        "the chunk before, moved on by one action, denoised by the last few steps; cloning: mean |ε − ε_θ|²"
    )
    learner = "rti-dp"
    outputs = {
        "epsilon": "[n, h, a] the noise in a chunk of h actions",
        "epsilon_theta": "[n, h, a] what the network says of it",
    }
    presets = {
        "paper": {},
        "paper-image": {"timesteps": (3, 1, 0)},
        "paper-can-clip": {
            "timesteps": CAN_CLIP,
            "discrete": (-1,),
            "discrete_rule": "clip",
            "factor": 1.0,
        },
        "paper-can-scale": {"timesteps": (7, 5, 3, 1, 0), "discrete": (-1,)},
        "full": {"sampler": "full"},
    }

    sampler: Sampler = "warm-start"
    """What acts when it is evaluated, and is the headline. full: all K steps, then n_action_steps actions; closed-loop:
    all K, one action; cold: the steps of warm-start, from noise; noised: from G with the noise of the first of them."""
    compared: tuple[Sampler, ...] = ("warm-start", "full", "closed-loop", "cold", "noised")
    """Samplers that the trained policy is evaluated with beside it."""
    timesteps: tuple[NonNegativeInt, ...] = (2, 1, 0)
    """S, descending: the denoising steps of all chunks but the first."""
    horizon: Few = 16
    """T, actions of a chunk."""
    n_action_steps: Few = 8
    """Actions that sampler full executes of a chunk; all others execute one."""
    diffusion_steps: Few = 100
    """K of the training, and of a denoising from noise; squared cosine schedule."""
    clip_sample: bool = True
    """Clip the predicted clean chunk to [−1, 1] in every step."""
    discrete: tuple[int, ...] = ()
    """Channels of an action that are −1 or 1, as a gripper's (−1: the last)."""
    discrete_rule: Literal["scale", "clip"] = "scale"
    """scale: they are divided by the factor before training; clip: in the guess they are ± 1/factor, by sign."""
    factor: PositiveFloat = 10.0
    """Of the rule."""
    demonstrations: PositiveRows = 200
    """Episodes of the expert."""
    width: PositiveRows = 512
    """Of the network's layers (ours: linear layers; the paper's network is a 1-D convolutional UNet)."""
    depth: Few = 4
    """Residual layers."""
    ema_decay: UnitInterval = 0.9999
    """Largest decay of the running average, which acts and is saved."""
    ema_power: PositiveFloat = 0.75
    """After n batches the decay is 1 − (1 + n)^−power at most."""
    optimization: NetworkOptimization = NetworkOptimization(
        optim="adamw",
        lr=1e-4,
        betas=(0.95, 0.999),
        weight_decay=1e-6,
        schedule="cosine",
        warmup=500,
        steps=500_000,
        batch_size=256,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.timesteps) > 0, "timesteps is empty: name the steps of S, as 2 1 0")
        require(
            all(one > other for one, other in pairwise(self.timesteps)),
            f"timesteps must descend, got {self.timesteps}",
        )
        require(
            self.timesteps[0] < self.diffusion_steps,
            f"timesteps are 0 to {self.diffusion_steps - 1}, as there are {self.diffusion_steps} diffusion_steps; "
            f"got {self.timesteps[0]}",
        )
        require(
            self.n_action_steps <= self.horizon,
            f"a chunk of horizon {self.horizon} has no {self.n_action_steps} actions: lower n_action_steps",
        )

    def loss(self, network: str, outputs: Outputs, step: int) -> Float[Tensor, ""]:
        return functional.mse_loss(outputs["epsilon_theta"], outputs["epsilon"].detach())
