"""What every recipe declares: who writes, who scores, what is summed, and the paper's settings."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

from selfteach.control.controller import ControllerSpec
from selfteach.control.hook import HookSpec
from selfteach.errors import UserError
from selfteach.objective.batch import STUDENT
from selfteach.objective.minibatch import Minibatch, passes
from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import Term
from selfteach.recipes.checks import nearest
from selfteach.recipes.checks import require as require
from selfteach.recipes.claim import Claim
from selfteach.recipes.tools import Prompt, Tools
from selfteach.roles.role import Role
from selfteach.roles.view import Plain
from selfteach.roles.weights import POLICY, Live
from selfteach.task.trajectory import Trajectory


@dataclass(frozen=True)
class Rollouts:
    """How the student's answers come about."""

    per_prompt: int = 1
    """Answers sampled for each prompt of a step."""
    temperature: float = 1.0
    """Sampling temperature; the loss uses the same one unless the recipe says otherwise."""
    top_p: float = 1.0
    """Nucleus sampling: smallest set of tokens with this mass (1: off)."""
    top_k: int = 0
    """Sample from the k likeliest tokens only (0: off)."""
    max_tokens: int = 1024
    """Longest answer, in tokens."""
    stored: int = 0
    """Prompts answered once, before the first step, and trained on ever after (0: fresh answers each step)."""

    def __post_init__(self) -> None:
        require(self.per_prompt >= 1, "per_prompt must be at least 1")
        require(self.temperature > 0, "temperature must be above 0: the student learns from its own samples")
        require(0 < self.top_p <= 1, "top_p must lie in (0, 1]")
        require(self.top_k >= 0, "top_k must be 0 (off) or positive")
        require(self.max_tokens >= 1, "max_tokens must be at least 1")
        require(self.stored >= 0, "stored must be 0 (fresh answers each step) or a number of prompts")


@dataclass(frozen=True)
class Optimization:
    """How the student's weights move (AdamW)."""

    lr: float = 1e-6
    """Peak learning rate."""
    steps: int = 100
    """Batches; each makes one optimizer step, unless update_epochs or minibatches says otherwise."""
    prompts: int = 32
    """Prompts per step, over all processes."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Shape of the learning rate after warm-up."""
    warmup: int = 0
    """Steps of linear warm-up."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moment decays."""
    max_grad_norm: float | None = 1.0
    """Clip the global gradient norm to this (None: no clipping)."""
    update_epochs: int = 1
    """Passes over each batch (PPO's epochs)."""
    minibatches: int = 1
    """Optimizer steps of a pass: the batch is split so that groups stay whole."""

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr must be positive")
        require(self.steps >= 1, "steps must be at least 1")
        require(self.prompts >= 1, "prompts must be at least 1")
        require(self.warmup >= 0, "warmup must be 0 or more steps")
        require(self.update_epochs >= 1, "update_epochs must be at least 1")
        require(self.minibatches >= 1, "minibatches must be at least 1")
        require(self.weight_decay >= 0, "weight_decay must be 0 or more")
        require(all(0 <= beta < 1 for beta in self.betas), "betas must lie in [0, 1)")
        require(
            self.minibatches <= self.prompts,
            "minibatches must be at most prompts: a batch is split so that groups stay whole",
        )
        require(
            self.max_grad_norm is None or self.max_grad_norm > 0, "max_grad_norm must be positive or none"
        )


@dataclass(frozen=True)
class Adapter:
    """Which weights are trained: all of them, or a LoRA adapter."""

    lora_rank: int = 0
    """Rank of the LoRA adapter on every linear map (0: train all weights)."""
    lora_alpha: int = 128
    """LoRA's alpha: the update is scaled by alpha / rank."""

    def __post_init__(self) -> None:
        require(self.lora_rank >= 0, "lora_rank must be 0 (full fine-tuning) or positive")


