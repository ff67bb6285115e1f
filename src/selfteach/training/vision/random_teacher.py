"""A student of a frozen random network, and what linear classifiers and neighbors find in its features
(arXiv 2302.12091)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from selfteach.recipes.r45_random_teachers import RandomTeachers
from selfteach.training.learner import Sample, Stage, Trained, Update
from selfteach.training.network_learner import NetworkLearner, trained, update_of, write_weights
from selfteach.training.randomness import seeded
from selfteach.training.trainer import Settings
from selfteach.training.vision.labelled import labelled
from selfteach.training.vision.networks import Backbone, ResNet
from selfteach.training.vision.probes import features_of, knn_accuracy, linear_probe_accuracy

LOOKED_AT = 300
"""Held-out inputs of a sample."""


class Convolutions(Backbone):
    """Three convolutions with biases, each halving the image, rectified; then the mean over places: d = 4 ``width``. An
    image's features do not depend on its batch."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        sizes = [channels, width, 2 * width, 4 * width]
        self.layers = nn.ModuleList(
            nn.Conv2d(one, two, 3, stride=2, padding=1) for one, two in pairwise(sizes)
        )
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.get_parameter("weight"), nonlinearity="relu")
        self.features = sizes[-1]

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        hidden = images
        for layer in self.layers:
            hidden = layer(hidden).relu()
        return hidden.mean((2, 3))


class Bottleneck(nn.Module):
    """DINO's head (arXiv 2104.14294): two hidden layers, z of ``bottleneck`` dimensions, and the cosines of z with
    ``count`` directions: outputs in [-1, 1]."""

    def __init__(self, features: int, width: int, bottleneck: int, count: int) -> None:
        super().__init__()
        layers = [nn.Linear(features, width), nn.Linear(width, width), nn.Linear(width, bottleneck)]
        for layer in layers:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.mlp = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])
        self.directions = nn.Parameter(torch.randn(count, bottleneck))

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        return self.compared(self.mlp(features))

    def compared(self, z: Float[Tensor, "n b"]) -> Float[Tensor, "n m"]:
        return functional.normalize(z, dim=1) @ functional.normalize(self.directions, dim=1).T


class Network(nn.Module):
    """Encoder and head, as a recipe names them, newly drawn."""

    def __init__(self, recipe: RandomTeachers, channels: int) -> None:
        super().__init__()
        r = recipe
        self.encoder: Backbone = (
            ResNet(channels, 20, r.width) if r.encoder == "resnet20" else Convolutions(channels, r.width)
        )
        d = self.encoder.features
        self.head: nn.Module = (
            Bottleneck(d, r.hidden_dim, r.bottleneck_dim, r.out_dim)
            if r.head == "bottleneck"
            else nn.Linear(d, r.out_dim)
        )

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n m"]:
        found: Tensor = self.head(self.encoder(images))
        return found


@torch.no_grad()
def student_of(recipe: RandomTeachers, teacher: Network, fresh: Network) -> Network:
    """The student's first weights, between the ``teacher``'s and a ``fresh`` draw's. Variance is kept: of independent
    draws of deviation σ the mixture has σ too. What no draw changes (scales of 1, biases of 0) stays as it is."""
    student = deepcopy(teacher)
    if recipe.init == "teacher":
        return student
    near = 1.0 if recipe.init == "neighborhood" else 1.0 - recipe.alpha
    size = (near**2 + recipe.alpha**2) ** 0.5
    drawn = dict(fresh.named_parameters())
    for name, one in student.named_parameters():
        if not one.equal(drawn[name]):
            one.copy_((near * one + recipe.alpha * drawn[name]) / size)
    return student


class Inputs(NamedTuple):
    """A step's inputs, without labels."""

    x: Float[Tensor, "n c h w"]


