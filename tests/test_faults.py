"""What memory, disk and diverged weights do to every command: one line, exit code 2, nothing lost."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from selfteach.cli import main, of_the_machine
from selfteach.cli.console import as_options, known_options
from selfteach.errors import LESS_MEMORY, OutOfMemory, UserError, exhausted, less_memory, within_memory
from selfteach.policy.sampler import LocalSampler
from selfteach.task.arena import model_folder
from selfteach.training import checkpoint
from selfteach.training.jsonrows import read_rows
from selfteach.training.rundir import RunFolder, whole_folder, writing

SMALL = ["--task", "table", "--prompts", "4", "--max-tokens", "8", "--device", "cpu"]
RUN = [*SMALL, "--steps", "3", "--checkpoint-every", "1", "--eval-problems", "4", "--eval-samples", "1"]
Said = pytest.CaptureFixture[str]


def line_of(said: Said) -> str:
    """The one line that a refused command wrote to stderr."""
    lines = [line for line in said.readouterr().err.splitlines() if line.startswith("selfteach: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def broken_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """World "table"'s model with a NaN in its last norm."""
    folder = tmp_path_factory.mktemp("broken") / "model"
    shutil.copytree(model_folder("table"), folder)
    tensors = load_file(folder / "model.safetensors")
    norm = max(name for name in tensors if "norm" in name)
    tensors[norm] = torch.full_like(tensors[norm], float("nan"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "--task", "table", "--problems", "2", "--max-tokens", "4"],
        ["doctor", "opsd", *SMALL],
        ["train", "opsd", *RUN],
        ["probe", "views", "opsd", *SMALL],
        ["probe", "alignment", "opsd", *SMALL],
        ["probe", "branches", "opsd", *SMALL],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_model_that_is_not_finite_is_one_line(
    words: list[str], broken_model: str, tmp_path: Path, capsys: Said
) -> None:
    out = [] if words[0] == "eval" else ["--out", str(tmp_path / "run")]
    assert main([*words, "--model", broken_model, *out]) == 2
    said = line_of(capsys)
    assert "not finite" in said
    assert "take another model" in said


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_room_to_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalSampler, "_batch", lambda *_: torch.empty(10**15))


@pytest.mark.parametrize(
    ("words", "doing"),
    [
        (["eval", "--task", "table", "--problems", "2"], "answering"),
        (["doctor", "opsd", *SMALL], "checking the run"),
        (["train", "opsd", *RUN], "checking the run"),
        (["probe", "views", "opsd", *SMALL], "probing"),
    ],
    ids=lambda words: str(words[0]),
)
def test_no_memory_to_sample_is_one_line_that_names_the_knobs(
    words: list[str], doing: str, no_room_to_sample: None, tmp_path: Path, capsys: Said
) -> None:
    out = [] if words[0] == "eval" else ["--out", str(tmp_path / "run")]
    assert main([*words, *out]) == 2
    said = line_of(capsys)
    assert f"out of memory while {doing} (tried to allocate 4000000000000000 bytes)" in said
    assert said.endswith(as_options(less_memory(doing)))
    assert "--max-tokens" in said
    assert "batch" in said


@pytest.mark.parametrize("doing", LESS_MEMORY)
def test_advice_on_memory_names_options_that_there_are(doing: str) -> None:
    names = set(re.findall(r"[a-z]+(?:_[a-z]+)+", less_memory(doing)))
    assert names
    assert names <= known_options()
    assert less_memory("folding") == less_memory()


