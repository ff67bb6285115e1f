"""Decoding over a cache: who draws what, and what is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from families import FAMILIES, family_model
from selfteach.errors import UserError
from selfteach.objective.uniform import starts_of, stream
from selfteach.policy import streaming
from selfteach.policy.cache import GrowingLayer, reads_by_token
from selfteach.policy.draws import AHEAD, COLDEST, Draws, Sampling
from selfteach.policy.loading import Policy, body
from selfteach.policy.mixture import decode_mixture
from selfteach.policy.renderer import ChatRenderer
from selfteach.policy.room import room_of
from selfteach.policy.sampler import LocalSampler, Sample, decoded, generated
from tiny import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CHAT = ChatRenderer(TOKENIZER)
CPU = torch.device("cpu")
QUICK = {"gpt2", "gemma2", "bloom", "qwen2_moe"}
OTHERWISE = {
    "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "lfm2", "mamba", "mamba2", "minimax",
    "qwen3_next", "recurrent_gemma", "rwkv", "zamba2",
}  # fmt: skip
"""Families that remember a text by more than attention's keys and values."""


def policy_of(model: torch.nn.Module) -> Policy:
    return Policy("tiny", model, TOKENIZER, CHAT, CHAT.vocabulary, room_of(model))


@pytest.fixture
def policy() -> Policy:
    return policy_of(tiny_model(CHAT.vocabulary + 10))


def some_prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(4, 90, (length,), generator=generator).tolist() for length in lengths]


def ids_of(samples: Sequence[Sample]) -> list[list[int]]:
    return [one.ids for one in samples]


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", [[[]], [[], [5]], [[5, 6], []]])
def test_a_prompt_without_a_token_is_refused_also_beside_others(
    policy: Policy, prompts: list[list[int]]
) -> None:
    with pytest.raises(UserError, match="a prompt has no tokens"):
        LocalSampler(policy).sample(prompts, Sampling(4))
    with pytest.raises(UserError, match="a prompt has no tokens"):
        decode_mixture(policy, [prompts], [1 / len(prompts)] * len(prompts), max_tokens=4)
    with pytest.raises(UserError, match="a prompt has no tokens"):
        next(streaming.stream(policy, min(prompts, key=len), Sampling(4)))


@pytest.mark.parametrize("temperature", [1e-9, 1e-40])
def test_a_temperature_that_logits_overflow_at_is_the_users_not_the_weights(temperature: float) -> None:
    with pytest.raises(UserError, match=r"too small .* give 0 \(greedy\)"):
        Sampling(4, temperature)


def test_at_the_smallest_temperature_the_likeliest_token_is_drawn(policy: Policy) -> None:
    prompts = some_prompts(3, 17)
    cold, greedy = (LocalSampler(policy).sample(prompts, Sampling(8, t)) for t in (COLDEST, 0))
    assert ids_of(cold) == ids_of(greedy)


# --- who draws what ---------------------------------------------------------------------------------------------------


def test_a_row_depends_on_its_prompt_and_key_alone(policy: Policy) -> None:
    prompts = some_prompts(3, 17, 40, 9)
    keys = [f"7 step example {i}" for i in range(4)]

    def drawn(order: Sequence[int], size: int | None = None) -> list[list[int]]:
        asked, named = [prompts[i] for i in order], [keys[i] for i in order]
        return ids_of(LocalSampler(policy).sample(asked, Sampling(24), keys=named, batch_size=size))

    whole = drawn(range(4))
    assert [drawn([i])[0] for i in range(4)] == whole
    assert drawn(range(4), 3) == whole
    assert drawn([2, 0, 3, 1]) == [whole[i] for i in (2, 0, 3, 1)]


def test_equal_prompts_under_other_keys_are_other_answers(policy: Policy) -> None:
    samples = LocalSampler(policy).sample(some_prompts(9) * 8, Sampling(24), keys=[str(i) for i in range(8)])
    assert len({tuple(one.ids) for one in samples}) == 8


def test_every_row_needs_a_key(policy: Policy) -> None:
    with pytest.raises(ValueError, match="2 prompts and 1 keys"):
        LocalSampler(policy).sample(some_prompts(3, 4), Sampling(4), keys=["a"])


