"""Checkpoints are exact, and whole or absent whatever happens to the process, the disk or the files."""

import contextlib
import errno
import itertools
import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from selfteach.errors import UserError
from selfteach.training import randomness
from selfteach.training.checkpoint import (
    damage,
    flatten,
    latest,
    load,
    load_optimizer_state,
    optimizer_state,
    save,
    step_of,
)

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["pytest", "hypothesis.strategies", "selfteach.training.checkpoint"])


def state_of(step: int, size: int = 1000) -> dict:
    return {
        "model": {"w": torch.full((size,), float(step)), "b": torch.zeros(3)},
        "position": {"index": step},
    }


def raw(tensor: torch.Tensor) -> list[int]:
    return tensor.contiguous().flatten().view(torch.uint8).tolist()


def same(left: object, right: object) -> bool:
    """Equal in type and in every bit."""
    if isinstance(left, torch.Tensor):
        assert isinstance(right, torch.Tensor)
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        return raw(left) == raw(right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and (left == right or (left != left and right != right))


# --- exactness


DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.bool,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (2, 3)], ids=str)
def test_a_tensor_of_any_dtype_and_shape_comes_back_bit_for_bit(tmp_path, dtype, shape):
    tensor = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 10).to(dtype)
    assert same(load(save(tmp_path, 1, {"g": {"t": tensor}}))["g"]["t"], tensor)


def test_bfloat16_comes_back_bit_for_bit_with_its_nans(tmp_path):
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    loaded = load(save(tmp_path, 1, {"g": {"t": bits.view(torch.bfloat16)}}))["g"]["t"]
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded.view(torch.int16), bits)


def test_a_non_contiguous_tensor_comes_back_with_its_values(tmp_path):
    tensor = torch.arange(12.0).reshape(3, 4).T[::2]
    assert not tensor.is_contiguous()
    assert same(load(save(tmp_path, 1, {"g": {"t": tensor}}))["g"]["t"], tensor)


def test_tied_tensors_come_back_as_one_tensor(tmp_path):
    weight = nn.Parameter(torch.randn(4, 3))
    loaded = load(save(tmp_path, 1, {"model": {"embed": weight, "head": weight.detach()}}))["model"]
    assert loaded["embed"] is loaded["head"]
    assert torch.equal(loaded["embed"], weight)


def test_overlapping_views_of_one_storage_come_back_with_their_own_values(tmp_path):
    base = torch.arange(10.0)
    state = {"g": {"all": base, "tail": base[3:], "head": base[:5], "square": base[:9].view(3, 3)}}
    assert same(load(save(tmp_path, 1, state)), state)


def test_tensors_may_sit_anywhere_in_a_state_even_at_the_root_of_a_group(tmp_path):
    state = {
        "rng": torch.arange(4, dtype=torch.uint8),
        "deep": [1, {"a/b": torch.ones(2), "a": {"b": torch.zeros(2)}}],
    }
    assert same(load(save(tmp_path, 1, state)), state)


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5).filter(lambda key: not key.startswith("$")), inner, max_size=3)
    ),
    max_leaves=15,
)


@given(trees)
def test_plain_data_comes_back_equal_in_value_and_type(tmp_path_factory, tree):
    folder = tmp_path_factory.mktemp("plain")
    assert same(load(save(folder, 1, {"data": tree}))["data"], tree)
    shutil.rmtree(folder)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1])
def test_every_float_comes_back_and_the_file_is_strict_json(tmp_path, number):
    path = save(tmp_path, 1, {"data": [number]})
    json.loads((path / "state.json").read_text(), parse_constant=pytest.fail)
    (loaded,) = load(path)["data"]
    assert same(loaded, number)
    assert math.copysign(1, loaded) == math.copysign(1, number) or math.isnan(number)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (torch.zeros(2).to_sparse(), "g/x"),
        (torch.zeros(2, device="meta"), "g/x"),
        ({1: 2}, "g/x has a key 1"),
        ({"$tensor": 2}, "\\$tensor"),
        (object(), "g/x is a object"),
        (numpy.float32(1), "g/x is a float32"),
    ],
)
def test_what_cannot_be_stored_exactly_is_refused_by_its_place(tmp_path, value, named):
    with pytest.raises(ValueError, match=named):
        save(tmp_path, 1, {"g": {"x": value}})
    assert not (tmp_path / "checkpoints").exists()