class RandomTeacherLearner(NetworkLearner[RandomTeachers]):
    """The teacher is in evaluation mode for ever, so that a normalization over batches is the identity in it; the
    student's looks at its batch."""

    unit, headline = "inputs", "accuracy of a linear probe of the student"

    def __init__(self, recipe: RandomTeachers, settings: Settings) -> None:
        super().__init__(recipe, settings)
        self.data = labelled(recipe.data, settings.seed)
        x = self.data.train.x
        with seeded(settings.seed):
            self.teacher = Network(recipe, x.shape[1]).requires_grad_(False).eval()
            self.student = student_of(recipe, self.teacher, Network(recipe, x.shape[1]))
        self.student.requires_grad_(True).train()
        self.stages = [Stage("distill", recipe.optimization.steps)]
        self.fixed: dict[str, float] = {}
        self.seen: dict[str, Float[Tensor, "n m"]] = {}

    def modules(self) -> Mapping[str, nn.Module]:
        return {"student": self.student, "teacher": self.teacher}

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        self.data = self.data.on(next(self.student.parameters()).device)
        return {"student": trained(wrapped["student"], self.recipe.optimization)}

    # --- a step ---------------------------------------------------------------------------------------------------

    def collect(self, step: int) -> Inputs:
        x, size = self.data.train.x, self.recipe.optimization.batch_size
        if self.recipe.inputs == "noise":
            return Inputs(torch.randn(size, *x.shape[1:]).to(x.device))
        return Inputs(x[torch.randint(len(x), (size,)).to(x.device)])

    def updates(self, batch: Inputs) -> Iterator[Update]:
        yield update_of(self.recipe, "student", lambda: self.outputs(batch.x), 0)

    def outputs(self, x: Float[Tensor, "n c h w"]) -> dict[str, Float[Tensor, "n m"]]:
        with torch.no_grad():
            t = self.teacher(x)
        out = {"s": self.student(x), "t": t}
        self.seen = {name: one.detach() for name, one in out.items()}
        return out

    def metrics(self, batch: Inputs, done: Any) -> Mapping[str, float]:
        """Of the outputs as the update saw them, in nats an input: H(t), and KL(t ‖ s), which is all that can be
        learned and may be some millionths of the loss: hence float64."""
        t, s = (self.seen[name].double().log_softmax(-1) for name in ("t", "s"))
        p = t.exp()
        return {
            "entropy/teacher": float(-(p * t).sum(-1).mean()),
            "kl/teacher": float((p * (t - s)).sum(-1).mean()),
        }

    # --- what is seen ---------------------------------------------------------------------------------------------

    def evaluate(self, phase: str) -> Mapping[str, float]:
        """Linear probes and neighbors of the student's features; the teacher's and the bare inputs', which stand still,
        are measured once."""
        if not self.fixed:
            raw = {"teacher": self.probed(self.teacher.encoder), "input": self.probed(nn.Flatten())}
            self.fixed = {
                f"eval/{who}_{what}": value for who, found in raw.items() for what, value in found.items()
            }
        found = self.probed(self.student.encoder)
        student = {f"eval/{what}": value for what, value in found.items()}
        gain = found["probe"] - self.fixed["eval/teacher_probe"]
        return {"eval/headline": found["probe"], **student, **self.fixed, "eval/gain": gain}

    def probed(self, encoder: nn.Module) -> dict[str, float]:
        train, test, classes = self.data.train, self.data.test, self.data.classes
        given = features_of(encoder, train.x), train.y, features_of(encoder, test.x), test.y, classes
        return {"probe": linear_probe_accuracy(*given), "knn": knn_accuracy(*given, self.recipe.neighbors)}

    def samples(self, batch: Inputs | None, phase: str) -> list[Sample]:
        """Held-out inputs where the student's features spread most, by label."""
        test = self.data.test[:LOOKED_AT]
        features = features_of(self.student.encoder, test.x)
        centered = (features - features.mean(0)).double()
        places = centered @ torch.linalg.svd(centered, full_matrices=False).Vh[:2].T
        clouds = {str(label): places[test.y == label].tolist() for label in range(self.data.classes)}
        return [Sample("points", {"points": clouds}, "features")]

    def export(self, folder: Path) -> None:
        for name, module in self.modules().items():
            write_weights(module.state_dict(), folder, name)
