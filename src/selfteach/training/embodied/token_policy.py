"""A policy whose actions are tokens: one of a discrete action, one a dimension of a continuous one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from selfteach.checks import require
from selfteach.task.embodied.task import Array, EmbodiedTask
from selfteach.training.randomness import seeded


class ActionTokens:
    """Actions as tokens, [n, D] of K values each: a discrete action is one token; a dimension of a Box is cut into
    ``bins`` of equal width, whose middles are acted. Student and teacher must share it: the same token of two scales
    would be two actions. UserError for other spaces, and where a bound is infinite."""

    def __init__(self, name: str, space: Any, bins: int) -> None:
        from gymnasium.spaces import Box, Discrete

        self.low: Array | None = None
        if isinstance(space, Discrete):
            self.dims, self.values = 1, int(space.n)
            require(int(space.start) == 0, f"environment {name}: its actions are not counted from 0")
            return
        require(
            isinstance(space, Box) and len(space.shape) == 1,
            f"environment {name}: actions are {space}; this method takes Discrete, or a Box of one axis",
        )
        self.low, self.high = space.low.astype(np.float64), space.high.astype(np.float64)
        require(
            bool(np.isfinite([self.low, self.high]).all()),
            f"environment {name}: its actions have no bounds ({space}), and they are cut into bins between them",
        )
        self.dims, self.values = space.shape[0], bins

    def decoded(self, tokens: Int[Tensor, "n D"]) -> Array:
        """Tokens → actions, as the environment takes them."""
        if self.low is None:
            return tokens[:, 0].cpu().numpy()
        share = (tokens.cpu().numpy() + 0.5) / self.values
        return np.asarray(self.low + share * (self.high - self.low), np.float32)

    def encoded(self, actions: Shaped[Tensor, "n *a"]) -> Int[Tensor, "n D"]:
        """Actions → tokens; what lies outside of the bounds counts as the bound."""
        if self.low is None:
            return actions.reshape(-1, 1).long()
        low, high = torch.from_numpy(self.low), torch.from_numpy(self.high)
        share = (actions.cpu().double() - low) / (high - low)
        return (share * self.values).floor().long().clamp(0, self.values - 1)


class Numbers(nn.Module):
    """A vector of numbers → ``width`` features."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())

    def forward(self, x: Shaped[Tensor, "n o"]) -> Float[Tensor, "n w"]:
        found: Tensor = self.layers(x.float())
        return found


class Grid(nn.Module):
    """Fields in sight and a mission's words (``task.embodied.grids``) → ``width`` features: two convolutions, the
    second scaled and shifted by the mission's mean embedding (FiLM, arXiv 1709.07871)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        from selfteach.task.embodied.grids import KINDS, NUMBERS, SIGHT, WORDS

        self.fields, self.sight = NUMBERS, SIGHT
        self.kinds = nn.ModuleList(nn.Embedding(count, width) for count in KINDS)
        self.words = nn.Embedding(len(WORDS) + 1, width, padding_idx=0)
        self.film = nn.Linear(width, 2 * width)
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.last = nn.Linear(SIGHT * SIGHT * width, width)

    def forward(self, x: Int[Tensor, "n o"]) -> Float[Tensor, "n w"]:
        x = x.long()
        fields, words = x[:, : self.fields].unflatten(1, (self.sight, self.sight, -1)), x[:, self.fields :]
        image = sum(kind(fields[..., i]) for i, kind in enumerate(self.kinds)).permute(0, 3, 1, 2)
        said = self.words(words).sum(1) / (words > 0).sum(1, keepdim=True).clamp(min=1)
        scale, shift = self.film(said)[:, :, None, None].chunk(2, dim=1)
        first, second = self.convolutions
        hidden = second(first(image).relu()) * (1 + scale) + shift
        found: Tensor = self.last(hidden.relu().flatten(1)).relu()
        return found


class TokenPolicy(nn.Module):
    """Observations → log-probs of each action token's values, all tokens at once (as OpenVLA-OFT decodes, arXiv
    2502.19645). Initial weights are a function of ``seed`` and the sizes. UserError for observations that are no vector
    of numbers."""

    def __init__(self, task: EmbodiedTask, space: Any, tokens: ActionTokens, width: int, seed: int) -> None:
        super().__init__()
        self.tokens = tokens
        with seeded(seed):
            self.encoder = (
                Grid(width) if task.observation == "grid" else Numbers(numbers_of(task, space), width)
            )
            self.head = nn.Linear(width, tokens.dims * tokens.values)
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(
        self, observations: Shaped[Tensor, "n o"], temperature: float = 1.0
    ) -> Float[Tensor, "n D K"]:
        logits = self.head(self.encoder(observations)).unflatten(1, (self.tokens.dims, self.tokens.values))
        found: Tensor = (logits / temperature).log_softmax(-1)
        return found

    @torch.no_grad()
    def act(
        self, observations: Array, temperature: float, generator: torch.Generator | None = None
    ) -> Int[Tensor, "n D"]:
        """Tokens drawn on the CPU (``generator`` None: by torch's global one); at temperature 0 the likeliest."""
        seen = torch.from_numpy(observations).to(self.head.weight.device)
        log_pi: Tensor = self(seen, temperature or 1.0).cpu()
        if temperature == 0:
            return log_pi.argmax(-1)
        drawn = log_pi.exp().flatten(0, 1).multinomial(1, generator=generator)
        return drawn.reshape(log_pi.shape[:2])


def numbers_of(task: EmbodiedTask, space: Any) -> int:
    from gymnasium.spaces import Box

    require(
        isinstance(space, Box) and len(space.shape) == 1,
        f"environment {task.name}: observations are {space}; this method takes a Box of one axis",
    )
    return int(space.shape[0])
