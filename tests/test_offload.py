"""Teachers whose weights wait in files: the same numbers, no memory of the process's own, nothing left behind."""

from __future__ import annotations

import copy
import gc
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from runs import TextRun, run_of, weights, with_task
from selfteach.errors import UserError
from selfteach.policy.loading import LoraConfig, load_policy
from selfteach.roles.copies import copied, move
from selfteach.roles.offload import Offload, tensors_of
from selfteach.roles.weights import External
from selfteach.training import checkpoint, resuming
from selfteach.training.config import Loading
from selfteach.training.text.models import Models
from selfteach.training.text.offloading import file_system, in_vain
from selfteach.training.text.preflight.memory import stay
from selfteach.training.text.preflight.offload import offload_check
from test_shared_base import Tagged

DISK = ("--offload-teachers", "disk")
ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="as Linux counts memory")


class Odd(nn.Module):
    """Tied weights, sizes that are no multiple of 64 bytes, a buffer of another dtype, one without an element."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 3), nn.Linear(3, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.norm = nn.LayerNorm(3)
        self.register_buffer("count", torch.tensor(5))
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("nothing", torch.empty(0))


def odd() -> Odd:
    torch.manual_seed(0)
    return Odd()


def places(offload: Offload) -> list[tuple[int, int]]:
    """Where each file is mapped."""
    begins = [(torch.frombuffer(one, dtype=torch.uint8).data_ptr(), len(one)) for one in offload.mappings]
    return [(begin, begin + length) for begin, length in begins]


def waits(offload: Offload, model: nn.Module) -> bool:
    """Whether all that the model holds is in the files."""
    return all(
        any(begin <= one.data_ptr() < end for begin, end in places(offload))
        for one in tensors_of(model)
        if one.numel()
    )


def memory(kind: str) -> int:
    """Bytes that the process has in memory: "RssAnon" of its own, "RssFile" of files."""
    (line,) = [
        one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(f"{kind}:")
    ]
    return int(line.split()[1]) * 1024


# --- one model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_copy_in_a_file_is_the_copy_in_memory(dtype: torch.dtype | None) -> None:
    model, offload = odd(), Offload("disk")
    inside, outside = copied(model, dtype), copied(model, dtype, offload)
    assert waits(offload, outside)
    assert not waits(offload, model)
    assert outside.head.weight is outside.embedding.weight
    assert outside.state_dict().keys() == inside.state_dict().keys()
    for one, other in zip(tensors_of(inside), tensors_of(outside), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.equal(one, other)
        assert other.data_ptr() % 64 == 0
        assert not other.requires_grad
    storages = [one.untyped_storage().data_ptr() for one in tensors_of(outside) if one.numel()]
    assert len(set(storages)) == len(storages)  # so that a checkpoint may hold each by itself


def test_a_model_is_put_into_a_file_where_it_stands() -> None:
    model, offload = odd(), Offload("disk")
    before, held = copy.deepcopy(model.state_dict()), list(model.parameters())
    offload.put(model)
    assert waits(offload, model)
    assert [id(one) for one in model.parameters()] == [id(one) for one in held]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_an_average_moves_in_its_file_and_stays_there_when_memory_is_given_back() -> None:
    model, offload = odd(), Offload("disk")
    inside, outside = copied(model), copied(model, offload=offload)
    for _ in range(3):
        with torch.no_grad():
            model.embedding.weight.add_(torch.randn(7, 3))
            model.count.add_(1)
        for one in (inside, outside):
            move({**dict(one.named_parameters()), **dict(one.named_buffers())},
                 {**dict(model.named_parameters()), **dict(model.named_buffers())}, 0.1)  # fmt: skip
        offload.release()
        assert torch.equal(inside.embedding.weight, outside.embedding.weight)
        assert int(outside.count) == int(model.count)
    assert waits(offload, outside)


def test_files_have_no_name_and_are_gone_with_what_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    offload = Offload("disk")
    model = copied(odd(), offload=offload)
    assert offload.nbytes > sum(one.nbytes for one in tensors_of(model))
    assert list(tmp_path.iterdir()) == []
    kept = model.embedding.weight
    del model
    gc.collect()
    assert offload.nbytes  # a head outlives its model until the step is over
    del kept
    gc.collect()
    assert offload.nbytes == 0


@ON_LINUX
def test_weights_in_files_take_no_memory_but_while_they_are_read() -> None:
    model, offload = nn.Linear(4096, 4096, bias=False), Offload("disk")
    size, before = model.weight.nbytes, memory("RssAnon")
    outside = copied(model, offload=offload)
    assert memory("RssAnon") - before < size / 8
    offload.release()
    unread = memory("RssFile")
    with offload.lent(outside, torch.device("cpu")):
        outside.weight.sum()
        assert memory("RssFile") - unread > size * 7 / 8
    assert memory("RssFile") - unread < size / 8
    inside = copied(model)
    assert memory("RssAnon") - before > size * 7 / 8
    assert torch.equal(inside.weight, outside.weight)


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Within it the system refuses to write more to a file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "size", [10, 200_000]
)  # of small ones the end is written last, of large ones at once
def test_too_little_room_is_one_line(size: int) -> None:
    model, offload = nn.Linear(8 if size < 100 else 400, 200), Offload("disk")
    before = model.weight.clone()
    with no_file_beyond(size), pytest.raises(UserError, match=r"offload_teachers disk: .*set TMPDIR"):
        offload.put(model)
    assert offload.nbytes == 0
    assert torch.equal(model.weight, before)


# --- runs -----------------------------------------------------------------------------------------------------------


def adapters(tiny: str, folder: Path) -> str:
    """Two teachers by tag, adapters on one base."""
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        policy = load_policy(tiny, lora=LoraConfig(rank=4))
        with torch.no_grad():
            for place, one in policy.model.named_parameters():
                if "lora_B" in place:
                    one.normal_(std=0.2)
        policy.save(folder / name)
    return f"a={folder / 'a'},b={folder / 'b'}"


def models(tiny: str, folder: Path) -> str:
    """Two teachers by tag, whole models."""
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        policy = load_policy(tiny)
        with torch.no_grad():
            for one in policy.model.parameters():
                one.add_(torch.randn_like(one), alpha=0.01)
        policy.save(folder / name)
    return f"a={folder / 'a'},b={folder / 'b'}"


FULL, LORA = ("--lora-rank", "0"), ("--lora-rank", "4")
RUNS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "frozen": ("opsd", (*FULL, "--weights", "frozen"), 1),
    "frozen, bfloat16": ("opsd", (*FULL, "--weights", "frozen", "--teacher-dtype", "bfloat16"), 1),
    "average": ("opsd", (*FULL, "--weights", "ema"), 1),
    "another model": ("exopd", (*FULL, "--teacher", "TINY"), 2),
    "another model, an adapter trained": ("exopd", (*LORA, "--teacher", "TINY"), 1),
    "adapters alone": ("opsd", (*LORA, "--weights", "ema"), 0),
    "models by tag": ("uni-opd", (*FULL, "--teacher", "MODELS"), 2),
    "adapters by tag": ("uni-opd", (*FULL, "--teacher", "ADAPTERS"), 1),
    "adapters by tag on the student's base": ("uni-opd", (*LORA, "--teacher", "ADAPTERS"), 0),
}
"""A recipe, its words, and the files that its teachers take."""


def made(tiny: str, folder: Path, name: str, *more: str) -> TextRun:
    recipe, words, _ = RUNS[name]
    makers: dict[str, Any] = {"TINY": lambda *_: tiny, "MODELS": models, "ADAPTERS": adapters}
    put = [makers[one](tiny, folder) if one in makers else one for one in words]
    run = run_of(tiny, *put, "--lr", "1e-3", *more, recipe=recipe)
    return with_task(run, Tagged(run.learner.task)) if recipe == "uni-opd" else run


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_the_same_to_the_bit(tiny: str, tmp_path: Path, name: str) -> None:
    inside, outside = (made(tiny, tmp_path, name, *more) for more in ((), DISK))
    for _ in range(3):
        assert inside.stepped()["loss"] == outside.stepped()["loss"]
    for place, value in weights(inside).items():
        assert torch.equal(value, weights(outside)[place]), place
    offload = outside.learner.models.weights.offload
    assert offload is not None
    assert len(offload.mappings) == RUNS[name][2]
    assert not waits(offload, outside.learner.policy.model)


@pytest.mark.parametrize("name", ["average", "another model"])
def test_a_run_goes_on_to_the_bit_offloaded_or_not(tiny: str, tmp_path: Path, name: str) -> None:
    run = made(tiny, tmp_path, name, *DISK)
    run.stepped()
    path = checkpoint.save(tmp_path, 1, resuming.state(run))
    run.stepped()
    for more in (DISK, ()):
        again = made(tiny, tmp_path, name, *more)
        resuming.load_state(again, checkpoint.load(path))
        again.stepped()
        for place, value in weights(again).items():
            assert torch.equal(value, weights(run)[place]), place


@pytest.mark.parametrize("to", ["cpu", "disk"])
@pytest.mark.parametrize("name", ["another model", "models by tag", "adapters by tag"])
def test_beside_an_accelerator_other_models_are_loaded_on_the_cpu(
    tiny: str, tmp_path: Path, name: str, to: str
) -> None:
    """The accelerator is torch's meta device; tests/test_gpu.py has them score on a real one."""
    config = made(tiny, tmp_path, name, "--offload-teachers", to).learner.config
    recipes = list(config.recipe.stages.values())
    store = Models(config, recipes, torch.device("meta")).weights
    for spec in {role.weights for one in recipes for role in one.others.values()}:
        if isinstance(spec, External):
            held = store.policy_of(spec).model
            assert {one.device.type for one in held.parameters()} == {"cpu"}
    assert store.external
    assert store.offload is not None
    assert bool(store.offload.nbytes) is (to == "disk")


