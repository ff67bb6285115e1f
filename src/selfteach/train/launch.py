"""Start or resume a run: folder, preflight, loop, and what is said on the way."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from selfteach.train.config import TrainConfig
from selfteach.train.loop import train
from selfteach.train.preflight import preflight
from selfteach.train.progress import Progress
from selfteach.train.run import Run
from selfteach.train.rundir import RunFolder
from selfteach.train.saving import restore
from selfteach.train.tracking import tracked

FREE = ("versions", "loading.device", "bookkeeping.keep", "bookkeeping.track")
"""What may differ between a run and its resumption."""


def launch(
    config: TrainConfig,
    progress: Callable[[], Progress],
    silent: Callable[[], Progress],
    *,
    resume: bool = False,
    check: bool = True,
) -> tuple[Path | None, dict[str, Any]]:
    """Train ``config`` to its end. Returns the run folder (None on processes that do not write) and the summary."""
    first = PartialState(cpu=config.loading.device == "cpu").is_main_process
    config = replace(config, out=Path(config.out))
    track = config.bookkeeping.track
    shown = tracked(progress(), track, table_of(config), config.out) if first else silent()
    folder = opened(config, resume) if first else None
    try:
        run = Run(config, folder, shown)
        if not (resume and restore(run)) and check:
            preflight(run)
        if folder is not None and not resume:
            # Only now: a start that fails leaves a folder that the corrected command may use.
            folder.write_config(table_of(config))
        summary = train(run)
    finally:
        shown.stop()
        if folder is not None:
            folder.close()
    return (folder.path if folder is not None else None), summary


def opened(config: TrainConfig, resume: bool) -> RunFolder:
    if resume:
        return RunFolder.resume(config.out, table_of(config), free=FREE)
    return RunFolder.create(config.out)


def table_of(config: TrainConfig) -> dict[str, Any]:
    """What config.toml holds."""
    return {**config.table(), "versions": versions()}


def versions() -> dict[str, str]:
    """What a run was made with."""
    known = {name: version(name) for name in ("selfteach", "torch", "transformers", "accelerate", "peft")}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        **known,
        "python": platform.python_version(),
        "device": device,
        "threads": str(torch.get_num_threads()),
    }
