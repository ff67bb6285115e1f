"""What a domain brings to a training run. The ``Trainer`` drives it and knows nothing of tokens, images or robots.

A learner is a class that names ``Learner`` as its base, says its ``unit`` and ``stages``, and writes the methods that
have no body here; the others have defaults. Of several processes each has a learner of its own and calls the same
methods in the same order. The Trainer hands the modules back on the run's device, equal on all processes, and seeds the
global random generators, differently on each process; random initial weights are the learner's own to seed.

*Gradients of several processes are added, never averaged*, and it is the Trainer that adds them, once an update, after
``backward``: a learner fills ``.grad`` with its own process's part of a loss whose divisors span the whole batch of all
processes, by as many ``backward`` calls as it likes and without any wrapper's help.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from selfteach.training.clock import Clock

Batch = Any
"""What ``collect`` gives and only the learner looks into."""
Numbers = Mapping[str, float]
"""What one update measured, of the whole batch of all processes (so every process has the same): ``loss``,
``terms/NAME`` … Each must be finite. Of several updates the metrics row has each name's mean."""


class Stage(NamedTuple):
    """A part of a run: its name and how many batches it takes. The same stage may occur again."""

    name: str
    steps: int


class Update(NamedTuple):
    """One optimizer step. Updates are made one by one: the next one sees the weights that this one left.

    ``steps``: names of the optimizers to step; () where ``backward`` moves the weights itself (closed forms).
    ``backward`` fills the ``.grad`` of their parameters; what it leaves at other parameters is forgotten.
    """

    steps: tuple[str, ...]
    backward: Callable[[], Numbers]


@dataclass(frozen=True)
class Trained:
    """An optimizer with its parameters by name, the schedule that follows its steps, and the longest gradient that it
    takes as it is (``max_grad_norm``, of all its parameters together; None: any)."""

    optimizer: torch.optim.Optimizer
    parameters: Mapping[str, nn.Parameter]
    scheduler: LRScheduler | None = None
    max_grad_norm: float | None = None


class Role(Protocol):
    """What the Trainer must know of weights that follow the trained ones: a teacher, an average, a lagged copy.

    ``state`` is any nesting of plain values and tensors; a role with that state goes on exactly as before.
    """

    def after_step(self, moved: Collection[str]) -> None:
        """An update is done; ``moved``: the optimizers that stepped."""

    def after_batch(self) -> None:
        """All updates of a batch are done."""

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Sample:
    """Something to look at in the report, a row of samples.jsonl. ``values`` by kind:

    text: as docs/report.md says; points: ``points``, name → [n, 2] plane coordinates; image: ``pixels``, [c, h, w] of
    one or three channels in [0, 1], and ``caption``, if there is one (its row has ``path`` within the run folder, where
    the pixels are written as PNG);
    audio: ``path`` within the run folder; episode: any JSON; tokens: no row, but the columns of the text samples beside
    it (``RunFolder.tokens``).
    """

    kind: Literal["text", "image", "audio", "points", "episode", "tokens"]
    values: Mapping[str, Any]
    key: str = ""


class Learner(Protocol):
    """See the module's text. ``headline`` says what ``eval/headline`` is, the one number that comparisons, alarms and
    the report follow, and ``better`` which way it should go; ``unit`` what ``spent`` counts: tokens, samples, frames.
    ``clock`` is set by the Trainer before anything is called: ``with self.clock("sample")`` names a phase of the step.
    """

    unit: str
    headline: str
    stages: Sequence[Stage]
    better: Literal["higher", "lower"] = "higher"
    clock: Clock

    @property
    def advice(self) -> str:
        """What to do about numbers that are not finite."""
        return "lower the learning rate, or look at the batch"

    def modules(self) -> Mapping[str, nn.Module]:
        """Every module that holds weights, by name, always the same ones. A checkpoint holds their trainable tensors
        and persistent buffers; whatever else they hold must come out the same when the learner is made again."""
        ...

    def collect(self, step: int) -> Batch:
        """What to learn from: a function of weights, ``state()``, the seed and ``step``, the stage's batches so far."""
        ...

    def updates(self, batch: Batch) -> Iterator[Update]:
        """The updates of one batch, in turn; may end early (a target KL). The same number on every process."""
        ...

    def spent(self, batch: Batch) -> int:
        """Units that this process spent on the batch."""
        ...

    def evaluate(self, phase: Literal["before", "train", "after", "hook"]) -> Mapping[str, float] | None:
        """Held-out numbers ``eval/…``, one of them ``eval/headline`` (and ``eval/headline_se``, its standard error, if
        known); None if the run is not evaluated. Moves no weight and no random state."""
        ...

    def threads(self) -> int | None:
        """Threads of a CPU that its work is worth (None: torch's own choice)."""
        return None

    def memory_advice(self, doing: str) -> str:
        """What to do where memory was used up while ``doing`` this ("sampling", "scoring and updating", "evaluating"
        …)."""
        return "make the batch smaller"

    def enter(self, stage: int) -> None:
        """Begin a stage: fresh optimizers and roles are asked for next, with the weights as they are now."""

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        """The stage's optimizers by name; ``wrapped`` are ``modules()`` as the Trainer placed them."""
        return {}

    def roles(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Role]:
        """The stage's roles by name."""
        return {}

    def preflight(self) -> None:
        """Checks before a stage's first step. Raises UserError; leaves weights and random state as they were."""

    def after_step(self, weights: Mapping[str, nn.Parameter], evaluate: Callable[[], float]) -> bool:
        """A hook after every update: may set the trainable ``weights`` (by MODULE.NAME), with ``evaluate`` giving the
        headline as they are now. Returns whether it set any. Its memory belongs into ``state()``."""
        return False

    def metrics(self, batch: Batch, done: Sequence[Numbers]) -> Mapping[str, Any]:
        """What else the metrics row says, of the whole batch of all processes; ``done``: each update's numbers."""
        return {}

    def observe(self, row: Mapping[str, Any]) -> None:
        """The finished metrics row: controllers and trackers read it."""

    def samples(self, batch: Batch | None, phase: Literal["before", "train", "after"]) -> Iterable[Sample]:
        """What to look at: of a batch, or before and after training. Moves no weight and no random state."""
        return ()

    def failed(self, batch: Batch | None) -> Mapping[str, Any]:
        """What to keep of a batch that broke the run (tensors and JSON); None: ``collect`` itself broke."""
        return {}

    def finished(self) -> bool:
        """Whether nothing is left to learn (the one question is solved). The same on all processes."""
        return False

    def table(self) -> Mapping[str, Any]:
        """Every resolved setting, for config.toml."""
        return {}

    def facts(self) -> Mapping[str, Any]:
        """What advice must look at, of the present stage (``training/advice.py``); nothing: what holds for any run."""
        return {}

    def state(self) -> dict[str, Any]:
        """What else a checkpoint must hold: any nesting of plain values and tensors, the same on all processes."""
        return {}

    def is_divided(self, state: Mapping[str, Any]) -> bool:
        """Whether ``state()`` holds something of each process: a run cannot go on with another number of them."""
        return False

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state()``; weights, optimizers and roles are in place already."""

    def summary(self) -> Mapping[str, Any]:
        """What else summary.json says at the end."""
        return {}

    def gather(self) -> None:
        """Before ``export``, in every process: bring what is sharded into the first one."""

    def export(self, folder: Path) -> None:
        """Write the trained model for others to use. Called in the first process only."""
