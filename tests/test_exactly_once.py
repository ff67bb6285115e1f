"""Rows and columns of a run that was killed anywhere: each once, in order, as if nothing had happened."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from learners import Flow
from saved import COSTS, tensors
from selfteach.errors import UserError
from selfteach.training import checkpoint
from selfteach.training.jsonrows import read_rows
from selfteach.training.learner import Sample, Stage
from selfteach.training.running import run_learner
from selfteach.training.trainer import Settings

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["pytest", "selfteach.training.launch"])

SETTINGS = Settings(eval_every=2, samples_every=2, checkpoint_every=3, device="cpu")


class Staged(Flow):
    """The flow in two stages, looked at token by token."""

    def __init__(self, first: int = 2, second: int = 3) -> None:
        super().__init__(first + second)
        self.stages = [Stage("one", first), Stage("two", second)]

    def samples(self, batch: Any, phase: str) -> list[Sample]:
        seen = super().samples(batch, phase)
        if batch is None:
            return seen
        return [*seen, Sample("tokens", {"norm": self.written().norm(dim=1)})]


def run(out: Path, *, resume: bool = False) -> None:
    torch.set_num_threads(1)
    run_learner(Staged, out, SETTINGS, table={"run": {"steps": 5}}, resume=resume)


def touches(out: Path, note: Callable[[int], None]) -> None:
    """Call ``note`` with the number of each file operation on a run's folder, right before it."""
    count = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        written = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3
        if not written and not event.startswith(("os.r", "os.t", "os.mk", "shutil.")):
            return
        if isinstance(arguments[0], str | os.PathLike) and os.fspath(arguments[0]).startswith(str(out)):
            count += 1
            note(count)

    sys.addaudithook(watch)


def counted(out: Path) -> None:
    """Run to the end and leave the number of file operations beside the run."""
    numbers: list[int] = [0]
    touches(out, numbers.append)
    run(out)
    out.with_suffix(".count").write_text(str(numbers[-1]))


def killed(out: Path, at: int) -> None:
    touches(out, lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == at else None)
    run(out)


def resumed(out: Path) -> None:
    run(out, resume=(out / "config.toml").exists())


def in_a_process(function: Callable[..., None], *arguments: Any) -> int:
    process = processes.Process(target=function, args=arguments)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def rows(out: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if not name.startswith(COSTS)}
        for row in read_rows(out / "metrics.jsonl")
    ]


def left(out: Path) -> dict[str, Any]:
    """All that a run left but for what a clock or the machine wrote."""
    tokens = {path.name: path.read_bytes() for path in (out / "tokens").iterdir()}
    last = checkpoint.latest(out)
    assert last is not None
    return {
        "metrics": rows(out),
        "samples": read_rows(out / "samples.jsonl"),
        "tokens": tokens,
        "last": last.name,
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody killed; ``whole.count`` beside it holds its number of file operations."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert in_a_process(counted, out) == 0
    return out


def same(out: Path, whole: Path) -> None:
    assert left(out) == left(whole)
    ours, theirs = (tensors(checkpoint.load(one / "checkpoints" / "step-5")) for one in (out, whole))
    assert ours.keys() == theirs.keys()
    for place, tensor in ours.items():
        assert torch.equal(tensor, theirs[place]), place


def killed_everywhere(whole: Path, folder: Path, every: int) -> Iterator[Path]:
    operations = int(whole.with_suffix(".count").read_text())
    assert operations > 40
    for at in range(1, operations + 1, every):
        out = folder / str(at)
        assert in_a_process(killed, out, at) == -signal.SIGKILL, at
        yield out


def test_a_whole_run_has_each_row_once(whole: Path) -> None:
    assert [(row["step"], "loss" in row) for row in rows(whole)] == [
        (0, False), (1, True), (2, True), (2, False), (3, True), (4, True), (4, False), (5, True), (5, False),
    ]  # fmt: skip


def test_a_run_killed_at_some_file_operations_leaves_each_row_once(whole: Path, tmp_path: Path) -> None:
    for out in killed_everywhere(whole, tmp_path, every=13):
        assert in_a_process(resumed, out) == 0
        same(out, whole)


@pytest.mark.slow
def test_a_run_killed_at_every_file_operation_leaves_each_row_once(whole: Path, tmp_path: Path) -> None:
    for out in killed_everywhere(whole, tmp_path, every=1):
        assert in_a_process(resumed, out) == 0
        same(out, whole)


# --- files that were harmed -------------------------------------------------------------------------------------------


def cut_run(out: Path) -> Path:
    """A run interrupted after step 3's checkpoint, with rows behind it."""
    run(out)
    (out / "summary.json").unlink()
    for path in out.glob("checkpoints/step-5"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    return out


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] if path.suffix == ".safetensors" else first_line(path))


def first_line(path: Path) -> bytes:
    return path.read_bytes().splitlines(keepends=True)[0] if path.suffix == ".jsonl" else b""


def changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


HARMS = {"cut": shortened, "changed": changed, "gone": Path.unlink}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "samples.jsonl", "tokens/step-2.json", "tokens/step-2.safetensors"]
)
def test_a_file_that_lost_what_a_checkpoint_relies_on_is_named(name: str, harm: str, tmp_path: Path) -> None:
    out = cut_run(tmp_path / "run")
    config = (out / "config.toml").read_bytes()
    HARMS[harm](out / name)
    with pytest.raises(UserError) as refusal:
        run(out, resume=True)
    said = str(refusal.value)
    assert str(out / name) in said
    assert "step-3" in said
    assert "put the file back" in said
    assert "\n" not in said
    assert (out / "config.toml").read_bytes() == config


def test_what_was_written_behind_the_checkpoint_may_be_torn(whole: Path, tmp_path: Path) -> None:
    out = cut_run(tmp_path / "run")
    with (out / "metrics.jsonl").open("ab") as stream:
        stream.write(b'\n\nno row\n{"step": 9, "lo')
    (out / "tokens" / "step-4.json").write_text("{")
    run(out, resume=True)
    same(out, whole)


def test_an_older_checkpoint_goes_on_with_the_rows_that_it_knew(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out)
    metrics = (out / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (out / "metrics.jsonl").write_bytes(b"".join(metrics[:6]))
    with pytest.raises(UserError, match=r"metrics\.jsonl .*step-5"):
        run(out, resume=True)
    for file in (out / "checkpoints" / "step-5").iterdir():
        file.unlink()
    (out / "checkpoints" / "step-5").rmdir()
    run(out, resume=True)
    same(out, whole)


def test_rows_are_on_the_disk_before_the_checkpoint_that_relies_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file that a checkpoint marks was synced since it was last written, when the checkpoint is published."""
    synced: dict[str, int] = {}
    sync, publish = os.fsync, checkpoint._publish

    def noted(handle: int) -> None:
        sync(handle)
        path = os.readlink(f"/proc/self/fd/{handle}")
        synced[path] = os.fstat(handle).st_size

    def published(partial: Path, final: Path) -> None:
        relied = json.loads((partial / "state.json").read_text())["written"]["files"]
        assert {"metrics.jsonl", "samples.jsonl"} <= relied.keys()
        for name, mark in relied.items():
            path = str(partial.parents[1] / name)
            # Columns are synced under the name that they have before they are whole.
            at = synced.get(path, synced.get(f"{Path(path).parent}/.{Path(path).name}.partial"))
            at = at if at is not None else synced.get(f"{Path(path).parent}/.{Path(path).stem}.partial")
            assert at == mark["bytes"], name
        publish(partial, final)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(checkpoint, "_publish", published)
    run(tmp_path / "run")
    assert synced
