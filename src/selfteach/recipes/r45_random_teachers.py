"""A student that imitates a network of random weights, without labels (arXiv 2302.12091)."""

from __future__ import annotations

from selfteach.recipes.network_kit import *


@settings
class RandomTeachers(NetworkRecipe):
    """The student's outputs s follow those of a teacher t that is frozen as it was drawn, on the same inputs:

        L = mean CE( softmax(t), softmax(s) )  =  mean KL(t ‖ s) + mean H(t)

    What is asked is not the outputs but the encoder below: a linear classifier on its features, and neighbors. The
    student begins next to the teacher: θ_S = ((1 − α) θ_T + α θ̃) / √((1 − α)² + α²), with θ̃ drawn anew.
    """

    name = "random-teachers"
    title = "Random Teachers are Good Teachers"
    source = "https://arxiv.org/abs/2302.12091"
    formula = "CE(softmax t, softmax s), t of a frozen random network"
    learner = "random-teacher"
    networks = ("student",)
    outputs = {
        "s": "[n, m] the student's outputs",
        "t": "[n, m] the frozen teacher's, on the same inputs",
    }

    data: str = "mnist1d"
    """mnist1d, digits, glyphs, glyphs-color, or FILE.npz with arrays x (images [n, c, h, w] or signals [n, c, l]) and
    y (labels, which the probes alone read). The paper's: CIFAR and others, which are not brought along."""
    inputs: Literal["data", "noise"] = "data"
    """What is imitated on: the data, or Gaussian noise of mean 0 and deviation 1, as the data has them,
    drawn anew each step."""
    optimization: NetworkOptimization = NetworkOptimization(
        optim="adamw", lr=1e-3, steps=20_000, batch_size=256
    )
    encoder: Literal["resnet20", "conv"] = "resnet20"
    """resnet20, the smallest of the paper's (its main ones are ResNet18 and VGG11); conv: three convolutions with
    biases and no normalization, each halving the input."""
    width: PositiveRows = 16
    """Channels of the encoder's first layer; of the last four times as many."""
    init: Literal["interpolated", "neighborhood", "teacher"] = "interpolated"
    """The student's first weights: as above; neighborhood: (θ_T + α θ̃) / √(1 + α²); teacher: θ_T itself."""
    alpha: UnitInterval = 1e-10
    """α, how far from the teacher it begins (1, interpolated: another draw)."""
    distance: Literal["cross_entropy", "mse"] = "cross_entropy"
    """What pulls the outputs: as above, or the mean square of s − t."""
    head: Literal["bottleneck", "linear"] = "bottleneck"
    """From features to outputs: two hidden layers, then a direction in the bottleneck's space, compared with m
    directions; or one linear layer."""
    hidden_dim: PositiveRows = 2048
    """Of the head's hidden layers."""
    bottleneck_dim: PositiveRows = 256
    """Dimensions of the bottleneck."""
    out_dim: PositiveRows = 65_536
    """m."""
    neighbors: PositiveRows = 20
    """k of the nearest neighbors that name a held-out input."""

    def loss(self, network: str, outputs: Outputs, step: int) -> Float[Tensor, ""]:
        s, t = outputs["s"], outputs["t"].detach()
        if self.distance == "mse":
            return (s - t).square().mean()
        return functional.cross_entropy(s, t.softmax(-1))
