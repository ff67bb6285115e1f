"""``selfteach export RUN --out FOLDER``: a run, a checkpoint or an adapter as a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from selfteach.api.exporting import export
from selfteach.cli.console import parsed
from selfteach.training.text.saved import saved_model


@dataclass(frozen=True)
class Arguments:
    model: Annotated[str, tyro.conf.Positional]
    """A run, RUN/checkpoints/step-N, or the folder of a model or an adapter."""
    out: Path
    """Folder to make."""
    merge: bool = False
    """Of LoRA the whole model with the adapter added in, in the place of the adapter alone."""
    base: str | None = None
    """Where the model is that the adapter builds on, if no longer where it says."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """In which numbers a whole model is stored."""
    push_to_hub: str | None = None
    """Upload the folder to this repository of the Hugging Face hub as well."""
    private: bool = False
    """Make that repository a private one."""


def command(words: Sequence[str]) -> int:
    given = parsed(Arguments, words, program="selfteach export")
    folder = export(
        given.model, given.out, merge=given.merge, base=given.base, dtype=given.dtype,
        push_to_hub=given.push_to_hub, private=given.private,
    )  # fmt: skip
    print(f"model    {folder}")
    run = saved_model(given.model).run
    if run is not None and run.thinking is not None:
        print(
            f"asked    with thinking {run.thinking}, as it was trained: eval and chat take --thinking {run.thinking}"
        )
    if given.push_to_hub is not None:
        print(f"hub      {given.push_to_hub}")
    return 0
