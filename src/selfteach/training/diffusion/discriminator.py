"""A small network that scores samples of a prompt."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from selfteach.training.randomness import seeded


class Discriminator(nn.Module):
    """D(x, label), one number a sample: a multilayer perceptron of residual layers, to which the label is added as an
    embedding. Its initial weights are a function of ``seed`` and the sizes."""

    def __init__(self, dims: int, classes: int, width: int, depth: int, seed: int) -> None:
        super().__init__()
        with seeded(seed):
            self.begin = nn.Linear(dims, width)
            self.label = nn.Embedding(classes, width)
            self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
            self.end = nn.Linear(width, 1)

    def forward(self, x: Float[Tensor, "n d"], labels: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        hidden, told = self.begin(x), self.label(labels)
        for layer in self.layers:
            hidden = hidden + functional.silu(layer(functional.silu(hidden + told)))
        found: Tensor = self.end(hidden)[:, 0]
        return found
