"""What features are worth without training the network further: a linear classifier on them, and neighbors."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


@torch.no_grad()
def features_of(
    network: nn.Module, images: Float[Tensor, "n c h w"], batch_size: int = 512
) -> Float[Tensor, "n d"]:
    """What ``network`` in evaluation mode puts out, batch by batch; its mode is left as it was."""
    was = network.training
    network.eval()
    found = torch.cat([network(part) for part in images.split(batch_size)])
    network.train(was)
    return found


def linear_probe_accuracy(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    test_labels: Int[Tensor, " m"],
    classes: int,
    l2: float = 1e-3,
) -> float:
    """Share of ``test`` that multinomial logistic regression on ``train`` names rightly: features standardized by
    ``train``, mean cross-entropy + ``l2``/2 |W|² minimized by L-BFGS in float64 from 0, so that nothing is drawn."""
    mean, scale = train.double().mean(0), train.double().std(0).clamp_min(1e-8)
    x, z = (train.double() - mean) / scale, (test.double() - mean) / scale
    weight = torch.zeros(x.shape[1], classes, dtype=torch.float64, device=x.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(x @ weight + bias, train_labels) + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return float(((z @ weight + bias).argmax(1) == test_labels).double().mean())


@torch.no_grad()
def knn_accuracy(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    test_labels: Int[Tensor, " m"],
    classes: int,
    neighbors: int = 20,
) -> float:
    """Share of ``test`` whose ``neighbors`` nearest rows of ``train``, by cosine, mostly have its label; of labels with
    equally many votes the smallest counts. There are as many neighbors as rows at most."""
    similarity = functional.normalize(test.double(), dim=1) @ functional.normalize(train.double(), dim=1).T
    nearest = similarity.topk(min(neighbors, len(train)), 1).indices
    votes = functional.one_hot(train_labels[nearest], classes).sum(1)
    return float((votes.argmax(1) == test_labels).double().mean())