PREVIOUS, BASE, END = "previous", "base", "end:"
"""Where a stage's trained weights start: where the stage before left them, at the model given, or, with a stage's name
behind it, at that stage's end."""


@dataclass(frozen=True)
class TrainedWeights:
    """One set of weights that a recipe trains: where they start in this stage, how they move, which of them."""

    start: str = PREVIOUS
    optimization: Optimization = field(default_factory=Optimization)
    adapter: Adapter = field(default_factory=Adapter)


@dataclass(frozen=True)
class PerRecord:
    """Gradients of single records (all rows of one prompt): each clipped to norm ``clip``, summed, noise of deviation
    ``noise`` · ``clip`` added once, divided by the ``expected`` number of records a batch (DP-SGD, card 62).

    Each record's loss is the recipe's loss on that record alone, divisors included: what other records are would leak.
    A statistic of the whole batch (``Statistics.quantile``) is refused. The noise is drawn from the run's seed, which
    must stay secret for a guarantee to hold.
    """

    clip: float
    noise: float
    expected: float

    def __post_init__(self) -> None:
        require(self.clip > 0 and self.expected > 0, "clip and expected must be positive")
        require(self.noise >= 0, "noise must be 0 or positive")


@dataclass(frozen=True)
class ReferenceProbe:
    """Measure at every step how likely some examples' private text is: as NLL of the student under the bare problem
    (``reference/student``, nats a token) and as mean log-prob of each teacher under its view (``reference/NAME``).
    The examples are kept out of training. A controller may read it (card 06)."""

    field: str = "answer"
    examples: int = 16


@dataclass(frozen=True)
class Recipe(ABC):
    """A method: data plus ``terms``. It never touches a model, a tokenizer, a device or a file."""

    title: ClassVar[str]
    """What the method is called in its paper."""
    source: ClassVar[str]
    """Paper (arXiv id) and card."""
    formula: ClassVar[str]
    """The loss in one line."""
    world: ClassVar[str] = "table"
    """The arena world that suits it: what ``selfteach train NAME`` trains on unless told otherwise."""
    suite: ClassVar[str] = ""
    """The suite it belongs to (``selfteach compare --suite``); empty: none."""
    claims: ClassVar[tuple[Claim, ...]] = ()
    """What the paper says that a small world can show, as comparisons of runs."""
    generates: ClassVar[bool] = True
    """Whether a step writes tokens of its own, so that a token budget can end the run."""
    annotated: ClassVar[bool] = False
    """Whether the task's annotator marks each rollout: then there are the marks "key" and "error" (card 04)."""

    rollouts: Rollouts = field(default_factory=Rollouts)
    optimization: Optimization = field(default_factory=Optimization)
    adapter: Adapter = field(default_factory=Adapter)
    student_thinking: bool | None = None
    """Thinking flag of the student's chat template (none: the template's own default)."""

    @classmethod
    def presets(cls) -> Mapping[str, Recipe]:
        """Named settings; the first is the default and holds the paper's values."""
        return {"paper": cls()}

    @property
    def teachers(self) -> Mapping[str, Role]:
        """Who scores the rollouts beside the student, by name. A single one is called ``teacher``."""
        return {}

    @property
    def student(self) -> Role:
        """Whose weights under which view write by default and are trained by default."""
        return Role(Live(), Plain(), self.student_thinking)

    @property
    def roles(self) -> Mapping[str, Role]:
        """Everybody by name: weights × view. A role is trained if and only if a term says so (``Term.role``)."""
        return {STUDENT: self.student, **self.teachers}

    def active(self, step: int) -> Collection[str]:
        """The teachers that score at ``step`` (from 0, within the stage). The others cost nothing."""
        return tuple(self.teachers)

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        """Write the trajectories of a step: by default so many answers of the student to each prompt."""
        return tools.sample(prompts, self.rollouts.per_prompt)

    def updates(self, step: int) -> Sequence[Minibatch]:
        """The optimizer steps on one batch, in turn."""
        return passes(self.optimization.update_epochs, self.optimization.minibatches, tuple(self.trained))

    @property
    def trained(self) -> Mapping[str, TrainedWeights]:
        """The weights that this stage trains, by name."""
        return {POLICY: TrainedWeights(PREVIOUS, self.optimization, self.adapter)}

    @property
    def store(self) -> str | None:
        """The store that ``rollouts.stored`` answers are kept in (None: one of the stage's own name); stages that name
        the same one share it."""
        return None

    @property
    def hook(self) -> HookSpec | None:
        """What looks at the weights after each optimizer step, and may set them (None: nothing)."""
        return None

    @property
    def per_record(self) -> PerRecord | None:
        """Clip and noise the gradient of each record by itself (None: an ordinary gradient)."""
        return None

    @property
    def stages(self) -> Mapping[str, Recipe]:
        """The trainings in a row that make up the method, by name; the last is the recipe itself."""
        return {"train": self}

    @property
    def controllers(self) -> Mapping[str, ControllerSpec]:
        """Knobs that are found while the run goes on: flat knob name → what finds it."""
        return {}

    @property
    def reference_probe(self) -> ReferenceProbe | None:
        """Private text whose likelihood is measured at every step (None: nothing)."""
        return None

    @property
    def temperature(self) -> float:
        """The temperature at which statistics and, by default, terms read log-probs."""
        return self.rollouts.temperature

    @abstractmethod
    def terms(self, stats: Statistics) -> Iterable[Term]:
        """The summands of the loss, weights fixed."""


