"""What a step computes, counted: tokens pushed through transformers, positions that reach a head, waits for the host.

No clock is read, so that no machine and no neighbor on it can change a number. Modules and operations are *observed*
(hooks on every forward pass, torch's own modes under every operation); no function of the house is replaced. A sampler
or a scorer that is written anew is counted as the old one was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from runs import TextRun
from selfteach.objective.batch import STUDENT
from selfteach.policy.loading import Policy, bare, body
from selfteach.training.clock import Clock

aten = torch.ops.aten
UNKNOWN = "other"
"""Whose weights a module has that no role scores with: one that was made during the step."""
PRODUCTS: Mapping[Any, int] = {aten.mm: 1, aten.bmm: 1, aten.addmm: 2, aten.baddbmm: 2}
"""Operations that a head's product may be, and which argument is its matrix."""
WAITS = (
    aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select, aten._unique2,
    aten.unique_dim, aten.unique_consecutive, aten.repeat_interleave, aten.bincount,
)  # fmt: skip
"""Operations whose result, or its size, the host must know before it goes on."""
INDEXED = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)
"""The same where an index is a mask."""
COPIES = (Tensor.tolist, Tensor.cpu, Tensor.numpy)
"""Calls that copy to the host; on a CPU no operation is seen of them."""


@dataclass(frozen=True)
class Forward:
    """One forward pass of a transformer's body, of ``rows`` × ``width`` tokens. ``phase``: the trainer's clock was in
    it; ``weights``: the roles that score with them; ``real``: tokens that are no padding; ``past``: tokens a row that
    its cache held before."""

    phase: str
    weights: str
    gradient: bool
    rows: int
    width: int
    real: int
    past: int

    @property
    def pushed(self) -> int:
        return self.rows * self.width

    @property
    def decoding(self) -> bool:
        """One further token of every row, read behind a cache."""
        return self.width == 1 and self.past > 0


@dataclass(frozen=True)
class Projection:
    """One product of ``positions`` states with the output matrix of ``weights``."""

    phase: str
    weights: str
    positions: int


@dataclass(frozen=True)
class Passes:
    """Several forward passes together."""

    calls: int
    pushed: int
    real: int

    @classmethod
    def of(cls, several: Sequence[Forward]) -> Passes:
        return cls(len(several), sum(one.pushed for one in several), sum(one.real for one in several))


@dataclass
class Counts:
    """What was seen. ``waits``: (phase, operation) → how often the host would wait for an accelerator; tensors that
    are on the host there too are counted all the same, since on a CPU nothing tells them apart."""

    forwards: list[Forward] = field(default_factory=list)
    projections: list[Projection] = field(default_factory=list)
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)

    def by_weights(self, phase: str) -> dict[tuple[str, bool], Passes]:
        """(weights, with gradient) → the passes of one phase that were no decoding steps."""
        found: dict[tuple[str, bool], list[Forward]] = {}
        for one in self.forwards:
            if one.phase == phase and not one.decoding:
                found.setdefault((one.weights, one.gradient), []).append(one)
        return {key: Passes.of(passes) for key, passes in found.items()}

    def decoding(self) -> dict[str, Passes]:
        """weights → the steps of one token a row."""
        found: dict[str, list[Forward]] = {}
        for one in self.forwards:
            if one.decoding:
                found.setdefault(one.weights, []).append(one)
        return {name: Passes.of(passes) for name, passes in found.items()}

    def positions(self, phase: str) -> dict[str, int]:
        """weights → positions that reached their head in a phase."""
        found: Counter[str] = Counter()
        for one in self.projections:
            if one.phase == phase:
                found[one.weights] += one.positions
        return dict(found)

    def waiting(self, phase: str) -> int:
        return sum(times for (where, _), times in self.waits.items() if where == phase)


class Phases(Clock):
    """A clock that says in which phase it is."""

    def __init__(self) -> None:
        super().__init__()
        self.within = [""]

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self.within.append(phase)
        try:
            with super().__call__(phase):
                yield
        finally:
            self.within.pop()


@contextmanager
def counting(run: TextRun) -> Iterator[Counts]:
    """Within it everything that the run computes is counted."""
    observer = Observer(run)
    with ExitStack() as inside:
        hook = register_module_forward_hook(observer.forward, with_kwargs=True)
        inside.callback(hook.remove)
        inside.enter_context(Operations(observer))
        inside.enter_context(Calls(observer))
        yield observer.counts


class Observer:
    """Knows the run's weights by the roles that score with them, and writes down what it is shown."""

    def __init__(self, run: TextRun) -> None:
        self.counts, self.phases, self.blind = Counts(), Phases(), False
        run.clock = run.learner.clock = self.phases
        self.pad = run.learner.policy.renderer.pad_id
        self.bodies: dict[int, str] = {}
        self.matrices: dict[int, str] = {}
        self.widths = {run.learner.policy.vocabulary}
        self.know(STUDENT, run.learner.policy)
        for name, role in run.learner.recipe.teachers.items():
            with run.learner.models.weights.scoring(role.weights) as policy:
                self.know(name, policy)

    def know(self, name: str, policy: Policy) -> None:
        matrix = bare(policy.model).get_output_embeddings().weight
        self.widths.add(len(matrix))
        for known, key in (
            (self.bodies, id(body(policy.model))),
            (self.matrices, matrix.untyped_storage().data_ptr()),
        ):
            before = known.get(key)
            known[key] = name if before is None else before if before == STUDENT else f"{before}+{name}"

    @property
    def phase(self) -> str:
        return self.phases.within[-1]

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Within it nothing is counted: what is computed is the observer's own."""
        before, self.blind = self.blind, True
        try:
            yield
        finally:
            self.blind = before

    def forward(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        """What every module's forward pass is followed by."""
        if (
            self.blind
            or not isinstance(module, PreTrainedModel)
            or module.get_output_embeddings() is not None
        ):
            return
        ids: Tensor = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        cache = kwargs.get("past_key_values")
        rows, width = ids.shape
        with self.looking():
            real = int(ids.ne(self.pad).sum())
            held = 0 if cache is None else int(cache.get_seq_length())
        name = self.bodies.get(id(module), UNKNOWN)
        past = max(0, held - width)
        self.counts.forwards.append(
            Forward(self.phase, name, torch.is_grad_enabled(), rows, width, real, past)
        )

    def operation(self, kind: Any, args: tuple[Any, ...], output: object) -> None:
        if kind in WAITS or (kind in INDEXED and any(map(is_mask, args[1]))):
            self.waited(kind.__name__)
        elif kind is aten._to_copy and args[0].device.type != "cpu" and output.device.type == "cpu":  # type: ignore[attr-defined]
            self.waited("to")
        elif kind in PRODUCTS and isinstance(output, Tensor) and output.shape[-1] in self.widths:
            at = args[PRODUCTS[kind]].untyped_storage().data_ptr()
            positions = output.numel() // output.shape[-1]
            self.counts.projections.append(Projection(self.phase, self.matrices.get(at, UNKNOWN), positions))

    def waited(self, name: str) -> None:
        self.counts.waits[self.phase, name] += 1


def is_mask(index: object) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


class Operations(TorchDispatchMode):
    """Shows every operation to the observer, backward's too."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.observer = observer

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self.observer.blind:
            self.observer.operation(func.overloadpacket, args, output)
        return output


class Calls(TorchFunctionMode):
    """Shows the observer the calls that copy to the host."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self.observer = observer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in COPIES and not self.observer.blind:
            self.observer.waited(func.__name__)
        return func(*args, **(kwargs or {}))