def test_a_group_name_that_is_no_file_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.\./escape"):
        flatten({"../escape": 1})


# --- which checkpoint


def test_a_run_without_checkpoints_has_no_latest(tmp_path):
    assert latest(tmp_path) is None


def test_latest_counts_steps_as_numbers(tmp_path):
    for step in (9, 10):
        save(tmp_path, step, state_of(step))
    assert latest(tmp_path).name == "step-10"


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, state_of(step), keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-3", "step-4"]


def test_a_resumed_run_forgets_its_abandoned_future(tmp_path):
    for step in (10, 20):
        save(tmp_path, step, state_of(step))
    save(tmp_path, 15, state_of(15), keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-10", "step-15"]


def test_a_step_saved_again_is_replaced(tmp_path):
    save(tmp_path, 5, state_of(1))
    path = save(tmp_path, 5, state_of(2))
    assert load(path)["position"]["index"] == 2
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == ["step-5"]


# --- damaged files


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["byte", "truncated", "missing", "empty"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(tmp_path, caplog, name, harm):
    older, newer = (save(tmp_path, step, state_of(step)) for step in (1, 2))
    content = (newer / name).read_bytes()
    middle = len(content) // 2
    match harm:
        case "byte":
            flipped = bytes([content[middle] ^ 1])
            (newer / name).write_bytes(content[:middle] + flipped + content[middle + 1 :])
        case "truncated":
            (newer / name).write_bytes(content[:middle])
        case "empty":
            (newer / name).write_bytes(b"")
        case "missing":
            (newer / name).unlink()
    assert latest(tmp_path) == older
    assert str(newer) in caplog.text
    assert name in caplog.text or name == "manifest.json"
    with pytest.raises(UserError, match=str(newer)):
        load(newer)


def test_a_checkpoint_under_another_steps_name_is_damaged(tmp_path):
    path = save(tmp_path, 1, state_of(1))
    moved = path.rename(path.with_name("step-9"))
    assert "step 1" in damage(moved)


def test_a_run_whose_checkpoints_are_all_damaged_is_an_error_not_a_new_start(tmp_path):
    path = save(tmp_path, 1, state_of(1))
    (path / "state.json").write_text("{}")
    with pytest.raises(UserError, match="every checkpoint"):
        latest(tmp_path)


# --- killed processes


def _save_forever(folder: Path, saved: Event) -> None:
    step = step_of(latest(folder))
    while True:
        step += 1
        save(folder, step, state_of(step, size=20_000), keep=1)
        saved.set()


def test_a_process_killed_at_any_moment_leaves_a_checkpoint_that_verifies(tmp_path):
    moments = random.Random(0)
    save(tmp_path, 1, state_of(1))
    reached = 1
    for _ in range(12):
        saved = processes.Event()
        process = processes.Process(target=_save_forever, args=(tmp_path, saved), daemon=True)
        process.start()
        while not saved.wait(1):
            assert process.is_alive()
        time.sleep(moments.uniform(0, 0.1))  # any moment will do
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        path = latest(tmp_path)
        state = load(path)
        assert state["position"]["index"] == step_of(path) > reached
        assert (state["model"]["w"] == step_of(path)).all()
        reached = step_of(path)
    save(tmp_path, reached + 1, state_of(reached + 1), keep=1)
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == [f"step-{reached + 1}"]


def _save_and_die_at(folder: Path, step: int, event: int) -> None:
    """Save, killing oneself at the given file-system event (Python audits every open, rename and removal)."""
    count = 0

    def die(name: str, _: object) -> None:
        nonlocal count
        count += name == "open" or name.startswith(("os.", "shutil."))
        if count == event:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    save(folder, step, state_of(2), keep=1)


@pytest.mark.parametrize("step", [1, 2], ids=["replacing the only checkpoint", "after the only checkpoint"])
def test_a_process_killed_at_each_file_operation_leaves_a_checkpoint_that_verifies(tmp_path, step):
    survived = []
    for event in range(1, 200):
        folder = tmp_path / str(event)
        save(folder, 1, state_of(1))
        process = processes.Process(target=_save_and_die_at, args=(folder, step, event))
        process.start()
        process.join()
        survived.append(load(latest(folder))["position"]["index"])
        save(folder, 3, state_of(3), keep=1)
        assert [entry.name for entry in (folder / "checkpoints").iterdir()] == ["step-3"]
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert len(survived) > 10
    assert process.exitcode == 0
    assert survived == sorted(survived)
    assert (survived[0], survived[-1]) == (1, 2)


# --- full disks


def assert_step_1_is_intact(folder: Path) -> None:
    assert [entry.name for entry in (folder / "checkpoints").iterdir()] == ["step-1"]
    assert same(load(latest(folder)), state_of(1))


@contextlib.contextmanager
def file_size_limit(size: int):
    saved = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, saved[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, saved)


@pytest.mark.parametrize("limit", [100, 170, 250], ids=["state.json", "model.safetensors", "manifest.json"])
def test_a_write_the_system_refuses_is_one_line_and_loses_nothing(tmp_path, limit):
    save(tmp_path, 1, state_of(1))
    state = state_of(2, size=10) | {"long": "x" * 40}
    with file_size_limit(limit), pytest.raises(UserError) as refusal:
        save(tmp_path, 2, state)
    assert "\n" not in str(refusal.value)
    assert str(tmp_path) in str(refusal.value)
    assert "File too large" in str(refusal.value)
    assert "step-1 is kept" in str(refusal.value)
    assert_step_1_is_intact(tmp_path)


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of its own with 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk]).returncode:
        pytest.skip("mounting a small file system needs more rights than this process has")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_fills_up_while_writing_is_one_line_and_loses_nothing(tiny_disk, monkeypatch):
    save(tiny_disk, 1, state_of(1))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 0, 2**40))
    with pytest.raises(UserError, match="No space left on device"):
        save(tiny_disk, 2, state_of(2, size=2_000_000))
    assert_step_1_is_intact(tiny_disk)


