"""One softmax over class and transformation together, distilled into a head that sees one view (arXiv 1910.05872)."""

from __future__ import annotations

from selfteach.recipes.network_kit import *


@settings
class SLA(NetworkRecipe):
    """M views x̃_j = t_j(x) of each image; a joint head names class and transformation, ρ_ij(z) ∝ exp(w_ij·z):

        L_SLA = mean_j −log ρ_yj(z̃_j),      s_i = mean_j w_ij·z̃_j        (the mean of logits over the views)
        L     = L_SLA + T² KL( softmax(s/T) ‖ softmax(u·z/T) ) + β CE(softmax(u·z), y)

    The head u sees the untransformed view alone; the aggregate s is its teacher, at this step's weights, detached.
    """

    name = "sla"
    title = "Self-supervised Label Augmentation via Input Transformations"
    source = "https://arxiv.org/abs/1910.05872"
    formula = "mean_j −log ρ_yj + T² KL(softmax(mean_j w_ij·z̃_j / T) ‖ softmax(u·z / T)) + β CE(u·z, y)"
    learner = "vision"
    outputs = {
        "w": "[B, M, N, M] logits of the joint head: image, view j, class, transformation",
        "u": "[B, M, N] logits of the single head on each view; the first is untransformed",
        "v": "[B, M, M] logits of the transformation's own head, on each view",
        "y": "[B] labels",
    }

    data: str = "glyphs"
    """glyphs, glyphs-color, digits, or FILE.npz with arrays x (images [n, c, h, w] in [0, 1]) and y (labels). The
    paper's: CIFAR-10 and others, which are not brought along."""
    train_size: PositiveRows | None = None
    """Images to train on, of those not held out (none: all)."""
    objective: Literal["sla-sd", "sla", "ce", "da", "mt"] = "sla-sd"
    """sla-sd: L; sla: L_SLA alone; ce: CE(u·z, y) on the untransformed view; da: the same label for all views,
    mean_j CE(u·z̃_j, y); mt: mean_j CE(u·z̃_j, y) + CE(v·z̃_j, j)."""
    inference: Literal["auto", "sd", "ag", "si"] = "auto"
    """Who names a held-out image for the headline. sd: the head u, one view; ag: the joint head, M views; si: the joint
    head, one view. auto: ag for sla, else sd."""
    transformation: Literal[
        "rotation4", "rotation2", "color6", "color3", "rotation4-color3", "rotation4-color6"
    ] = "rotation4"
    """t_j: rotations by 0, 90, 180 and 270° (2: 0 and 180°), permutations of three color channels (3: the cyclic ones),
    or both, one after the other."""
    optimization: NetworkOptimization = NetworkOptimization(
        optim="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4, steps=80_000, batch_size=128, schedule="step"
    )
    distill_temperature: PositiveFloat = 1.0
    """T."""
    beta: NonNegativeFloat = 1.0
    """β, weight of the labels of the single head."""
    view_reduction: Literal["mean", "sum"] = "mean"
    """The joint losses of an image's views are averaged, or added (the released code's for ImageNet)."""
    encoder: Literal["resnet32", "resnet20", "resnet56", "cnn"] = "resnet32"
    """resnetN: He's network for small images, N layers; cnn: three convolutions."""
    width: PositiveRows = 16
    """Channels of the encoder's first layer; of the last four times as many."""
    crop_padding: NonNegativeInt = 4
    """Training images are shifted at random by up to so many pixels either way, zeros coming in."""
    flip: bool = True
    """Training images are mirrored left to right at random. Not for digits."""

    def __post_init__(self) -> None:
        heads = {"sla-sd": ("sd", "ag", "si"), "sla": ("ag", "si")}.get(self.objective, ("sd",))
        require(
            self.inference in ("auto", *heads),
            f"objective {self.objective} trains no head for inference {self.inference}: take {' or '.join(heads)}",
        )

    @property
    def chosen_inference(self) -> str:
        """``inference``, or what auto means."""
        return self.inference if self.inference != "auto" else "ag" if self.objective == "sla" else "sd"

    def heads(self, classes: int, transformations: int) -> dict[str, int]:
        """The heads that the objective trains: how many logits each has."""
        known = {"w": classes * transformations, "u": classes, "v": transformations}
        trained = {"sla-sd": "wu", "sla": "w", "mt": "uv"}.get(self.objective, "u")
        return {name: known[name] for name in trained}

    def loss(self, network: str, outputs: Outputs, step: int) -> Float[Tensor, ""]:
        y = outputs["y"]
        match self.objective:
            case "ce":
                return functional.cross_entropy(outputs["u"][:, 0], y)
            case "da":
                return named_on_all_views(outputs["u"], y)
            case "mt":
                which = torch.arange(outputs["v"].shape[1], device=y.device).expand(len(y), -1)
                named = named_on_all_views(outputs["u"], y)
                return named + functional.cross_entropy(outputs["v"].flatten(0, 1), which.flatten())
        joint = joint_loss(outputs["w"], y, self.view_reduction)
        return (
            joint if self.objective == "sla" else joint + self.distilled(outputs["w"], outputs["u"][:, 0], y)
        )

    def distilled(
        self, w: Float[Tensor, "B M N M"], u: Float[Tensor, "B N"], y: Int[Tensor, " B"]
    ) -> Float[Tensor, ""]:
        """T² KL(aggregate ‖ single head) + β CE(single head, y)."""
        temperature = self.distill_temperature
        teacher, student = (
            (one / temperature).log_softmax(-1) for one in (aggregated(view_logits(w)).detach(), u)
        )
        divergence = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return temperature**2 * divergence + self.beta * functional.cross_entropy(u, y)


def named_on_all_views(u: Float[Tensor, "B M N"], y: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """mean over images and views of CE(softmax(u), y)."""
    return functional.cross_entropy(u.flatten(0, 1), y.repeat_interleave(u.shape[1]))


def joint_loss(
    w: Float[Tensor, "B M N M"], y: Int[Tensor, " B"], reduction: str = "mean"
) -> Float[Tensor, ""]:
    """L_SLA: mean over images of the mean (or sum) over views j of −log ρ_yj(z̃_j)."""
    count = w.shape[1]
    target = y[:, None] * count + torch.arange(
        count, device=y.device
    )  # the layout of class and transformation
    mean = functional.cross_entropy(w.flatten(2).flatten(0, 1), target.flatten())
    return mean if reduction == "mean" else count * mean


def view_logits(w: Float[Tensor, "B M N M"]) -> Float[Tensor, "B M N"]:
    """w_ij·z̃_j: of each view the logits of its own transformation, softmax of which is P(i | x̃_j, j)."""
    return w.diagonal(dim1=1, dim2=3).transpose(1, 2)


def aggregated(logits: Float[Tensor, "B M N"]) -> Float[Tensor, "B N"]:
    """s_i, the mean of the views' logits."""
    return logits.mean(1)
