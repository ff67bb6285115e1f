"""Mixture decoding: one text, several contexts."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch

from selfteach.errors import NotFinite, UserError
from selfteach.policy.draws import Sampling
from selfteach.policy.loading import Policy
from selfteach.policy.mixture import decode_mixture
from selfteach.policy.renderer import ChatRenderer
from selfteach.policy.room import room_of
from selfteach.policy.sampler import LocalSampler
from tiny import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CHAT = ChatRenderer(TOKENIZER)
PLAIN, EXPERT = 0, 1


def policy_of(seed: int = 0) -> Policy:
    model = tiny_model(CHAT.vocabulary + 10, seed=seed)
    return Policy("tiny", model, TOKENIZER, CHAT, CHAT.vocabulary, room_of(model))


@pytest.fixture
def policy() -> Policy:
    return policy_of()


def asked(text: str) -> list[int]:
    return CHAT.prompt_ids([{"role": "user", "content": text}])


QUESTIONS = ["a", "what is bix?", "12 + 5", "bix"]
CONTEXTS = [[asked(text), asked(f"{text} | it is {i}07")] for i, text in enumerate(QUESTIONS)]


def greedy(policy: Policy, prompts: list[list[int]], length: int = 24) -> list[list[int]]:
    samples = LocalSampler(policy).sample(prompts, Sampling(max_tokens=length, temperature=0))
    return [one.ids for one in samples]


def logits_after(policy: Policy, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return policy.model(torch.tensor([ids])).logits[0, :, : CHAT.vocabulary]


@pytest.mark.parametrize(("shares", "source"), [((1.0, 0.0), PLAIN), ((0.0, 1.0), EXPERT)])
def test_with_all_weight_on_one_context_it_is_that_contexts_greedy_decoding(policy, shares, source) -> None:
    written = decode_mixture(policy, CONTEXTS, shares, max_tokens=24)
    assert [one.ids for one in written] == greedy(policy, [each[source] for each in CONTEXTS])
    assert all(set(one.picks) == {source} for one in written)


def test_every_sequence_needs_a_key(policy) -> None:
    with pytest.raises(ValueError, match="4 sequences and 3 keys"):
        decode_mixture(policy, CONTEXTS, (0.5, 0.5), max_tokens=4, keys=["a", "b", "c"])


def test_equal_contexts_give_their_greedy_decoding_whatever_the_shares(policy) -> None:
    torch.manual_seed(0)
    twice = [[each[EXPERT], each[EXPERT]] for each in CONTEXTS]
    written = decode_mixture(policy, twice, (0.4, 0.6), max_tokens=24)
    assert [one.ids for one in written] == greedy(policy, [each[EXPERT] for each in CONTEXTS])
    assert {pick for one in written for pick in one.picks} == {PLAIN, EXPERT}


def test_each_token_is_the_likeliest_of_its_own_context_after_the_whole_text(policy) -> None:
    torch.manual_seed(1)
    for one, each in zip(decode_mixture(policy, CONTEXTS, (0.5, 0.5), max_tokens=24), CONTEXTS, strict=True):
        best = [logits_after(policy, prompt + one.ids)[len(prompt) - 1 : -1].argmax(-1) for prompt in each]
        assert one.ids == [int(best[pick][t]) for t, pick in enumerate(one.picks)]
        assert set(one.picks) == {PLAIN, EXPERT}


def test_at_temperature_one_the_text_is_drawn_from_the_exact_mixture(policy) -> None:
    """Of every pair of first tokens: chance = Π over positions of Σ_k share_k p_k(token | context k, text so far)."""
    torch.manual_seed(2)
    count, share, each = 3000, 0.3, CONTEXTS[1]
    written = decode_mixture(
        policy, [each] * count, (share, 1 - share), temperature=1.0, top_k=3, max_tokens=2
    )
    mixed = [one for one in written if len(one.ids) == 2]
    assert len(mixed) == count

    def mixture(before: list[int]) -> dict[int, float]:
        chances: dict[int, float] = {}
        for weight, prompt in zip((share, 1 - share), each, strict=True):
            largest, ids = logits_after(policy, prompt + before)[-1].topk(3)
            for token, chance in zip(ids.tolist(), largest.softmax(-1).tolist(), strict=True):
                chances[token] = chances.get(token, 0.0) + weight * chance
        return chances

    expected = {
        (first, second): p * q for first, p in mixture([]).items() for second, q in mixture([first]).items()
    }
    assert sum(expected.values()) == pytest.approx(1)
    seen = [tuple(one.ids) for one in written]
    assert set(seen) <= set(expected)
    for pair, chance in expected.items():
        deviation = abs(seen.count(pair) / count - chance) / (chance * (1 - chance) / count) ** 0.5
        assert deviation < 4.5, pair


def test_without_a_cut_the_first_token_is_as_frequent_as_the_mixture_says(policy) -> None:
    torch.manual_seed(3)
    count, each = 1500, CONTEXTS[2]
    written = decode_mixture(policy, [each] * count, (0.5, 0.5), temperature=0.8, max_tokens=1)
    seen = torch.bincount(torch.tensor([one.ids[0] for one in written]), minlength=CHAT.vocabulary) / count
    chance = sum((logits_after(policy, prompt)[-1] / 0.8).softmax(-1) for prompt in each) / 2
    assert ((seen - chance).abs() / (chance * (1 - chance) / count).sqrt()).max() < 4.5


def test_picks_are_independent_draws_with_the_shares_probabilities(policy) -> None:
    torch.manual_seed(4)
    written = decode_mixture(policy, CONTEXTS[:1] * 400, (0.3, 0.7), max_tokens=30)
    rows = [one.picks for one in written]
    picks = [pick for row in rows for pick in row]
    assert sum(picks) / len(picks) == pytest.approx(0.7, abs=4.5 * (0.21 / len(picks)) ** 0.5)
    pairs = [pair for row in rows for pair in pairwise(row)]
    neighbors = [
        (list(zip(row, other, strict=False)) if len(row) > 1 else []) for row, other in pairwise(rows)
    ]
    for sample_of_pairs in (pairs, [pair for row in neighbors for pair in row]):
        for a, b in product((0, 1), repeat=2):
            chance = (0.3, 0.7)[a] * (0.3, 0.7)[b]
            share = sample_of_pairs.count((a, b)) / len(sample_of_pairs)
            assert share == pytest.approx(
                chance, abs=6 * (chance * (1 - chance) / len(sample_of_pairs)) ** 0.5
            )


def test_greedy_texts_do_not_depend_on_the_batch(policy) -> None:
    together = decode_mixture(policy, CONTEXTS, (0.0, 1.0), max_tokens=24)
    in_pairs = decode_mixture(policy, CONTEXTS, (0.0, 1.0), max_tokens=24, batch_size=2)
    alone = [decode_mixture(policy, [each], (0.0, 1.0), max_tokens=24)[0] for each in CONTEXTS]
    assert together == in_pairs == alone


def test_contexts_may_be_read_with_different_weights(policy) -> None:
    other = policy_of(seed=1)
    weights = [lambda: nullcontext(policy), lambda: nullcontext(other)]
    same = [[each[PLAIN], each[PLAIN]] for each in CONTEXTS]
    ours = decode_mixture(policy, same, (1.0, 0.0), max_tokens=24, weights=weights)
    theirs = decode_mixture(policy, same, (0.0, 1.0), max_tokens=24, weights=weights)
    prompts = [each[PLAIN] for each in CONTEXTS]
    assert [one.ids for one in ours] == greedy(policy, prompts)
    assert [one.ids for one in theirs] == greedy(other, prompts)
    torch.manual_seed(5)
    for one, prompt in zip(
        decode_mixture(policy, same, (0.5, 0.5), max_tokens=24, weights=weights), prompts, strict=True
    ):
        best = [
            logits_after(who, prompt + one.ids)[len(prompt) - 1 : -1].argmax(-1) for who in (policy, other)
        ]
        assert one.ids == [int(best[pick][t]) for t, pick in enumerate(one.picks)]


def test_three_contexts_take_turns(policy) -> None:
    torch.manual_seed(6)
    (one,) = decode_mixture(policy, [[asked("a"), asked("bb"), asked("ccc")]], (0.2, 0.3, 0.5), max_tokens=60)
    assert set(one.picks) == {0, 1, 2}


def test_a_text_depends_on_its_contexts_and_key_alone(policy) -> None:
    def drawn(keys: list[str], contexts=CONTEXTS, **cut: int):
        return decode_mixture(
            policy, contexts, (0.5, 0.5), temperature=1.0, top_k=64, max_tokens=16, keys=keys, **cut
        )

    keys = [f"row {i}" for i in range(len(CONTEXTS))]
    whole = drawn(keys)
    assert drawn(keys, batch_size=1) == whole
    assert drawn(keys[::-1], CONTEXTS[::-1])[::-1] == whole
    assert drawn([f"other {key}" for key in keys]) != whole


def test_a_finished_text_ends_with_its_only_stop_token(policy) -> None:
    torch.manual_seed(8)
    written = decode_mixture(policy, CONTEXTS[:1] * 200, (0.5, 0.5), temperature=1.5, max_tokens=30)
    assert {one.finished for one in written} == {True, False}
    for one in written:
        assert len(one.picks) == len(one.ids)
        if one.finished:
            assert [token in CHAT.stop_ids for token in one.ids] == [False] * (len(one.ids) - 1) + [True]
        else:
            assert len(one.ids) == 30
            assert not CHAT.stop_ids & set(one.ids)


def test_padding_ids_of_the_matrices_are_never_drawn(policy) -> None:
    torch.manual_seed(9)
    with torch.no_grad():
        policy.model.get_input_embeddings().weight[CHAT.vocabulary :] *= 50
    written = decode_mixture(policy, CONTEXTS[:1] * 100, (0.5, 0.5), temperature=1.0, max_tokens=4)
    assert max(token for one in written for token in one.ids) < CHAT.vocabulary


def test_the_model_is_left_in_the_mode_it_was_in(policy) -> None:
    policy.model.train()
    decode_mixture(policy, CONTEXTS[:1], (0.5, 0.5), max_tokens=2)
    assert policy.model.training


def test_no_sequences_give_no_texts(policy) -> None:
    assert decode_mixture(policy, [], (0.5, 0.5)) == []


@pytest.mark.parametrize("shares", [(0.5, 0.6), (-0.1, 1.1), (1.0,)])
def test_shares_must_be_one_probability_a_context(policy, shares) -> None:
    with pytest.raises(ValueError, match="shares"):
        decode_mixture(policy, CONTEXTS, shares)


def test_a_context_that_leaves_no_room_is_refused(policy) -> None:
    with pytest.raises(UserError, match="window"):
        decode_mixture(policy, [[asked("a"), asked("a" * 900)]], (0.5, 0.5), max_tokens=200)


def test_a_model_that_has_diverged_says_so(policy) -> None:
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(NotFinite):
        decode_mixture(policy, CONTEXTS, (0.5, 0.5), max_tokens=2)


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_it_reads_in_the_policys_precision(precision) -> None:
    policy = replace(policy_of(), precision=precision)
    seen: set[torch.dtype] = set()
    layer = policy.model.get_submodule("model.layers.0.mlp.up_proj")
    layer.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    decode_mixture(policy, CONTEXTS, (0.5, 0.5), max_tokens=3)
    assert seen == {torch.float32 if precision == "float32" else torch.bfloat16}
