"""A reader that records its pass over a token reads what one does that computes each anew."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from families import FAMILIES, family_model
from selfteach.policy import recorded, sampler
from selfteach.policy.cache import GrowingLayer, masks_by_key
from selfteach.policy.draws import Sampling
from selfteach.policy.loading import Policy
from selfteach.policy.reader import Reader
from selfteach.policy.recorded import Compute, RecordedReader, can_record, room_for
from selfteach.policy.sampler import LocalSampler
from test_decoding import CHAT, ids_of, policy_of, some_prompts
from tiny import tiny_model

PROMPTS = [*some_prompts(3, 17, 9), some_prompts(3, 17, 9)[1]]
"""Of several lengths, two of them equal."""
CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
)
DEVICES = ["cpu", CUDA]
PLAIN = sorted(name for name in FAMILIES if masks_by_key(family_model(name)))


class Repeated(RecordedReader):
    """What is not recorded but computed again from the same memory: the same on any device."""

    record = staticmethod(lambda compute: compute)


def read(reader: Reader, tokens: Sequence[Tensor], leaves: dict[int, list[int]]) -> list[Tensor]:
    """The logits of the prompts and of every token; after the ``t``-th only the rows ``leaves[t]`` go on."""
    found = [reader.prompts().clone()]
    rows = torch.arange(len(PROMPTS), device=found[0].device)
    for step, token in enumerate(tokens):
        if step in leaves:
            kept = torch.tensor(leaves[step], device=rows.device)
            reader.keep(kept)
            rows = rows[kept]
        found.append(reader.token(token[rows]).clone())
    return found


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings are full every few tokens."""
    monkeypatch.setattr(recorded, "AHEAD", 3)
    monkeypatch.setattr(recorded, "STEP", 4)


def both(policy: Policy, leaves: dict[int, list[int]], kind: type[RecordedReader], new: int | None) -> None:
    device = policy.model.device
    generator = torch.Generator().manual_seed(2)
    tokens = [torch.randint(4, 90, (len(PROMPTS),), generator=generator).to(device) for _ in range(20)]
    plain, again = (
        read(one(lambda: nullcontext(policy), PROMPTS, policy.vocabulary, new=new), tokens, leaves)
        for one in (Reader, kind)
    )
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("new", [None, 20])
@pytest.mark.parametrize("leaves", [{}, {4: [0, 1, 3], 5: [1], 13: [0]}], ids=["all stay", "some leave"])
@torch.no_grad()
def test_it_reads_what_a_plain_reader_reads(
    device: str, leaves: dict[int, list[int]], new: int | None
) -> None:
    policy = policy_of(tiny_model(CHAT.vocabulary + 10).eval().to(device))
    both(policy, leaves, RecordedReader if device == "cuda" else Repeated, new)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", PLAIN)