def test_a_disk_too_small_is_noticed_before_writing_and_the_need_is_named(tiny_disk):
    save(tiny_disk, 1, state_of(1))
    with pytest.raises(UserError, match=r"No space left.*it needs 8\.6 MiB"):
        save(tiny_disk, 2, state_of(2, size=2_000_000))
    assert_step_1_is_intact(tiny_disk)


@pytest.mark.parametrize("synced", range(4))
def test_a_disk_that_is_full_only_when_asked_to_sync_loses_nothing(tmp_path, monkeypatch, synced):
    save(tmp_path, 1, state_of(1))
    calls = itertools.count()
    fsync = os.fsync

    def full_at_last(handle):
        if next(calls) >= synced:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full_at_last)
    with pytest.raises(UserError, match="No space left"):
        save(tmp_path, 2, state_of(2))
    assert_step_1_is_intact(tmp_path)


# --- optimizers and schedules


def tiny_model(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "adamw with amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "sgd with momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "plain sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
}


def two_groups(model: nn.Module) -> list[dict]:
    return [
        {"params": [model[0].weight, model[2].weight]},
        {"params": [model[0].bias, model[2].bias], "lr": 1e-3},
    ]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, schedule: object, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(16, 4, dtype=model[0].weight.dtype)).square().mean().backward()
        optimizer.step()
        schedule.step()


SCHEDULES = {
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20),
    "sequential": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [torch.optim.lr_scheduler.LinearLR(o, 0.1, 1, 2), torch.optim.lr_scheduler.CosineAnnealingLR(o, 20)],
        milestones=[2],
    ),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_resumed_optimizer_goes_on_bit_for_bit(tmp_path, kind, dtype):
    def build():
        model = tiny_model(dtype)
        optimizer = OPTIMIZERS[kind](two_groups(model))
        return model, optimizer, SCHEDULES["lambda"](optimizer)

    model, optimizer, schedule = build()
    train(model, optimizer, schedule, 3)
    path = save(
        tmp_path,
        3,
        {
            "model": model.state_dict(),
            "optimizer": optimizer_state(optimizer, model.named_parameters()),
            "schedule": schedule.state_dict(),
            "random": randomness.capture(),
        },
    )
    train(model, optimizer, schedule, 3)

    resumed, its_optimizer, its_schedule = build()
    state = load(path)
    resumed.load_state_dict(state["model"])
    load_optimizer_state(its_optimizer, resumed.named_parameters(), state["optimizer"])
    its_schedule.load_state_dict(state["schedule"])
    randomness.restore(state["random"])
    train(resumed, its_optimizer, its_schedule, 3)

    assert same(dict(resumed.state_dict()), dict(model.state_dict()))
    assert same(
        optimizer_state(its_optimizer, resumed.named_parameters()),
        optimizer_state(optimizer, model.named_parameters()),
    )
    assert its_schedule.get_last_lr() == schedule.get_last_lr()


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_schedules_own_state_survives_a_checkpoint(tmp_path, kind):
    model = tiny_model(torch.float32)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    schedule = SCHEDULES[kind](optimizer)
    train(model, optimizer, schedule, 4)
    loaded = load(save(tmp_path, 4, {"schedule": schedule.state_dict()}))["schedule"]
    assert same(loaded, schedule.state_dict())


