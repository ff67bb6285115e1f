"""Facts of one process made facts of all: every process must call these, in one order, and gets the same answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object, parse_flag_from_env
from torch import distributed

from selfteach.checks import require

Row = TypeVar("Row")


def processes() -> tuple[int, int]:
    """This process's number, from 0, and how many there are; (0, 1) where none were launched together."""
    # Not by accelerate's PartialState: merely asking it would choose the device for the whole process.
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def on_cpu(device: str) -> bool:
    """Whether a run on ``device`` ("auto" or "cpu") computes on the CPU. Accelerate must be told: left to itself on a
    machine without an accelerator, it takes each of several processes for the only one."""
    asked = parse_flag_from_env("ACCELERATE_USE_CPU")
    return device == "cpu" or asked or not torch.accelerator.is_available()


_ours = False


def state_on(device: str, timeout: int = 1800) -> PartialState:
    """Accelerate's state of this process for a run on ``device``. It keeps the first device that a process computes
    on: a run on another one, in a notebook say, begins with a new state, unless several processes were launched
    together. UserError where the old one is not ours: somebody's own ``Accelerator`` would lose it. ``timeout``:
    seconds that processes wait for each other, of those that meet here first."""
    global _ours
    cpu, fresh = on_cpu(device), not PartialState._shared_state
    state = PartialState(cpu=cpu, timeout=timedelta(seconds=timeout))
    _ours = _ours or fresh
    if (state.device.type == "cpu") == cpu or state.num_processes > 1:
        return state
    require(
        _ours,
        f"an Accelerator of this process computes on {state.device} already: give it the same device as this run "
        f"({'cpu' if cpu else 'the accelerator'}), or start another process",
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    return PartialState(cpu=cpu)


def gather_rows(rows: Iterable[Row]) -> list[Row]:
    """The rows of all processes, in the processes' order. A process may have none."""
    own = list(rows)
    gathered: list[Row] = own if processes()[1] == 1 else gather_object(own)
    return gathered


def sum_over_processes(numbers: Mapping[str, float]) -> dict[str, float]:
    """Each number summed over the processes that have it."""
    total: dict[str, float] = {}
    for own in gather_rows([dict(numbers)]):
        for name, value in own.items():
            total[name] = total.get(name, 0) + value
    return total


def mean_over_processes(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Mean of each list of values over all processes' values together, however unevenly they are spread; a list that
    is empty everywhere has no mean and is left out."""
    sums = sum_over_processes({name: sum(own) for name, own in values.items()})
    counts = sum_over_processes({name: len(own) for name, own in values.items()})
    return {name: sums[name] / count for name, count in counts.items() if count}
