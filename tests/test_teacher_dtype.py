"""In what numbers teachers score, and where their weights wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from runs import TextRun, run_of, scoring, weights
from selfteach.errors import UserError
from selfteach.policy.loading import Policy, load_policy
from selfteach.roles.offload import Offload, lent
from selfteach.roles.store import WeightStore
from selfteach.roles.weights import External, Frozen, Random, Snapshot
from selfteach.task.arena import model_folder
from selfteach.training import checkpoint, resuming
from selfteach.training.text.preflight import examined
from selfteach.training.text.preflight.probing import log_probs

ARENA = str(model_folder("table"))
BF16 = ("--teacher-dtype", "bfloat16")


def dtypes(policy: Policy) -> set[torch.dtype]:
    return {one.dtype for one in policy.model.parameters()}


def of_teacher(run: TextRun, role: str = "teacher") -> tuple[set[torch.dtype], str]:
    """(what its weights are stored in, the precision that it computes in)"""
    with scoring(run, role) as policy:
        return dtypes(policy), policy.precision


def teacher_log_probs(*words: str) -> torch.Tensor:
    """Of a fixed step's answers, by the teacher under its view; the answers are the same whatever its numbers."""
    run = run_of(ARENA, "--max-tokens", "24", *words)
    batch = run.learner.collect(0)
    return log_probs(run.learner, "teacher", batch.rows, batch.contexts["teacher"])


# --- which numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("--lora-rank", "4")], ids=["full", "lora"])
def test_a_bfloat16_teacher_is_close_to_a_float32_one(words: tuple[str, ...]) -> None:
    exact, rounded = teacher_log_probs(*words), teacher_log_probs(*words, *BF16)
    assert exact.shape == rounded.shape
    difference = (exact - rounded).abs()[exact != 0]
    assert 0 < float(difference.mean()) < 0.003
    assert float(difference.max()) < 0.1


def test_weights_that_never_move_are_stored_and_computed_in_bfloat16() -> None:
    run = run_of(ARENA, *BF16)
    assert of_teacher(run) == ({torch.bfloat16}, "mixed")
    assert dtypes(run.learner.policy) == {torch.float32}
    assert run.learner.policy.precision == "float32"
    store = run.learner.models.weights
    for spec in (Random(3), Snapshot("train", "start")):
        store.wanted = [spec] if isinstance(spec, Snapshot) else []
        store.enter([spec])
        store.snapshot("train", "start")
        with store.scoring(spec) as policy:
            assert dtypes(policy) == {torch.bfloat16}


def test_other_models_are_loaded_in_bfloat16(tiny: str) -> None:
    run = run_of(tiny, "--teacher", tiny, *BF16, recipe="exopd")
    assert of_teacher(run)[0] == {torch.bfloat16}


def test_averages_are_stored_in_float32_and_computed_in_bfloat16() -> None:
    run = run_of(ARENA, *BF16, recipe="sdpo")
    assert of_teacher(run) == ({torch.float32}, "mixed")


def test_a_live_teacher_is_the_student(tiny: str) -> None:
    assert of_teacher(run_of(tiny, "--weights", "live", *BF16)) == ({torch.float32}, "float32")


def test_the_base_under_lora_teaches_in_bfloat16_without_a_copy() -> None:
    run = run_of(ARENA, "--lora-rank", "4", *BF16)
    assert of_teacher(run) == ({torch.float32}, "mixed")
    assert run.learner.models.weights.copies == 0


def test_float32_teachers_beside_a_student_in_bfloat16_are_exact() -> None:
    exact = teacher_log_probs()
    both = ("--precision", "bfloat16", "--teacher-dtype", "float32")
    run = run_of(ARENA, *both)
    assert of_teacher(run) == ({torch.float32}, "float32")
    ours = run_of(ARENA, "--max-tokens", "24")
    batch = ours.learner.collect(0)
    found = log_probs(run.learner, "teacher", batch.rows, batch.contexts["teacher"])
    assert torch.equal(found, exact)