def test_a_token_is_the_first_whose_cumulative_probability_exceeds_the_rows_number() -> None:
    chances = torch.tensor([[0.1, 0.0, 0.4, 0.2, 0.3]], dtype=torch.float64)
    draws = Draws(Sampling(5000), ["a"], CPU)
    numbers = stream(starts_of(["a"], CPU), 0, 5000)[0]
    for step in range(0, 5000, 7):
        token, log_prob = draws(chances.log(), torch.tensor([0]), step)
        cumulative = chances[0].cumsum(0)
        assert int(token) == int((cumulative > numbers[step]).nonzero()[0])
        assert float(log_prob) == pytest.approx(float(chances[0, token].log()))


def test_numbers_go_on_where_the_last_ones_ended() -> None:
    starts = starts_of(["a", "b"], CPU)
    whole = stream(starts, 0, 3 * AHEAD)
    draws = Draws(Sampling(1000), ["a", "b"], CPU)
    both = torch.tensor([0, 1])
    found = torch.stack([draws.numbers_of(both, step) for step in range(3 * AHEAD)], 1)
    assert torch.equal(found, whole)
    assert torch.equal(stream(starts, 70, 20), whole[:, 70:90])
    assert whole.min() >= 0
    assert whole.max() < 1
    assert float(whole.mean()) == pytest.approx(0.5, abs=4.5 * (1 / 12 / whole.numel()) ** 0.5)


@pytest.mark.parametrize(
    "sampling", [Sampling(1, top_k=3), Sampling(1, top_p=0.7), Sampling(1, 0.5, 0.9, 4)], ids=str
)
def test_cuts_renormalize_what_is_drawn_and_leave_the_log_prob_alone(sampling: Sampling) -> None:
    logits = torch.tensor([[0.3, 1.7, -0.4, 1.1, 0.2, -2.0]]).double()
    whole = (logits / sampling.temperature).softmax(-1)[0]
    cut = sampling.cut((logits / sampling.temperature).clone()).softmax(-1)[0]
    count = 20_000
    draws = Draws(sampling, [str(i) for i in range(count)], CPU)
    tokens, log_probs = draws(logits.expand(count, -1), torch.arange(count), 0)
    seen = torch.bincount(tokens, minlength=6) / count
    assert bool((seen[cut == 0] == 0).all())
    inside = cut > 0
    deviation = (seen - cut)[inside].abs() / (cut * (1 - cut) / count)[inside].clamp(min=1e-12).sqrt()
    assert deviation.max() < 4.5
    torch.testing.assert_close(log_probs, whole[tokens].log())


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
def test_a_token_without_a_chance_is_never_drawn(number: float) -> None:
    mass = torch.tensor([[0.0, 1.0, 1.0, 3.0, 3.0]], dtype=torch.float64) / 7
    assert int(Draws.inverse(mass, torch.tensor([number], dtype=torch.float64))) == (1 if number == 0 else 3)


def test_a_wide_vocabulary_is_drawn_from_without_a_drift() -> None:
    """Cumulated in float32 the last of 200,000 equal tokens would be drawn wrongly by hundreds of places."""
    width = 200_000
    draws = Draws(Sampling(1), [str(i) for i in range(64)], CPU)
    tokens, _ = draws(torch.zeros(64, width), torch.arange(64), 0)
    numbers = stream(starts_of([str(i) for i in range(64)], CPU), 0, 1)[:, 0]
    assert (tokens - (numbers * width).floor()).abs().max() <= 1


# --- what is read -----------------------------------------------------------------------------------------------------


def pushed(
    policy: Policy, prompts: list[list[int]], sampling: Sampling, **more: list[str]
) -> tuple[list[int], list[Sample]]:
    """Tokens of each forward pass, and what was written."""
    seen: list[int] = []

    def note(_: object, args: object, kwargs: dict[str, Tensor]) -> None:
        seen.append(kwargs["input_ids"].numel())

    handle = body(policy.model).register_forward_pre_hook(note, with_kwargs=True)
    samples = LocalSampler(policy).sample(prompts, sampling, **more)
    handle.remove()
    return seen, samples