def test_optimizer_state_of_a_wider_dtype_than_the_parameters_keeps_it(tmp_path):
    model = tiny_model(torch.bfloat16)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    train(model, optimizer, SCHEDULES["lambda"](optimizer), 1)
    for state in optimizer.state.values():
        state["exp_avg_sq"] = torch.full_like(state["exp_avg_sq"], 1 / 3, dtype=torch.float32)
    saved = load(save(tmp_path, 1, {"o": optimizer_state(optimizer, model.named_parameters())}))["o"]
    fresh = OPTIMIZERS["adamw"](model.parameters())
    load_optimizer_state(fresh, model.named_parameters(), saved)
    assert all(
        same(state["exp_avg_sq"], torch.full_like(state["exp_avg_sq"], 1 / 3))
        for state in fresh.state.values()
    )
    assert next(iter(fresh.state.values()))["exp_avg_sq"].dtype == torch.float32


def test_optimizer_state_does_not_depend_on_the_order_of_parameters():
    model = tiny_model(torch.float32)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    train(model, optimizer, SCHEDULES["lambda"](optimizer), 2)
    saved = optimizer_state(optimizer, model.named_parameters())
    other = OPTIMIZERS["adamw"](list(model.parameters())[::-1])
    load_optimizer_state(other, model.named_parameters(), saved)
    assert all(same(other.state[p], optimizer.state[p]) for p in model.parameters())


def test_an_optimizer_of_other_parameters_is_refused_by_name():
    model = tiny_model(torch.float32)
    saved = optimizer_state(OPTIMIZERS["adamw"](model.parameters()), model.named_parameters())
    fewer = OPTIMIZERS["adamw"]([p for name, p in model.named_parameters() if name != "2.bias"])
    with pytest.raises(UserError, match=r"2\.bias"):
        load_optimizer_state(fewer, model.named_parameters(), saved)


def test_an_optimized_parameter_without_a_name_is_refused():
    model = tiny_model(torch.float32)
    with pytest.raises(ValueError, match="names"):
        optimizer_state(OPTIMIZERS["adamw"](model.parameters()), list(model.named_parameters())[1:])


# --- randomness


def draws() -> list:
    return [random.random(), random.gauss(), *numpy.random.standard_normal(3), *torch.randn(3).tolist()]  # noqa: NPY002


def test_every_generator_goes_on_where_the_checkpoint_found_it(tmp_path):
    randomness.seed_all(7)
    draws()
    path = save(tmp_path, 1, {"random": randomness.capture()})
    expected = [draws(), draws()]
    randomness.restore(load(path)["random"])
    assert [draws(), draws()] == expected


def test_one_seed_seeds_every_generator():
    randomness.seed_all(3)
    first = draws()
    randomness.seed_all(3)
    again = draws()
    randomness.seed_all(4)
    other = draws()
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_another_number_of_devices_is_said(caplog):
    state = randomness.capture()
    state["cuda"] = [*state["cuda"], torch.zeros(16, dtype=torch.uint8)]
    if torch.cuda.is_available():
        pytest.skip("the extra device's state would be a real one's")
    randomness.restore(state)
    assert "1 CUDA devices were saved, 0 are here" in caplog.text


@pytest.mark.gpu
def test_cuda_generators_go_on_where_they_were_found():
    randomness.seed_all(1)
    torch.randn(3, device="cuda")
    state = randomness.capture()
    expected = torch.randn(5, device="cuda")
    randomness.restore(state)
    assert torch.equal(torch.randn(5, device="cuda"), expected)
