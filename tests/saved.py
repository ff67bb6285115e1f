"""All that a finished run left, to be held against another run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from selfteach.training import checkpoint
from selfteach.training.jsonrows import read_rows

COSTS = ("seconds/", "tokens_per_second", "memory/")
"""What a clock or the machine wrote, which no two runs share."""


def everything(out: Path, steps: int) -> tuple[dict[str, Tensor], list[dict[str, Any]], list[dict[str, Any]]]:
    """All saved tensors of the checkpoint of the last step, and the metrics, without costs, and samples."""
    last = checkpoint.latest(out)
    assert last is not None
    assert checkpoint.step_of(last) == steps
    metrics = [
        {k: v for k, v in row.items() if not k.startswith(COSTS)} for row in read_rows(out / "metrics.jsonl")
    ]
    return tensors(checkpoint.load(last)), metrics, read_rows(out / "samples.jsonl")


def tensors(state: object, place: str = "") -> dict[str, Tensor]:
    """Every tensor of a nested state, by its place."""
    if isinstance(state, Tensor):
        return {place: state.clone()}  # what was read may be a view of the file
    pairs = (
        state.items()
        if isinstance(state, dict)
        else enumerate(state)
        if isinstance(state, list | tuple)
        else ()
    )
    return {k: v for key, part in pairs for k, v in tensors(part, f"{place}/{key}").items()}
