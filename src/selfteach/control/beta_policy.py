"""A knob in [0, 1] drawn from a small Beta policy that learns from the progress its draws led to (ATESD)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Annotated, Any

import torch
from annotated_types import Ge, Interval
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Beta

from selfteach.errors import UserError
from selfteach.settings import (
    NonNegativeFloat,
    PositiveInt,
    PositiveUnit,
    UnitInterval,
    settings,
)

FEATURES = ("progress", "knob", "loss", "mismatch", "probe", "confidence")
"""What the policy sees: the share of steps taken; running means of the knob, the loss, the divergence, the probe's
NLL; exp(−entropy) of the student."""
INSIDE = 1e-6
"""Draws keep this distance from 0 and 1, where a Beta density is 0."""


@settings
class BetaPolicy:
    """Draw a knob's value x ~ Beta(a, b), (a, b) = 1 + softplus(f(s)), f a small network and s the state of training.

    "Adaptive Teacher Exposure" (arXiv 2605.11458). A value is held for ``hold`` steps. With ℓ the probe's NLL
    under the student and g the teacher's mean log-prob of the probe's text (nats a token), a draw before step t0 + 1 is
    rewarded by the ``lookahead`` = L steps that follow, γ = ``discount``:

        R = Σ_{i=1..L} γ^(i−1) max(0, ℓ_{t0+i−1} − ℓ_{t0+i}) + answer_weight · Σ γ^(i−1) g_{t0+i} / Σ γ^(i−1)

    and when ``decisions`` of them are known the network takes one step of REINFORCE with standardized R, under a
    penalty on an entropy above ``entropy_target``. The paper does not give these numbers: every default is ours.
    """

    lowest: UnitInterval = 0.2
    """Smallest value of the knob; draws below are clipped (ours; the paper's figures show none below 0.2)."""
    highest: UnitInterval = 1.0
    """Largest value of the knob; draws above are clipped (ours: everything)."""
    hold: PositiveInt = 2
    """H: steps for which a drawn value is held (ours; not in the paper)."""
    lookahead: PositiveInt = 4
    """L: steps after a draw whose progress rewards it (ours; not in the paper. 1: immediate feedback)."""
    discount: PositiveUnit = 0.9
    """γ: weight of each further step of the lookahead (ours; not in the paper)."""
    answer_weight: NonNegativeFloat = 0.1
    """λ_gt: weight of the teacher's mean log-prob of the probe's text in the reward (ours; not in the paper)."""
    decisions: Annotated[int, Ge(2)] = 4
    """B: rewarded draws for each REINFORCE step (ours; not in the paper. One alone has no standard deviation)."""
    policy_lr: NonNegativeFloat = 0.3
    """Step size of REINFORCE (ours; not in the paper. 0: random draws that learn nothing)."""
    policy_width: PositiveInt = 16
    """Hidden units of the network (ours; not in the paper)."""
    entropy_target: float = -0.5
    """Differential entropy, in nats, above which the policy is penalized (ours; uniform draws have 0)."""
    entropy_penalty: NonNegativeFloat = 0.1
    """c: weight of the squared excess of entropy (ours; the paper lets it vary)."""
    smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.8
    """Decay of the running means in the state (ours; not in the paper)."""

    def __post_init__(self) -> None:
        if self.lowest >= self.highest:
            raise UserError(f"lowest must be below highest, got {self.lowest} and {self.highest}")

    def start(self, seed: int) -> BetaController:
        """A controller that has seen nothing; its first draws have mean ½."""
        return BetaController(self, seed)


@dataclass
class Decision:
    """A draw with the state it was made in, and what has been measured since: ``probe`` begins before the draw."""

    state: list[float]
    draw: float
    probe: list[float]
    answer: list[float] = field(default_factory=list)


class BetaController:
    """The running policy. It reads ``loss``, ``entropy/student``, ``divergence/teacher``, ``reference/student`` and
    ``reference/teacher`` of each step's row; its random numbers are its own."""

    def __init__(self, spec: BetaPolicy, seed: int) -> None:
        self.spec, self.random = spec, Random(f"beta policy {seed}")
        self.network = network(spec.policy_width, seed)
        self.seen: dict[str, float] = dict.fromkeys(FEATURES, 0.0)
        self.probe: float | None = None
        self.steps, self.due, self.value = 0, 0, 1.0
        self.open: list[Decision] = []
        self.finished: list[Decision] = []

    def choose(self, progress: float) -> float:
        if self.steps >= self.due:
            self.seen["progress"] = progress
            self.decide()
            self.due = self.steps + self.spec.hold
        return self.value

    def decide(self) -> None:
        state = [self.seen[name] for name in FEATURES]
        with torch.no_grad():
            policy = beta(self.network, [state])
        draw = self.random.betavariate(float(policy.concentration1), float(policy.concentration0))
        draw = min(max(draw, INSIDE), 1 - INSIDE)
        self.value = min(max(draw, self.spec.lowest), self.spec.highest)
        # Before the first measurement there is nothing that progress could be counted from.
        if self.probe is not None:
            self.open.append(Decision(state, draw, [self.probe]))

    def observe(self, row: Mapping[str, Any]) -> None:
        self.steps += 1
        self.probe = row["reference/student"]
        for one in self.open:
            one.probe.append(row["reference/student"])
            one.answer.append(row["reference/teacher"])
        self.finished += [one for one in self.open if len(one.answer) == self.spec.lookahead]
        self.open = [one for one in self.open if len(one.answer) < self.spec.lookahead]
        self.remember(row)
        while len(self.finished) >= self.spec.decisions:
            self.learn(self.finished[: self.spec.decisions])
            del self.finished[: self.spec.decisions]

    def remember(self, row: Mapping[str, Any]) -> None:
        keep = self.spec.smoothing
        observed = {"knob": self.value, "loss": row["loss"], "probe": row["reference/student"]}
        # A step in which no teacher could see its view has no divergence; its running mean stays.
        if "divergence/teacher" in row:
            observed["mismatch"] = row["divergence/teacher"]
        for name, value in observed.items():
            self.seen[name] = value if self.steps == 1 else keep * self.seen[name] + (1 - keep) * value
        self.seen["confidence"] = math.exp(-row["entropy/student"])

    def learn(self, decisions: Sequence[Decision]) -> None:
        """One step down the gradient of ``controller_loss``."""
        spec = self.spec
        rewards = [reward(one.probe, one.answer, spec.discount, spec.answer_weight) for one in decisions]
        loss = controller_loss(
            beta(self.network, [one.state for one in decisions]),
            draws=torch.tensor([one.draw for one in decisions], dtype=torch.float64),
            advantages=standardized(torch.tensor(rewards, dtype=torch.float64)),
            entropy_target=spec.entropy_target,
            entropy_penalty=spec.entropy_penalty,
        )
        parameters = list(self.network.parameters())
        with torch.no_grad():
            for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.sub_(spec.policy_lr * slope)

    def state(self) -> dict[str, Any]:
        version, internal, gauss = self.random.getstate()
        return {
            "network": dict(self.network.state_dict()),
            "random": {"version": version, "internal": list(internal), "gauss": gauss},
            "seen": dict(self.seen),
            "probe": self.probe,
            "steps": self.steps,
            "due": self.due,
            "value": self.value,
            "open": [asdict(one) for one in self.open],
            "finished": [asdict(one) for one in self.finished],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        random = state["random"]
        self.random.setstate((random["version"], tuple(random["internal"]), random["gauss"]))
        self.network.load_state_dict(state["network"])
        self.seen, self.probe = dict(state["seen"]), state["probe"]
        self.steps, self.due, self.value = state["steps"], state["due"], state["value"]
        self.open = [Decision(**one) for one in state["open"]]
        self.finished = [Decision(**one) for one in state["finished"]]


def network(width: int, seed: int) -> nn.Module:
    """State [.., 6] → [.., 2]. The last layer begins at 0, so that every seed begins with the same policy."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Linear(len(FEATURES), width), nn.Tanh(), nn.Linear(width, 2)).double()
    for parameter in layers[-1].parameters():
        nn.init.zeros_(parameter)
    return layers


def beta(layers: nn.Module, states: Sequence[Sequence[float]]) -> Beta:
    """The policy in each state: a, b > 1, so that it has one mode, strictly inside."""
    a, b = (1 + nn.functional.softplus(layers(torch.tensor(states, dtype=torch.float64)))).unbind(-1)
    return Beta(a, b)


def reward(probe: Sequence[float], answer: Sequence[float], discount: float, answer_weight: float) -> float:
    """``probe``: ℓ_t0 … ℓ_{t0+L}, ``answer``: g_{t0+1} … g_{t0+L} → R (formula at ``BetaPolicy``)."""
    weights = [discount**i for i in range(len(answer))]
    drops = (max(0.0, before - after) for before, after in itertools.pairwise(probe))
    progress = sum(w * drop for w, drop in zip(weights, drops, strict=True))
    observed = sum(w * g for w, g in zip(weights, answer, strict=True)) / sum(weights)
    return progress + answer_weight * observed


def standardized(rewards: Float[Tensor, "B"], epsilon: float = 1e-8) -> Float[Tensor, "B"]:
    """[B] (R − mean) / (standard deviation + ε); the sum is 0."""
    return (rewards - rewards.mean()) / (rewards.std(correction=0) + epsilon)


def controller_loss(
    policy: Beta,
    draws: Float[Tensor, "B"],
    advantages: Float[Tensor, "B"],
    entropy_target: float,
    entropy_penalty: float,
) -> Float[Tensor, ""]:
    """−mean_j A_j log π(x_j|s_j) + c · max(0, mean_j H[π(·|s_j)] − H_target)²: only too much entropy costs."""
    entropy: Tensor = policy.entropy()
    log_prob: Tensor = policy.log_prob(draws)
    excess = (entropy.mean() - entropy_target).clamp(min=0)
    return -(advantages * log_prob).mean() + entropy_penalty * excess.square()