@torch.no_grad()
def test_every_family_that_is_recorded_reads_the_same(name: str) -> None:
    """Falcon's is tried and cannot be: it takes its keys by indices that the host holds."""
    model = family_model(name, rows=CHAT.vocabulary).eval().cuda()
    if not can_record(model, 64):
        pytest.skip("is not recorded")
    both(policy_of(model), {4: [0, 1, 3]}, RecordedReader, 20)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_sampled_is_the_same(
    device: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where answers end at different places, and rows leave."""
    policy = policy_of(tiny_model(CHAT.vocabulary + 10).eval().to(device))
    keys = [str(i) for i in range(len(PROMPTS))]

    def sampled() -> list[list[int]]:
        return ids_of(LocalSampler(policy).sample(PROMPTS, Sampling(40, temperature), keys=keys))

    monkeypatch.setattr(sampler, "can_record", lambda *_: False)
    plain = sampled()
    monkeypatch.setattr(sampler, "can_record", lambda *_: True)
    if device == "cpu":
        monkeypatch.setattr(sampler, "RecordedReader", Repeated)
    assert sampled() == plain
    assert {len(ids) for ids in plain} != {40} or temperature == 0, "nobody stops: this test shows nothing"


@torch.no_grad()
def test_the_host_makes_one_recording_for_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Counted(RecordedReader):
        @staticmethod
        def record(compute: Compute) -> Compute:
            made.append(0)
            return compute

    monkeypatch.setattr(recorded, "AHEAD", 64)
    policy = policy_of(tiny_model(CHAT.vocabulary).eval())
    reader = Counted(lambda: nullcontext(policy), PROMPTS, policy.vocabulary)
    read(reader, [torch.full((len(PROMPTS),), 5)] * 60, {})
    assert len(made) == 1


@torch.no_grad()
def test_a_pass_that_cannot_be_recorded_is_computed_token_by_token_and_said_to_be(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Refused(RecordedReader):
        @staticmethod
        def record(compute: Compute) -> Compute:
            compute()  # it is computed before it is recorded
            raise RuntimeError("the host looked")

    policy = policy_of(tiny_model(CHAT.vocabulary + 10).eval())
    both(policy, {4: [0, 1, 3]}, Refused, None)
    assert caplog.messages == [
        "tokens are computed one by one, as no CUDA graph of them can be made: the host looked"
    ]


class Refused(RecordedReader):
    tries = 0
    problem: Exception = RuntimeError("the host looked")

    @classmethod
    def record(cls, compute: Compute) -> Compute:  # type: ignore[override]
        cls.tries += 1
        raise cls.problem


@torch.no_grad()
@pytest.mark.parametrize(
    ("problem", "tries"),
    [(ValueError("no"), 1), (torch.OutOfMemoryError("no memory"), 3)],
    ids=["refused", "no memory"],
)
def test_a_model_that_cannot_be_recorded_is_tried_once_and_one_that_had_no_memory_again(
    problem: Exception, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(tiny_model(CHAT.vocabulary + 10).eval())
    monkeypatch.setattr(sampler, "RecordedReader", Refused)
    monkeypatch.setattr(sampler, "can_record", lambda model, new: model not in recorded.REFUSED)
    monkeypatch.setattr(Refused, "problem", problem)
    monkeypatch.setattr(Refused, "tries", 0)
    for _ in range(3):
        LocalSampler(policy).sample(PROMPTS, Sampling(8))
    assert Refused.tries == tries


@torch.no_grad()
def test_what_was_recorded_is_given_back_with_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting for the garbage collector: graphs and caches would pile up."""
    made: list[weakref.ref[RecordedReader]] = []

    class Remembered(Repeated):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(weakref.ref(self))

    policy = policy_of(tiny_model(CHAT.vocabulary + 10).eval())
    monkeypatch.setattr(sampler, "RecordedReader", Remembered)
    monkeypatch.setattr(sampler, "can_record", lambda *_: True)
    gc.disable()
    try:
        LocalSampler(policy).sample(PROMPTS, Sampling(40), batch_size=2)
        assert len(made) == 2
        assert [one() for one in made] == [None, None]
    finally:
        gc.enable()


@torch.no_grad()
def test_a_recording_keeps_no_older_buffers() -> None:
    policy = policy_of(tiny_model(CHAT.vocabulary).eval())
    reader = Repeated(lambda: nullcontext(policy), PROMPTS, policy.vocabulary)
    reader.prompts()
    reader.token(torch.full((len(PROMPTS),), 5))
    for layer in reader.cache.layers:
        assert isinstance(layer, GrowingLayer)
        assert layer.keys.untyped_storage().data_ptr() == layer.key_buffer.untyped_storage().data_ptr()
        assert layer.values.untyped_storage().data_ptr() == layer.value_buffer.untyped_storage().data_ptr()


def test_room_follows_what_is_cached_and_what_is_to_come() -> None:
    assert room_for(10, None) == 16  # 10 + half of it, in fours
    assert room_for(10, 13) == 16
    assert room_for(10, 12) == 12
    assert room_for(10, 10) == 12  # more are written than were announced
    assert room_for(1000, None) == 1500


def test_nothing_is_recorded_on_a_cpu() -> None:
    assert not can_record(tiny_model(CHAT.vocabulary), 1024)
