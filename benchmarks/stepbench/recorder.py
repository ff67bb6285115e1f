"""Seconds by phase and peak memory of the steps of any trainer, from outside: nothing of it is changed but what is
timed.

Each second is counted once: a phase within another is taken off the outer one; what no phase claims is "rest".
"""

from __future__ import annotations

import functools
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from stepbench import kinds

PHASES = ("sampling", "teacher", "student", "loss", "backward", "optimizer", "rest")
Seconds = tuple[float, float]
"""(wall, processor: user + system of all threads of the process)"""


class Finished(BaseException):
    """Raised after the last step that is wanted: a trainer's own end (its last checkpoint) is not waited for."""


class Recorder:
    """``tick`` ends a step; the first one ends the warm-up, of which nothing is kept.

    ``before``: bytes resident before a model was loaded; ``peak``: at most during the timed steps; ``memory``: of a
    device, the same by phase (what waits there for others included). ``read``: the
    prompts of the step that is being sampled, where a side tells them before it is done.
    ``profiled``: phases within no other are looked into by torch's profiler, which slows them down; ``operations``:
    what it found."""

    def __init__(self, steps: int, cuda: bool = False, profiled: bool = False) -> None:
        self.steps, self.cuda, self.profiled = steps, cuda, profiled
        self.operations: dict[str, list[tuple[str, float]]] = {}
        self.phases: dict[str, list[float]] = {}
        self.stack: list[tuple[str, Seconds, list[float]]] = []
        self.rows: list[dict[str, Any]] = []
        self.noted: dict[str, Any] = {}
        self.warm = False
        self.began = self.now()
        self.probe: tuple[nn.Parameter, torch.Tensor] | None = None
        self.peak = self.before = 0
        self.memory: dict[str, int] = {}
        self.read: list[list[int]] = []

    def now(self) -> Seconds:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    # --- phases ---------------------------------------------------------------------------------------------------

    def enter(self, name: str) -> None:
        self.mark_memory()
        self.stack.append((name, self.now(), [0.0, 0.0]))

    def leave(self) -> None:
        self.mark_memory()
        name, began, inner = self.stack.pop()
        spent = [end - begin for end, begin in zip(self.now(), began, strict=True)]
        own = self.phases.setdefault(name, [0.0, 0.0])
        for i in (0, 1):
            own[i] += spent[i] - inner[i]
            if self.stack:
                self.stack[-1][2][i] += spent[i]

    def mark_memory(self) -> None:
        """The device's most since the last mark was the innermost phase's."""
        if self.cuda and self.warm:
            name = next((one for one in reversed(self.within) if one in PHASES), PHASES[-1])
            self.memory[name] = max(self.memory.get(name, 0), peak(cuda=True))
            forget_peak(cuda=True)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        profiler = kinds.started() if self.profiled and self.warm and not self.stack else None
        self.enter(name)
        try:
            yield
        finally:
            self.leave()
            if profiler is not None:
                self.operations.setdefault(name, []).extend(kinds.stopped(profiler))

    @property
    def within(self) -> list[str]:
        """The phases that it is in, outermost first."""
        return [name for name, _, _ in self.stack]

    def timed(
        self, function: Callable[..., Any], phase: str | Callable[[], str | None]
    ) -> Callable[..., Any]:
        """The function, its calls counted as ``phase`` (or as what that gives when called; None: not at all)."""

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            name = phase if isinstance(phase, str) else phase()
            if name is None:
                return function(*args, **kwargs)
            with self.phase(name):
                return function(*args, **kwargs)

        return called

    def wrap(self, owner: Any, name: str, phase: str | Callable[[], str | None]) -> None:
        """Time ``owner.name`` from now on."""
        setattr(owner, name, self.timed(getattr(owner, name), phase))

    def watch_passes(self, body: type[nn.Module]) -> None:
        """Time what every side calls alike: the transformer without its head ("student" with gradient, else
        "teacher"; what is sampled stays "sampling"), backward passes, and optimizer steps."""
        self.wrap(body, "forward", self.whose)
        self.wrap(torch.autograd, "backward", "backward")
        register_optimizer_step_pre_hook(lambda *_: self.enter("optimizer"))
        register_optimizer_step_post_hook(lambda *_: self.leave())

    def whose(self) -> str | None:
        inside = {"sampling", "backward", "student", "teacher"} & set(self.within)
        return None if inside else "student" if torch.is_grad_enabled() else "teacher"

    # --- steps ----------------------------------------------------------------------------------------------------

    def note(self, **facts: Any) -> None:
        """What the step did: kept beside its seconds."""
        self.noted.update(facts)

    def tick(self) -> None:
        """A step has ended. Raises ``Finished`` after the last."""
        now = self.now()
        self.mark_memory()
        if self.warm:
            self.rows.append(row_of(self.began, now, self.phases) | self.noted)
        else:
            forget_peak(self.cuda)
        self.warm, self.phases, self.noted = True, {}, {}
        if len(self.rows) == self.steps:
            self.peak = max(self.memory.values(), default=0) if self.cuda else peak(cuda=False)
            raise Finished
        self.began = self.now()

    # --- whether it learns ----------------------------------------------------------------------------------------

    def remember(self, model: nn.Module) -> None:
        """Keep one matrix from the middle of the model as it is now."""
        matrices = [one for one in model.parameters() if one.ndim == 2 and one.requires_grad]
        middle = matrices[len(matrices) // 2]
        self.probe = (middle, middle.detach().clone())

    @property
    def moved(self) -> float:
        """How far that matrix has moved, relative to its norm."""
        if self.probe is None:
            return 0.0
        now, before = self.probe
        return float((now.detach() - before).norm() / before.norm())


def row_of(began: Seconds, now: Seconds, phases: dict[str, list[float]]) -> dict[str, Any]:
    """One step: its seconds by the two clocks, and by phase, "rest" included."""
    wall, cpu = (end - begin for end, begin in zip(now, began, strict=True))
    split = {name: phases.get(name, [0.0, 0.0]) for name in PHASES[:-1]}
    known = [sum(one[i] for one in phases.values()) for i in (0, 1)]
    unknown = [phases[name] for name in phases if name not in PHASES]
    extra = [sum(one[i] for one in unknown) for i in (0, 1)]
    split["rest"] = [wall - known[0] + extra[0], cpu - known[1] + extra[1]]
    return {"wall": wall, "cpu": cpu, "phases": split}


def replaced(function: Callable[..., Any], by: Callable[..., Any], package: str) -> int:
    """Put ``by`` wherever a loaded module of the package holds ``function``; gives in how many places."""
    places = 0
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] != package or module is None:
            continue
        for attribute, value in list(vars(module).items()):
            if value is function:
                setattr(module, attribute, by)
                places += 1
    return places


# --- memory -------------------------------------------------------------------------------------------------------


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process: resident now, or (``VmHWM``) at most."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{field}:\s+(\d+)", status)
    if found is None:
        raise RuntimeError(f"/proc/self/status says nothing of {field}")
    return 1024 * int(found[1])


def forget_peak(cuda: bool) -> None:
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak(cuda: bool) -> int:
    """Bytes at most since ``forget_peak``: allocated on the device, or resident."""
    return torch.cuda.max_memory_allocated() if cuda else resident("VmHWM")


def state_bytes(trained: int, teachers: Sequence[int]) -> int:
    """Bytes that every side needs in float32: weights, gradients and Adam's two moments of ``trained`` parameters,
    and the weights of each frozen teacher's."""
    return 4 * (4 * trained + sum(teachers))