def test_a_float32_teacher_that_is_a_bfloat16_lora_base_is_refused() -> None:
    with pytest.raises(UserError, match=r"teacher_dtype float32.*precision mixed"):
        run_of(ARENA, "--lora-rank", "4", "--precision", "bfloat16", "--teacher-dtype", "float32")


def test_the_student_s_update_sees_the_teacher_alone_change() -> None:
    plain = run_of(ARENA)
    rows = [plain.stepped()]
    rounded = run_of(ARENA, *BF16)
    rows.append(rounded.stepped())
    assert [one.ids for one in plain.batch.rows] == [one.ids for one in rounded.batch.rows]
    assert rows[0]["entropy/student"] == rows[1]["entropy/student"]
    assert rows[0]["loss"] != rows[1]["loss"]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=0.05)


def test_a_run_with_a_bfloat16_teacher_goes_on_bit_for_bit(tmp_path: Path) -> None:
    run = run_of(ARENA, *BF16, "--lr", "1e-3")
    run.stepped()
    path = checkpoint.save(tmp_path, 1, resuming.state(run))
    run.stepped()
    again = run_of(ARENA, *BF16, "--lr", "1e-3")
    resuming.load_state(again, checkpoint.load(path))
    again.stepped()
    for name, value in weights(again).items():
        assert torch.equal(value, weights(run)[name]), name


def test_preflight_says_which_numbers_teach_and_bounds_them() -> None:
    found = {check.name: check for check in examined(run_of(ARENA, *BF16).learner)}
    assert found["teacher: numbers"].detail == "weights in bfloat16, computed in bfloat16, logits in float32"
    assert found["teacher: equality"].ok
    assert "teacher: numbers" not in {check.name for check in examined(run_of(ARENA).learner)}


# --- where they wait ------------------------------------------------------------------------------------------------


def tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def places(model: nn.Module) -> list[int]:
    return [one.data_ptr() for one in tensors(model)]


def test_what_is_lent_comes_back_to_the_bit() -> None:
    layer = nn.Linear(3, 2)
    layer.register_buffer("count", torch.ones(2))
    home, values = places(layer), [one.clone() for one in tensors(layer)]
    elsewhere = torch.device("cpu", 0)  # to torch another device than "cpu": tensors are copied there
    with suppress(RuntimeError), lent(layer, elsewhere):
        assert not set(places(layer)) & set(home)
        assert all(torch.equal(a, b) for a, b in zip(tensors(layer), values, strict=True))
        head = layer.weight.detach()
        raise RuntimeError
    assert places(layer) == home
    assert torch.equal(head, layer.weight)
    assert head.data_ptr() not in home


def test_a_teacher_is_where_the_student_is_while_it_scores_and_nowhere_else(
    tiny: str,
) -> None:
    """As far as a CPU can tell; tests/test_gpu.py sees the devices."""
    lendings: list[tuple[nn.Module, torch.device]] = []

    class Noted(Offload):
        @contextmanager
        def lent(self, model: nn.Module, device: torch.device) -> Iterator[None]:
            lendings.append((model, device))
            with super().lent(model, device):
                yield

    student = load_policy(tiny)
    store = WeightStore({"policy": student}, load_policy, offload=Noted("cpu"))
    specs = (Frozen(), External(tiny), Random(1))
    store.enter(specs)
    for spec in specs:
        with store.scoring(spec) as policy:
            assert lendings.pop() == (policy.model, torch.device("cpu"))
    assert not lendings


def test_where_there_is_no_accelerator_it_is_said(tiny: str) -> None:
    run = run_of(tiny, "--offload-teachers")  # alone: cpu
    assert [
        line for line in run.progress.said if line.startswith("offload_teachers: there is no accelerator")
    ]
    assert run.stepped()["grad_norm"] > 0


def test_views_of_equal_weights_are_one_module() -> None:
    run = run_of("", "--task", "trail", recipe="avsd")
    assert len(run.learner.recipe.teachers) == 3
    models = []
    for name in run.learner.recipe.teachers:
        with scoring(run, name) as policy:
            models.append(policy.model)
    assert models[0] is models[1] is models[2] is not run.learner.policy.model
    assert run.learner.models.weights.copies == 1
