"""A run's numbers in a tracker as well (``--track``): accelerate's trackers, fed by what progress is told."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from selfteach.errors import UserError
from selfteach.training.progress import Progress

Tracker = Literal["tensorboard", "trackio", "wandb"]


class Asked(Protocol):
    """What a run says of a tracker: ``Bookkeeping``, or ``Tracking`` of a run without tokens."""

    @property
    def track(self) -> Tracker | None: ...

    @property
    def project(self) -> str: ...

    @property
    def run_name(self) -> str | None: ...


@dataclass
class Tracked:
    """Shows a run by ``shown`` and logs every number of it to a tracker, which starts with the run's first step."""

    shown: Progress
    tracker: GeneralTracker
    config: Mapping[str, Any]
    started: bool = field(default=False, init=False)

    def say(self, text: str) -> None:
        self.shown.say(text)

    def start(self, steps: int, step: int, headline: str) -> None:
        self.tracker.start()
        self.started = True
        self.tracker.store_init_configuration(dict(plain(self.config)))
        self.shown.start(steps, step, headline)

    def step(self, row: Mapping[str, Any]) -> None:
        self.log(row, row["step"])
        self.shown.step(row)

    def evaluated(self, step: int, row: Mapping[str, Any]) -> None:
        self.log(row, step)
        self.shown.evaluated(step, row)

    def working(self, what: str, share: float) -> None:
        self.shown.working(what, share)

    def stop(self) -> None:
        self.shown.stop()
        if self.started:
            self.tracker.finish()

    def log(self, row: Mapping[str, Any], step: int) -> None:
        values = {
            name: value for name, value in plain(row) if isinstance(value, int | float) and name != "step"
        }
        self.tracker.log(values, step=step)


def tracked(shown: Progress, asked: Asked, config: Mapping[str, Any], out: Path) -> Progress:
    """``shown``, with a tracker beside it if one is asked for; ``config`` goes to the tracker as it starts.

    TensorBoard writes into ``out``/tensorboard, trackio into its own local store. Weights & Biases stays offline
    unless the environment's WANDB_MODE says otherwise (``wandb sync`` uploads later): a run opens no connection that
    nobody asked for. Raises UserError naming the package to install where it is missing.
    """
    track = asked.track
    if track is None:
        return shown
    if find_spec(track) is None:
        raise UserError(
            f"--track {track} needs the package {track}, which is not installed: pip install {track}"
        )
    return Tracked(shown, tracker(track, out, asked.project, asked.run_name or out.name), config)


def tracker(track: Tracker, out: Path, project: str, name: str) -> GeneralTracker:
    """The tracker; TensorBoard, which knows no projects, is handed the run's folder alone."""
    match track:
        case "tensorboard":
            return TensorBoardTracker("tensorboard", logging_dir=out)
        case "trackio":
            return TrackioTracker(project, name=name)
        case "wandb":
            mode = os.environ.get("WANDB_MODE", "offline")
            return WandBTracker(project, name=name, dir=out, mode=mode)


def plain(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, bool | int | float | str]]:
    """The values of a nested table as trackers take them, under names joined by "/"; a list becomes its text."""
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from plain(value, f"{name}/")
        elif value is not None:
            yield name, value if isinstance(value, bool | int | float | str) else str(value)
