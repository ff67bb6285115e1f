"""Images named by heads on one encoder: what recipe ``sla`` and its baselines train (arXiv 1910.05872)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from selfteach.checks import require
from selfteach.recipes.r47_sla import SLA, aggregated, view_logits
from selfteach.training.learner import Sample, Stage, Trained, Update
from selfteach.training.network_learner import NetworkLearner, trained, update_of, write_weights
from selfteach.training.pictures import side_by_side
from selfteach.training.randomness import seeded
from selfteach.training.trainer import Settings
from selfteach.training.vision.batches import rows_of_step
from selfteach.training.vision.labelled import Labelled, labelled
from selfteach.training.vision.networks import Backbone, backbone
from selfteach.training.vision.views import jittered, transformations, views_of

AT_ONCE = 512
"""Images of an evaluation's forward pass."""
SHOWN = 24
"""Images of a picture."""


class Classifier(nn.Module):
    """Linear heads by name on one encoder."""

    def __init__(self, encoder: Backbone, heads: Mapping[str, int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({name: nn.Linear(encoder.features, size) for name, size in heads.items()})

    def forward(self, images: Float[Tensor, "n c h w"]) -> dict[str, Float[Tensor, "n _"]]:
        features = self.encoder(images)
        return {name: head(features) for name, head in self.heads.items()}


class VisionLearner(NetworkLearner[SLA]):
    """A classifier of images, on any data whose inputs are [n, c, h, w] and whose targets are labels."""

    unit, headline = "views", "held-out accuracy"

    def __init__(self, recipe: SLA, settings: Settings) -> None:
        super().__init__(recipe, settings)
        data = labelled(recipe.data, settings.seed, standardized=False)
        require_images(recipe.data, data.train)
        self.classes, self.valid, self.test = data.classes, data.valid, data.test
        chosen = recipe.train_size or len(data.train)
        require(
            chosen <= len(data.train),
            f"data {recipe.data} has {len(data.train)} images to train on, and train_size is {chosen}: lower it "
            "(none: all of them)",
        )
        self.train = data.train[:chosen]
        _, channels, height, width = self.train.x.shape
        self.views = transformations(recipe.transformation, channels, height, width)
        self.stages = [Stage("train", recipe.optimization.steps)]
        with seeded(settings.seed):
            encoder = backbone(recipe.encoder, channels, recipe.width)
            self.network = Classifier(encoder, recipe.heads(self.classes, len(self.views)))

    def modules(self) -> Mapping[str, nn.Module]:
        return {"network": self.network}

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        return {"network": trained(wrapped["network"], self.recipe.optimization)}

    def spent(self, batch: Labelled) -> int:
        return len(batch.x) * (1 if self.recipe.objective == "ce" else len(self.views))

    # --- a step ---------------------------------------------------------------------------------------------------

    def collect(self, step: int) -> Labelled:
        rows = rows_of_step(len(self.train.x), self.recipe.optimization.batch_size, step, self.settings.seed)
        images = jittered(self.train.x[rows], self.recipe.crop_padding, self.recipe.flip)
        return Labelled(images, self.train.y[rows])

    def updates(self, batch: Labelled) -> Iterator[Update]:
        self.network.train()
        views = 1 if self.recipe.objective == "ce" else len(self.views)
        yield update_of(self.recipe, "network", lambda: self.outputs(batch, views), 0)

    def outputs(self, batch: Labelled, views: int) -> dict[str, Shaped[Tensor, "..."]]:
        """What the recipe's loss reads: the heads' logits on the first ``views`` views, and the labels."""
        seen = views_of(batch.x.to(self.device), self.views[:views])
        logits = self.network(seen.flatten(0, 1))
        shapes = {"w": (self.classes, len(self.views)), "u": (self.classes,), "v": (len(self.views),)}
        found = {name: one.unflatten(0, (-1, views)) for name, one in logits.items()}
        return {name: one.unflatten(-1, shapes[name]) for name, one in found.items()} | {
            "y": batch.y.to(self.device)
        }

    # --- what is seen ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def predicted(self, images: Labelled) -> dict[str, Int[Tensor, " n"]]:
        """What each way of inference that the heads allow takes the images for (``SLA.inference``)."""
        self.network.eval()
        parts: dict[str, list[Tensor]] = {}
        for x, y in zip(images.x.split(AT_ONCE), images.y.split(AT_ONCE), strict=True):
            views = len(self.views) if "w" in self.network.heads else 1
            for name, logits in by_inference(self.outputs(Labelled(x, y), views)).items():
                parts.setdefault(name, []).append(logits.argmax(-1).cpu())
        return {name: torch.cat(part) for name, part in parts.items()}

    def evaluate(self, phase: str) -> Mapping[str, float]:
        found, chosen = {}, self.recipe.chosen_inference
        for name, named in self.predicted(self.test).items():
            found[f"eval/{name}/accuracy"] = share(named == self.test.y)
        headline = found[f"eval/{chosen}/accuracy"]
        error = math.sqrt(headline * (1 - headline) / len(self.test.y))
        if len(self.valid.y):
            right = self.predicted(self.valid)[chosen] == self.valid.y
            found["eval/validation/accuracy"] = share(right)
        return {"eval/headline": headline, "eval/headline_se": error, **found}

    def samples(self, batch: Labelled | None, phase: str) -> list[Sample]:
        """Before training, a few images under every transformation; else held-out images that are named wrongly."""
        if self.train.x.shape[1] not in (1, 3):
            return []
        if batch is None and phase == "before":
            few = views_of(self.train.x[: SHOWN // len(self.views) or 1], self.views)
            caption = f"{len(few)} training images, under every transformation"
            picture = side_by_side(few.flatten(0, 1), columns=len(self.views))
            return [Sample("image", {"pixels": picture, "caption": caption}, "views")]
        named = self.predicted(self.test)[self.recipe.chosen_inference]
        wrong = (named != self.test.y).nonzero()[:SHOWN, 0]
        if not len(wrong):
            return []
        taken = ", ".join(f"{y} → {i}" for y, i in zip(self.test.y[wrong], named[wrong], strict=True))
        values = {"pixels": side_by_side(self.test.x[wrong]), "caption": f"held out, label → named: {taken}"}
        return [Sample("image", values, "named wrongly")]

    def export(self, folder: Path) -> None:
        write_weights(self.network.state_dict(), folder, "classifier")


def by_inference(outputs: Mapping[str, Shaped[Tensor, "..."]]) -> dict[str, Float[Tensor, "B N"]]:
    """Logits of each way of inference that the heads allow."""
    found = {"sd": outputs["u"][:, 0]} if "u" in outputs else {}
    if "w" in outputs:
        views = view_logits(outputs["w"])
        found |= {"ag": aggregated(views), "si": views[:, 0]}
    return found


def share(right: Shaped[Tensor, "..."]) -> float:
    return float(right.double().mean())


def require_images(name: str, images: Labelled) -> None:
    """UserError for images that the encoders would shrink to nothing, and for numbers that are no pixels."""
    height, width = images.x.shape[2:]
    require(
        min(height, width) >= 8,
        f"data {name} has images of {height} × {width} pixels: 8 × 8 is the least that the encoders read (x is "
        "[n, channels, height, width])",
    )
    low, high = float(images.x.min()), float(images.x.max())
    require(
        low >= 0 and high <= 1,
        f"data {name} has pixels from {low:g} to {high:g}: bring them into [0, 1] (of bytes, divide by 255)",
    )
