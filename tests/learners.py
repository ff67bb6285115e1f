"""Two learners without a token in them, from outside the package; ``python learners.py OUT STEPS [--resume]`` runs the
flow."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from selfteach.training.learner import Learner, Numbers, Sample, Stage, Trained, Update
from selfteach.training.running import run_learner
from selfteach.training.schedule import scheduled
from selfteach.training.trainer import Settings

SINE = """0.38476636465198066 1.2333967683416893 1.33232242218057 0.6920159488889518 -0.29756145531871736
    -0.24189291901377769 -0.7964485769175675 -0.9616480167034174 -0.49672509509916934 -0.3469066003991437
    0.5589512650600734"""
"""Card 35: noisy values of sin 2πx at x = 0, 0.1 … 1 (arXiv 2002.05715, used again by arXiv 2102.13088)."""


def kernel(a: Tensor, b: Tensor) -> Tensor:
    return torch.exp(-80 * (a[:, None] - b) ** 2)


class Ridge(Learner):
    """Card 35: kernel ridge regression, refitted in closed form on α · truth + (1 − α) · its own last predictions."""

    unit, headline, better = "fits", "MSE to the sine", "lower"

    def __init__(self, alpha: float, steps: int) -> None:
        self.alpha, self.stages = alpha, [Stage("distill", steps)]
        self.x = torch.linspace(0, 1, 11, dtype=torch.float64)
        self.y = torch.tensor([float(value) for value in SINE.split()], dtype=torch.float64)
        self.model = nn.Module()
        self.model.register_buffer("coefficients", torch.zeros_like(self.y))
        self.teacher = Previous(self)

    def modules(self) -> Mapping[str, nn.Module]:
        return {"ridge": self.model}

    def roles(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Previous]:
        return {"previous": self.teacher}

    def collect(self, step: int) -> Tensor:
        return self.alpha * self.y + (1 - self.alpha) * self.teacher.predictions

    def updates(self, batch: Tensor) -> Iterator[Update]:
        yield Update((), lambda: self.fit(batch))

    def fit(self, targets: Tensor) -> Numbers:
        gram = kernel(self.x, self.x)
        ridge = gram + 0.2 * torch.eye(len(gram), dtype=gram.dtype)
        self.model.coefficients.copy_(torch.linalg.solve(ridge, targets))
        return {"loss": float(((self.predict(self.x) - targets) ** 2).mean())}

    def predict(self, x: Tensor) -> Tensor:
        return kernel(x, self.x) @ self.model.coefficients

    def spent(self, batch: Tensor) -> int:
        return 1

    def evaluate(self, phase: str) -> Mapping[str, float]:
        grid = torch.linspace(0, 1, 101, dtype=torch.float64)
        return {"eval/headline": float(((self.predict(grid) - torch.sin(2 * math.pi * grid)) ** 2).mean())}

    def table(self) -> Mapping[str, Any]:
        return {"alpha": self.alpha}


class Previous:
    """A teacher that is the last fit: its predictions on the training inputs; before the first fit, the truth."""

    def __init__(self, student: Ridge) -> None:
        self.student, self.predictions = student, student.y

    def after_step(self, moved: Collection[str]) -> None: ...

    def after_batch(self) -> None:
        self.predictions = self.student.predict(self.student.x)

    def state(self) -> dict[str, Any]:
        return {"predictions": self.predictions}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.predictions = state["predictions"]


class Flow(Learner):
    """A velocity field in the plane that carries noise to a ring (flow matching), with a critic of its one-step samples
    that is trained at every third step."""

    unit, headline, better = "points", "distance from the ring", "lower"

    def __init__(self, steps: int, lr: float = 3e-3) -> None:
        self.stages, self.lr, self.batches = [Stage("flow", steps)], lr, 0
        torch.manual_seed(0)
        self.velocity = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, 2))
        self.critic = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.SiLU(), nn.Linear(16, 1))

    def modules(self) -> Mapping[str, nn.Module]:
        return {"velocity": self.velocity, "critic": self.critic}

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        made = {name: torch.optim.Adam(module.parameters(), self.lr) for name, module in wrapped.items()}
        named = {name: dict(module.named_parameters()) for name, module in wrapped.items()}
        cosine = scheduled(made["velocity"], "cosine", 2, self.stages[0].steps)
        flow = Trained(made["velocity"], named["velocity"], cosine, max_grad_norm=1.0)
        return {"velocity": flow, "critic": Trained(made["critic"], named["critic"])}

    def collect(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        self.batches += 1
        angle = 2 * math.pi * torch.rand(64)
        return torch.stack([angle.cos(), angle.sin()], 1), torch.randn(64, 2), torch.rand(64, 1)

    def updates(self, batch: tuple[Tensor, Tensor, Tensor]) -> Iterator[Update]:
        yield Update(("velocity",), lambda: self.match(*batch))
        if self.batches % 3 == 0:
            yield Update(("critic",), lambda: self.criticize(*batch[:2]))

    def match(self, data: Tensor, noise: Tensor, t: Tensor) -> Numbers:
        velocity = self.velocity(torch.cat([(1 - t) * noise + t * data, t], 1))
        matching = ((velocity - (data - noise)) ** 2).mean()
        fooling = 0.01 * nn.functional.softplus(-self.critic(self.carried(noise))).mean()
        (matching + fooling).backward()
        return {
            "loss": (matching + fooling).item(),
            "terms/match": matching.item(),
            "terms/fool": fooling.item(),
        }

    def criticize(self, data: Tensor, noise: Tensor) -> Numbers:
        softplus, fake = nn.functional.softplus, self.critic(self.carried(noise).detach())
        (loss := softplus(-self.critic(data)).mean() + softplus(fake).mean()).backward()
        return {"critic/loss": loss.item()}

    def carried(self, points: Tensor, steps: int = 1) -> Tensor:
        for i in range(steps):
            at = torch.full((len(points), 1), i / steps)
            points = points + self.velocity(torch.cat([points, at], 1)) / steps
        return points

    @torch.no_grad()
    def written(self) -> Tensor:
        return self.carried(torch.randn(200, 2, generator=torch.Generator().manual_seed(1)), steps=8)

    def spent(self, batch: tuple[Tensor, ...]) -> int:
        return len(batch[0])

    def evaluate(self, phase: str) -> Mapping[str, float]:
        return {"eval/headline": float((self.written().norm(dim=1) - 1).abs().mean())}

    def samples(self, batch: tuple[Tensor, ...] | None, phase: str) -> list[Sample]:
        return [Sample("points", {"points": {"model": self.written().tolist()}}, key="ring")]

    def state(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.batches = state["batches"]

    def export(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        save_file(self.velocity.state_dict(), folder / "velocity.safetensors")


FLOW = Settings(eval_every=4, samples_every=5, checkpoint_every=3, device="cpu")

if __name__ == "__main__":
    run_learner(Flow(int(sys.argv[2])), sys.argv[1], FLOW, resume="--resume" in sys.argv)
