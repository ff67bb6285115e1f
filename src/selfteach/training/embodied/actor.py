"""A Gaussian policy with a critic: stable-baselines3's, of an environment's spaces."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from jaxtyping import Float, Shaped
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.torch_layers import NatureCNN
from torch import Tensor, nn
from torch.distributions import Normal

from selfteach.checks import require
from selfteach.task.embodied.task import Array
from selfteach.training.randomness import seeded

FEATURES = 256
"""What the convolutions of an image give."""
SMALLEST = 36
"""Pixels along an image's side, of which NatureCNN's convolutions leave one."""


class Actor(nn.Module):
    """Observations [n, …] as the environments give them → the mean of the actions [n, d] and the value [n].

    Images (uint8, height × width × channels or channels first) are read by NatureCNN, which both heads share; anything
    else is flattened. Initial weights are a function of ``seed`` and the sizes. UserError where actions are no Box of
    finite bounds, observations no Box, or images too small.
    """

    def __init__(
        self, environment: str, envs: VectorEnv, *, width: int, depth: int, log_std: float, seed: int
    ) -> None:
        super().__init__()
        seen, acts = envs.single_observation_space, envs.single_action_space
        require_spaces(environment, seen, acts)
        self.action_shape: tuple[int, ...] = acts.shape or ()
        self.dims = math.prod(self.action_shape)
        images = is_image_space(seen)
        self.channels_last = images and not is_image_space_channels_first(seen)  # type: ignore[arg-type]
        if self.channels_last:
            seen = channels_first(seen)
        how: dict[str, Any] = {"activation_fn": nn.Tanh}
        if images:
            require_large(environment, seen)
            how = {
                "activation_fn": nn.ReLU,
                "features_extractor_class": NatureCNN,
                "features_extractor_kwargs": {"features_dim": FEATURES},
            }
        hidden = [width] * depth
        with seeded(seed):
            self.policy = ActorCriticPolicy(
                seen,
                acts,
                lambda _: 0.0,  # its own optimizer is not used
                net_arch={"pi": hidden, "vf": hidden},
                log_std_init=log_std,
                **how,
            )

    @property
    def log_std(self) -> Float[Tensor, "d"]:
        found: Tensor = self.policy.log_std
        return found

    def latent(
        self, observation: Shaped[Tensor, "n *o"]
    ) -> tuple[Float[Tensor, "n f"], Float[Tensor, "n g"]]:
        """What the heads of policy and critic read."""
        if self.channels_last:
            observation = observation.permute(0, 3, 1, 2)
        found: tuple[Tensor, Tensor] = self.policy.mlp_extractor(self.policy.extract_features(observation))
        return found

    def forward(self, observation: Shaped[Tensor, "n *o"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n"]]:
        acting, judging = self.latent(observation)
        mean: Tensor = self.policy.action_net(acting)
        return mean, self.policy.value_net(judging).flatten()

    def value(self, observation: Shaped[Tensor, "n *o"]) -> Float[Tensor, "n"]:
        found: Tensor = self(observation)[1]
        return found

    def drawn(
        self, observation: Shaped[Tensor, "n *o"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n"], Float[Tensor, "n"]]:
        """A sampled action, its log-density in nats, and the value."""
        mean, value = self(observation)
        policy = Normal(mean, self.log_std.exp().expand_as(mean), validate_args=False)
        action = policy.sample()
        return action, policy.log_prob(action).sum(1), value

    def shaped(self, action: Float[Tensor, "n d"]) -> Array:
        """As the environments take them."""
        found: Array = action.cpu().numpy().reshape(-1, *self.action_shape)
        return found


def require_spaces(environment: str, seen: Any, acts: Any) -> None:
    kinds = type(acts).__name__, type(seen).__name__
    require(
        isinstance(acts, spaces.Box),
        f"environment {environment}: actions are {kinds[0]}, and the policy is a Gaussian: take one with a Box",
    )
    require(
        bool(np.isfinite(acts.low).all() and np.isfinite(acts.high).all()),
        f"environment {environment}: its actions have no bounds: wrap it by gymnasium's ClipAction or RescaleAction",
    )
    require(
        isinstance(seen, spaces.Box),
        f"environment {environment}: observations are {kinds[1]}, and the policy reads a Box: wrap it by gymnasium's "
        "FlattenObservation",
    )


def channels_first(images: Any) -> spaces.Box:
    height, width, channels = images.shape
    return spaces.Box(0, 255, (channels, height, width), np.uint8)


def require_large(environment: str, images: Any) -> None:
    _, height, width = images.shape
    require(
        min(height, width) >= SMALLEST,
        f"environment {environment}: images of {height} × {width} are too small for NatureCNN, which wants {SMALLEST}",
    )