def test_a_run_out_of_memory_goes_on_with_other_batches(
    tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The knobs that its line advises may be changed when it is resumed."""
    out, whole = str(tmp_path / "run"), LocalSampler._batch
    calls = 0

    def once_too_large(self: LocalSampler, prompts: list[list[int]], *rest: Any) -> Any:
        nonlocal calls
        calls += 1
        if len(prompts) == 4 and (Path(out) / "checkpoints" / "step-1").exists():
            torch.empty(10**15)
        return whole(self, prompts, *rest)

    monkeypatch.setattr(LocalSampler, "_batch", once_too_large)
    assert main(["train", "opsd", *RUN, "--out", out]) == 2
    said = line_of(capsys)
    assert "out of memory while sampling at step 1 (tried to allocate" in said
    assert "the last checkpoint is intact: lower --sample-batch or --max-tokens; then use --resume" in said
    smaller = ["--sample-batch", "2", "--micro-batch", "2", "--gradient-checkpointing"]
    assert main(["train", "--out", out, "--resume", *smaller]) == 0
    assert "sample_batch = 2" in (Path(out) / "config.toml").read_text()
    assert len(read_rows(Path(out) / "metrics.jsonl")) == 3 + 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "MemoryError"),
        (MemoryError("Unable to allocate 8 GiB for an array"), "Unable to allocate 8 GiB for an array"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.0 GiB. x"), "tried to allocate 2.0 GiB"),
        (RuntimeError("MPS backend out of memory (9 GB)"), "MPS backend out of memory (9 GB)"),
        (RuntimeError("error: CUBLAS_STATUS_ALLOC_FAILED"), "error: CUBLAS_STATUS_ALLOC_FAILED"),
        (RuntimeError("shapes do not fit"), None),
        (ValueError("out of memory"), None),
    ],
)  # fmt: skip
def test_allocators_are_known_by_what_they_say(error: Exception, said: str | None) -> None:
    assert exhausted(error) == said
    if said is not None:
        with pytest.raises(OutOfMemory, match="while folding"), within_memory("folding"):
            raise error


def test_what_nobody_caught_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
    def without_room(words: list[str]) -> int:
        raise RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. E"
        )

    monkeypatch.setattr("selfteach.cli.dispatch", without_room)
    assert main(["report", "x"]) == 2
    assert "out of memory (tried to allocate 9 bytes)" in line_of(capsys)


# --- disks ------------------------------------------------------------------------------------------------------------


def full(path: Path) -> None:
    """A device that has no room for a byte, in the place of a file."""
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_a_disk_that_fills_up_under_a_run_is_one_line_and_the_run_goes_on_later(
    name: str, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, save = tmp_path / "run", checkpoint.save

    def then_full(*given: Any, **more: Any) -> Path:
        path = save(*given, **more)
        if path.name == "step-1":
            shutil.copy(out / name, out / "aside")
            full(out / name)
        return path

    monkeypatch.setattr(checkpoint, "save", then_full)
    words = ["train", "opsd", *RUN, "--samples-every", "1", "--out", str(out)]
    assert main(words) == 2
    said = line_of(capsys)
    assert (
        f"{out / name} could not be written (No space left on device); make room, then use --resume" in said
    )
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-1"]
    monkeypatch.undo()
    (out / name).unlink()
    (out / "aside").rename(out / name)
    assert main(["train", "--out", str(out), "--resume"]) == 0
    assert [row["step"] for row in read_rows(out / "metrics.jsonl")] == [0, 1, 2, 3, 3]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS], ids=errno.errorcode.get)
def test_a_model_that_cannot_be_written_is_one_line_and_leaves_no_half(
    code: int, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selfteach.policy.loading import Policy

    def half(self: Policy, folder: Path, **_: Any) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Policy, "save", half)
    out = tmp_path / "run"
    assert main(["train", "opsd", *RUN, "--out", str(out)]) == 2
    said = line_of(capsys)
    assert f"{out / 'model'} could not be written ({os.strerror(code)})" in said
    assert not list(out.glob("*model*"))
    assert not list(out.glob(".*partial"))
    assert checkpoint.latest(out) == out / "checkpoints" / "step-3"
    monkeypatch.undo()
    assert main(["train", "--out", str(out), "--resume"]) == 0
    assert (out / "model" / "model.safetensors").exists()


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    def written(text: str, then: Callable[[], None] = lambda: None) -> None:
        with whole_folder(tmp_path / "model") as aside:
            aside.mkdir()
            (aside / "weights").write_text(text)
            then()

    def stopped() -> None:
        raise KeyboardInterrupt

    written("old")
    with pytest.raises(KeyboardInterrupt):
        written("new", stopped)
    assert (tmp_path / "model" / "weights").read_text() == "old"
    written("new")
    assert (tmp_path / "model" / "weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


TOO_LONG = "x" * 300


@pytest.mark.parametrize(
    "words",
    [
        ["train", "opsd", *RUN, "--out", "{}/" + TOO_LONG],
        ["train", "--resume", "--out", "{}/" + TOO_LONG],
        ["train", "opsd", *RUN, "--out", "{}/file/run"],
        ["train", "opsd", *RUN, "--model", "{}/" + TOO_LONG],
        ["train", "opsd", *RUN, "--task", "{}/" + TOO_LONG + ".jsonl"],
        ["train", "opsd", *RUN, "--config", "{}/" + TOO_LONG],
        ["eval", "--task", "table", "--problems", "2", "--max-tokens", "4", "--out", "{}/" + TOO_LONG],
        ["eval", "--task", "table", "--problems", "2", "--max-tokens", "4", "--out", "{}/file/run"],
        ["eval", "--task", "table", "--model", "{}/" + TOO_LONG],
        ["probe", "views", "opsd", *SMALL, "--out", "{}/" + TOO_LONG],
        ["probe", "views", "opsd", *SMALL, "--out", "{}/file/x"],
        ["report", "{}/" + TOO_LONG],
        ["watch", "{}/" + TOO_LONG],
        ["compare", "opsd", "sft", "--out", "{}/" + TOO_LONG],
        ["study", "opsd", "--out", "{}/" + TOO_LONG],
    ],
    ids=lambda words: " ".join(words)[:12] + words[-2] + words[-1][:6],
)
def test_names_that_no_file_system_takes_are_one_line(words: list[str], tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "file").write_text("")
    assert main([word.format(tmp_path) if "{}" in word else word for word in words]) == 2
    assert len(line_of(capsys)) < 700


@pytest.fixture
def nobody() -> Iterator[None]:
    """Without the rights of root, which may write everywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_a_read_only_folder_is_one_line(tmp_path: Path, nobody: None) -> None:
    with pytest.raises(
        UserError, match=r"run could not be written \(Permission denied\); choose another --out"
    ):
        RunFolder.create(tmp_path / "run")
    assert of_the_machine(PermissionError(errno.EACCES, "Permission denied", "/x/page")) is not None


def test_a_full_disk_and_another_refusal_have_their_own_advice(tmp_path: Path) -> None:
    for code, advice in (
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EROFS, "another --out"),
    ):
        with pytest.raises(UserError, match=advice), writing(tmp_path):
            raise OSError(code, os.strerror(code))
