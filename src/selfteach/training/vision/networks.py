"""Networks that see: images [n, c, h, w] in, features [n, d] out. Heads are linear layers of the learners' own."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from selfteach.checks import require

BackboneName = Literal["cnn", "resnet20", "resnet32", "resnet56"]


class Backbone(nn.Module):
    """Images to features; ``features`` is how many."""

    features: int

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        raise NotImplementedError


class SmallCNN(Backbone):
    """Three convolutions of 3 × 3 with ``width``, 2 ``width`` and 4 ``width`` channels, each normalized over the batch,
    rectified and halved in size, then the mean over places: d = 4 ``width``. For images of 8 × 8 and more."""

    def __init__(self, channels: int, width: int = 16) -> None:
        super().__init__()
        sizes = [channels, width, 2 * width, 4 * width]
        parts = [conv_bn(one, two) for one, two in pairwise(sizes)]
        self.parts, self.features = nn.ModuleList(parts), sizes[-1]

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        hidden = images
        for part in self.parts:
            hidden = functional.max_pool2d(part(hidden).relu(), 2)
        return hidden.mean((2, 3))


class ResNet(Backbone):
    """He et al.'s network for small images (arXiv 1512.03385, section 4.2): ``depth`` = 6 k + 2 layers in three stages
    of ``width``, 2 ``width`` and 4 ``width`` channels, shortcuts without weights (their option A), then the mean over
    places: d = 4 ``width``. UserError for another depth."""

    def __init__(self, channels: int, depth: int = 32, width: int = 16) -> None:
        super().__init__()
        require(depth > 2 and depth % 6 == 2, f"a ResNet for small images has 6 k + 2 layers, not {depth}")
        self.stem, blocks, before = conv_bn(channels, width), [], width
        for stage in range(3):
            for block in range((depth - 2) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(ResidualBlock(before, width * 2**stage, stride))
                before = width * 2**stage
        self.blocks, self.features = nn.Sequential(*blocks), before

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        found: Tensor = self.blocks(self.stem(images).relu())
        return found.mean((2, 3))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which skips places by ``stride`` and has zeros for further channels."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = conv_bn(before, after, stride), conv_bn(after, after)
        self.stride, self.added = stride, after - before

    def forward(self, hidden: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        shortcut = hidden[:, :, :: self.stride, :: self.stride]
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        found: Tensor = self.second(self.first(hidden).relu()) + shortcut
        return found.relu()


def conv_bn(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """A convolution of 3 × 3 (He's normal initialization), normalized over the batch."""
    convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(after))


def backbone(name: BackboneName, channels: int, width: int = 16) -> Backbone:
    """The network of that name for images of ``channels`` channels."""
    if name == "cnn":
        return SmallCNN(channels, width)
    return ResNet(channels, int(name.removeprefix("resnet")), width)
