"""Trackers beside the run folder."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest

from selfteach.api.progress import Silent
from selfteach.cli.train import configured
from selfteach.errors import UserError
from selfteach.training import tracking
from selfteach.training.config import Bookkeeping
from selfteach.training.jsonrows import read_rows
from selfteach.training.launch import launch
from selfteach.training.tracking import plain, tracked
from tiny import tiny_model_folder

MISSING = [name for name in ("tensorboard", "trackio", "wandb") if importlib.util.find_spec(name) is None]


def words(tmp_path: Path, track: str) -> list[str]:
    model = str(tiny_model_folder(tmp_path / "model"))
    few = [
        "--steps",
        "2",
        "--prompts",
        "4",
        "--max-tokens",
        "8",
        "--eval-problems",
        "2",
        "--eval-samples",
        "1",
        "--samples-every",
        "0",
    ]
    return [
        "opsd",
        "--task",
        "table",
        "--model",
        model,
        *few,
        "--out",
        str(tmp_path / "run"),
        "--track",
        track,
    ]


def logged(folder: Path) -> dict[tuple[str, int], float]:
    """(name, step) → value of all scalars in a folder of TensorBoard event files."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = {}
    for path in folder.rglob("events.out.tfevents.*"):
        events = accumulator.EventAccumulator(str(path)).Reload()
        for tag in events.Tags()["scalars"]:
            found |= {(tag, event.step): event.value for event in events.Scalars(tag)}
    return found


def test_tensorboard_gets_every_number_of_every_row(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    config, _ = configured(words(tmp_path, "tensorboard"))
    launch(config, Silent, Silent)
    found = logged(tmp_path / "run" / "tensorboard")
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    expected = {
        (name, row["step"]): value
        for row in rows
        for name, value in plain(row)
        if isinstance(value, int | float) and name != "step" and (name != "spent/tokens" or "loss" in row)
    }
    assert {("loss", 1), ("terms/distill", 2), ("eval/headline", 0)} <= set(expected)
    assert set(expected) <= set(found)
    for place, value in expected.items():
        assert math.isclose(found[place], value, rel_tol=1e-6, abs_tol=1e-12), place


def test_a_run_without_track_writes_to_its_folder_only(tmp_path: Path) -> None:
    shown = Silent()
    assert tracked(shown, Bookkeeping(), {}, tmp_path) is shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not MISSING, reason="every tracker is installed")
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    config, _ = configured(words(tmp_path, MISSING[0]))
    with pytest.raises(UserError, match=f"--track {MISSING[0]} needs the package.*pip install {MISSING[0]}"):
        launch(config, Silent, Silent)
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="track"):
        configured(words(tmp_path, "notebook"))


def test_a_nested_table_becomes_names_and_plain_values() -> None:
    table: dict[str, Any] = {
        "loss": 0.5,
        "terms": {"a": 1, "b": {"c": None}},
        "turns": [{"role": "user"}],
        "on": True,
    }
    assert dict(plain(table)) == {"loss": 0.5, "terms/a": 1, "turns": "[{'role': 'user'}]", "on": True}


def test_a_tracker_is_told_the_project_and_the_runs_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, str]] = []
    monkeypatch.setattr(tracking, "WandBTracker", lambda project, name, **how: made.append((project, name)))
    monkeypatch.setattr(tracking, "TrackioTracker", lambda project, name: made.append((project, name)))
    monkeypatch.setattr(tracking, "find_spec", lambda name: True)
    for track in ("wandb", "trackio"):
        plain_one, named = (
            configured([*words(tmp_path / track, track)])[0],
            configured(
                [*words(tmp_path / f"{track}-named", track), "--project", "sums", "--run-name", "third try"]
            )[0],
        )
        for config in (plain_one, named):
            tracked(Silent(), config.bookkeeping, {}, config.out)
    assert made == [("selfteach", "run"), ("sums", "third try")] * 2
