"""What one process is asked to do, and the little that all sides share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from stepbench.recorder import Recorder, resident, state_bytes
from stepbench.shapes import Shape
from stepbench.workload import Row, read

Precision = Literal["float32", "bf16", "bf16-weights"]
Family = Literal["sdft", "sdpo", "gkd"]


@dataclass(frozen=True)
class Task:
    """One side's run: a process of its own. ``library``: "ours", "bare", or TRL's trainer ("trl-sdft" …).
    ``words``: more options of ``selfteach train``. ``warmup_tokens``: how long the answers of the step before the
    timed ones are."""

    library: str
    family: Family
    shape: Shape
    model: str
    teacher: str
    rows: str
    out: str
    precision: Precision = "float32"
    words: tuple[str, ...] = ()
    recipe: str = ""
    steps: int = 1
    warmup_tokens: int = 8
    seed: int = 0
    device: str = "cpu"
    profiled: bool = False

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    @property
    def workload(self) -> list[Row]:
        return read(Path(self.rows))

    def recorder(self) -> Recorder:
        return Recorder(self.steps, self.cuda, self.profiled)


def body_of(model: str) -> type[nn.Module]:
    """The class of the transformer without its head that a model's folder asks for."""
    from transformers import AutoConfig, AutoModel

    mapping: Any = AutoModel._model_mapping
    found: type[nn.Module] = mapping[type(AutoConfig.from_pretrained(model))]
    return found


def parameters_of(model: str) -> int:
    """How many numbers the folder's weights are."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    return sum(one.numel() for one in made.parameters())


def answer(task: Task, recorder: Recorder) -> dict[str, Any]:
    """What the process says: its steps, its memory, whether its weights moved."""
    count = parameters_of(task.model)
    state = state_bytes(count, [count])
    return {
        "steps": recorder.rows,
        "operations": recorder.operations,
        "peak": recorder.peak,
        "memory": recorder.memory,
        "before": recorder.before,
        "state": state,
        "above": recorder.peak - recorder.before - state,
        "moved": recorder.moved,
    }


def begun(task: Task, recorder: Recorder) -> None:
    """Everything is imported, no model loaded."""
    recorder.before = 0 if task.cuda else resident()
