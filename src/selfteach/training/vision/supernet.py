"""A network whose every connection is a mixture of operations, and how one network is made of it (arXiv 1806.09055)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

OPERATIONS = ("zero", "skip", "conv1", "conv3", "avgpool")
"""What an edge may do: nothing, the identity, a convolution of 1 × 1 or 3 × 3, the mean over 3 × 3 places."""
KEPT = 2
"""Edges into a node that discretization keeps."""
GROUPS = 4
"""Most groups of a normalization."""


def convolution(given: int, made: int, size: int) -> nn.Sequential:
    """Rectified, convolved, and normalized within each image, so that an image's logits do not depend on its batch."""
    groups = max(n for n in range(1, GROUPS + 1) if made % n == 0)
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(given, made, size, padding=size // 2, bias=False), nn.GroupNorm(groups, made)
    )


class Edge(nn.Module):
    """The operations side by side, added with their weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv3 = convolution(channels, channels, 1), convolution(channels, channels, 3)

    def forward(self, x: Float[Tensor, "n c h w"], weights: Float[Tensor, " o"]) -> Float[Tensor, "n c h w"]:
        pooled = functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        _, skip, conv1, conv3, avgpool = weights
        found: Tensor = skip * x + conv1 * self.conv1(x) + conv3 * self.conv3(x) + avgpool * pooled
        return found


class Cell(nn.Module):
    """``nodes`` one after the other, each the sum of edges from the cell's input and from all nodes before it; out come
    all of them."""

    def __init__(self, given: int, channels: int, nodes: int) -> None:
        super().__init__()
        self.enter, self.nodes = convolution(given, channels, 1), nodes
        self.edges = nn.ModuleList(Edge(channels) for _ in range(edges_of(nodes)))

    def forward(self, x: Float[Tensor, "n c h w"], mixing: Float[Tensor, "e o"]) -> Float[Tensor, "n d h w"]:
        states = [self.enter(x)]
        for into in edges_by_node(self.nodes):
            arriving = [self.edges[e](state, mixing[e]) for e, state in zip(into, states, strict=True)]
            states.append(torch.stack(arriving).sum(0))
        return torch.cat(states[1:], 1)


class Supernet(nn.Module):
    """Cells of one architecture behind one another, halving the image between two; logits of its ``classes``."""

    def __init__(self, given: int, channels: int, cells: int, nodes: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(given, channels, 3, padding=1)
        before = [channels, *[nodes * channels] * (cells - 1)]
        self.cells = nn.ModuleList(Cell(one, channels, nodes) for one in before)
        self.head = nn.Linear(nodes * channels, classes)

    def forward(self, images: Float[Tensor, "n c h w"], mixing: Float[Tensor, "e o"]) -> Float[Tensor, "n k"]:
        """``mixing``: each edge's weights of ``OPERATIONS``."""
        x = self.stem(images)
        for number, cell in enumerate(self.cells):
            x = cell(functional.avg_pool2d(x, 2) if number else x, mixing)
        found: Tensor = self.head(x.mean((2, 3)))
        return found


class Architecture(nn.Module):
    """``alpha`` [e, o]: each edge's logits of ``OPERATIONS``; all but equal at first, as in DARTS."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(1e-3 * torch.randn(edges_of(nodes), len(OPERATIONS)))

    def forward(self) -> Float[Tensor, "e o"]:
        return self.alpha.softmax(-1)


def edges_of(nodes: int) -> int:
    return nodes * (nodes + 1) // 2


def edges_by_node(nodes: int) -> Iterator[range]:
    """The numbers of the edges into each node: from the cell's input, then from each node before it."""
    for node in range(nodes):
        yield range(edges_of(node), edges_of(node + 1))


def discretized(mixing: Float[Tensor, "e o"], nodes: int) -> Float[Tensor, "e o"]:
    """The one network that DARTS makes of a mixture: of each edge the operation of largest weight that is not "zero",
    with weight 1; of the edges into each node those ``KEPT`` whose operations weigh most, and nothing of the others.
    Of equal weights the first."""
    mixing = mixing.detach()
    weight, chosen = mixing[:, 1:].max(1)
    one = torch.zeros_like(mixing)
    for into in edges_by_node(nodes):
        for e in sorted(into, key=lambda e: -float(weight[e]))[:KEPT]:
            one[e, 1 + int(chosen[e])] = 1.0
    return one


def named(one: Float[Tensor, "e o"], nodes: int) -> list[str]:
    """A discretized network in words: from node 0, the cell's input, to node 1 by … , edge by edge."""
    return [
        f"{origin}→{node} {OPERATIONS[int(one[e].argmax())]}"
        for node, into in enumerate(edges_by_node(nodes), start=1)
        for origin, e in enumerate(into)
        if one[e].any()
    ]