# --- what is said ---------------------------------------------------------------------------------------------------


def test_preflight_says_what_waits_and_refuses_what_has_no_room(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tiny, *FULL, *DISK, "--weights", "ema")  # which begins with the first step
    (check,) = offload_check(run.learner)
    assert check.ok
    copies = run.learner.models.weights.copies_to_come
    assert copies == 1
    size = sum(one.nbytes for one in run.learner.policy.model.parameters())
    assert stay(run.learner).copies == 0
    assert stay(run_of(tiny, *FULL, "--weights", "ema").learner).copies == size
    for free in (size, size + 1):
        monkeypatch.setattr("selfteach.training.text.preflight.offload.free_room", lambda folder, f=free: f)
        (check,) = offload_check(run.learner)
        assert check.ok is (free > size)
        assert ("set TMPDIR" in check.detail) is not check.ok
    assert not list(offload_check(run_of(tiny, *FULL).learner))


@pytest.mark.skipif(file_system("/dev/shm") != "tmpfs", reason="no folder in memory here")
def test_files_that_are_in_memory_themselves_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")
    (line,) = in_vain(Loading(offload_teachers="disk"), torch.device("cpu"))
    assert "in memory (tmpfs)" in line
    assert not list(in_vain(Loading(), torch.device("cpu")))


def test_the_folder_of_a_file_system_is_not_one_that_begins_alike() -> None:
    assert file_system("/procession") == file_system("/")


@pytest.mark.parametrize("words", [("true",), ("nvme",)])
def test_another_word_is_refused_in_a_line(tiny: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"(?i)offload.teachers"):
        run_of(tiny, "--offload-teachers", *words)


def test_a_truth_value_is_refused_in_a_line() -> None:
    with pytest.raises(UserError, match="offload_teachers"):
        Loading(offload_teachers=True)  # type: ignore[arg-type]
