"""Whose weights a role scores with: one state for what is equal, and how it follows training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from doors import run_of_recipe
from selfteach.errors import UserError
from selfteach.policy.loading import LoraConfig, Policy, load_policy
from selfteach.recipes.kit import Adapter
from selfteach.roles.copies import Exchange
from selfteach.roles.role import Role
from selfteach.roles.span import FromMark, FromTurn, Span, Whole
from selfteach.roles.store import WeightStore
from selfteach.roles.view import Plain, Solution
from selfteach.roles.weights import EMA, External, Frozen, Lagged, Live, Random, Ring, Snapshot, Weights
from selfteach.task.example import Example
from selfteach.task.segment import Segment
from selfteach.task.trajectory import Trajectory
from test_door_hook import Rounds
from tiny import tiny_model_folder

IDS = torch.tensor([[5, 6, 7, 8]])
LORA = LoraConfig(rank=4)
BOTH = pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_folder(tmp_path_factory.mktemp("other"), seed=5))


def student_of(folder: str, lora: LoraConfig | None = None, **options: Any) -> Policy:
    policy = load_policy(folder, lora=lora, **options)
    policy.model.register_buffer("seen", torch.zeros(()))  # such as a batch norm's counter
    return policy


def store_of(student: Policy, *specs: Weights, **options: Any) -> WeightStore:
    store = WeightStore({"policy": student}, load_policy, [s for s in specs if isinstance(s, Snapshot)])
    store.enter(specs, **options)
    return store


@torch.no_grad()
def move(student: Policy, by: float = 0.1) -> None:
    """What an optimizer step does, made large; a buffer moves along."""
    for parameter in student.trainable().values():
        parameter.add_(by)
    student.model.get_buffer("seen").add_(1)


@torch.no_grad()
def logits(policy: Policy) -> torch.Tensor:
    return policy.model(IDS).logits.float()


def scores(store: WeightStore, spec: Weights) -> torch.Tensor:
    with store.scoring(spec) as policy:
        return logits(policy)


def held(store: WeightStore, spec: Weights) -> dict[str, torch.Tensor]:
    """What is trained, as this role has it."""
    with store.scoring(spec) as policy:
        named = dict(policy.model.named_parameters())
        return {name: named[name].detach().clone() for name in store.trained["policy"].trainable()}


# --- each kind --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Half:
    """A gate of an average."""

    def __call__(self, row: Mapping[str, Any]) -> float:
        return 0.5 if row["eval/headline"] < 1 else 0.0


KINDS: dict[Weights, list[bool]] = {
    Live(): [False, False, False, False],
    Frozen(): [False, True, True, True],
    EMA(0.5): [False, False, True, True],
    EMA(0.5, from_start=True): [False, True, True, True],
    EMA(0.0, from_start=True): [False, False, False, False],
    EMA(0.5, every=2): [False, False, False, True],
    EMA(0.5, copy_every=3): [False, False, True, False],
    Lagged(2): [False, True, False, True],
    Lagged(2, "batch"): [False, True, False, True],
    Ring(1): [False, True, True, True],
    Ring(2): [False, True, True, True],
    Snapshot("train", "start"): [False, True, True, True],
    Random(3): [True, True, True, True],
}


@BOTH
@pytest.mark.parametrize("spec", KINDS, ids=str)
def test_scores_differ_from_the_students_exactly_when_the_weights_do(
    folder: str, lora: LoraConfig | None, spec: Weights
) -> None:
    student = student_of(folder, lora)
    store = store_of(student, spec)
    store.snapshot("train", "start")
    for step, differs in enumerate(KINDS[spec]):
        if step:
            move(student)
            store.after_step()
            store.after_batch()
        theirs, own = scores(store, spec), logits(student)
        assert torch.equal(theirs, own) is not differs, step
        if differs:
            assert (theirs - own).abs().max() > 1e-3


@BOTH
def test_scoring_leaves_weights_buffers_and_mode_as_they_were(folder: str, lora: LoraConfig | None) -> None:
    student = student_of(folder, lora)
    store = store_of(student, *KINDS)
    store.snapshot("train", "start")
    move(student)
    store.after_step()
    move(student)
    student.model.train()
    before = {name: tensor.clone() for name, tensor in student.model.state_dict().items()}
    places = {name: tensor.data_ptr() for name, tensor in student.model.named_parameters()}
    for spec in KINDS:
        with store.scoring(spec) as policy:
            assert not policy.model.training
    assert student.model.training
    for name, tensor in student.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert places == {name: tensor.data_ptr() for name, tensor in student.model.named_parameters()}


@BOTH
def test_an_average_is_its_closed_form(folder: str, lora: LoraConfig | None) -> None:
    """After steps to θ_1 … θ_n: decay^n θ_0 + (1 − decay) Σ decay^(n−k) θ_k."""
    student, decay = student_of(folder, lora), 0.75
    spec = EMA(decay, from_start=True)
    store = store_of(student, spec)
    path = [{name: p.detach().clone() for name, p in student.trainable().items()}]
    for by in (0.5, -0.2, 0.9):
        move(student, by)
        store.after_step()
        path.append({name: p.detach().clone() for name, p in student.trainable().items()})
    shares = [decay**3, (1 - decay) * decay**2, (1 - decay) * decay, 1 - decay]
    for name, tensor in held(store, spec).items():
        expected = sum(share * one[name] for share, one in zip(shares, path, strict=True))
        torch.testing.assert_close(tensor, expected)


@pytest.mark.parametrize(("decay", "shift"), [(0.0, 0.0), (1.0, -2.0)])
def test_decay_zero_is_the_student_and_decay_one_the_first_copy(
    folder: str, decay: float, shift: float
) -> None:
    student = student_of(folder)
    store = store_of(student, EMA(decay))
    for _ in range(3):
        move(student, 1.0)
        store.after_step()
    for name, tensor in held(store, EMA(decay)).items():
        torch.testing.assert_close(tensor, student.trainable()[name].detach() + shift)


def test_a_gate_scales_the_average_by_what_was_last_observed(folder: str) -> None:
    student = student_of(folder)
    spec = EMA(0.5, from_start=True, gate=Half())
    store = store_of(student, spec)
    first = held(store, spec)
    for headline in (0.0, 1.0):  # half a share, then none
        store.observe({"eval/headline": headline})
        move(student, 1.0)
        store.after_step()
        for name, tensor in held(store, spec).items():
            torch.testing.assert_close(tensor, first[name] + 0.25)


def test_a_gate_that_gives_no_number_is_refused(folder: str) -> None:
    store = store_of(student_of(folder), EMA(0.5, gate=lambda row: row["loss"]))
    with pytest.raises(ValueError, match="gate"):
        store.observe({"loss": float("nan")})


@BOTH
def test_a_ring_scores_with_the_copy_of_k_times_every_steps_ago(folder: str, lora: LoraConfig | None) -> None:
    student = student_of(folder, lora)
    spec = Ring(k=2, every=2)
    store = store_of(student, spec)
    path = [held(store, Live())]
    for step in range(1, 9):
        move(student)
        store.after_step()
        path.append(held(store, Live()))
        expected = path[max(0, step // 2 * 2 - 4)]
        for name, tensor in held(store, spec).items():
            assert torch.equal(tensor, expected[name]), step
        assert store.copies == min(3, 1 + step // 2)
        assert store.copies + store.copies_to_come == 3


def test_a_lagged_copy_counts_steps_or_batches(folder: str) -> None:
    student = student_of(folder)
    by_step, by_batch = Lagged(2), Lagged(2, "batch")
    store = store_of(student, by_step, by_batch)
    for _ in range(2):  # two updates of one batch
        move(student)
        store.after_step()
    store.after_batch()
    assert torch.equal(scores(store, by_step), logits(student))
    assert not torch.equal(scores(store, by_batch), logits(student))
    store.after_batch()
    assert torch.equal(scores(store, by_batch), logits(student))


@BOTH
@pytest.mark.parametrize("spec", [Frozen(), EMA(0.5, from_start=True), Lagged(1), Snapshot("train", "end")])
def test_buffers_follow(folder: str, lora: LoraConfig | None, spec: Weights) -> None:
    student = student_of(folder, lora)
    store = store_of(student, spec, moved=True)
    move(student)
    store.after_step()
    store.snapshot("train", "end")
    with store.scoring(spec) as policy:
        assert float(policy.model.get_buffer("seen")) == (0.0 if spec == Frozen() else 1.0)
    assert float(student.model.get_buffer("seen")) == 1.0


def test_a_fresh_initialization_is_one_of_its_seed_and_of_nothing_else(folder: str) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    store = store_of(student_of(folder), Random(1), Random(2))
    assert torch.equal(torch.get_rng_state(), state)
    again = store_of(student_of(folder, LORA), Random(1))
    assert torch.equal(scores(store, Random(1)), scores(again, Random(1)))
    assert not torch.equal(scores(store, Random(1)), scores(store, Random(2)))


def test_another_model_is_loaded_once_and_talks_for_itself(folder: str, other: str) -> None:
    store = store_of(student_of(folder), External(other))
    theirs = store.policy_of(External(other))
    assert theirs is store.policy_of(External(other))
    assert theirs.name == other
    assert torch.equal(scores(store, External(other)), logits(load_policy(other)))
    assert store.policy_of(Frozen()) is store.trained["policy"]


# --- copies -----------------------------------------------------------------------------------------------------


def test_roles_of_equal_weights_are_one_copy(folder: str) -> None:
    roles = {"a": Role(Frozen(), Plain()), "b": Role(Frozen(), Solution()), "c": Role(Frozen(), tag="x")}
    store = store_of(student_of(folder), *[role.weights for role in roles.values()])
    assert store.copies == 1
    assert store_of(student_of(folder), Frozen(), EMA(), Lagged(3), Lagged(3), Live()).copies == 2


def test_where_weights_are_the_students_own_there_is_no_copy(folder: str) -> None:
    assert store_of(student_of(folder), Live(), EMA()).copies == 0
    assert store_of(student_of(folder, LORA), Live(), Frozen(), Snapshot("train", "start")).copies == 0


def test_averages_and_rings_announce_the_copies_they_will_make(folder: str) -> None:
    store = store_of(student_of(folder), EMA(), Ring(3), Frozen(), Snapshot("train", "end"))
    assert (store.copies, store.copies_to_come) == (2, 1 + 3 + 1)


def test_a_frozen_role_of_a_lora_student_is_the_adapters_switched_off(folder: str) -> None:
    student = student_of(folder, LORA)
    store = store_of(student, Frozen())
    move(student)
    assert torch.equal(scores(store, Frozen()), logits(load_policy(folder)))


def test_once_adapters_are_trained_a_frozen_role_is_a_copy_of_them(folder: str) -> None:
    student = student_of(folder, LORA)
    move(student)
    store = store_of(student, Frozen(), moved=True)
    expected = logits(student)
    move(student)
    assert store.copies == 1
    assert torch.equal(scores(store, Frozen()), expected)


def test_a_module_of_its_own_wants_no_gradient_and_keeps_ties(folder: str) -> None:
    store = store_of(student_of(folder), Frozen())
    with store.scoring(Frozen()) as policy:
        assert not any(parameter.requires_grad for parameter in policy.model.parameters())
        head, embedding = policy.model.get_output_embeddings(), policy.model.get_input_embeddings()
        assert head.weight is embedding.weight
        assert embedding.weight is not store.trained["policy"].model.get_input_embeddings().weight


def test_copies_that_never_move_are_stored_in_bfloat16_where_the_precision_is(folder: str) -> None:
    student = student_of(folder, precision="bfloat16")
    store = store_of(student, Frozen(), EMA(0.999, from_start=True), Lagged(1), Random())
    for spec, dtype in (
        (Frozen(), torch.bfloat16),
        (Random(), torch.bfloat16),
        (EMA(0.999, from_start=True), torch.float32),
        (Lagged(1), torch.float32),
    ):
        with store.scoring(spec) as policy:
            assert {p.dtype for p in policy.model.parameters()} == {dtype}
            assert all(b.dtype != torch.bfloat16 for b in policy.model.buffers())


# --- exchanged adapters -----------------------------------------------------------------------------------------


def test_adapters_are_exchanged_once_at_a_time(folder: str) -> None:
    student = student_of(folder, LORA)
    store = store_of(student, Lagged(2), Frozen(), Random())
    move(student)
    for inner in (Lagged(2), Live(), Frozen()):
        with (
            pytest.raises(RuntimeError, match="another role"),
            store.scoring(Lagged(2)),
            store.scoring(inner),
        ):
            pass
    with store.scoring(Lagged(2)), store.scoring(Random()):
        pass
    assert torch.equal(scores(store, Live()), logits(student))


def test_an_exchange_is_undone_even_after_an_error(folder: str) -> None:
    student = student_of(folder, LORA)
    exchange = Exchange(student)
    before = {name: tensor.detach().clone() for name, tensor in exchange.own().items()}
    zeros = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    with pytest.raises(ArithmeticError, match="all zero"), exchange(zeros):
        raise ArithmeticError("all zero" if not any(t.any() for t in exchange.own().values()) else "kept")
    assert all(torch.equal(tensor, before[name]) for name, tensor in exchange.own().items())
    with exchange(zeros):
        pass


def test_a_graph_that_lives_through_an_exchange_is_refused_by_autograd(folder: str) -> None:
    student = student_of(folder, LORA)
    store = store_of(student, Lagged(2))
    move(student)
    loss = student.model(IDS).logits.square().sum()
    scores(store, Lagged(2))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# --- stages and checkpoints -------------------------------------------------------------------------------------


@BOTH
def test_a_snapshot_stays_over_stages_and_one_that_is_to_come_is_refused(
    folder: str, lora: LoraConfig | None
) -> None:
    student = student_of(folder, lora)
    end = Snapshot("first", "end")
    store = WeightStore({"policy": student}, None, [end])
    store.enter([Live()])
    with pytest.raises(UserError, match="end of stage 'first'"), store.scoring(end):
        pass
    move(student)
    expected = logits(student)
    store.snapshot("first", "end")
    store.enter([end, Frozen()], moved=True)
    move(student)
    assert torch.equal(scores(store, end), expected)
    assert torch.equal(scores(store, Frozen()), expected)


def test_weights_that_no_role_of_the_stage_has_are_unknown(folder: str) -> None:
    with pytest.raises(KeyError), store_of(student_of(folder), Live()).scoring(Frozen()):
        pass


@BOTH
def test_a_store_goes_on_exactly_from_its_state(folder: str, lora: LoraConfig | None) -> None:
    specs = [*KINDS, EMA(0.5, from_start=True, gate=Half()), Ring(2, every=2)]
    student = student_of(folder, lora)
    store = store_of(student, *specs)
    store.snapshot("train", "start")

    def step(one: WeightStore) -> None:
        move(one.trained["policy"])
        one.observe({"eval/headline": 0.5})
        one.after_step()
        one.after_batch()

    for _ in range(3):
        step(store)
    kept = {name: p.detach().clone() for name, p in student.model.state_dict().items()}
    again = store_of(student_of(folder, lora), *specs)
    again.snapshot("train", "start")
    again.trained["policy"].model.load_state_dict(kept)
    again.load_state(store.state())
    for _ in range(3):
        for spec in specs:
            assert torch.equal(scores(again, spec), scores(store, spec)), spec
        step(store)
        step(again)
    assert again.copies == store.copies


def test_several_trained_weights_have_roles_of_their_own(folder: str, other: str) -> None:
    store = WeightStore({"policy": student_of(folder), "critic": student_of(other)})
    store.enter([Frozen(), Frozen(of="critic")])
    assert store.copies == 2
    assert store.policy_of(Live("critic")).name == other
    assert torch.equal(scores(store, Frozen("critic")), logits(store.trained["critic"]))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (EMA, {"decay": 1.1}), (EMA, {"every": 0}), (EMA, {"copy_every": -1}), (Lagged, {"every": 0}),
        (Ring, {"k": 0}), (Ring, {"k": 1, "every": 0}),
    ],
)  # fmt: skip
def test_impossible_weights_refuse_to_construct(kind: Any, settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(reversed(settings))):
        kind(**settings)


# --- spans ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "begin"),
    [
        (Whole(), 0), (FromTurn(0), 0), (FromTurn(1), 3), (FromTurn(2), None), (FromMark("revision"), 2),
        (FromMark("nothing"), None), (FromMark("unknown"), None),
    ],
)  # fmt: skip
def test_a_span_begins_at_a_turn_or_a_mark(span: Span, begin: int | None) -> None:
    segments = (Segment([1, 2, 3]), Segment([4], turn=1))
    marks = {"revision": [False, False, True, True], "nothing": [False] * 4}
    one = Trajectory(Example("k", ()), [9], segments, "", 0, True, marks=marks)
    assert span.begin(one) == begin


def test_a_snapshot_at_a_later_stages_start_is_the_adapters_as_they_are_then(tmp_path: Path) -> None:
    class Held(Rounds):
        @property
        def teachers(self):
            return {"then": Role(Snapshot("round-1", "start"), Plain())} if self.rounds == 1 else {}

        @property
        def stages(self):
            return (
                {f"round-{i}": replace(self, rounds=1) for i in range(2)}
                if self.rounds > 1
                else {"train": self}
            )

        def active(self, step: int):
            return ()

    model = str(tiny_model_folder(tmp_path / "model"))
    run, learner = run_of_recipe(Held(rounds=2, adapter=Adapter(lora_rank=4)), model, tmp_path)
    with torch.no_grad():
        for parameter in learner.policy.trainable().values():
            parameter.add_(0.1)
    run.enter(1)
    ids = torch.tensor([[5, 6, 7]])
    now = learner.policy.model(ids).logits
    with torch.no_grad(), learner.models.weights.scoring(Snapshot("round-1", "start")) as policy:
        torch.testing.assert_close(policy.model(ids).logits, now)