R = TypeVar("R", bound=Any)

RENAMED = {"distil": "distill"}
"""Knobs of earlier versions by their old names: refused with the new one."""


def knobs(recipe: Recipe) -> dict[str, Any]:
    """Every knob by its flat name, e.g. ``clip_entry``, ``temperature``, ``lr``: names are unique by design."""
    flat: dict[str, Any] = {}
    for f in fields(recipe):
        value = getattr(recipe, f.name)
        flat |= (
            {g.name: getattr(value, g.name) for g in fields(value)}
            if is_dataclass(value)
            else {f.name: value}
        )
    return flat


def with_knobs(recipe: R, changes: Mapping[str, Any]) -> R:
    """The same recipe with knobs replaced by flat name. UserError for an unknown name, with the nearest ones."""
    own: dict[str, Any] = {}
    left = dict(changes)
    for f in fields(recipe):
        value = getattr(recipe, f.name)
        if is_dataclass(value) and not isinstance(value, type):
            inner = {g.name: left.pop(g.name) for g in fields(value) if g.name in left}
            if inner:
                own[f.name] = replace(value, **inner)
        elif f.name in left:
            own[f.name] = left.pop(f.name)
    if left:
        name = next(iter(left))
        require(name not in RENAMED, f"knob {name!r} is now called {RENAMED.get(name)!r}")
        raise UserError(f"{type(recipe).__name__} has no knob {name!r}{nearest(name, knobs(recipe))}")
    return replace(recipe, **own)


def documented(recipe: Recipe) -> dict[str, tuple[Any, str]]:
    """Every knob by its flat name: (value, the sentence under its field)."""
    found: dict[str, tuple[Any, str]] = {}
    meanings = field_docs(type(recipe))
    for f in fields(recipe):
        value = getattr(recipe, f.name)
        if is_dataclass(value) and not isinstance(value, type):
            inner = field_docs(type(value))
            found |= {g.name: (getattr(value, g.name), inner.get(g.name, "")) for g in fields(value)}
        else:
            found[f.name] = (value, meanings.get(f.name, ""))
    return found


def field_docs(kind: type) -> dict[str, str]:
    """Field name → the docstring that stands under it in the source, of a dataclass and its bases."""
    docs: dict[str, str] = {}
    for base in reversed([b for b in kind.__mro__ if is_dataclass(b)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, after in itertools.pairwise(body.body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                docs[statement.target.id] = " ".join(str(after.value.value).split())
    return docs