def test_the_prompt_of_a_group_is_read_once(policy: Policy) -> None:
    one, other = some_prompts(30, 30)
    seen, samples = pushed(policy, [one] * 8 + [other] * 8, Sampling(6, temperature=0))
    assert seen[0] == 60
    assert seen[1:] == [16] * (max(len(one.ids) for one in samples) - 1)


def test_rows_that_have_stopped_leave_the_batch(policy: Policy) -> None:
    prompts = some_prompts(*range(5, 69))
    seen, samples = pushed(policy, prompts, Sampling(60), keys=[str(i) for i in range(64)])
    assert {one.finished for one in samples} == {True, False}
    lengths = [len(one.ids) for one in samples]
    ideal = [sum(length > step for length in lengths) for step in range(1, max(lengths))]
    # An eighth of the rows may have stopped before anybody leaves.
    assert all(fits <= rows <= fits * 8 / 7 + 1 for rows, fits in zip(seen[1:], ideal, strict=True))
    # And nobody was disturbed.
    alone = [pushed(policy, [ids], Sampling(60), keys=[str(i)])[1][0] for i, ids in enumerate(prompts)]
    assert ids_of(alone) == ids_of(samples)


def test_a_growing_layer_holds_what_transformers_own_layer_holds() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = GrowingLayer(), DynamicLayer()
    for step, length in enumerate([7, 1, 1, 30, 1, 1, 1, 50, 1]):
        new = [torch.randn(4 if step < 4 else 2, 2, length, 8, generator=generator) for _ in range(2)]
        for found, expected in zip(ours.update(*new), theirs.update(*new), strict=True):
            assert torch.equal(found, expected)
        assert ours.get_seq_length() == theirs.get_seq_length()
        if step == 3:
            for one in (ours, theirs):
                one.batch_select_indices(torch.tensor([3, 1]))


def test_a_layer_grows_by_a_share_of_itself() -> None:
    layer = GrowingLayer()
    buffers = set()
    for _ in range(2000):
        layer.update(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
        buffers.add(layer.key_buffer.data_ptr())
    assert layer.keys.shape[2] == 2000
    assert layer.key_buffer.shape[2] < 2000 * 1.6
    assert len(buffers) < 16


def test_a_window_shorter_than_the_text_is_kept_to() -> None:
    model = family_model("gemma2")
    model.config.sliding_window = 12
    for layer in model.model.layers:
        if layer.self_attn.sliding_window is not None:
            layer.self_attn.sliding_window = 12
    same_as_generate(policy_of(model.eval()))


# --- every family -----------------------------------------------------------------------------------------------------


def same_as_generate(policy: Policy) -> None:
    prompts = some_prompts(3, 17, 40, 40)
    prompts.append(prompts[1])
    keys = [str(i) for i in range(5)]

    def by(write: object) -> list[Sample]:
        with torch.no_grad():
            return write(policy, prompts, Draws(Sampling(30), keys, CPU), lambda _: None)  # type: ignore[operator]

    ours, theirs = by(decoded), by(generated)
    assert ids_of(ours) == ids_of(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.behavior == pytest.approx(other.behavior, abs=1e-5)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_it_writes_what_transformers_generate_writes(name: str) -> None:
    model = family_model(name).eval()
    assert reads_by_token(model) == (name not in OTHERWISE)
    if reads_by_token(model):
        same_as_generate(policy_of(model))


@pytest.mark.parametrize("name", ["mamba", "rwkv"])
def test_other_memories_are_sampled_by_generate_with_the_rows_own_numbers(name: str) -> None:
    policy = policy_of(family_model(name).eval())
    (prompt,) = some_prompts(6)
    samples = LocalSampler(policy).sample([prompt] * 3, Sampling(8), keys=["a", "b", "a"])
    assert samples[0] == samples[2] != samples[1]


def test_without_stop_tokens_every_row_is_as_long_as_it_may_be(policy: Policy) -> None:
    endless = ChatRenderer(TOKENIZER)
    endless.stop_ids = frozenset()
    samples = LocalSampler(replace(policy, renderer=endless)).sample(some_prompts(3, 9), Sampling(40))
    assert [len(one.ids) for one in samples] == [40, 40]
    assert not any(one.finished for one in samples)
